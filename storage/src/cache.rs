//! Table data in memory: what was read lately, and what sequential readers will ask for next.
//!
//! The unit is a run: whole blocks of one table that are read and verified as one, as much as the
//! read that wanted them asks for, and what is read ahead at least a megabyte. A run is read by a
//! task in the queue for cold reads, which ends whatever happens to those who wait for it; several
//! that want the same run wait for one read. A reader that goes on where an earlier read ended gets
//! the next run read before it asks.
//!
//! One run is read at a time, however many readers there are, and in small pieces as long as the lane commits: a
//! commit stands behind what is in the disk's queue already. With two runs it waits more than twice as long, and hardly
//! more is read (perf/README.md).
//!
//! Bounded in bytes; what stays is decided by [`Policy`], so that one reader of a long backlog
//! evicts neither what others read again and again nor anything in memtables.

mod policy;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use streambus_shards::disk::READ_PIECE_BYTES;
use streambus_shards::sync::{Line, Notify};
use streambus_shards::{BLOCK_BYTES, Buf, Instant, Queue, now, spawn_in};

use self::policy::Policy;
use crate::error::StorageError;
use crate::table::reader::Table;

/// Reads that are remembered to recognize their continuation: more than the partitions that one
/// core's consumers catch up on at a time.
const READS_REMEMBERED_MAX: usize = 256;
/// At least this much is read ahead: a read of the size that consumers ask for by default.
const READ_AHEAD_BYTES_MIN: u64 = 1 << 20;
/// What the disk is asked for at a time while the lane commits: a commit waits that much longer. Smaller pieces cost
/// more of what is read than they spare (perf/README.md).
pub(crate) const BESIDE_COMMITS_BYTES: usize = 128 << 10;
/// So long after a commit the next one is expected.
pub(crate) const COMMITS_EXPECTED: Duration = Duration::from_secs(1);
/// Runs that begin before a position and may hold it: they seldom overlap at all.
const OVERLAPS_MAX: usize = 4;

/// What the reads of a lane came to.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct CacheCounts {
    /// Bytes read from tables.
    pub(crate) read_bytes: u64,
    pub(crate) hits: u64,
    pub(crate) misses: u64,
    /// Bytes held now.
    pub(crate) bytes: u64,
}

/// A run's name: its table, and where its blocks begin.
type RunKey = (u64, u64);

/// A range of a table that is read or being read.
struct Run {
    blocks: Range<u64>,
    loading: Rc<Loading>,
    /// Where its last use began. One that begins there or before is another reader's, or the same
    /// one's second time; one that goes on is the same pass over it.
    last_use: Option<u64>,
}

#[derive(Default)]
struct Loading {
    bytes: RefCell<Option<Buf>>,
    done: Cell<bool>,
    done_wake: Notify,
}

struct Runs {
    by_place: BTreeMap<RunKey, Run>,
    policy: Policy<RunKey>,
    /// Where recent reads ended: table and position.
    ends: VecDeque<(u64, u64)>,
    counts: CacheCounts,
}

/// The cache of one lane.
pub(crate) struct BlockCache {
    bytes_max: usize,
    runs: RefCell<Runs>,
    /// Runs that are to be read, in the order in which they were asked for.
    line: Rc<Line>,
    /// When the lane last committed.
    committed: Cell<Option<Instant>>,
}

impl BlockCache {
    pub(crate) fn new(bytes_max: usize) -> BlockCache {
        let runs = Runs {
            by_place: BTreeMap::new(),
            policy: Policy::new(bytes_max),
            ends: VecDeque::new(),
            counts: CacheCounts::default(),
        };
        BlockCache {
            bytes_max,
            runs: RefCell::new(runs),
            line: Rc::default(),
            committed: Cell::new(None),
        }
    }

    /// Notes that the lane committed just now.
    pub(crate) fn note_commit(&self) {
        self.committed.set(Some(now()));
    }

    /// How much the disk is to be asked for at a time.
    pub(crate) fn piece_bytes(&self) -> usize {
        let committed = self.committed.get();
        if committed.is_some_and(|when| when.elapsed() < COMMITS_EXPECTED) {
            BESIDE_COMMITS_BYTES
        } else {
            READ_PIECE_BYTES
        }
    }

    pub(crate) fn counts(&self) -> CacheCounts {
        let runs = self.runs.borrow();
        CacheCounts {
            bytes: runs.policy.bytes() as u64,
            ..runs.counts
        }
    }

    /// The bytes of `range`, verified: from memory or from the disk.
    pub(crate) async fn fetch(
        self: &Rc<Self>,
        table: &Rc<Table>,
        range: Range<u64>,
    ) -> Result<Buf, StorageError> {
        let found = self.runs.borrow().loading(table.id(), &range);
        let (loading, start) = if let Some(found) = found {
            self.runs.borrow_mut().counts.hits += 1;
            found
        } else {
            self.runs.borrow_mut().counts.misses += 1;
            let blocks = table.blocks_of(&range);
            (self.load(table, blocks.clone()), blocks.start)
        };
        while !loading.done.get() {
            loading.done_wake.notified().await;
        }
        let loaded = loading.bytes.borrow().clone();
        if let Some(bytes) = loaded {
            return Ok(bytes.slice(within(&range, start)));
        }
        // The read failed, for whoever waited for it: read again, and report what comes of it.
        let blocks = table.blocks_of(&range);
        let start = blocks.start;
        let bytes = table.read_blocks(blocks).await?;
        self.runs.borrow_mut().counts.read_bytes += bytes.len() as u64;
        Ok(bytes.slice(within(&range, start)))
    }

    /// Notes that something which begins at `start` was of use to whoever fetched it: what was is kept longer.
    pub(crate) fn used(&self, table: &Table, start: u64) {
        let mut runs = self.runs.borrow_mut();
        runs.note_use(table.id(), start);
    }

    /// Notes what was read of a part, and reads on if it is sequential.
    pub(crate) fn note(self: &Rc<Self>, table: &Rc<Table>, part: &Range<u64>, read: &Range<u64>) {
        assert!(
            read.end <= part.end && read.start >= part.start,
            "read outside of its part"
        );
        let sequential = {
            let mut runs = self.runs.borrow_mut();
            runs.note_use(table.id(), read.start);
            runs.note_read(table.id(), read, part.start)
        };
        let length = (read.end - read.start).max(READ_AHEAD_BYTES_MIN);
        let next = read.end..part.end.min(table.block_start(read.end) + length);
        if !sequential || next.is_empty() || self.bytes_max == 0 {
            return;
        }
        if self.runs.borrow().covering(table.id(), &next).is_none() {
            self.load(table, table.blocks_of(&next));
        }
    }

    /// Lets go of a table that has left the lane.
    pub(crate) fn forget(&self, table: u64) {
        let mut runs = self.runs.borrow_mut();
        let of_table = runs.by_place.range((table, 0)..=(table, u64::MAX));
        let keys: Vec<RunKey> = of_table.map(|(key, _)| *key).collect();
        for key in keys {
            runs.remove(&key);
        }
    }

    /// Begins to read blocks, and keeps them if they have a place.
    fn load(self: &Rc<Self>, table: &Rc<Table>, blocks: Range<u64>) -> Rc<Loading> {
        let loading = Rc::new(Loading::default());
        let key = (table.id(), blocks.start);
        let front = self.runs.borrow().end_of_a_run(table, blocks.start);
        let kept = self
            .runs
            .borrow_mut()
            .insert(key, &blocks, &loading, self.bytes_max);
        let (this, table, handle) = (Rc::clone(self), Rc::clone(table), Rc::clone(&loading));
        let place = self.line.join();
        let load = async move {
            place.first().await;
            let piece_bytes = this.piece_bytes();
            let read = table.read_blocks_behind(&front, blocks, piece_bytes).await;
            drop(place);
            match read {
                Ok(bytes) => {
                    let read_bytes = (bytes.len() - front.len()) as u64;
                    this.runs.borrow_mut().counts.read_bytes += read_bytes;
                    handle.bytes.replace(Some(bytes));
                }
                Err(error) => {
                    tracing::debug!(%error, "a read into the cache failed");
                    if kept {
                        this.runs.borrow_mut().remove_if(&key, &handle);
                    }
                }
            }
            handle.done.set(true);
            handle.done_wake.notify_all();
        };
        spawn_in(Queue::ColdRead, load).detach();
        loading
    }
}

impl Runs {
    /// The run that holds all of `range`.
    fn covering(&self, table: u64, range: &Range<u64>) -> Option<RunKey> {
        let before = self.by_place.range((table, 0)..=(table, range.start)).rev();
        let mut near = before.take(OVERLAPS_MAX);
        near.find(|(_, run)| range.end <= run.blocks.end)
            .map(|(key, _)| *key)
    }

    /// Its bytes, which may be on their way, and where they begin.
    fn loading(&self, table: u64, range: &Range<u64>) -> Option<(Rc<Loading>, u64)> {
        let key = self.covering(table, range)?;
        let run = self.by_place.get(&key)?;
        Some((Rc::clone(&run.loading), run.blocks.start))
    }

    /// What a run has from here to its end, where the next one begins in it: a batch lies over its end as a rule.
    fn end_of_a_run(&self, table: &Table, start: u64) -> Buf {
        let first_block = start..start + 1;
        let found = self.loading(table.id(), &first_block);
        let bytes = found.and_then(|(loading, run)| {
            let bytes = loading.bytes.borrow().clone()?;
            Some(bytes.slice(within(&(start..run + bytes.len() as u64), run)))
        });
        bytes.unwrap_or_else(Buf::empty)
    }

    /// Notes that what begins at `start` was used.
    fn note_use(&mut self, table: u64, start: u64) {
        let Some(key) = self.covering(table, &(start..start + 1)) else {
            return;
        };
        let run = self.by_place.get_mut(&key).expect("just found");
        if run.last_use.is_none_or(|last| start <= last) {
            self.policy.used(&key);
        }
        run.last_use = Some(start);
    }

    /// Remembers where the read ended; says whether it went on where another had ended, or began
    /// the part.
    fn note_read(&mut self, table: u64, read: &Range<u64>, part_start: u64) -> bool {
        let goes_on = self.ends.iter().position(|end| *end == (table, read.start));
        if let Some(at) = goes_on {
            self.ends.remove(at);
        }
        if self.ends.len() == READS_REMEMBERED_MAX {
            self.ends.pop_front();
        }
        self.ends.push_back((table, read.end));
        goes_on.is_some() || read.start == part_start
    }

    /// Gives the run a place, if it is not larger than the cache; says whether it did.
    fn insert(
        &mut self,
        key: RunKey,
        blocks: &Range<u64>,
        loading: &Rc<Loading>,
        bytes_max: usize,
    ) -> bool {
        // Reads are of whole device blocks: that much memory they take.
        let bytes = length(blocks).next_multiple_of(BLOCK_BYTES);
        if bytes > bytes_max {
            return false;
        }
        self.remove(&key); // A shorter run that begins at the same block.
        for evicted in self.policy.insert(key, bytes) {
            self.by_place.remove(&evicted);
        }
        let run = Run {
            blocks: blocks.clone(),
            loading: Rc::clone(loading),
            last_use: None,
        };
        self.by_place.insert(key, run);
        true
    }

    fn remove(&mut self, key: &RunKey) {
        self.policy.remove(key);
        self.by_place.remove(key);
    }

    fn remove_if(&mut self, key: &RunKey, loading: &Rc<Loading>) {
        let same = self
            .by_place
            .get(key)
            .is_some_and(|run| Rc::ptr_eq(&run.loading, loading));
        if same {
            self.remove(key);
        }
    }
}

fn length(range: &Range<u64>) -> usize {
    usize::try_from(range.end - range.start).expect("ranges fit memory")
}

fn within(range: &Range<u64>, start: u64) -> Range<usize> {
    let from = usize::try_from(range.start - start).expect("ranges fit memory");
    from..from + length(range)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal::tests::Chance;

    #[test]
    fn every_run_that_is_kept_is_counted() {
        // Proves, over random histories, that a run has a place exactly while the policy has its
        // key: one that the policy does not know would stay for ever and count for nothing.
        let block = BLOCK_BYTES as u64;
        let bytes_max = 8 * BLOCK_BYTES;
        for seed in 0..50 {
            let mut chance = Chance(seed);
            let mut runs = BlockCache::new(bytes_max).runs.into_inner();
            for step in 0..2_000 {
                let start = chance.below(16) * block;
                let key = (chance.below(2), start);
                match chance.below(8) {
                    0 => runs.remove(&key),
                    1..5 => runs.note_use(key.0, start),
                    _ if runs.by_place.contains_key(&key) => {}
                    _ => {
                        let blocks = start..start + (1 + chance.below(3)) * block;
                        assert!(runs.insert(key, &blocks, &Rc::default(), bytes_max));
                    }
                }
                let at = format!("seed {seed}, step {step}");
                for key in runs.by_place.keys() {
                    assert!(runs.policy.holds(key), "{at}: {key:?} is not counted");
                }
                let placed = runs.by_place.values().map(|run| length(&run.blocks));
                assert_eq!(placed.sum::<usize>(), runs.policy.bytes(), "{at}");
            }
        }
    }
}
