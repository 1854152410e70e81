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
    /// The first record whose timestamp is `timestamp` or later.
    ///
    /// # Errors
    /// As [`BatchView::records`], which it uses unless the header alone gives the answer.
    pub fn first_at_or_after(
        &self,
        timestamp: i64,
        scratch: &mut Vec<u8>,
        limits: DecompressLimits,
    ) -> Result<Option<OffsetAndTimestamp>, RecordsError> {
        if self.max_timestamp() < timestamp {
            return Ok(None);
        }
        self.find(scratch, limits, |record| record.timestamp >= timestamp)
    }

    /// The first of the records with the batch's largest timestamp; `None` if the header claims
    /// one that no record has, or the batch is empty.
    ///
    /// # Errors
    /// As [`BatchView::records`], which it uses unless the header alone gives the answer.
    pub fn first_at_max_timestamp(
        &self,
        scratch: &mut Vec<u8>,
        limits: DecompressLimits,
    ) -> Result<Option<OffsetAndTimestamp>, RecordsError> {
        let latest = self.max_timestamp();
        self.find(scratch, limits, |record| record.timestamp == latest)
    }

    fn find(
        &self,
        scratch: &mut Vec<u8>,
        limits: DecompressLimits,
        wanted: impl Fn(&OffsetAndTimestamp) -> bool,
    ) -> Result<Option<OffsetAndTimestamp>, RecordsError> {
        // With the append time all records have the same: no need to look inside, unless
        // compaction made holes, where the first offset may have no record any more.
        let dense = i64::from(self.record_count()) == i64::from(self.last_offset_delta()) + 1;
        if dense && self.attributes().timestamp_type() == TimestampType::LogAppendTime {
            let first = OffsetAndTimestamp {
                offset: self.base_offset(),
                timestamp: self.max_timestamp(),
            };
            return Ok(Some(first).filter(wanted));
        }
        for record in self.records(scratch, limits)? {
            let record = record?;
            let found = OffsetAndTimestamp {
                offset: record.offset,
                timestamp: record.timestamp,
            };
            if wanted(&found) {
                return Ok(Some(found));
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

    fn after(bytes: &[u8], timestamp: i64) -> Option<(i64, i64)> {
        let batch = BatchView::split_first(bytes).unwrap().0;
        let found = batch
            .first_at_or_after(timestamp, &mut vec![], DecompressLimits::default())
            .unwrap();
        found.map(|found| (found.offset.0, found.timestamp))
    }

    #[test]
    fn finds_the_first_record_in_time() {
        // The answer is the first by offset that is late enough, not the nearest in time.
        for codec in Codec::ALL {
            let bytes = batch(codec, &[30, 10, 20, 20, 50, 40]);
            let table = [
                (0, Some((100, 30))),
                (30, Some((100, 30))),
                (31, Some((104, 50))),
                (50, Some((104, 50))),
                (51, None),
            ];
            for (timestamp, expected) in table {
                assert_eq!(
                    after(&bytes, timestamp),
                    expected,
                    "{codec:?} at {timestamp}"
                );
            }
            let view = BatchView::split_first(&bytes).unwrap().0;
            let latest = view.first_at_max_timestamp(&mut vec![], DecompressLimits::default());
            let expected = OffsetAndTimestamp {
                offset: Offset(104),
                timestamp: 50,
            };
            assert_eq!(latest, Ok(Some(expected)));
        }
    }

    #[test]
    fn append_time_holds_for_all_records() {
        // A batch with the append time answers with its first record, without a look inside.
        let mut bytes = batch(Codec::None, &[30, 10]);
        set_log_append_time(&mut bytes, 1_000);
        let length = bytes.len();
        bytes[length - 1] = 0xee; // Would not parse.
        assert_eq!(after(&bytes, 1_000), Some((100, 1_000)));
        assert_eq!(after(&bytes, 1_001), None);
    }
}
