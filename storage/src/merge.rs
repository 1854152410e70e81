//! Which tables are merged next: pure rules over what is known of each, kept in order as it changes.
//!
//! Size-tiered: a table's tier is how often its bytes were merged, or what its size says, whichever
//! is more; as soon as a tier has `fan_in` tables, its oldest ones become one. So bytes are written
//! once for each tier, and a partition that is spread over many small tables ends up in few.
//!
//! A partition that has enough for a table of its own gets it on the way. Such tables are not merged with others: what
//! a partition has there is contiguous already. When it has many of them they are gathered into one large table, each
//! byte once, so that their number grows with the data by the size of large tables and not by that of memtables. A
//! partition that keeps less than two large tables is left alone: what is deleted soon is not worth to be written again.

use std::collections::{BTreeMap, BTreeSet};

use crate::key::PartitionKey;

/// A table whose bytes were merged this often is left alone, whatever its size: with 8 tables a
/// merge it holds what 4,096 flushes left. So merging ends, also where it joins nothing because
/// other tables hold what lies in between.
pub(crate) const MERGES_MAX: u32 = 4;

/// What the planner knows of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TableFacts {
    pub(crate) id: u64,
    /// Orders tables by the age of what they hold.
    pub(crate) sequence_end: u64,
    /// Bytes that partitions still need: what a merge would write.
    pub(crate) live_bytes: u64,
    /// Partitions that still need it.
    pub(crate) live_parts: usize,
    /// How often its bytes were merged since they were flushed, as far as is known.
    pub(crate) merges: u32,
    /// The partition, if it was written for one alone.
    pub(crate) sole: Option<PartitionKey>,
}

/// What the planner goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MergeRules {
    /// Tables that are merged into one.
    pub(crate) fan_in: usize,
    /// What a flush writes: tables of about this size are of the lowest tier.
    pub(crate) flush_bytes: u64,
    /// A table of one partition with this much is not merged with others.
    pub(crate) own_table_bytes: u64,
    /// A table with this much is not merged any more.
    pub(crate) table_bytes_max: u64,
    /// Tables of one partition are gathered into one of this size.
    pub(crate) gathered_bytes: u64,
}

/// Tables to be merged, oldest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Merge {
    pub(crate) tables: Vec<u64>,
    /// Bytes that it will write, without footers.
    pub(crate) bytes: u64,
    /// The tier that its outputs belong to at least.
    pub(crate) merges: u32,
}

/// Where a table stands among those that are merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// It is left alone.
    Settled,
    Tier(u32),
    /// It is the partition's own, and may be gathered.
    Own(PartitionKey),
}

/// The tables that may be merged, in the order in which they are.
#[derive(Debug)]
pub(crate) struct MergeQueue {
    rules: MergeRules,
    /// By tier: the live bytes of tables, by age and id. No tier is empty.
    tiers: BTreeMap<u32, BTreeMap<(u64, u64), u64>>,
    /// Bytes of the tables of each partition that may be gathered. None is 0.
    own: BTreeMap<PartitionKey, u64>,
    /// Partitions with enough of them.
    due: BTreeSet<PartitionKey>,
}

impl MergeQueue {
    pub(crate) fn new(rules: MergeRules) -> MergeQueue {
        assert!(rules.fan_in >= 2, "a merge of fewer than two tables");
        MergeQueue {
            rules,
            tiers: BTreeMap::new(),
            own: BTreeMap::new(),
            due: BTreeSet::new(),
        }
    }

    #[cfg(test)]
    pub(crate) fn rules(&self) -> MergeRules {
        self.rules
    }

    pub(crate) fn insert(&mut self, table: &TableFacts) {
        match place(table, self.rules) {
            Place::Settled => {}
            Place::Tier(tier) => {
                let members = self.tiers.entry(tier).or_default();
                let before = members.insert((table.sequence_end, table.id), table.live_bytes);
                assert!(before.is_none(), "table {} is queued twice", table.id);
            }
            Place::Own(key) => {
                let bytes = self.own.entry(key).or_default();
                *bytes += table.live_bytes;
                if *bytes >= 2 * self.rules.gathered_bytes {
                    self.due.insert(key);
                }
            }
        }
    }

    /// Takes out a table that was put in with these facts.
    pub(crate) fn remove(&mut self, table: &TableFacts) {
        match place(table, self.rules) {
            Place::Settled => {}
            Place::Tier(tier) => {
                let members = self.tiers.get_mut(&tier).expect("a queued table's tier");
                let bytes = members.remove(&(table.sequence_end, table.id));
                assert!(bytes == Some(table.live_bytes), "another table is queued");
                if members.is_empty() {
                    self.tiers.remove(&tier);
                }
            }
            Place::Own(key) => {
                let bytes = self.own.get_mut(&key).expect("a queued table's partition");
                assert!(*bytes >= table.live_bytes, "more taken out than is queued");
                *bytes -= table.live_bytes;
                if *bytes < 2 * self.rules.gathered_bytes {
                    self.due.remove(&key);
                }
                if *bytes == 0 {
                    self.own.remove(&key);
                }
            }
        }
    }

    /// The next merge that `budget` bytes of writing allow; `None` when none is due or it costs more.
    ///
    /// The lowest tier comes first: that is where a merge joins the most ranges for the fewest bytes.
    /// If the budget does not reach for it, nothing else is merged either: it is saved up.
    pub(crate) fn plan(&self, budget: u64) -> Option<Merge> {
        let fan_in = self.rules.fan_in;
        let mut tiers = self.tiers.iter();
        let (tier, due) = tiers.find(|(_, members)| members.len() >= fan_in)?;
        let chosen = due.iter().take(fan_in);
        let bytes = chosen.clone().map(|(_, bytes)| bytes).sum();
        (bytes <= budget).then(|| Merge {
            tables: chosen.map(|((_, id), _)| *id).collect(),
            bytes,
            merges: tier + 1,
        })
    }

    /// A partition whose own tables are worth to be gathered.
    pub(crate) fn gathering_due(&self) -> Option<PartitionKey> {
        self.due.first().copied()
    }

    /// The partition is passed over until it gets another table.
    pub(crate) fn nothing_to_gather(&mut self, key: PartitionKey) {
        self.due.remove(&key);
    }
}

/// Bytes that may be merged now: `percent` of what was flushed, above `burst`, less what was
/// merged already. It keeps the write amplification of merging below `percent` / 100, whatever
/// the planner asks for.
pub(crate) fn budget(flushed_bytes: u64, merged_bytes: u64, percent: u64, burst: u64) -> u64 {
    let earned = (flushed_bytes / 100).saturating_mul(percent);
    earned.saturating_add(burst).saturating_sub(merged_bytes)
}

fn place(table: &TableFacts, rules: MergeRules) -> Place {
    // One without live bytes is collected, not merged.
    if table.live_bytes == 0 || table.merges >= MERGES_MAX {
        return Place::Settled;
    }
    if table.live_parts == 1 && table.live_bytes >= rules.own_table_bytes {
        let small = table.live_bytes < rules.gathered_bytes;
        return match table.sole {
            Some(key) if small => Place::Own(key),
            _ => Place::Settled,
        };
    }
    if table.live_bytes >= rules.table_bytes_max {
        return Place::Settled;
    }
    Place::Tier(tier(table, rules))
}

/// By merges or by size: after a restart only the size is known, and what a merge left over may
/// be small however often it was merged.
fn tier(table: &TableFacts, rules: MergeRules) -> u32 {
    let mut by_size = 0;
    let mut least = (rules.flush_bytes.max(1) / 2).saturating_mul(rules.fan_in as u64);
    while least > 0 && table.live_bytes >= least {
        by_size += 1;
        least = least.saturating_mul(rules.fan_in as u64);
    }
    by_size.max(table.merges)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use streambus_proto::ids::TopicId;

    const RULES: MergeRules = MergeRules {
        fan_in: 4,
        flush_bytes: 100,
        own_table_bytes: 80,
        table_bytes_max: 3_000,
        gathered_bytes: 1_000,
    };

    fn plan(tables: &[TableFacts], rules: MergeRules, budget: u64) -> Option<Merge> {
        let mut queue = MergeQueue::new(rules);
        for table in tables {
            queue.insert(table);
        }
        queue.plan(budget)
    }

    /// The same by a look at all tables: the reference.
    pub(crate) fn plan_over_all(
        tables: &[TableFacts],
        rules: MergeRules,
        budget: u64,
    ) -> Option<Merge> {
        let tier_of = |table: &TableFacts| match place(table, rules) {
            Place::Tier(tier) => Some(tier),
            Place::Settled | Place::Own(_) => None,
        };
        let mut open: Vec<_> = tables.iter().filter(|one| tier_of(one).is_some()).collect();
        open.sort_unstable_by_key(|table| (tier_of(table), table.sequence_end, table.id));
        let mut tiers = open.chunk_by(|one, other| tier_of(one) == tier_of(other));
        let due = tiers.find(|members| members.len() >= rules.fan_in)?;
        let chosen = due.get(..rules.fan_in)?;
        let bytes = chosen.iter().map(|table| table.live_bytes).sum();
        (bytes <= budget).then(|| Merge {
            tables: chosen.iter().map(|table| table.id).collect(),
            bytes,
            merges: tier_of(chosen[0]).unwrap_or(0) + 1,
        })
    }

    fn table(id: u64, live_bytes: u64, merges: u32) -> TableFacts {
        TableFacts {
            id,
            sequence_end: id,
            live_bytes,
            live_parts: 10,
            merges,
            sole: None,
        }
    }

    #[test]
    fn a_full_tier_is_merged_oldest_first() {
        // Proves which tables are merged, for tiers by size and by history, and when none are.
        type Case = (&'static str, Vec<TableFacts>, Option<&'static [u64]>);
        let cases: [Case; 8] = [
            ("nothing", vec![], None),
            (
                "too few",
                vec![table(1, 90, 0), table(2, 90, 0), table(3, 90, 0)],
                None,
            ),
            (
                "oldest of five",
                (1..6).rev().map(|id| table(id, 90, 0)).collect(),
                Some(&[1, 2, 3, 4]),
            ),
            (
                "larger ones are of the next tier",
                vec![
                    table(1, 400, 0),
                    table(2, 90, 0),
                    table(3, 90, 0),
                    table(4, 90, 0),
                ],
                None,
            ),
            (
                "what was merged is not merged with what was flushed",
                vec![
                    table(1, 10, 1),
                    table(2, 90, 0),
                    table(3, 90, 0),
                    table(4, 90, 0),
                ],
                None,
            ),
            (
                "the second tier by size and by history",
                vec![
                    table(1, 400, 0),
                    table(2, 10, 1),
                    table(3, 300, 0),
                    table(4, 10, 1),
                ],
                Some(&[1, 2, 3, 4]),
            ),
            (
                "what is large enough is left alone",
                (1..9).map(|id| table(id, 3_000, 0)).collect(),
                None,
            ),
            (
                "what is dead is left alone",
                (1..9).map(|id| table(id, 0, 0)).collect(),
                None,
            ),
        ];
        for (name, tables, expected) in cases {
            let planned = plan(&tables, RULES, u64::MAX).map(|merge| merge.tables);
            assert_eq!(planned.as_deref(), expected, "{name}");
        }
    }

    #[test]
    fn a_partitions_own_table_is_left_alone() {
        // Proves that a table of one partition is merged only while it is small.
        let own = |id, live_bytes| TableFacts {
            live_parts: 1,
            ..table(id, live_bytes, 0)
        };
        let large: Vec<_> = (1..9).map(|id| own(id, 80)).collect();
        assert_eq!(plan(&large, RULES, u64::MAX), None);
        let small: Vec<_> = (1..9).map(|id| own(id, 79)).collect();
        assert!(plan(&small, RULES, u64::MAX).is_some());
    }

    #[test]
    fn nothing_is_merged_beyond_the_budget() {
        // Proves that a merge waits until its bytes are earned, and that merging then stays below
        // the share of what is flushed, over a long run of flushes.
        let tables: Vec<_> = (1..5).map(|id| table(id, 90, 0)).collect();
        assert_eq!(plan(&tables, RULES, 359), None);
        assert_eq!(
            plan(&tables, RULES, 360).map(|merge| merge.bytes),
            Some(360)
        );
        let (percent, burst) = (150, 400);
        let (mut tables, mut flushed, mut merged) = (Vec::new(), 0, 0);
        for id in 0..4_000 {
            tables.push(table(id, 100, 0));
            flushed += 100;
            while let Some(merge) = plan(&tables, RULES, budget(flushed, merged, percent, burst)) {
                tables.retain(|table| !merge.tables.contains(&table.id));
                merged += merge.bytes;
                tables.push(table(
                    *merge.tables.last().unwrap(),
                    merge.bytes,
                    merge.merges,
                ));
            }
        }
        assert!(merged <= flushed * 3 / 2 + burst, "{merged} of {flushed}");
        assert!(merged >= flushed, "{merged} of {flushed}: every byte once");
        let open = tables
            .iter()
            .filter(|table| place(table, RULES) != Place::Settled);
        assert!(open.count() < 1_000, "the lowest tier does not pile up");
        let lowest = tables.iter().filter(|one| tier(one, RULES) == 0).count();
        assert!(lowest < 4, "{lowest} tables of the lowest tier");
    }

    #[test]
    fn merging_comes_to_an_end() {
        // Proves that when nothing is flushed merging ends, also when every merge leaves as many
        // tables as it took: each table is merged at most `MERGES_MAX` times.
        let mut tables: Vec<_> = (0..64).map(|id| table(id, 90, 0)).collect();
        let mut rounds = 0;
        while let Some(merge) = plan(&tables, RULES, u64::MAX) {
            rounds += 1;
            assert!(rounds <= 64 / 4 * MERGES_MAX, "merging does not end");
            for known in &mut tables {
                if merge.tables.contains(&known.id) {
                    known.merges = merge.merges;
                }
            }
        }
        assert_eq!(rounds, 64 / 4 * MERGES_MAX);
    }

    #[test]
    fn own_tables_are_gathered_when_there_are_two_large_ones_worth() {
        // Proves when a partition's own tables are due, that those that are large or were gathered do not count, and
        // that tables which go or a partition without adjacent ones end it.
        let key = |index| PartitionKey {
            topic: TopicId([1; 16]),
            index,
        };
        let own = |id, live_bytes, merges| TableFacts {
            live_parts: 1,
            sole: Some(key(i32::try_from(id % 2).unwrap())),
            ..table(id, live_bytes, merges)
        };
        let mut queue = MergeQueue::new(RULES);
        queue.insert(&own(1, 1_000, 0));
        queue.insert(&own(3, 999, MERGES_MAX));
        queue.insert(&own(5, 79, 0));
        for id in (7..45).step_by(2) {
            queue.insert(&own(id, 100, 0));
            queue.insert(&own(id + 1, 90, 0));
        }
        assert_eq!(queue.gathering_due(), None);
        queue.insert(&own(45, 100, 0));
        assert_eq!(queue.gathering_due(), Some(key(1)));
        queue.remove(&own(7, 100, 0));
        assert_eq!(queue.gathering_due(), None);
        queue.insert(&own(47, 100, 0));
        queue.nothing_to_gather(key(1));
        assert_eq!(queue.gathering_due(), None);
        queue.insert(&own(49, 100, 0));
        assert_eq!(queue.gathering_due(), Some(key(1)));
    }
}
