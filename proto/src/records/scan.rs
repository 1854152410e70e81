//! A look at every record of a batch, in steps that hold neither the core nor the whole batch.
//!
//! Of a record its key, value and headers are passed over: they are checked for their lengths and not
//! kept, so that a batch takes the same memory whatever it decompresses to.

use std::ops::ControlFlow;

use super::batch::{BatchView, TimestampType};
use super::compression::{Codec, DecompressLimits};
use super::decompress::{Decompressor, Progress, STEP_BYTES};
use super::error::RecordsError;

/// What a scan sees of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScannedRecord {
    /// Its place after the batch's base offset.
    pub offset_delta: i32,
    /// Milliseconds since 1970: the producer's, or the batch's if that has the append time.
    pub timestamp: i64,
    /// Whether it has a key.
    pub has_key: bool,
}

/// A scan under way. It gives exactly as many records as the header says, out of all of the bytes, or ends with
/// an error.
pub struct RecordScan<'a> {
    source: Source<'a>,
    fields: Fields,
}

enum Source<'a> {
    /// Of records that are not compressed, what is read last and what is left.
    Plain { chunk: &'a [u8], rest: &'a [u8] },
    Compressed {
        decompressor: Box<Decompressor<'a>>,
        chunk: Vec<u8>,
    },
}

impl<'a> RecordScan<'a> {
    /// Begins with the first record of `batch`. Nothing is decompressed yet.
    ///
    /// # Errors
    /// [`RecordsError::UnsupportedCompression`], [`RecordsError::Corrupt`].
    pub fn new(batch: &BatchView<'a>, limits: DecompressLimits) -> Result<Self, RecordsError> {
        let source = match batch.codec()? {
            Codec::None => Source::Plain {
                chunk: &[],
                rest: batch.body(),
            },
            codec => Source::Compressed {
                decompressor: Box::new(Decompressor::new(codec, batch.body(), limits)?),
                chunk: Vec::new(),
            },
        };
        Ok(RecordScan {
            source,
            fields: Fields::new(batch)?,
        })
    }

    /// Reads on in about [`STEP_BYTES`] of records and shows them to `see`, which may end the scan. One step
    /// takes a core about 100 µs at most; after [`Progress::More`] others should have it.
    ///
    /// # Errors
    /// [`RecordsError::TooLarge`] for a bomb, [`RecordsError::Corrupt`]. The scan is over then.
    pub fn step(
        &mut self,
        mut see: impl FnMut(ScannedRecord) -> ControlFlow<()>,
    ) -> Result<Progress, RecordsError> {
        let progress = match &mut self.source {
            Source::Plain { chunk, rest } => {
                let (now, later) = rest.split_at(rest.len().min(STEP_BYTES));
                (*chunk, *rest) = (now, later);
                if later.is_empty() {
                    Progress::Done
                } else {
                    Progress::More
                }
            }
            Source::Compressed {
                decompressor,
                chunk,
            } => {
                chunk.clear();
                decompressor.step(chunk)?
            }
        };
        let chunk = match &self.source {
            Source::Plain { chunk, .. } => *chunk,
            Source::Compressed { chunk, .. } => chunk.as_slice(),
        };
        if self.fields.read(chunk, &mut see)?.is_break() {
            return Ok(Progress::Done);
        }
        if progress == Progress::Done {
            self.fields.end()?;
        }
        Ok(progress)
    }

    /// The decompressed bytes of the last step.
    pub fn chunk(&self) -> &[u8] {
        match &self.source {
            Source::Plain { chunk, .. } => chunk,
            Source::Compressed { chunk, .. } => chunk,
        }
    }
}

/// The fields of records, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Length,
    Attributes,
    Timestamp,
    OffsetDelta,
    Key,
    Value,
    HeaderCount,
    HeaderKey,
    HeaderValue,
}

/// Reads records out of bytes that come piece by piece: any field may be cut.
struct Fields {
    next: Field,
    /// Bytes of a key, a value or a header to be passed over before the next field.
    skip: usize,
    /// Bytes left of the record, those to be passed over included.
    left: usize,
    /// Headers left of the record.
    headers: usize,
    /// What has come of a variable-length integer.
    number: u64,
    number_bytes: u32,
    record: ScannedRecord,
    records_left: usize,
    base_timestamp: i64,
    append_time: Option<i64>,
}

const CUT: RecordsError = RecordsError::Corrupt("record reaches beyond its bytes");

impl Fields {
    fn new(batch: &BatchView<'_>) -> Result<Self, RecordsError> {
        let records_left = usize::try_from(batch.record_count())
            .map_err(|_| RecordsError::Corrupt("negative record count"))?;
        let append_time = match batch.attributes().timestamp_type() {
            TimestampType::CreateTime => None,
            TimestampType::LogAppendTime => Some(batch.max_timestamp()),
        };
        Ok(Fields {
            next: Field::Length,
            skip: 0,
            left: 0,
            headers: 0,
            number: 0,
            number_bytes: 0,
            record: ScannedRecord {
                offset_delta: 0,
                timestamp: 0,
                has_key: false,
            },
            records_left,
            base_timestamp: batch.base_timestamp(),
            append_time,
        })
    }

    fn read(
        &mut self,
        mut bytes: &[u8],
        see: &mut impl FnMut(ScannedRecord) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, RecordsError> {
        loop {
            let skipped = self.skip.min(bytes.len());
            (self.skip, self.left) = (self.skip - skipped, self.left - skipped);
            bytes = bytes.get(skipped..).unwrap_or_default();
            if self.skip == 0 && self.is_record_end() {
                self.next = Field::Length;
                self.records_left -= 1;
                if see(self.record).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            let Some((byte, rest)) = bytes.split_first() else {
                return Ok(ControlFlow::Continue(()));
            };
            bytes = rest;
            self.take(*byte)?;
        }
    }

    /// Whether all fields of a record have come: behind its header count, or its last header's value.
    fn is_record_end(&self) -> bool {
        self.next == Field::HeaderKey && self.headers == 0 && self.left == 0
    }

    /// The input is at its end.
    fn end(&self) -> Result<(), RecordsError> {
        let between = self.next == Field::Length && self.number_bytes == 0;
        if between && self.records_left == 0 {
            return Ok(());
        }
        Err(CUT)
    }

    fn take(&mut self, byte: u8) -> Result<(), RecordsError> {
        if self.next == Field::Length {
            if self.records_left == 0 {
                return Err(RecordsError::Corrupt("bytes after the last record"));
            }
        } else {
            if self.next == Field::HeaderKey && self.headers == 0 {
                return Err(RecordsError::Corrupt("bytes after a record's headers"));
            }
            self.left = self.left.checked_sub(1).ok_or(CUT)?;
        }
        if self.next == Field::Attributes {
            self.next = Field::Timestamp;
            return self.more_to_come();
        }
        let long = self.next == Field::Timestamp;
        let bits = u64::from(byte & 0x7f);
        // A long has its 64th bit alone in its tenth byte, and an integer four bits in its fifth.
        let (bytes_max, last_max) = if long { (10, 1) } else { (5, 0xf) };
        if self.number_bytes + 1 == bytes_max && bits > last_max {
            return Err(RecordsError::Corrupt("varint beyond its width"));
        }
        self.number |= bits << (7 * self.number_bytes);
        self.number_bytes += 1;
        if byte & 0x80 != 0 {
            if self.number_bytes == bytes_max {
                return Err(RecordsError::Corrupt("varint without an end"));
            }
            return self.more_to_come();
        }
        let raw = std::mem::take(&mut self.number);
        self.number_bytes = 0;
        self.field((raw >> 1).cast_signed() ^ -(raw & 1).cast_signed())
    }

    /// A field is complete.
    fn field(&mut self, value: i64) -> Result<(), RecordsError> {
        self.next = match self.next {
            Field::Length => {
                self.left =
                    usize::try_from(value).map_err(|_| RecordsError::Corrupt("negative length"))?;
                Field::Attributes
            }
            Field::Attributes | Field::Timestamp => {
                let created = self.base_timestamp.wrapping_add(value);
                self.record.timestamp = self.append_time.unwrap_or(created);
                Field::OffsetDelta
            }
            Field::OffsetDelta => {
                // Five bytes of which the last was checked: they fit.
                self.record.offset_delta = i32::try_from(value).map_err(|_| CUT)?;
                Field::Key
            }
            Field::Key => {
                self.record.has_key = value >= 0;
                self.pass_over(value)?;
                Field::Value
            }
            Field::Value => {
                self.pass_over(value)?;
                Field::HeaderCount
            }
            Field::HeaderCount => {
                self.headers =
                    usize::try_from(value).map_err(|_| RecordsError::Corrupt("negative length"))?;
                if self.headers > self.left / 2 {
                    return Err(RecordsError::Corrupt("more headers than bytes for them"));
                }
                return self.headers_follow();
            }
            Field::HeaderKey => {
                if value < 0 {
                    return Err(RecordsError::Corrupt("negative length"));
                }
                self.pass_over(value)?;
                Field::HeaderValue
            }
            Field::HeaderValue => {
                self.pass_over(value)?;
                self.headers -= 1;
                return self.headers_follow();
            }
        };
        self.more_to_come()
    }

    fn headers_follow(&mut self) -> Result<(), RecordsError> {
        self.next = Field::HeaderKey;
        if self.headers > 0 {
            return self.more_to_come();
        }
        if self.left > self.skip {
            return Err(RecordsError::Corrupt("bytes after a record's headers"));
        }
        Ok(())
    }

    /// The record is not complete: it needs another byte behind those to be passed over.
    fn more_to_come(&self) -> Result<(), RecordsError> {
        if self.left > self.skip || self.next == Field::Length {
            Ok(())
        } else {
            Err(CUT)
        }
    }

    /// Passes over that many bytes; a negative number stands for a key, a value that is null.
    fn pass_over(&mut self, bytes: i64) -> Result<(), RecordsError> {
        self.skip = usize::try_from(bytes).unwrap_or(0);
        if self.skip > self.left {
            Err(CUT)
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::{BatchBuilder, Header, NewRecord};

    type Outcome = Result<Vec<ScannedRecord>, RecordsError>;

    fn scanned(bytes: &[u8]) -> Outcome {
        let batch = BatchView::split_first(bytes).unwrap().0;
        let mut records = vec![];
        let mut scan = RecordScan::new(&batch, DecompressLimits::default())?;
        let mut see = |record| {
            records.push(record);
            ControlFlow::Continue(())
        };
        while scan.step(&mut see)? == Progress::More {}
        Ok(records)
    }

    fn read_at_once(bytes: &[u8]) -> Outcome {
        let batch = BatchView::split_first(bytes).unwrap().0;
        let mut scratch = vec![];
        let records = batch.records(&mut scratch, DecompressLimits::default())?;
        let facts = records.map(|record| {
            record.map(|record| ScannedRecord {
                offset_delta: record.offset_delta,
                timestamp: record.timestamp,
                has_key: record.key.is_some(),
            })
        });
        facts.collect()
    }

    fn batch(codec: Codec, records: usize, value_bytes: usize) -> Vec<u8> {
        let headers = [
            Header {
                key: b"",
                value: None,
            },
            Header {
                key: b"name",
                value: Some(b"value"),
            },
        ];
        let value = vec![b'v'; value_bytes];
        let mut builder = BatchBuilder::new(codec);
        for index in 0..records {
            builder.push(&NewRecord {
                timestamp: 1_000_000 + i64::try_from(index * 37 % 1_001).unwrap(),
                key: (index % 3 > 0).then_some(b"some key"),
                value: (index % 5 > 0).then_some(&value),
                headers: &headers[..index % 3],
            });
        }
        builder.build()
    }

    #[test]
    fn a_scan_sees_what_reading_at_once_does() {
        // Proves, for each codec and for records that lie across the ends of steps, that all of them are seen and
        // that steps are small.
        for codec in Codec::ALL {
            for (records, value_bytes) in [(1, 0), (3, 70_000), (20_000, 3), (700, 131)] {
                let bytes = batch(codec, records, value_bytes);
                let seen = scanned(&bytes).unwrap();
                assert_eq!(seen.len(), records);
                assert!(seen == read_at_once(&bytes).unwrap(), "{codec:?}");
            }
        }
    }

    #[test]
    fn a_scan_refuses_what_reading_at_once_refuses() {
        // Proves with seeded noise over the records of an honest batch that both accept the same bytes and see the same
        // in them, cut anywhere.
        let honest = batch(Codec::None, 9, 5);
        let start = crate::records::BATCH_BYTES_MIN;
        let mut seed = 0x5ca_u64;
        let mut next = || {
            seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            usize::try_from(seed >> 33).unwrap()
        };
        let mut sound = 0;
        for round in 0..30_000 {
            let mut bytes = honest.clone();
            for _ in 0..=next() % 3 {
                let at = start + next() % (bytes.len() - start);
                bytes[at] = u8::try_from(next() % 256).unwrap();
            }
            if next().is_multiple_of(4) {
                let length = start + next() % (bytes.len() - start);
                bytes.truncate(length);
                let length = u32::try_from(length - 12).unwrap();
                bytes[8..12].copy_from_slice(&length.to_be_bytes());
            }
            let (ours, theirs) = (scanned(&bytes), read_at_once(&bytes));
            assert_eq!(
                ours.is_ok(),
                theirs.is_ok(),
                "round {round}: {ours:?}, {theirs:?}"
            );
            if let (Ok(ours), Ok(theirs)) = (ours, theirs) {
                assert_eq!(ours, theirs, "round {round}");
                sound += 1;
            }
        }
        assert!(
            sound > 1_000,
            "only {sound} of the damaged batches could be read"
        );
    }

    #[test]
    fn a_scan_ends_when_it_has_seen_enough() {
        // Proves that nothing is decompressed behind the record that was sought.
        let bytes = batch(Codec::Zstd, 20_000, 100);
        let view = BatchView::split_first(&bytes).unwrap().0;
        let mut scan = RecordScan::new(&view, DecompressLimits::default()).unwrap();
        let progress = scan.step(|record| match record.offset_delta {
            5 => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        });
        assert_eq!(progress, Ok(Progress::Done));
        assert!(scan.chunk().len() <= STEP_BYTES);
    }
}
