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

mod model;

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
            assert!(before.is_none_or(|before| before < *end), "durable goes back");
        }
    }

    fn annotation(&self, key: PartitionKey) -> Vec<u8> {
        self.annotations.borrow().get(&key).cloned().unwrap_or_default()
    }

    fn failed(&self, error: &StorageError) {
        self.failed.borrow_mut().push(error.to_string());
    }
}

pub(super) fn key(index: i32) -> PartitionKey {
    PartitionKey { topic: TopicId([3; 16]), index }
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
        commit_bytes_max: 32 << 10,
        read_ahead_bytes_max: 64 << 10,
        ..LaneConfig::default()
    }
}

pub(super) async fn started(dir: &Path, config: LaneConfig) -> (Rc<Lane>, Rc<Owner>, Recovery) {
    let (lane, recovery) = Lane::open(dir, config).await.unwrap();
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
        assert_eq!(lane.append(key(0), Offset(15), LeaderEpoch(0), &[]), Err(AppendError::Failed));
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
            assert!(stats.memtable_bytes <= limit as u64, "{} in memory", stats.memtable_bytes);
            let spare = config.wal_files_spare_max as u64;
            assert!(stats.wal_files <= config.wal_files_max + spare, "{} files", stats.wal_files);
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
        assert!(recovery.replayed_bytes < 600 << 10, "{}", recovery.replayed_bytes);
        for index in 0..5 {
            let all = read_all(&lane, key(index), Offset(0), 100_000).await;
            assert_eq!(all.len(), 800);
        }
        lane.close().await.unwrap();
    })
    .unwrap();
}
