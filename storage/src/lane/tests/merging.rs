//! Merging: fewer tables, the same batches, and none of it in anybody's way.

use std::collections::BTreeSet;
use std::rc::Rc;

use streambus_proto::ids::{LeaderEpoch, Offset};
use streambus_shards::{run_alone, yield_now};

use super::{append, durable, key, read_all, small, started};
use crate::batch::place_batch;
use crate::batch::tests::batch;
use crate::config::LaneConfig;
use crate::lane::Lane;
use crate::lane::read::ReadPlan;
use crate::partition::TableRange;

/// Nothing is hot and nothing too large: what is flushed is merged.
fn merging() -> LaneConfig {
    LaneConfig {
        hot_table_bytes: 1 << 30,
        merge_table_bytes_max: 1 << 30,
        gathered_table_bytes: 1 << 30,
        ..small()
    }
}

/// No merge begins.
fn resting() -> LaneConfig {
    LaneConfig {
        merge_fan_in: 64,
        ..merging()
    }
}

async fn fill(lane: &Rc<Lane>, partitions: i32, batches: i32) {
    for nth in 0..batches {
        append(lane, key(nth % partitions), &batch(1, 5, &[1; 1_500])).await;
    }
    for index in 0..partitions {
        let end = lane.log_end(key(index)).unwrap();
        durable(lane, key(index), end).await;
    }
}

async fn until(lane: &Rc<Lane>, what: impl Fn(&Lane) -> bool) {
    while !what(lane) {
        assert!(!lane.is_stopped(), "the lane stopped");
        yield_now().await;
    }
}

fn ranges(lane: &Lane, index: i32) -> Vec<TableRange> {
    let state = lane.state.borrow();
    state.partition(key(index)).unwrap().ranges.clone()
}

fn nothing_frozen(lane: &Lane) -> bool {
    lane.state.borrow().frozen.is_empty()
}

/// Whether no step of a merge or of anything else behind the appends is left.
pub(super) fn is_settled(lane: &Lane) -> bool {
    let state = lane.state.borrow();
    let nothing_planned = state.frozen.is_empty() && state.obsolete.is_empty();
    drop(state);
    let rewrite = lane.begin_rewrite().is_some();
    let merge = lane.begin_merge().is_some() || lane.begin_gathering().is_some();
    nothing_planned && !rewrite && !merge
}

#[test]
fn a_partitions_cold_range_becomes_contiguous() {
    // Proves that merging joins what flushes scattered, changes no batch, is what a restart finds,
    // gives the space of the merged tables back, and is counted and bounded.
    let dir = tempfile::tempdir().unwrap();
    run_alone(async {
        let (lane, _, _) = started(dir.path(), merging()).await;
        fill(&lane, 10, 2_000).await;
        until(&lane, is_settled).await;
        let stats = lane.stats();
        assert!(stats.flushes >= 15, "{stats:?}");
        // At most two tables of each tier wait for a third.
        assert!(stats.tables <= 8, "{stats:?}");
        let joined = ranges(&lane, 3).len() as u64;
        assert!(joined <= stats.tables, "{joined} ranges");
        assert!(stats.merged_bytes > stats.flushed_bytes / 2, "{stats:?}");
        assert!(stats.merged_bytes < stats.flushed_bytes * 4, "{stats:?}");
        assert!(stats.written_bytes() >= stats.commit_bytes + stats.merged_bytes);
        let check = async |lane: &Rc<Lane>| {
            let mut expected = batch(1, 5, &[1; 1_500]);
            let all = read_all(lane, key(3), Offset(0), 1 << 20).await;
            assert_eq!(all.len(), 200);
            for (nth, (base, bytes)) in (0..).zip(all) {
                place_batch(&mut expected, Offset(nth), LeaderEpoch(0));
                assert!(base == Offset(nth) && bytes == expected, "batch {nth}");
            }
        };
        check(&lane).await;
        let on_disk = std::fs::read_dir(dir.path()).unwrap();
        let names = on_disk.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let files = names.filter(|name| name.starts_with("table-")).count();
        assert_eq!(files as u64, stats.tables, "merged tables leave the disk");
        lane.close().await.unwrap();

        let (lane, _, recovery) = started(dir.path(), resting()).await;
        assert!(recovery.quarantined.is_empty(), "{recovery:?}");
        check(&lane).await;
        lane.close().await.unwrap();
    })
    .unwrap();
}

#[test]
fn a_table_in_between_keeps_ranges_apart() {
    // Proves that what lies before and behind a partition's own table is not joined over it, and
    // that partitions that grow large in a merge get their own tables.
    let dir = tempfile::tempdir().unwrap();
    let config = LaneConfig {
        hot_table_bytes: 30 << 10,
        ..merging()
    };
    run_alone(async {
        let resting = LaneConfig {
            merge_fan_in: 64,
            ..config.clone()
        };
        let (lane, _, _) = started(dir.path(), resting).await;
        for _ in 0..6 {
            // Key 0 fills a memtable of its own in the middle of each round.
            fill(&lane, 10, 80).await;
            for _ in 0..60 {
                append(&lane, key(0), &batch(1, 5, &[2; 1_500])).await;
            }
            until(&lane, nothing_frozen).await;
        }
        fill(&lane, 10, 80).await;
        until(&lane, nothing_frozen).await;
        let own = |lane: &Lane| {
            let of_one = |range: &TableRange| range.table.footer.parts.len() == 1;
            let own = ranges(lane, 0).into_iter().filter(of_one);
            own.map(|range| range.table.id()).collect::<BTreeSet<_>>()
        };
        let hot = own(&lane);
        assert!(!hot.is_empty(), "key 0 has a table of its own");
        let mut before = Vec::new();
        for index in 0..10 {
            before.push(read_all(&lane, key(index), Offset(0), 1 << 20).await);
        }
        lane.close().await.unwrap();

        let (lane, _, _) = started(dir.path(), config).await;
        until(&lane, is_settled).await;
        assert!(lane.stats().merges > 0);
        assert!(own(&lane).is_superset(&hot), "own tables are left alone");
        for (index, before) in (0..10).zip(&before) {
            let after = read_all(&lane, key(index), Offset(0), 1 << 20).await;
            assert_eq!(after, *before, "partition {index}");
        }
        lane.close().await.unwrap();
    })
    .unwrap();
}

#[test]
fn a_busy_partitions_own_tables_are_gathered() {
    // Proves that the number of tables of a partition that fills memtables grows with its data by the size of large
    // tables, that each byte is written once more for it, and that nothing else changes: no batch, nothing of the
    // partitions whose tables lie in between, and a restart finds the same.
    let dir = tempfile::tempdir().unwrap();
    run_alone(async {
        let (lane, _, _) = started(dir.path(), small()).await;
        for _ in 0..12 {
            // Now and then the partition is one of many for a while.
            fill(&lane, 10, 60).await;
            fill(&lane, 1, 300).await;
        }
        until(&lane, is_settled).await;
        let stats = lane.stats();
        let large = small().gathered_table_bytes;
        let bytes = lane.size_bytes(key(0)).unwrap();
        assert!(bytes > 40 * large, "{bytes} bytes");
        let tables = ranges(&lane, 0).len() as u64;
        // Two large tables' worth may wait, in small ones.
        let waiting = 2 * large / small().hot_table_bytes + 2;
        assert!(
            tables <= bytes / large + waiting,
            "{tables} ranges, {stats:?}"
        );
        assert!(
            stats.merged_bytes < stats.flushed_bytes * 3 / 2,
            "{stats:?}"
        );
        let sizes: Vec<u64> = ranges(&lane, 0)
            .iter()
            .map(|range| range.part().bytes)
            .collect();
        let gathered = sizes.iter().filter(|bytes| **bytes >= large).count() as u64;
        assert!(gathered >= 20, "{sizes:?}");
        let mut before = Vec::new();
        for index in 0..10 {
            before.push(read_all(&lane, key(index), Offset(0), 1 << 20).await);
        }
        assert_eq!(before[0].len(), 12 * 306);
        lane.set_log_start(key(0), Offset(100)).await.unwrap();
        lane.close().await.unwrap();
        drop(lane);

        let (lane, _, recovery) = started(dir.path(), small()).await;
        assert!(recovery.quarantined.is_empty(), "{recovery:?}");
        assert!(ranges(&lane, 0).len() as u64 <= tables);
        for (index, before) in (0..10).zip(&before) {
            let start = lane.log_start(key(index)).unwrap();
            let after = read_all(&lane, key(index), start, 1 << 20).await;
            let kept = before.iter().filter(|(base, _)| *base >= start);
            assert!(kept.eq(&after), "partition {index}");
        }
        lane.close().await.unwrap();
    })
    .unwrap();
}

#[test]
fn a_read_outlives_the_table_it_reads() {
    // Proves that a read that began before a merge ends with the batches it asked for, from the
    // table that has left the lane and the disk.
    let dir = tempfile::tempdir().unwrap();
    run_alone(async {
        let (lane, _, _) = started(dir.path(), resting()).await;
        fill(&lane, 4, 400).await;
        until(&lane, nothing_frozen).await;
        let all = read_all(&lane, key(1), Offset(0), 1 << 20).await;
        lane.close().await.unwrap();
        let (lane, _, _) = started(dir.path(), merging()).await;
        let held = ranges(&lane, 1).remove(0);
        let upto = lane.durable_end(key(1)).unwrap();
        let Ok(ReadPlan::Cold(planned)) = lane.read(key(1), Offset(0), 1_000, upto) else {
            panic!("the front lies in a table");
        };
        fill(&lane, 4, 400).await;
        until(&lane, |lane| lane.stats().merges > 0 && is_settled(lane)).await;
        assert!(!held.table.path().exists(), "the table was merged");
        let part = held.part();
        let range = part.position..part.position + part.bytes;
        let blocks = held.table.blocks_of(&range);
        let start = usize::try_from(range.start - blocks.start).unwrap();
        let bytes = held.table.read_blocks(blocks).await.unwrap();
        assert!(bytes[start..].starts_with(&all[0].1));
        let read = planned.read().await.unwrap();
        assert_eq!(read.bufs[0].to_vec(), all[0].1);
        lane.close().await.unwrap();
    })
    .unwrap();
}

#[test]
fn a_damaged_table_stops_its_merge_and_nothing_else() {
    // Proves that bit rot found by a merge leaves the table where it lies, the others are merged,
    // and the lane goes on.
    let dir = tempfile::tempdir().unwrap();
    run_alone(async {
        let (lane, _, _) = started(dir.path(), resting()).await;
        fill(&lane, 4, 800).await;
        until(&lane, nothing_frozen).await;
        let rotten = ranges(&lane, 2).remove(1);
        lane.close().await.unwrap();
        let path = rotten.table.path().to_owned();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[usize::try_from(rotten.part().position).unwrap()] ^= 1;
        std::fs::write(&path, bytes).unwrap();

        let (lane, owner, _) = started(
            dir.path(),
            LaneConfig {
                no_space_retry: std::time::Duration::ZERO,
                ..merging()
            },
        )
        .await;
        fill(&lane, 4, 800).await;
        until(&lane, |lane| lane.stats().merges > 0 && is_settled(lane)).await;
        assert!(path.exists(), "the damaged table is kept");
        let met = lane
            .state
            .borrow()
            .tables
            .get(rotten.table.id())
            .unwrap()
            .unreadable;
        assert!(met, "a merge met the damage");
        assert_eq!(*owner.failed.borrow(), Vec::<String>::new());
        let whole = read_all(&lane, key(2), rotten.end, 1 << 20).await;
        assert_eq!(whole.first().map(|(base, _)| *base), Some(rotten.end));
        lane.close().await.unwrap();
    })
    .unwrap();
}
