//! What a consumer of assigned partitions remembers: where it is in each, and what to ask next.
//!
//! Nothing here waits or sends. The owner sends what [`Consumer::take_lookups`] and
//! [`Consumer::take_fetches`] hand out, one request a broker, and reports each answer, or that
//! none came. A position moves only when its records were handed on.

use std::collections::{BTreeMap, BTreeSet};

use streambus_proto::error_code::ErrorCode;
use streambus_proto::ids::{BrokerId, Offset, ProducerId};
use streambus_proto::records::{
    BatchView, Batches, ControlKind, DecompressLimits, EndTransactionMarker, Record, RecordsError,
};

use crate::partition::TopicPartition;
use crate::reaction::{Reaction, reaction};

/// Where to begin in a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At the first record there is.
    Earliest,
    /// Behind the last record there is.
    Latest,
    /// At the first record of this time (milliseconds since 1970) or later, else behind the last.
    Timestamp(i64),
    /// At this offset.
    Offset(Offset),
}

/// What to do when a position is not in the log (any more).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reset {
    /// Go on at the first record there is.
    #[default]
    Earliest,
    /// Go on behind the last record there is.
    Latest,
    /// Tell the caller.
    Fail,
}

/// Which records of transactions to hand on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Isolation {
    /// All, the aborted and the undecided as well.
    #[default]
    ReadUncommitted,
    /// Those of committed transactions.
    ReadCommitted,
}

/// How a consumer reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConsumerConfig {
    /// When a position is not in the log.
    pub reset: Reset,
    /// Which records of transactions to hand on.
    pub isolation: Isolation,
    /// The pause after an error.
    pub retry_pause_ms: u64,
    /// How far a compressed batch may unfold.
    pub limits: DecompressLimits,
}

impl Default for ConsumerConfig {
    fn default() -> Self {
        ConsumerConfig {
            reset: Reset::default(),
            isolation: Isolation::default(),
            retry_pause_ms: 100,
            // What a broker stored was acceptable to it: only the size is bounded here.
            limits: DecompressLimits {
                ratio_max: usize::MAX,
                ..DecompressLimits::default()
            },
        }
    }
}

/// Why a partition cannot be read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ConsumeError {
    /// The position is not in the log, and [`Reset::Fail`] was chosen.
    #[error("offset {} is not in the log", .0.0)]
    OutOfRange(Offset),
    /// The broker refused for good.
    #[error("refused: {0:?}")]
    Refused(ErrorCode),
    /// The records cannot be read.
    #[error("records behind offset {}: {error}", .position.0)]
    Records {
        /// The position of the batch.
        position: Offset,
        /// What is wrong with it.
        error: RecordsError,
    },
}

/// An offset to be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lookup {
    /// Where.
    pub partition: TopicPartition,
    /// The timestamp for the `ListOffsets` request: milliseconds, or -1 latest, -2 earliest.
    pub timestamp: i64,
}

/// A transaction that a fetch says was aborted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct AbortedTransaction {
    /// Its first offset in the partition.
    pub first_offset: Offset,
    /// Its producer.
    pub producer_id: ProducerId,
}

/// A partition's part of a fetch's answer.
#[derive(Debug, Clone, Copy, Default)]
pub struct Fetched<'a> {
    /// The offset behind the last record that may be read.
    pub high_watermark: Option<Offset>,
    /// Transactions to leave out when reading committed ones.
    pub aborted: &'a [AbortedTransaction],
    /// The batches. The last may be cut short.
    pub records: &'a [u8],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Position {
    /// To be found by this timestamp, in the terms of `Lookup`.
    Sought(i64),
    At(Offset),
}

#[derive(Debug)]
struct Assigned {
    position: Position,
    high_watermark: Option<Offset>,
    /// A request for it is under way.
    asked: bool,
    paused_until_ms: u64,
}

/// Reads partitions that were given to it. Single-threaded; holds nothing but positions.
#[derive(Debug)]
pub struct Consumer {
    config: ConsumerConfig,
    partitions: BTreeMap<TopicPartition, Assigned>,
    /// Turns the order of partitions in fetches, so that none is always last to be filled.
    turn: usize,
    scratch: Vec<u8>,
}

const LATEST: i64 = -1;
const EARLIEST: i64 = -2;

impl Consumer {
    /// A consumer of nothing yet.
    pub fn new(config: ConsumerConfig) -> Self {
        Consumer {
            config,
            partitions: BTreeMap::new(),
            turn: 0,
            scratch: Vec::new(),
        }
    }

    /// Adds a partition, or moves to another place in one it has.
    pub fn assign(&mut self, partition: TopicPartition, start: Start) {
        let position = match start {
            Start::Earliest => Position::Sought(EARLIEST),
            Start::Latest => Position::Sought(LATEST),
            Start::Timestamp(timestamp) => Position::Sought(timestamp),
            Start::Offset(offset) => Position::At(offset),
        };
        let assigned = Assigned {
            position,
            high_watermark: None,
            asked: false,
            paused_until_ms: 0,
        };
        self.partitions.insert(partition, assigned);
    }

    /// Removes a partition.
    pub fn unassign(&mut self, partition: &TopicPartition) {
        self.partitions.remove(partition);
    }

    /// The partitions.
    pub fn partitions(&self) -> impl Iterator<Item = &TopicPartition> {
        self.partitions.keys()
    }

    /// The offset of the next record to be read; `None` until it was found.
    pub fn position(&self, partition: &TopicPartition) -> Option<Offset> {
        match self.partitions.get(partition)?.position {
            Position::At(offset) => Some(offset),
            Position::Sought(_) => None,
        }
    }

    /// Whether every partition was read up to the end its last fetch knew of.
    pub fn at_end(&self) -> bool {
        self.partitions
            .values()
            .all(|assigned| match assigned.position {
                Position::At(offset) => assigned.high_watermark.is_some_and(|end| offset >= end),
                Position::Sought(_) => false,
            })
    }

    /// Hands out the offsets to be asked for now, by broker.
    pub fn take_lookups(
        &mut self,
        leader: impl FnMut(&TopicPartition) -> Option<BrokerId>,
        now_ms: u64,
    ) -> BTreeMap<BrokerId, Vec<Lookup>> {
        self.take(leader, now_ms, |partition, position| match position {
            Position::Sought(timestamp) => Some(Lookup {
                partition: partition.clone(),
                timestamp,
            }),
            Position::At(_) => None,
        })
    }

    /// Hands out the partitions to be fetched now and from where, by broker. At most one fetch is
    /// under way to each broker.
    pub fn take_fetches(
        &mut self,
        leader: impl FnMut(&TopicPartition) -> Option<BrokerId>,
        now_ms: u64,
    ) -> BTreeMap<BrokerId, Vec<(TopicPartition, Offset)>> {
        let mut fetches = self.take(leader, now_ms, |partition, position| match position {
            Position::At(offset) => Some((partition.clone(), offset)),
            Position::Sought(_) => None,
        });
        self.turn = self.turn.wrapping_add(1);
        for partitions in fetches.values_mut() {
            let turn = self.turn % partitions.len().max(1);
            partitions.rotate_left(turn);
        }
        fetches
    }

    fn take<T>(
        &mut self,
        mut leader: impl FnMut(&TopicPartition) -> Option<BrokerId>,
        now_ms: u64,
        mut wanted: impl FnMut(&TopicPartition, Position) -> Option<T>,
    ) -> BTreeMap<BrokerId, Vec<T>> {
        let mut by_broker: BTreeMap<BrokerId, Vec<T>> = BTreeMap::new();
        for (partition, assigned) in &mut self.partitions {
            if assigned.asked || now_ms < assigned.paused_until_ms {
                continue;
            }
            let Some(item) = wanted(partition, assigned.position) else {
                continue;
            };
            let Some(broker) = leader(partition) else {
                continue;
            };
            assigned.asked = true;
            by_broker.entry(broker).or_default().push(item);
        }
        by_broker
    }

    /// Takes the answer to a lookup. `None` means that no record is that late.
    pub fn found(&mut self, partition: &TopicPartition, offset: Option<Offset>) {
        let Some(assigned) = self.partitions.get_mut(partition) else {
            return;
        };
        assigned.asked = false;
        assigned.paused_until_ms = 0;
        if let Position::Sought(_) = assigned.position {
            // No record is late enough: the next one to come will be.
            assigned.position = offset.map_or(Position::Sought(LATEST), Position::At);
        }
    }

    /// Notes that a request for the partition failed. Returns what the caller should do besides.
    ///
    /// # Errors
    /// [`ConsumeError`] if asking again is of no use.
    pub fn failed(
        &mut self,
        partition: &TopicPartition,
        code: ErrorCode,
        now_ms: u64,
    ) -> Result<Reaction, ConsumeError> {
        let Some(assigned) = self.partitions.get_mut(partition) else {
            return Ok(Reaction::Retry);
        };
        assigned.asked = false;
        assigned.paused_until_ms = now_ms + self.config.retry_pause_ms;
        if code == ErrorCode::OffsetOutOfRange
            && let Position::At(offset) = assigned.position
        {
            assigned.position = match self.config.reset {
                Reset::Earliest => Position::Sought(EARLIEST),
                Reset::Latest => Position::Sought(LATEST),
                Reset::Fail => return Err(ConsumeError::OutOfRange(offset)),
            };
            assigned.paused_until_ms = now_ms;
            return Ok(Reaction::Retry);
        }
        match reaction(code) {
            Reaction::GiveUp => Err(ConsumeError::Refused(code)),
            again => Ok(again),
        }
    }

    /// Notes that no answer came.
    pub fn lost(&mut self, partition: &TopicPartition, now_ms: u64) {
        if let Some(assigned) = self.partitions.get_mut(partition) {
            assigned.asked = false;
            assigned.paused_until_ms = now_ms + self.config.retry_pause_ms;
        }
    }

    /// Takes what was fetched, hands each record on, and moves the position behind it.
    /// Returns how many records were handed on.
    ///
    /// # Errors
    /// [`ConsumeError::Records`] if a batch cannot be read; the position stays before it.
    pub fn fetched(
        &mut self,
        partition: &TopicPartition,
        fetched: Fetched<'_>,
        mut hand_on: impl FnMut(&BatchView<'_>, &Record<'_>),
    ) -> Result<u64, ConsumeError> {
        let Some(assigned) = self.partitions.get_mut(partition) else {
            return Ok(0);
        };
        assigned.asked = false;
        assigned.paused_until_ms = 0;
        assigned.high_watermark = fetched.high_watermark;
        let Position::At(mut position) = assigned.position else {
            return Ok(0);
        };
        let mut aborted = Aborted::new(self.config.isolation, fetched.aborted);
        let mut count = 0;
        let mut whole = 0_usize;
        for batch in Batches::new(fetched.records) {
            let outcome = batch.and_then(|batch| {
                batch.verify()?;
                let visible = aborted.is_visible(&batch)?;
                if visible && batch.last_offset() >= position {
                    for record in batch.records(&mut self.scratch, self.config.limits)? {
                        let record = record?;
                        if record.offset >= position {
                            hand_on(&batch, &record);
                            count += 1;
                            position = Offset(record.offset.0.saturating_add(1));
                        }
                    }
                }
                position = position.max(batch.next_offset());
                whole += 1;
                Ok(())
            });
            assigned.position = Position::At(position);
            match outcome {
                Ok(()) => {}
                // The rest of a cut batch comes with the next fetch, if something came before it.
                Err(RecordsError::Truncated { .. }) if whole > 0 => break,
                Err(error) => return Err(ConsumeError::Records { position, error }),
            }
        }
        Ok(count)
    }

    /// When a pause ends, if nothing is under way; `None` if there is no pause.
    pub fn wake_at_ms(&self) -> Option<u64> {
        let waiting = self.partitions.values().filter(|assigned| !assigned.asked);
        waiting.map(|assigned| assigned.paused_until_ms).min()
    }
}

/// Walks along a fetch's batches and knows which belong to aborted transactions.
struct Aborted<'a> {
    isolation: Isolation,
    /// Not reached yet, by first offset.
    ahead: Vec<&'a AbortedTransaction>,
    /// Producers whose transaction is aborted by a marker that comes later.
    open: BTreeSet<ProducerId>,
}

impl<'a> Aborted<'a> {
    fn new(isolation: Isolation, aborted: &'a [AbortedTransaction]) -> Self {
        let mut ahead: Vec<_> = aborted.iter().collect();
        // The first at the end, to be popped.
        ahead.sort_unstable_by(|a, b| b.cmp(a));
        Aborted {
            isolation,
            ahead,
            open: BTreeSet::new(),
        }
    }

    fn is_visible(&mut self, batch: &BatchView<'_>) -> Result<bool, RecordsError> {
        while self
            .ahead
            .last()
            .is_some_and(|next| next.first_offset <= batch.last_offset())
        {
            self.open
                .extend(self.ahead.pop().map(|begun| begun.producer_id));
        }
        let Some(producer) = batch.producer_id() else {
            return Ok(!batch.attributes().is_control());
        };
        if batch.attributes().is_control() {
            let marker = EndTransactionMarker::of_batch(batch)?;
            if marker.is_some_and(|marker| marker.kind == ControlKind::Abort) {
                self.open.remove(&producer);
            }
            return Ok(false);
        }
        let hidden = self.isolation == Isolation::ReadCommitted
            && batch.attributes().is_transactional()
            && self.open.contains(&producer);
        Ok(!hidden)
    }
}

#[cfg(test)]
mod tests;
