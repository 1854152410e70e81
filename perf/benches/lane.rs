//! A lane's memory: appending a batch of 1 KiB, and reading it back.
//!
//! The lane is opened on a disk but never started, so nothing is written: what is measured is the
//! work of the core from a validated batch to the memtable, and from there to a fetch. Commits close at
//! 64 KiB, about what a core gathers while a sync runs, and their sealing is in the figure.

use std::hint::black_box;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use streambus_proto::ids::{LeaderEpoch, Offset, TopicId};
use streambus_proto::records::{BatchBuilder, Codec, NewRecord};
use streambus_shards::run_alone;
use streambus_storage::{Lane, LaneConfig, PartitionKey, ReadPlan};

/// So that the batch is 1 KiB with its header and its record's.
const VALUE_BYTES: usize = 954;
const BATCH_BYTES: usize = 1_024;
const PARTITIONS: i32 = 16;
/// Appends to one lane: 48 MiB, less than a memtable.
const APPENDS_MAX: u64 = 45_000;

fn batch() -> Vec<u8> {
    let mut builder = BatchBuilder::new(Codec::None);
    builder.push(&NewRecord {
        timestamp: 1_700_000_000_000,
        value: Some(&[0x5a; VALUE_BYTES]),
        ..NewRecord::default()
    });
    let batch = builder.build();
    assert_eq!(batch.len(), BATCH_BYTES);
    batch
}

fn key(index: i32) -> PartitionKey {
    PartitionKey {
        topic: TopicId([9; 16]),
        index,
    }
}

/// A fresh lane whose WAL files are small, for the only one that is made.
async fn lane(dir: &Path, number: u64) -> Rc<Lane> {
    let config = LaneConfig {
        wal_file_bytes: 1 << 20,
        wal_files_max: 128,
        memtable_bytes: 64 << 20,
        commit_bytes_max: 64 << 10,
        ..LaneConfig::default()
    };
    let dir = dir.join(number.to_string());
    Lane::open(&dir, config).await.expect("the lane opens").0
}

/// Appends in turn to all partitions; returns how long it took.
fn fill(lane: &Lane, batch: &[u8], appends: u64) -> Duration {
    let mut ends = [Offset(0); PARTITIONS as usize];
    let began = Instant::now();
    for _ in 0..appends.div_ceil(ends.len() as u64) {
        for (index, end) in (0..).zip(&mut ends) {
            let appended = lane.append(key(index), *end, LeaderEpoch(0), black_box(batch));
            *end = appended.expect("the lane has room").log_end;
        }
    }
    began.elapsed()
}

fn append(criterion: &mut Criterion) {
    let batch = batch();
    let dir = tempfile::tempdir().expect("a directory");
    let mut number = 0;
    criterion.bench_function("lane/append", |bencher| {
        bencher.iter_custom(|iterations| {
            let mut left = iterations;
            let mut spent = Duration::ZERO;
            let outcome = run_alone(async {
                while left > 0 {
                    let appends = left.min(APPENDS_MAX);
                    number += 1;
                    spent += fill(&*lane(dir.path(), number).await, &batch, appends);
                    left -= appends;
                }
            });
            outcome.expect("an executor");
            spent
        });
    });
}

fn read(criterion: &mut Criterion) {
    let batch = batch();
    let dir = tempfile::tempdir().expect("a directory");
    let outcome = run_alone(async {
        let lane = lane(dir.path(), 0).await;
        fill(&lane, &batch, APPENDS_MAX);
        // What is not sealed yet can't be read; it is less than a commit.
        let readable = 2_000;
        let newest = Offset(readable - 1);
        criterion.bench_function("lane/read_newest", |bencher| {
            bencher.iter(|| {
                let plan = lane.read(key(7), black_box(newest), BATCH_BYTES, Offset(readable));
                let Ok(ReadPlan::Ready(batches)) = plan else {
                    panic!("it is in memory");
                };
                assert_eq!(batches.bytes, BATCH_BYTES);
                black_box(batches)
            });
        });
        let mut place = 0_i64;
        criterion.bench_function("lane/read_anywhere", |bencher| {
            bencher.iter(|| {
                // A step without a common divisor, so that neither partition nor offset is the last one.
                place = (place + 7_919) % (readable * i64::from(PARTITIONS));
                let index = i32::try_from(place % i64::from(PARTITIONS)).expect("a partition");
                let from = Offset(place / i64::from(PARTITIONS));
                let plan = lane.read(key(index), from, BATCH_BYTES, Offset(readable));
                let Ok(ReadPlan::Ready(batches)) = plan else {
                    panic!("it is in memory");
                };
                assert_eq!(batches.bytes, BATCH_BYTES);
                black_box(batches)
            });
        });
    });
    outcome.expect("an executor");
}

fn configured() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3))
}

criterion_group! {
    name = memory;
    config = configured();
    targets = append, read
}
criterion_main!(memory);
