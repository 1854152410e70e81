//! Which tables are merged next: a pure rule over what is known of each.
//!
//! Size-tiered: a table's tier is how often its bytes were merged, or what its size says, whichever
//! is more; as soon as a tier has `fan_in` tables, its oldest ones become one. So bytes are written
//! once for each tier, and a partition that is spread over many small tables ends up in few.
//! A partition that has enough for a table of its own gets it on the way and is left alone from
//! then on: what it has there is contiguous already.

/// A table whose bytes were merged this often is left alone, whatever its size: with 8 tables a
/// merge it holds what 4,096 flushes left. So merging ends, also where it joins nothing because
/// other tables hold what lies in between.
const MERGES_MAX: u32 = 4;

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
}

/// What the planner goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MergeRules {
    /// Tables that are merged into one.
    pub(crate) fan_in: usize,
    /// What a flush writes: tables of about this size are of the lowest tier.
    pub(crate) flush_bytes: u64,
    /// A table of one partition with this much is left alone.
    pub(crate) own_table_bytes: u64,
    /// A table with this much is left alone.
    pub(crate) table_bytes_max: u64,
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

/// The next merge that `budget` bytes of writing allow; `None` when none is due or it costs more.
///
/// The lowest tier comes first: that is where a merge joins the most ranges for the fewest bytes.
/// If the budget does not reach for it, nothing else is merged either: it is saved up.
pub(crate) fn plan(tables: &[TableFacts], rules: MergeRules, budget: u64) -> Option<Merge> {
    assert!(rules.fan_in >= 2, "a merge of fewer than two tables");
    let mut open: Vec<&TableFacts> = tables
        .iter()
        .filter(|table| !is_settled(table, rules))
        .collect();
    open.sort_unstable_by_key(|table| (tier(table, rules), table.sequence_end, table.id));
    let mut tiers = open.chunk_by(|one, other| tier(one, rules) == tier(other, rules));
    let due = tiers.find(|members| members.len() >= rules.fan_in)?;
    let chosen = due.get(..rules.fan_in)?;
    let bytes = chosen.iter().map(|table| table.live_bytes).sum();
    let lowest = due.first().map_or(0, |table| tier(table, rules));
    (bytes <= budget).then(|| Merge {
        tables: chosen.iter().map(|table| table.id).collect(),
        bytes,
        merges: lowest + 1,
    })
}

/// Bytes that may be merged now: `percent` of what was flushed, above `burst`, less what was
/// merged already. It keeps the write amplification of merging below `percent` / 100, whatever
/// the planner asks for.
pub(crate) fn budget(flushed_bytes: u64, merged_bytes: u64, percent: u64, burst: u64) -> u64 {
    let earned = (flushed_bytes / 100).saturating_mul(percent);
    earned.saturating_add(burst).saturating_sub(merged_bytes)
}

fn is_settled(table: &TableFacts, rules: MergeRules) -> bool {
    let own = table.live_parts == 1 && table.live_bytes >= rules.own_table_bytes;
    // One without live bytes is collected, not merged.
    own || table.live_bytes == 0
        || table.live_bytes >= rules.table_bytes_max
        || table.merges >= MERGES_MAX
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
mod tests {
    use super::*;

    const RULES: MergeRules = MergeRules {
        fan_in: 4,
        flush_bytes: 100,
        own_table_bytes: 80,
        table_bytes_max: 3_000,
    };

    fn table(id: u64, live_bytes: u64, merges: u32) -> TableFacts {
        TableFacts {
            id,
            sequence_end: id,
            live_bytes,
            live_parts: 10,
            merges,
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
        let open = tables.iter().filter(|table| !is_settled(table, RULES));
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
}
