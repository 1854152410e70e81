//! The block cache, as readers of a lane meet it.

use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use streambus_proto::ids::{LeaderEpoch, Offset};
use streambus_shards::disk::READ_PIECE_BYTES;
use streambus_shards::sim::{self, Simulation};
use streambus_shards::{Buf, now, run_alone, sleep, spawn, yield_now};

use super::merging::is_settled;
use super::{append, durable, key, read, small, started};
use crate::batch::place_batch;
use crate::batch::tests::batch;
use crate::cache::{BESIDE_COMMITS_BYTES, COMMITS_EXPECTED};
use crate::config::LaneConfig;
use crate::lane::Lane;

const CACHE_BYTES: usize = 512 << 10;

fn caching() -> LaneConfig {
    LaneConfig {
        cache_bytes: CACHE_BYTES,
        ..small()
    }
}

/// Key 0 has a backlog of many caches, key 1 less than a cache; both lie in tables.
async fn filled(lane: &Rc<Lane>) {
    for nth in 0..3_000 {
        append(lane, key(0), &batch(1, 5, &[1; 1_500])).await;
        if nth % 20 == 0 {
            append(lane, key(1), &batch(1, 5, &[2; 1_500])).await;
        }
    }
    durable(lane, key(1), Offset(150)).await;
    // A merge would put other tables in the place of those that are cached.
    while !is_settled(lane) {
        yield_now().await;
    }
}

/// Reads the first hundred batches of key 1, as a consumer that lags a little; returns misses.
async fn lagging_reader(lane: &Rc<Lane>) -> u64 {
    let before = lane.stats().cache_misses;
    let mut from = Offset(0);
    while from < Offset(100) {
        from = read(lane, key(1), from, 20_000).await.next_offset;
    }
    lane.stats().cache_misses - before
}

#[test]
fn the_disk_is_asked_for_little_at_a_time_beside_commits() {
    // Proves that a cold read leaves room between its pieces as long as the lane commits, and not when it has not for
    // a while.
    for seed in 0..3 {
        let report = sim::run(Simulation::new(seed), |world| async move {
            let host = world.add_host([10, 0, 0, 1].into());
            world.disk(host).create_dir_all("/data");
            world.boot(host);
            let on_host = world.spawn_on(host, async {
                let (lane, _, _) = started(Path::new("/data/lane"), caching()).await;
                assert_eq!(lane.cache.piece_bytes(), READ_PIECE_BYTES);
                let end = append(&lane, key(0), &batch(1, 5, b"one")).await;
                durable(&lane, key(0), end).await;
                assert_eq!(lane.cache.piece_bytes(), BESIDE_COMMITS_BYTES);
                sleep(COMMITS_EXPECTED).await;
                assert_eq!(lane.cache.piece_bytes(), READ_PIECE_BYTES);
            });
            on_host.await;
        });
        assert_eq!(report.result, Ok(()), "seed {seed}");
    }
}

#[test]
fn a_small_cold_batch_keeps_little_memory() {
    // Proves that what is read of tables keeps at most a third more memory than it has bytes: one small batch
    // does not keep its block, and many that lie together are not copied.
    let dir = tempfile::tempdir().unwrap();
    run_alone(async {
        let (lane, _, _) = started(dir.path(), caching()).await;
        filled(&lane).await;
        for (bytes_max, from) in [(1, 0), (1, 100), (20_000, 7), (300_000, 0)] {
            let read = read(&lane, key(0), Offset(from), bytes_max).await;
            let kept: usize = read.bufs.iter().map(Buf::backing_capacity).sum();
            assert!(
                kept <= read.bytes + read.bytes / 3,
                "{kept} bytes are kept for {}",
                read.bytes
            );
        }
        lane.close().await.unwrap();
    })
    .unwrap();
}

#[test]
fn a_reader_of_a_long_backlog_evicts_nobody() {
    // Proves scan resistance end to end: while one reader goes through a backlog of ten caches in
    // small fetches, another that reads the same range again and again reads the disk no more;
    // the cache stays within its bytes, and the backlog's reader finds what was read ahead.
    let dir = tempfile::tempdir().unwrap();
    run_alone(async {
        let (lane, _, _) = started(dir.path(), caching()).await;
        filled(&lane).await;
        let runs = lagging_reader(&lane).await;
        for _ in 0..2 {
            lagging_reader(&lane).await;
        }
        let mut from = Offset(0);
        let (mut missed, mut passes, mut reads) = (0, 0, 0);
        let begun = lane.stats();
        while from < Offset(2_500) {
            for _ in 0..20 {
                from = read(&lane, key(0), from, 10_000).await.next_offset;
                reads += 1;
            }
            missed += lagging_reader(&lane).await;
            passes += 1;
            assert!(lane.stats().cache_bytes <= CACHE_BYTES as u64);
        }
        assert!(passes > 10, "{passes} passes");
        // Each run may be on its way to the main queue when the scan begins, and go once. Some of them take
        // one read in a pass, so that it begins where the one of the pass before did.
        assert!(
            missed <= runs,
            "{missed} misses of {runs} runs in {passes} passes"
        );
        let missed = lane.stats().cache_misses - begun.cache_misses - missed;
        assert!(missed < reads / 4, "{missed} of {reads} reads went to disk");
        lane.close().await.unwrap();
    })
    .unwrap();
}

#[test]
fn a_reader_of_a_long_backlog_reads_each_block_once() {
    // Proves that the block which one run ends in, amid a batch, is not read again for the run behind it, and that
    // the bytes are those that were written.
    let dir = tempfile::tempdir().unwrap();
    run_alone(async {
        let (lane, _, _) = started(dir.path(), caching()).await;
        filled(&lane).await;
        let begun = lane.stats().table_read_bytes;
        let (mut from, mut bytes) = (Offset(0), 0);
        while from < Offset(2_500) {
            let read = read(&lane, key(0), from, 30_000).await;
            let mut expected = batch(1, 5, &[1; 1_500]);
            for held in &read.bufs {
                let mut at = 0;
                while at < held.len() {
                    place_batch(&mut expected, from, LeaderEpoch(0));
                    assert_eq!(held[at..at + expected.len()], expected, "at {from:?}");
                    at += expected.len();
                    from = Offset(from.0 + 1);
                }
            }
            assert_eq!(from, read.next_offset);
            bytes += read.bytes as u64;
        }
        let read = lane.stats().table_read_bytes - begun;
        assert!(read < bytes + bytes / 20, "{read} bytes read for {bytes}");
        lane.close().await.unwrap();
    })
    .unwrap();
}

#[test]
fn readers_of_one_range_share_one_read() {
    // Proves that a range which several want at once is read once, and that without a cache
    // every reader still gets its batches.
    let dir = tempfile::tempdir().unwrap();
    run_alone(async {
        let (lane, _, _) = started(dir.path(), caching()).await;
        filled(&lane).await;
        lane.close().await.unwrap();
        let mut misses = Vec::new();
        for cache_bytes in [CACHE_BYTES, 0] {
            let config = LaneConfig {
                cache_bytes,
                ..caching()
            };
            let (lane, _, _) = started(dir.path(), config).await;
            let readers: Vec<_> = (0..4)
                .map(|_| {
                    let lane = Rc::clone(&lane);
                    spawn(async move { read(&lane, key(1), Offset(3), 3_000).await })
                })
                .collect();
            for reader in readers {
                assert_eq!(reader.await.bufs.len(), 1);
            }
            let stats = lane.stats();
            assert_eq!(stats.cache_hits > 0, cache_bytes > 0);
            misses.push(stats.cache_misses);
            lane.close().await.unwrap();
        }
        assert_eq!(misses[1], misses[0] * 4);
    })
    .unwrap();
}

/// How long it takes to read a batch at each of these offsets, all at once.
async fn time_of(lane: &Rc<Lane>, offsets: &[i64]) -> Duration {
    let began = now();
    let readers: Vec<_> = offsets
        .iter()
        .map(|offset| {
            let (lane, offset) = (Rc::clone(lane), Offset(*offset));
            spawn(async move { read(&lane, key(0), offset, 1).await })
        })
        .collect();
    for (reader, offset) in readers.into_iter().zip(offsets) {
        assert_eq!(reader.await.next_offset, Offset(offset + 1));
    }
    now().since(began)
}

#[test]
fn runs_are_read_one_at_a_time_however_many_readers_there_are() {
    // Proves the bound on what stands before a commit in the disk's queue: eight readers at once, on a disk that
    // takes as many reads at a time as it is given, take as long as eight one after the other.
    let report = sim::run(Simulation::new(7), |world| async move {
        let host = world.add_host([10, 0, 0, 1].into());
        let disk = world.disk(host);
        disk.create_dir_all("/data");
        world.boot(host);
        let slow = disk.clone();
        let timed = world.spawn_on(host, async move {
            let dir = Path::new("/data/lane");
            let (lane, _, _) = started(dir, caching()).await;
            filled(&lane).await;
            lane.close().await.unwrap();
            let (lane, _, _) = started(dir, caching()).await;
            slow.slow("/data", 1_000);
            let mut in_turn = Duration::ZERO;
            for reader in 0..8 {
                in_turn += time_of(&lane, &[50 + reader * 100]).await;
            }
            let at_once: Vec<i64> = (0..8).map(|reader| 1_050 + reader * 100).collect();
            let at_once = time_of(&lane, &at_once).await;
            slow.slow("/data", 1);
            lane.close().await.unwrap();
            (in_turn, at_once)
        });
        let (in_turn, at_once) = timed.await;
        assert!(at_once * 2 > in_turn, "{at_once:?} at once, {in_turn:?}");
    });
    report.result.unwrap();
}
