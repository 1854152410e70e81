//! What of a lane lies in memory: each partition's newest batches, and how much they hold.
//!
//! A [`MemLog`] is one partition's view, over all memtables. A [`Memtable`] is what is frozen and
//! flushed as one: the ranges of all partitions that were appended between two WAL places. What is flushed
//! stays in memory as long as its place is not wanted ([`FlushedMemtable`]), the latest the longest: consumers
//! that are a little behind read it there.

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

/// What a batch takes besides its bytes, in a queue that doubles when it is full.
const ENTRY_BYTES: usize = 2 * size_of::<MemBatch>();

/// The batches of one partition in one memtable: at least one.
#[derive(Debug)]
struct Segment {
    memtable: u64,
    batches: VecDeque<MemBatch>,
    /// No batch that was ever here has a larger one.
    max_timestamp: i64,
}

impl Segment {
    fn last_offset(&self) -> Offset {
        let last = self.batches.back().expect("a segment has batches");
        last.last_offset
    }

    fn bytes(&self) -> u64 {
        let lengths = self.batches.iter().map(|batch| batch.bytes.len() as u64);
        lengths.sum()
    }
}

/// One partition's batches in memory, by offset, without gaps but those that were written: first what lies
/// in tables too and stays to be read, then what lies nowhere else but in the WAL.
#[derive(Debug, Default)]
pub(crate) struct MemLog {
    segments: VecDeque<Segment>,
    /// How many segments, the oldest, are flushed.
    flushed: usize,
    /// Bytes of the batches in the others.
    bytes: u64,
}

impl MemLog {
    /// Bytes of batches that are in no table.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// The batches of all memtables, one after the other.
    pub(crate) fn into_segments(self) -> impl Iterator<Item = VecDeque<MemBatch>> {
        self.segments.into_iter().map(|segment| segment.batches)
    }

    /// The batches that are in no table.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &MemBatch> + Clone {
        let unflushed = self.segments.range(self.flushed..);
        unflushed.flat_map(|segment| segment.batches.iter())
    }

    /// For each memtable with batches that begin before `offset`, a bound on their timestamps.
    pub(crate) fn max_timestamps_before(&self, offset: Offset) -> impl Iterator<Item = i64> {
        let begins_before = move |segment: &&Segment| {
            let first = segment.batches.front();
            first.is_some_and(|batch| batch.base_offset < offset)
        };
        let segments = self.segments.iter().take_while(begins_before);
        segments.map(|segment| segment.max_timestamp)
    }

    /// Whether everything from `offset` on is here.
    pub(crate) fn reaches(&self, offset: Offset) -> bool {
        let oldest = self
            .segments
            .front()
            .and_then(|first| first.batches.front());
        oldest.is_some_and(|batch| batch.base_offset <= offset)
    }

    pub(crate) fn push(&mut self, memtable: u64, batch: FramedBatch) {
        if let Some(last) = self.segments.back() {
            assert!(
                batch.base_offset > last.last_offset() && memtable >= last.memtable,
                "batches out of order in memory"
            );
        }
        assert!(
            batch.last_offset >= batch.base_offset,
            "batch that ends before it begins"
        );
        self.bytes += batch.bytes.len() as u64;
        let batch = MemBatch {
            base_offset: batch.base_offset,
            last_offset: batch.last_offset,
            max_timestamp: batch.max_timestamp,
            bytes: batch.bytes,
        };
        match self.segments.back_mut() {
            Some(last) if last.memtable == memtable => {
                last.max_timestamp = last.max_timestamp.max(batch.max_timestamp);
                last.batches.push_back(batch);
            }
            _ => self.segments.push_back(Segment {
                memtable,
                max_timestamp: batch.max_timestamp,
                batches: VecDeque::from([batch]),
            }),
        }
    }

    /// What ends at or before `end` is in tables now.
    pub(crate) fn flushed_below(&mut self, end: Offset) {
        while let Some(segment) = self.segments.get(self.flushed) {
            if segment.last_offset() >= end {
                break;
            }
            self.count_out(segment.bytes());
            self.flushed += 1;
        }
    }

    /// Takes out what the memtable, which is flushed, has left here.
    pub(crate) fn take_flushed(&mut self, memtable: u64) -> Option<VecDeque<MemBatch>> {
        let oldest = self.segments.front()?;
        if self.flushed == 0 || oldest.memtable != memtable {
            return None;
        }
        self.flushed -= 1;
        let taken = self.segments.pop_front()?.batches;
        self.give_back();
        Some(taken)
    }

    /// Takes out the batches that end before `offset`, but for those of one memtable in part, which go at once.
    pub(crate) fn take_below(&mut self, offset: Offset) -> Vec<VecDeque<MemBatch>> {
        let mut taken = Vec::new();
        while let Some(segment) = self.segments.front_mut() {
            if segment.last_offset() >= offset {
                let below = |batch: &MemBatch| batch.last_offset < offset;
                let count = segment.batches.partition_point(below);
                let dropped = segment.batches.drain(..count);
                let bytes = dropped.map(|batch| batch.bytes.len() as u64).sum();
                if self.flushed == 0 {
                    self.count_out(bytes);
                }
                break;
            }
            if self.flushed == 0 {
                let bytes = segment.bytes();
                self.count_out(bytes);
            }
            self.flushed = self.flushed.saturating_sub(1);
            taken.extend(self.segments.pop_front().map(|segment| segment.batches));
        }
        self.give_back();
        taken
    }

    fn count_out(&mut self, bytes: u64) {
        assert!(self.bytes >= bytes, "more memory dropped than was held");
        self.bytes -= bytes;
    }

    /// An idle partition must not keep the room of its busiest hour.
    fn give_back(&mut self) {
        if self.segments.is_empty() {
            self.segments = VecDeque::new();
        }
    }

    /// The first batch that ends at or after `offset`, and those that follow it.
    pub(crate) fn batches_from(&self, offset: Offset) -> impl Iterator<Item = &MemBatch> {
        let at = self
            .segments
            .partition_point(|segment| segment.last_offset() < offset);
        let mut segments = self.segments.range(at..);
        let first = segments.next().map(|segment| {
            let below = |batch: &MemBatch| batch.last_offset < offset;
            let at = segment.batches.partition_point(below);
            segment.batches.range(at..)
        });
        let behind = segments.flat_map(|segment| segment.batches.iter());
        first.into_iter().flatten().chain(behind)
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

/// One memtable: what is flushed together and then leaves the WAL together.
#[derive(Debug)]
pub(crate) struct Memtable {
    /// Counts memtables from 1; a partition remembers in which one its last range lies.
    pub(crate) id: u64,
    /// Memory that its batches keep alive, with WAL padding, chunk rests and their own entries.
    pub(crate) held_bytes: usize,
    pub(crate) ranges: Vec<MemRange>,
    /// Where the WAL goes on after it; known when it freezes.
    pub(crate) wal_end: Option<WalPlace>,
    /// When its last commit was sealed, by the wall clock, ms: nothing in it was appended later.
    pub(crate) appended_ms: i64,
}

impl Memtable {
    pub(crate) fn new(id: u64) -> Memtable {
        Memtable {
            id,
            held_bytes: 0,
            ranges: Vec::new(),
            wal_end: None,
            appended_ms: 0,
        }
    }

    /// Something was appended at this time. A clock that goes back makes nothing older.
    pub(crate) fn note_time(&mut self, now_ms: i64) {
        self.appended_ms = self.appended_ms.max(now_ms);
    }

    /// Counts a batch in; `range` is where the partition's range stands here, if it has one.
    pub(crate) fn add(&mut self, range: Option<usize>, batch: &FramedBatch) -> usize {
        assert!(self.wal_end.is_none(), "adding to a frozen memtable");
        let end = Offset(batch.last_offset.0 + 1);
        let bytes = batch.bytes.len() as u64;
        self.held_bytes += ENTRY_BYTES;
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

/// A memtable that is in tables and still in memory.
#[derive(Debug)]
pub(crate) struct FlushedMemtable {
    pub(crate) id: u64,
    pub(crate) held_bytes: usize,
    /// Whose batches it has.
    pub(crate) slots: Vec<usize>,
}

impl From<&Memtable> for FlushedMemtable {
    fn from(memtable: &Memtable) -> FlushedMemtable {
        FlushedMemtable {
            id: memtable.id,
            held_bytes: memtable.held_bytes,
            slots: memtable.ranges.iter().map(|range| range.slot).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal::tests::Chance;

    fn batch(base: i64, last: i64) -> FramedBatch {
        FramedBatch {
            slot: 0,
            base_offset: Offset(base),
            last_offset: Offset(last),
            max_timestamp: 0,
            bytes: Buf::from(vec![0; usize::try_from(last - base + 1).unwrap()]),
        }
    }

    fn bases<'a>(batches: impl Iterator<Item = &'a MemBatch>) -> Vec<i64> {
        batches.map(|batch| batch.base_offset.0).collect()
    }

    /// What a log holds: memtable, first and last offset of each batch; and the memtables that are flushed.
    #[derive(Default)]
    struct Reference {
        batches: Vec<(u64, i64, i64)>,
        flushed: u64,
    }

    impl Reference {
        fn check(&self, log: &MemLog, seed: u64) {
            let unflushed = || {
                let all = self.batches.iter();
                all.filter(|(memtable, ..)| *memtable > self.flushed)
            };
            let expected: Vec<i64> = unflushed().map(|(_, base, _)| *base).collect();
            assert_eq!(bases(log.iter()), expected, "seed {seed}");
            let bytes: i64 = unflushed().map(|(_, base, last)| last - base + 1).sum();
            assert_eq!(log.bytes(), bytes.cast_unsigned(), "seed {seed}");
            assert_eq!(log.is_empty(), self.batches.is_empty(), "seed {seed}");
            let first = self.batches.first().map_or(i64::MAX, |(_, base, _)| *base);
            for from in (0..log_end(&self.batches) + 2).step_by(3) {
                let behind = self.batches.iter().filter(|(_, _, last)| *last >= from);
                let expected: Vec<i64> = behind.map(|(_, base, _)| *base).collect();
                assert_eq!(
                    bases(log.batches_from(Offset(from))),
                    expected,
                    "seed {seed}, from {from}"
                );
                assert_eq!(
                    log.reaches(Offset(from)),
                    first <= from,
                    "seed {seed}, from {from}"
                );
            }
        }
    }

    fn log_end(batches: &[(u64, i64, i64)]) -> i64 {
        batches.last().map_or(0, |(_, _, last)| last + 1)
    }

    #[test]
    fn a_log_over_several_memtables_is_one_log() {
        // Proves every operation of a partition's memory against a list, in random order: pushes with gaps,
        // memtables that freeze, are flushed and are evicted, log starts that move.
        for seed in 0..200 {
            let mut chance = Chance(seed);
            let (mut log, mut reference) = (MemLog::default(), Reference::default());
            let (mut memtable, mut end, mut evicted) = (1, 0_i64, 0);
            for _ in 0..60 {
                match chance.below(8) {
                    0 => memtable += 1,
                    1 if reference.flushed + 1 < memtable => {
                        reference.flushed += 1;
                        let of = |known: &&(u64, i64, i64)| known.0 <= reference.flushed;
                        let flushed = reference.batches.iter().take_while(of).last();
                        if let Some((_, _, last)) = flushed {
                            log.flushed_below(Offset(last + 1));
                        }
                    }
                    2 if evicted < reference.flushed => {
                        evicted += 1;
                        let taken = log.take_flushed(evicted).unwrap_or_default();
                        let of = |known: &&(u64, i64, i64)| known.0 == evicted;
                        let count = reference.batches.iter().take_while(of).count();
                        let gone = reference.batches.drain(..count);
                        let gone: Vec<i64> = gone.map(|(_, base, _)| base).collect();
                        assert_eq!(bases(taken.iter()), gone, "seed {seed}");
                    }
                    3 => {
                        let start = chance.below(end.cast_unsigned() + 3).cast_signed();
                        log.take_below(Offset(start));
                        reference.batches.retain(|(_, _, last)| *last >= start);
                    }
                    _ => {
                        let base = end + chance.below(3).cast_signed();
                        let last = base + chance.below(4).cast_signed();
                        log.push(memtable, batch(base, last));
                        reference.batches.push((memtable, base, last));
                        end = last + 1;
                    }
                }
                reference.check(&log, seed);
            }
        }
    }
}
