//! Moves commits to disk, one at a time: all that was appended while one was synced goes into the
//! next. There is no timer; the first append after a pause wakes the writer.

use std::rc::Rc;
use std::time::Duration;

use streambus_shards::{
    DiskError, File, Instant, log_memory_is_short, now, planted, sleep, stock_log_memory,
    yield_if_needed,
};

use super::Lane;
use super::state::QueuedCommit;
use crate::config::SyncMode;
use crate::error::StorageError;
use crate::observer::{CommitMeasured, LaneObserver};

/// How long a core may compute for the background while a commit is under way.
const STRETCH: Duration = Duration::from_micros(200);
/// Pieces of log memory that stand ready on a core: what a fast disk takes in some milliseconds.
const READY_PIECES: usize = 16;

/// The WAL writer. Ends when the lane is closed and everything is written, or when it stopped. Until then it
/// keeps the owner, who is told of each commit and asked at each freeze.
pub(super) async fn write_commits(lane: Rc<Lane>, _owner: Rc<dyn LaneObserver>) {
    loop {
        lane.freeze_if_due();
        let next = lane.state.borrow_mut().next_commit();
        let Some(commit) = next else {
            if lane.is_ending() {
                lane.prepare_wake.notify_one();
                return;
            }
            lane.wal_wake.notified().await;
            continue;
        };
        if let Err(error) = lane.write_commit(commit).await {
            lane.fail(&error);
            return;
        }
        if lane.is_stopped() {
            return;
        }
    }
}

impl Lane {
    /// Lets others run between two steps of work that takes the core's time, and a commit that is under way come to its
    /// end: on a disk without FUA a worker of the kernel syncs it, as a rule on this CPU, and the kernel does not take the
    /// CPU from this thread for it. `since` is when the core last had nothing to do for this work.
    pub(super) async fn give_way(&self, since: &mut Instant) {
        if self.commit_under_way.get() && since.elapsed() >= STRETCH {
            self.durable_wake.notified().await;
            *since = now();
        } else {
            yield_if_needed().await;
        }
    }

    async fn write_commit(&self, commit: QueuedCommit) -> Result<(), StorageError> {
        let epoch = commit.place.epoch;
        let Some(file) = self.wal_file(epoch).await else {
            return Ok(()); // The lane stopped while it waited: nothing is acknowledged.
        };
        let begun = now();
        let sync = self.state.borrow().config.sync;
        self.commit_under_way.set(true);
        let outcome = write_and_sync(&file, &commit, sync).await;
        self.commit_under_way.set(false);
        outcome.map_err(|source| StorageError::disk(&self.wal_files.path(epoch), source))?;
        let measured = CommitMeasured {
            bytes: commit.bytes.len(),
            records: commit.records,
            sync: begun.elapsed(),
        };
        self.acknowledge(commit, measured);
        Ok(())
    }

    /// The sync returned: what the commit holds is durable, and everybody may know.
    fn acknowledge(&self, commit: QueuedCommit, measured: CommitMeasured) {
        let durable = {
            let mut state = self.state.borrow_mut();
            let counters = &mut state.stats;
            counters.commits += 1;
            counters.commit_bytes += measured.bytes as u64;
            counters.commit_records += u64::from(measured.records);
            counters.sync_ns += u64::try_from(measured.sync.as_nanos()).unwrap_or(u64::MAX);
            state.committed(commit.next, commit.ends)
        };
        self.cache.note_commit();
        if let Some(observer) = self.observer() {
            observer.measured(measured);
            if !durable.is_empty() {
                observer.durable(&durable);
            }
        }
        self.durable_wake.notify_all();
        if !self.state.borrow().frozen.is_empty() {
            self.keeper_wake.notify_one(); // It waits for its memtable to be durable.
        }
        self.prepare_wake.notify_one();
        if log_memory_is_short(READY_PIECES) {
            self.memory_wake.notify_one();
        }
    }

    /// The file of `epoch`, when it is ready; `None` if the lane stops before.
    async fn wal_file(&self, epoch: u64) -> Option<Rc<File>> {
        loop {
            if self.is_stopped() {
                return None;
            }
            let file = {
                let mut state = self.state.borrow_mut();
                let file = state.wal.get(&epoch).map(Rc::clone);
                state.file_awaited = file.is_none().then_some(epoch);
                file
            };
            if file.is_some() {
                return file;
            }
            self.tell_if_starved();
            self.prepare_wake.notify_one();
            self.wal_ready.notified().await;
        }
    }

    /// Freezes the active memtable when it is full, with the owner's annotations as of now.
    fn freeze_if_due(&self) {
        let Some(observer) = self.observer() else {
            return;
        };
        if self.is_ending() || !self.state.borrow().freeze_is_due() {
            return;
        }
        let keys = self.state.borrow_mut().active_keys();
        // The state is not borrowed here: the owner may look things up in the lane.
        let annotation =
            |key: &Option<_>| key.map_or_else(Vec::new, |key| observer.annotation(key));
        let annotations = keys.iter().map(annotation).collect();
        self.state.borrow_mut().freeze(annotations);
        self.keeper_wake.notify_one();
        self.writable_wake.notify_all();
    }
}

async fn write_and_sync(
    file: &File,
    commit: &QueuedCommit,
    sync: SyncMode,
) -> Result<(), DiskError> {
    let (position, bytes) = (commit.place.position, &commit.bytes);
    match sync {
        SyncMode::Dsync => file.write_at(position, bytes).await,
        SyncMode::WriteThenSync => file.write_synced(position, bytes).await,
    }
}

/// Makes the next WAL file ready while the current one fills.
pub(super) async fn keep_files_ready(lane: Rc<Lane>) {
    loop {
        let missing = lane.state.borrow().wal_epoch_missing();
        // A closing lane may still need the file that its last commits go to.
        let wanted = missing.filter(|epoch| !lane.is_ending() || lane.commits_wait_for(*epoch));
        let Some(epoch) = wanted else {
            if lane.is_stopped() || (lane.is_ending() && lane.nothing_to_write()) {
                return;
            }
            lane.prepare_wake.notified().await;
            continue;
        };
        if let Err(error) = lane.make_ready(epoch).await {
            lane.fail(&error);
            return;
        }
    }
}

/// Has memory for the next commits ready, so that an append need not wait until the kernel has found some.
pub(super) async fn keep_memory_ready(lane: Rc<Lane>) {
    while !lane.is_ending() {
        stock_log_memory(READY_PIECES).await;
        lane.memory_wake.notified().await;
    }
}

impl Lane {
    fn nothing_to_write(&self) -> bool {
        let state = self.state.borrow();
        let durable = state.durable.commit_id;
        !state.buffer.has_open_commit() && durable == state.buffer.place().commit_id
    }

    fn commits_wait_for(&self, epoch: u64) -> bool {
        !self.is_stopped() && !self.nothing_to_write() && {
            self.state.borrow().buffer.place().epoch >= epoch
        }
    }

    /// Recycles or makes the file of `epoch`; waits and asks again while there is no space.
    async fn make_ready(&self, epoch: u64) -> Result<(), StorageError> {
        loop {
            match self.obtain_file(epoch).await {
                Ok(file) => {
                    let mut state = self.state.borrow_mut();
                    let before = state.wal.insert(epoch, file);
                    assert!(before.is_none(), "WAL file {epoch} was ready already");
                    drop(state);
                    self.space_came_back();
                    self.wal_ready.notify_all();
                    return Ok(());
                }
                Err(error) if error.is_no_space() && !self.is_ending() => {
                    self.wal_files.abandon(epoch).await;
                    self.wait_for_space(&error).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn obtain_file(&self, epoch: u64) -> Result<Rc<File>, StorageError> {
        let spare = {
            let mut state = self.state.borrow_mut();
            let floor = if planted::on("recycle-too-early") {
                state.durable.epoch.min(epoch)
            } else {
                state.floor.epoch
            };
            let oldest = state.wal.first_key_value().map(|(old_epoch, _)| *old_epoch);
            let oldest = oldest.filter(|old_epoch| *old_epoch < floor);
            oldest.and_then(|old_epoch| Some((old_epoch, state.wal.remove(&old_epoch)?)))
        };
        match spare {
            Some((old_epoch, file)) => self.wal_files.recycle(old_epoch, epoch, file).await,
            None => self.wal_files.create(epoch).await,
        }
    }

    /// Notes that space is wanted (appends that need it are refused as such, those that wait for room too) and
    /// waits a while.
    pub(super) async fn wait_for_space(&self, error: &StorageError) {
        let (turned, retry) = {
            let mut state = self.state.borrow_mut();
            let before = std::mem::replace(&mut state.no_space, true);
            (!before, state.config.no_space_retry)
        };
        if turned {
            tracing::warn!(dir = %self.dir.display(), %error, "waiting for space");
            self.writable_wake.notify_all();
            self.tell_if_starved();
        }
        sleep(retry).await;
    }

    pub(super) fn space_came_back(&self) {
        if planted::on("wake-nobody-after-space") {
            return;
        }
        let mut state = self.state.borrow_mut();
        if state.no_space {
            tracing::info!(dir = %self.dir.display(), "space came back");
            state.no_space = false;
        }
        drop(state);
        self.writable_wake.notify_all();
    }
}
