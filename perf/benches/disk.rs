//! A lane beside the disk it stands on: durable bandwidth and cold sequential reads, each beside a raw probe of
//! the same pattern, in turn. And three ways to make a write durable, beside one another.
//!
//! The raw writer overwrites a file with one `O_DIRECT`, `O_DSYNC` write at a time, as a commit is written; the raw
//! reader reads the lane's own tables front to back, 1 MiB at a time. The lane takes one batch a commit, and the next
//! when that is durable. Nothing is flushed while its commits are measured, and its log files and its memory have been
//! used before: a log in its steady state, alone. Once more with memory that the process has just got, as in a broker's
//! first gigabytes.
//!
//! `cargo bench -p streambus-perf --bench disk`

mod support;

use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use streambus_proto::ids::{LeaderEpoch, Offset};
use streambus_shards::{Buf, BufMut, File, OpenOptions, run_alone, sleep};
use streambus_storage::{AppendError, Lane, LaneConfig, LaneObserver, ReadPlan};

use support::{KEY, Owner, batch, noise, spread};

/// How often each of a pair is measured, in turn.
const ROUNDS: usize = 9;
/// How long each time, at most.
const LASTING: Duration = Duration::from_millis(250);
/// How often commits are: they are measured for a shorter time.
const COMMIT_ROUNDS: usize = 25;
/// Bytes of commits each time, at most: less than a memtable, and than the memory that a core keeps for the next.
const ROUND_BYTES: u64 = 96 << 20;
const MEMTABLE_BYTES: usize = 128 << 20;
/// More than is written while measuring: a lane that keeps so much has its memory from the kernel each time.
const NEW_MEMORY_BYTES: usize = 16 << 30;
/// Bytes of a commit, and how much of them its headers and padding take at most.
const COMMITS: [usize; 3] = [4 << 10, 64 << 10, 256 << 10];
const HEADER_BYTES_MAX: usize = 512;
const LOG_FILE_BYTES: u64 = 64 << 20;
/// What is read, and how much at a time.
const TABLE_BYTES: u64 = 1 << 30;
const READ_BYTES: usize = 1 << 20;

/// Appends while it may, with so many batches under way at most; returns bytes of commits a second.
async fn write(
    lane: &Lane,
    owner: &Owner,
    batch: &[u8],
    under_way: i64,
    enough: &dyn Fn(u64) -> bool,
) -> f64 {
    let mut end = lane.log_end(KEY).unwrap_or_default();
    owner.durable.set(end);
    let before = lane.stats().commit_bytes;
    let began = Instant::now();
    while !enough(lane.stats().commit_bytes - before) {
        while end.0 - owner.durable.get().0 >= under_way {
            owner.moved.notified().await;
        }
        match lane.append(KEY, end, LeaderEpoch(0), batch) {
            Ok(appended) => end = appended.log_end,
            Err(AppendError::Full) => lane.writable().await,
            Err(error) => panic!("append: {error}"),
        }
    }
    while owner.durable.get() < end {
        owner.moved.notified().await;
    }
    rate(lane.stats().commit_bytes - before, began.elapsed())
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a few gigabytes are far below 2^52"
)]
fn rate(bytes: u64, time: Duration) -> f64 {
    bytes as f64 / time.as_secs_f64() / 1e6
}

/// How a write is made durable.
#[derive(Clone, Copy)]
enum Way {
    /// By itself: the file is open with `O_DSYNC`.
    Dsync,
    /// By a sync that is asked for when it is done.
    ThenSync,
    /// By a sync that is linked behind it.
    Linked,
}

async fn raw_writes(file: &File, bytes: usize, way: Way) -> f64 {
    // In memory that is not always the same, as a log's is not.
    let all = noisy(32 * bytes);
    let step = bytes as u64;
    let (mut written, began) = (0, Instant::now());
    let mut next = (0..32).cycle();
    while began.elapsed() < LASTING && written < ROUND_BYTES {
        let at = written % LOG_FILE_BYTES;
        let from = next.next().expect("for ever") * bytes;
        let bytes = &all.slice(from..from + bytes);
        let done = match way {
            Way::Dsync => file.write_at(at, bytes).await,
            Way::ThenSync => match file.write_at(at, bytes).await {
                Ok(()) => file.datasync().await,
                failed => failed,
            },
            Way::Linked => file.write_synced(at, bytes).await,
        };
        done.expect("a raw write");
        written += step;
    }
    rate(written, began.elapsed())
}

async fn raw_file(path: &Path, dsync: bool) -> File {
    let options = OpenOptions {
        write: true,
        create: true,
        direct: true,
        dsync,
        ..OpenOptions::default()
    };
    let file = File::open(path, options).await.expect("a raw file");
    let bytes = noisy(1 << 20);
    for position in (0..LOG_FILE_BYTES).step_by(1 << 20) {
        file.write_at(position, &bytes).await.expect("a raw write");
    }
    file
}

fn noisy(bytes: usize) -> Buf {
    let mut buf = BufMut::with_capacity(bytes);
    buf.extend_from_slice(&noise(bytes));
    buf.freeze()
}

async fn open(dir: &Path, memtable_bytes: usize, kept_bytes: usize) -> (Rc<Lane>, Rc<Owner>) {
    let config = LaneConfig {
        wal_file_bytes: LOG_FILE_BYTES,
        wal_files_spare_max: 8,
        memtable_bytes,
        memtables_kept_bytes: kept_bytes,
        scrub_bytes_per_second: 0,
        ..LaneConfig::default()
    };
    let (lane, _) = Lane::open(dir, config).await.expect("the lane opens");
    let owner = Rc::new(Owner::default());
    lane.start(Rc::clone(&owner) as Rc<dyn LaneObserver>);
    (lane, owner)
}

async fn close(lane: &Lane) {
    lane.close().await.expect("the lane closes");
}

/// Fills the memtable, and waits until it is flushed.
async fn flush(lane: &Lane, owner: &Owner, filler: &[u8]) {
    let flushes = lane.stats().flushes;
    write(lane, owner, filler, 8, &|_| {
        let stats = lane.stats();
        stats.memtables_frozen > 0 || stats.flushes > flushes
    })
    .await;
    while lane.stats().flushes == flushes {
        sleep(Duration::from_millis(1)).await;
    }
}

/// Lets go of all that is written, and waits until it is gone.
async fn forget(lane: &Lane) {
    let end = lane.log_end(KEY).expect("it has batches");
    lane.set_log_start(KEY, end).await.expect("a log start");
    while lane.stats().tables > 0 {
        sleep(Duration::from_millis(1)).await;
    }
}

fn report(what: &str, pairs: &[(f64, f64)]) {
    let mut raw: Vec<f64> = pairs.iter().map(|pair| pair.0).collect();
    let mut lane: Vec<f64> = pairs.iter().map(|pair| pair.1).collect();
    let mut ratios: Vec<f64> = pairs.iter().map(|pair| pair.1 / pair.0).collect();
    println!(
        "| {what} | {} | {} | {} |",
        spread(&mut raw).1,
        spread(&mut lane).1,
        spread(&mut ratios).1
    );
}

/// Commits of some sizes, into memory that was used before, or that is new to the process each time.
async fn commits(dir: &Path, sizes: &[usize], memory_is_new: bool) {
    let kept_bytes = if memory_is_new { NEW_MEMORY_BYTES } else { 0 };
    let (lane, owner) = open(dir, MEMTABLE_BYTES, kept_bytes).await;
    let filler = batch(256 << 10);
    let file = raw_file(&dir.join("raw"), true).await;
    // Log files and memory that have been used: one more memtable than there may be at a time.
    for _ in 0..4 {
        flush(&lane, &owner, &filler).await;
    }
    for bytes in sizes {
        let batch = batch(bytes - HEADER_BYTES_MAX);
        let (mut pairs, mut all, mut count) = (Vec::new(), 0, 0);
        for _ in 0..COMMIT_ROUNDS {
            // The first after a flush meets what the file system still has to do for it.
            raw_writes(&file, *bytes, Way::Dsync).await;
            let raw = raw_writes(&file, *bytes, Way::Dsync).await;
            let before = lane.stats();
            let began = Instant::now();
            let written = write(&lane, &owner, &batch, 1, &|written| {
                began.elapsed() >= LASTING || written >= ROUND_BYTES
            })
            .await;
            let after = lane.stats();
            assert!(after.flushes == before.flushes && after.memtables_frozen == 0);
            all += after.commit_bytes - before.commit_bytes;
            count += after.commits - before.commits;
            pairs.push((raw, written));
            flush(&lane, &owner, &filler).await;
            if !memory_is_new {
                forget(&lane).await;
            }
        }
        let each = all / count;
        let into = if memory_is_new { ", new memory" } else { "" };
        report(
            &format!("durable commits of {bytes} B ({each} B each){into}"),
            &pairs,
        );
    }
    close(&lane).await;
}

/// Ways to make a write durable, each beside the first.
async fn ways(dir: &Path) {
    let dsync = raw_file(&dir.join("dsync"), true).await;
    let plain = raw_file(&dir.join("plain"), false).await;
    for bytes in COMMITS {
        let (mut then_sync, mut linked) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let first = raw_writes(&dsync, bytes, Way::Dsync).await;
            then_sync.push((first, raw_writes(&plain, bytes, Way::ThenSync).await));
            linked.push((first, raw_writes(&plain, bytes, Way::Linked).await));
        }
        report(&format!("{bytes} B: a write, then fdatasync"), &then_sync);
        report(
            &format!("{bytes} B: fdatasync linked behind the write"),
            &linked,
        );
    }
}

async fn raw_reads(dir: &Path) -> f64 {
    let options = OpenOptions {
        direct: true,
        ..OpenOptions::default()
    };
    let (mut read, began) = (0, Instant::now());
    for name in streambus_shards::disk::list(dir).expect("the lane's files") {
        if !name.starts_with("table-") {
            continue;
        }
        let file = File::open(&dir.join(name), options).await.expect("a table");
        let len = file.len().expect("its length");
        for position in (0..len).step_by(READ_BYTES) {
            let (_, count) = file.read_up_to(position, READ_BYTES).await.expect("a read");
            read += count as u64;
        }
    }
    rate(read, began.elapsed())
}

async fn lane_reads(lane: &Rc<Lane>, end: Offset) -> f64 {
    let (mut read, mut from, began) = (0, Offset(0), Instant::now());
    while from < end {
        let ReadPlan::Cold(cold) = lane.read(KEY, from, READ_BYTES, end).expect("a plan") else {
            // The rest is in memory.
            break;
        };
        let batches = cold.read().await.expect("a read");
        read += batches.bytes as u64;
        from = batches.next_offset;
    }
    rate(read, began.elapsed())
}

async fn reads(dir: &Path) {
    let (lane, owner) = open(dir, 32 << 20, 0).await;
    write(&lane, &owner, &batch(64 << 10), 64, &|bytes| {
        bytes > TABLE_BYTES
    })
    .await;
    while lane.stats().memtables_frozen > 0 {
        sleep(Duration::from_millis(20)).await;
    }
    let end = lane.log_end(KEY).expect("it has batches");
    let mut pairs = Vec::new();
    for _ in 0..ROUNDS {
        let raw = raw_reads(dir).await;
        pairs.push((raw, lane_reads(&lane, end).await));
    }
    report("cold sequential read of 1 GiB", &pairs);
    close(&lane).await;
}

fn main() {
    println!("| Pattern | `O_DSYNC`, or raw; MB/s | other way, or lane; MB/s | by the first |");
    println!("|---|---|---|---|");
    for part in ["ways", "commits", "new memory", "reads"] {
        let dir = tempfile::tempdir_in(".").expect("a directory on the disk of this one");
        let outcome = run_alone(async {
            match part {
                "ways" => ways(dir.path()).await,
                "commits" => commits(dir.path(), &COMMITS, false).await,
                "new memory" => commits(dir.path(), &COMMITS[2..], true).await,
                _ => reads(dir.path()).await,
            }
        });
        outcome.expect("a core to run on");
    }
}
