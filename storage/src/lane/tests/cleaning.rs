//! Key compaction in a lane: the newest of each key, whatever happens meanwhile.

use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use streambus_proto::ids::{LeaderEpoch, Offset, ProducerEpoch, ProducerId};
use streambus_proto::records::{
    BatchBuilder, BatchView, Codec, ControlKind, DecompressLimits, EndTransactionMarker, NewRecord,
};
use streambus_shards::sim::{self, Simulation};
use streambus_shards::{now, run_alone, sleep, yield_now};

use super::model::copy_dir;
use super::{Owner, append, durable, keeping, key, read_all, small, started};
use crate::clean::CleanPolicy;
use crate::config::LaneConfig;
use crate::lane::{Lane, Recovery};
use crate::observer::LaneObserver;
use crate::wal::tests::Chance;

/// Far more than a cleaning takes on a busy disk.
const PATIENCE: Duration = Duration::from_mins(1);

const POLICY: CleanPolicy = CleanPolicy {
    min_compaction_lag_ms: 0,
    max_compaction_lag_ms: i64::MAX,
    min_cleanable_dirty_ppm: 100_000,
    delete_retention_ms: 0,
};

fn cleaning(seed: u64) -> LaneConfig {
    LaneConfig {
        clean_keys_max: 60,
        ..keeping(seed)
    }
}

type Values = BTreeMap<i64, (Vec<u8>, Option<Vec<u8>>)>;

/// All that was appended to a partition, by offset.
#[derive(Default)]
struct Reference {
    records: Values,
    log_start: i64,
}

impl Reference {
    /// The newest record of each key before `end`, tombstones too.
    fn newest(&self, end: i64) -> BTreeMap<&[u8], i64> {
        let visible = self.records.range(self.log_start.min(end)..end);
        visible
            .map(|(at, (key, _))| (key.as_slice(), *at))
            .collect()
    }
}

async fn append_keyed(lane: &Lane, index: i32, chance: &mut Chance, reference: &mut Reference) {
    let codec = Codec::ALL[chance.below(5) as usize];
    let mut builder = BatchBuilder::new(codec);
    let base = lane.log_end(key(index)).unwrap_or_default().0;
    for nth in 0..=chance.below(6) as i64 {
        // A few keys are hot, so that most of what is written is soon replaced.
        let number = chance.below(1 + chance.0 % 40);
        let name = format!("key-{number}").into_bytes();
        let value = vec![chance.next() as u8; chance.below(1_500) as usize];
        let value = (chance.below(8) > 0).then_some(value);
        builder.push(&NewRecord {
            timestamp: 1_000 + base + nth,
            key: Some(&name),
            value: value.as_deref(),
            headers: &[],
        });
        reference.records.insert(base + nth, (name, value));
    }
    append(lane, key(index), &builder.build()).await;
}

/// What a reader sees: every record with its offset.
async fn records_of(lane: &Rc<Lane>, index: i32, max: usize) -> Values {
    let start = lane.log_start(key(index)).unwrap();
    let mut found = Values::new();
    let mut scratch = Vec::new();
    for (_, bytes) in read_all(lane, key(index), start, max).await {
        let (view, _) = BatchView::split_first(&bytes).unwrap();
        view.verify().unwrap();
        let limits = DecompressLimits::default();
        for record in view.records(&mut scratch, limits).unwrap() {
            let record = record.unwrap();
            let value = record.value.map(<[u8]>::to_vec);
            let known = (record.key.unwrap().to_vec(), value);
            assert!(found.insert(record.offset.0, known).is_none());
        }
    }
    found
}

/// Nothing that a reader sees is made up, the newest record of each key is there (but for
/// tombstones, whose time is short here), and what was cleaned has each key once.
async fn check(lane: &Rc<Lane>, index: i32, reference: &Reference, seed: u64) {
    let end = lane.log_end(key(index)).unwrap();
    durable(lane, key(index), end).await;
    // Asked before: a cleaning may end while the records are read.
    let cleaned = lane.cleaned_end(key(index)).unwrap().0;
    let found = records_of(lane, index, 9_000).await;
    for (at, known) in &found {
        assert_eq!(reference.records.get(at), Some(known), "seed {seed}: {at}");
    }
    for (name, at) in reference.newest(end.0) {
        let is_tombstone = reference.records[&at].1.is_none();
        let is_there = found.contains_key(&at);
        assert!(
            is_there || is_tombstone,
            "seed {seed}: {name:?} at {at} is lost"
        );
    }
    for (name, at) in reference.newest(end.0) {
        let hit = lane.latest_by_key(key(index), name, end).await.unwrap();
        let hit = hit.map(|hit| (hit.offset.0, hit.value));
        let value = &reference.records[&at].1;
        let gone = hit.is_none() && value.is_none();
        assert!(
            gone || hit == Some((at, value.clone())),
            "seed {seed}: {name:?} at {at}, found {:?}",
            hit.map(|(at, _)| at)
        );
    }
    let newest = reference.newest(cleaned);
    for (at, (name, _)) in found.range(reference.log_start.min(cleaned)..cleaned) {
        let only = newest.get(name.as_slice()) == Some(at);
        assert!(
            only,
            "seed {seed}: an old {name:?} at {at} before {cleaned}"
        );
    }
}

async fn cleaned(lane: &Lane) {
    let before = lane.stats().cleanings;
    while !lane.state.borrow().cleans.is_empty() {
        yield_now().await;
    }
    for _ in 0..200 {
        if lane.stats().cleanings > before {
            return;
        }
        yield_now().await;
    }
}

fn reopened(recovery: &Recovery, references: &mut [Reference], seed: u64) {
    assert!(recovery.quarantined.is_empty(), "seed {seed}: {recovery:?}");
    for found in &recovery.partitions {
        let reference = &mut references[found.key.index as usize];
        reference.records.retain(|at, _| *at < found.log_end.0);
        reference.log_start = found.log_start.0;
    }
}

/// Returns bytes that were cleaned away.
fn run_seed(seed: u64) -> u64 {
    let dir = tempfile::tempdir().unwrap();
    run_alone(async move {
        let mut chance = Chance(seed);
        let mut references: Vec<Reference> = (0..3).map(|_| Reference::default()).collect();
        let mut at = dir.path().join("0");
        let (mut lane, _, _) = started(&at, cleaning(seed)).await;
        let mut gone = 0;
        for round in 1..6 {
            for _ in 0..30 {
                let index = chance.below(3) as i32;
                let reference = &mut references[index as usize];
                match chance.below(10) {
                    0 if lane.log_end(key(index)).is_some() => {
                        let upto = lane.durable_end(key(index)).unwrap();
                        if lane.clean(key(index), POLICY, upto, 10_000_000) && chance.below(2) == 0
                        {
                            cleaned(&lane).await;
                        }
                    }
                    1 if lane.log_end(key(index)).is_some() => {
                        let end = lane.log_end(key(index)).unwrap().0;
                        let room = (end - reference.log_start) as u64 / 4;
                        reference.log_start += chance.below(room + 1) as i64;
                        let start = Offset(reference.log_start);
                        lane.set_log_start(key(index), start).await.unwrap();
                    }
                    2 if lane.log_end(key(index)).is_some() => {
                        check(&lane, index, reference, seed).await;
                    }
                    _ => {
                        for _ in 0..chance.below(12) {
                            append_keyed(&lane, index, &mut chance, reference).await;
                        }
                    }
                }
            }
            gone += lane.stats().cleaned_away_bytes;
            let next = dir.path().join(round.to_string());
            let crash = chance.below(2) == 0;
            if crash {
                crashed_copy(&at, &next).await;
            }
            lane.close().await.unwrap();
            at = if crash { next } else { at };
            let (opened, _, recovery) = started(&at, cleaning(seed)).await;
            lane = opened;
            reopened(&recovery, &mut references, seed);
            for (index, reference) in (0..).zip(&references) {
                if lane.log_end(key(index)).is_some() {
                    check(&lane, index, reference, seed).await;
                }
            }
        }
        lane.close().await.unwrap();
        gone
    })
    .unwrap()
}

async fn crashed_copy(from: &Path, to: &Path) {
    // A file that is renamed while it is copied makes the copy fail: then again.
    while copy_dir(from, to).is_err() {
        std::fs::remove_dir_all(to).unwrap();
        yield_now().await;
    }
}

#[test]
fn random_histories_keep_the_newest_of_each_key() {
    // Proves key compaction against a reference, with all codecs, tombstones, deletions from the
    // front, merges, restarts and crashes at arbitrary moments in between.
    let gone: u64 = (0..6).map(run_seed).sum();
    assert!(gone > 250_000, "only {gone} bytes were ever cleaned away");
}

#[test]
fn a_compacted_log_shrinks_to_its_keys() {
    // Proves that a partition's space follows its keys and not its history, that the log end stays
    // when everything before it goes, over a restart, and that a second cleaning changes nothing.
    let dir = tempfile::tempdir().unwrap();
    run_alone(async {
        let config = LaneConfig {
            clean_keys_max: 10_000,
            // All of it would still be in memory, if cleaning did not take it out.
            memtables_kept_bytes: 16 << 20,
            ..small()
        };
        let (lane, _, _) = started(dir.path(), config.clone()).await;
        let mut builder = BatchBuilder::new(Codec::None);
        for nth in 0..2_000_u32 {
            let name = (nth % 20).to_be_bytes();
            builder.push(&NewRecord {
                timestamp: 5,
                key: Some(&name),
                value: Some(&[7; 1_000]),
                headers: &[],
            });
            append(&lane, key(0), &builder.build()).await;
        }
        durable(&lane, key(0), Offset(2_000)).await;
        while !lane.state.borrow().frozen.is_empty() {
            yield_now().await;
        }
        assert!(lane.clean(key(0), POLICY, Offset(2_000), 100));
        let in_memory = lane.state.borrow().partition(key(0)).unwrap().mem.bytes();
        while lane.size_bytes(key(0)).unwrap() > in_memory + 30_000 {
            yield_now().await;
        }
        let cleaned_end = lane.cleaned_end(key(0)).unwrap();
        assert!(cleaned_end > Offset(1_800), "{cleaned_end:?}");
        assert!(
            !lane.clean(key(0), POLICY, Offset(2_000), 100),
            "nothing is new"
        );
        let before = records_of(&lane, 0, 1 << 20).await;
        assert!(before.len() < 200, "{} records", before.len());
        lane.close().await.unwrap();
        let (lane, _, _) = started(dir.path(), config).await;
        assert_eq!(lane.log_end(key(0)), Some(Offset(2_000)));
        assert_eq!(
            lane.epoch_end(key(0), LeaderEpoch(0)).unwrap().1,
            Offset(2_000)
        );
        assert_eq!(lane.cleaned_end(key(0)), Some(cleaned_end));
        assert_eq!(records_of(&lane, 0, 1 << 20).await, before);
        lane.close().await.unwrap();
    })
    .unwrap();
}

#[test]
fn a_quiet_partition_is_compacted_when_its_longest_lag_is_over() {
    // Proves max.compaction.lag.ms for what is only in memory: few records that would stay there for
    // long are flushed when they are overdue, not before, and then compacted; min.compaction.lag.ms
    // holds back a table that has one younger record.
    let dir = tempfile::tempdir().unwrap();
    run_alone(async {
        let (lane, _, _) = started(dir.path(), small()).await;
        let mut builder = BatchBuilder::new(Codec::None);
        for value in [&b"old"[..], b"new"] {
            builder.push(&NewRecord {
                timestamp: 1_000,
                key: Some(b"key"),
                value: Some(value),
                headers: &[],
            });
        }
        append(&lane, key(0), &builder.build()).await;
        durable(&lane, key(0), Offset(2)).await;
        let lag = |min, max| CleanPolicy {
            min_compaction_lag_ms: min,
            max_compaction_lag_ms: max,
            ..POLICY
        };
        let clean = |policy, now_ms| lane.clean(key(0), policy, Offset(2), now_ms);
        assert!(!clean(lag(0, i64::MAX), 900_000));
        assert!(!clean(lag(0, 10_000), 11_000), "not before the lag is over");
        assert!(!lane.state.borrow().freeze_wanted);
        assert!(
            !lane.clean(key(0), lag(0, 10_000), Offset(1), 11_001),
            "undecided"
        );
        assert!(!lane.state.borrow().freeze_wanted);
        assert!(!clean(lag(0, 10_000), 11_001), "it has to be flushed first");
        while lane
            .state
            .borrow()
            .partition(key(0))
            .unwrap()
            .ranges
            .is_empty()
        {
            yield_now().await;
        }
        assert!(!clean(lag(10_002, 10_000), 11_001), "too young");
        assert!(clean(lag(10_001, 10_000), 11_001));
        while lane.cleaned_end(key(0)) != Some(Offset(2)) {
            yield_now().await;
        }
        let left = records_of(&lane, 0, 1 << 20).await;
        assert_eq!(left.keys().copied().collect::<Vec<_>>(), [1]);
        lane.close().await.unwrap();
    })
    .unwrap();
}

/// One record of a key, with a kilobyte of value or as a tombstone.
fn record(name: &[u8], value: Option<u8>, producer: Option<i64>) -> Vec<u8> {
    let mut builder = BatchBuilder::new(Codec::None);
    if let Some(producer) = producer {
        builder.set_producer(ProducerId(producer), ProducerEpoch(0), 0);
        builder.set_transactional();
    }
    let value = value.map(|byte| [byte; 1_000]);
    builder.push(&NewRecord {
        timestamp: 1_000,
        key: Some(name),
        value: value.as_ref().map(<[u8; 1_000]>::as_slice),
        headers: &[],
    });
    builder.build()
}

/// Has everything that was appended flushed; returns the partition's end.
async fn flushed(lane: &Rc<Lane>, index: i32) -> Offset {
    let end = lane.log_end(key(index)).unwrap();
    durable(lane, key(index), end).await;
    lane.state.borrow_mut().freeze_wanted = true;
    lane.wal_wake.notify_one();
    let is_flushed = || {
        let state = lane.state.borrow();
        let last = state.partition(key(index)).unwrap().ranges.last().cloned();
        state.frozen.is_empty() && last.is_some_and(|last| last.end == end)
    };
    while !is_flushed() {
        yield_now().await;
    }
    end
}

/// Values of two keys in turn, flushed.
async fn in_turn(lane: &Rc<Lane>, index: i32, count: u8) -> Offset {
    for nth in 0..count {
        append(lane, key(index), &record(&[nth % 2], Some(nth), None)).await;
    }
    flushed(lane, index).await
}

/// Asks for it to be cleaned until that is not due any more.
async fn clean_up(lane: &Rc<Lane>, index: i32, upto: Offset) {
    let began = now();
    while lane.clean(key(index), POLICY, upto, 10_000) {
        assert!(now().since(began) < PATIENCE, "it is due for ever");
        yield_now().await;
    }
}

#[test]
fn a_survey_that_decides_nothing_is_not_repeated_at_once() {
    // Proves that a transaction without an end at the front of what is new makes the partition due
    // again only when there is twice as much of it, also behind its clean part; that the end, when it
    // comes, lets it be compacted; and that so does a log start behind the transaction.
    for by_marker in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        run_alone(async {
            let (lane, _, _) = started(dir.path(), small()).await;
            let begun = in_turn(&lane, 0, 10).await;
            clean_up(&lane, 0, begun).await;
            assert_eq!(lane.cleaned_end(key(0)), Some(begun));
            append(&lane, key(0), &record(b"x", Some(1), Some(9))).await;
            let first = in_turn(&lane, 0, 40).await;
            clean_up(&lane, 0, first).await;
            assert_eq!(lane.cleaned_end(key(0)), Some(begun));
            let more = in_turn(&lane, 0, 30).await;
            assert!(!lane.clean(key(0), POLICY, more, 10_000), "not yet twice");
            let end = if by_marker {
                let kind = ControlKind::Commit;
                let marker = EndTransactionMarker {
                    kind,
                    coordinator_epoch: 1,
                };
                let marker = marker.to_batch(ProducerId(9), ProducerEpoch(0), 1_000);
                append(&lane, key(0), &marker).await;
                let end = in_turn(&lane, 0, 20).await;
                assert!(lane.clean(key(0), POLICY, end, 10_000), "twice");
                end
            } else {
                let start = Offset(begun.0 + 1);
                lane.set_log_start(key(0), start).await.unwrap();
                assert!(lane.clean(key(0), POLICY, more, 10_000), "passed");
                more
            };
            clean_up(&lane, 0, end).await;
            assert_eq!(lane.cleaned_end(key(0)), Some(end));
            lane.close().await.unwrap();
        })
        .unwrap();
    }
}

/// The horizon of a batch, if it has one.
fn horizon(bytes: &[u8]) -> Option<i64> {
    let (view, _) = BatchView::split_first(bytes).unwrap();
    let has_one = view.attributes().has_delete_horizon();
    has_one.then(|| view.base_timestamp())
}

#[test]
fn a_cleaning_goes_by_the_time_and_the_policy_of_its_begin() {
    // Proves that a partition which waits is cleaned by what was asked for last, and that the time it
    // waited counts: the horizon of its tombstone shows both.
    const DIR: &str = "/data/lane";
    let report = sim::run(Simulation::new(1), |world| async move {
        let host = world.add_host([10, 0, 0, 1].into());
        world.disk(host).create_dir_all("/data");
        world.boot(host);
        let cleaned = world.spawn_on(host, async {
            let (lane, _, _) = started(Path::new(DIR), small()).await;
            in_turn(&lane, 0, 10).await;
            append(&lane, key(0), &record(&[1], None, None)).await;
            let end = flushed(&lane, 0).await;
            lane.close().await.unwrap();
            // Not started yet: it waits.
            let (lane, _) = Lane::open(Path::new(DIR), small()).await.unwrap();
            let retain = |delete_retention_ms| CleanPolicy {
                delete_retention_ms,
                ..POLICY
            };
            assert!(lane.clean(key(0), retain(77), end, 10_000));
            sleep(Duration::from_secs(10)).await;
            assert!(lane.clean(key(0), retain(500_000), end, 20_000));
            sleep(Duration::from_mins(10)).await;
            let owner = Rc::new(Owner::default());
            lane.start(Rc::clone(&owner) as Rc<dyn LaneObserver>);
            while lane.cleaned_end(key(0)) != Some(end) {
                sleep(Duration::from_millis(1)).await;
            }
            let left = read_all(&lane, key(0), Offset(0), 1 << 20).await;
            let last = left.last().and_then(|(_, bytes)| horizon(bytes));
            let expected = 20_000 + 600_000 + 500_000;
            let last = last.expect("the tombstone is there, with its horizon");
            assert!((expected..expected + 1_000).contains(&last), "{last}");
            lane.close().await.unwrap();
        });
        cleaned.await;
    });
    report.result.unwrap();
}

#[test]
fn a_partition_that_is_not_to_be_compacted_any_more_does_not_wait_for_it() {
    // Proves that whoever takes a request back takes back that of its partition and no other.
    let dir = tempfile::tempdir().unwrap();
    run_alone(async {
        let (lane, _, _) = started(dir.path(), small()).await;
        let ends = [in_turn(&lane, 0, 10).await, in_turn(&lane, 1, 10).await];
        lane.close().await.unwrap();
        let (lane, _) = Lane::open(dir.path(), small()).await.unwrap();
        for (index, end) in (0..2).zip(ends) {
            assert!(lane.clean(key(index), POLICY, end, 10_000));
        }
        lane.clean_no_more(key(0));
        lane.clean_no_more(key(7));
        let owner = Rc::new(Owner::default());
        lane.start(Rc::clone(&owner) as Rc<dyn LaneObserver>);
        while lane.cleaned_end(key(1)) != Some(ends[1]) {
            yield_now().await;
        }
        assert_eq!(lane.cleaned_end(key(0)), Some(Offset(0)));
        assert_eq!(lane.stats().cleanings, 1);
        lane.close().await.unwrap();
    })
    .unwrap();
}

#[test]
fn merges_take_turns_with_cleanings() {
    // Proves that a merge which is due comes after one cleaning, though other partitions wait to be
    // cleaned, and that they are cleaned after it.
    let dir = tempfile::tempdir().unwrap();
    let config = |merge_fan_in| LaneConfig {
        hot_table_bytes: 1 << 30,
        merge_table_bytes_max: 1 << 30,
        merge_fan_in,
        ..small()
    };
    run_alone(async {
        let (lane, _, _) = started(dir.path(), config(64)).await;
        for _ in 0..5 {
            for index in 0..20 {
                append(&lane, key(index), &record(b"a", Some(1), None)).await;
            }
            flushed(&lane, 0).await;
        }
        lane.close().await.unwrap();
        let (lane, _) = Lane::open(dir.path(), config(3)).await.unwrap();
        for index in 0..2 {
            assert!(lane.clean(key(index), POLICY, Offset(5), 10_000));
        }
        assert!(lane.begin_merge().is_some(), "a merge is due");
        let owner = Rc::new(Owner::default());
        lane.start(Rc::clone(&owner) as Rc<dyn LaneObserver>);
        while lane.stats().merges == 0 {
            assert!(lane.stats().cleanings < 2, "no merge between two cleanings");
            yield_now().await;
        }
        assert_eq!(lane.stats().cleanings, 1);
        while lane.stats().cleanings < 2 {
            yield_now().await;
        }
        lane.close().await.unwrap();
    })
    .unwrap();
}

#[test]
fn a_cleaning_holds_one_window_of_its_ranges() {
    // Proves that the memory of a cleaning does not grow with the tables that the partition lies in.
    let dir = tempfile::tempdir().unwrap();
    run_alone(async {
        let config = LaneConfig {
            merge_fan_in: 64,
            ..small()
        };
        let (lane, _, _) = started(dir.path(), config).await;
        let mut end = Offset(0);
        for _ in 0..20 {
            end = in_turn(&lane, 0, 10).await;
        }
        assert!(lane.clean(key(0), POLICY, end, 10_000));
        let mut cleaning = lane.begin_cleaning().unwrap();
        let (mut steps, mut windows) = (0, 0);
        while lane.clean_step(&mut cleaning).await.unwrap() {
            steps += 1;
            windows = cleaning.windows().max(windows);
        }
        assert!(steps >= 40, "{steps} steps are not 20 ranges, read twice");
        assert!(windows <= 1, "{windows} windows");
        assert_eq!(lane.cleaned_end(key(0)), Some(end));
        lane.close().await.unwrap();
    })
    .unwrap();
}
