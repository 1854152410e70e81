//! Reading: batches below the high watermark, and waiting for more of them.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use streambus_proto::error_code::ErrorCode;
use streambus_proto::ids::{LeaderEpoch, Offset};
use streambus_shards::sync::either;
use streambus_shards::{Buf, CoreId, planted, spawn, timeout};
use streambus_storage::{PartitionKey, ReadPlan, StorageError};

use super::op::{EpochItem, FoundOffset, OffsetItem, Op, ReadEnd, ReadItem, ReadOutcome, WaitItem};
use super::waiters::Waiter;
use super::{Led, Shard};
use crate::error;

/// `ListOffsets`: the high watermark, or the last stable offset for `read_committed`.
const LATEST: i64 = -1;
/// `ListOffsets`: the log start.
const EARLIEST: i64 = -2;
/// `ListOffsets`: the record with the largest timestamp (KIP-734).
const MAX_TIMESTAMP: i64 = -3;
/// `ListOffsets`: the first offset on local disk (KIP-405).
const EARLIEST_LOCAL: i64 = -4;
/// `ListOffsets`: the last offset in tiered storage (KIP-1005); there is none.
const LATEST_TIERED: i64 = -5;
/// `ListOffsets`: the first offset that tiered storage does not have yet (KIP-1023); there is none.
const EARLIEST_PENDING_UPLOAD: i64 = -6;

/// A fetch that waits on partitions. It leaves them when it is dropped, too: its client may be gone before a record
/// comes.
struct Waiting {
    shard: Rc<Shard>,
    items: Vec<WaitItem>,
    waiter: Waiter,
}

impl Waiting {
    /// Resolves when the partitions have enough, at the latest after `limit`, and says whether they have.
    async fn woken_within(&self, limit: Duration) -> bool {
        timeout(limit, self.waiter.woken()).await.is_ok()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let partitions = self.shard.partitions.borrow();
        for led in self
            .items
            .iter()
            .filter_map(|item| partitions.get(&item.key))
        {
            led.waiters.leave(&self.waiter);
        }
    }
}

impl Shard {
    /// Reads one partition up to where the reader may see.
    pub async fn read(&self, item: &ReadItem) -> ReadOutcome {
        let (lane, from, until, mut outcome) = {
            let partitions = self.partitions.borrow();
            let led = match leading(&partitions, item.key, item.current_leader_epoch) {
                Ok(led) => led,
                Err(code) => return ReadOutcome::failed(code),
            };
            let outcome = ReadOutcome {
                error: ErrorCode::None,
                high_watermark: led.partition.high_watermark().0,
                last_stable_offset: led.partition.last_stable_offset().0,
                log_start: led.partition.log_start().0,
                records: Vec::new(),
                end: ReadEnd::NoMore,
                next_offset: -1,
            };
            let from = Offset(item.from);
            match led.partition.readable_until(from, item.isolation) {
                Ok(until) => (std::rc::Rc::clone(&led.lane), from, until, outcome),
                Err(_) => {
                    return ReadOutcome {
                        error: ErrorCode::OffsetOutOfRange,
                        ..outcome
                    };
                }
            }
        };
        if from == until {
            return outcome;
        }
        if item.bytes_max == 0 && !item.whole_first {
            outcome.end = ReadEnd::PartitionLimit;
            return outcome;
        }
        let from = if planted::on("read-from-the-next") && from.next() < until {
            from.next()
        } else {
            from
        };
        let read = match lane.read(item.key, from, item.bytes_max, until) {
            Ok(ReadPlan::Ready(batches)) => Ok(batches),
            Ok(ReadPlan::Cold(cold)) => cold.read().await,
            Err(failed) => Err(failed),
        };
        match read {
            Ok(batches) if item.whole_first || batches.bytes <= item.bytes_max => {
                if batches.next_offset < until {
                    outcome.end = ReadEnd::PartitionLimit;
                }
                outcome.next_offset = batches.next_offset.0;
                outcome.records = joined(batches.bufs);
            }
            Ok(_) => outcome.end = ReadEnd::PartitionLimit,
            Err(failed) => {
                tracing::warn!(partition = %item.key, offset = item.from, error = %failed, "a read failed");
                outcome.error = error::of_storage(&failed);
            }
        }
        outcome
    }

    /// Waits until the partitions have `missing` bytes more than the asker has seen, at most `wait`.
    pub async fn await_records(
        self: &Rc<Self>,
        items: Vec<WaitItem>,
        missing: usize,
        wait: Duration,
    ) {
        if let Some(waiting) = self.park(items, missing) {
            // Elapsed or woken: the asker reads again either way.
            waiting.woken_within(wait).await;
        }
    }

    /// Calls another core when the partitions have `missing` bytes more than it has seen, within `wait` and unless it
    /// unparks before. `false` if they have already.
    pub(super) fn wake_later(
        self: &Rc<Self>,
        items: Vec<WaitItem>,
        missing: usize,
        (asker, number): (CoreId, u64),
        wait: Duration,
    ) -> bool {
        let Some(waiting) = self.park(items, missing) else {
            return false;
        };
        let guest = self.guests.admit(asker, number);
        spawn(async move {
            let woken = Cell::new(false);
            let wake = async { woken.set(waiting.woken_within(wait).await) };
            either(wake, guest.cancelled()).await;
            drop(guest);
            if woken.get() {
                let shard = Rc::clone(&waiting.shard);
                drop(waiting);
                let from = shard.core();
                shard.call(asker, Op::Wake { from, number }).await;
            }
        })
        .detach();
        true
    }

    /// Parks on all the partitions; `None` if they have enough already or one is gone.
    fn park(self: &Rc<Self>, items: Vec<WaitItem>, missing: usize) -> Option<Waiting> {
        let waiting = Waiting {
            shard: Rc::clone(self),
            items,
            waiter: self.new_waiter(missing),
        };
        for item in &waiting.items {
            let partitions = self.partitions.borrow();
            let led = partitions.get(&item.key)?;
            let high_watermark = led.partition.high_watermark();
            let mut bytes_left = item.bytes_max;
            if high_watermark > item.high_watermark {
                // It has moved since the asker read it.
                let lane = &led.lane;
                let bytes = lane.bytes_between(item.key, item.high_watermark, high_watermark);
                // What is in memory no more is some bytes at least.
                let bytes = bytes.max(1).min(bytes_left);
                if waiting.waiter.count(bytes) {
                    return None;
                }
                bytes_left -= bytes;
            }
            led.waiters.park(&waiting.waiter, bytes_left);
        }
        Some(waiting)
    }

    /// Answers one question of `ListOffsets`.
    ///
    /// # Errors
    /// The code to answer with.
    pub async fn find_offset(&self, item: &OffsetItem) -> Result<FoundOffset, ErrorCode> {
        let (lane, log_start, until, epoch) = {
            let partitions = self.partitions.borrow();
            let led = leading(&partitions, item.key, item.current_leader_epoch)?;
            let log_start = led.partition.log_start();
            let until = led
                .partition
                .readable_until(log_start, item.isolation)
                .map_err(|_| ErrorCode::OffsetNotAvailable)?;
            (
                std::rc::Rc::clone(&led.lane),
                log_start,
                until,
                led.partition.leader_epoch(),
            )
        };
        let at = |offset: Offset| FoundOffset {
            offset: offset.0,
            timestamp: -1,
            leader_epoch: epoch.0,
        };
        let none = FoundOffset {
            offset: -1,
            timestamp: -1,
            leader_epoch: -1,
        };
        let hit = match item.timestamp {
            LATEST => return Ok(at(until)),
            EARLIEST | EARLIEST_LOCAL => return Ok(at(log_start)),
            LATEST_TIERED | EARLIEST_PENDING_UPLOAD => return Ok(none),
            // What is not committed yet is not there.
            MAX_TIMESTAMP => lane.offset_of_max_timestamp(item.key, until).await,
            time if time >= 0 => lane.offset_for_timestamp(item.key, time, until).await,
            // A later version of the protocol may know what it means.
            _ => return Err(ErrorCode::UnsupportedVersion),
        };
        match hit {
            Ok(Some(found)) => Ok(FoundOffset {
                offset: found.offset.0,
                timestamp: found.timestamp,
                leader_epoch: found.leader_epoch.0,
            }),
            // Never written to: the lane does not know it yet.
            Ok(None) | Err(StorageError::UnknownPartition(_)) => Ok(none),
            Err(failed) => Err(error::of_storage(&failed)),
        }
    }

    /// Answers one question of `OffsetForLeaderEpoch`: the largest epoch at or below the asked one,
    /// and the offset where it ends; -1 and -1 where the log has none, and for an epoch to come.
    ///
    /// # Errors
    /// The code to answer with.
    pub fn epoch_end(&self, item: &EpochItem) -> Result<(LeaderEpoch, Offset), ErrorCode> {
        let partitions = self.partitions.borrow();
        let led = leading(&partitions, item.key, item.current_leader_epoch)?;
        let asked = LeaderEpoch(item.leader_epoch);
        if asked == led.partition.leader_epoch() {
            return Ok((asked, led.partition.high_watermark()));
        }
        let undefined = (LeaderEpoch(-1), Offset(-1));
        if asked > led.partition.leader_epoch() {
            return Ok(undefined);
        }
        Ok(led.lane.epoch_end(item.key, asked).unwrap_or(undefined))
    }

    /// Moves a log start forward for `DeleteRecords`; -1 means the high watermark. Nobody is told of it
    /// before it is durable: what a client was told stays, also after a power failure.
    ///
    /// # Errors
    /// The code to answer with.
    pub async fn delete_records(&self, key: PartitionKey, to: i64) -> Result<Offset, ErrorCode> {
        let (lane, to) = {
            let partitions = self.partitions.borrow();
            let led = partitions.get(&key).ok_or(ErrorCode::NotLeaderOrFollower)?;
            let high_watermark = led.partition.high_watermark();
            let to = if to == -1 { high_watermark } else { Offset(to) };
            if to.0 < 0 || to > high_watermark {
                return Err(ErrorCode::OffsetOutOfRange);
            }
            let log_start = led.partition.log_start();
            if to <= log_start {
                return Ok(log_start);
            }
            (std::rc::Rc::clone(&led.lane), to)
        };
        lane.set_log_start(key, to)
            .await
            .map_err(|failed| error::of_storage(&failed))?;
        let mut partitions = self.partitions.borrow_mut();
        let led = partitions
            .get_mut(&key)
            .ok_or(ErrorCode::NotLeaderOrFollower)?;
        led.partition
            .advance_log_start(to)
            .map_err(|_| ErrorCode::OffsetOutOfRange)?;
        Ok(led.partition.log_start())
    }
}

/// The partition, if this core leads it and the client does not believe in another leader epoch
/// (KIP-320).
fn leading(
    partitions: &rustc_hash::FxHashMap<PartitionKey, Led>,
    key: PartitionKey,
    current_leader_epoch: i32,
) -> Result<&Led, ErrorCode> {
    let led = partitions.get(&key).ok_or(ErrorCode::NotLeaderOrFollower)?;
    let epoch = led.partition.leader_epoch().0;
    if current_leader_epoch >= 0 && current_leader_epoch < epoch {
        return Err(ErrorCode::FencedLeaderEpoch);
    }
    if current_leader_epoch > epoch {
        return Err(ErrorCode::UnknownLeaderEpoch);
    }
    Ok(led)
}

/// Slices that lie side by side in memory as one: fewer for the kernel to walk.
fn joined(slices: Vec<Buf>) -> Vec<Buf> {
    let mut out: Vec<Buf> = Vec::with_capacity(slices.len());
    for slice in slices {
        match out.last_mut() {
            Some(last) if last.joins(&slice) => *last = last.join(&slice),
            _ => out.push(slice),
        }
    }
    out
}
