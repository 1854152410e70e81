//! Records by time, inside one batch: what lookups of offsets by timestamp end in.

use super::batch::{BatchView, TimestampType};
use super::compression::DecompressLimits;
use super::error::RecordsError;
use crate::ids::Offset;

/// A record's place in the log and in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OffsetAndTimestamp {
    /// The record's offset.
    pub offset: Offset,
    /// Its timestamp, in milliseconds since 1970.
    pub timestamp: i64,
}

impl BatchView<'_> {
    /// The first record at `from` or behind it whose timestamp is `timestamp` or later; `None` also
    /// if the header claims one that no record has, or the batch is empty.
    ///
    /// # Errors
    /// As [`BatchView::records`], which it uses unless the header alone gives the answer.
    pub fn first_at_or_after(
        &self,
        from: Offset,
        timestamp: i64,
        scratch: &mut Vec<u8>,
        limits: DecompressLimits,
    ) -> Result<Option<OffsetAndTimestamp>, RecordsError> {
        if self.max_timestamp() < timestamp || self.last_offset() < from {
            return Ok(None);
        }
        // With the append time all records have the same: no need to look inside, unless
        // compaction made holes, where the first offset may have no record any more.
        let dense = i64::from(self.record_count()) == i64::from(self.last_offset_delta()) + 1;
        if dense && self.attributes().timestamp_type() == TimestampType::LogAppendTime {
            return Ok(Some(OffsetAndTimestamp {
                offset: self.base_offset().max(from),
                timestamp: self.max_timestamp(),
            }));
        }
        for record in self.records(scratch, limits)? {
            let record = record?;
            if record.offset >= from && record.timestamp >= timestamp {
                return Ok(Some(OffsetAndTimestamp {
                    offset: record.offset,
                    timestamp: record.timestamp,
                }));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::{BatchBuilder, Codec, NewRecord, set_base_offset, set_log_append_time};

    fn batch(codec: Codec, timestamps: &[i64]) -> Vec<u8> {
        let mut builder = BatchBuilder::new(codec);
        for &timestamp in timestamps {
            builder.push(&NewRecord {
                timestamp,
                value: Some(b"v"),
                ..NewRecord::default()
            });
        }
        let mut bytes = builder.build();
        set_base_offset(&mut bytes, Offset(100));
        bytes
    }

    fn after(bytes: &[u8], from: i64, timestamp: i64) -> Option<(i64, i64)> {
        let batch = BatchView::split_first(bytes).unwrap().0;
        let limits = DecompressLimits::default();
        let found = batch.first_at_or_after(Offset(from), timestamp, &mut vec![], limits);
        let found = found.unwrap();
        found.map(|found| (found.offset.0, found.timestamp))
    }

    #[test]
    fn finds_the_first_record_in_time() {
        // The answer is the first by offset that is late enough, not the nearest in time, and none
        // before the offset asked for.
        for codec in Codec::ALL {
            let bytes = batch(codec, &[30, 10, 20, 20, 50, 40]);
            let table = [
                (0, 0, Some((100, 30))),
                (0, 30, Some((100, 30))),
                (0, 31, Some((104, 50))),
                (0, 50, Some((104, 50))),
                (0, 51, None),
                (100, 0, Some((100, 30))),
                (101, 0, Some((101, 10))),
                (101, 30, Some((104, 50))),
                (105, 30, Some((105, 40))),
                (105, 41, None),
                (106, 0, None),
            ];
            for (from, timestamp, expected) in table {
                assert_eq!(
                    after(&bytes, from, timestamp),
                    expected,
                    "{codec:?} at {timestamp} from {from}"
                );
            }
        }
    }

    #[test]
    fn append_time_holds_for_all_records() {
        // A batch with the append time answers with its first record, without a look inside.
        let mut bytes = batch(Codec::None, &[30, 10]);
        set_log_append_time(&mut bytes, 1_000);
        let length = bytes.len();
        bytes[length - 1] = 0xee; // Would not parse.
        assert_eq!(after(&bytes, 0, 1_000), Some((100, 1_000)));
        assert_eq!(after(&bytes, 101, 1_000), Some((101, 1_000)));
        assert_eq!(after(&bytes, 102, 1_000), None);
        assert_eq!(after(&bytes, 0, 1_001), None);
    }
}
