//! The idempotence rule of one partition: which batches of a producer are new, which repeat one
//! that is already in the log, and which come out of order.
//!
//! Source: KIP-98 and Kafka's `ProducerStateManager`. For each producer id the last five batches
//! are remembered, because a client keeps at most five requests in flight
//! (`max.in.flight.requests.per.connection`), so a retry can repeat any of those five and no
//! older one.

use std::collections::VecDeque;

use rustc_hash::FxHashMap;
use streambus_proto::ids::{Offset, ProducerEpoch, ProducerId};
use streambus_shards::planted;

use super::refusals::Sequence;

/// Batches remembered for each producer: what a client may have in flight at once (KIP-98).
pub const WINDOW_BATCHES: usize = 5;

/// Producers remembered for each partition. The one that wrote longest ago makes room; it then
/// counts as unknown, which accepts any sequence, as Kafka does after expiry.
/// 2,000 producers × about 200 bytes = 400 KiB a partition at the worst.
pub const PRODUCERS_MAX: usize = 2_000;

/// Version of [`Producers::encode`]'s bytes.
const FORMAT_VERSION: u8 = 1;
/// Bytes of one producer before its batches: id, epoch, last write, batch count.
const PRODUCER_BYTES: usize = 8 + 2 + 8 + 1;
/// Bytes of one remembered batch: first and last sequence, base and last offset, timestamp.
const BATCH_BYTES: usize = 4 + 4 + 8 + 8 + 8;

/// What the header of an idempotent batch says of its origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sequenced {
    /// Who wrote it.
    pub producer_id: ProducerId,
    /// Which incarnation of the producer.
    pub producer_epoch: ProducerEpoch,
    /// Sequence of its first record.
    pub base_sequence: i32,
    /// Number of records, at least 1.
    pub record_count: i32,
    /// Largest timestamp of its records, in milliseconds; only kept to be described.
    pub max_timestamp_ms: i64,
}

impl Sequenced {
    /// Sequence of the last record; sequences wrap to 0 after `i32::MAX`.
    fn last_sequence(&self) -> i32 {
        add_sequence(self.base_sequence, self.record_count - 1)
    }
}

/// What the rule says of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Append it, then [`Producers::record`] it.
    New,
    /// It is in the log already: answer with these offsets, append nothing.
    Duplicate {
        /// Offset of the first record of the original.
        base_offset: Offset,
        /// Offset of its last record.
        last_offset: Offset,
    },
    /// A sequence is missing before it: `OUT_OF_ORDER_SEQUENCE_NUMBER`.
    OutOfOrder {
        /// The sequence that would have been accepted.
        expected: i32,
    },
    /// A newer incarnation of the producer has written: `INVALID_PRODUCER_EPOCH`.
    Fenced {
        /// The epoch of that incarnation.
        current: ProducerEpoch,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Remembered {
    base_sequence: i32,
    last_sequence: i32,
    base_offset: Offset,
    last_offset: Offset,
    timestamp_ms: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Producer {
    epoch: ProducerEpoch,
    /// When it last appended, by the broker's clock: for expiry, never for order.
    last_append_ms: i64,
    /// Oldest first, at most [`WINDOW_BATCHES`]. Empty while its first batch is only awaited.
    batches: VecDeque<Remembered>,
    /// While nothing of it is in the log: the lowest sequence that was refused for want of something
    /// else. It has to come first, when it is tried again.
    awaited: i32,
}

/// A producer as the outside may see it (`DescribeProducers`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerView {
    /// Its id.
    pub producer_id: ProducerId,
    /// Its newest epoch.
    pub producer_epoch: ProducerEpoch,
    /// Sequence of the last record it wrote, -1 if none is remembered.
    pub last_sequence: i32,
    /// Timestamp of its last batch, in milliseconds.
    pub last_timestamp_ms: i64,
}

/// The producers of one partition. Lives on the core that leads the partition.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Producers {
    by_id: FxHashMap<i64, Producer>,
}

impl Producers {
    /// Judges a batch. Changes nothing: the caller appends first and then records.
    pub fn check(&self, batch: &Sequenced) -> Verdict {
        let Some(producer) = self.by_id.get(&batch.producer_id.0) else {
            // Nothing is known of it: new, or forgotten. Kafka accepts any sequence here, since
            // refusing would stop a producer for ever whose state merely expired.
            return Verdict::New;
        };
        if batch.producer_epoch < producer.epoch {
            return Verdict::Fenced {
                current: producer.epoch,
            };
        }
        if batch.producer_epoch > producer.epoch {
            return match batch.base_sequence {
                0 => Verdict::New,
                _ => Verdict::OutOfOrder { expected: 0 },
            };
        }
        let last_sequence = batch.last_sequence();
        let repeated = producer.batches.iter().find(|known| {
            known.base_sequence == batch.base_sequence && known.last_sequence == last_sequence
        });
        if let Some(known) = repeated {
            let Remembered {
                base_offset,
                last_offset,
                ..
            } = *known;
            return Verdict::Duplicate {
                base_offset,
                last_offset,
            };
        }
        let expected = match producer.batches.back() {
            Some(newest) => add_sequence(newest.last_sequence, 1),
            None if batch.base_sequence <= producer.awaited => return Verdict::New,
            None => producer.awaited,
        };
        if batch.base_sequence == expected {
            Verdict::New
        } else {
            Verdict::OutOfOrder { expected }
        }
    }

    /// Takes note that a batch which came in order was not appended all the same, as the disk was full.
    ///
    /// Of a producer that the log knows this changes nothing. Any other could now have its second batch
    /// taken, as any sequence is taken of it, and its first one refused for ever (KAFKA-14920).
    pub fn refused(&mut self, batch: &Sequenced, now_ms: i64) {
        let id = batch.producer_id.0;
        if self.by_id.len() >= PRODUCERS_MAX && !self.by_id.contains_key(&id) {
            // What was stored must be told from its retry: nobody makes room for what was not.
            return;
        }
        let producer = self.by_id.entry(id).or_insert_with(|| Producer {
            epoch: batch.producer_epoch,
            last_append_ms: now_ms,
            batches: VecDeque::new(),
            awaited: batch.base_sequence,
        });
        if producer.batches.is_empty() {
            producer.epoch = batch.producer_epoch;
            producer.awaited = producer.awaited.min(batch.base_sequence);
        }
    }

    /// Remembers a batch that was appended at `base_offset`, at `now_ms` by the broker's clock.
    ///
    /// Also used at recovery, where the log is the truth and nothing is judged.
    pub fn record(&mut self, batch: &Sequenced, base_offset: Offset, now_ms: i64) {
        assert!(
            batch.record_count > 0,
            "a batch of {} records",
            batch.record_count
        );
        if self.by_id.len() >= PRODUCERS_MAX && !self.by_id.contains_key(&batch.producer_id.0) {
            self.forget_oldest();
        }
        let producer = self
            .by_id
            .entry(batch.producer_id.0)
            .or_insert_with(|| Producer {
                epoch: batch.producer_epoch,
                last_append_ms: now_ms,
                batches: VecDeque::with_capacity(WINDOW_BATCHES),
                awaited: batch.base_sequence,
            });
        if producer.epoch != batch.producer_epoch {
            producer.epoch = batch.producer_epoch;
            producer.batches.clear();
        }
        if producer.batches.len() == WINDOW_BATCHES || planted::on("dedup-window-of-one") {
            producer.batches.pop_front();
        }
        producer.last_append_ms = now_ms;
        producer.batches.push_back(Remembered {
            base_sequence: batch.base_sequence,
            last_sequence: batch.last_sequence(),
            base_offset,
            last_offset: Offset(base_offset.0 + i64::from(batch.record_count) - 1),
            timestamp_ms: batch.max_timestamp_ms,
        });
        debug_assert!(producer.batches.len() <= WINDOW_BATCHES);
    }

    /// Whether batches of a producer are remembered.
    pub fn knows(&self, id: ProducerId) -> bool {
        let producer = self.by_id.get(&id.0);
        producer.is_some_and(|producer| !producer.batches.is_empty())
    }

    /// The first batch at or after `from` of each producer that has one.
    pub fn first_since(&self, from: Offset) -> impl Iterator<Item = Sequence> {
        self.by_id.iter().filter_map(move |(id, producer)| {
            let mut batches = producer.batches.iter();
            let first = batches.find(|batch| batch.base_offset >= from)?;
            Some(Sequence {
                producer_id: ProducerId(*id),
                producer_epoch: producer.epoch,
                base_sequence: first.base_sequence,
            })
        })
    }

    /// Forgets producers that have not written since `before_ms` (`producer.id.expiration.ms`).
    pub fn expire(&mut self, before_ms: i64) {
        self.by_id
            .retain(|_, producer| producer.last_append_ms >= before_ms);
    }

    /// How many producers are remembered.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether none is remembered.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// All of them, by id.
    pub fn views(&self) -> Vec<ProducerView> {
        let mut views: Vec<ProducerView> = self
            .by_id
            .iter()
            .filter(|(_, producer)| !producer.batches.is_empty())
            .map(|(&id, producer)| ProducerView {
                producer_id: ProducerId(id),
                producer_epoch: producer.epoch,
                last_sequence: producer
                    .batches
                    .back()
                    .map_or(-1, |newest| newest.last_sequence),
                last_timestamp_ms: producer
                    .batches
                    .back()
                    .map_or(-1, |newest| newest.timestamp_ms),
            })
            .collect();
        views.sort_unstable_by_key(|view| view.producer_id.0);
        views
    }

    fn forget_oldest(&mut self) {
        // Linear, but only past PRODUCERS_MAX live producers of one partition. The id breaks
        // ties, so that the choice does not hang on the map's order.
        let oldest = self
            .by_id
            .iter()
            .min_by_key(|(id, p)| (p.last_append_ms, **id));
        if let Some(id) = oldest.map(|(id, _)| *id) {
            self.by_id.remove(&id);
        }
    }

    /// The bytes that [`Producers::decode`] reads: what storage keeps beside a flushed table, so
    /// that a duplicate is still known after a restart.
    pub fn encode(&self) -> Vec<u8> {
        let written = self
            .by_id
            .iter()
            .filter(|(_, producer)| !producer.batches.is_empty());
        let mut ids: Vec<i64> = written.map(|(id, _)| *id).collect();
        if ids.is_empty() {
            return Vec::new();
        }
        ids.sort_unstable();
        let mut out =
            Vec::with_capacity(1 + 4 + ids.len() * (PRODUCER_BYTES + WINDOW_BATCHES * BATCH_BYTES));
        out.push(FORMAT_VERSION);
        out.extend_from_slice(&u32::try_from(ids.len()).unwrap_or(u32::MAX).to_le_bytes());
        for id in ids {
            let producer = &self.by_id[&id];
            out.extend_from_slice(&id.to_le_bytes());
            out.extend_from_slice(&producer.epoch.0.to_le_bytes());
            out.extend_from_slice(&producer.last_append_ms.to_le_bytes());
            out.push(u8::try_from(producer.batches.len()).unwrap_or(u8::MAX));
            for batch in &producer.batches {
                out.extend_from_slice(&batch.base_sequence.to_le_bytes());
                out.extend_from_slice(&batch.last_sequence.to_le_bytes());
                out.extend_from_slice(&batch.base_offset.0.to_le_bytes());
                out.extend_from_slice(&batch.last_offset.0.to_le_bytes());
                out.extend_from_slice(&batch.timestamp_ms.to_le_bytes());
            }
        }
        out
    }

    /// Reads what [`Producers::encode`] wrote; no bytes at all mean no producers.
    ///
    /// # Errors
    /// `None` if the bytes are of another version, cut short, or hold what is never written. Storage has
    /// checked their checksum already; the caller tells it and goes on without them.
    pub fn decode(bytes: &[u8]) -> Option<Producers> {
        let mut producers = Producers::default();
        if bytes.is_empty() {
            return Some(producers);
        }
        let mut input = Fields { rest: bytes };
        if input.take::<1>()?[0] != FORMAT_VERSION {
            return None;
        }
        let count = u32::from_le_bytes(input.take()?) as usize;
        if count > PRODUCERS_MAX {
            return None;
        }
        for _ in 0..count {
            let id = i64::from_le_bytes(input.take()?);
            let epoch = ProducerEpoch(i16::from_le_bytes(input.take()?));
            let last_append_ms = i64::from_le_bytes(input.take()?);
            let batch_count = usize::from(input.take::<1>()?[0]);
            if !(1..=WINDOW_BATCHES).contains(&batch_count) {
                return None;
            }
            let mut batches = VecDeque::with_capacity(WINDOW_BATCHES);
            for _ in 0..batch_count {
                let batch = Remembered {
                    base_sequence: i32::from_le_bytes(input.take()?),
                    last_sequence: i32::from_le_bytes(input.take()?),
                    base_offset: Offset(i64::from_le_bytes(input.take()?)),
                    last_offset: Offset(i64::from_le_bytes(input.take()?)),
                    timestamp_ms: i64::from_le_bytes(input.take()?),
                };
                if batch.base_sequence < 0 || batch.last_sequence < 0 {
                    return None;
                }
                batches.push_back(batch);
            }
            producers.by_id.insert(
                id,
                Producer {
                    epoch,
                    last_append_ms,
                    batches,
                    awaited: 0,
                },
            );
        }
        input.rest.is_empty().then_some(producers)
    }
}

/// Reads fixed-size fields off the front of a slice.
struct Fields<'a> {
    rest: &'a [u8],
}

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*head)
    }
}

/// Adds to a sequence, wrapping from `i32::MAX` to 0 (Kafka's `DefaultRecordBatch.incrementSequence`).
fn add_sequence(sequence: i32, increment: i32) -> i32 {
    debug_assert!(sequence >= 0 && increment >= 0);
    let sum = i64::from(sequence) + i64::from(increment);
    let wrapped = sum % (i64::from(i32::MAX) + 1);
    i32::try_from(wrapped).expect("below 2^31 by the modulo above")
}

#[cfg(test)]
mod tests;
