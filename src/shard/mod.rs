//! What one core owns: its lanes, the partitions in them, and its copy of the metadata image.
//!
//! Everything here runs on that core. State is borrowed for the length of a synchronous step and
//! never across an `.await`; after one, the partition is looked up again, for it may be gone.

pub mod append;
mod away;
mod commits;
mod contents;
pub mod deleted;
mod inspect;
pub mod op;
pub mod read;
mod refused;
pub mod remote;
pub mod retention;
mod space;
pub mod waiters;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;
use streambus_ops::{CoreMetrics, DamageReport, TopicMetrics, Troubles};
use streambus_proto::ids::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, TopicId};
use streambus_shards::sync::{Line, Notify};
use streambus_shards::{CoreId, Mesh, spawn, wall_ms, yield_now};
use streambus_storage::{
    BatchInfo, CommitMeasured, Lane, LaneObserver, LaneStats, PartitionKey, RecoveredPartition,
    StorageError,
};

use crate::metadata::topic_config::TopicSettings;
use crate::metadata::{Change, Controller, Delta, Image, Topic};
use crate::partition::Partition;
use crate::partition::producers::{Producers, Sequenced};
use crate::partition::refusals::Refusals;
use away::{Away, Guests};
use commits::CommitWaiters;
use deleted::Dropping;
use op::{Op, Reply};
pub use space::Space;
use waiters::{Waiter, Waiters};

/// A partition that this core leads, with what belongs to it.
pub(crate) struct Led {
    pub(crate) partition: Partition,
    pub(crate) lane: Rc<Lane>,
    pub(crate) settings: Rc<TopicSettings>,
    /// Fetches that wait for more.
    pub(crate) waiters: Waiters,
    /// Produce requests that wait for their commit.
    pub(crate) commits: Rc<CommitWaiters>,
    /// Where batches stand while the records of one of them are gone over.
    pub(crate) line: Rc<Line>,
    /// Where what is appended is counted, with the topic's other partitions of this core.
    pub(crate) figures: Arc<TopicMetrics>,
}

/// One core's part of the broker.
pub struct Shard {
    mesh: Mesh<Op, Reply>,
    image: RefCell<Image>,
    partitions: RefCell<FxHashMap<PartitionKey, Led>>,
    /// Lane number and lane, for the lanes of this core.
    lanes: Vec<(u16, Rc<Lane>)>,
    /// The controller, on its core.
    controller: Option<Rc<Controller>>,
    /// What producers were refused because the partition is not here.
    refusals: RefCell<Refusals>,
    /// Deleted partitions whose lanes are at it.
    dropping: Dropping,
    /// Why nothing is acknowledged any more: a sync failed, and the node stops.
    failed: RefCell<Option<String>>,
    failure: Notify,
    /// Whether the node stops. A core may be told before it serves.
    draining: Cell<bool>,
    /// Rung when it does.
    drain: Notify,
    /// Other cores that have no connections any more, as the node stops.
    drained_count: Cell<usize>,
    /// Rung for each of them.
    drained: Notify,
    next_waiter: Cell<u64>,
    /// Fetches that wait for partitions of other cores.
    away: Away,
    /// Fetches of other cores that wait for partitions of this one.
    guests: Rc<Guests>,
    last_commit: Cell<Option<CommitMeasured>>,
    /// Whether there is space to produce.
    space: Space,
    metrics: Rc<CoreMetrics>,
    hops_told: Cell<u64>,
    full_told: Cell<u64>,
}

/// A lane as it was opened: its number, itself, and the partitions that it had.
pub struct OpenedLane {
    /// Its number.
    pub number: u16,
    /// The lane.
    pub lane: Rc<Lane>,
    /// What recovery found in it.
    pub partitions: Vec<RecoveredPartition>,
}

impl Shard {
    /// Takes over the lanes of a core, with the image as it is now.
    ///
    /// Partitions in a lane that the image says it deleted are dropped: the deletion was durable before the
    /// lane heard of it. Those of topics that it never knew are left alone and logged.
    pub fn new(
        mesh: Mesh<Op, Reply>,
        image: Image,
        lanes: Vec<OpenedLane>,
        controller: Option<Rc<Controller>>,
        metrics: Rc<CoreMetrics>,
        space: Space,
    ) -> Rc<Shard> {
        // In the order of their names, which is the same on every core: all give the same topics series of their own.
        for topic in image.topics() {
            metrics.topics.begin(topic.id, &topic.name);
        }
        let mut partitions = FxHashMap::default();
        let mut own = Vec::new();
        let mut dead = Vec::new();
        for opened in lanes {
            for found in &opened.partitions {
                if image.deleted_topics().contains(&found.key.topic) {
                    tracing::info!(partition = %found.key, "a lane has a partition of a deleted topic; it is dropped");
                    dead.push((Rc::clone(&opened.lane), found.key));
                    continue;
                }
                let Some(topic) = image.topic_by_id(found.key.topic) else {
                    tracing::warn!(partition = %found.key, "a lane has a partition of an unknown topic; it is kept, and not served");
                    continue;
                };
                let epoch = topic
                    .partition(found.key.index)
                    .map_or(LeaderEpoch(0), |p| p.leader_epoch);
                partitions.insert(
                    found.key,
                    Led {
                        partition: recovered(found, epoch),
                        lane: Rc::clone(&opened.lane),
                        settings: Rc::clone(&topic.settings),
                        waiters: Waiters::default(),
                        commits: Rc::default(),
                        line: Rc::default(),
                        figures: metrics.topics.begin(topic.id, &topic.name),
                    },
                );
            }
            own.push((opened.number, opened.lane));
        }
        let shard = Rc::new(Shard {
            mesh,
            image: RefCell::new(image),
            partitions: RefCell::new(partitions),
            lanes: own,
            controller,
            refusals: RefCell::default(),
            dropping: Dropping::default(),
            failed: RefCell::new(None),
            failure: Notify::new(),
            draining: Cell::new(false),
            drain: Notify::new(),
            drained_count: Cell::new(0),
            drained: Notify::new(),
            next_waiter: Cell::new(0),
            away: Away::default(),
            guests: Rc::default(),
            last_commit: Cell::new(None),
            space,
            metrics,
            hops_told: Cell::new(0),
            full_told: Cell::new(0),
        });
        let topics: Vec<Rc<Topic>> = shard.image.borrow().topics().cloned().collect();
        for topic in &topics {
            shard.lead(topic);
        }
        for (_, lane) in &shard.lanes {
            let observer: Rc<dyn LaneObserver> = Rc::clone(&shard) as Rc<dyn LaneObserver>;
            lane.start(observer);
        }
        for (lane, key) in dead {
            shard.dropping.begin(lane, key);
        }
        shard
    }

    /// This core.
    pub fn core(&self) -> CoreId {
        self.mesh.core()
    }

    /// How many cores the node has.
    pub fn cores(&self) -> usize {
        self.mesh.cores()
    }

    /// The core that drives a lane.
    pub fn core_of(&self, lane: u16) -> CoreId {
        let cores = u16::try_from(self.cores()).expect("at most 256 cores");
        CoreId(lane % cores)
    }

    /// Requests that this core sent to others.
    pub fn mesh_hops(&self) -> u64 {
        self.mesh.hops()
    }

    /// Looks at the image. Nothing of it may be held across an `.await`.
    pub fn image<T>(&self, look: impl FnOnce(&Image) -> T) -> T {
        look(&self.image.borrow())
    }

    /// The lanes of this core, by number.
    pub fn lanes(&self) -> &[(u16, Rc<Lane>)] {
        &self.lanes
    }

    /// How many partitions this core leads.
    pub fn partition_count(&self) -> usize {
        self.partitions.borrow().len()
    }

    /// Resolves with the reason when the node has to stop.
    pub async fn stopped_by(&self) -> String {
        loop {
            let failure = self.failure.notified();
            if let Some(reason) = &*self.failed.borrow() {
                return reason.clone();
            }
            failure.await;
        }
    }

    /// Takes a delta in: partitions come, go, and get new settings.
    pub fn absorb(&self, delta: &Delta) {
        let deleted: Vec<Rc<Topic>> = {
            let image = self.image.borrow();
            let ids = delta.changes.iter().filter_map(|change| match change {
                Change::TopicDeleted { id } => Some(*id),
                _ => None,
            });
            ids.filter_map(|id| image.topic_by_id(id).cloned())
                .collect()
        };
        self.image.borrow_mut().absorb(delta);
        for topic in &deleted {
            self.unlead(topic);
        }
        for change in &delta.changes {
            match change {
                Change::TopicCreated { id, .. }
                | Change::PartitionsAdded { id, .. }
                | Change::TopicConfigsSet { id, .. } => self.refresh(*id),
                Change::BrokerConfigsSet { .. } => {
                    let ids: Vec<TopicId> =
                        self.image(|image| image.topics().map(|t| t.id).collect());
                    for id in ids {
                        self.refresh(id);
                    }
                }
                Change::TopicDeleted { .. }
                | Change::DeletedTopicsSet { .. }
                | Change::ProducerIdsAllocated { .. }
                // Only at a start, before the lanes are opened.
                | Change::LanesAdded { .. } => {}
            }
        }
    }

    fn refresh(&self, id: TopicId) {
        let topic = self.image.borrow().topic_by_id(id).cloned();
        if let Some(topic) = topic {
            self.lead(&topic);
        }
    }

    /// Leads the partitions of a topic that are on this core's lanes, with its settings of now.
    fn lead(&self, topic: &Topic) {
        // On every core: one that owns no partition of it may send its records.
        let figures = self.metrics.topics.begin(topic.id, &topic.name);
        let mut partitions = self.partitions.borrow_mut();
        for (index, place) in (0_i32..).zip(&topic.partitions) {
            let Some((_, lane)) = self.lanes.iter().find(|(number, _)| *number == place.lane)
            else {
                continue;
            };
            let key = PartitionKey {
                topic: topic.id,
                index,
            };
            let led = partitions.entry(key).or_insert_with(|| Led {
                partition: Partition::new(
                    place.leader_epoch,
                    Offset(0),
                    Offset(0),
                    Producers::default(),
                ),
                lane: Rc::clone(lane),
                settings: Rc::clone(&topic.settings),
                waiters: Waiters::default(),
                commits: Rc::default(),
                line: Rc::default(),
                figures: Arc::clone(&figures),
            });
            led.settings = Rc::clone(&topic.settings);
            led.figures = Arc::clone(&figures);
        }
    }

    /// Stops leading the partitions of a deleted topic, and has their space freed.
    fn unlead(&self, topic: &Topic) {
        self.forget_refusals(topic);
        self.metrics.topics.end(topic.id, &topic.name);
        for index in 0..topic.partition_count() {
            let key = PartitionKey {
                topic: topic.id,
                index,
            };
            let Some(led) = self.partitions.borrow_mut().remove(&key) else {
                continue;
            };
            led.waiters.wake_all();
            led.commits.wake_all();
            self.remember_uncommitted(key, &led.partition);
            self.dropping.begin(led.lane, key);
        }
    }

    pub(crate) fn new_waiter(&self, missing: usize) -> Waiter {
        let id = self.next_waiter.get();
        self.next_waiter.set(id + 1);
        Waiter::new(id, missing)
    }

    /// Wakes the fetches that wait on this core, for whatever partitions: the node stops.
    pub(crate) fn wake_parked(&self) {
        for led in self.partitions.borrow().values() {
            led.waiters.wake_all();
        }
        self.away.wake_all();
    }

    /// Wakes the produce requests that wait for a commit, because it may not come.
    fn wake_committing(&self) {
        for led in self.partitions.borrow().values() {
            led.commits.wake_all();
        }
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.failed.borrow().is_some()
    }

    /// How the last commit went.
    pub fn last_commit(&self) -> Option<CommitMeasured> {
        self.last_commit.get()
    }

    /// The figures of this core.
    pub fn metrics(&self) -> &Rc<CoreMetrics> {
        &self.metrics
    }

    /// Brings the figures up to date that are looked up, not counted.
    pub fn report(&self) {
        let hops = self.mesh.hops();
        self.metrics
            .mesh
            .hops
            .increment(hops - self.hops_told.replace(hops));
        let full = self.mesh.full();
        self.metrics
            .mesh
            .full
            .increment(full - self.full_told.replace(full));
        let lanes: Vec<LaneStats> = self.lanes.iter().map(|(_, lane)| lane.stats()).collect();
        let sum = |of: fn(&LaneStats) -> u64| lanes.iter().map(of).sum::<u64>();
        let storage = &self.metrics.storage;
        storage
            .memtable_bytes
            .set(gauge(sum(|lane| lane.memtable_bytes)));
        storage
            .disk_bytes
            .set(gauge(sum(|lane| lane.table_bytes + lane.wal_bytes)));
        storage.cache_hits.absolute(sum(|lane| lane.cache_hits));
        storage.cache_misses.absolute(sum(|lane| lane.cache_misses));
        storage
            .memtables_kept_bytes
            .set(gauge(sum(|lane| lane.memtables_kept_bytes)));
        storage.cache_bytes.set(gauge(sum(|lane| lane.cache_bytes)));
        storage.tables.set(gauge(sum(|lane| lane.tables)));
        storage.merges.absolute(sum(|lane| lane.merges));
        storage
            .scrubbed_bytes
            .absolute(sum(|lane| lane.scrubbed_bytes));
        storage.scrub_passes.absolute(sum(|lane| lane.scrub_passes));
        storage.damage_found.absolute(sum(|lane| lane.damage_found));
        storage.damaged.set(gauge(sum(|lane| lane.damaged)));
        storage
            .appended_bytes
            .absolute(sum(|lane| lane.appended_bytes));
        storage.cleanings.absolute(sum(|lane| lane.cleanings));
        let cleaned_away = sum(|lane| lane.cleaned_away_bytes);
        storage.cleaned_away_bytes.absolute(cleaned_away);
        let written = &storage.written_bytes;
        written.clean.absolute(sum(|lane| lane.cleaned_bytes));
        written.wal.absolute(sum(|lane| lane.commit_bytes));
        written.flush.absolute(sum(|lane| lane.flushed_bytes));
        written.merge.absolute(sum(|lane| lane.merged_bytes));
        written.rewrite.absolute(sum(|lane| lane.rewritten_bytes));
        written.manifest.absolute(sum(|lane| lane.manifest_bytes));
    }

    /// What is wrong on this core while it serves.
    pub fn troubles(&self) -> Troubles {
        Troubles {
            damage: self.damage(),
            low_space: self.space.low(),
        }
    }

    fn damage(&self) -> Option<DamageReport> {
        let lanes = self.lanes.iter().filter_map(|(_, lane)| lane.damage());
        let mut report: Option<DamageReport> = None;
        for (places, first) in lanes {
            let report = report.get_or_insert_with(|| DamageReport {
                places: 0,
                file: first.file.display().to_string(),
                position: first.position,
            });
            report.places += places;
        }
        report
    }

    /// Resolves when the node stops, or at once if it does already.
    pub async fn drain_requested(&self) {
        loop {
            let asked = self.drain.notified();
            if self.draining.get() {
                return;
            }
            asked.await;
        }
    }

    /// Has this core stop.
    pub(super) fn request_drain(&self) {
        self.draining.set(true);
        self.drain.notify_all();
    }

    /// Has every core stop, this one included. One that is stuck holds up no other.
    pub fn drain_all(self: &Rc<Self>) {
        self.tell_others(|| Op::Drain);
        self.request_drain();
    }

    /// Sends every other core the same, and waits for none.
    fn tell_others(self: &Rc<Self>, op: fn() -> Op) {
        for core in self.others() {
            let shard = Rc::clone(self);
            spawn(async move {
                shard.call(core, op()).await;
            })
            .detach();
        }
    }

    /// This core has no connections any more: waits until that holds for every other core.
    pub async fn await_drained(self: &Rc<Self>) {
        self.tell_others(|| Op::Drained);
        loop {
            let more = self.drained.notified();
            if self.drained_count.get() + 1 >= self.cores() {
                return;
            }
            more.await;
        }
    }

    /// Another core has no connections any more.
    fn another_drained(&self) {
        self.drained_count.set(self.drained_count.get() + 1);
        self.drained.notify_all();
    }

    /// Waits until every other core has started.
    pub async fn await_others(&self) {
        for core in self.others() {
            self.call(core, Op::Ping).await;
        }
    }

    /// Fetches of other cores that are parked here.
    #[cfg(test)]
    pub(crate) fn guests(&self) -> usize {
        self.guests.len()
    }

    /// Asks another core. [`Reply::Stopped`] if it has ended.
    async fn call(&self, core: CoreId, op: Op) -> Reply {
        let replied = self.mesh.call(core, op).await;
        replied.unwrap_or(Reply::Stopped)
    }

    fn others(&self) -> impl Iterator<Item = CoreId> {
        let (own, cores) = (
            self.core(),
            u16::try_from(self.cores()).expect("at most 256 cores"),
        );
        (0..cores).map(CoreId).filter(move |core| *core != own)
    }

    /// Serves what other cores ask, until the core ends.
    pub async fn serve_mesh(self: Rc<Self>) {
        let mesh = self.mesh.clone();
        mesh.serve(move |_, op| {
            let shard = Rc::clone(&self);
            async move { shard.execute(op).await }
        })
        .await;
    }

    /// Writes what is appended, closes the lanes and serves no other core any more.
    pub async fn close(&self) {
        for (number, lane) in &self.lanes {
            if let Err(failed) = lane.close().await {
                tracing::error!(lane = number, error = %failed, "a lane did not close cleanly");
            }
        }
        // What the last commit answers leaves before.
        yield_now().await;
        self.mesh.stop();
    }

    /// Has every core absorb deltas, this one included.
    pub(crate) async fn publish(&self, deltas: &[Arc<Delta>]) {
        for delta in deltas {
            self.absorb(delta);
            for core in self.others() {
                self.call(core, Op::Absorb(Arc::clone(delta))).await;
            }
        }
    }
}

impl LaneObserver for Shard {
    fn durable(&self, ends: &[(PartitionKey, Offset)]) {
        let mut partitions = self.partitions.borrow_mut();
        for (key, end) in ends {
            let Some(led) = partitions.get_mut(key) else {
                continue;
            };
            let seen = led.partition.high_watermark();
            if led.partition.durable(*end) {
                let lane = &led.lane;
                led.waiters.grown(|| lane.bytes_between(*key, seen, *end));
                led.commits.reached(*end);
            }
        }
    }

    fn annotation(&self, key: PartitionKey) -> Vec<u8> {
        let partitions = self.partitions.borrow();
        partitions
            .get(&key)
            .map_or_else(Vec::new, |led| led.partition.producers().encode())
    }

    fn failed(&self, error: &StorageError) {
        *self.failed.borrow_mut() = Some(error.to_string());
        self.failure.notify_all();
        self.wake_committing();
    }

    fn starved(&self) {
        self.wake_committing();
    }

    fn measured(&self, commit: CommitMeasured) {
        self.metrics.wal.sync_ns.record(nanos(commit.sync));
        self.metrics.wal.commit_bytes.record(commit.bytes as u64);
        self.last_commit.set(Some(commit));
    }
}

/// A duration as histograms count it.
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A number as gauges show it.
#[expect(
    clippy::cast_precision_loss,
    reason = "gauges are floats; past 2^53 bytes the last digits do not matter"
)]
pub(crate) fn gauge(value: u64) -> f64 {
    value as f64
}

/// The state of a partition after a restart: what was saved at the last flush, and the batches since.
fn recovered(found: &RecoveredPartition, leader_epoch: LeaderEpoch) -> Partition {
    let saved = found
        .annotation
        .as_ref()
        .map(|(_, bytes)| bytes.as_slice())
        .unwrap_or_default();
    let mut producers = Producers::decode(saved).unwrap_or_else(|| {
        tracing::error!(partition = %found.key, "the saved producers can't be read; duplicates from before are not known");
        Producers::default()
    });
    for batch in &found.tail {
        if let Some(sequenced) = sequenced(batch) {
            producers.record(&sequenced, batch.base_offset, wall_ms());
        }
    }
    Partition::new(leader_epoch, found.log_start, found.log_end, producers)
}

fn sequenced(batch: &BatchInfo) -> Option<Sequenced> {
    (batch.producer_id >= 0 && batch.record_count > 0).then_some(Sequenced {
        producer_id: ProducerId(batch.producer_id),
        producer_epoch: ProducerEpoch(batch.producer_epoch),
        base_sequence: batch.base_sequence,
        record_count: batch.record_count,
        max_timestamp_ms: batch.max_timestamp,
    })
}
