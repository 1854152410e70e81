//! A lane on a real disk: what was acknowledged is there, whatever happened in between.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

use streambus_proto::ids::{LeaderEpoch, Offset, TopicId};
use streambus_shards::run_alone;

use super::*;
use crate::batch::BatchInfo;
use crate::batch::tests::batch;
use crate::config::LaneConfig;
use crate::names;

mod ages;
mod caching;
mod cleaning;
mod histories;
mod keeping;
mod lookup;
mod merging;
mod model;
mod power;
mod scrubbing;
mod space;
mod times;
mod waiting;

/// An owner that remembers what it was told.
#[derive(Default)]
pub(super) struct Owner {
    pub(super) durable: RefCell<BTreeMap<PartitionKey, Offset>>,
    pub(super) failed: RefCell<Vec<String>>,
    pub(super) annotations: RefCell<BTreeMap<PartitionKey, Vec<u8>>>,
}

impl LaneObserver for Owner {
    fn durable(&self, ends: &[(PartitionKey, Offset)]) {
        for (key, end) in ends {
            let before = self.durable.borrow_mut().insert(*key, *end);
            assert!(
                before.is_none_or(|before| before < *end),
                "durable goes back"
            );
        }
    }

    fn annotation(&self, key: PartitionKey) -> Vec<u8> {
        self.annotations
            .borrow()
            .get(&key)
            .cloned()
            .unwrap_or_default()
    }

    fn failed(&self, error: &StorageError) {
        self.failed.borrow_mut().push(error.to_string());
    }
}

pub(super) fn key(index: i32) -> PartitionKey {
    PartitionKey {
        topic: TopicId([3; 16]),
        index,
    }
}

/// Small enough that a test rolls, flushes, recycles and rewrites within a few hundred appends.
pub(super) fn small() -> LaneConfig {
    LaneConfig {
        wal_file_bytes: 128 << 10,
        wal_files_max: 6,
        wal_files_spare_max: 1,
        memtable_bytes: 64 << 10,
        memtables_frozen_max: 2,
        block_bytes: 4 << 10,
        index_stride_bytes: 2 << 10,
        hot_table_bytes: 24 << 10,
        merge_fan_in: 3,
        merge_table_bytes_max: 150 << 10,
        gathered_table_bytes: 100 << 10,
        merge_budget_percent: 300,
        commit_bytes_max: 32 << 10,
        cache_bytes: 64 << 10,
        table_files_max: 2,
        ..LaneConfig::default()
    }
}

/// The same; two of three seeds keep flushed memtables in memory: one or two, or a few.
pub(super) fn keeping(seed: u64) -> LaneConfig {
    let memtables = [0, 2, 5][usize::try_from(seed % 3).unwrap()];
    LaneConfig {
        memtables_kept_bytes: memtables * small().memtable_bytes,
        ..small()
    }
}

pub(super) async fn started(dir: &Path, config: LaneConfig) -> (Rc<Lane>, Rc<Owner>, Recovery) {
    let (lane, recovery) = Lane::open(dir, config).await.expect("the lane opens");
    let owner = Rc::new(Owner::default());
    lane.start(Rc::clone(&owner) as Rc<dyn LaneObserver>);
    (lane, owner, recovery)
}

/// Appends, waiting for room; returns the log end.
pub(super) async fn append(lane: &Lane, key: PartitionKey, bytes: &[u8]) -> Offset {
    loop {
        let base = lane.log_end(key).unwrap_or_default();
        match lane.append(key, base, LeaderEpoch(0), bytes) {
            Ok(appended) => return appended.log_end,
            Err(AppendError::Full) => lane.writable().await,
            Err(error) => panic!("append: {error}"),
        }
    }
}

pub(super) async fn durable(lane: &Lane, key: PartitionKey, end: Offset) {
    while lane.durable_end(key).unwrap() < end {
        lane.durable_wake.notified().await;
    }
}

pub(super) async fn read(lane: &Rc<Lane>, key: PartitionKey, from: Offset, max: usize) -> Batches {
    let upto = lane.durable_end(key).unwrap();
    match lane.read(key, from, max, upto).unwrap() {
        ReadPlan::Ready(batches) => batches,
        ReadPlan::Cold(cold) => cold.read().await.unwrap(),
    }
}

/// All batches of a partition from `from` on, with their bytes.
pub(super) async fn read_all(
    lane: &Rc<Lane>,
    key: PartitionKey,
    mut from: Offset,
    max: usize,
) -> Vec<(Offset, Vec<u8>)> {
    let mut found = Vec::new();
    loop {
        let batches = read(lane, key, from, max).await;
        if batches.bytes == 0 {
            return found;
        }
        let joined: Vec<u8> = batches.bufs.iter().flat_map(|buf| buf.to_vec()).collect();
        assert_eq!(joined.len(), batches.bytes);
        let mut rest = joined.as_slice();
        while !rest.is_empty() {
            let info = BatchInfo::read(rest).unwrap();
            let (one, later) = rest.split_at(info.bytes);
            found.push((info.base_offset, one.to_vec()));
            rest = later;
        }
        from = batches.next_offset;
    }
}

#[test]
fn what_was_appended_is_there_after_a_restart() {
    // Proves append → durable → read → restart → read, from memory alone.
    let dir = tempfile::tempdir().unwrap();
    run_alone(async {
        let (lane, owner, recovery) = started(dir.path(), small()).await;
        assert_eq!(recovery.partitions, vec![]);
        for nth in 0..10 {
            append(&lane, key(nth % 2), &batch(3, 100, b"hello")).await;
        }
        durable(&lane, key(0), Offset(15)).await;
        durable(&lane, key(1), Offset(15)).await;
        assert_eq!(owner.durable.borrow().get(&key(1)), Some(&Offset(15)));
        let before = read_all(&lane, key(1), Offset(0), 1000).await;
        assert_eq!(before.len(), 5);
        lane.close().await.unwrap();
        assert_eq!(
            lane.append(key(0), Offset(15), LeaderEpoch(0), &[]),
            Err(AppendError::Failed)
        );
        let (lane, _, recovery) = started(dir.path(), small()).await;
        assert_eq!(recovery.cut_bytes, 0);
        assert_eq!(recovery.partitions.len(), 2);
        assert_eq!(recovery.partitions[1].tail.len(), 5);
        assert_eq!(recovery.partitions[1].log_end, Offset(15));
        assert_eq!(read_all(&lane, key(1), Offset(0), 1000).await, before);
        lane.close().await.unwrap();
    })
    .unwrap();
}

#[test]
fn a_manifest_knows_no_partition_that_is_not_durable() {
    // Proves that sequence numbers which a crash gave back hide nothing of a partition that had taken them: it
    // is in the WAL behind the manifest's floor, or it is not.
    let dir = tempfile::tempdir().unwrap();
    run_alone(async {
        // Nothing is written of these records: the lane is not started.
        let (lane, _) = Lane::open(dir.path(), small()).await.unwrap();
        for _ in 0..10 {
            append(&lane, key(0), &batch(1, 0, b"never durable")).await;
        }
        append(&lane, key(1), &batch(1, 0, b"never durable")).await;
        let manifest = {
            let state = lane.state.borrow();
            state.manifest(state.floor, &[])
        };
        lane.write_manifest(&manifest).await.unwrap();
        drop(lane);
        for end in 1..4 {
            let (lane, _, recovery) = started(dir.path(), small()).await;
            assert_eq!(lane.log_end(key(1)).unwrap_or_default(), Offset(end - 1));
            assert_eq!(recovery.partitions.len(), usize::from(end > 1));
            append(&lane, key(1), &batch(1, 0, b"acknowledged")).await;
            durable(&lane, key(1), Offset(end)).await;
            lane.close().await.unwrap();
        }
    })
    .unwrap();
}

#[test]
fn memory_and_wal_stay_bounded_however_much_is_written() {
    // Proves that flushing keeps up by backpressure: memory, WAL files and recovery stay small.
    let dir = tempfile::tempdir().unwrap();
    run_alone(async {
        let (lane, _, _) = started(dir.path(), small()).await;
        let config = small();
        let payload = vec![7; 1500];
        for nth in 0..4000 {
            append(&lane, key(nth % 5), &batch(1, i64::from(nth), &payload)).await;
            let stats = lane.stats();
            let limit = (config.memtables_frozen_max + 2) * config.memtable_bytes + (1 << 20);
            assert!(
                stats.memtable_bytes <= limit as u64,
                "{} in memory",
                stats.memtable_bytes
            );
            let spare = config.wal_files_spare_max as u64;
            assert!(
                stats.wal_files <= config.wal_files_max + spare,
                "{} files",
                stats.wal_files
            );
        }
        for index in 0..5 {
            durable(&lane, key(index), Offset(800)).await;
            let all = read_all(&lane, key(index), Offset(0), 10_000).await;
            let offsets: Vec<i64> = all.iter().map(|(offset, _)| offset.0).collect();
            assert_eq!(offsets, (0..800).collect::<Vec<_>>());
        }
        let stats = lane.stats();
        assert!(stats.flushes > 50, "{stats:?}");
        lane.close().await.unwrap();
        let (lane, _, recovery) = started(dir.path(), small()).await;
        assert!(recovery.tables > 50);
        assert_eq!(recovery.partitions.len(), 5);
        assert!(
            recovery.replayed_bytes < 600 << 10,
            "{}",
            recovery.replayed_bytes
        );
        for index in 0..5 {
            let all = read_all(&lane, key(index), Offset(0), 100_000).await;
            assert_eq!(all.len(), 800);
        }
        lane.close().await.unwrap();
    })
    .unwrap();
}

#[test]
fn dropped_partitions_give_their_space_back() {
    // Proves by accounting that deletion frees tables, also those shared with other partitions.
    let dir = tempfile::tempdir().unwrap();
    run_alone(async {
        let (lane, _, _) = started(dir.path(), small()).await;
        let payload = vec![1; 2_000];
        for nth in 0..1200 {
            append(&lane, key(nth % 6), &batch(1, 5, &payload)).await;
        }
        durable(&lane, key(5), Offset(200)).await;
        let kept = read_all(&lane, key(0), Offset(0), 50_000).await;
        let before = lane.stats().table_bytes;
        assert!(before > 1_500_000, "{before} bytes in tables");
        for index in 1..6 {
            lane.drop_partition(key(index)).await.unwrap();
        }
        assert_eq!(lane.partitions(), vec![key(0)]);
        // What is left is one partition of 200 batches; a quarter of garbage is allowed, and
        // what was frozen before the drop may still be on its way.
        let target = 200 * 2_100 * 4 / 3 + 200_000;
        while lane.stats().table_bytes > target {
            streambus_shards::yield_now().await;
        }
        assert_eq!(read_all(&lane, key(0), Offset(0), 50_000).await, kept);
        lane.close().await.unwrap();
        let (lane, _, recovery) = started(dir.path(), small()).await;
        assert_eq!(recovery.partitions.len(), 1);
        assert_eq!(read_all(&lane, key(0), Offset(0), 50_000).await, kept);
        lane.close().await.unwrap();
    })
    .unwrap();
}

#[test]
fn timestamps_epochs_and_annotations_survive() {
    // Proves the look-ups besides offsets, from memory and tables alike, and what recovery hands
    // back to the owner: its annotation as of a flush, and the batches after it.
    let dir = tempfile::tempdir().unwrap();
    run_alone(async {
        let (lane, owner, _) = started(dir.path(), small()).await;
        owner
            .annotations
            .borrow_mut()
            .insert(key(0), b"producers".to_vec());
        let payload = vec![1; 1_000];
        for nth in 0..200 {
            let base = Offset(nth);
            let epoch = LeaderEpoch(i32::try_from(nth / 50).unwrap());
            let one = batch(1, 10_000 + nth * 10, &payload);
            while lane.append(key(0), base, epoch, &one).is_err() {
                lane.writable().await;
            }
        }
        durable(&lane, key(0), Offset(200)).await;
        while lane.stats().flushes == 0 {
            streambus_shards::yield_now().await;
        }
        let lane = {
            lane.close().await.unwrap();
            let (lane, _, recovery) = started(dir.path(), small()).await;
            let found = &recovery.partitions[0];
            let (at, annotation) = found.annotation.clone().unwrap();
            assert_eq!(annotation, b"producers");
            assert!(at > Offset(0) && at <= Offset(200));
            let tail: Vec<i64> = found.tail.iter().map(|info| info.base_offset.0).collect();
            assert_eq!(tail, (at.0..200).collect::<Vec<_>>());
            lane
        };
        assert_eq!(
            lane.epoch_end(key(0), LeaderEpoch(1)),
            Some((LeaderEpoch(1), Offset(100)))
        );
        for (timestamp, offset) in [
            (0, 0),
            (10_000, 0),
            (10_001, 1),
            (10_555, 56),
            (11_990, 199),
        ] {
            let hit = lane
                .batch_at_or_after(key(0), Offset(0), timestamp)
                .await
                .unwrap()
                .unwrap();
            assert_eq!(hit.base_offset, Offset(offset), "timestamp {timestamp}");
            assert_eq!(
                BatchInfo::read(&hit.batch).unwrap().base_offset,
                Offset(offset)
            );
        }
        assert!(
            lane.batch_at_or_after(key(0), Offset(0), 11_991)
                .await
                .unwrap()
                .is_none()
        );
        let old = lane
            .enforce_retention(key(0), Some(500), None, 11_800)
            .unwrap();
        assert!(old > Offset(0) && old <= Offset(130), "log start {old:?}");
        lane.close().await.unwrap();
    })
    .unwrap();
}

#[test]
fn the_manifest_knows_where_a_flushed_log_ends() {
    // Proves that the end of a log which is in tables alone does not depend on them, though its owner has no state:
    // a repair that drops them must not give its offsets out again.
    let dir = tempfile::tempdir().unwrap();
    run_alone(async {
        let (lane, _, _) = started(dir.path(), small()).await;
        append(&lane, key(1), &batch(3, 5, b"idle since")).await;
        let payload = vec![1; 2_000];
        for _ in 0..150 {
            append(&lane, key(0), &batch(1, 5, &payload)).await;
        }
        durable(&lane, key(0), Offset(150)).await;
        lane.close().await.unwrap();
        let (lane, _, recovery) = started(dir.path(), small()).await;
        lane.close().await.unwrap();
        let [_, idle] = recovery.partitions.as_slice() else {
            panic!("{:?}", recovery.partitions);
        };
        assert_eq!((idle.key, idle.tail.len()), (key(1), 0));
        assert_eq!(idle.annotation, Some((Offset(3), Vec::new())));
    })
    .unwrap();
}

#[test]
fn retention_tells_of_no_log_start_but_its_own() {
    // Proves that where retention moves nothing it tells of nothing: a log start that a client asked for is
    // the lane's at once, and nobody may hear of it before it is durable.
    let dir = tempfile::tempdir().unwrap();
    run_alone(async {
        let (lane, _, _) = started(dir.path(), small()).await;
        for _ in 0..10 {
            append(&lane, key(0), &batch(1, 5, b"record")).await;
        }
        durable(&lane, key(0), Offset(10)).await;
        let asking = Rc::clone(&lane);
        let asked = streambus_shards::spawn(async move {
            asking.set_log_start(key(0), Offset(4)).await.unwrap();
        });
        while lane.log_start(key(0)) == Some(Offset(0)) {
            streambus_shards::yield_now().await;
        }
        let retained = lane.enforce_retention(key(0), Some(1_000), None, 10);
        assert_eq!(retained, None);
        asked.await;
        let retained = lane.enforce_retention(key(0), Some(1_000), None, 2_000);
        assert_eq!(retained, Some(Offset(10)));
        lane.close().await.unwrap();
    })
    .unwrap();
}

/// A closed lane with a partition in tables and WAL.
async fn closed_lane(at: &Path) {
    let (lane, _, _) = started(at, small()).await;
    let payload = vec![1; 2_000];
    for _ in 0..150 {
        append(&lane, key(0), &batch(1, 5, &payload)).await;
    }
    durable(&lane, key(0), Offset(150)).await;
    lane.close().await.unwrap();
}

fn file_of(at: &Path, kind: &str) -> Option<std::path::PathBuf> {
    let names = std::fs::read_dir(at)
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    let mut names = names.map(|name| name.into_string().unwrap());
    names
        .find(|name| name.starts_with(kind))
        .map(|name| at.join(name))
}

#[test]
fn unknown_files_are_set_aside() {
    // Proves that strange files are kept in quarantine, and only unfinished ones of ours removed.
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    run_alone(async {
        closed_lane(at).await;
        std::fs::write(at.join("notes.txt"), b"mine").unwrap();
        std::fs::write(at.join("table-00000000000fffff.tbl"), b"whose?").unwrap();
        std::fs::write(at.join("table-00000000000ffffe.new"), b"unfinished").unwrap();
        let (lane, _, recovery) = started(at, small()).await;
        lane.close().await.unwrap();
        assert_eq!(
            recovery.quarantined,
            ["notes.txt", "table-00000000000fffff.tbl"]
        );
        assert_eq!(
            std::fs::read(at.join("quarantine/notes.txt")).unwrap(),
            b"mine"
        );
        assert!(!at.join("table-00000000000ffffe.new").exists());
        let (lane, _, recovery) = started(at, small()).await;
        lane.close().await.unwrap();
        assert!(recovery.quarantined.is_empty());
    })
    .unwrap();
}

#[test]
fn damage_is_told_and_changes_nothing() {
    // Proves that a lane whose manifest, table or WAL is damaged, missing or of another version
    // says so instead of opening with less.
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    let open = || async { Lane::open(at, small()).await.map(drop) };
    run_alone(async {
        closed_lane(at).await;
        for kind in ["MANIFEST", "table-"] {
            let path = file_of(at, kind).unwrap();
            let sound = std::fs::read(&path).unwrap();
            std::fs::remove_file(&path).unwrap();
            assert!(
                matches!(open().await, Err(StorageError::Corrupt { .. })),
                "{kind} is missing"
            );
            let mut damaged = sound.clone();
            let flip = damaged.len().saturating_sub(4090).max(30);
            damaged[flip] ^= 1;
            std::fs::write(&path, &damaged).unwrap();
            assert!(
                matches!(open().await, Err(StorageError::Corrupt { .. })),
                "{kind}"
            );
            std::fs::write(&path, &sound).unwrap();
        }
        let aside = tempfile::tempdir().unwrap();
        while let Some(path) = file_of(at, "wal-") {
            std::fs::copy(&path, aside.path().join(path.file_name().unwrap())).unwrap();
            std::fs::remove_file(&path).unwrap();
        }
        assert!(
            matches!(open().await, Err(StorageError::Corrupt { .. })),
            "the WAL is missing"
        );
        assert!(
            file_of(at, "wal-").is_none(),
            "nothing was made up in its place"
        );
        let path = at.join("MANIFEST");
        let mut newer = std::fs::read(&path).unwrap();
        newer[4] = 9;
        std::fs::write(&path, &newer).unwrap();
        assert!(matches!(
            open().await,
            Err(StorageError::OtherVersion { found: 9, .. })
        ));
    })
    .unwrap();
}

#[test]
fn a_log_file_that_is_gone_is_told() {
    // Proves that the last file with commits is missed, too, when the one that was made ready behind it is empty.
    let dir = tempfile::tempdir().unwrap();
    let config = || LaneConfig {
        memtable_bytes: 512 << 10, // Nothing is flushed.
        ..small()
    };
    run_alone(async {
        let (lane, _, _) = started(dir.path(), config()).await;
        let mut end = Offset(0);
        while lane.state.borrow().buffer.place().epoch < 2 {
            end = append(&lane, key(0), &batch(1, 0, &[7; 5_000])).await;
        }
        durable(&lane, key(0), end).await;
        while !dir.path().join(names::wal(3)).exists() {
            streambus_shards::yield_now().await;
        }
        lane.close().await.unwrap();
        let gone = dir.path().join(names::wal(2));
        std::fs::remove_file(&gone).unwrap();
        let opened = Lane::open(dir.path(), config()).await.map(drop);
        assert!(
            matches!(&opened, Err(StorageError::Corrupt { file, .. }) if *file == gone),
            "{opened:?}"
        );
    })
    .unwrap();
}

#[test]
fn settings_may_change_between_openings() {
    // Proves that a lane opens with other sizes of WAL files, memtables and blocks than it was
    // written with, keeps all, and goes on; and that WAL files of the old size do not pile up.
    let dir = tempfile::tempdir().unwrap();
    run_alone(async {
        let larger = LaneConfig {
            wal_file_bytes: 192 << 10,
            memtable_bytes: 100 << 10,
            block_bytes: 16 << 10,
            ..small()
        };
        let mut end = Offset(0);
        for config in [small(), larger.clone(), small(), small(), larger] {
            let (lane, _, recovery) = started(dir.path(), config).await;
            assert_eq!(recovery.cut_bytes, 0);
            let found = recovery
                .partitions
                .first()
                .map_or(Offset(0), |known| known.log_end);
            assert_eq!(found, end);
            for _ in 0..130 {
                end = append(&lane, key(0), &batch(1, 5, &[9; 1_500])).await;
            }
            durable(&lane, key(0), end).await;
            let all = read_all(&lane, key(0), Offset(0), 30_000).await;
            assert_eq!(all.len() as i64, end.0);
            assert!(lane.stats().wal_files <= small().wal_files_max + 1);
            lane.close().await.unwrap();
        }
    })
    .unwrap();
}

#[test]
fn a_failed_write_stops_the_lane() {
    // Proves that after a failure that waiting cannot mend the owner is told, nothing more is
    // taken or acknowledged, and nobody waits for ever.
    let dir = tempfile::tempdir().unwrap();
    run_alone(async {
        let at = dir.path().join("lane");
        let (lane, owner, _) = started(&at, small()).await;
        append(&lane, key(0), &batch(1, 5, b"before")).await;
        durable(&lane, key(0), Offset(1)).await;
        // The disk is gone: open files still take writes, new ones cannot be made.
        // A WAL file that is being made ready may appear in between: then again.
        while std::fs::remove_dir_all(&at).is_err() {
            streambus_shards::yield_now().await;
        }
        let refused = loop {
            let base = lane.log_end(key(0)).unwrap();
            match lane.append(key(0), base, LeaderEpoch(0), &batch(1, 5, &[1; 2_000])) {
                Ok(_) | Err(AppendError::Full) => lane.writable().await,
                Err(refused) => break refused,
            }
            streambus_shards::yield_now().await;
        };
        assert_eq!(refused, AppendError::Failed);
        assert_eq!(owner.failed.borrow().len(), 1);
        let acknowledged = owner.durable.borrow().get(&key(0)).copied().unwrap();
        streambus_shards::yield_now().await;
        assert_eq!(owner.durable.borrow().get(&key(0)), Some(&acknowledged));
        let stopped = lane.set_log_start(key(0), Offset(1)).await;
        assert!(matches!(stopped, Err(StorageError::Stopped { .. })));
        assert!(matches!(
            lane.close().await,
            Err(StorageError::Stopped { .. })
        ));
    })
    .unwrap();
}
