//! Flushed memtables that stay in memory, as readers of a lane meet them.

use std::ops::Range;
use std::rc::Rc;

use streambus_proto::ids::Offset;
use streambus_shards::{run_alone, yield_now};

use super::merging::is_settled;
use super::{append, durable, key, read, read_all, small, started};
use crate::batch::BatchInfo;
use crate::batch::tests::batch;
use crate::config::LaneConfig;
use crate::lane::Lane;

const KEPT_BYTES: usize = 320 << 10;

fn config() -> LaneConfig {
    LaneConfig {
        memtables_kept_bytes: KEPT_BYTES,
        ..small()
    }
}

/// Appends one batch of 1.5 KB to each of these numbers in turn; its timestamp is `from` and more.
async fn write(lane: &Rc<Lane>, indexes: &[i32], from: i64, count: i64) {
    for nth in from..from + count {
        for index in indexes {
            append(lane, key(*index), &batch(1, nth, &[7; 1_500])).await;
        }
    }
    for index in indexes {
        let end = lane.log_end(key(*index)).unwrap();
        durable(lane, key(*index), end).await;
    }
    while !is_settled(lane)
        || lane.state.borrow().kept_bytes > lane.state.borrow().config.memtables_kept_bytes
    {
        yield_now().await;
    }
}

/// Reads of the block cache or the disk so far.
fn cold(lane: &Lane) -> u64 {
    let stats = lane.stats();
    stats.cache_hits + stats.cache_misses
}

/// Reads, by 10 KB, from where `offsets` begins; finds a batch at each of them and at no other.
async fn holds(lane: &Rc<Lane>, index: i32, offsets: Range<i64>) {
    let all = read_all(lane, key(index), Offset(offsets.start), 10_000).await;
    assert!(
        all.iter().map(|(base, _)| base.0).eq(offsets.clone()),
        "of {index}, not {offsets:?} but {} batches",
        all.len()
    );
}

/// Where the first batch of partition 0 at or after a timestamp begins.
async fn first_at(lane: &Rc<Lane>, timestamp: i64) -> Option<i64> {
    let hit = lane
        .batch_at_or_after(key(0), Offset(0), timestamp)
        .await
        .unwrap();
    hit.map(|hit| hit.base_offset.0)
}

#[test]
fn what_was_written_last_is_read_in_memory_and_the_rest_from_tables() {
    // Proves that a flush takes nothing away from readers near the end, that the memory stays within its
    // bound, that what is older comes from tables, and that a read goes from the one to the other.
    let dir = tempfile::tempdir().unwrap();
    run_alone(async {
        let (lane, _, _) = started(dir.path(), config()).await;
        write(&lane, &[0, 1], 0, 600).await;
        let stats = lane.stats();
        assert!(stats.flushes > 10, "{stats:?}");
        let kept = stats.memtables_kept_bytes;
        assert!(
            (KEPT_BYTES as u64 / 2..=KEPT_BYTES as u64).contains(&kept),
            "{kept} kept"
        );
        for index in [0, 1] {
            // Two partitions, 320 KiB less a memtable: 60 batches of each at least.
            holds(&lane, index, 540..600).await;
        }
        assert_eq!(cold(&lane), 0, "read in memory");
        holds(&lane, 1, 0..600).await;
        assert!(cold(&lane) > 0, "read from tables");
        // All in one read: tables first, then memory.
        let joined = read(&lane, key(0), Offset(0), 10 << 20).await;
        assert_eq!(joined.next_offset, Offset(600));
        lane.close().await.unwrap();
    })
    .unwrap();
}

#[test]
fn kept_memory_is_not_counted_twice_and_follows_the_log_start() {
    // Proves that sizes and time retention see each batch once, that what lies before a log start is gone from
    // memory, and that a dropped partition's place serves another one.
    let dir = tempfile::tempdir().unwrap();
    run_alone(async {
        let (lane, _, _) = started(dir.path(), config()).await;
        write(&lane, &[0, 1], 0, 100).await;
        let one = batch(1, 0, &[7; 1_500]).len() as u64;
        assert_eq!(lane.size_bytes(key(0)), Some(100 * one));
        let start = lane.enforce_retention(key(0), None, Some(30 * one), 1_000);
        let start = start.unwrap().0;
        assert!((30..=70).contains(&start), "log start {start}");
        holds(&lane, 0, start..100).await;
        assert!(
            lane.read(key(0), Offset(start - 1), 1, Offset(100))
                .is_err()
        );
        lane.drop_partition(key(1)).await.unwrap();
        write(&lane, &[2], 0, 60).await;
        // It has the slot of the dropped one: what that one leaves behind goes without it.
        write(&lane, &[3], 0, 60).await;
        write(&lane, &[0], 100, 400).await;
        for (index, from, end) in [(0, start, 500), (2, 0, 60), (3, 0, 60)] {
            holds(&lane, index, from..end).await;
        }
        assert!(lane.read(key(1), Offset(0), 1, Offset(1)).is_err());
        lane.close().await.unwrap();
    })
    .unwrap();
}

#[test]
fn timestamps_are_looked_up_in_kept_memory() {
    // Proves that the first batch at or after a timestamp is found wherever it lies, and without the disk
    // where it is kept.
    let dir = tempfile::tempdir().unwrap();
    run_alone(async {
        let (lane, _, _) = started(dir.path(), config()).await;
        write(&lane, &[0], 0, 500).await;
        for timestamp in [499, 470, 400] {
            assert_eq!(first_at(&lane, timestamp).await, Some(timestamp));
        }
        assert_eq!(cold(&lane), 0, "found in memory");
        let hit = lane.batch_at_or_after(key(0), Offset(0), 20).await.unwrap();
        let hit = hit.unwrap();
        assert_eq!(hit.base_offset, Offset(20));
        assert_eq!(BatchInfo::read(&hit.batch).unwrap().max_timestamp, 20);
        assert_eq!(first_at(&lane, 500).await, None);
        // One from the future; once it is below the log start, what follows it is no hit.
        append(&lane, key(0), &batch(1, 9_000, &[7; 1_500])).await;
        write(&lane, &[0], 501, 100).await;
        assert_eq!(first_at(&lane, 600).await, Some(500));
        lane.set_log_start(key(0), Offset(501)).await.unwrap();
        assert_eq!(first_at(&lane, 600).await, Some(600));
        assert_eq!(first_at(&lane, 601).await, None);
        lane.close().await.unwrap();
    })
    .unwrap();
}
