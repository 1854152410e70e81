//! What follows from the settings.

use std::time::Duration;

use streambus_shards::online_cpus;
use streambus_storage::LaneConfig;

use super::{NodeConfig, StorageConfig, SyncMode};

impl NodeConfig {
    /// How many cores serve data.
    pub fn core_count(&self) -> usize {
        match self.cores {
            0 => online_cpus().len(),
            cores => cores,
        }
    }
}

/// Of the memory there is, lanes keep no more than one in so many bytes for flushed memtables by default:
/// the rest is for what is not flushed, for connections, and for whatever else runs there.
const KEPT_SHARE: u64 = 8;
const KEPT_BYTES_MAX: u64 = 4 << 30;

/// Of the descriptors, tables take no more than one in so many by default: connections take three quarters, and what is
/// left is for log files and for files that are being written.
const TABLE_FILES_SHARE: u64 = 8;
/// A lane reads and verifies at a time.
const TABLE_FILES_MIN: usize = 2;
/// More than the tables that readers of a lane are at, by far: opening one takes about as long as a read from memory.
const TABLE_FILES_MAX: usize = 4_096;

impl StorageConfig {
    /// Settles what depends on the memory and the descriptors that there are, where it is not set.
    pub fn settle(
        &mut self,
        lanes: u16,
        memory_bytes: impl FnOnce() -> u64,
        open_files: impl FnOnce() -> u64,
    ) {
        self.table_files_max.get_or_insert_with(|| {
            let share = open_files() / TABLE_FILES_SHARE / u64::from(lanes.max(1));
            let share = usize::try_from(share).unwrap_or(TABLE_FILES_MAX);
            share.clamp(TABLE_FILES_MIN, TABLE_FILES_MAX)
        });
        self.memtables_kept_bytes.get_or_insert_with(|| {
            let share = memory_bytes() / KEPT_SHARE / u64::from(lanes.max(1));
            usize::try_from(share.min(KEPT_BYTES_MAX)).unwrap_or(0)
        });
    }

    /// What a lane holds of written and read records at most: memtables that no table has yet, kept ones and the one
    /// that goes, and the cache.
    pub fn lane_memory_bytes(&self) -> usize {
        let unflushed = self.memtables_frozen_max.saturating_add(2);
        let kept = self.memtables_kept_bytes.unwrap_or(0);
        self.memtable_bytes
            .saturating_mul(unflushed.saturating_add(1))
            .saturating_add(kept)
            .saturating_add(self.cache_bytes)
    }

    /// What each lane is opened with.
    pub fn lane(&self) -> LaneConfig {
        LaneConfig {
            wal_file_bytes: self.wal_file_bytes,
            wal_files_max: self.wal_files_max as u64,
            memtable_bytes: self.memtable_bytes,
            memtables_frozen_max: self.memtables_frozen_max,
            memtables_kept_bytes: self.memtables_kept_bytes.unwrap_or(0),
            block_bytes: self.block_bytes,
            cache_bytes: self.cache_bytes,
            commit_bytes_max: self.commit_bytes_max,
            scrub_bytes_per_second: self.scrub_bytes_per_second,
            scrub_interval: Duration::from_millis(self.scrub_interval_ms),
            sync: match self.sync {
                SyncMode::Dsync => streambus_storage::SyncMode::Dsync,
                SyncMode::Fdatasync => streambus_storage::SyncMode::WriteThenSync,
            },
            ..self
                .table_files_max
                .map_or_else(LaneConfig::default, |table_files_max| LaneConfig {
                    table_files_max,
                    ..LaneConfig::default()
                })
        }
    }
}
