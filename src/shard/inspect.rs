//! Looking into a produced batch: at its header always, at its records where the topic asks for that or the header is
//! not to be believed (see `contents.rs`), and compressing it otherwise where the topic has a codec of its own.
//!
//! [`inspect`] does at once what takes no more than about 100 µs, which is nearly every batch. What takes longer is an
//! [`Inspection`], to be done in steps.

use std::rc::Rc;

use streambus_proto::error_code::ErrorCode;
use streambus_proto::records::{
    BatchRewrite, BatchView, Codec, DecompressLimits, Progress, RecordScan, RecordsError,
    STEP_BYTES,
};
use streambus_shards::{Buf, yield_if_needed};

use super::contents::{Contents, RecordRules, unsound};
use super::op::AppendRefusal;
use crate::error;
use crate::metadata::topic_config::TopicSettings;
use crate::partition::BatchFacts;
use crate::partition::producers::Sequenced;

/// Records that are gone over at once: 2 to 5 ns each for their timestamps alone.
const WALKED_RECORDS_MAX: i32 = 16_384;
/// A compressed batch up to this is looked into at once, if it decompresses to no more than one step.
const SCANNED_BYTES_MAX: usize = 16 << 10;
/// A batch up to this is compressed anew at once: a codec takes up to 20 ns a byte.
const REWRITTEN_BYTES_MAX: usize = 4 << 10;
/// What is compressed anew without a yield.
const REWRITE_STEP_BYTES: usize = 8 << 10;

/// A batch that may be appended: one that was looked at, or does not have to be.
#[derive(Debug, Clone)]
pub(super) struct SoundBatch {
    /// As it was produced, or with another codec.
    pub(super) records: Buf,
    pub(super) facts: BatchFacts,
    /// The largest timestamp of its records, if the header says another.
    pub(super) max_timestamp: Option<i64>,
}

/// What [`inspect`] comes to.
#[derive(Debug)]
pub(super) enum Inspected {
    Sound(SoundBatch),
    /// Its records have to be gone over first, in steps.
    Unseen(Inspection),
}

/// A batch whose records have to be gone over.
#[derive(Debug)]
pub(super) struct Inspection {
    records: Buf,
    rules: RecordRules,
    /// The codec that the batch has.
    own_codec: Codec,
    /// The codec that it is to have, if that is another.
    codec: Option<Codec>,
    settings: Rc<TopicSettings>,
}

/// Checks everything about a batch that needs no state of the partition, as far as it takes no time. Up to `scans_left`
/// batches of a request are decompressed here.
///
/// # Errors
/// With Kafka's code; nothing of the batch may be appended.
pub(super) fn inspect(
    records: &Buf,
    settings: &Rc<TopicSettings>,
    now_ms: i64,
    scans_left: &mut usize,
) -> Result<Inspected, AppendRefusal> {
    let batch = BatchView::produced(records).map_err(|error| broken(&error))?;
    // One that is too large is refused as that, and not decompressed first.
    if records.len() > settings.max_message_bytes {
        return Err(too_large(records.len(), settings.max_message_bytes));
    }
    let rules = RecordRules::new(settings, now_ms);
    let own = batch.codec().map_err(|error| broken(&error))?;
    let codec = settings.stored_codec().filter(|codec| *codec != own);
    let mut max_timestamp = batch.max_timestamp();
    let mut seen = !rules.keys && codec.is_none();
    if own != Codec::None {
        seen &= rules.believe(&batch);
    } else if rules.timestamps.is_some() && seen {
        seen = batch.record_count() <= WALKED_RECORDS_MAX;
        if seen {
            let range = batch.timestamp_range().map_err(|error| unsound(&error))?;
            max_timestamp = range.newest;
            seen = rules.allow(range);
        }
    }
    if seen {
        return Ok(Inspected::Sound(sound(
            records.clone(),
            &batch,
            max_timestamp,
        )));
    }
    let bytes_max = match codec {
        Some(_) => REWRITTEN_BYTES_MAX,
        None if own == Codec::None => STEP_BYTES,
        None => SCANNED_BYTES_MAX,
    };
    let inspection = Inspection {
        records: records.clone(),
        rules,
        own_codec: own,
        codec,
        settings: Rc::clone(settings),
    };
    if records.len() <= bytes_max && *scans_left > 0 {
        *scans_left -= 1;
        if let Some(batch) = inspection.at_once()? {
            return Ok(Inspected::Sound(batch));
        }
    }
    Ok(Inspected::Unseen(inspection))
}

impl Inspection {
    /// Goes over all records in one step; `None` if they are too many for that.
    fn at_once(&self) -> Result<Option<SoundBatch>, AppendRefusal> {
        let batch = BatchView::produced(&self.records).map_err(|error| broken(&error))?;
        let mut scan = begin(&batch)?;
        let mut contents = Contents::new(self.rules.clone());
        let progress = scan.step(|record| contents.see(record));
        if progress.map_err(|error| unsound(&error))? == Progress::More {
            return Ok(None);
        }
        let max_timestamp = contents.verdict()?;
        let Some(codec) = self.codec else {
            return Ok(Some(sound(self.records.clone(), &batch, max_timestamp)));
        };
        if scan.chunk().len() > REWRITE_STEP_BYTES {
            return Ok(None);
        }
        let mut rewrite = BatchRewrite::new(batch, codec, self.settings.compression_level);
        rewrite.write(scan.chunk());
        self.rewritten(rewrite, max_timestamp).map(Some)
    }

    /// Whether going over the records takes more memory than the batch has.
    pub(super) fn takes_memory(&self) -> bool {
        self.own_codec != Codec::None || self.codec.is_some()
    }

    /// Goes over all records in steps.
    ///
    /// # Errors
    /// As [`inspect`].
    pub(super) async fn in_steps(self) -> Result<SoundBatch, AppendRefusal> {
        let batch = BatchView::produced(&self.records).map_err(|error| broken(&error))?;
        let mut scan = begin(&batch)?;
        let mut contents = Contents::new(self.rules.clone());
        let level = self.settings.compression_level;
        let mut rewrite = self
            .codec
            .map(|codec| BatchRewrite::new(batch, codec, level));
        loop {
            let progress = scan.step(|record| contents.see(record));
            let progress = progress.map_err(|error| unsound(&error))?;
            if let Some(rewrite) = &mut rewrite {
                for records in scan.chunk().chunks(REWRITE_STEP_BYTES) {
                    rewrite.write(records);
                    self.check_size(rewrite.bytes())?;
                    yield_if_needed().await;
                }
            }
            if progress == Progress::Done {
                break;
            }
            yield_if_needed().await;
        }
        let max_timestamp = contents.verdict()?;
        match rewrite {
            Some(rewrite) => self.rewritten(rewrite, max_timestamp),
            None => Ok(sound(self.records.clone(), &batch, max_timestamp)),
        }
    }

    fn rewritten(
        &self,
        rewrite: BatchRewrite<'_>,
        max_timestamp: i64,
    ) -> Result<SoundBatch, AppendRefusal> {
        let records = Buf::from(rewrite.finish(max_timestamp));
        self.check_size(records.len())?;
        let batch = BatchView::produced(&records).map_err(|error| broken(&error))?;
        Ok(sound(records.clone(), &batch, max_timestamp))
    }

    /// The bound holds for what is stored as well, as in Kafka.
    fn check_size(&self, bytes: usize) -> Result<(), AppendRefusal> {
        let bytes_max = self.settings.max_message_bytes;
        if bytes <= bytes_max {
            return Ok(());
        }
        let message = format!(
            "a batch of {} bytes takes {bytes} or more as compression.type of the topic has it, above its max.message.bytes={bytes_max}; send smaller batches or raise it",
            self.records.len()
        );
        Err(AppendRefusal::new(ErrorCode::MessageTooLarge, message))
    }
}

fn begin<'a>(batch: &BatchView<'a>) -> Result<RecordScan<'a>, AppendRefusal> {
    RecordScan::new(batch, DecompressLimits::default()).map_err(|error| unsound(&error))
}

fn sound(records: Buf, batch: &BatchView<'_>, max_timestamp: i64) -> SoundBatch {
    let record_count = batch.record_count();
    let sequenced = batch.producer_id().map(|producer_id| Sequenced {
        producer_id,
        producer_epoch: batch.producer_epoch(),
        base_sequence: batch.base_sequence(),
        record_count,
        max_timestamp_ms: max_timestamp,
    });
    SoundBatch {
        facts: BatchFacts {
            size_bytes: records.len(),
            record_count,
            sequenced,
            transactional: batch.attributes().is_transactional(),
        },
        max_timestamp: (max_timestamp != batch.max_timestamp()).then_some(max_timestamp),
        records,
    }
}

fn broken(error: &RecordsError) -> AppendRefusal {
    AppendRefusal::new(error::of_batch(error), error.to_string())
}

/// What a batch above the topic's bound is answered.
pub(super) fn too_large(bytes: usize, bytes_max: usize) -> AppendRefusal {
    let message = format!(
        "a batch of {bytes} bytes is above max.message.bytes={bytes_max} of the topic; send smaller batches or raise it"
    );
    AppendRefusal::new(ErrorCode::MessageTooLarge, message)
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use streambus_proto::records::{BatchBuilder, NewRecord, set_max_timestamp};
    use streambus_shards::sim::mutated;

    use super::*;
    use crate::metadata::ConfigMap;
    use crate::metadata::broker_config::Sources;

    const NOW: i64 = 1_700_000_000_000;

    fn settings(configs: &[(&str, &str)]) -> Rc<TopicSettings> {
        let none = ConfigMap::new();
        let sources = Sources {
            node: None,
            cluster: None,
            statics: &none,
        };
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Rc::new(TopicSettings::resolve(
            &sources,
            &configs.iter().map(own).collect(),
        ))
    }

    fn batch(codec: Codec, records: i64, value_bytes: usize) -> Vec<u8> {
        let value = vec![b'v'; value_bytes];
        let mut builder = BatchBuilder::new(codec);
        for index in 0..records {
            builder.push(&NewRecord {
                timestamp: NOW + index,
                key: Some(b"key"),
                value: Some(&value),
                ..NewRecord::default()
            });
        }
        builder.build()
    }

    fn claiming(max_timestamp: i64, mut batch: Vec<u8>) -> Vec<u8> {
        set_max_timestamp(&mut batch, max_timestamp);
        batch
    }

    /// No executor runs here, so nothing yields.
    fn in_steps(inspection: Inspection) -> Result<SoundBatch, AppendRefusal> {
        let mut context = Context::from_waker(Waker::noop());
        match std::pin::pin!(inspection.in_steps()).poll(&mut context) {
            Poll::Ready(done) => done,
            Poll::Pending => panic!("it waits for something"),
        }
    }

    /// Whether it was seen at once, and what came of it then or in steps.
    fn inspected(
        bytes: &[u8],
        settings: &Rc<TopicSettings>,
    ) -> (bool, Result<SoundBatch, ErrorCode>) {
        let records = Buf::from(bytes.to_vec());
        match inspect(&records, settings, NOW, &mut 1) {
            Ok(Inspected::Sound(batch)) => (true, Ok(batch)),
            Ok(Inspected::Unseen(inspection)) => {
                (false, in_steps(inspection).map_err(|refusal| refusal.code))
            }
            Err(refusal) => (true, Err(refusal.code)),
        }
    }

    #[expect(clippy::too_many_lines, reason = "one table")]
    #[test]
    fn what_takes_long_is_done_in_steps_and_all_is_found() {
        // Proves, row by row, which batches are seen at once, with which codec they are stored, and what their header
        // is stamped with.
        let plain = settings(&[]);
        let compacted = settings(&[("cleanup.policy", "compact")]);
        let broker_clock = settings(&[("message.timestamp.type", "LogAppendTime")]);
        let zstd = settings(&[("compression.type", "zstd")]);
        let stored_plain = settings(&[("compression.type", "uncompressed")]);
        let (none, gzip) = (Codec::None, Codec::Gzip);
        let table = [
            ("honest", &plain, batch(none, 3, 10), true, none, None),
            (
                "honest and compressed",
                &plain,
                batch(gzip, 3, 500_000),
                true,
                gzip,
                None,
            ),
            (
                "claims 0",
                &plain,
                claiming(0, batch(none, 3, 10)),
                true,
                none,
                Some(NOW + 2),
            ),
            (
                "claims -1",
                &plain,
                claiming(-1, batch(gzip, 3, 10)),
                true,
                gzip,
                Some(NOW + 2),
            ),
            (
                "claims 0, large",
                &plain,
                claiming(0, batch(gzip, 3, 50_000)),
                false,
                gzip,
                Some(NOW + 2),
            ),
            (
                "many records",
                &plain,
                batch(none, 20_000, 10),
                false,
                none,
                None,
            ),
            (
                "claims 0, broker's clock",
                &broker_clock,
                claiming(0, batch(gzip, 3, 10)),
                true,
                gzip,
                None,
            ),
            ("keys", &compacted, batch(none, 3, 10), true, none, None),
            (
                "keys, compressed",
                &compacted,
                batch(gzip, 3, 10),
                true,
                gzip,
                None,
            ),
            (
                "keys, large",
                &compacted,
                batch(gzip, 3, 50_000),
                false,
                gzip,
                None,
            ),
            (
                "own codec",
                &zstd,
                batch(none, 3, 10),
                true,
                Codec::Zstd,
                None,
            ),
            (
                "own codec, large",
                &zstd,
                batch(gzip, 3, 50_000),
                false,
                Codec::Zstd,
                None,
            ),
            (
                "own codec already",
                &zstd,
                batch(Codec::Zstd, 3, 50_000),
                true,
                Codec::Zstd,
                None,
            ),
            (
                "claims 0, own codec",
                &stored_plain,
                claiming(0, batch(gzip, 3, 10)),
                true,
                none,
                None,
            ),
        ];
        for (name, settings, bytes, at_once, codec, stamp) in table {
            let (seen, sound) = inspected(&bytes, settings);
            let sound = sound.unwrap_or_else(|code| panic!("{name}: {code:?}"));
            assert_eq!(seen, at_once, "{name}");
            assert_eq!(sound.max_timestamp, stamp, "{name}");
            let stored = BatchView::produced(&sound.records).expect("a sound batch");
            assert_eq!(stored.codec(), Ok(codec), "{name}");
            assert_eq!(sound.facts.size_bytes, sound.records.len(), "{name}");
            if codec
                != BatchView::produced(&bytes)
                    .expect("a batch")
                    .codec()
                    .expect("a codec")
            {
                assert!(stored.max_timestamp() > NOW, "{name}");
            }
        }
    }

    #[test]
    fn batches_of_a_request_are_scanned_at_once_up_to_a_bound() {
        // Proves that a request of many compressed batches does not hold the core: those beyond the bound are put off.
        let compacted = settings(&[("cleanup.policy", "compact")]);
        let records = Buf::from(batch(Codec::Gzip, 3, 10));
        let mut left = 2;
        let mut seen = || {
            let inspected = inspect(&records, &compacted, NOW, &mut left);
            matches!(inspected, Ok(Inspected::Sound(_)))
        };
        assert_eq!([seen(), seen(), seen(), seen()], [true, true, false, false]);
    }

    #[test]
    fn no_bytes_of_a_batch_make_an_inspection_panic() {
        // Proves with mutations, checksum made to fit, that what is taken has the size that its facts say.
        let configs = [
            settings(&[("cleanup.policy", "compact")]),
            settings(&[("compression.type", "lz4"), ("max.message.bytes", "100000")]),
            settings(&[("message.timestamp.before.max.ms", "1000")]),
        ];
        for codec in Codec::ALL {
            mutated(&[batch(codec, 20, 100)], |bytes| {
                if bytes.len() < 61 {
                    return;
                }
                let claimed = bytes.get(35..43).and_then(|field| field.first_chunk());
                let claimed = i64::from_be_bytes(*claimed.expect("in the header"));
                let bytes = claiming(claimed, bytes.clone());
                for settings in &configs {
                    if let (_, Ok(sound)) = inspected(&bytes, settings) {
                        assert_eq!(sound.facts.size_bytes, sound.records.len());
                        assert!(sound.records.len() <= settings.max_message_bytes);
                    }
                }
            });
        }
    }
}
