//! Records without a timestamp: retention goes by when they were appended.

use streambus_proto::records::{BatchBuilder, Codec, NewRecord};
use streambus_shards::{wall_ms, yield_now};

use super::*;
use crate::manifest::Manifest;

const HOUR_MS: i64 = 3_600_000;

fn timeless() -> Vec<u8> {
    let mut builder = BatchBuilder::new(Codec::None);
    builder.push(&NewRecord {
        timestamp: -1,
        value: Some(&[7; 1_000]),
        ..NewRecord::default()
    });
    builder.build()
}

fn retained(lane: &Lane, now_ms: i64) -> Option<Offset> {
    let retention_ms = u64::try_from(HOUR_MS).unwrap();
    lane.enforce_retention(key(0), Some(retention_ms), None, now_ms)
}

/// Goes on after this time.
async fn pass(time_ms: i64) {
    while wall_ms() <= time_ms + 20 {
        yield_now().await;
    }
}

/// Appends records without a timestamp; returns the times before and after.
async fn write(lane: &Lane, records: usize) -> (i64, i64) {
    let before = wall_ms();
    for _ in 0..records {
        let end = append(lane, key(0), &timeless()).await;
        durable(lane, key(0), end).await;
    }
    (before, wall_ms())
}

/// Writes to another partition until a table has all of partition 0, and memory nothing.
async fn flush(lane: &Lane) {
    let in_memory = || {
        let state = lane.state.borrow();
        !state.partition(key(0)).unwrap().mem.is_empty()
    };
    while in_memory() {
        append(lane, key(1), &batch(1, 5, &[7; 2_000])).await;
        yield_now().await;
    }
}

#[test]
fn records_without_a_timestamp_expire_by_when_they_were_appended() {
    // Proves it for what is in memory, for what the log alone still has after a restart, for tables and for tables
    // after a restart: an hour after the append and not earlier; a restart begins no new hour.
    for (in_table, restarted) in [(false, false), (false, true), (true, false), (true, true)] {
        let dir = tempfile::tempdir().unwrap();
        run_alone(async {
            let name = format!("in a table: {in_table}, restarted: {restarted}");
            let (mut lane, _, _) = started(dir.path(), small()).await;
            let (before, after) = write(&lane, 1).await;
            pass(after).await;
            // The table is as old as the newest batch in its memtable.
            let mut latest = after;
            if in_table {
                flush(&lane).await;
                latest = wall_ms();
                pass(latest).await;
            }
            if restarted {
                lane.close().await.unwrap();
                drop(lane);
                lane = started(dir.path(), small()).await.0;
            }
            assert_eq!(retained(&lane, before + HOUR_MS), None, "{name}: too early");
            let moved = retained(&lane, latest + HOUR_MS + 1);
            assert_eq!(moved, Some(Offset(1)), "{name}");
            lane.close().await.unwrap();
        })
        .unwrap();
    }
}

#[test]
fn tables_of_builds_that_knew_no_times_age_from_the_first_look() {
    // Proves that a table without a time gets the one at which it is first opened, and keeps it over restarts.
    let dir = tempfile::tempdir().unwrap();
    run_alone(async {
        let (lane, _, _) = started(dir.path(), small()).await;
        write(&lane, 1).await;
        flush(&lane).await;
        lane.close().await.unwrap();
        drop(lane);
        let path = dir.path().join(crate::names::MANIFEST);
        let mut manifest = Manifest::decode(&std::fs::read(&path).unwrap()).unwrap();
        assert!(!manifest.tables.is_empty());
        for table in &mut manifest.tables {
            table.written_ms = None;
        }
        std::fs::write(&path, manifest.encode()).unwrap();
        let before = wall_ms();
        pass(before).await;
        let (lane, _, _) = started(dir.path(), small()).await;
        let seen = wall_ms();
        assert_eq!(retained(&lane, before + HOUR_MS + 1), None, "too early");
        lane.close().await.unwrap();
        drop(lane);
        pass(seen).await;
        let (lane, _, _) = started(dir.path(), small()).await;
        assert_eq!(retained(&lane, seen + HOUR_MS + 1), Some(Offset(1)));
        lane.close().await.unwrap();
    })
    .unwrap();
}
