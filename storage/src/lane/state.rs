//! What a lane decides, without I/O: admission, framing, freezing, what a commit made durable.

use std::collections::{BTreeMap, VecDeque};
use std::rc::{Rc, Weak};

use streambus_proto::ids::{LeaderEpoch, Offset};
use streambus_shards::{Buf, File, Instant, wall_ms};

use super::clean::CleanRequest;
use super::tables::{LiveTable, Tables};
use crate::batch::BatchInfo;
use crate::config::LaneConfig;
use crate::damage::KnownDamage;
use crate::error::AppendError;
use crate::key::{PartitionKey, PartitionMap};
use crate::manifest::{Manifest, TableEntry};
use crate::memtable::{FlushedMemtable, MemBatch, Memtable};
use crate::partition::{Partition, TableRange};
use crate::stats::LaneStats;
use crate::table::reader::Table;
use crate::wal::WalPlace;
use crate::wal::buffer::{FramedBatch, Room, WalBuffer};
use crate::wal::record::RecordKind;

/// Bytes at the end of the last WAL file that only control records may use: room for hundreds of
/// deletions while a full disk keeps everything else waiting.
const CONTROL_RESERVE_BYTES: u64 = 256 << 10;

/// Batches that are dropped before others get the core, and about so many bytes of them: some 10 us, and what
/// it takes to free a block of log memory.
const DROPPED_AT_ONCE: usize = 1_024;
const DROPPED_BYTES_AT_ONCE: usize = 1 << 20;

/// What a record is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Batch,
    Control,
}

/// Whether the lane takes and writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Status {
    Running,
    /// Takes nothing new, writes what it has.
    Closing,
    /// A write failed, or it is closed: nothing is written any more.
    Stopped(String),
}

/// A table that left the lane, and whose file is not removed yet.
#[derive(Debug, Clone)]
pub(crate) struct ObsoleteTable {
    pub(crate) id: u64,
    /// There as long as somebody reads it.
    pub(crate) read: Weak<Table>,
}

impl From<LiveTable> for ObsoleteTable {
    fn from(live: LiveTable) -> ObsoleteTable {
        ObsoleteTable {
            id: live.table.id(),
            read: Rc::downgrade(&live.table),
        }
    }
}

/// A sealed commit on its way to disk, with what it makes durable.
#[derive(Debug)]
pub(crate) struct QueuedCommit {
    pub(crate) place: WalPlace,
    pub(crate) bytes: Buf,
    pub(crate) records: u32,
    /// Where the WAL goes on after it.
    pub(crate) next: WalPlace,
    pub(crate) ends: Vec<(usize, PartitionKey, Offset)>,
}

/// The state of a lane. Borrowed only between awaits.
///
/// Order: `floor ≤ durable ≤ place of the first queued commit ≤ place of the open commit`, each
/// commit queued at its id; frozen memtables from the oldest on, each ends where the next begins.
pub(crate) struct State {
    pub(crate) config: LaneConfig,
    pub(crate) status: Status,
    /// Something needs space and did not get it; cleared when it did.
    pub(crate) no_space: bool,
    /// The epoch of the log file that the next commit is to go to, while it waits for that.
    pub(crate) file_awaited: Option<u64>,
    /// By slot; a dropped partition's slot is empty until no memtable knows it any more.
    pub(crate) partitions: Vec<Option<Box<Partition>>>,
    pub(crate) by_key: PartitionMap<usize>,
    free_slots: Vec<usize>,
    /// Slots of dropped partitions, with the last memtable that may name them.
    retired_slots: VecDeque<(u64, usize)>,
    pub(crate) buffer: WalBuffer,
    pub(crate) queue: VecDeque<QueuedCommit>,
    /// Everything in the WAL before this is durable.
    pub(crate) durable: WalPlace,
    pub(crate) active: Memtable,
    pub(crate) frozen: VecDeque<Rc<Memtable>>,
    /// Flushed, and still to be read in memory; the oldest first.
    kept: VecDeque<FlushedMemtable>,
    /// Memory that they hold, at most: some of their partitions may be gone.
    pub(crate) kept_bytes: usize,
    /// Batches that nobody reads any more. They are dropped a few at a time: there may be millions, and appends
    /// wait for the core.
    pub(super) unneeded: VecDeque<VecDeque<MemBatch>>,
    /// An append found no WAL file to go on in: freeze, so that files come free. Cleared by what
    /// may have changed that, so that whoever was refused tries again and does not spin.
    wal_exhausted: bool,
    /// What is in memory shall go to tables, full or not.
    pub(crate) freeze_wanted: bool,
    /// WAL files by epoch. Those before the floor's are for recycling.
    pub(crate) wal: BTreeMap<u64, Rc<File>>,
    pub(crate) floor: WalPlace,
    pub(crate) nonce: u64,
    pub(crate) generation: u64,
    pub(crate) tables: Tables,
    pub(crate) next_table_id: u64,
    /// Tables that left the lane and whose files are not removed yet.
    pub(crate) obsolete: Vec<ObsoleteTable>,
    /// Tables that were given up before a manifest named them, and whose files are not removed yet.
    pub(crate) abandoned: Vec<u64>,
    /// Partitions that wait to be cleaned, each once.
    pub(crate) cleans: VecDeque<CleanRequest>,
    /// No merge begins before this: one was given up.
    pub(crate) merge_after: Option<Instant>,
    /// What is known not to verify.
    pub(crate) damage: KnownDamage,
    pub(crate) stats: LaneStats,
}

impl State {
    pub(crate) fn new(config: LaneConfig, manifest: &Manifest, buffer: WalBuffer) -> State {
        let durable = buffer.place();
        let tables = Tables::new(&config);
        State {
            config,
            status: Status::Running,
            no_space: false,
            file_awaited: None,
            partitions: Vec::new(),
            by_key: PartitionMap::default(),
            free_slots: Vec::new(),
            retired_slots: VecDeque::new(),
            buffer,
            queue: VecDeque::new(),
            durable,
            active: Memtable::new(1),
            frozen: VecDeque::new(),
            kept: VecDeque::new(),
            kept_bytes: 0,
            unneeded: VecDeque::new(),
            wal_exhausted: false,
            freeze_wanted: false,
            wal: BTreeMap::new(),
            floor: manifest.floor,
            nonce: manifest.nonce,
            generation: manifest.generation,
            tables,
            next_table_id: manifest.next_table_id,
            obsolete: Vec::new(),
            abandoned: Vec::new(),
            cleans: VecDeque::new(),
            merge_after: None,
            damage: KnownDamage::default(),
            stats: LaneStats::default(),
        }
    }

    pub(crate) fn slot_of(&self, key: PartitionKey) -> Option<usize> {
        self.by_key.get(&key).copied()
    }

    pub(crate) fn partition(&self, key: PartitionKey) -> Option<&Partition> {
        self.partitions.get(self.slot_of(key)?)?.as_deref()
    }

    pub(crate) fn partition_mut(&mut self, key: PartitionKey) -> Option<&mut Partition> {
        let slot = self.slot_of(key)?;
        self.partitions.get_mut(slot)?.as_deref_mut()
    }

    pub(crate) fn in_slot(&mut self, slot: usize) -> Option<&mut Partition> {
        self.partitions.get_mut(slot)?.as_deref_mut()
    }

    pub(crate) fn insert(&mut self, partition: Partition) -> usize {
        let key = partition.key;
        let slot = self.free_slots.pop().unwrap_or(self.partitions.len());
        if slot == self.partitions.len() {
            self.partitions.push(None);
        }
        let place = self.partitions.get_mut(slot).expect("a free slot exists");
        assert!(place.is_none(), "slot {slot} is taken");
        *place = Some(Box::new(partition));
        let known = self.by_key.insert(key, slot);
        assert!(known.is_none(), "partition {key} was there already");
        slot
    }

    /// Takes the partition out of the lane. Its slot is not used again before the memtables that
    /// may name it are flushed.
    pub(crate) fn remove(&mut self, key: PartitionKey) {
        let Some(slot) = self.by_key.remove(&key) else {
            return;
        };
        let partition = self.partitions.get_mut(slot).and_then(Option::take);
        let partition = partition.expect("a known partition is in its slot");
        self.retired_slots.push_back((self.active.id, slot));
        for range in &partition.ranges {
            self.release(range);
        }
        self.unneeded.extend(partition.mem.into_segments());
    }

    /// A range of a table is needed no more.
    pub(crate) fn release(&mut self, range: &TableRange) {
        self.tables.count_out(range.table.id(), range.part().bytes);
    }

    /// Moves a log start up; an unknown partition comes to be with the record of `sequence`.
    pub(crate) fn apply_log_start(&mut self, key: PartitionKey, offset: Offset, sequence: u64) {
        let slot = match self.slot_of(key) {
            Some(slot) => slot,
            None => self.insert(Partition::new(key, sequence)),
        };
        let partition = self.in_slot(slot).expect("known slot");
        let passed = partition.move_log_start(offset);
        self.unneeded.extend(passed.batches);
        for range in &passed.ranges {
            self.release(range);
        }
    }

    /// Copies the batch into the WAL buffer, if it may and can.
    pub(crate) fn append(
        &mut self,
        key: PartitionKey,
        base_offset: Offset,
        leader_epoch: LeaderEpoch,
        batch: &[u8],
    ) -> Result<BatchInfo, AppendError> {
        self.admit(batch.len(), Purpose::Batch)?;
        let slot = match self.by_key.get(&key) {
            Some(slot) => *slot,
            None => self.insert(Partition::new(key, self.buffer.next_sequence())),
        };
        let State {
            buffer,
            partitions,
            stats,
            ..
        } = self;
        let partition = partitions
            .get_mut(slot)
            .and_then(Option::as_mut)
            .expect("known slot");
        assert!(
            base_offset == partition.log_end,
            "offsets are dense: {base_offset:?} appended at log end {:?} of {key}",
            partition.log_end
        );
        let info = buffer.append_batch(key, slot, base_offset, leader_epoch, batch);
        partition.note_epoch(leader_epoch, base_offset);
        partition.log_end = info.next_offset();
        assert!(
            partition.log_end > base_offset,
            "an append that moved nothing"
        );
        stats.appended_bytes += batch.len() as u64;
        Ok(info)
    }

    /// Puts a record without a batch into the WAL buffer; returns its sequence number.
    pub(crate) fn append_control(
        &mut self,
        kind: RecordKind,
        key: PartitionKey,
        offset: Option<Offset>,
    ) -> Result<u64, AppendError> {
        self.admit(size_of::<i64>(), Purpose::Control)?;
        let sequence = self.buffer.next_sequence();
        self.buffer.append_control(kind, key, offset);
        Ok(sequence)
    }

    /// Makes room for a record of `payload_bytes`, or says why there is none.
    ///
    /// Control records hold no memory worth counting, and they are how space comes back: they
    /// pass where batches must wait, and the end of the last WAL file is kept for them.
    fn admit(&mut self, payload_bytes: usize, purpose: Purpose) -> Result<(), AppendError> {
        if self.status != Status::Running {
            return Err(AppendError::Failed);
        }
        if purpose == Purpose::Batch && self.memory_is_full() {
            return Err(self.full());
        }
        if purpose == Purpose::Batch && !self.may_roll() && !self.reserve_stays(payload_bytes) {
            self.wal_exhausted = true;
            return Err(self.full());
        }
        match self.buffer.room_for(payload_bytes) {
            Room::Fits => {}
            Room::Seal => self.seal(),
            Room::Roll if !self.may_roll() => {
                self.wal_exhausted = true;
                return Err(self.full());
            }
            Room::Roll => {
                self.seal();
                self.buffer.roll();
            }
            Room::Never => {
                return Err(AppendError::TooLarge {
                    bytes: payload_bytes,
                });
            }
        }
        Ok(())
    }

    fn reserve_stays(&self, payload_bytes: usize) -> bool {
        let file_bytes = self.config.wal_file_bytes;
        let reserve = CONTROL_RESERVE_BYTES.min(file_bytes / 4);
        let taken =
            self.buffer.place().position + (self.buffer.open_bytes() + payload_bytes) as u64;
        taken + reserve <= file_bytes
    }

    fn full(&mut self) -> AppendError {
        self.stats.full += 1;
        if self.no_space {
            AppendError::NoSpace
        } else {
            AppendError::Full
        }
    }

    fn memory_is_full(&self) -> bool {
        let held = self.active.held_bytes + self.buffer.open_bytes();
        let frozen_full = self.frozen.len() >= self.config.memtables_frozen_max;
        // Up to twice: freezing waits for the WAL writer's next turn.
        held >= self.config.memtable_bytes * if frozen_full { 1 } else { 2 }
    }

    fn may_roll(&self) -> bool {
        self.buffer.place().epoch + 1 - self.floor.epoch < self.config.wal_files_max
    }

    /// Whether a batch of ordinary size would be taken now.
    pub(crate) fn is_writable(&self) -> bool {
        self.status == Status::Running && !self.memory_is_full() && !self.wal_exhausted
    }

    /// Closes the open commit and queues it; its batches become readable from memory.
    pub(crate) fn seal(&mut self) {
        let now_ms = wall_ms();
        let Some(commit) = self.buffer.seal(now_ms) else {
            return;
        };
        self.active.held_bytes += commit.held_bytes;
        self.active.note_time(now_ms);
        let mut ends = Vec::new();
        for batch in commit.batches {
            self.take_in(commit.place.commit_id, now_ms, batch, &mut ends);
        }
        let queued = QueuedCommit {
            place: commit.place,
            bytes: commit.bytes,
            records: commit.records,
            next: self.buffer.place(),
            ends,
        };
        self.queue.push_back(queued);
    }

    fn take_in(
        &mut self,
        commit_id: u64,
        now_ms: i64,
        batch: FramedBatch,
        ends: &mut Vec<(usize, PartitionKey, Offset)>,
    ) {
        let slot = batch.slot;
        let State {
            partitions, active, ..
        } = self;
        let Some(partition) = partitions.get_mut(slot).and_then(Option::as_mut) else {
            return; // Dropped since it was appended.
        };
        let end = Offset(batch.last_offset.0 + 1);
        match partition.commit {
            Some((id, at)) if id == commit_id => {
                let known = ends
                    .get_mut(at)
                    .expect("the partition's end of this commit");
                assert!(known.0 == slot && known.2 < end, "commit ends go back");
                known.2 = end;
            }
            _ => {
                partition.commit = Some((commit_id, ends.len()));
                ends.push((slot, partition.key, end));
            }
        }
        if end <= partition.log_start {
            return; // The log start moved past it since.
        }
        let range = partition
            .memtable
            .filter(|(id, _)| *id == active.id)
            .map(|(_, at)| at);
        partition.memtable = Some((active.id, active.add(range, &batch)));
        partition.note_time(now_ms);
        partition.mem.push(active.id, batch);
    }

    /// The next commit to write; what is open is closed for it.
    pub(crate) fn next_commit(&mut self) -> Option<QueuedCommit> {
        if self.queue.is_empty() {
            self.seal();
        }
        self.queue.pop_front()
    }

    /// `commit` is synced: returns whose log is durable up to where.
    pub(crate) fn committed(
        &mut self,
        next: WalPlace,
        ends: Vec<(usize, PartitionKey, Offset)>,
    ) -> Vec<(PartitionKey, Offset)> {
        assert!(
            next.commit_id == self.durable.commit_id + 1,
            "commits synced out of order"
        );
        self.durable = next;
        let mut durable = Vec::with_capacity(ends.len());
        for (slot, key, end) in ends {
            let Some(partition) = self.in_slot(slot) else {
                continue;
            };
            assert!(
                partition.key == key,
                "slot {slot} was given away under a commit"
            );
            assert!(end <= partition.log_end, "durable beyond the log end");
            partition.durable_end = partition.durable_end.max(end);
            durable.push((key, end));
        }
        durable
    }

    pub(crate) fn freeze_is_due(&self) -> bool {
        let held = self.active.held_bytes + self.buffer.open_bytes();
        let room = self.frozen.len() < self.config.memtables_frozen_max;
        let wanted = self.wal_exhausted || self.freeze_wanted;
        let due = held >= self.config.memtable_bytes || wanted;
        room && due && held > 0
    }

    /// Whose annotations the memtable needs before it freezes.
    pub(crate) fn active_keys(&mut self) -> Vec<Option<PartitionKey>> {
        self.seal();
        let key_in = |slot: usize| self.partitions.get(slot)?.as_ref().map(|known| known.key);
        self.active
            .ranges
            .iter()
            .map(|range| key_in(range.slot))
            .collect()
    }

    /// Freezes the active memtable; `annotations` stand in the order of its ranges.
    pub(crate) fn freeze(&mut self, annotations: Vec<Vec<u8>>) {
        assert!(
            !self.buffer.has_open_commit(),
            "freezing under an open commit"
        );
        assert!(
            annotations.len() == self.active.ranges.len(),
            "an annotation for each range"
        );
        let next = Memtable::new(self.active.id + 1);
        let mut frozen = std::mem::replace(&mut self.active, next);
        for (range, annotation) in frozen.ranges.iter_mut().zip(annotations) {
            range.annotation = annotation;
        }
        frozen.wal_end = Some(self.buffer.place());
        self.frozen.push_back(Rc::new(frozen));
        self.wal_exhausted = false;
        self.freeze_wanted = false;
    }

    /// The oldest frozen memtable is in tables and the manifest says so.
    pub(crate) fn flushed(&mut self, floor: WalPlace) {
        let memtable = self.frozen.pop_front().expect("a memtable was flushed");
        assert!(memtable.wal_end == Some(floor), "flushed another memtable");
        assert!(
            floor.commit_id <= self.durable.commit_id,
            "flushed what is not durable"
        );
        self.floor = floor;
        self.wal_exhausted = false;
        self.stats.flushes += 1;
        while let Some((id, slot)) = self.retired_slots.front().copied() {
            if id > memtable.id {
                break;
            }
            self.retired_slots.pop_front();
            self.free_slots.push(slot);
        }
        self.kept_bytes += memtable.held_bytes;
        self.kept.push_back(FlushedMemtable::from(&*memtable));
        self.evict();
    }

    /// Lets the oldest flushed memtables go, as long as all of them hold more than they may.
    fn evict(&mut self) {
        while self.kept_bytes > self.config.memtables_kept_bytes {
            let oldest = self.kept.pop_front().expect("something holds the memory");
            self.kept_bytes -= oldest.held_bytes;
            for slot in oldest.slots {
                // A partition that has the slot by now has nothing in a memtable that old.
                let known = self.partitions.get_mut(slot).and_then(Option::as_mut);
                let taken = known.and_then(|known| known.mem.take_flushed(oldest.id));
                self.unneeded.extend(taken);
            }
        }
    }

    /// Drops a few of the batches that nobody reads any more; says whether there are others.
    pub(crate) fn drop_some(&mut self) -> bool {
        let mut bytes = 0;
        for _ in 0..DROPPED_AT_ONCE {
            let Some(batches) = self.unneeded.front_mut() else {
                return false;
            };
            match batches.pop_front() {
                Some(batch) => bytes += batch.bytes.len(),
                None => drop(self.unneeded.pop_front()),
            }
            if bytes >= DROPPED_BYTES_AT_ONCE {
                break;
            }
        }
        !self.unneeded.is_empty()
    }

    /// The epoch of the WAL file that must be made ready next, if one is missing.
    pub(crate) fn wal_epoch_missing(&self) -> Option<u64> {
        let ahead = self.buffer.place().epoch + 1;
        let limit = self.floor.epoch + self.config.wal_files_max;
        (self.floor.epoch..limit.min(ahead + 1)).find(|epoch| !self.wal.contains_key(epoch))
    }

    /// The manifest as of now.
    ///
    /// It knows no partition that began behind its floor: the WAL tells of that. The record that began it may never
    /// become durable, and then its sequence number is given to another.
    pub(crate) fn manifest(&self, floor: WalPlace, new_tables: &[TableEntry]) -> Manifest {
        let known = self.tables.iter().map(|live| TableEntry {
            id: live.table.id(),
            file_bytes: live.table.file_bytes,
            sequence_end: live.sequence_end,
            merges: live.merges,
            replaced_parts: live.replaced_parts.iter().copied().collect(),
            written_ms: Some(live.table.written_ms()),
        });
        Manifest {
            nonce: self.nonce,
            generation: self.generation + 1,
            floor,
            next_table_id: self.next_table_id,
            tables: known.chain(new_tables.iter().cloned()).collect(),
            obsolete: self.obsolete.iter().map(|table| table.id).collect(),
            partitions: self
                .partitions
                .iter()
                .flatten()
                .filter(|known| known.created_sequence < floor.sequence)
                .map(|known| known.entry())
                .collect(),
        }
    }
}
