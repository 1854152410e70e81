//! Appending: from a produced batch to a committed one.
//!
//! Two steps. [`Shard::begin_append`] judges the batch and hands it to the lane at once, or puts it into
//! the lane's line while that is full, so that the batches of a connection keep their order;
//! [`Shard::committed`] waits for the sync that covers them, which many requests share.

use std::rc::Rc;

use streambus_proto::error_code::ErrorCode;
use streambus_proto::ids::Offset;
use streambus_proto::records::{self, BatchView, DecompressLimits, RecordsError};
use streambus_shards::{Buf, Task, planted, spawn, wall_ms};
use streambus_storage::{AppendError, Lane, PartitionKey};

use super::op::{AppendItem, AppendOutcome, AppendRefusal, Appended};
use super::{Led, Shard};
use crate::config::TimestampType;
use crate::error;
use crate::metadata::topic_config::TopicSettings;
use crate::partition::producers::Sequenced;
use crate::partition::refusals::TopicRef;
use crate::partition::{Admission, BatchFacts};

/// A batch on its way.
#[derive(Debug)]
pub enum Pending {
    /// Refused, or committed already.
    Settled(AppendOutcome),
    /// In the log; the answer holds once the high watermark has reached `end`.
    Committing {
        /// The partition.
        key: PartitionKey,
        /// The offset after the batch.
        end: Offset,
        /// The answer to give then.
        appended: Appended,
    },
}

/// A batch that was handed in.
#[derive(Debug)]
pub enum Begun {
    /// It is in the log, or refused.
    Done(Pending),
    /// The lane is full: it will be in the log in its turn.
    InLine(Task<Pending>),
}

impl Pending {
    fn refused(code: ErrorCode, message: String) -> Pending {
        Pending::Settled(Err(AppendRefusal::new(code, message)))
    }
}

impl Shard {
    /// Judges one batch and puts it into the lane's log, in the order of the calls: while the lane is full it
    /// waits in line, and no batch overtakes an earlier one. While the disk has no space, those in line
    /// are refused in their turn.
    pub fn begin_append(self: &Rc<Self>, item: &AppendItem) -> Begun {
        let (facts, lane) = match self.judge(item) {
            Ok(judged) => judged,
            Err(refusal) => return Begun::Done(Pending::Settled(Err(refusal))),
        };
        if (lane.line().is_empty() || planted::on("overtake-the-line"))
            && let Ok(pending) = self.try_append(item, &facts)
        {
            return Begun::Done(pending);
        }
        let place = lane.line().join();
        let (shard, item) = (Rc::clone(self), item.clone());
        Begun::InLine(spawn(async move {
            if !planted::on("overtake-the-line") {
                place.first().await;
            }
            loop {
                match shard.try_append(&item, &facts) {
                    Ok(pending) => return pending,
                    Err(lane) => lane.writable().await,
                }
            }
        }))
    }

    /// Begins appends in their order and waits until all are in their logs or refused.
    pub async fn append_here(self: &Rc<Self>, items: &[AppendItem]) -> Vec<Pending> {
        // All stand in line before any of them waits: one lane that is full holds no other up, and what comes
        // next for that one does not overtake what is here.
        let begun: Vec<Begun> = items.iter().map(|item| self.begin_append(item)).collect();
        let mut pending = Vec::with_capacity(begun.len());
        for one in begun {
            pending.push(match one {
                Begun::Done(pending) => pending,
                Begun::InLine(task) => task.await,
            });
        }
        pending
    }

    /// Checks the batch by itself and against the topic's settings, and says which lane it goes to. Once: it
    /// reads all of its bytes.
    fn judge(&self, item: &AppendItem) -> Result<(BatchFacts, Rc<Lane>), AppendRefusal> {
        let partitions = self.partitions.borrow();
        let Some(led) = partitions.get(&item.key) else {
            return Err(self.not_led(item));
        };
        if item.acks_all && led.settings.min_insync_replicas > 1 {
            // One node is the whole in-sync set.
            return Err(ErrorCode::NotEnoughReplicas.into());
        }
        let facts = inspect(&item.records, &led.settings, wall_ms())?;
        Ok((facts, Rc::clone(&led.lane)))
    }

    /// One attempt; the lane comes back if it is full.
    fn try_append(&self, item: &AppendItem, facts: &BatchFacts) -> Result<Pending, Rc<Lane>> {
        let mut partitions = self.partitions.borrow_mut();
        let Some(led) = partitions.get_mut(&item.key) else {
            return Ok(Pending::Settled(Err(self.not_led(item))));
        };
        if let Some(refusal) = self.overtakes(led, item, facts) {
            return Ok(Pending::Settled(Err(refusal)));
        }
        let bytes_max = led.settings.max_message_bytes;
        let pending = match led.partition.admit(facts, bytes_max) {
            Admission::Append { base_offset } => {
                // Not before: the answer to a duplicate needs no space.
                if let Some(refusal) = self.space.get().refusal() {
                    led.partition.refused(facts, wall_ms());
                    return Ok(Pending::Settled(Err(refusal)));
                }
                return write(led, item, facts, base_offset, wall_ms());
            }
            Admission::Duplicate {
                base_offset,
                end_offset,
            } => Pending::Committing {
                key: item.key,
                end: end_offset,
                appended: Appended {
                    base_offset: if planted::on("retry-at-zero") {
                        Offset(0)
                    } else {
                        base_offset
                    },
                    log_append_time_ms: -1,
                    log_start: led.partition.log_start(),
                    record_count: 0,
                },
            },
            Admission::TooLarge => Pending::refused(
                ErrorCode::MessageTooLarge,
                format!(
                    "a batch of {} bytes is above max.message.bytes={bytes_max} of the topic; send smaller batches or raise it",
                    facts.size_bytes
                ),
            ),
            Admission::OutOfOrderSequence { expected } => Pending::refused(
                ErrorCode::OutOfOrderSequenceNumber,
                format!("the next sequence of this producer is {expected}"),
            ),
            Admission::FencedProducer => {
                Pending::refused(ErrorCode::InvalidProducerEpoch, String::new())
            }
            Admission::NoTransaction => Pending::refused(
                ErrorCode::InvalidTxnState,
                "the producer has no transaction open here; this broker has no transactions yet: produce without transactional.id".to_owned(),
            ),
        };
        Ok(pending)
    }

    /// What a batch is answered whose partition this core does not lead.
    fn not_led(&self, item: &AppendItem) -> AppendRefusal {
        let topic = TopicRef::Id(item.key.topic);
        self.remember_refused(topic, item.key.index, &item.records);
        ErrorCode::NotLeaderOrFollower.into()
    }

    /// What a batch is answered that came before an earlier one of its producer, which was refused before
    /// the partition was here. An error after which the client sends both again, in their order.
    fn overtakes(&self, led: &Led, item: &AppendItem, facts: &BatchFacts) -> Option<AppendRefusal> {
        let sequenced = facts.sequenced.as_ref()?;
        if led.partition.producers().knows(sequenced.producer_id) {
            return None;
        }
        let here = self.awaited(item.key, &item.records);
        let first = item.awaited.into_iter().chain(here).min()?;
        let message = format!(
            "sequence {first} of this producer was refused before the partition was here and has to come before {}; send both again",
            sequenced.base_sequence
        );
        Some(AppendRefusal::new(ErrorCode::NotLeaderOrFollower, message))
    }

    /// Waits until each of the batches is committed, or can't be any more.
    pub async fn committed(&self, pending: Vec<Pending>) -> Vec<AppendOutcome> {
        let mut outcomes = Vec::with_capacity(pending.len());
        for one in pending {
            outcomes.push(match one {
                Pending::Settled(outcome) => outcome,
                Pending::Committing { key, end, appended } => {
                    self.reached(key, end).await.map(|()| appended)
                }
            });
        }
        outcomes
    }

    /// Waits for a partition's high watermark to reach `end`, unless that may take as long as the disk is full.
    async fn reached(&self, key: PartitionKey, end: Offset) -> Result<(), AppendRefusal> {
        loop {
            let committed = match self.partitions.borrow().get(&key) {
                Some(led) if led.partition.high_watermark() >= end => return Ok(()),
                Some(_) if self.has_failed() => return Err(ErrorCode::KafkaStorageError.into()),
                // Both may be committed later: a client must take that for unknown.
                Some(led) if led.lane.is_starved() => return Err(starved()),
                Some(led) => led.commits.wait(end),
                // Deleted meanwhile.
                None => return Err(ErrorCode::UnknownTopicOrPartition.into()),
            };
            committed.await;
        }
    }
}

/// What a batch is told that is in the log, in memory, while the disk has no space to write it to.
fn starved() -> AppendRefusal {
    let message = "the disk has no space for the log file that this batch is to be written to; it may be committed when there is: make room, and send it again";
    AppendRefusal::new(ErrorCode::KafkaStorageError, message.to_owned())
}

/// Stamps what the topic asks for and appends.
fn write(
    led: &mut Led,
    item: &AppendItem,
    facts: &BatchFacts,
    base_offset: Offset,
    now_ms: i64,
) -> Result<Pending, Rc<Lane>> {
    let stamps_time = led.settings.message_timestamp_type == TimestampType::LogAppendTime;
    let restamped;
    let records: &[u8] = if stamps_time {
        let mut copy = item.records.to_vec();
        records::set_log_append_time(&mut copy, now_ms);
        restamped = copy;
        &restamped
    } else {
        &item.records
    };
    let leader_epoch = led.partition.leader_epoch();
    match led
        .lane
        .append(item.key, base_offset, leader_epoch, records)
    {
        Ok(_) => {}
        Err(AppendError::Full) => return Err(Rc::clone(&led.lane)),
        Err(other) => {
            led.partition.refused(facts, now_ms);
            return Ok(Pending::refused(
                error::of_append(&other),
                other.to_string(),
            ));
        }
    }
    led.partition.appended(facts, base_offset, now_ms);
    if planted::on("show-before-durable") {
        led.partition.durable(led.partition.log_end());
    }
    Ok(Pending::Committing {
        key: item.key,
        end: led.partition.log_end(),
        appended: Appended {
            base_offset,
            log_append_time_ms: if stamps_time { now_ms } else { -1 },
            log_start: led.partition.log_start(),
            record_count: facts.record_count.unsigned_abs(),
        },
    })
}

/// Checks everything about a batch that needs no state of the partition.
fn inspect(
    bytes: &Buf,
    settings: &TopicSettings,
    now_ms: i64,
) -> Result<BatchFacts, AppendRefusal> {
    let batch = BatchView::produced(bytes).map_err(|error| broken(&error))?;
    if settings.message_timestamp_type == TimestampType::CreateTime {
        check_timestamp(&batch, settings, now_ms)?;
    }
    // A batch that is too large is refused as that, and not unfolded first.
    if settings.compacts() && bytes.len() <= settings.max_message_bytes {
        check_keys(&batch)?;
    }
    let record_count = batch.record_count();
    let sequenced = batch.producer_id().map(|producer_id| Sequenced {
        producer_id,
        producer_epoch: batch.producer_epoch(),
        base_sequence: batch.base_sequence(),
        record_count,
        max_timestamp_ms: batch.max_timestamp(),
    });
    Ok(BatchFacts {
        size_bytes: bytes.len(),
        record_count,
        sequenced,
        transactional: batch.attributes().is_transactional(),
    })
}

fn broken(error: &RecordsError) -> AppendRefusal {
    AppendRefusal::new(error::of_batch(error), error.to_string())
}

/// What a record without a key is told, in Kafka's words.
const KEYLESS: &str = "Compacted topic cannot accept message without key.";

/// Every record of a compacted topic needs a key. This is the one look inside a batch on its way in:
/// it unfolds a compressed one, within the default limits, and forgets what it unfolded.
fn check_keys(batch: &BatchView<'_>) -> Result<(), AppendRefusal> {
    let keyless = batch
        .check_records(DecompressLimits::default(), &mut Vec::new())
        .map_err(|error| broken(&error))?;
    if keyless.count == 0 {
        return Ok(());
    }
    Err(AppendRefusal {
        code: ErrorCode::InvalidRecord,
        message: format!(
            "{} of the batch's {} records have no key, which cleanup.policy=compact of the topic needs; none was appended",
            keyless.count,
            batch.record_count()
        ),
        records: keyless
            .first
            .iter()
            .map(|index| (*index, KEYLESS))
            .collect(),
    })
}

/// `message.timestamp.before.max.ms` and `message.timestamp.after.max.ms` (KIP-937).
fn check_timestamp(
    batch: &BatchView<'_>,
    settings: &TopicSettings,
    now_ms: i64,
) -> Result<(), AppendRefusal> {
    let newest = batch.max_timestamp();
    let oldest = batch.base_timestamp();
    let after_max = settings.message_timestamp_after_max_ms;
    let before_max = settings.message_timestamp_before_max_ms;
    if newest.saturating_sub(now_ms) > after_max {
        return Err(AppendRefusal::new(
            ErrorCode::InvalidTimestamp,
            format!(
                "timestamp {newest} is more than message.timestamp.after.max.ms={after_max} after the broker's {now_ms}"
            ),
        ));
    }
    if oldest >= 0 && now_ms.saturating_sub(oldest) > before_max {
        return Err(AppendRefusal::new(
            ErrorCode::InvalidTimestamp,
            format!(
                "timestamp {oldest} is more than message.timestamp.before.max.ms={before_max} before the broker's {now_ms}"
            ),
        ));
    }
    Ok(())
}
