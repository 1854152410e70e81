//! One partition in its lane: where its offsets lie, from the oldest table to memory.

use std::collections::VecDeque;
use std::rc::Rc;

use streambus_proto::ids::{LeaderEpoch, Offset};

use crate::clean::Undecided;
use crate::key::PartitionKey;
use crate::manifest::{Annotation, PartitionEntry};
use crate::memtable::{MemBatch, MemLog};
use crate::retention::Held;
use crate::table::footer::TablePart;
use crate::table::reader::Table;

/// What one table holds of the partition.
#[derive(Debug, Clone)]
pub(crate) struct TableRange {
    pub(crate) table: Rc<Table>,
    /// Number of the part in the table's footer.
    pub(crate) part: usize,
    pub(crate) start: Offset,
    pub(crate) end: Offset,
}

impl TableRange {
    pub(crate) fn new(table: &Rc<Table>, part: usize) -> TableRange {
        let TablePart { start, end, .. } = *table.part(part);
        TableRange {
            table: Rc::clone(table),
            part,
            start,
            end,
        }
    }

    pub(crate) fn part(&self) -> &TablePart {
        self.table.part(self.part)
    }
}

/// What a log start has moved past.
#[derive(Debug, Default)]
pub(crate) struct Passed {
    pub(crate) ranges: Vec<TableRange>,
    pub(crate) batches: Vec<VecDeque<MemBatch>>,
}

/// A partition's state. Lives on the lane's core.
///
/// Order: `log_start ≤ log_end`, `durable_end ≤ log_end`; `ranges` ascend and end before the
/// first batch in `mem` that is not flushed; `epochs` ascend in both fields.
#[derive(Debug)]
pub(crate) struct Partition {
    pub(crate) key: PartitionKey,
    pub(crate) log_start: Offset,
    pub(crate) log_end: Offset,
    pub(crate) durable_end: Offset,
    /// WAL sequence number of its first record: see [`PartitionEntry::created_sequence`].
    pub(crate) created_sequence: u64,
    pub(crate) epochs: Vec<(LeaderEpoch, Offset)>,
    pub(crate) ranges: Vec<TableRange>,
    pub(crate) mem: MemLog,
    pub(crate) annotation: Option<Annotation>,
    /// Up to here it was cleaned: see [`PartitionEntry::cleaned_end`].
    pub(crate) cleaned_end: Offset,
    /// The last survey that decided nothing. Not durable: it is made once more.
    pub(crate) undecided: Option<Undecided>,
    /// Its tables get filters on the keys. Not durable: a partition is one if its tables have them,
    /// or once its owner asks for it to be cleaned.
    pub(crate) keyed: bool,
    /// When its last batch in memory was appended, by the wall clock, ms: the age of those without a timestamp.
    pub(crate) appended_ms: i64,
    /// The memtable that its last batch went to, and its range's number there.
    pub(crate) memtable: Option<(u64, usize)>,
    /// The commit that its last batch went to, and its number among that commit's ends.
    pub(crate) commit: Option<(u64, usize)>,
}

impl Partition {
    pub(crate) fn new(key: PartitionKey, created_sequence: u64) -> Partition {
        Partition {
            key,
            log_start: Offset(0),
            log_end: Offset(0),
            durable_end: Offset(0),
            created_sequence,
            epochs: Vec::new(),
            ranges: Vec::new(),
            mem: MemLog::default(),
            annotation: None,
            cleaned_end: Offset(0),
            undecided: None,
            keyed: false,
            appended_ms: 0,
            memtable: None,
            commit: None,
        }
    }

    pub(crate) fn from_entry(entry: PartitionEntry) -> Partition {
        let mut partition = Partition::new(entry.key, entry.created_sequence);
        partition.log_start = entry.log_start;
        partition.epochs = entry.epochs;
        partition.annotation = entry.annotation;
        partition.cleaned_end = entry.cleaned_end;
        partition
    }

    /// Something was appended at this time. A clock that goes back makes nothing older.
    pub(crate) fn note_time(&mut self, now_ms: i64) {
        self.appended_ms = self.appended_ms.max(now_ms);
    }

    /// Where the next survey begins.
    pub(crate) fn dirty_start(&self) -> Offset {
        self.cleaned_end.max(self.log_start)
    }

    pub(crate) fn entry(&self) -> PartitionEntry {
        PartitionEntry {
            key: self.key,
            log_start: self.log_start,
            created_sequence: self.created_sequence,
            cleaned_end: self.cleaned_end,
            epochs: self.epochs.clone(),
            annotation: self.annotation.clone(),
        }
    }

    /// Notes that `leader_epoch` writes from `start` on. What an epoch claimed at or after that
    /// offset was never written, or is written over.
    pub(crate) fn note_epoch(&mut self, leader_epoch: LeaderEpoch, start: Offset) {
        if self
            .epochs
            .last()
            .is_some_and(|(last, _)| *last >= leader_epoch)
        {
            return;
        }
        while self.epochs.last().is_some_and(|(_, begun)| *begun >= start) {
            self.epochs.pop();
        }
        self.epochs.push((leader_epoch, start));
        assert!(self.epochs.is_sorted(), "leader epochs out of order");
    }

    /// The largest epoch up to `leader_epoch` that wrote here, and the offset after its last
    /// record.
    pub(crate) fn epoch_end(&self, leader_epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        let after = self
            .epochs
            .partition_point(|(epoch, _)| *epoch <= leader_epoch);
        let (epoch, _) = *self.epochs.get(after.checked_sub(1)?)?;
        let end = self
            .epochs
            .get(after)
            .map_or(self.log_end, |(_, start)| *start);
        Some((epoch, end))
    }

    /// Moves the log start up; lets go of what lies before it. Returns the ranges and the batches in memory
    /// that nobody needs any more. A start beyond the end leaves an empty log that begins there.
    pub(crate) fn move_log_start(&mut self, offset: Offset) -> Passed {
        if offset <= self.log_start {
            return Passed::default();
        }
        self.log_start = offset;
        self.log_end = self.log_end.max(offset);
        let batches = self.mem.take_below(offset);
        let dead = self.ranges.partition_point(|range| range.end <= offset);
        let ranges = self.ranges.drain(..dead).collect();
        while self
            .epochs
            .get(1)
            .is_some_and(|(_, start)| *start <= offset)
        {
            self.epochs.remove(0);
        }
        assert!(self.log_start <= self.log_end, "log start past the end");
        Passed { ranges, batches }
    }

    /// Adds what was flushed; the same batches may leave memory from now on.
    pub(crate) fn install(&mut self, range: TableRange) {
        let after_last = self
            .ranges
            .last()
            .is_none_or(|last| last.end <= range.start);
        assert!(after_last, "table ranges out of order");
        self.mem.flushed_below(range.end);
        self.ranges.push(range);
    }

    /// The table range that `offset` lies in, or the next one after it.
    pub(crate) fn range_at(&self, offset: Offset) -> Option<&TableRange> {
        self.nth_range_at(offset).map(|(_, range)| range)
    }

    /// That range with its number.
    pub(crate) fn nth_range_at(&self, offset: Offset) -> Option<(usize, &TableRange)> {
        let at = self.ranges.partition_point(|range| range.end <= offset);
        Some((at, self.ranges.get(at)?))
    }

    /// Puts `new` in the place of the ranges that `replaced` picks, which are adjacent; returns
    /// them. Without any there is no place for it.
    pub(crate) fn replace(
        &mut self,
        replaced: impl Fn(&TableRange) -> bool,
        new: TableRange,
    ) -> Vec<TableRange> {
        let Some(first) = self.ranges.iter().position(&replaced) else {
            return Vec::new();
        };
        let count = self
            .ranges
            .iter()
            .skip(first)
            .take_while(|range| replaced(range))
            .count();
        let (start, end) = (new.start, new.end);
        let old = self.ranges.splice(first..first + count, [new]).collect();
        let behind = self.ranges.get(first + 1);
        assert!(
            behind.is_none_or(|next| next.start >= end && !replaced(next)),
            "a new range reaches into the next"
        );
        let before = first.checked_sub(1).and_then(|at| self.ranges.get(at));
        assert!(
            before.is_none_or(|before| before.end <= start),
            "a new range reaches into the one before"
        );
        old
    }

    /// Bytes of batches, in tables and memory.
    pub(crate) fn bytes(&self) -> u64 {
        let tables: u64 = self.ranges.iter().map(|range| range.part().bytes).sum();
        tables + self.mem.bytes()
    }

    /// What retention decides over, oldest first. What has no timestamp is as old as its file, as in Kafka: as the last
    /// batch of the memtable that its table was flushed from, or, in memory, as the partition's last batch.
    pub(crate) fn held(&self) -> impl Iterator<Item = Held> + Clone {
        let tables = self.ranges.iter().map(|range| {
            let part = range.part();
            Held {
                end: range.end,
                bytes: part.bytes,
                max_timestamp: or_else(part.max_timestamp, range.table.written_ms()),
            }
        });
        let memory = self.mem.iter().map(|batch| Held {
            end: Offset(batch.last_offset.0 + 1),
            bytes: batch.bytes.len() as u64,
            max_timestamp: or_else(batch.max_timestamp, self.appended_ms),
        });
        tables.chain(memory)
    }
}

/// The largest timestamp of some records, or another time if they have none.
fn or_else(max_timestamp: i64, written_ms: i64) -> i64 {
    if max_timestamp < 0 {
        written_ms
    } else {
        max_timestamp
    }
}

#[cfg(test)]
mod tests {
    use streambus_proto::ids::TopicId;

    use super::*;

    fn partition() -> Partition {
        let key = PartitionKey {
            topic: TopicId([1; 16]),
            index: 0,
        };
        Partition::new(key, 1)
    }

    #[test]
    fn epochs_end_where_the_next_begins() {
        // Proves the rule of OffsetForLeaderEpoch, and that an epoch that wrote nothing is replaced.
        let mut partition = partition();
        partition.note_epoch(LeaderEpoch(1), Offset(0));
        partition.note_epoch(LeaderEpoch(3), Offset(10));
        partition.note_epoch(LeaderEpoch(3), Offset(15));
        partition.note_epoch(LeaderEpoch(5), Offset(20));
        partition.note_epoch(LeaderEpoch(6), Offset(20));
        partition.log_end = Offset(25);
        let cases = [
            (0, None),
            (1, Some((1, 10))),
            (2, Some((1, 10))),
            (3, Some((3, 20))),
            (5, Some((3, 20))),
            (6, Some((6, 25))),
            (9, Some((6, 25))),
        ];
        for (asked, expected) in cases {
            let expected = expected.map(|(epoch, end)| (LeaderEpoch(epoch), Offset(end)));
            assert_eq!(
                partition.epoch_end(LeaderEpoch(asked)),
                expected,
                "epoch {asked}"
            );
        }
    }

    #[test]
    fn a_log_start_beyond_the_end_empties_the_log() {
        // Proves that a reset leaves an empty log at the new start, and that the start never goes back.
        let mut partition = partition();
        partition.log_end = Offset(10);
        assert!(partition.move_log_start(Offset(50)).ranges.is_empty());
        assert_eq!(
            (partition.log_start, partition.log_end),
            (Offset(50), Offset(50))
        );
        partition.move_log_start(Offset(20));
        assert_eq!(partition.log_start, Offset(50));
    }
}
