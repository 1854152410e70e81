//! Look-ups of a key's newest record: right wherever it lies, and seldom more than one table is read.

use streambus_proto::records::{BatchBuilder, Codec, NewRecord};
use streambus_shards::yield_now;

use super::*;
use crate::clean::CleanPolicy;

/// Nothing is due before half of the log is new, and nothing is old.
const POLICY: CleanPolicy = CleanPolicy {
    min_compaction_lag_ms: 0,
    max_compaction_lag_ms: i64::MAX,
    min_cleanable_dirty_ppm: 1_000_000,
    delete_retention_ms: 1_000_000,
};

fn record(name: &str, value: Option<&str>) -> Vec<u8> {
    let mut builder = BatchBuilder::new(Codec::None);
    builder.push(&NewRecord {
        timestamp: 7,
        key: Some(name.as_bytes()),
        value: value.map(str::as_bytes),
        headers: &[],
    });
    builder.build()
}

async fn latest(lane: &Rc<Lane>, name: &str, upto: Offset) -> Option<(i64, Option<String>)> {
    let hit = lane.latest_by_key(key(0), name.as_bytes(), upto).await;
    let hit = hit.unwrap()?;
    let text = |value| String::from_utf8(value).unwrap();
    Some((hit.offset.0, hit.value.map(text)))
}

/// Waits until nothing is left to flush, merge or clean; what is not full stays in memory.
async fn settled(lane: &Lane) {
    let mut idle = 0;
    while idle < 50 {
        let stats = lane.stats();
        yield_now().await;
        let same = lane.stats() == stats && lane.state.borrow().frozen.is_empty();
        idle = if same { idle + 1 } else { 0 };
    }
}

/// Appends keys `from..to`, each with a value that is some hundred bytes long.
async fn fill(lane: &Lane, from: usize, to: usize) {
    for nth in from..to {
        let value = format!("value {nth} {}", "x".repeat(300 + nth % 100));
        append(lane, key(0), &record(&format!("key-{nth}"), Some(&value))).await;
    }
}

/// The same with as much in three other partitions: a table of one alone is not merged.
async fn spread(lane: &Lane, nth: usize) {
    fill(lane, nth, nth + 1).await;
    for index in 1..4 {
        append(lane, key(index), &record("a", Some(&"y".repeat(350)))).await;
    }
}

fn tables(lane: &Lane) -> usize {
    lane.state.borrow().partition(key(0)).unwrap().ranges.len()
}

/// Fills on from a key until the partition lies in so many tables; returns the key after the last.
async fn fill_tables(lane: &Lane, from: usize, count: usize) -> usize {
    let mut to = from;
    while tables(lane) < count {
        fill(lane, to, to + 50).await;
        settled(lane).await;
        to += 50;
    }
    to
}

#[test]
fn the_newest_record_is_found_wherever_it_lies() {
    // Proves that a key is found in memory, in a flushed table and over a restart, that a
    // tombstone is found as one, and that neither what lies behind the limit nor what lies before
    // the log start is.
    let dir = tempfile::tempdir().unwrap();
    run_alone(async {
        let (lane, _, _) = started(dir.path(), small()).await;
        append(&lane, key(0), &record("a", Some("1"))).await;
        lane.clean(key(0), POLICY, Offset(0), 0);
        append(&lane, key(0), &record("a", Some("2"))).await;
        append(&lane, key(0), &record("b", None)).await;
        durable(&lane, key(0), Offset(3)).await;
        let check = async |lane: &Rc<Lane>| {
            let found = |offset, value: Option<&str>| Some((offset, value.map(str::to_owned)));
            assert_eq!(latest(lane, "a", Offset(9_999)).await, found(1, Some("2")));
            assert_eq!(latest(lane, "a", Offset(1)).await, found(0, Some("1")));
            assert_eq!(latest(lane, "a", Offset(0)).await, None);
            assert_eq!(latest(lane, "b", Offset(9_999)).await, found(2, None));
            assert_eq!(latest(lane, "c", Offset(9_999)).await, None);
        };
        check(&lane).await;
        fill(&lane, 0, 1_000).await;
        settled(&lane).await;
        let first = lane.state.borrow().partition(key(0)).unwrap().ranges[0].clone();
        assert!(!first.part().filters.is_empty(), "flushed with a filter");
        check(&lane).await;
        lane.close().await.unwrap();
        let (lane, _, _) = started(dir.path(), small()).await;
        check(&lane).await;
        lane.set_log_start(key(0), Offset(2)).await.unwrap();
        assert_eq!(latest(&lane, "a", Offset(9_999)).await, None);
        assert_eq!(latest(&lane, "b", Offset(9_999)).await, Some((2, None)));
        let unknown = lane.latest_by_key(key(7), b"a", Offset(1)).await;
        assert!(matches!(unknown, Err(StorageError::UnknownPartition(_))));
        lane.close().await.unwrap();
    })
    .unwrap();
}

#[test]
fn a_look_up_seldom_reads_more_than_one_table() {
    // Proves, over many tables: a key that is there costs the reading of one table, an absent one of
    // none, but for the false answers of filters, of which there are at most one in 50 a table. Also
    // that after a restart tables go on being given filters, before anybody asked for a cleaning.
    let dir = tempfile::tempdir().unwrap();
    run_alone(async {
        // No merges: as many tables as there are flushes.
        let config = LaneConfig {
            merge_fan_in: 64,
            ..small()
        };
        let (lane, _, _) = started(dir.path(), config.clone()).await;
        append(&lane, key(0), &record("first", None)).await;
        lane.clean(key(0), POLICY, Offset(0), 0);
        let half = fill_tables(&lane, 0, 6).await;
        lane.close().await.unwrap();
        let (lane, _, _) = started(dir.path(), config).await;
        let keys = fill_tables(&lane, half, 12).await;
        let tables = tables(&lane) as u64;
        let end = lane.log_end(key(0)).unwrap();
        durable(&lane, key(0), end).await;

        let before = lane.stats();
        let looked_up = keys as u64;
        for nth in 0..keys {
            let (offset, value) = latest(&lane, &format!("key-{nth}"), end).await.unwrap();
            assert_eq!(offset, nth as i64 + 1);
            assert!(value.unwrap().starts_with(&format!("value {nth} ")));
        }
        let present = lane.stats();
        assert_eq!(present.key_lookups - before.key_lookups, looked_up);
        let asked = present.key_tables_asked - before.key_tables_asked;
        let read = present.key_tables_read - before.key_tables_read;
        let in_vain = present.key_tables_read_in_vain - before.key_tables_read_in_vain;
        assert!(asked > looked_up * tables / 3, "{asked} tables asked");
        assert!(read - in_vain <= looked_up, "{read} tables read");
        assert!(in_vain * 50 <= asked, "{in_vain} of {asked} in vain");

        for nth in 0..1_000 {
            assert_eq!(latest(&lane, &format!("absent-{nth}"), end).await, None);
        }
        let absent = lane.stats();
        let asked = absent.key_tables_asked - present.key_tables_asked;
        let read = absent.key_tables_read - present.key_tables_read;
        assert_eq!(asked, 1_000 * tables);
        assert!(read * 50 <= asked, "{read} of {asked} read");
        lane.close().await.unwrap();
    })
    .unwrap();
}

#[test]
fn tables_without_filters_are_read() {
    // Proves that look-ups are right where tables have no filters, as those of earlier builds and
    // those of topics that were not compacted then, and that merging such tables gives them filters.
    let dir = tempfile::tempdir().unwrap();
    run_alone(async {
        let config = LaneConfig {
            hot_table_bytes: 1 << 20,
            ..small()
        };
        let (lane, _, _) = started(dir.path(), config).await;
        let filters = |lane: &Lane| -> Vec<usize> {
            let state = lane.state.borrow();
            let ranges = &state.partition(key(0)).unwrap().ranges;
            let count = ranges.iter().map(|range| range.part().filters.len());
            count.collect()
        };
        let mut nth = 0;
        while nth < 80 || filters(&lane).is_empty() {
            spread(&lane, nth).await;
            settled(&lane).await;
            nth += 1;
        }
        assert!(filters(&lane).iter().all(|count| *count == 0));
        let end = lane.log_end(key(0)).unwrap();
        durable(&lane, key(0), end).await;
        for nth in [0, 17, 79] {
            let (offset, _) = latest(&lane, &format!("key-{nth}"), end).await.unwrap();
            assert_eq!(offset, nth);
        }
        assert_eq!(latest(&lane, "absent", end).await, None);
        assert!(lane.stats().key_tables_read_in_vain > 0);

        lane.clean(key(0), POLICY, Offset(0), 0);
        while filters(&lane)[0] == 0 {
            spread(&lane, nth).await;
            nth += 1;
            assert!(nth < 2_000, "{:?}", filters(&lane));
            if nth % 50 == 0 {
                settled(&lane).await;
            }
        }
        assert!(lane.stats().merges > 0);
        let (offset, _) = latest(&lane, "key-17", Offset(i64::MAX)).await.unwrap();
        assert_eq!(offset, 17);
        lane.close().await.unwrap();
    })
    .unwrap();
}

#[test]
fn a_batch_that_does_not_unfold_is_an_error_and_no_wrong_answer() {
    // Proves that a look-up which would have to pass over a batch that it cannot read says so, in
    // memory and in a table, while keys that are newer than it are found.
    let dir = tempfile::tempdir().unwrap();
    run_alone(async {
        let (lane, _, _) = started(dir.path(), small()).await;
        append(&lane, key(0), &record("old", Some("1"))).await;
        lane.clean(key(0), POLICY, Offset(0), 0);
        let mut damaged = record("a", Some("1"));
        let length = damaged.len();
        damaged.truncate(length - 1); // The record is said to be longer.
        damaged[8..12].copy_from_slice(&(length as i32 - 13).to_be_bytes());
        append(&lane, key(0), &damaged).await;
        append(&lane, key(0), &record("new", Some("1"))).await;
        let refused = |found: Result<Option<crate::KeyHit>, StorageError>| {
            let offset = match found {
                Err(StorageError::Undecodable { offset, .. }) => Some(offset),
                _ => None,
            };
            assert_eq!(offset, Some(Offset(1)));
        };
        durable(&lane, key(0), Offset(3)).await;
        refused(lane.latest_by_key(key(0), b"old", Offset(99_999)).await);
        fill(&lane, 0, 1_000).await;
        settled(&lane).await;
        refused(lane.latest_by_key(key(0), b"old", Offset(99_999)).await);
        assert!(latest(&lane, "key-0", Offset(99_999)).await.is_some());
        lane.close().await.unwrap();
    })
    .unwrap();
}
