//! What of a lane lies in memory: each partition's newest batches, and how much they hold.
//!
//! A [`MemLog`] is one partition's view, over all memtables. A [`Memtable`] is what is frozen and
//! flushed as one: the ranges of all partitions that were appended between two WAL places.

use std::collections::VecDeque;

use streambus_proto::ids::Offset;
use streambus_shards::Buf;

use crate::wal::WalPlace;
use crate::wal::buffer::FramedBatch;

/// A batch in memory: a slice of the WAL's own memory, never a copy.
#[derive(Debug, Clone)]
pub(crate) struct MemBatch {
    pub(crate) base_offset: Offset,
    pub(crate) last_offset: Offset,
    pub(crate) max_timestamp: i64,
    pub(crate) bytes: Buf,
}

/// One partition's batches in memory, by offset, without gaps but those that were written.
#[derive(Debug, Default)]
pub(crate) struct MemLog {
    batches: VecDeque<MemBatch>,
    bytes: u64,
}

impl MemLog {
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &MemBatch> + Clone {
        self.batches.iter()
    }

    pub(crate) fn push(&mut self, batch: FramedBatch) {
        if let Some(last) = self.batches.back() {
            assert!(
                batch.base_offset > last.last_offset,
                "batches out of order in memory"
            );
        }
        assert!(
            batch.last_offset >= batch.base_offset,
            "batch that ends before it begins"
        );
        self.bytes += batch.bytes.len() as u64;
        self.batches.push_back(MemBatch {
            base_offset: batch.base_offset,
            last_offset: batch.last_offset,
            max_timestamp: batch.max_timestamp,
            bytes: batch.bytes,
        });
    }

    /// Lets go of the batches that end before `offset`.
    pub(crate) fn drop_below(&mut self, offset: Offset) {
        while self
            .batches
            .front()
            .is_some_and(|batch| batch.last_offset < offset)
        {
            self.pop_front();
        }
        self.give_back();
    }

    fn pop_front(&mut self) {
        if let Some(batch) = self.batches.pop_front() {
            let bytes = batch.bytes.len() as u64;
            assert!(self.bytes >= bytes, "more memory dropped than was held");
            self.bytes -= bytes;
        }
    }

    /// An idle partition must not keep the room of its busiest hour.
    fn give_back(&mut self) {
        if self.batches.is_empty() {
            self.batches = VecDeque::new();
        }
    }

    /// The first batch that ends at or after `offset`, and those that follow it.
    pub(crate) fn batches_from(&self, offset: Offset) -> impl Iterator<Item = &MemBatch> {
        let first = self
            .batches
            .partition_point(|batch| batch.last_offset < offset);
        self.batches.range(first..)
    }

    /// The batches of `range` (all of them lie in memory), for the flusher.
    pub(crate) fn batches_between(&self, start: Offset, end: Offset) -> Vec<MemBatch> {
        let inside = |batch: &&MemBatch| batch.base_offset < end;
        self.batches_from(start)
            .take_while(inside)
            .cloned()
            .collect()
    }
}

/// What one partition has in one memtable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MemRange {
    /// Number of the partition in the lane.
    pub(crate) slot: usize,
    pub(crate) start: Offset,
    pub(crate) end: Offset,
    pub(crate) bytes: u64,
    /// The owner's state at `end`, taken when the memtable froze.
    pub(crate) annotation: Vec<u8>,
}

/// One memtable: what is flushed together and then leaves memory and WAL together.
#[derive(Debug)]
pub(crate) struct Memtable {
    /// Counts memtables from 1; a partition remembers in which one its last range lies.
    pub(crate) id: u64,
    /// Memory that its batches keep alive, with WAL padding and chunk rests.
    pub(crate) held_bytes: usize,
    pub(crate) ranges: Vec<MemRange>,
    /// Where the WAL goes on after it; known when it freezes.
    pub(crate) wal_end: Option<WalPlace>,
}

impl Memtable {
    pub(crate) fn new(id: u64) -> Memtable {
        Memtable {
            id,
            held_bytes: 0,
            ranges: Vec::new(),
            wal_end: None,
        }
    }

    /// Counts a batch in; `range` is where the partition's range stands here, if it has one.
    pub(crate) fn add(&mut self, range: Option<usize>, batch: &FramedBatch) -> usize {
        assert!(self.wal_end.is_none(), "adding to a frozen memtable");
        let end = Offset(batch.last_offset.0 + 1);
        let bytes = batch.bytes.len() as u64;
        let Some(at) = range else {
            self.ranges.push(MemRange {
                slot: batch.slot,
                start: batch.base_offset,
                end,
                bytes,
                annotation: Vec::new(),
            });
            return self.ranges.len() - 1;
        };
        let range = self
            .ranges
            .get_mut(at)
            .expect("the partition's range in this memtable");
        assert!(range.slot == batch.slot, "range of another partition");
        assert!(range.end <= batch.base_offset, "memtable range goes back");
        range.end = end;
        range.bytes += bytes;
        at
    }
}
