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

impl StorageConfig {
    /// What each lane is opened with.
    pub fn lane(&self) -> LaneConfig {
        LaneConfig {
            wal_file_bytes: self.wal_file_bytes,
            wal_files_max: self.wal_files_max as u64,
            memtable_bytes: self.memtable_bytes,
            memtables_frozen_max: self.memtables_frozen_max,
            block_bytes: self.block_bytes,
            cache_bytes: self.cache_bytes,
            commit_bytes_max: self.commit_bytes_max,
            scrub_bytes_per_second: self.scrub_bytes_per_second,
            scrub_interval: Duration::from_millis(self.scrub_interval_ms),
            sync: match self.sync {
                SyncMode::Dsync => streambus_storage::SyncMode::Dsync,
                SyncMode::Fdatasync => streambus_storage::SyncMode::WriteThenSync,
            },
            ..LaneConfig::default()
        }
    }
}
