//! Write amplification of a lane: bytes written to disk by bytes of batches taken.
//!
//! Counted, not timed, so that a busy machine does not change it: by the lane's own counters, and beside
//! them by what the kernel says this process wrote. The lane has its default settings. What is still in
//! memory at the end is not counted as taken, though its WAL is counted as written; merging comes to an
//! end first. Exits with 1 when a figure is above its bound.
//!
//! `cargo bench -p streambus-perf --bench amplification`

use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use streambus_proto::ids::{LeaderEpoch, Offset, TopicId};
use streambus_proto::records::{BatchBuilder, Codec, NewRecord};
use streambus_shards::{run_alone, sleep};
use streambus_storage::{
    AppendError, CommitMeasured, Lane, LaneConfig, LaneObserver, LaneStats, PartitionKey,
    StorageError,
};

/// What is done to a lane.
struct Workload {
    name: &'static str,
    partitions: i32,
    /// Records of 1 KiB in each batch.
    records: usize,
    /// What a partition keeps.
    retention_bytes: Option<u64>,
    taken_bytes: u64,
    at_most: f64,
}

const WORKLOADS: [Workload; 3] = [
    Workload {
        name: "a hot topic, 64 KiB batches, 256 MiB kept",
        partitions: 1,
        records: 63,
        retention_bytes: Some(256 << 20),
        taken_bytes: 2 << 30,
        at_most: 2.1,
    },
    Workload {
        name: "1,000 partitions, 4 KiB batches, all kept",
        partitions: 1_000,
        records: 4,
        retention_bytes: None,
        taken_bytes: 2 << 30,
        at_most: 3.5,
    },
    Workload {
        name: "1,000 partitions, 1 KiB batches, 1 MiB kept",
        partitions: 1_000,
        records: 1,
        retention_bytes: Some(1 << 20),
        taken_bytes: 2 << 30,
        at_most: 3.5,
    },
];

/// Retention is applied after so many batches of a partition.
const RETAIN_EVERY: u64 = 256;

/// Nobody who waits.
struct Owner;

impl LaneObserver for Owner {
    fn durable(&self, _: &[(PartitionKey, Offset)]) {}

    fn annotation(&self, _: PartitionKey) -> Vec<u8> {
        Vec::new()
    }

    fn measured(&self, _: CommitMeasured) {}

    fn failed(&self, error: &StorageError) {
        panic!("the lane failed: {error}");
    }
}

fn key(index: i32) -> PartitionKey {
    PartitionKey {
        topic: TopicId([9; 16]),
        index,
    }
}

/// A batch of records that take 1 KiB each.
fn batch(records: usize) -> Vec<u8> {
    let mut builder = BatchBuilder::new(Codec::None);
    for _ in 0..records {
        builder.push(&NewRecord {
            timestamp: 1_700_000_000_000,
            value: Some(&[0x5a; 1_000]),
            ..NewRecord::default()
        });
    }
    builder.build()
}

async fn append(lane: &Lane, key: PartitionKey, batch: &[u8]) {
    loop {
        let end = lane.log_end(key).unwrap_or_default();
        match lane.append(key, end, LeaderEpoch(0), batch) {
            Ok(_) => return,
            Err(AppendError::Full) => lane.writable().await,
            Err(error) => panic!("append: {error}"),
        }
    }
}

/// Waits until flushes and merges have come to an end: a merge is counted when it is published, so
/// the kernel is asked whether one is being written.
async fn settled(lane: &Lane) -> LaneStats {
    let mut before = (lane.stats().written_bytes(), kernel_written());
    loop {
        sleep(Duration::from_secs(5)).await;
        let now = (lane.stats().written_bytes(), kernel_written());
        if now == before && lane.stats().memtables_frozen == 0 {
            return lane.stats();
        }
        before = now;
    }
}

async fn run(lane: &Rc<Lane>, workload: &Workload) -> LaneStats {
    let batch = batch(workload.records);
    let round_bytes = batch.len() as u64 * u64::from(workload.partitions.unsigned_abs());
    for round in 1..=workload.taken_bytes / round_bytes {
        for index in 0..workload.partitions {
            append(lane, key(index), &batch).await;
            if workload.retention_bytes.is_some() && round.is_multiple_of(RETAIN_EVERY) {
                lane.enforce_retention(key(index), None, workload.retention_bytes, 0);
            }
        }
    }
    settled(lane).await
}

/// Bytes that the kernel wrote for this process, if it says so.
fn kernel_written() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/io").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("write_bytes: "))?;
    line.parse().ok()
}

/// Prints a row; says whether the figure is within its bound.
#[expect(
    clippy::cast_precision_loss,
    reason = "bytes written here are far below 2^52"
)]
fn report(workload: &Workload, stats: &LaneStats, kernel: Option<u64>) -> bool {
    let taken = stats.appended_bytes - stats.memtable_bytes.min(stats.appended_bytes);
    let by = |bytes: u64| bytes as f64 / taken as f64;
    let tables = stats.merged_bytes + stats.rewritten_bytes;
    let amplification = by(stats.written_bytes());
    println!(
        "| {} | {:.2} | {:.2} | {:.2} | {:.2} | {:.3} | {} | {} |",
        workload.name,
        amplification,
        by(stats.commit_bytes),
        by(stats.flushed_bytes),
        by(tables),
        by(stats.manifest_bytes),
        kernel.map_or("-".to_owned(), |bytes| format!("{:.2}", by(bytes))),
        workload.at_most,
    );
    amplification <= workload.at_most
}

fn main() -> ExitCode {
    println!(
        "| Lane with | in all | WAL | flushes | merges, rewrites | manifests | kernel | at most |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    let mut good = true;
    for workload in &WORKLOADS {
        let dir = tempfile::tempdir_in(".").expect("a directory on the disk of this one");
        let outcome = run_alone(async {
            let before = kernel_written();
            let opened = Lane::open(dir.path(), LaneConfig::default()).await;
            let (lane, _) = opened.expect("the lane opens");
            lane.start(Rc::new(Owner));
            let stats = run(&lane, workload).await;
            let kernel = kernel_written()
                .zip(before)
                .map(|(now, before)| now - before);
            good &= report(workload, &stats, kernel);
            lane.close().await.expect("the lane closes");
        });
        outcome.expect("a core to run on");
    }
    if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
