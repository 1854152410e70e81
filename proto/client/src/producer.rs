//! What a producer remembers: batches by partition, in the order their records came, each with
//! the sequence number under which the broker knows it however often it is sent.
//!
//! Nothing here waits or sends. The owner calls [`Producer::append`], sends what
//! [`Producer::take_ready`] hands out, and reports each answer to [`Producer::finished`].
//!
//! Order and duplicates: a batch gets its sequence when it is first handed out and keeps it in
//! every retry, so the broker tells a retry from a new batch. A retry goes alone: nothing else of
//! its partition is in flight beside it. A gap in the sequences (a batch given up) ends the
//! producer's identity: a new one is asked for, and what is certain not to be stored is sent
//! under it; what may be stored is reported as of unknown fate, never sent twice.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use streambus_proto::error_code::ErrorCode;
use streambus_proto::ids::{BrokerId, Offset, ProducerEpoch, ProducerId};
use streambus_proto::records::{BatchBuilder, Codec, NewRecord, set_producer};

use crate::partition::TopicPartition;
use crate::reaction::{Reaction, reaction};

/// How a producer collects and retries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerConfig {
    /// How batches are compressed.
    pub codec: Codec,
    /// Whether batches carry an identity and sequences, so that retries make no duplicates.
    pub idempotent: bool,
    /// A batch is closed before it passes this, uncompressed. A larger record goes alone.
    pub batch_bytes_max: usize,
    /// Records larger than this are refused: a broker's `message.max.bytes` would refuse them.
    pub record_bytes_max: usize,
    /// How long a batch waits for more records.
    pub linger_ms: u64,
    /// Bytes kept at most, sent or not; beyond them `append` refuses.
    pub buffered_bytes_max: usize,
    /// Batches of a partition in flight at most. A broker remembers five of an identity.
    pub in_flight_max: usize,
    /// The pause before a retry.
    pub retry_pause_ms: u64,
    /// How long after its first record a batch is given up.
    pub delivery_timeout_ms: u64,
}

impl Default for ProducerConfig {
    fn default() -> Self {
        ProducerConfig {
            codec: Codec::None,
            idempotent: true,
            batch_bytes_max: 128 << 10,
            record_bytes_max: 1 << 20,
            linger_ms: 5,
            buffered_bytes_max: 32 << 20,
            in_flight_max: 5,
            retry_pause_ms: 100,
            delivery_timeout_ms: 120_000,
        }
    }
}

/// A batch, for as long as this producer knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchId(u64);

/// Where a record went: its batch, and its place there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    /// The batch, which one [`Delivery`] will name.
    pub batch: BatchId,
    /// The record's offset is the batch's base offset plus this.
    pub offset_delta: i32,
}

/// Why a record was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The buffer is full: send, wait for answers, try again.
    #[error("the producer's buffer is full")]
    Full,
    /// The record is larger than any broker takes by default.
    #[error("record of {0} bytes is too large")]
    TooLarge(usize),
}

/// A batch to be sent now.
#[derive(Debug, Clone)]
pub struct ToSend {
    /// To name in [`Producer::finished`].
    pub batch: BatchId,
    /// The leader to send it to.
    pub broker: BrokerId,
    /// The partition it is for.
    pub partition: TopicPartition,
    /// The batch's bytes.
    pub bytes: Arc<[u8]>,
}

/// What came of a batch that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchResult {
    /// The broker has it, from this offset on (`None` if the broker was not asked to answer).
    Stored(Option<Offset>),
    /// The broker said no.
    Refused(ErrorCode),
    /// No answer came: it may be stored or not.
    Lost,
}

/// Why a batch was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DeliveryError {
    /// The broker refused it for good: it is not stored.
    #[error("refused: {0:?}")]
    Refused(ErrorCode),
    /// Time ran out before it was sent: it is not stored.
    #[error("not sent in time")]
    Expired,
    /// No answer came, and it cannot be asked for again: it may be stored.
    #[error("no answer came: it may be stored or not")]
    Unknown,
}

/// The end of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The batch.
    pub batch: BatchId,
    /// Where it was going.
    pub partition: TopicPartition,
    /// Records in it.
    pub record_count: i32,
    /// Offset of its first record (`None` if the broker did not say), or why there is none.
    pub result: Result<Option<Offset>, DeliveryError>,
}

#[derive(Debug)]
enum Content {
    /// Takes records. Only the last batch of a queue is open.
    Open(BatchBuilder),
    /// Full or due, not sent yet: its sequence comes with the first sending.
    Closed(BatchBuilder),
    Sealed(Arc<[u8]>),
}

#[derive(Debug)]
struct Batch {
    id: BatchId,
    content: Content,
    record_count: i32,
    buffered_bytes: usize,
    created_ms: u64,
    /// Whom it was sent to, while the answer is awaited.
    in_flight: Option<BrokerId>,
    sendings: u32,
    /// A sending ended without an answer.
    maybe_stored: bool,
}

#[derive(Debug, Default)]
struct Queue {
    /// In the order of their sequences.
    batches: VecDeque<Batch>,
    next_sequence: i32,
    paused_until_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Identity {
    /// Batches carry none.
    NotUsed,
    /// Wanted, once nothing is in flight any more.
    Wanted,
    Held(ProducerId, ProducerEpoch),
}

/// Collects records into batches and sees each batch through. Single-threaded; bounded by
/// `buffered_bytes_max`.
#[derive(Debug)]
pub struct Producer {
    config: ProducerConfig,
    identity: Identity,
    queues: BTreeMap<TopicPartition, Queue>,
    /// Where each batch is; as many as there are batches.
    partitions: BTreeMap<BatchId, TopicPartition>,
    next_batch: u64,
    buffered_bytes: usize,
    in_flight: usize,
}

impl Producer {
    /// A producer that holds nothing yet.
    pub fn new(config: ProducerConfig) -> Self {
        Producer {
            config,
            identity: if config.idempotent {
                Identity::Wanted
            } else {
                Identity::NotUsed
            },
            queues: BTreeMap::new(),
            partitions: BTreeMap::new(),
            next_batch: 0,
            buffered_bytes: 0,
            in_flight: 0,
        }
    }

    /// Whether an identity must be asked for (`InitProducerId`) before anything is sent.
    pub fn needs_identity(&self) -> bool {
        self.identity == Identity::Wanted && self.in_flight == 0
    }

    /// Takes the identity that a broker gave. Sequences start again: batches sent under an earlier
    /// identity whose fate is unknown are given up, the others get new sequences.
    pub fn set_identity(&mut self, id: ProducerId, epoch: ProducerEpoch) -> Vec<Delivery> {
        assert_eq!(
            self.in_flight, 0,
            "an identity changes only while nothing is in flight"
        );
        self.identity = Identity::Held(id, epoch);
        let mut given_up = Vec::new();
        for (partition, queue) in &mut self.queues {
            queue.next_sequence = 0;
            for mut batch in std::mem::take(&mut queue.batches) {
                if batch.maybe_stored {
                    self.buffered_bytes -= batch.buffered_bytes;
                    self.partitions.remove(&batch.id);
                    given_up.push(batch.end(partition, Err(DeliveryError::Unknown)));
                    continue;
                }
                if let Content::Sealed(bytes) = &mut batch.content {
                    let mut again = bytes.to_vec();
                    set_producer(&mut again, id, epoch, queue.next_sequence);
                    *bytes = again.into();
                    queue.next_sequence = sequence_after(queue.next_sequence, batch.record_count);
                }
                queue.batches.push_back(batch);
            }
        }
        given_up
    }

    /// Takes a record.
    ///
    /// # Errors
    /// [`AppendError::Full`]: wait for deliveries. [`AppendError::TooLarge`]: never.
    pub fn append(
        &mut self,
        partition: &TopicPartition,
        record: &NewRecord<'_>,
        now_ms: u64,
    ) -> Result<Ticket, AppendError> {
        let alone = BatchBuilder::new(self.config.codec).len_with(record);
        if alone > self.config.record_bytes_max {
            return Err(AppendError::TooLarge(alone));
        }
        if self.buffered_bytes + alone > self.config.buffered_bytes_max {
            return Err(AppendError::Full);
        }
        if !self.queues.contains_key(partition) {
            self.queues.insert(partition.clone(), Queue::default());
        }
        let queue = self.queues.get_mut(partition).expect("inserted above");
        let bytes_max = self.config.batch_bytes_max;
        let room = queue.batches.back().is_some_and(|batch| {
            matches!(&batch.content, Content::Open(open) if open.len_with(record) <= bytes_max)
        });
        if !room {
            queue.close_last();
            let id = BatchId(self.next_batch);
            self.next_batch += 1;
            self.partitions.insert(id, partition.clone());
            queue
                .batches
                .push_back(Batch::new(id, self.config.codec, now_ms));
        }
        let batch = queue.batches.back_mut().expect("pushed above");
        let Content::Open(builder) = &mut batch.content else {
            unreachable!("the last batch is open: it had room or was just made")
        };
        let offset_delta = builder.record_count();
        builder.push(record);
        self.buffered_bytes += builder.len() - batch.buffered_bytes;
        batch.buffered_bytes = builder.len();
        batch.record_count = builder.record_count();
        Ok(Ticket {
            batch: batch.id,
            offset_delta,
        })
    }

    /// Hands out what is to be sent now: full batches, those that waited `linger_ms`, retries
    /// after their pause; with `flush` all. Each is in flight until [`Producer::finished`].
    /// `leader` says who leads a partition; batches of a partition without one stay, and so do those of
    /// one with a new leader while the earlier one has not answered.
    pub fn take_ready(
        &mut self,
        mut leader: impl FnMut(&TopicPartition) -> Option<BrokerId>,
        flush: bool,
        now_ms: u64,
    ) -> Vec<ToSend> {
        let identity = match self.identity {
            Identity::Wanted => return Vec::new(),
            Identity::NotUsed => None,
            Identity::Held(id, epoch) => Some((id, epoch)),
        };
        let mut sends = Vec::new();
        for (partition, queue) in &mut self.queues {
            let due = queue.due(self.config, flush, now_ms);
            if due == 0 {
                continue;
            }
            let Some(broker) = leader(partition) else {
                continue;
            };
            // To another leader a batch would overtake those that are still under way to the one before.
            if queue.in_flight_to().is_some_and(|other| other != broker) {
                continue;
            }
            for _ in 0..due {
                let Some(batch) = queue
                    .batches
                    .iter_mut()
                    .find(|batch| batch.in_flight.is_none())
                else {
                    break;
                };
                let bytes = batch.seal(identity, &mut queue.next_sequence);
                batch.in_flight = Some(broker);
                batch.sendings += 1;
                self.in_flight += 1;
                sends.push(ToSend {
                    batch: batch.id,
                    broker,
                    partition: partition.clone(),
                    bytes,
                });
            }
        }
        sends
    }

    /// Takes the outcome of a sending. Returns the batch's end, if this is it; else the batch
    /// will be handed out again. The caller refreshes its metadata if the outcome asks for it:
    /// see [`crate::reaction::Reaction`].
    pub fn finished(&mut self, id: BatchId, outcome: BatchResult, now_ms: u64) -> Option<Delivery> {
        let partition = self.partitions.get(&id)?.clone();
        let queue = self.queues.get_mut(&partition)?;
        let place = queue.batches.iter().position(|batch| batch.id == id)?;
        let batch = queue.batches.get_mut(place)?;
        batch.in_flight.take()?;
        self.in_flight -= 1;
        let retry = match outcome {
            BatchResult::Stored(offset) => return self.end(&partition, place, Ok(offset)),
            BatchResult::Lost => {
                batch.maybe_stored = true;
                // Without an identity a retry can store it twice: that is what was asked for.
                true
            }
            BatchResult::Refused(ErrorCode::DuplicateSequenceNumber) => {
                return self.end(&partition, place, Ok(None));
            }
            // Out of order behind a batch that is to be retried, or behind the gap that one left
            // which was given up: this one follows.
            BatchResult::Refused(ErrorCode::OutOfOrderSequenceNumber) => {
                place > 0 || self.identity == Identity::Wanted
            }
            BatchResult::Refused(code) => {
                batch.maybe_stored |= may_be_stored(code);
                match reaction(code) {
                    Reaction::Retry | Reaction::RefreshAndRetry => true,
                    Reaction::GiveUp => false,
                }
            }
        };
        if retry {
            queue.paused_until_ms = now_ms + self.config.retry_pause_ms;
            return None;
        }
        let BatchResult::Refused(code) = outcome else {
            return None;
        };
        let error = if batch.maybe_stored {
            // An earlier sending may have got through: this refusal is not of that one.
            DeliveryError::Unknown
        } else {
            DeliveryError::Refused(code)
        };
        self.lose_identity();
        self.end(&partition, place, Err(error))
    }

    /// Gives up what has waited longer than `delivery_timeout_ms` and is not in flight.
    pub fn expire(&mut self, now_ms: u64) -> Vec<Delivery> {
        self.give_up_older(self.config.delivery_timeout_ms, now_ms)
    }

    /// Gives up what is not in flight and as old as `timeout`.
    fn give_up_older(&mut self, timeout: u64, now_ms: u64) -> Vec<Delivery> {
        let mut expired = Vec::new();
        for (partition, queue) in &self.queues {
            for batch in &queue.batches {
                if batch.in_flight.is_none() && now_ms.saturating_sub(batch.created_ms) >= timeout {
                    expired.push((partition.clone(), batch.id));
                }
            }
        }
        let mut deliveries = Vec::new();
        for (partition, id) in expired {
            let Some(queue) = self.queues.get(&partition) else {
                continue;
            };
            let Some(place) = queue.batches.iter().position(|batch| batch.id == id) else {
                continue;
            };
            let batch = queue.batches.get(place).expect("found above");
            let sealed = matches!(batch.content, Content::Sealed(_));
            let error = if batch.maybe_stored {
                DeliveryError::Unknown
            } else {
                DeliveryError::Expired
            };
            if sealed {
                self.lose_identity();
            }
            deliveries.extend(self.end(&partition, place, Err(error)));
        }
        deliveries
    }

    /// Gives up everything that is not in flight, however long it has waited.
    pub fn give_up(&mut self) -> Vec<Delivery> {
        self.give_up_older(0, u64::MAX)
    }

    /// When to call [`Producer::take_ready`] or [`Producer::expire`] next if no answer comes
    /// before; `None` if nothing waits.
    pub fn wake_at_ms(&self) -> Option<u64> {
        let waiting = self.queues.values().filter_map(|queue| {
            let batch = queue
                .batches
                .iter()
                .find(|batch| batch.in_flight.is_none())?;
            let due = match batch.content {
                Content::Open(_) => batch.created_ms + self.config.linger_ms,
                Content::Closed(_) | Content::Sealed(_) => 0,
            };
            let expiry = batch.created_ms + self.config.delivery_timeout_ms;
            Some(due.max(queue.paused_until_ms).min(expiry))
        });
        waiting.min()
    }

    /// Bytes held, sent or not.
    pub fn buffered_bytes(&self) -> usize {
        self.buffered_bytes
    }

    /// Batches whose answer is awaited.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Whether all that was appended was delivered or given up.
    pub fn is_idle(&self) -> bool {
        self.partitions.is_empty()
    }

    /// The partitions that hold something, for whoever keeps the metadata fresh.
    pub fn waiting_partitions(&self) -> impl Iterator<Item = &TopicPartition> {
        self.queues
            .iter()
            .filter(|(_, queue)| !queue.batches.is_empty())
            .map(|(name, _)| name)
    }

    fn lose_identity(&mut self) {
        if self.identity != Identity::NotUsed {
            self.identity = Identity::Wanted;
        }
    }

    fn end(
        &mut self,
        partition: &TopicPartition,
        place: usize,
        result: Result<Option<Offset>, DeliveryError>,
    ) -> Option<Delivery> {
        let batch = self.queues.get_mut(partition)?.batches.remove(place)?;
        self.buffered_bytes -= batch.buffered_bytes;
        self.partitions.remove(&batch.id);
        Some(batch.end(partition, result))
    }
}

impl Queue {
    fn close_last(&mut self) {
        if let Some(last) = self.batches.back_mut() {
            last.close();
        }
    }

    /// The broker that has yet to answer: one at a time.
    fn in_flight_to(&self) -> Option<BrokerId> {
        self.batches.iter().find_map(|batch| batch.in_flight)
    }

    /// How many of the batches that are not in flight may go now.
    fn due(&mut self, config: ProducerConfig, flush: bool, now_ms: u64) -> usize {
        if now_ms < self.paused_until_ms {
            return 0;
        }
        if let Some(last) = self.batches.back_mut()
            && (flush || now_ms.saturating_sub(last.created_ms) >= config.linger_ms)
        {
            last.close();
        }
        let in_flight = self
            .batches
            .iter()
            .filter(|batch| batch.in_flight.is_some())
            .count();
        // A batch that failed once goes alone, so that none passes it.
        let retrying = self
            .batches
            .iter()
            .any(|batch| batch.sendings > u32::from(batch.in_flight.is_some()));
        if retrying {
            return usize::from(in_flight == 0);
        }
        let ready = self.batches.iter().filter(|batch| batch.is_ready()).count();
        ready.min(config.in_flight_max.saturating_sub(in_flight))
    }
}

impl Batch {
    fn new(id: BatchId, codec: Codec, now_ms: u64) -> Self {
        Batch {
            id,
            content: Content::Open(BatchBuilder::new(codec)),
            record_count: 0,
            buffered_bytes: 0,
            created_ms: now_ms,
            in_flight: None,
            sendings: 0,
            maybe_stored: false,
        }
    }

    fn is_ready(&self) -> bool {
        self.in_flight.is_none() && !matches!(self.content, Content::Open(_))
    }

    fn close(&mut self) {
        if let Content::Open(builder) = &mut self.content {
            let builder = std::mem::replace(builder, BatchBuilder::new(Codec::None));
            self.content = Content::Closed(builder);
        }
    }

    /// Writes the batch the first time, under the next sequence; later the same bytes again.
    fn seal(
        &mut self,
        identity: Option<(ProducerId, ProducerEpoch)>,
        next_sequence: &mut i32,
    ) -> Arc<[u8]> {
        let bytes: Arc<[u8]> = match &mut self.content {
            Content::Sealed(bytes) => return Arc::clone(bytes),
            Content::Open(builder) | Content::Closed(builder) => {
                if let Some((id, epoch)) = identity {
                    builder.set_producer(id, epoch, *next_sequence);
                    *next_sequence = sequence_after(*next_sequence, self.record_count);
                }
                builder.build().into()
            }
        };
        self.content = Content::Sealed(Arc::clone(&bytes));
        bytes
    }

    fn end(
        self,
        partition: &TopicPartition,
        result: Result<Option<Offset>, DeliveryError>,
    ) -> Delivery {
        Delivery {
            batch: self.id,
            partition: partition.clone(),
            record_count: self.record_count,
            result,
        }
    }
}

/// Whether a broker that answers so may have appended the batch all the same: it stopped waiting for
/// followers or for its disk, or the topic was deleted meanwhile.
fn may_be_stored(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::RequestTimedOut
            | ErrorCode::NotEnoughReplicasAfterAppend
            | ErrorCode::KafkaStorageError
            | ErrorCode::UnknownTopicOrPartition
    )
}

/// Sequences go from `i32::MAX` to 0.
fn sequence_after(sequence: i32, record_count: i32) -> i32 {
    sequence.wrapping_add(record_count) & i32::MAX
}

#[cfg(test)]
mod tests;
