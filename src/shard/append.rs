//! Appending: from a produced batch to a committed one.
//!
//! Two steps. [`Shard::append_here`] judges each batch and hands it to its lane at once. One whose records have to be
//! gone over first waits in a line of its partition, and one that finds its lane full in the line of that, so
//! that the batches of a connection keep their order. [`Shard::committed`] waits for the sync that covers
//! them, which many requests share.

use std::rc::Rc;

use streambus_proto::error_code::ErrorCode;
use streambus_proto::ids::Offset;
use streambus_proto::records;
use streambus_shards::sync::{Line, Place};
use streambus_shards::{Task, planted, spawn, wall_ms};
use streambus_storage::{AppendError, Lane, PartitionKey};

use super::inspect::{Inspected, SoundBatch, inspect, too_large};
use super::op::{AppendItem, AppendOutcome, AppendRefusal, Appended};
use super::{Led, Shard};
use crate::config::TimestampType;
use crate::error;
use crate::partition::refusals::TopicRef;
use crate::partition::{Admission, BatchFacts};

/// Batches of a request that are decompressed where they come in, if they are small: half a millisecond. More of
/// them take their turns.
const SCANS_AT_ONCE_MAX: usize = 5;

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
enum Begun {
    /// It is in the log, or refused.
    Done(Pending),
    /// It will be in the log in its turn: its lane is full, or its records are gone over, or those of one before it.
    InLine(Task<Pending>),
}

/// A batch that nothing speaks against so far, where it goes, and the line of its partition.
struct Judged {
    inspected: Inspected,
    lane: Rc<Lane>,
    line: Rc<Line>,
}

impl Pending {
    fn refused(code: ErrorCode, message: String) -> Pending {
        Pending::Settled(Err(AppendRefusal::new(code, message)))
    }
}

impl Shard {
    /// Judges one batch and puts it into the lane's log, in the order of the calls for its partition. While the
    /// lane is full it waits in the lane's line, and no batch overtakes an earlier one. While its records have to
    /// be gone over, which takes long, it waits in a line of its partition, and so do later ones of that. While the
    /// disk has no space, those in line are refused in their turn.
    fn begin_append(self: &Rc<Self>, item: &AppendItem, scans_left: &mut usize) -> Begun {
        let Judged {
            inspected,
            lane,
            line,
        } = match self.judge(item, scans_left) {
            Ok(judged) => judged,
            Err(refusal) => return Begun::Done(Pending::Settled(Err(refusal))),
        };
        let shard = Rc::clone(self);
        match inspected {
            Inspected::Sound(batch) if line.is_empty() || planted::on("overtake-the-line") => {
                if (lane.line().is_empty() || planted::on("overtake-the-line"))
                    && let Ok(pending) = self.try_append(item, &batch)
                {
                    return Begun::Done(pending);
                }
                let (place, item) = (lane.line().join(), item.clone());
                Begun::InLine(spawn(async move {
                    shard.append_from_line(&item, &batch, place).await
                }))
            }
            inspected => {
                let (place, item) = (line.join(), item.clone());
                Begun::InLine(spawn(async move {
                    place.first().await;
                    shard.append_after_look(&item, inspected, &lane).await
                }))
            }
        }
    }

    /// Begins appends in their order and waits until all are in their logs or refused.
    pub async fn append_here(self: &Rc<Self>, items: &[AppendItem]) -> Vec<Pending> {
        // All stand in line before any of them waits: one that has to wait holds no other partition up, and what comes
        // next for its own does not overtake what is here.
        let mut scans_left = SCANS_AT_ONCE_MAX;
        let begun: Vec<Begun> = items
            .iter()
            .map(|item| self.begin_append(item, &mut scans_left))
            .collect();
        let mut pending = Vec::with_capacity(begun.len());
        for one in begun {
            pending.push(match one {
                Begun::Done(pending) => pending,
                Begun::InLine(task) => task.await,
            });
        }
        pending
    }

    /// Checks the batch by itself and against the topic's settings, and says where it goes. Once: it reads all of
    /// its bytes.
    fn judge(&self, item: &AppendItem, scans_left: &mut usize) -> Result<Judged, AppendRefusal> {
        let partitions = self.partitions.borrow();
        let Some(led) = partitions.get(&item.key) else {
            return Err(self.not_led(item));
        };
        if item.acks_all && led.settings.min_insync_replicas > 1 {
            // One node is the whole in-sync set.
            return Err(ErrorCode::NotEnoughReplicas.into());
        }
        Ok(Judged {
            inspected: inspect(&item.records, &led.settings, wall_ms(), scans_left)?,
            lane: Rc::clone(&led.lane),
            line: Rc::clone(&led.line),
        })
    }

    /// The first in the line of its partition: goes over its records, if they have to be seen, and appends it.
    async fn append_after_look(
        &self,
        item: &AppendItem,
        inspected: Inspected,
        lane: &Rc<Lane>,
    ) -> Pending {
        let (batch, _turn) = match inspected {
            Inspected::Sound(batch) => (batch, None),
            Inspected::Unseen(inspection) => {
                // One at a time in a lane, until the batch is in the log: what was written again takes memory, too.
                let takes_memory = inspection.takes_memory();
                let turn = takes_memory.then(|| lane.decompressions().join());
                if let Some(turn) = &turn {
                    turn.first().await;
                }
                match inspection.in_steps().await {
                    Ok(batch) => (batch, turn),
                    Err(refusal) => return Pending::Settled(Err(refusal)),
                }
            }
        };
        if lane.line().is_empty()
            && let Ok(pending) = self.try_append(item, &batch)
        {
            return pending;
        }
        let place = lane.line().join();
        self.append_from_line(item, &batch, place).await
    }

    /// Appends it when those before it in the lane's line have gone and there is room.
    async fn append_from_line(
        &self,
        item: &AppendItem,
        batch: &SoundBatch,
        place: Place,
    ) -> Pending {
        if !planted::on("overtake-the-line") {
            place.first().await;
        }
        loop {
            match self.try_append(item, batch) {
                Ok(pending) => return pending,
                Err(lane) => lane.writable().await,
            }
        }
    }

    /// One attempt; the lane comes back if it is full.
    fn try_append(&self, item: &AppendItem, batch: &SoundBatch) -> Result<Pending, Rc<Lane>> {
        let facts = &batch.facts;
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
                if let Some(refusal) = self.space_refusal() {
                    led.partition.refused(facts, wall_ms());
                    return Ok(Pending::Settled(Err(refusal)));
                }
                return write(led, item.key, batch, base_offset, wall_ms());
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
            Admission::TooLarge => {
                Pending::Settled(Err(too_large(facts.size_bytes, bytes_max)))
            }
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

/// Stamps what the topic asks for, or what the header should have said, and appends.
fn write(
    led: &mut Led,
    key: PartitionKey,
    batch: &SoundBatch,
    base_offset: Offset,
    now_ms: i64,
) -> Result<Pending, Rc<Lane>> {
    let facts = &batch.facts;
    let stamps_time = led.settings.message_timestamp_type == TimestampType::LogAppendTime;
    let mut copy = Vec::new();
    let mut records: &[u8] = &batch.records;
    if stamps_time {
        copy.extend_from_slice(records);
        records::set_log_append_time(&mut copy, now_ms);
        records = &copy;
    } else if let Some(max_timestamp) = batch.max_timestamp {
        copy.extend_from_slice(records);
        records::set_max_timestamp(&mut copy, max_timestamp);
        records = &copy;
    }
    let leader_epoch = led.partition.leader_epoch();
    match led.lane.append(key, base_offset, leader_epoch, records) {
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
    let record_count = facts.record_count.unsigned_abs();
    led.figures
        .appended(records.len() as u64, record_count.into());
    if planted::on("show-before-durable") {
        led.partition.durable(led.partition.log_end());
    }
    Ok(Pending::Committing {
        key,
        end: led.partition.log_end(),
        appended: Appended {
            base_offset,
            log_append_time_ms: if stamps_time { now_ms } else { -1 },
            log_start: led.partition.log_start(),
            record_count,
        },
    })
}
