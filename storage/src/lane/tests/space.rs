//! A lane on a full disk: what it can give back, it gives back.

use std::time::Duration;

use streambus_shards::sim::{self, Simulation, World};
use streambus_shards::{now, sleep};

use super::*;

const DIR: &str = "/data/lane";
/// The small partitions, which share tables.
const SMALL: std::ops::Range<i32> = 1..41;

/// Appends to partitions in turn, 1 KB to each.
async fn fill(lane: &Lane, indexes: std::ops::Range<i32>, rounds: usize) {
    for _ in 0..rounds {
        for index in indexes.clone() {
            append(lane, key(index), &batch(1, 1, &[7; 1_000])).await;
        }
    }
}

async fn until(lane: &Lane, what: impl Fn(&Lane) -> bool, meaning: &str) {
    let begun = now();
    while !what(lane) {
        assert!(!lane.is_stopped(), "the lane stopped");
        let waited = now().since(begun);
        assert!(waited < Duration::from_mins(1), "never: {meaning}");
        sleep(Duration::from_millis(1)).await;
    }
}

fn is_flushed(lane: &Lane) -> bool {
    let state = lane.state.borrow();
    state.frozen.is_empty() && state.obsolete.is_empty()
}

async fn full_disk(world: World) {
    let host = world.add_host([10, 0, 0, 1].into());
    let disk = world.disk(host);
    disk.create_dir_all("/data");
    world.boot(host);
    let done = world.spawn_on(host, async move {
        let config = LaneConfig {
            merge_fan_in: 64,
            ..small()
        };
        let (lane, _, _) = started(Path::new(DIR), config).await;
        fill(&lane, SMALL, 20).await;
        until(&lane, is_flushed, "flushed with space").await;
        let flushes = lane.stats().flushes;
        // A table of what is left alive fits, one of a memtable does not.
        disk.set_capacity("/data", Some(disk.used_bytes() + (44 << 10)));
        fill(&lane, 0..1, 80).await;
        let refused = |lane: &Lane| {
            let state = lane.state.borrow();
            state.no_space && !state.frozen.is_empty()
        };
        until(&lane, refused, "refused space").await;
        assert_eq!(lane.stats().flushes, flushes);
        assert!(lane.stats().rewritten_bytes == 0);
        for index in SMALL.filter(|index| index % 8 > 0) {
            lane.drop_partition(key(index)).await.unwrap();
        }
        until(&lane, is_flushed, "flushed into what was given back").await;
        let stats = lane.stats();
        assert!(stats.flushes > flushes && stats.rewritten_bytes > 0);
        for index in SMALL.filter(|index| index % 8 == 0) {
            let left = read_all(&lane, key(index), Offset(0), 1 << 20).await;
            assert_eq!(left.len(), 20, "of {index}");
        }
        lane.close().await.unwrap();
    });
    done.await;
}

#[test]
fn a_flush_that_finds_no_space_is_given_it_by_a_rewrite() {
    // Proves that on a disk too full for a flush, dropping partitions that share tables with others
    // gives their space back: tables are rewritten into what is free, and then the flush goes on.
    let report = sim::run(Simulation::new(1), full_disk);
    report.result.unwrap();
}
