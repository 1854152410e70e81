//! What the records of a produced batch must be, and which of it the header says.
//!
//! The largest timestamp of a batch stands in its header, under the CRC, and some clients write 0 or -1 there (sarama
//! 1.43), or their clock's future. Retention, look-ups by time and `message.timestamp.*.max.ms` go by it, so:
//!
//! * Of a batch that is not compressed the records are always gone over, beside the CRC. Their largest timestamp
//!   counts.
//! * Of a compressed batch the header is believed, unless that is negative, or below the base timestamp, or one of
//!   the two lies outside `message.timestamp.before.max.ms` and `message.timestamp.after.max.ms`. Then the
//!   batch is decompressed and its records count. They count as well where it is decompressed for another
//!   reason: for its keys, or to be compressed otherwise.
//! * A header that differs from the records is stamped with what they say, and the CRC made anew.
//!
//! What is believed and may be false: the header of a compressed batch with a largest timestamp that its topic
//! allows and that no record has. The batch is then kept as long as a record of that time, and a look-up by
//! time passes over it after a look inside. And a timestamp of a compressed batch that is out of bounds, if its
//! header hides that. Kafka decompresses every batch.
//!
//! On a topic with `LogAppendTime` the broker's clock goes into the header, and no timestamp is looked at.

use std::borrow::Cow;
use std::ops::{ControlFlow, RangeInclusive};

use streambus_proto::error_code::ErrorCode;
use streambus_proto::records::{BatchView, RecordsError, ScannedRecord, TimestampRange};

use super::op::AppendRefusal;
use crate::config::TimestampType;
use crate::metadata::topic_config::TopicSettings;

/// Records that one refusal names at most: a few hundred compressed bytes may hold a million, and each that is named
/// takes some 170 bytes until the answer is written.
pub(super) const NAMED_RECORDS_MAX: usize = 100;

/// What a record without a key is answered, in Kafka's words.
const KEYLESS: &str = "Compacted topic cannot accept message without key.";

/// What a record without a timestamp has instead.
const NO_TIMESTAMP: i64 = -1;

/// What a topic asks of the records that are appended to it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RecordRules {
    /// Every record needs a key.
    pub(super) keys: bool,
    /// Where timestamps must lie. None if they are the broker's.
    pub(super) timestamps: Option<RangeInclusive<i64>>,
}

impl RecordRules {
    /// Those of a topic with these settings.
    pub(super) fn new(settings: &TopicSettings, now_ms: i64) -> RecordRules {
        let created = settings.message_timestamp_type == TimestampType::CreateTime;
        let timestamps = created.then(|| {
            let before = now_ms.saturating_sub(settings.message_timestamp_before_max_ms);
            before..=now_ms.saturating_add(settings.message_timestamp_after_max_ms)
        });
        RecordRules {
            keys: settings.compacts(),
            timestamps,
        }
    }

    /// Whether the header of a compressed batch is believed.
    pub(super) fn believe(&self, batch: &BatchView<'_>) -> bool {
        let (base, newest) = (batch.base_timestamp(), batch.max_timestamp());
        let allowed = |timestamps: &RangeInclusive<i64>| {
            newest >= 0
                && newest >= base
                && timestamps.contains(&newest)
                && timestamps.contains(&base)
        };
        self.timestamps.as_ref().is_none_or(allowed)
    }

    /// Whether all of the timestamps may be.
    pub(super) fn allow(&self, range: TimestampRange) -> bool {
        let Some(timestamps) = &self.timestamps else {
            return true;
        };
        let none = range.oldest == i64::MAX && range.newest == NO_TIMESTAMP;
        // The newest is -1 if all are before 1970: that is no timestamp.
        let newest = range.newest.max(range.oldest);
        none || timestamps.contains(&range.oldest) && timestamps.contains(&newest)
    }
}

/// Why a record is to blame for the refusal of its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Keyless,
    Timestamp(i64),
}

/// What was found in a batch whose records were gone over one by one.
#[derive(Debug)]
pub(super) struct Contents {
    rules: RecordRules,
    /// Records so far.
    count: i32,
    range: TimestampRange,
    keyless: usize,
    untimely: usize,
    /// The first [`NAMED_RECORDS_MAX`], by their place in the batch.
    faults: Vec<(i32, Fault)>,
    /// The records do not lie where they should.
    misplaced: bool,
}

impl Contents {
    /// Nothing yet.
    pub(super) fn new(rules: RecordRules) -> Contents {
        Contents {
            rules,
            count: 0,
            range: TimestampRange::EMPTY,
            keyless: 0,
            untimely: 0,
            faults: Vec::new(),
            misplaced: false,
        }
    }

    /// Takes in the next record. Ends the scan where the batch cannot be stored whatever follows.
    pub(super) fn see(&mut self, record: ScannedRecord) -> ControlFlow<()> {
        let index = self.count;
        if record.offset_delta != index {
            self.misplaced = true;
            return ControlFlow::Break(());
        }
        self.count += 1;
        self.range.see(record.timestamp);
        if self.rules.keys && !record.has_key {
            self.keyless += 1;
            self.blame(index, Fault::Keyless);
        } else if let Some(timestamps) = &self.rules.timestamps
            && record.timestamp != NO_TIMESTAMP
            && !timestamps.contains(&record.timestamp)
        {
            self.untimely += 1;
            self.blame(index, Fault::Timestamp(record.timestamp));
        }
        ControlFlow::Continue(())
    }

    fn blame(&mut self, index: i32, fault: Fault) {
        if self.faults.len() < NAMED_RECORDS_MAX {
            self.faults.push((index, fault));
        }
    }

    /// All were seen: the largest of their timestamps, -1 if none has one.
    ///
    /// # Errors
    /// With Kafka's code, and the records that are to blame.
    pub(super) fn verdict(&self) -> Result<i64, AppendRefusal> {
        if self.misplaced {
            return Err(unsound(&RecordsError::Invalid(
                "offset deltas are not 0, 1, 2, …",
            )));
        }
        if self.keyless == 0 && self.untimely == 0 {
            return Ok(self.range.newest);
        }
        let (code, message) = if self.untimely > 0 {
            let message = format!(
                "{} of the batch's {} records have a timestamp that message.timestamp.before.max.ms and message.timestamp.after.max.ms of the topic do not allow{}; none was appended",
                self.untimely,
                self.count,
                self.bounds()
            );
            (ErrorCode::InvalidTimestamp, message)
        } else {
            let message = format!(
                "{} of the batch's {} records have no key, which cleanup.policy=compact of the topic needs; none was appended",
                self.keyless, self.count
            );
            (ErrorCode::InvalidRecord, message)
        };
        let named = |(index, fault): &(i32, Fault)| (*index, self.sentence(*index, *fault));
        Err(AppendRefusal {
            code,
            message,
            records: self.faults.iter().map(named).collect(),
        })
    }

    fn sentence(&self, index: i32, fault: Fault) -> Cow<'static, str> {
        match fault {
            Fault::Keyless => Cow::Borrowed(KEYLESS),
            Fault::Timestamp(timestamp) => Cow::Owned(format!(
                "Timestamp {timestamp} of message with offset {index} is out of range{}",
                self.bounds()
            )),
        }
    }

    fn bounds(&self) -> String {
        let bounds = |timestamps: &RangeInclusive<i64>| {
            format!(
                ". The timestamp should be within [{}, {}]",
                timestamps.start(),
                timestamps.end()
            )
        };
        self.rules
            .timestamps
            .as_ref()
            .map(bounds)
            .unwrap_or_default()
    }
}

/// A batch whose checksum holds and whose records cannot be read: it was made like this, so that its client must not
/// send it again, as it would after `CORRUPT_MESSAGE`.
pub(super) fn unsound(error: &RecordsError) -> AppendRefusal {
    let code = match error {
        RecordsError::Corrupt(_) => ErrorCode::InvalidRecord,
        other => crate::error::of_batch(other),
    };
    AppendRefusal::new(code, error.to_string())
}

#[cfg(test)]
mod tests {
    use streambus_proto::records::{BatchBuilder, Codec, NewRecord, set_max_timestamp};

    use super::*;

    const NOW: i64 = 1_000_000;

    fn rules(before: i64, after: i64) -> RecordRules {
        RecordRules {
            keys: false,
            timestamps: Some(NOW.saturating_sub(before)..=NOW.saturating_add(after)),
        }
    }

    #[test]
    fn headers_are_believed_within_what_the_topic_allows() {
        // Proves the rule for compressed batches, row by row: base and largest timestamp of the header, believed or not.
        let table = [
            (NOW, NOW, true),
            (NOW - 5, NOW, true),
            (NOW, NOW - 1, false), // Below the base.
            (NOW, 0, false),       // What sarama 1.43 sends.
            (NOW, -1, false),
            (-1, -1, false),
            (0, 0, false), // Before what is allowed.
            (NOW, NOW + 10, true),
            (NOW, NOW + 11, false), // After what is allowed.
            (NOW - 100, NOW, true),
            (NOW - 101, NOW, false),
            (i64::MIN, i64::MAX, false),
        ];
        for (base, newest, believed) in table {
            let mut builder = BatchBuilder::new(Codec::Zstd);
            builder.push(&NewRecord {
                timestamp: base,
                ..NewRecord::default()
            });
            let mut bytes = builder.build();
            set_max_timestamp(&mut bytes, newest);
            let batch = BatchView::produced(&bytes).unwrap();
            assert_eq!(
                rules(100, 10).believe(&batch),
                believed,
                "{base} to {newest}"
            );
            let broker_clock = RecordRules {
                keys: true,
                timestamps: None,
            };
            assert!(broker_clock.believe(&batch));
        }
    }

    #[test]
    fn a_range_is_allowed_if_both_its_ends_are() {
        // Proves, from the ends of the type on, that -1 is no timestamp and that nothing overflows.
        let table = [
            (&[NOW, NOW + 10][..], true),
            (&[NOW + 11], false),
            (&[NOW - 101, NOW], false),
            (&[-1, -1], true),
            (&[-1, NOW], true),
            (&[-1, 5], false),
            (&[-2], false),
            (&[i64::MIN], false),
            (&[i64::MAX], false),
        ];
        for (timestamps, allowed) in table {
            let mut range = TimestampRange::EMPTY;
            for timestamp in timestamps {
                range.see(*timestamp);
            }
            assert_eq!(rules(100, 10).allow(range), allowed, "{timestamps:?}");
        }
        let mut range = TimestampRange::EMPTY;
        range.see(i64::MAX);
        assert!(rules(i64::MAX, i64::MAX).allow(range));
    }

    #[test]
    fn records_that_are_to_blame_are_named() {
        // Proves Kafka's codes and words for records without a key and out of time, that the time goes before, that a
        // bounded number is named, and that records in other places are refused.
        let record = |offset_delta, timestamp, has_key| ScannedRecord {
            offset_delta,
            timestamp,
            has_key,
        };
        let mut contents = Contents::new(RecordRules {
            keys: true,
            ..rules(100, 10)
        });
        for one in [
            record(0, NOW, true),
            record(1, NOW + 5, true),
            record(2, -1, true),
        ] {
            assert!(contents.see(one).is_continue());
        }
        assert_eq!(contents.verdict(), Ok(NOW + 5));
        let _ = contents.see(record(3, NOW, false));
        let refused = contents.verdict().unwrap_err();
        assert_eq!(refused.code, ErrorCode::InvalidRecord);
        assert_eq!(refused.records, [(3, Cow::Borrowed(KEYLESS))]);
        let _ = contents.see(record(4, 7, true));
        let refused = contents.verdict().unwrap_err();
        assert_eq!(refused.code, ErrorCode::InvalidTimestamp);
        let said = "Timestamp 7 of message with offset 4 is out of range. The timestamp should be within [999900, 1000010]";
        assert_eq!(refused.records[1], (4, Cow::Borrowed(said)));
        for index in 5..5_000 {
            let _ = contents.see(record(index, NOW, false));
        }
        assert_eq!(
            contents.verdict().unwrap_err().records.len(),
            NAMED_RECORDS_MAX
        );
        assert!(contents.see(record(7, NOW, true)).is_break());
        let refused = contents.verdict().unwrap_err();
        assert_eq!(
            (refused.code, refused.records.len()),
            (ErrorCode::InvalidRecord, 0)
        );
    }
}
