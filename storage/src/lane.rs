//! A lane: one directory with one WAL, its memtables and its tables, on one core.
//!
//! Calls are synchronous where they only touch memory (append, look-ups, reads of what is in
//! memory) and async where they wait for the disk. Five tasks run behind them. Three are in
//! `commit`: one moves WAL commits to disk, one keeps WAL files ready, one memory. `keep` does one thing at a
//! time, in this order: `flush` turns frozen memtables into tables, `collect` frees what nobody needs
//! any more, then `clean`, which compacts partitions by key, and `merge` and `gather`, which write tables
//! anew, take turns. `scrub` verifies tables.

mod clean;
mod collect;
mod commit;
mod flush;
mod gather;
mod keep;
mod lookup;
mod merge;
mod open;
mod read;
mod replace;
mod reserve;
mod scrub;
mod state;
mod tables;
mod times;

#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::rc::{Rc, Weak};

use streambus_proto::ids::{LeaderEpoch, Offset};
use streambus_shards::sync::{Line, Notify};
use streambus_shards::{Queue, Task, planted, spawn_in};

pub(crate) use self::flush::write_manifest;
pub use self::lookup::KeyHit;
pub(crate) use self::open::free_name;
pub use self::open::{RecoveredPartition, Recovery};
pub use self::read::{Batches, ColdRead, ReadPlan};
use self::reserve::Reserve;
use self::state::{State, Status};
pub use self::times::TimestampHit;
use crate::cache::BlockCache;
use crate::error::{AppendError, StorageError};
use crate::key::PartitionKey;
use crate::observer::LaneObserver;
use crate::retention::{Limits, log_start_after};
use crate::stats::LaneStats;
use crate::table::files::TableFiles;
use crate::wal::files::WalFiles;
use crate::wal::record::{Nonce, RecordKind};

/// What an append did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// The partition's log end now.
    pub log_end: Offset,
}

/// A lane. Lives on one core; create it with [`Lane::open`], then [`Lane::start`] it.
pub struct Lane {
    dir: PathBuf,
    nonce: Nonce,
    wal_files: WalFiles,
    state: RefCell<State>,
    /// The owner, which as a rule holds the lane: the task that writes keeps it, and lets go with the lane.
    observer: RefCell<Option<Weak<dyn LaneObserver>>>,
    /// Wakes the WAL writer: there is something to write, or to freeze.
    wal_wake: Notify,
    /// Wakes the WAL writer: a file became ready.
    wal_ready: Notify,
    /// Wakes the task that makes WAL files ready.
    prepare_wake: Notify,
    /// Wakes the task that has log memory ready.
    memory_wake: Notify,
    /// Wakes the keeper: a memtable froze, a table died or is read no more, or the lane closes.
    keeper_wake: Rc<Notify>,
    /// Wakes the scrub: the lane closes.
    scrub_wake: Notify,
    /// Wakes those who wait for durability.
    durable_wake: Notify,
    /// A commit is being written and synced; when it is no longer, `durable_wake` tells.
    commit_under_way: Cell<bool>,
    /// Wakes those who were refused with [`AppendError::Full`]: there may be room, or there is no space.
    writable_wake: Notify,
    /// Where they stand until then.
    line: Rc<Line>,
    /// Where those stand who decompress a batch in steps.
    decompressions: Rc<Line>,
    tasks: RefCell<Vec<Task<()>>>,
    cache: Rc<BlockCache>,
    table_files: Rc<TableFiles>,
    reserve: Reserve,
}

impl Lane {
    /// Starts writing. Appends before this are kept in memory and are not durable.
    ///
    /// # Panics
    /// If the lane was started before.
    pub fn start(self: &Rc<Lane>, observer: Rc<dyn LaneObserver>) {
        let before = self.observer.replace(Some(Rc::downgrade(&observer)));
        assert!(before.is_none(), "a lane is started once");
        let mut tasks = vec![
            spawn_in(
                Queue::Foreground,
                commit::write_commits(Rc::clone(self), observer),
            ),
            spawn_in(Queue::Background, commit::keep_files_ready(Rc::clone(self))),
            spawn_in(
                Queue::Background,
                commit::keep_memory_ready(Rc::clone(self)),
            ),
            spawn_in(Queue::Background, keep::keep(Rc::clone(self))),
        ];
        if let Some(pace) = self.state.borrow().config.scrub_pace() {
            tasks.push(spawn_in(Queue::Scrub, scrub::scrub(Rc::clone(self), pace)));
        }
        self.tasks.replace(tasks);
    }

    /// Appends one batch: copied once, with its offset and leader epoch in place, and readable as
    /// soon as its commit is sealed. It is durable when [`LaneObserver::durable`] says so; do not
    /// show or acknowledge it earlier.
    ///
    /// `batch` must be one validated batch. The partition comes to be with its first append.
    ///
    /// # Errors
    /// See [`AppendError`]; nothing of the batch was kept.
    ///
    /// # Panics
    /// If `base_offset` is not the partition's log end, or `batch` is no whole batch.
    pub fn append(
        &self,
        key: PartitionKey,
        base_offset: Offset,
        leader_epoch: LeaderEpoch,
        batch: &[u8],
    ) -> Result<Appended, AppendError> {
        let appended = self
            .state
            .borrow_mut()
            .append(key, base_offset, leader_epoch, batch);
        // Also when it is full: the writer may have to freeze before anything can move.
        self.wal_wake.notify_one();
        appended.map(|info| Appended {
            log_end: info.next_offset(),
        })
    }

    /// Resolves when an append that was refused with [`AppendError::Full`] is worth repeating: there is
    /// room, or there will be none before there is space, which is [`AppendError::NoSpace`], or the lane has
    /// stopped.
    pub async fn writable(&self) {
        self.turned(|state| state.is_writable() || state.no_space)
            .await;
    }

    /// Whether what is appended and not durable yet waits for space: the next commit needs a log file, and there is
    /// none to be had. It may become durable all the same, when there is space. The owner is told
    /// ([`LaneObserver::starved`]).
    pub fn is_starved(&self) -> bool {
        let state = self.state.borrow();
        state.no_space && state.file_awaited.is_some()
    }

    /// Tells the owner if commits wait for space.
    fn tell_if_starved(&self) {
        if let Some(observer) = self.observer().filter(|_| self.is_starved()) {
            observer.starved();
        }
    }

    /// Resolves when the state is as `wanted`, which [`Lane::writable_wake`] tells, or the lane has stopped.
    async fn turned(&self, wanted: impl Fn(&State) -> bool) {
        loop {
            {
                let state = self.state.borrow();
                if wanted(&state) || state.status != Status::Running {
                    return;
                }
            }
            self.writable_wake.notified().await;
        }
    }

    /// Where those stand whose appends were refused with [`AppendError::Full`], so that a batch that comes
    /// when there is room again does not overtake them.
    pub fn line(&self) -> &Rc<Line> {
        &self.line
    }

    /// Where those stand who decompress a batch of the lane in steps, one at a time: appends whose records are
    /// looked at, and look-ups by time. A decompression takes up to the limits' memory, 128 MiB.
    pub fn decompressions(&self) -> &Rc<Line> {
        &self.decompressions
    }

    /// The partitions that the lane has.
    pub fn partitions(&self) -> Vec<PartitionKey> {
        let state = self.state.borrow();
        state
            .partitions
            .iter()
            .flatten()
            .map(|partition| partition.key)
            .collect()
    }

    /// First offset of the partition.
    pub fn log_start(&self, key: PartitionKey) -> Option<Offset> {
        Some(self.state.borrow().partition(key)?.log_start)
    }

    /// Offset after the last batch that was appended, durable or not.
    pub fn log_end(&self, key: PartitionKey) -> Option<Offset> {
        Some(self.state.borrow().partition(key)?.log_end)
    }

    /// Offset after the last durable batch.
    pub fn durable_end(&self, key: PartitionKey) -> Option<Offset> {
        let state = self.state.borrow();
        let partition = state.partition(key)?;
        Some(partition.durable_end.max(partition.log_start))
    }

    /// Bytes of the partition's batches, on disk and in memory, each counted once.
    pub fn size_bytes(&self, key: PartitionKey) -> Option<u64> {
        Some(self.state.borrow().partition(key)?.bytes())
    }

    /// The largest leader epoch up to `leader_epoch` that wrote to the partition, and the offset
    /// after its last record. `None` if there is none.
    pub fn epoch_end(
        &self,
        key: PartitionKey,
        leader_epoch: LeaderEpoch,
    ) -> Option<(LeaderEpoch, Offset)> {
        self.state.borrow().partition(key)?.epoch_end(leader_epoch)
    }

    /// Moves the partition's log start up to `offset`, durably. Beyond the log end it leaves an
    /// empty log that begins there. An unknown partition comes to be with it.
    ///
    /// # Errors
    /// When the lane stops before it is durable.
    pub async fn set_log_start(
        &self,
        key: PartitionKey,
        offset: Offset,
    ) -> Result<(), StorageError> {
        let sequence = self
            .control(RecordKind::LogStart, key, Some(offset))
            .await?;
        if planted::on("log-start-before-durable") {
            return Ok(());
        }
        self.wait_durable(sequence).await
    }

    /// Removes the partition with all that it holds, durably. Its space comes back when the
    /// background task has dropped or rewritten the tables it lies in. If the process ends before that is
    /// durable, a part of the partition may still be there: whoever asked for it asks again.
    ///
    /// # Errors
    /// When the lane stops before it is durable.
    pub async fn drop_partition(&self, key: PartitionKey) -> Result<(), StorageError> {
        if self.state.borrow().slot_of(key).is_none() {
            return Ok(());
        }
        let sequence = self.control(RecordKind::DropPartition, key, None).await?;
        self.wait_durable(sequence).await
    }

    /// Applies time and size retention, `None` for no limit; returns the log start if that moved it.
    ///
    /// The new start counts at once; it becomes durable with the next commit, and tables leave
    /// the disk in the background. One that somebody else moved is not told here: it may not be
    /// durable, and they wait for that.
    pub fn enforce_retention(
        &self,
        key: PartitionKey,
        retention_ms: Option<u64>,
        retention_bytes: Option<u64>,
        now_ms: i64,
    ) -> Option<Offset> {
        let mut state = self.state.borrow_mut();
        let partition = state.partition(key)?;
        let limits = Limits {
            retention_ms,
            retention_bytes,
        };
        let start = partition.log_start;
        // What is not durable yet is not old either, whatever its timestamps say.
        let durable = partition.durable_end;
        let held = partition.held().take_while(|part| part.end <= durable);
        let moved = log_start_after(start, held, limits, now_ms);
        if moved == start || apply(&mut state, RecordKind::LogStart, key, Some(moved)).is_err() {
            return None;
        }
        drop(state);
        self.wal_wake.notify_one();
        self.keeper_wake.notify_one();
        Some(moved)
    }

    /// Bytes that the lane's files take on disk.
    pub fn disk_usage(&self) -> u64 {
        let stats = self.stats();
        stats.table_bytes + stats.wal_bytes
    }

    /// The lane's counters.
    pub fn stats(&self) -> LaneStats {
        let state = self.state.borrow();
        let memtables = state
            .frozen
            .iter()
            .map(|frozen| frozen.held_bytes)
            .sum::<usize>();
        let held = memtables + state.active.held_bytes + state.buffer.open_bytes();
        let cache = self.cache.counts();
        LaneStats {
            memtable_bytes: held as u64,
            memtables_frozen: state.frozen.len() as u64,
            memtables_kept_bytes: state.kept_bytes as u64,
            tables: state.tables.len() as u64,
            table_bytes: state.tables.file_bytes(),
            wal_files: state.wal.len() as u64,
            wal_bytes: state.wal.len() as u64 * state.config.wal_file_bytes,
            partitions: state.by_key.len() as u64,
            table_read_bytes: cache.read_bytes,
            cache_hits: cache.hits,
            cache_misses: cache.misses,
            cache_bytes: cache.bytes,
            damaged: state.damage.len() as u64,
            ..state.stats
        }
    }

    /// Writes and syncs what was appended, then ends the lane's tasks. What is in memory stays in
    /// the WAL for the next opening.
    ///
    /// # Errors
    /// When the lane had stopped before.
    pub async fn close(&self) -> Result<(), StorageError> {
        {
            let mut state = self.state.borrow_mut();
            if state.status == Status::Running {
                state.status = Status::Closing;
            }
        }
        self.wake_all();
        let tasks = self.tasks.take();
        for task in tasks {
            task.await;
        }
        let mut state = self.state.borrow_mut();
        if let Status::Stopped(reason) = &state.status {
            return Err(StorageError::Stopped {
                reason: reason.clone(),
            });
        }
        state.status = Status::Stopped("closed".to_owned());
        Ok(())
    }

    /// Appends a control record and applies it, waiting for room.
    async fn control(
        &self,
        kind: RecordKind,
        key: PartitionKey,
        offset: Option<Offset>,
    ) -> Result<u64, StorageError> {
        loop {
            let applied = apply(&mut self.state.borrow_mut(), kind, key, offset);
            self.wal_wake.notify_one();
            match applied {
                Ok(sequence) => {
                    self.keeper_wake.notify_one();
                    return Ok(sequence);
                }
                // Deleting is how space comes back: it waits where a producer is refused.
                Err(AppendError::Full | AppendError::NoSpace) => {
                    self.turned(State::is_writable).await;
                }
                Err(AppendError::Failed | AppendError::TooLarge { .. }) => {
                    return Err(self.stopped_error());
                }
            }
        }
    }

    async fn wait_durable(&self, sequence: u64) -> Result<(), StorageError> {
        loop {
            {
                let state = self.state.borrow();
                if state.durable.sequence > sequence {
                    return Ok(());
                }
                if let Status::Stopped(reason) = &state.status {
                    return Err(StorageError::Stopped {
                        reason: reason.clone(),
                    });
                }
            }
            self.durable_wake.notified().await;
        }
    }

    fn stopped_error(&self) -> StorageError {
        let reason = match &self.state.borrow().status {
            Status::Stopped(reason) => reason.clone(),
            Status::Closing | Status::Running => "closing".to_owned(),
        };
        StorageError::Stopped { reason }
    }

    /// A write failed, and no retry can be trusted: from here on nothing is written.
    fn fail(&self, error: &StorageError) {
        {
            let mut state = self.state.borrow_mut();
            if matches!(state.status, Status::Stopped(_)) {
                return;
            }
            state.status = Status::Stopped(error.to_string());
        }
        tracing::error!(dir = %self.dir.display(), %error, "the lane stops");
        if let Some(observer) = self.observer() {
            observer.failed(error);
        }
        self.wake_all();
    }

    fn observer(&self) -> Option<Rc<dyn LaneObserver>> {
        self.observer.borrow().as_ref()?.upgrade()
    }

    fn wake_all(&self) {
        let all = [
            &self.wal_wake,
            &self.wal_ready,
            &self.prepare_wake,
            &self.memory_wake,
            &self.keeper_wake,
            &self.scrub_wake,
            &self.durable_wake,
            &self.writable_wake,
        ];
        for notify in all {
            notify.notify_one();
            notify.notify_all();
        }
    }

    fn is_ending(&self) -> bool {
        self.state.borrow().status != Status::Running
    }

    fn is_stopped(&self) -> bool {
        matches!(self.state.borrow().status, Status::Stopped(_))
    }
}

/// Puts a control record into the WAL buffer and applies it to the state.
fn apply(
    state: &mut State,
    kind: RecordKind,
    key: PartitionKey,
    offset: Option<Offset>,
) -> Result<u64, AppendError> {
    let sequence = state.append_control(kind, key, offset)?;
    match (kind, offset) {
        (RecordKind::LogStart, Some(offset)) => state.apply_log_start(key, offset, sequence),
        (RecordKind::DropPartition, None) => {
            state.remove(key);
        }
        _ => unreachable!("control records are log starts with an offset and drops without"),
    }
    Ok(sequence)
}
