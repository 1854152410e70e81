//! Look-ups by time: the right record, whatever the headers of batches and the index claim.

use streambus_proto::records::{BatchBuilder, Codec, NewRecord};
use streambus_shards::{spawn, yield_now};

use super::*;

/// A batch with a record for each timestamp.
fn timed(timestamps: &[i64]) -> Vec<u8> {
    let mut builder = BatchBuilder::new(Codec::None);
    for timestamp in timestamps {
        builder.push(&NewRecord {
            timestamp: *timestamp,
            value: Some(b"value"),
            ..NewRecord::default()
        });
    }
    builder.build()
}

/// One that claims another largest timestamp than its records have.
fn claiming(max_timestamp: i64, timestamps: &[i64]) -> Vec<u8> {
    let mut bytes = timed(timestamps);
    bytes[35..43].copy_from_slice(&max_timestamp.to_be_bytes());
    bytes
}

/// What cleaning leaves of a batch of one record, all of which went: its offset and its largest timestamp.
fn emptied(max_timestamp: i64) -> Vec<u8> {
    let mut bytes = claiming(max_timestamp, &[max_timestamp]);
    bytes.truncate(61);
    bytes[8..12].copy_from_slice(&49_i32.to_be_bytes());
    bytes[57..61].copy_from_slice(&0_i32.to_be_bytes());
    bytes
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

/// Appends the batches to partition 0.
async fn write(lane: &Lane, batches: &[Vec<u8>]) {
    for bytes in batches {
        let end = append(lane, key(0), bytes).await;
        durable(lane, key(0), end).await;
    }
}

/// A timestamp to look up, or `None` for the latest; the offset and the timestamp that are found.
type Case = (Option<i64>, Option<(i64, i64)>);

/// What a log is called, its batches, its log start, and what is found in it.
type Log = (&'static str, Vec<Vec<u8>>, i64, Vec<Case>);

async fn finds(lane: &Rc<Lane>, name: &str, cases: &[Case]) {
    let upto = lane.log_end(key(0)).unwrap();
    for (asked, expected) in cases {
        let hit = match asked {
            Some(timestamp) => lane.offset_for_timestamp(key(0), *timestamp, upto).await,
            None => lane.offset_of_max_timestamp(key(0), upto).await,
        };
        let hit = hit.unwrap_or_else(|error| panic!("{name}, {asked:?}: {error}"));
        let found = hit.map(|hit| (hit.offset.0, hit.timestamp));
        assert_eq!(found, *expected, "{name}, {asked:?}");
    }
}

#[expect(clippy::too_many_lines, reason = "one table")]
#[test]
fn records_are_found_by_their_time_and_not_by_what_headers_claim() {
    // Proves, in memory and in tables, that no record before the log start is found, within a batch too, that
    // batches without a record that is late enough are passed over, and that the latest is the latest of those
    // that are there.
    let logs: [Log; 7] = [
        (
            "all is there",
            vec![timed(&[10, 20, 30]), timed(&[40, 40])],
            0,
            vec![
                (Some(0), Some((0, 10))),
                (Some(11), Some((1, 20))),
                (Some(31), Some((3, 40))),
                (Some(41), None),
                (None, Some((3, 40))),
            ],
        ),
        (
            "the log starts within a batch",
            vec![timed(&[10, 20, 30])],
            2,
            vec![(Some(10), Some((2, 30))), (None, Some((2, 30)))],
        ),
        (
            "the batch that claims it has it before the log start",
            vec![timed(&[50, 10]), timed(&[20, 60])],
            1,
            vec![(Some(40), Some((3, 60)))],
        ),
        (
            "the largest lies before the log start",
            vec![timed(&[50, 10]), timed(&[20, 15])],
            1,
            vec![(Some(50), None), (None, Some((2, 20)))],
        ),
        (
            "a whole batch with the largest lies before the log start",
            vec![timed(&[90]), timed(&[20, 15])],
            1,
            vec![(Some(16), Some((1, 20))), (None, Some((1, 20)))],
        ),
        (
            "a batch was emptied",
            vec![timed(&[5]), emptied(50), timed(&[30, 40])],
            0,
            vec![
                (Some(6), Some((2, 30))),
                (Some(35), Some((3, 40))),
                (Some(41), None),
                (None, Some((3, 40))),
            ],
        ),
        (
            "a header claims too much",
            vec![claiming(90, &[10]), timed(&[30, 20])],
            0,
            vec![
                (Some(20), Some((1, 30))),
                (Some(31), None),
                (None, Some((1, 30))),
            ],
        ),
    ];
    for (name, batches, log_start, expected) in logs {
        for in_tables in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            run_alone(async {
                let (lane, _, _) = started(dir.path(), small()).await;
                write(&lane, &batches).await;
                if in_tables {
                    flush(&lane).await;
                }
                lane.set_log_start(key(0), Offset(log_start)).await.unwrap();
                let name = format!("{name}, in tables: {in_tables}");
                finds(&lane, &name, &expected).await;
                lane.close().await.unwrap();
            })
            .unwrap();
        }
    }
}

#[test]
fn what_is_not_committed_is_not_found() {
    // Proves the upper bound of both look-ups.
    let dir = tempfile::tempdir().unwrap();
    run_alone(async {
        let (lane, _, _) = started(dir.path(), small()).await;
        write(&lane, &[timed(&[10, 30]), timed(&[20]), timed(&[50])]).await;
        let at = |offset, timestamp| {
            Some(TimestampHit {
                offset: Offset(offset),
                timestamp,
                leader_epoch: LeaderEpoch(0),
            })
        };
        let upto = Offset(3);
        let found = lane.offset_for_timestamp(key(0), 40, upto).await.unwrap();
        assert_eq!(found, None);
        let latest = lane.offset_of_max_timestamp(key(0), upto).await.unwrap();
        assert_eq!(latest, at(1, 30));
        let latest = lane.offset_of_max_timestamp(key(0), Offset(4)).await;
        assert_eq!(latest.unwrap(), at(3, 50));
        let none = lane.offset_of_max_timestamp(key(0), Offset(0)).await;
        assert_eq!(none.unwrap(), None);
        lane.close().await.unwrap();
    })
    .unwrap();
}

#[test]
fn the_latest_record_is_found_at_the_ends_of_the_type() {
    // Proves that the search for the latest record ends for the largest and the smallest timestamps that there are.
    type Case = (&'static [i64], Option<(i64, i64)>);
    let cases: [Case; 5] = [
        (&[i64::MAX], Some((0, i64::MAX))),
        (&[5, i64::MAX, 7], Some((1, i64::MAX))),
        (&[i64::MAX - 1, 0], Some((0, i64::MAX - 1))),
        (&[0], Some((0, 0))),
        (&[i64::MIN, -1], None),
    ];
    for (timestamps, expected) in cases {
        for claims in [None, Some(i64::MAX)] {
            let dir = tempfile::tempdir().unwrap();
            run_alone(async {
                let (lane, _, _) = started(dir.path(), small()).await;
                let bytes = claims.map_or_else(
                    || timed(timestamps),
                    |claimed| claiming(claimed, timestamps),
                );
                write(&lane, &[bytes]).await;
                let name = format!("{timestamps:?}, claiming {claims:?}");
                finds(&lane, &name, &[(None, expected)]).await;
                lane.close().await.unwrap();
            })
            .unwrap();
        }
    }
}

#[test]
fn a_search_through_memory_goes_on_from_step_to_step() {
    // Proves that what lies at the ends of the steps in which memory is searched is found, and what lies behind the
    // bound is not.
    let dir = tempfile::tempdir().unwrap();
    run_alone(async {
        let config = LaneConfig {
            wal_file_bytes: 64 << 20,
            memtable_bytes: 128 << 20,
            ..small()
        };
        let (lane, _, _) = started(dir.path(), config).await;
        let step = i64::try_from(crate::lane::times::BATCHES_AT_ONCE).unwrap();
        let mut end = Offset(0);
        for nth in 0..3 * step {
            // One late batch at the end of the first step, one at the start of the third.
            let is_late = nth == step - 1 || nth == 2 * step;
            let timestamp = if is_late { 20 + nth } else { 10 };
            end = append(&lane, key(0), &timed(&[timestamp])).await;
            streambus_shards::yield_if_needed().await;
        }
        durable(&lane, key(0), end).await;
        let cases = [
            (Some(11), Some((step - 1, 19 + step))),
            (Some(20 + step), Some((2 * step, 20 + 2 * step))),
            (Some(21 + 2 * step), None),
            (None, Some((2 * step, 20 + 2 * step))),
        ];
        finds(&lane, "all", &cases).await;
        let before = Offset(2 * step);
        let found = lane.offset_for_timestamp(key(0), 20 + step, before).await;
        assert_eq!(found.unwrap(), None);
        lane.close().await.unwrap();
    })
    .unwrap();
}

#[test]
fn a_log_start_that_moves_past_the_look_up_is_no_error() {
    // Proves that a look-up goes on behind a log start that moved while it read a table.
    let dir = tempfile::tempdir().unwrap();
    run_alone(async {
        let (lane, _, _) = started(dir.path(), small()).await;
        write(&lane, &[timed(&[90]), timed(&[20])]).await;
        flush(&lane).await;
        write(&lane, &[timed(&[25]), timed(&[95])]).await;
        // The look-up begins at 1, and its index entry, whose bound is that of offset 0, has it read the table.
        lane.set_log_start(key(0), Offset(1)).await.unwrap();
        let misses = lane.stats().cache_misses;
        let reader = Rc::clone(&lane);
        let look = spawn(async move { reader.offset_for_timestamp(key(0), 80, Offset(4)).await });
        while lane.stats().cache_misses == misses {
            yield_now().await;
        }
        lane.set_log_start(key(0), Offset(3)).await.unwrap();
        let found = look.await.unwrap().unwrap();
        assert_eq!((found.offset, found.timestamp), (Offset(3), 95));
        lane.close().await.unwrap();
    })
    .unwrap();
}
