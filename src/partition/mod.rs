//! One partition as its leader sees it: which batches may be appended, which offsets may be read.
//!
//! Rules only: no I/O, no clock. The shard that owns the partition asks before it writes and tells
//! what became durable; storage holds the bytes.

pub mod producers;
pub mod refusals;

use streambus_proto::ids::{LeaderEpoch, Offset};

use producers::{Producers, Sequenced, Verdict};

/// What a produced batch says of itself, as far as the append rule asks.
#[derive(Debug, Clone, Copy)]
pub struct BatchFacts {
    /// Bytes of the whole batch, header included.
    pub size_bytes: usize,
    /// Records in it, at least 1.
    pub record_count: i32,
    /// Its origin, if it is idempotent.
    pub sequenced: Option<Sequenced>,
    /// Whether it is part of a transaction.
    pub transactional: bool,
}

/// What the append rule answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Write it at this offset, then call [`Partition::appended`].
    Append {
        /// The offset of its first record.
        base_offset: Offset,
    },
    /// It is in the log already; answer with the original once that is committed.
    Duplicate {
        /// The offset of the original's first record.
        base_offset: Offset,
        /// The offset after the original's last record.
        end_offset: Offset,
    },
    /// `MESSAGE_TOO_LARGE`: above the topic's `max.message.bytes`.
    TooLarge,
    /// `OUT_OF_ORDER_SEQUENCE_NUMBER`.
    OutOfOrderSequence {
        /// The sequence that would have been accepted.
        expected: i32,
    },
    /// `INVALID_PRODUCER_EPOCH`.
    FencedProducer,
    /// `INVALID_TXN_STATE`: its producer has no transaction open. Clients take that for fatal.
    NoTransaction,
}

/// Which records a reader may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// Up to the high watermark.
    ReadUncommitted,
    /// Up to the last stable offset: no record of an open transaction, none behind one.
    ReadCommitted,
}

/// A read position outside the log: `OFFSET_OUT_OF_RANGE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutOfRange;

/// The state of one partition on the core that leads it.
///
/// `log_start ≤ last_stable ≤ high_watermark ≤ log_end` holds between any two calls, and none of
/// the four moves back.
#[derive(Debug)]
pub struct Partition {
    leader_epoch: LeaderEpoch,
    log_start: Offset,
    high_watermark: Offset,
    log_end: Offset,
    producers: Producers,
}

impl Partition {
    /// An empty partition, or one that recovery found. Everything recovered is durable, and one
    /// node is its own in-sync set, so the high watermark is the log end.
    pub fn new(
        leader_epoch: LeaderEpoch,
        log_start: Offset,
        log_end: Offset,
        producers: Producers,
    ) -> Partition {
        assert!(
            log_start <= log_end,
            "log starts at {log_start} and ends at {log_end}"
        );
        Partition {
            leader_epoch,
            log_start,
            high_watermark: log_end,
            log_end,
            producers,
        }
    }

    /// The epoch that new batches are stamped with.
    pub fn leader_epoch(&self) -> LeaderEpoch {
        self.leader_epoch
    }

    /// The first offset that may be read.
    pub fn log_start(&self) -> Offset {
        self.log_start
    }

    /// The offset after the last record that every in-sync replica holds durably.
    pub fn high_watermark(&self) -> Offset {
        self.high_watermark
    }

    /// The offset below which no transaction is open. Without transactions, the high watermark.
    pub fn last_stable_offset(&self) -> Offset {
        self.high_watermark
    }

    /// The offset that the next record will get.
    pub fn log_end(&self) -> Offset {
        self.log_end
    }

    /// The producers that wrote to it.
    pub fn producers(&self) -> &Producers {
        &self.producers
    }

    /// Judges a batch whose header and checksum hold. Changes nothing.
    pub fn admit(&self, batch: &BatchFacts, message_bytes_max: usize) -> Admission {
        assert!(
            batch.record_count > 0,
            "a batch of {} records",
            batch.record_count
        );
        if batch.size_bytes > message_bytes_max {
            return Admission::TooLarge;
        }
        // Nobody is given a transactional id, so no transaction is open, and no marker would ever end
        // this one: compaction would wait for it for ever.
        if batch.transactional {
            return Admission::NoTransaction;
        }
        let verdict = match &batch.sequenced {
            Some(sequenced) => self.producers.check(sequenced),
            None => Verdict::New,
        };
        match verdict {
            Verdict::New => Admission::Append {
                base_offset: self.log_end,
            },
            Verdict::Duplicate {
                base_offset,
                last_offset,
            } => Admission::Duplicate {
                base_offset,
                end_offset: last_offset.next(),
            },
            Verdict::OutOfOrder { expected } => Admission::OutOfOrderSequence { expected },
            Verdict::Fenced { .. } => Admission::FencedProducer,
        }
    }

    /// Takes note that storage accepted the batch at `base_offset`. It is not visible yet.
    pub fn appended(&mut self, batch: &BatchFacts, base_offset: Offset, now_ms: i64) {
        assert_eq!(base_offset, self.log_end, "offsets are dense");
        self.log_end = Offset(base_offset.0 + i64::from(batch.record_count));
        if let Some(sequenced) = &batch.sequenced {
            self.producers.record(sequenced, base_offset, now_ms);
        }
        self.assert_order();
    }

    /// Takes note that a batch which was admitted could not be stored: nothing of its producer may
    /// overtake it.
    pub fn refused(&mut self, batch: &BatchFacts, now_ms: i64) {
        if let Some(sequenced) = &batch.sequenced {
            self.producers.refused(sequenced, now_ms);
        }
    }

    /// Takes note that everything below `end` is durable here. Returns whether readers may now see
    /// more. Never moves back.
    pub fn durable(&mut self, end: Offset) -> bool {
        assert!(
            end <= self.log_end,
            "durable up to {end}, but the log ends at {}",
            self.log_end
        );
        if end <= self.high_watermark {
            return false;
        }
        self.high_watermark = end;
        self.assert_order();
        true
    }

    /// Moves the log start forward: retention, or a client's `DeleteRecords`.
    ///
    /// # Errors
    /// [`OutOfRange`] above the high watermark. Below the log start is no error: nothing moves.
    pub fn advance_log_start(&mut self, to: Offset) -> Result<bool, OutOfRange> {
        if to > self.high_watermark {
            return Err(OutOfRange);
        }
        if to <= self.log_start {
            return Ok(false);
        }
        self.log_start = to;
        self.assert_order();
        Ok(true)
    }

    /// The end of what a reader that starts at `from` may see.
    ///
    /// # Errors
    /// [`OutOfRange`] if `from` is before the log start or after the high watermark; *at* the high
    /// watermark is a reader that has caught up.
    pub fn readable_until(&self, from: Offset, isolation: Isolation) -> Result<Offset, OutOfRange> {
        if from < self.log_start || from > self.high_watermark {
            return Err(OutOfRange);
        }
        Ok(match isolation {
            Isolation::ReadUncommitted => self.high_watermark,
            Isolation::ReadCommitted => self.last_stable_offset(),
        })
    }

    /// Forgets producers that have not written since `before_ms`.
    pub fn expire_producers(&mut self, before_ms: i64) {
        self.producers.expire(before_ms);
    }

    fn assert_order(&self) {
        let last_stable = self.last_stable_offset();
        assert!(
            self.log_start <= last_stable,
            "{} > {last_stable}",
            self.log_start
        );
        assert!(
            last_stable <= self.high_watermark,
            "{last_stable} > {}",
            self.high_watermark
        );
        assert!(
            self.high_watermark <= self.log_end,
            "high watermark {} past the log end {}",
            self.high_watermark,
            self.log_end
        );
    }
}

#[cfg(test)]
mod tests {
    use streambus_proto::ids::{ProducerEpoch, ProducerId};

    use super::*;

    fn plain(record_count: i32) -> BatchFacts {
        BatchFacts {
            size_bytes: 100,
            record_count,
            sequenced: None,
            transactional: false,
        }
    }

    fn empty() -> Partition {
        Partition::new(LeaderEpoch(0), Offset(0), Offset(0), Producers::default())
    }

    fn append(partition: &mut Partition, batch: &BatchFacts) -> Admission {
        let admission = partition.admit(batch, 1_000);
        if let Admission::Append { base_offset } = admission {
            partition.appended(batch, base_offset, 0);
        }
        admission
    }

    #[test]
    fn offsets_are_dense_and_invisible_until_durable() {
        // Proves the append rule: offsets follow each other, and only durability shows them.
        let mut partition = empty();
        assert_eq!(
            append(&mut partition, &plain(3)),
            Admission::Append {
                base_offset: Offset(0)
            }
        );
        assert_eq!(
            append(&mut partition, &plain(2)),
            Admission::Append {
                base_offset: Offset(3)
            }
        );
        assert_eq!(
            (partition.log_end(), partition.high_watermark()),
            (Offset(5), Offset(0))
        );
        assert!(partition.durable(Offset(3)));
        assert_eq!(partition.high_watermark(), Offset(3));
        assert!(
            !partition.durable(Offset(2)),
            "an older report moves nothing"
        );
        assert_eq!(partition.high_watermark(), Offset(3));
    }

    #[test]
    fn an_empty_log_begins_with_any_batch_of_a_producer() {
        // Proves that a producer goes on where it was when its topic was deleted and created again, and
        // that from then on its batches come in order.
        let sequenced = |id, base_sequence| BatchFacts {
            sequenced: Some(Sequenced {
                producer_id: ProducerId(id),
                producer_epoch: ProducerEpoch(0),
                base_sequence,
                record_count: 1,
                max_timestamp_ms: 0,
            }),
            ..plain(1)
        };
        let mut partition = empty();
        let behind = Admission::OutOfOrderSequence { expected: 8 };
        let at = |offset| Admission::Append {
            base_offset: Offset(offset),
        };
        assert_eq!(append(&mut partition, &sequenced(1, 7)), at(0));
        assert_eq!(append(&mut partition, &sequenced(1, 9)), behind);
        assert_eq!(append(&mut partition, &sequenced(1, 8)), at(1));
        assert_eq!(append(&mut partition, &sequenced(2, 0)), at(2));
    }

    #[test]
    fn reads_stay_between_log_start_and_high_watermark() {
        // Proves the bounds of a read at both ends.
        let mut partition = empty();
        append(&mut partition, &plain(10));
        partition.durable(Offset(8));
        assert_eq!(partition.advance_log_start(Offset(9)), Err(OutOfRange));
        assert_eq!(partition.advance_log_start(Offset(4)), Ok(true));
        assert_eq!(partition.advance_log_start(Offset(2)), Ok(false));
        let read = |from| partition.readable_until(Offset(from), Isolation::ReadUncommitted);
        assert_eq!(read(3), Err(OutOfRange));
        assert_eq!(read(4), Ok(Offset(8)));
        assert_eq!(read(8), Ok(Offset(8)));
        assert_eq!(read(9), Err(OutOfRange));
    }

    #[test]
    fn refused_batches_leave_no_trace() {
        // Proves that size, sequence, epoch and transaction refusals change nothing.
        let mut partition = empty();
        let sequenced = |epoch, base_sequence| BatchFacts {
            sequenced: Some(Sequenced {
                producer_id: ProducerId(1),
                producer_epoch: ProducerEpoch(epoch),
                base_sequence,
                record_count: 1,
                max_timestamp_ms: 0,
            }),
            ..plain(1)
        };
        append(&mut partition, &sequenced(1, 0));
        let big = BatchFacts {
            size_bytes: 1_001,
            ..plain(1)
        };
        assert_eq!(append(&mut partition, &big), Admission::TooLarge);
        assert_eq!(
            append(&mut partition, &sequenced(1, 2)),
            Admission::OutOfOrderSequence { expected: 1 }
        );
        assert_eq!(
            append(&mut partition, &sequenced(0, 1)),
            Admission::FencedProducer
        );
        let transactional = BatchFacts {
            transactional: true,
            ..sequenced(1, 1)
        };
        assert_eq!(
            append(&mut partition, &transactional),
            Admission::NoTransaction
        );
        assert_eq!(
            append(&mut partition, &sequenced(1, 0)),
            Admission::Duplicate {
                base_offset: Offset(0),
                end_offset: Offset(1)
            }
        );
        assert_eq!(partition.log_end(), Offset(1));
    }
}
