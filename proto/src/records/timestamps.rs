//! Records by time, inside one batch: what lookups of offsets by timestamp end in, and what a batch is
//! checked and stamped with.

use std::ops::ControlFlow;

use super::batch::{BatchView, TimestampType};
use super::compression::{Codec, DecompressLimits};
use super::cursor::Cursor;
use super::decompress::Progress;
use super::error::RecordsError;
use super::scan::RecordScan;
use crate::ids::Offset;

/// A record's place in the log and in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OffsetAndTimestamp {
    /// The record's offset.
    pub offset: Offset,
    /// Its timestamp, in milliseconds since 1970.
    pub timestamp: i64,
}

/// A search for the first record of a batch at `from` or behind it whose timestamp is `timestamp` or later.
/// It finds none if the header claims a timestamp that no record has, or the batch is empty.
pub struct TimestampSearch<'a> {
    /// None where the header alone gives the answer.
    scan: Option<RecordScan<'a>>,
    base_offset: Offset,
    from: Offset,
    timestamp: i64,
    found: Option<OffsetAndTimestamp>,
}

impl<'a> TimestampSearch<'a> {
    /// Begins in `batch`. Nothing is decompressed yet.
    ///
    /// # Errors
    /// As [`RecordScan::new`].
    pub fn new(
        batch: &BatchView<'a>,
        from: Offset,
        timestamp: i64,
        limits: DecompressLimits,
    ) -> Result<Self, RecordsError> {
        let mut search = TimestampSearch {
            scan: None,
            base_offset: batch.base_offset(),
            from,
            timestamp,
            found: None,
        };
        if batch.max_timestamp() < timestamp || batch.last_offset() < from {
            return Ok(search);
        }
        // With the append time all records have the same: no need to look inside, unless
        // compaction made holes, where the first offset may have no record any more.
        let dense = i64::from(batch.record_count()) == i64::from(batch.last_offset_delta()) + 1;
        if dense && batch.attributes().timestamp_type() == TimestampType::LogAppendTime {
            search.found = Some(OffsetAndTimestamp {
                offset: batch.base_offset().max(from),
                timestamp: batch.max_timestamp(),
            });
        } else {
            search.scan = Some(RecordScan::new(batch, limits)?);
        }
        Ok(search)
    }

    /// Goes on by one step of a [`RecordScan`].
    ///
    /// # Errors
    /// As [`RecordScan::step`].
    pub fn step(&mut self) -> Result<Progress, RecordsError> {
        let Some(scan) = &mut self.scan else {
            return Ok(Progress::Done);
        };
        scan.step(|record| {
            let offset = self
                .base_offset
                .0
                .wrapping_add(i64::from(record.offset_delta));
            if Offset(offset) < self.from || record.timestamp < self.timestamp {
                return ControlFlow::Continue(());
            }
            self.found = Some(OffsetAndTimestamp {
                offset: Offset(offset),
                timestamp: record.timestamp,
            });
            ControlFlow::Break(())
        })
    }

    /// The record, once a step was the last.
    pub fn found(&self) -> Option<OffsetAndTimestamp> {
        self.found
    }
}

/// The ends of the timestamps of a batch's records. Records without one (-1) are left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimestampRange {
    /// The smallest; `i64::MAX` if no record has any.
    pub oldest: i64,
    /// The largest, or -1.
    pub newest: i64,
}

impl TimestampRange {
    /// Of no record.
    pub const EMPTY: TimestampRange = TimestampRange {
        oldest: i64::MAX,
        newest: NO_TIMESTAMP,
    };

    /// Takes in the timestamp of one more record.
    pub fn see(&mut self, timestamp: i64) {
        self.newest = self.newest.max(timestamp);
        let known = if timestamp == NO_TIMESTAMP {
            i64::MAX
        } else {
            timestamp
        };
        self.oldest = self.oldest.min(known);
    }
}

/// What a record without a timestamp has.
const NO_TIMESTAMP: i64 = -1;

impl BatchView<'_> {
    /// Goes over the records of a batch that is not compressed, for their timestamps only: a few nanoseconds a
    /// record.
    ///
    /// # Errors
    /// [`RecordsError::Corrupt`] if the records are not as many as the header says, or do not lie within
    /// the batch.
    ///
    /// # Panics
    /// If the batch is compressed.
    pub fn timestamp_range(&self) -> Result<TimestampRange, RecordsError> {
        assert!(
            self.codec() == Ok(Codec::None),
            "a walk over compressed records"
        );
        let mut range = TimestampRange::EMPTY;
        let mut rest = Cursor::new(self.body());
        for _ in 0..self.record_count() {
            let length = rest.length()?;
            let mut record = Cursor::new(rest.take(length)?);
            record.byte()?;
            range.see(self.base_timestamp().wrapping_add(record.varlong()?));
        }
        if rest.is_empty() {
            Ok(range)
        } else {
            Err(RecordsError::Corrupt("bytes after the last record"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::{
        BatchBuilder, Codec, NewRecord, set_base_offset, set_log_append_time, set_max_timestamp,
    };

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
        let mut search = TimestampSearch::new(&batch, Offset(from), timestamp, limits).unwrap();
        while search.step().unwrap() == Progress::More {}
        let found = search.found();
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

    #[test]
    fn a_walk_finds_the_ends_of_the_timestamps() {
        // Proves that the ends are those of the records, whatever the header says, that -1 is no timestamp, and that the
        // ends of the type are survived.
        let table: [(&[i64], i64, i64); 6] = [
            (&[30, 10, 20], 10, 30),
            (&[-1], i64::MAX, -1),
            (&[-1, 7, -1], 7, 7),
            (&[0], 0, 0),
            (&[i64::MAX, i64::MIN, 5], i64::MIN, i64::MAX),
            (&[-5], -5, -1),
        ];
        for (timestamps, oldest, newest) in table {
            let mut bytes = batch(Codec::None, timestamps);
            set_max_timestamp(&mut bytes, 77);
            let view = BatchView::produced(&bytes).unwrap();
            let range = TimestampRange { oldest, newest };
            assert_eq!(view.timestamp_range(), Ok(range), "{timestamps:?}");
            assert_eq!(view.max_timestamp(), 77);
        }
    }
}
