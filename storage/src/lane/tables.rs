//! The tables that a lane has, and what the keeper asks of them at every step, kept as they change: which are dead,
//! which are worth to be rewritten, which are to be merged next, and how large they are in sum.
//!
//! A lane may have tens of thousands of tables. The keeper takes its steps every 256 KiB, so no step may look at all of
//! them: each change of one table moves it in the orders here, in logarithmic time.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use crate::config::LaneConfig;
use crate::key::PartitionKey;
use crate::merge::{Merge, MergeQueue, MergeRules, TableFacts};
use crate::table::reader::Table;

/// A table that the lane has, and how much of it is still needed.
#[derive(Debug)]
pub(crate) struct LiveTable {
    pub(crate) table: Rc<Table>,
    pub(crate) sequence_end: u64,
    /// Bytes of the parts that some partition's ranges refer to.
    pub(crate) live_bytes: u64,
    /// How many parts these are.
    pub(crate) live_parts: usize,
    /// How often its bytes were merged since they were flushed.
    pub(crate) merges: u32,
    /// Parts whose batches were written into another table: a restart must not take them for its
    /// partition's.
    pub(crate) replaced_parts: BTreeSet<u32>,
    /// A merge could not read it: it stays as it is.
    pub(crate) unreadable: bool,
}

impl LiveTable {
    /// A table that nobody refers to yet.
    pub(crate) fn new(table: Rc<Table>, sequence_end: u64, merges: u32) -> LiveTable {
        LiveTable {
            table,
            sequence_end,
            live_bytes: 0,
            live_parts: 0,
            merges,
            replaced_parts: BTreeSet::new(),
            unreadable: false,
        }
    }

    /// Bytes of the parts that nobody refers to.
    pub(crate) fn dead_bytes(&self) -> u64 {
        self.table.footer.batch_bytes() - self.live_bytes
    }

    /// Some partition refers to a part of this many bytes.
    pub(crate) fn count_in(&mut self, bytes: u64) {
        self.live_bytes += bytes;
        self.live_parts += 1;
        assert!(
            self.live_bytes <= self.table.footer.batch_bytes(),
            "more of a table in use than it holds"
        );
    }

    /// Some partition refers to such a part no more.
    fn count_out(&mut self, bytes: u64) {
        assert!(
            self.live_bytes >= bytes && self.live_parts > 0,
            "more of a table released than it holds"
        );
        self.live_bytes -= bytes;
        self.live_parts -= 1;
    }

    fn facts(&self) -> TableFacts {
        let sole = match self.table.footer.parts.as_slice() {
            [part] => Some(part.key),
            _ => None,
        };
        TableFacts {
            id: self.table.id(),
            sequence_end: self.sequence_end,
            live_bytes: self.live_bytes,
            live_parts: self.live_parts,
            merges: self.merges,
            sole,
        }
    }
}

/// The tables of a lane, by id.
///
/// What holds between any two calls: `file_bytes` is the sum over all; a table is in `dead` if it has no live bytes, in
/// `to_rewrite` if it has, can be read, and is dead by its share, and in `merges` if it can be read.
#[derive(Debug)]
pub(crate) struct Tables {
    live: BTreeMap<u64, LiveTable>,
    rewrite_dead_percent: u64,
    file_bytes: u64,
    dead: BTreeSet<u64>,
    to_rewrite: BTreeSet<u64>,
    merges: MergeQueue,
}

impl Tables {
    pub(crate) fn new(config: &LaneConfig) -> Tables {
        Tables {
            live: BTreeMap::new(),
            rewrite_dead_percent: config.rewrite_dead_percent,
            file_bytes: 0,
            dead: BTreeSet::new(),
            to_rewrite: BTreeSet::new(),
            merges: MergeQueue::new(MergeRules {
                fan_in: config.merge_fan_in,
                flush_bytes: config.memtable_bytes as u64,
                own_table_bytes: config.hot_table_bytes,
                table_bytes_max: config.merge_table_bytes_max,
                gathered_bytes: config.gathered_table_bytes,
            }),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.live.len()
    }

    pub(crate) fn contains(&self, id: u64) -> bool {
        self.live.contains_key(&id)
    }

    pub(crate) fn get(&self, id: u64) -> Option<&LiveTable> {
        self.live.get(&id)
    }

    /// All of them, by id. For manifests, which name them all, and for errors.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &LiveTable> {
        self.live.values()
    }

    /// The first one of this id or a higher one.
    pub(crate) fn first_from(&self, id: u64) -> Option<&LiveTable> {
        self.live.range(id..).next().map(|(_, live)| live)
    }

    /// Bytes of their files.
    pub(crate) fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// Tables that no partition needs.
    pub(crate) fn dead(&self) -> impl Iterator<Item = u64> {
        self.dead.iter().copied()
    }

    /// Tables with a larger dead share than is allowed.
    pub(crate) fn to_rewrite(&self) -> impl Iterator<Item = &LiveTable> {
        self.to_rewrite.iter().filter_map(|id| self.live.get(id))
    }

    /// The merge that is due, if it writes no more than `budget`.
    pub(crate) fn merge_due(&self, budget: u64) -> Option<Merge> {
        self.merges.plan(budget)
    }

    /// A partition with many tables of its own that are worth to become few large ones.
    pub(crate) fn gathering_due(&self) -> Option<PartitionKey> {
        self.merges.gathering_due()
    }

    /// Nothing is to be gathered of the partition before it gets another table.
    pub(crate) fn nothing_to_gather(&mut self, key: PartitionKey) {
        self.merges.nothing_to_gather(key);
    }

    /// Adds a table.
    ///
    /// # Panics
    /// If it is there already.
    pub(crate) fn insert(&mut self, live: LiveTable) {
        let id = live.table.id();
        self.file_bytes += live.table.file_bytes;
        self.take_place(&live);
        let before = self.live.insert(id, live);
        assert!(before.is_none(), "table {id} was there already");
        #[cfg(test)]
        tests::check(self);
    }

    /// Takes a table out.
    pub(crate) fn remove(&mut self, id: u64) -> Option<LiveTable> {
        let live = self.live.remove(&id)?;
        self.file_bytes -= live.table.file_bytes;
        self.leave_place(&live);
        #[cfg(test)]
        tests::check(self);
        Some(live)
    }

    /// Some partition refers to a part of this many bytes of the table.
    ///
    /// # Panics
    /// If there is no such table.
    pub(crate) fn count_in(&mut self, id: u64, bytes: u64) {
        self.change(id, |live| live.count_in(bytes));
    }

    /// Some partition refers to such a part no more.
    ///
    /// # Panics
    /// If there is no such table.
    pub(crate) fn count_out(&mut self, id: u64, bytes: u64) {
        self.change(id, |live| live.count_out(bytes));
    }

    /// The table is left as it is from now on, if it is there.
    pub(crate) fn set_unreadable(&mut self, id: u64) {
        if self.contains(id) {
            self.change(id, |live| live.unreadable = true);
        }
    }

    /// The batches of a part were written into another table. The table may have left the lane.
    pub(crate) fn note_replaced(&mut self, id: u64, part: u32) {
        if let Some(live) = self.live.get_mut(&id) {
            live.replaced_parts.insert(part);
        }
    }

    fn change(&mut self, id: u64, change: impl FnOnce(&mut LiveTable)) {
        let mut live = self
            .live
            .remove(&id)
            .expect("ranges name the lane's tables");
        self.leave_place(&live);
        change(&mut live);
        self.take_place(&live);
        self.live.insert(id, live);
        #[cfg(test)]
        tests::check(self);
    }

    fn is_to_be_rewritten(&self, live: &LiveTable) -> bool {
        let data = live.table.footer.batch_bytes();
        let dead = live.dead_bytes() * 100 >= data * self.rewrite_dead_percent;
        !live.unreadable && live.live_bytes > 0 && dead
    }

    fn take_place(&mut self, live: &LiveTable) {
        let id = live.table.id();
        if live.live_bytes == 0 {
            self.dead.insert(id);
        }
        if self.is_to_be_rewritten(live) {
            self.to_rewrite.insert(id);
        }
        if !live.unreadable {
            self.merges.insert(&live.facts());
        }
    }

    fn leave_place(&mut self, live: &LiveTable) {
        let id = live.table.id();
        self.dead.remove(&id);
        self.to_rewrite.remove(&id);
        if !live.unreadable {
            self.merges.remove(&live.facts());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use streambus_proto::ids::{Offset, TopicId};
    use streambus_shards::now;

    use super::*;
    use crate::merge::tests::plan_over_all;
    use crate::table::footer::{Footer, IndexEntry, TablePart};

    /// A recount takes as long as there are tables: more of them are not compared at each change.
    const CHECKED_TABLES_MAX: usize = 100;

    fn key(index: i32) -> PartitionKey {
        PartitionKey {
            topic: TopicId([1; 16]),
            index,
        }
    }

    /// A table with these parts of 100 bytes; nothing of it is on a disk.
    fn table(id: u64, parts: &[i32]) -> Rc<Table> {
        let part = |(at, index): (u64, &i32)| TablePart {
            key: key(*index),
            start: Offset(0),
            end: Offset(1),
            position: at * 100,
            bytes: 100,
            max_timestamp: 0,
            index: vec![IndexEntry {
                offset: Offset(0),
                position: at * 100,
                max_timestamp: 0,
            }],
            filters: Vec::new(),
        };
        let parts: Vec<_> = (0..).zip(parts).map(part).collect();
        Rc::new(Table::without_file(Footer {
            id,
            block_bytes: 4096,
            data_bytes: parts.len() as u64 * 100,
            block_crcs: Vec::new(),
            parts,
        }))
    }

    fn config() -> LaneConfig {
        LaneConfig {
            memtable_bytes: 200,
            hot_table_bytes: 90,
            merge_table_bytes_max: 3_000,
            gathered_table_bytes: 1_000,
            ..LaneConfig::default()
        }
    }

    /// What the keeper asked of all tables before it kept count: dead ones, ones to rewrite, the next merge, the sum.
    fn over_all(tables: &Tables) -> (Vec<u64>, Vec<u64>, Option<Merge>, u64) {
        let ids = |picked: &dyn Fn(&LiveTable) -> bool| {
            let picked = tables.iter().filter(|live| picked(live));
            picked.map(|live| live.table.id()).collect::<Vec<_>>()
        };
        let dead = ids(&|live| live.live_bytes == 0);
        let to_rewrite = ids(&|live| tables.is_to_be_rewritten(live));
        let readable = tables.iter().filter(|live| !live.unreadable);
        let facts: Vec<_> = readable.map(LiveTable::facts).collect();
        let merge = plan_over_all(&facts, tables.merges.rules(), u64::MAX);
        let bytes = tables.iter().map(|live| live.table.file_bytes).sum();
        (dead, to_rewrite, merge, bytes)
    }

    fn kept(tables: &Tables) -> (Vec<u64>, Vec<u64>, Option<Merge>, u64) {
        let to_rewrite = tables.to_rewrite().map(|live| live.table.id());
        (
            tables.dead().collect(),
            to_rewrite.collect(),
            tables.merge_due(u64::MAX),
            tables.file_bytes(),
        )
    }

    fn recount(tables: &Tables) {
        assert_eq!(kept(tables), over_all(tables));
    }

    /// Compares what is kept with what all tables say, after each change of a small lane in any test.
    pub(super) fn check(tables: &Tables) {
        if tables.len() <= CHECKED_TABLES_MAX {
            recount(tables);
        }
    }

    #[test]
    fn what_is_kept_is_what_a_recount_finds() {
        // Proves it over random changes: `check` compares after each.
        let mut chance = crate::wal::tests::Chance(7);
        let mut tables = Tables::new(&config());
        for id in 0..2_000 {
            let parts: Vec<i32> = (0..=chance.below(4) as i32).collect();
            let mut live = LiveTable::new(table(id, &parts), id, chance.below(3) as u32);
            for _ in 0..chance.below(parts.len() as u64 + 1) {
                live.count_in(100);
            }
            tables.insert(live);
            for _ in 0..3 {
                let at = id.saturating_sub(chance.below(60));
                let Some(live) = tables.get(at) else { continue };
                let parts = live.table.footer.parts.len();
                match chance.below(4) {
                    0 if live.live_parts > 0 => tables.count_out(at, 100),
                    1 if live.live_parts < parts => tables.count_in(at, 100),
                    2 if chance.below(10) == 0 => tables.set_unreadable(at),
                    _ => drop(tables.remove(at)),
                }
            }
            if tables.len() > 60 {
                let first = tables.iter().next().map(|live| live.table.id());
                tables.remove(first.unwrap());
            }
        }
        recount(&tables);
    }

    #[test]
    fn a_step_among_20_000_tables_costs_no_walk() {
        // Proves that what the keeper asks at each step takes a small part of a walk over all tables, however long that
        // takes on this machine. The figures: `cargo test -p streambus-storage 20_000 -- --nocapture`.
        let mut tables = Tables::new(&config());
        for id in 0..20_000 {
            let parts = if id % 2 == 0 { vec![0] } else { vec![0, 1, 2] };
            let mut live = LiveTable::new(table(id, &parts), id, (id % 5) as u32);
            for _ in &parts {
                live.count_in(100);
            }
            tables.insert(live);
        }
        let best = |ask: &dyn Fn() -> usize| {
            let time = |_| {
                let began = now();
                assert!(std::hint::black_box(ask()) > 0);
                began.elapsed()
            };
            (0..20).map(time).min().unwrap()
        };
        let walk = best(&|| over_all(&tables).3 as usize);
        let step = best(&|| kept(&tables).3 as usize);
        println!("20,000 tables: a walk takes {walk:?}, a step {step:?}");
        let floor = Duration::from_nanos(1);
        assert!(step.max(floor) * 20 < walk, "{step:?} beside {walk:?}");
    }
}
