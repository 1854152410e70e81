//! Writes a batch again with another codec, in steps.

use super::batch::{Attributes, BATCH_BYTES_MIN, BatchView, LENGTH_PREFIX_BYTES, at};
use super::compression::Codec;
use super::encoder::Encoder;
use super::patch::{put, set_crc};

/// A batch that is written again: the same records, compressed otherwise. Its header stays except for its
/// length, its codec, its largest timestamp and its CRC.
pub struct BatchRewrite<'a> {
    source: BatchView<'a>,
    codec: Codec,
    encoder: Encoder,
}

impl<'a> BatchRewrite<'a> {
    /// Begins a rewrite of `source` with `codec` at its `level`; without one it is Kafka's default.
    pub fn new(source: BatchView<'a>, codec: Codec, level: Option<i32>) -> Self {
        let header = source.as_bytes().get(..BATCH_BYTES_MIN).unwrap_or_default();
        BatchRewrite {
            source,
            codec,
            encoder: Encoder::new(codec, level, header.to_vec()),
        }
    }

    /// Appends the next decompressed bytes of the source's records.
    pub fn write(&mut self, records: &[u8]) {
        self.encoder.write(records);
    }

    /// Bytes of the batch so far. What the codec has not given out yet is not counted.
    pub fn bytes(&self) -> usize {
        self.encoder.len()
    }

    /// The batch; `max_timestamp` is the largest of its records.
    ///
    /// # Panics
    /// If it would pass 2^31 bytes: the caller looks at [`BatchRewrite::bytes`] meanwhile.
    pub fn finish(self, max_timestamp: i64) -> Vec<u8> {
        let attributes = self.source.attributes().0 & !Attributes::CODEC;
        let attributes = attributes | i16::from(self.codec as u8);
        let mut batch = self.encoder.finish();
        let length = i32::try_from(batch.len() - LENGTH_PREFIX_BYTES).expect("below 2^31 bytes");
        put::<{ at::BATCH_LENGTH }, 4>(&mut batch, length.to_be_bytes());
        put::<{ at::ATTRIBUTES }, 2>(&mut batch, attributes.to_be_bytes());
        put::<{ at::MAX_TIMESTAMP }, 8>(&mut batch, max_timestamp.to_be_bytes());
        set_crc(&mut batch);
        batch
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::*;
    use crate::ids::{ProducerEpoch, ProducerId};
    use crate::records::{BatchBuilder, DecompressLimits, NewRecord, Progress, Record, RecordScan};

    fn batch(codec: Codec) -> Vec<u8> {
        let value = b"a value of some bytes".repeat(100);
        let mut builder = BatchBuilder::new(codec);
        builder.set_producer(ProducerId(7), ProducerEpoch(2), 100);
        for index in 0..200_u8 {
            builder.push(&NewRecord {
                timestamp: 5_000 - i64::from(index),
                key: Some(&[index]),
                value: Some(&value),
                headers: &[],
            });
        }
        builder.build()
    }

    fn rewritten(bytes: &[u8], codec: Codec, level: Option<i32>) -> Vec<u8> {
        let view = BatchView::produced(bytes).unwrap();
        let mut scan = RecordScan::new(&view, DecompressLimits::default()).unwrap();
        let mut rewrite = BatchRewrite::new(view, codec, level);
        loop {
            let progress = scan.step(|_| ControlFlow::Continue(())).unwrap();
            rewrite.write(scan.chunk());
            if progress == Progress::Done {
                return rewrite.finish(view.max_timestamp());
            }
        }
    }

    #[test]
    fn any_codec_becomes_any_other_with_the_same_records() {
        // Proves that a rewritten batch is one that a producer may send, with the same records, sequence and times, and
        // that levels do not change that.
        let levels = [None, Some(1), Some(9), Some(22), Some(-5), Some(1_000)];
        for from in Codec::ALL {
            let source = batch(from);
            let before = BatchView::produced(&source).unwrap();
            for (to, level) in Codec::ALL
                .iter()
                .flat_map(|to| levels.map(|level| (*to, level)))
            {
                let bytes = rewritten(&source, to, level);
                let after = BatchView::produced(&bytes).unwrap();
                assert_eq!(after.codec(), Ok(to), "{from:?} at {level:?}");
                assert_eq!(after.producer_id(), before.producer_id());
                assert_eq!(after.producer_epoch(), before.producer_epoch());
                assert_eq!(
                    (
                        after.base_sequence(),
                        after.record_count(),
                        after.last_offset_delta()
                    ),
                    (100, 200, 199)
                );
                assert_eq!(
                    (after.base_timestamp(), after.max_timestamp()),
                    (5_000, 5_000)
                );
                let (mut one, mut other) = (vec![], vec![]);
                let limits = DecompressLimits::default();
                let ours = after.records(&mut one, limits).unwrap();
                let theirs = before.records(&mut other, limits).unwrap();
                let ours: Result<Vec<Record<'_>>, _> = ours.collect();
                let theirs: Result<Vec<Record<'_>>, _> = theirs.collect();
                assert!(
                    ours.unwrap() == theirs.unwrap(),
                    "{from:?} to {to:?} at {level:?}"
                );
            }
        }
    }
}
