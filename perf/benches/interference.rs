//! What a lane's other work costs those who append: the time from append to durable, without and with merging, key
//! compaction, and readers of a long backlog, in turn.
//!
//! A batch of 4 KiB is appended every millisecond or so and waited for. Merging is compared under the same load of a
//! thousand small partitions, whose tables are merged by the default rule, or not at all; compaction under the same load of
//! compressed batches with keys.
//!
//! `cargo bench -p streambus-perf --bench interference`

mod support;

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use streambus_proto::ids::{LeaderEpoch, Offset};
use streambus_proto::records::{BatchBuilder, Codec, NewRecord};
use streambus_shards::{Queue, run_alone, sleep, spawn, spawn_in, yield_now};
use streambus_storage::{
    AppendError, CleanPolicy, Lane, LaneConfig, LaneObserver, LaneStats, PartitionKey, ReadPlan,
};

use support::{KEY, Owner, batch, noise, spread};

/// How often each of a pair is measured, in turn.
const ROUNDS: usize = 5;
const LASTING: Duration = Duration::from_secs(15);
const PROBE_BYTES: usize = 4_000;
const PROBE_PAUSE: Duration = Duration::from_millis(1);
/// The load beside it: so much every ten milliseconds, to so many partitions. 40 MB a second.
const LOAD_BATCH_BYTES: usize = 4_000;
const LOAD_BATCHES: usize = 100;
const LOAD_PAUSE: Duration = Duration::from_millis(10);
const LOAD_PARTITIONS: i32 = 1_000;
/// The largest fan-in there is: in the time of a round no tables are merged.
const NO_MERGES: usize = 64;
/// The load whose keys are compacted: some batches again and again, whose values zstd makes half as large. 33 MB a second
/// before that.
const KEYED_PARTITIONS: i32 = 4;
const KEYED_BATCHES: usize = 100;
const KEYED_VALUE_BYTES: usize = 200;
const KEYED_BYTES_PER_MS: usize = 33_000;
/// Small, so that what is compacted is on the disk soon.
const KEYED_MEMTABLE_BYTES: usize = 16 << 20;
const KEYS: u64 = 200_000;
const CLEAN_PAUSE: Duration = Duration::from_secs(1);
const CLEAN_POLICY: CleanPolicy = CleanPolicy {
    min_compaction_lag_ms: 0,
    max_compaction_lag_ms: i64::MAX,
    min_cleanable_dirty_ppm: 500_000,
    delete_retention_ms: 86_400_000,
};
/// What cold readers read, how many they are, and how much each asks for at a time.
const BACKLOG_BYTES: u64 = 2 << 30;
const READERS: i64 = 4;
const READ_BYTES: usize = 1 << 20;

async fn append(lane: &Lane, key: PartitionKey, batch: &[u8]) -> Offset {
    loop {
        let end = lane.log_end(key).unwrap_or_default();
        match lane.append(key, end, LeaderEpoch(0), batch) {
            Ok(appended) => return appended.log_end,
            Err(AppendError::Full) => lane.writable().await,
            Err(error) => panic!("append: {error}"),
        }
    }
}

/// Median and 99th percentile of the time from append to durable, in microseconds.
async fn probe(lane: &Lane, owner: &Owner) -> (f64, f64) {
    let batch = batch(PROBE_BYTES);
    let mut taken = Vec::new();
    let began = Instant::now();
    while began.elapsed() < LASTING {
        sleep(PROBE_PAUSE).await;
        let asked = Instant::now();
        let end = append(lane, KEY, &batch).await;
        while owner.durable.get() < end {
            owner.moved.notified().await;
        }
        taken.push(asked.elapsed().as_secs_f64() * 1e6);
    }
    taken.sort_by(f64::total_cmp);
    (taken[taken.len() / 2], taken[taken.len() * 99 / 100])
}

async fn load(lane: Rc<Lane>, over: Rc<Cell<bool>>) {
    let batch = batch(LOAD_BATCH_BYTES);
    let mut next = (1..=LOAD_PARTITIONS).cycle();
    while !over.get() {
        for _ in 0..LOAD_BATCHES {
            let index = next.next().expect("for ever");
            append(&lane, PartitionKey { index, ..KEY }, &batch).await;
        }
        sleep(LOAD_PAUSE).await;
    }
}

/// Batches of about so many bytes before they are compressed, of records whose keys repeat.
fn keyed_batches(bytes: usize) -> Vec<Vec<u8>> {
    let noise = noise(KEYED_BATCHES * bytes);
    let one = |noise: &[u8]| {
        let mut builder = BatchBuilder::new(Codec::Zstd);
        for noise in noise.chunks_exact(KEYED_VALUE_BYTES) {
            let (number, _) = noise.split_first_chunk().expect("8 bytes at least");
            let key = (u64::from_le_bytes(*number) % KEYS).to_le_bytes();
            let mut value = noise.to_vec();
            value[KEYED_VALUE_BYTES / 2..].fill(0);
            builder.push(&NewRecord {
                timestamp: 1_700_000_000_000,
                key: Some(&key),
                value: Some(&value),
                ..NewRecord::default()
            });
        }
        builder.build()
    };
    noise.chunks_exact(bytes).map(one).collect()
}

async fn keyed_load(
    lane: Rc<Lane>,
    batches: Rc<Vec<Vec<u8>>>,
    pause: Duration,
    over: Rc<Cell<bool>>,
) {
    let mut partitions = (1..=KEYED_PARTITIONS).cycle();
    for batch in batches.iter().cycle() {
        if over.get() {
            return;
        }
        let index = partitions.next().expect("for ever");
        append(&lane, PartitionKey { index, ..KEY }, batch).await;
        sleep(pause).await;
    }
}

/// Asks for compaction as a broker does, but more often.
async fn clean(lane: Rc<Lane>, over: Rc<Cell<bool>>) {
    while !over.get() {
        for index in 1..=KEYED_PARTITIONS {
            let key = PartitionKey { index, ..KEY };
            let end = lane.log_end(key).unwrap_or_default();
            lane.clean(key, CLEAN_POLICY, end, 1_700_000_100_000);
        }
        sleep(CLEAN_PAUSE).await;
    }
}

/// Reads a backlog again and again, from a place of its own on.
async fn read(lane: Rc<Lane>, from: Offset, over: Rc<Cell<bool>>, read_bytes: Rc<Cell<u64>>) {
    let key = PartitionKey { index: 1, ..KEY };
    let end = lane.log_end(key).expect("it has batches");
    let mut at = from;
    while !over.get() {
        let plan = lane.read(key, at, READ_BYTES, end).expect("a plan");
        let ReadPlan::Cold(cold) = plan else {
            at = Offset(0);
            yield_now().await;
            continue;
        };
        let batches = cold.read().await.expect("a read");
        read_bytes.set(read_bytes.get() + batches.bytes as u64);
        at = batches.next_offset;
    }
}

async fn open(dir: &Path, merge_fan_in: usize) -> (Rc<Lane>, Rc<Owner>) {
    let config = LaneConfig {
        merge_fan_in,
        ..LaneConfig::default()
    };
    open_with(dir, config).await
}

async fn open_with(dir: &Path, config: LaneConfig) -> (Rc<Lane>, Rc<Owner>) {
    let config = LaneConfig {
        scrub_bytes_per_second: 0,
        ..config
    };
    let (lane, _) = Lane::open(dir, config).await.expect("the lane opens");
    let owner = Rc::new(Owner::default());
    owner.durable.set(lane.log_end(KEY).unwrap_or_default());
    lane.start(Rc::clone(&owner) as Rc<dyn LaneObserver>);
    (lane, owner)
}

/// One measurement under load; also what the lane did meanwhile.
async fn under_load(merge_fan_in: usize) -> ((f64, f64), LaneStats) {
    let dir = tempfile::tempdir_in(".").expect("a directory on the disk of this one");
    let (lane, owner) = open(dir.path(), merge_fan_in).await;
    let over = Rc::new(Cell::new(false));
    let loading = spawn(load(Rc::clone(&lane), Rc::clone(&over)));
    let figures = probe(&lane, &owner).await;
    over.set(true);
    loading.await;
    let stats = lane.stats();
    lane.close().await.expect("the lane closes");
    (figures, stats)
}

/// Median and 99th percentile, without and with.
type Pair = ((f64, f64), (f64, f64));

fn report(what: &str, pairs: &[Pair], beside: &str) {
    let of = |pick: fn(&Pair) -> f64| spread(&mut pairs.iter().map(pick).collect::<Vec<f64>>()).1;
    println!(
        "| {what} | {} | {} | {} | {} | {} | {beside} |",
        of(|pair| pair.0.0),
        of(|pair| pair.1.0),
        of(|pair| pair.0.1),
        of(|pair| pair.1.1),
        of(|pair| pair.1.1 / pair.0.1),
    );
}

async fn merging() {
    let mut pairs = Vec::new();
    let merged = RefCell::new(Vec::new());
    for _ in 0..ROUNDS {
        let (without, stats) = under_load(NO_MERGES).await;
        assert_eq!(stats.merges, 0, "without merging");
        let (with, stats) = under_load(LaneConfig::default().merge_fan_in).await;
        merged.borrow_mut().push(stats.merged_bytes / 1_000_000);
        pairs.push((without, with));
    }
    let beside = format!("merged in {LASTING:?}, MB: {:?}", merged.take());
    report("merging", &pairs, &beside);
}

/// One measurement beside a load of keys, with or without their compaction; also what the lane did meanwhile.
async fn with_keys(
    batches: &Rc<Vec<Vec<u8>>>,
    pause: Duration,
    cleaned: bool,
) -> ((f64, f64), LaneStats) {
    let dir = tempfile::tempdir_in(".").expect("a directory on the disk of this one");
    let config = LaneConfig {
        merge_fan_in: NO_MERGES,
        memtable_bytes: KEYED_MEMTABLE_BYTES,
        ..LaneConfig::default()
    };
    let (lane, owner) = open_with(dir.path(), config).await;
    let over = Rc::new(Cell::new(false));
    let loading = spawn(keyed_load(
        Rc::clone(&lane),
        Rc::clone(batches),
        pause,
        Rc::clone(&over),
    ));
    let cleaning = cleaned.then(|| spawn(clean(Rc::clone(&lane), Rc::clone(&over))));
    let figures = probe(&lane, &owner).await;
    over.set(true);
    loading.await;
    if let Some(cleaning) = cleaning {
        cleaning.await;
    }
    let stats = lane.stats();
    lane.close().await.expect("the lane closes");
    (figures, stats)
}

async fn cleaning(batch_bytes: usize) {
    let batches = Rc::new(keyed_batches(batch_bytes));
    let pause = Duration::from_millis((batch_bytes / KEYED_BYTES_PER_MS).max(1) as u64);
    let (mut pairs, mut cleaned) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (without, stats) = with_keys(&batches, pause, false).await;
        assert_eq!(stats.cleanings, 0, "without compaction");
        let (with, stats) = with_keys(&batches, pause, true).await;
        assert!(stats.cleanings > 0, "with compaction");
        cleaned.push((
            stats.cleanings,
            stats.cleaned_bytes / 1_000_000,
            stats.cleaned_away_bytes / 1_000_000,
        ));
        pairs.push((without, with));
    }
    let beside = format!("in {LASTING:?}: compactions, MB written, MB left out: {cleaned:?}");
    let what = format!("compaction, batches of {} KiB", batch_bytes >> 10);
    report(&what, &pairs, &beside);
}

async fn cold_readers() {
    let dir = tempfile::tempdir_in(".").expect("a directory on the disk of this one");
    let (lane, owner) = open(dir.path(), NO_MERGES).await;
    let large = batch(64 << 10);
    let backlog = PartitionKey { index: 1, ..KEY };
    let mut end = Offset(0);
    while lane.stats().appended_bytes < BACKLOG_BYTES {
        end = append(&lane, backlog, &large).await;
    }
    let mut pairs = Vec::new();
    let read_bytes = Rc::new(Cell::new(0));
    for _ in 0..ROUNDS {
        let without = probe(&lane, &owner).await;
        let over = Rc::new(Cell::new(false));
        let readers: Vec<_> = (0..READERS)
            .map(|number| {
                let from = Offset(end.0 * number / READERS);
                let reader = read(
                    Rc::clone(&lane),
                    from,
                    Rc::clone(&over),
                    Rc::clone(&read_bytes),
                );
                spawn_in(Queue::Foreground, reader)
            })
            .collect();
        pairs.push((without, probe(&lane, &owner).await));
        over.set(true);
        for reader in readers {
            reader.await;
        }
    }
    let seconds = LASTING.as_secs() * ROUNDS as u64;
    let beside = format!(
        "read, MB a second: {}",
        read_bytes.get() / 1_000_000 / seconds
    );
    report("four cold readers", &pairs, &beside);
    lane.close().await.expect("the lane closes");
}

fn main() {
    println!(
        "| With | p50 without, us | p50 with | p99 without, us | p99 with | p99 by p99 | beside it |"
    );
    println!("|---|---|---|---|---|---|---|");
    run_alone(merging()).expect("a core to run on");
    run_alone(cleaning(64 << 10)).expect("a core to run on");
    run_alone(cleaning(1 << 20)).expect("a core to run on");
    run_alone(cold_readers()).expect("a core to run on");
}
