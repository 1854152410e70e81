//! Table data on its way to sequential readers before they ask for it.
//!
//! A reader that goes on where an earlier read ended gets the next range read in the background.
//! Bounded in bytes, first in first out: a cold reader can evict other cold readers' ranges, but
//! nothing that lies in memtables.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;

use streambus_shards::sync::Notify;
use streambus_shards::{Buf, Queue, spawn_in};

use crate::error::StorageError;
use crate::table::reader::Table;

/// Reads that are remembered to recognize their continuation: more than the partitions that one
/// core's consumers catch up on at a time.
const READS_REMEMBERED_MAX: usize = 256;

/// At least this much is read ahead: a read of the size that consumers ask for by default.
const READ_AHEAD_BYTES_MIN: u64 = 1 << 20;

/// What the reads of a lane came to.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ReadCounts {
    pub(crate) read_bytes: u64,
    pub(crate) hits: u64,
}

/// A range of a table that is read or being read.
struct Run {
    table: u64,
    blocks: Range<u64>,
    loading: Rc<Loading>,
}

#[derive(Default)]
struct Loading {
    bytes: RefCell<Option<Buf>>,
    done: Cell<bool>,
    done_wake: Notify,
}

#[derive(Default)]
struct Runs {
    list: VecDeque<Run>,
    bytes: usize,
    /// Where recent reads ended: table and position.
    ends: VecDeque<(u64, u64)>,
    counts: ReadCounts,
}

/// The read-ahead of one lane.
pub(crate) struct ReadAhead {
    bytes_max: usize,
    runs: RefCell<Runs>,
}

impl ReadAhead {
    pub(crate) fn new(bytes_max: usize) -> ReadAhead {
        ReadAhead {
            bytes_max,
            runs: RefCell::default(),
        }
    }

    pub(crate) fn counts(&self) -> ReadCounts {
        self.runs.borrow().counts
    }

    /// The bytes of `range`, verified: from what was read ahead, or from the disk.
    pub(crate) async fn fetch(
        &self,
        table: &Table,
        range: Range<u64>,
    ) -> Result<Buf, StorageError> {
        let found = self.runs.borrow().covering(table.id(), &range);
        if let Some((loading, start)) = found {
            while !loading.done.get() {
                loading.done_wake.notified().await;
            }
            let loaded = loading.bytes.borrow().clone();
            if let Some(bytes) = loaded {
                self.runs.borrow_mut().counts.hits += 1;
                return Ok(bytes.slice(within(&range, start)));
            }
            // Reading ahead failed: read again, and report what comes of it.
        }
        let blocks = table.blocks_of(&range);
        let start = blocks.start;
        let bytes = table.read_blocks(blocks).await?;
        self.runs.borrow_mut().counts.read_bytes += bytes.len() as u64;
        Ok(bytes.slice(within(&range, start)))
    }

    /// Notes what was read of a part that ends at `part_end`, and reads on if it is sequential.
    pub(crate) fn note(self: &Rc<Self>, table: &Rc<Table>, part: &Range<u64>, read: &Range<u64>) {
        assert!(
            read.end <= part.end && read.start >= part.start,
            "read outside of its part"
        );
        let sequential = self
            .runs
            .borrow_mut()
            .note_read(table.id(), read, part.start);
        let length = (read.end - read.start).max(READ_AHEAD_BYTES_MIN);
        let next = read.end..part.end.min(table.block_start(read.end) + length);
        if !sequential || next.is_empty() || self.bytes_max == 0 {
            return;
        }
        let blocks = table.blocks_of(&next);
        let Some(loading) = self.runs.borrow_mut().begin(table.id(), &next, &blocks) else {
            return;
        };
        self.runs.borrow_mut().evict(self.bytes_max);
        let (this, table) = (Rc::clone(self), Rc::clone(table));
        let load = async move {
            match table.read_blocks(blocks).await {
                Ok(bytes) => {
                    this.runs.borrow_mut().counts.read_bytes += bytes.len() as u64;
                    loading.bytes.replace(Some(bytes));
                }
                Err(error) => tracing::debug!(%error, "reading ahead failed"),
            }
            loading.done.set(true);
            loading.done_wake.notify_all();
        };
        spawn_in(Queue::Background, load).detach();
    }
}

impl Runs {
    fn covering(&self, table: u64, range: &Range<u64>) -> Option<(Rc<Loading>, u64)> {
        let mut runs = self.list.iter();
        let run = runs.find(|run| {
            run.table == table && run.blocks.start <= range.start && range.end <= run.blocks.end
        })?;
        Some((Rc::clone(&run.loading), run.blocks.start))
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

    /// Makes place for a range, unless it is there.
    fn begin(
        &mut self,
        table: u64,
        range: &Range<u64>,
        blocks: &Range<u64>,
    ) -> Option<Rc<Loading>> {
        if self.covering(table, range).is_some() {
            return None;
        }
        let loading = Rc::new(Loading::default());
        self.bytes += length(blocks);
        let run = Run {
            table,
            blocks: blocks.clone(),
            loading: Rc::clone(&loading),
        };
        self.list.push_back(run);
        Some(loading)
    }

    fn evict(&mut self, bytes_max: usize) {
        while self.bytes > bytes_max {
            let Some(oldest) = self.list.pop_front() else {
                break;
            };
            self.bytes -= length(&oldest.blocks);
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
