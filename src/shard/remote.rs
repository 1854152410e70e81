//! Operations for any partition of the node: done here if this core owns it, else one hop away.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use rustc_hash::FxHashMap;
use streambus_proto::error_code::ErrorCode;
use streambus_proto::ids::{LeaderEpoch, Offset};
use streambus_shards::sync::either;
use streambus_shards::{CoreId, Task, spawn, spawn_begun, yield_now};
use streambus_storage::PartitionKey;

use super::Shard;
use super::append::Pending;
use super::away::AwayWait;
use super::op::{
    AppendItem, AppendOutcome, AppendRefusal, EpochItem, FoundOffset, OffsetItem, Op,
    PartitionSize, ReadEnd, ReadItem, ReadOutcome, Reply, WaitItem,
};
use crate::metadata::{Command, Decision, Publish, Refusal, Submit};
use crate::partition::producers::ProducerView;

/// Items grouped by the core that owns them, each with its place among the others.
type ByCore<T> = BTreeMap<CoreId, Vec<(usize, T)>>;

/// What a client is answered for partitions of a core that has ended, because the node stops: look for the leader, and
/// try again.
const CORE_STOPPED: ErrorCode = ErrorCode::NotLeaderOrFollower;

/// A fetch that is parked on other cores. Once it is over they forget it, those that have not called back.
struct ParkedAway<'a> {
    shard: &'a Rc<Shard>,
    wait: AwayWait<'a>,
}

impl Drop for ParkedAway<'_> {
    fn drop(&mut self) {
        for core in self.wait.take_cores() {
            let shard = Rc::clone(self.shard);
            let (asker, number) = (shard.core(), self.wait.number());
            spawn(async move {
                shard.call(core, Op::Unpark { asker, number }).await;
            })
            .detach();
        }
    }
}

/// Reads of one request after which other tasks get their turn: about 100 µs.
const READS_PER_STEP: usize = 64;

/// Batches that were handed in, of this core and of others, each with its place in the request.
pub struct Appending {
    shard: Rc<Shard>,
    count: usize,
    here: Option<(Vec<usize>, Vec<Pending>)>,
    elsewhere: Vec<(Vec<usize>, Task<Reply>)>,
}

impl Appending {
    /// Whether some go to other cores. They may not have left yet, and don't once this is dropped.
    pub fn leaves_core(&self) -> bool {
        !self.elsewhere.is_empty()
    }

    /// Those of this core that were refused at once, by their places in the request.
    pub fn refused_here(&self) -> FxHashMap<usize, &AppendRefusal> {
        let here = self.here.iter();
        let batches = here.flat_map(|(places, pending)| places.iter().zip(pending));
        let refused = batches.filter_map(|(place, pending)| match pending {
            Pending::Settled(Err(refusal)) => Some((*place, refusal)),
            _ => None,
        });
        refused.collect()
    }

    /// Bytes that the refusals of this core hold until the answer is written.
    pub fn refusal_bytes(&self) -> usize {
        let pending = self.here.iter().flat_map(|(_, pending)| pending);
        let bytes = |one: &Pending| match one {
            Pending::Settled(Err(refusal)) => {
                let named = refusal.records.iter();
                let named = named.map(|record| size_of_val(record) + record.1.len());
                refusal.message.len() + named.sum::<usize>()
            }
            _ => 0,
        };
        pending.map(bytes).sum()
    }

    /// Waits until all are committed, or can't be any more.
    pub async fn committed(self) -> Vec<AppendOutcome> {
        let unanswered = || Err(CORE_STOPPED.into());
        let mut outcomes: Vec<AppendOutcome> = (0..self.count).map(|_| unanswered()).collect();
        let (places, pending) = self.here.unwrap_or_default();
        for (place, outcome) in places.into_iter().zip(self.shard.committed(pending).await) {
            outcomes[place] = outcome;
        }
        for (places, call) in self.elsewhere {
            let Reply::Append(replies) = call.await else {
                continue;
            };
            for (place, outcome) in places.into_iter().zip(replies) {
                outcomes[place] = outcome;
            }
        }
        outcomes
    }
}

impl Shard {
    /// The core that owns a partition; this one if nobody does, so that it gives the error.
    pub fn owner(&self, key: PartitionKey) -> CoreId {
        if self.partitions.borrow().contains_key(&key) {
            return self.core();
        }
        let image = self.image.borrow();
        let place = image
            .topic_by_id(key.topic)
            .and_then(|topic| topic.partition(key.index));
        place.map_or(self.core(), |place| self.core_of(place.lane))
    }

    fn split<T>(&self, items: Vec<T>, key: impl Fn(&T) -> PartitionKey) -> ByCore<T> {
        let mut by_core = ByCore::new();
        for (place, item) in items.into_iter().enumerate() {
            by_core
                .entry(self.owner(key(&item)))
                .or_default()
                .push((place, item));
        }
        by_core
    }

    /// Appends batches, wherever their partitions are. Those of this core are in the logs, in order, when this returns;
    /// the others are on their way there in order.
    pub async fn append_anywhere(self: &Rc<Self>, items: Vec<AppendItem>) -> Appending {
        let mut appending = Appending {
            shard: Rc::clone(self),
            count: items.len(),
            here: None,
            elsewhere: Vec::new(),
        };
        for (core, group) in self.split(items, |item| item.key) {
            let (places, items): (Vec<usize>, Vec<AppendItem>) = group.into_iter().unzip();
            if core == self.core() {
                appending.here = Some((places, self.append_counted(&items).await));
            } else {
                let shard = Rc::clone(self);
                // Begun here, so that the request leaves in the connection's order.
                let call = spawn_begun(async move { shard.call(core, Op::Append(items)).await });
                appending.elsewhere.push((places, call));
            }
        }
        appending
    }

    /// Appends to this core's lanes, and counts what they took: no refusal, and no duplicate.
    async fn append_counted(self: &Rc<Self>, items: &[AppendItem]) -> Vec<Pending> {
        let pending = self.append_here(items).await;
        let figures = &self.metrics().produce;
        for (item, pending) in items.iter().zip(&pending) {
            if let Pending::Committing { appended, .. } = pending
                && appended.record_count > 0
            {
                figures.bytes.increment(item.records.len() as u64);
                figures.records.increment(u64::from(appended.record_count));
                figures.batches.increment(1);
            }
        }
        pending
    }

    /// Reads partitions in order until `bytes_max` bytes are found, wherever they are.
    pub async fn read_anywhere(
        self: &Rc<Self>,
        items: Vec<ReadItem>,
        bytes_max: usize,
    ) -> Vec<ReadOutcome> {
        let all_here = items.iter().all(|item| self.owner(item.key) == self.core());
        if all_here {
            return self.read_here(items, bytes_max).await;
        }
        let count = items.len();
        let mut calls = Vec::new();
        let groups = self.split(items, |item| item.key);
        // They read at the same time, so each has its share of the answer.
        let bytes_max = bytes_max / groups.len().max(1);
        for (core, group) in groups {
            let (places, items): (Vec<usize>, Vec<ReadItem>) = group.into_iter().unzip();
            let shard = Rc::clone(self);
            calls.push((
                places,
                spawn(async move {
                    if core == shard.core() {
                        return shard.read_here(items, bytes_max).await;
                    }
                    match shard.call(core, Op::Read { items, bytes_max }).await {
                        Reply::Read(outcomes) => outcomes,
                        _ => Vec::new(),
                    }
                }),
            ));
        }
        let mut outcomes: Vec<ReadOutcome> = (0..count)
            .map(|_| ReadOutcome::failed(CORE_STOPPED))
            .collect();
        for (places, call) in calls {
            for (place, outcome) in places.into_iter().zip(call.await) {
                outcomes[place] = outcome;
            }
        }
        outcomes
    }

    async fn read_here(&self, items: Vec<ReadItem>, bytes_max: usize) -> Vec<ReadOutcome> {
        let mut outcomes = Vec::with_capacity(items.len());
        let mut left = bytes_max;
        let mut found_any = false;
        for (turn, item) in items.into_iter().enumerate() {
            // What is in memory is read without a wait.
            if turn % READS_PER_STEP == READS_PER_STEP - 1 {
                yield_now().await;
            }
            // Only the very first batch of an answer may be larger than what was asked for (KIP-74).
            let own_max = item.bytes_max;
            let item = ReadItem {
                bytes_max: own_max.min(left),
                whole_first: item.whole_first && !found_any,
                ..item
            };
            let mut outcome = self.read(&item).await;
            if outcome.end == ReadEnd::PartitionLimit && left < own_max {
                outcome.end = ReadEnd::AnswerLimit;
            }
            let bytes = outcome.bytes();
            found_any |= bytes > 0;
            left = left.saturating_sub(bytes);
            outcomes.push(outcome);
        }
        outcomes
    }

    /// Waits until the partitions have `missing` bytes more than was seen, wherever they are, at most `wait`. May
    /// return before either.
    pub async fn await_records_anywhere(
        self: &Rc<Self>,
        items: Vec<WaitItem>,
        missing: usize,
        wait: Duration,
    ) {
        let mut groups = self.split(items, |item| item.key);
        let unplaced = |group: Vec<(usize, WaitItem)>| group.into_iter().map(|(_, item)| item);
        let own: Option<Vec<WaitItem>> = groups
            .remove(&self.core())
            .map(|group| unplaced(group).collect());
        let cores = groups.len() + usize::from(own.is_some());
        let own = own.unwrap_or_default();
        if groups.is_empty() {
            return self.await_records(own, missing, wait).await;
        }
        // No core knows what the others have. With all that is missing, one of them has its share; who is woken too
        // early reads, and waits for the rest.
        let missing = missing.div_ceil(cores);
        let parked = ParkedAway {
            shard: self,
            wait: self.away.begin(),
        };
        for (core, group) in groups {
            let park = Op::Park {
                items: unplaced(group).collect(),
                missing,
                asker: self.core(),
                number: parked.wait.number(),
                wait_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
            };
            // Before it is asked: who is given up meanwhile is to be forgotten there too.
            parked.wait.add_core(core);
            if !matches!(self.call(core, park).await, Reply::Parked(true)) {
                parked.wait.remove_core(core);
                return;
            }
        }
        // Elapsed or woken, by whichever core: the asker reads again either way.
        either(parked.wait.woken(), self.await_records(own, missing, wait)).await;
    }

    /// Looks offsets up, wherever the partitions are.
    pub async fn offsets_anywhere(
        self: &Rc<Self>,
        items: Vec<OffsetItem>,
    ) -> Vec<Result<FoundOffset, ErrorCode>> {
        let mut found = vec![Err(CORE_STOPPED); items.len()];
        for (core, group) in self.split(items, |item| item.key) {
            let (places, items): (Vec<usize>, Vec<OffsetItem>) = group.into_iter().unzip();
            let Reply::Offsets(replies) = self.ask(core, Op::Offsets(items)).await else {
                continue;
            };
            for (place, reply) in places.into_iter().zip(replies) {
                found[place] = reply;
            }
        }
        found
    }

    /// Finds where leader epochs end, wherever the partitions are.
    pub async fn epoch_ends_anywhere(
        self: &Rc<Self>,
        items: Vec<EpochItem>,
    ) -> Vec<Result<(LeaderEpoch, Offset), ErrorCode>> {
        let mut found = vec![Err(CORE_STOPPED); items.len()];
        for (core, group) in self.split(items, |item| item.key) {
            let (places, items): (Vec<usize>, Vec<EpochItem>) = group.into_iter().unzip();
            if let Reply::EpochEnds(replies) = self.ask(core, Op::EpochEnds(items)).await {
                for (place, reply) in places.into_iter().zip(replies) {
                    found[place] = reply;
                }
            }
        }
        found
    }

    /// Moves log starts forward, wherever the partitions are.
    pub async fn delete_records_anywhere(
        self: &Rc<Self>,
        items: Vec<(PartitionKey, i64)>,
    ) -> Vec<Result<Offset, ErrorCode>> {
        let mut moved = vec![Err(CORE_STOPPED); items.len()];
        for (core, group) in self.split(items, |(key, _)| *key) {
            let (places, items): (Vec<usize>, Vec<(PartitionKey, i64)>) = group.into_iter().unzip();
            if let Reply::DeleteRecords(replies) = self.ask(core, Op::DeleteRecords(items)).await {
                for (place, reply) in places.into_iter().zip(replies) {
                    moved[place] = reply;
                }
            }
        }
        moved
    }

    /// Who produces to partitions, wherever they are.
    pub async fn producers_anywhere(
        self: &Rc<Self>,
        keys: Vec<PartitionKey>,
    ) -> Vec<Result<Vec<ProducerView>, ErrorCode>> {
        let mut views = vec![Err(CORE_STOPPED); keys.len()];
        for (core, group) in self.split(keys, |key| *key) {
            let (places, keys): (Vec<usize>, Vec<PartitionKey>) = group.into_iter().unzip();
            if let Reply::Producers(replies) = self.ask(core, Op::Producers(keys)).await {
                for (place, reply) in places.into_iter().zip(replies) {
                    views[place] = reply;
                }
            }
        }
        views
    }

    /// Sizes of the partitions of one core.
    pub async fn sizes_of(self: &Rc<Self>, core: CoreId) -> Vec<PartitionSize> {
        match self.ask(core, Op::Sizes).await {
            Reply::Sizes(sizes) => sizes,
            _ => Vec::new(),
        }
    }

    pub(super) async fn ask(self: &Rc<Self>, core: CoreId, op: Op) -> Reply {
        if core == self.core() {
            self.execute(op).await
        } else {
            self.call(core, op).await
        }
    }

    /// Does what another core, or this one, asks.
    pub async fn execute(self: &Rc<Self>, op: Op) -> Reply {
        match op {
            Op::Append(items) => {
                let pending = self.append_counted(&items).await;
                Reply::Append(self.committed(pending).await)
            }
            Op::Read { items, bytes_max } => Reply::Read(self.read_here(items, bytes_max).await),
            Op::Park {
                items,
                missing,
                asker,
                number,
                wait_ms,
            } => {
                let wait = Duration::from_millis(wait_ms);
                Reply::Parked(self.wake_later(items, missing, (asker, number), wait))
            }
            Op::Unpark { asker, number } => {
                self.guests.cancel(asker, number);
                Reply::Done
            }
            Op::Wake { from, number } => {
                self.away.wake(number, from);
                Reply::Done
            }
            Op::Offsets(items) => {
                let mut found = Vec::with_capacity(items.len());
                for item in &items {
                    found.push(self.find_offset(item).await);
                }
                Reply::Offsets(found)
            }
            Op::EpochEnds(items) => {
                Reply::EpochEnds(items.iter().map(|item| self.epoch_end(item)).collect())
            }
            Op::DeleteRecords(items) => {
                let mut moved = Vec::with_capacity(items.len());
                for (key, to) in items {
                    moved.push(self.delete_records(key, to).await);
                }
                Reply::DeleteRecords(moved)
            }
            Op::Sizes => Reply::Sizes(self.sizes()),
            Op::Producers(keys) => {
                Reply::Producers(keys.iter().map(|key| self.producers(*key)).collect())
            }
            Op::Submit(command) => Reply::Submit(self.submit_here(command).await),
            Op::Absorb(delta) => {
                self.absorb(&delta);
                Reply::Done
            }
            Op::Dropping => Reply::Dropping {
                index: self.image(crate::metadata::Image::index),
                topics: self.dropping.topics(),
            },
            Op::Ping => Reply::Done,
            Op::Drain => {
                self.request_drain();
                Reply::Done
            }
            Op::Drained => {
                self.another_drained();
                Reply::Done
            }
        }
    }

    fn sizes(&self) -> Vec<PartitionSize> {
        let partitions = self.partitions.borrow();
        let size =
            |key: PartitionKey, lane: &streambus_storage::Lane| lane.size_bytes(key).unwrap_or(0);
        partitions
            .iter()
            .map(|(key, led)| PartitionSize {
                key: *key,
                size_bytes: size(*key, &led.lane),
            })
            .collect()
    }

    fn producers(&self, key: PartitionKey) -> Result<Vec<ProducerView>, ErrorCode> {
        let partitions = self.partitions.borrow();
        let led = partitions.get(&key).ok_or(ErrorCode::NotLeaderOrFollower)?;
        Ok(led.partition.producers().views())
    }

    async fn submit_here(&self, command: Command) -> Decision {
        let controller = self
            .controller
            .clone()
            .expect("commands go to the controller's core");
        controller.submit(command).await
    }
}

/// The core that the controller runs on.
pub const CONTROLLER_CORE: CoreId = CoreId(0);

impl Submit for Rc<Shard> {
    async fn submit(&self, command: Command) -> Decision {
        match self.ask(CONTROLLER_CORE, Op::Submit(command)).await {
            Reply::Submit(decision) => decision,
            Reply::Stopped => {
                let message =
                    "the node stops, and the change may or may not be made; look, and try again";
                Err(Refusal::new(ErrorCode::RequestTimedOut, message))
            }
            other => unreachable!("a submission was answered with {other:?}"),
        }
    }
}

impl Publish for Rc<Shard> {
    async fn publish(&self, deltas: &[std::sync::Arc<crate::metadata::Delta>]) {
        Shard::publish(self, deltas).await;
    }
}
