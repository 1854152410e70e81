//! The bounds of a lane. Every queue, buffer and file set has its limit here.

use std::time::Duration;

use crate::error::StorageError;
use crate::scrub::ScrubPace;
use crate::wal::record::{BLOCK_BYTES, COMMIT_HEADER_BYTES, RECORD_HEADER_BYTES};

/// How a commit becomes durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncMode {
    /// WAL files are opened with `O_DSYNC`: one request writes and syncs.
    Dsync,
    /// A plain direct write with an `fdatasync` linked behind it.
    WriteThenSync,
}

/// Settings of a lane, with the arithmetic of its memory and disk beside the defaults.
///
/// Memory: at most `memtables_frozen_max` + 2 memtables of `memtable_bytes` (one that fills, one
/// that overfills while it waits to be frozen), plus `memtables_kept_bytes` and one memtable more while those that are to
/// go are dropped, plus `cache_bytes`, plus 256 KiB for each table of a merge and 512 KiB for its output, plus at most 48 MiB for keys and filters while a table of
/// compacted partitions is written, plus 16 MiB that stand ready on each core for the next commits, plus what readers still hold. WAL on disk: at most `wal_files_max` × `wal_file_bytes`.
#[derive(Debug, Clone)]
pub struct LaneConfig {
    /// Bytes of each WAL file: preallocated and written once, so that commits only overwrite.
    pub wal_file_bytes: u64,
    /// WAL files in use at once; appends wait when the next one would be one more.
    pub wal_files_max: u64,
    /// Unused WAL files that are kept for recycling instead of being deleted.
    pub wal_files_spare_max: usize,
    /// A memtable that holds this much memory is frozen and flushed.
    pub memtable_bytes: usize,
    /// Frozen memtables that wait for the flusher; appends wait when they are this many.
    pub memtables_frozen_max: usize,
    /// Memory for memtables that are flushed: what was written last is read from there, and not from
    /// tables. 0 for none, as by default: only the lane's owner knows how much memory there is.
    pub memtables_kept_bytes: usize,
    /// Bytes of a table's checksummed blocks: the unit of reading and verifying.
    pub block_bytes: usize,
    /// Partition data between two entries of a table's index.
    pub index_stride_bytes: usize,
    /// A partition that has this much in a memtable gets a table of its own.
    pub hot_table_bytes: u64,
    /// A table is rewritten without its dead ranges when they are this share of it, in percent.
    pub rewrite_dead_percent: u64,
    /// Tables of similar size that are merged into one.
    pub merge_fan_in: usize,
    /// A table with this much is not merged any more.
    pub merge_table_bytes_max: u64,
    /// Tables that a busy partition has for itself become one of this size, once there are two such tables' worth of them:
    /// a partition that keeps less than that is left alone.
    pub gathered_table_bytes: u64,
    /// Merging writes at most this share of what flushes wrote, in percent, and one merge more.
    pub merge_budget_percent: u64,
    /// Keys that one cleaning takes note of, at 32 to 64 bytes each; what comes after them waits
    /// for the next one.
    pub clean_keys_max: usize,
    /// A commit that has reached this takes no further record.
    pub commit_bytes_max: usize,
    /// How commits are made durable.
    pub sync: SyncMode,
    /// Memory for table data: what was read lately, and what was read ahead. 0 for none.
    pub cache_bytes: usize,
    /// Files of tables that are open at a time: one that is read is opened when it is not. At least one.
    pub table_files_max: usize,
    /// Tables are verified in the background no faster than this; 0 for never.
    pub scrub_bytes_per_second: u64,
    /// From the start of one pass over all tables to the start of the next.
    pub scrub_interval: Duration,
    /// How long a lane that was refused space waits until it asks again.
    pub no_space_retry: Duration,
}

impl Default for LaneConfig {
    fn default() -> LaneConfig {
        LaneConfig {
            wal_file_bytes: 64 << 20,
            // Frozen (2) and filling memtables cover 3 to 4 files, one is prepared ahead, and
            // small commits pad: a 1 KiB batch alone takes 4 KiB of WAL, which memtables count.
            wal_files_max: 8,
            wal_files_spare_max: 2,
            memtable_bytes: 64 << 20,
            memtables_frozen_max: 2,
            memtables_kept_bytes: 0,
            block_bytes: 64 << 10,
            index_stride_bytes: 32 << 10,
            hot_table_bytes: 8 << 20,
            rewrite_dead_percent: 25,
            // With memtables of 64 MiB, eight tables become one of 512 MiB, which is not merged
            // again: each byte is written once in the WAL, once by a flush and once by a merge.
            merge_fan_in: 8,
            merge_table_bytes_max: 256 << 20,
            // As large as Kafka's segments are by default, so that retention goes in no larger steps.
            gathered_table_bytes: 1 << 30,
            // WAL and flush are 2; with this the write amplification stays below 3.5.
            merge_budget_percent: 140,
            // 17 to 34 MiB while a partition is cleaned, one at a time.
            clean_keys_max: 1 << 19,
            commit_bytes_max: 4 << 20,
            sync: SyncMode::Dsync,
            cache_bytes: 64 << 20,
            table_files_max: 1_024,
            // 1 TiB in a day and a half, for half a percent of what a fast disk reads.
            scrub_bytes_per_second: 8 << 20,
            scrub_interval: Duration::from_hours(24),
            no_space_retry: Duration::from_secs(1),
        }
    }
}

impl LaneConfig {
    /// Checks the settings against each other.
    ///
    /// # Errors
    /// [`StorageError::Config`] with the first setting that is out of its bounds.
    pub fn validate(&self) -> Result<(), StorageError> {
        let broken = self.rules().into_iter().find(|(_, _, holds, _)| !holds);
        broken.map_or(Ok(()), |(setting, value, _, wants)| {
            Err(StorageError::Config {
                setting,
                value,
                wants,
            })
        })
    }

    /// The largest batch that a lane takes: alone in a commit, alone in a log file. It may be larger than
    /// [`LaneConfig::commit_bytes_max`], which only says when a commit takes no further batch.
    pub fn batch_bytes_max(&self) -> usize {
        // The first block of a file is its own header.
        let headers = BLOCK_BYTES + COMMIT_HEADER_BYTES + RECORD_HEADER_BYTES;
        let file = usize::try_from(self.wal_file_bytes).unwrap_or(usize::MAX);
        file.saturating_sub(headers)
    }

    /// Settings with their values, whether those will do, and what would.
    fn rules(&self) -> [(&'static str, u64, bool, String); 10] {
        let block = BLOCK_BYTES as u64;
        let wide = |number: usize| number as u64;
        let blocks = |bytes: u64| bytes.is_multiple_of(block);
        // Above this the WAL fills before a memtable is ever frozen, and nothing frees it.
        let frozen_in_time = self
            .wal_file_bytes
            .saturating_mul(self.wal_files_max.saturating_sub(2));
        let scrub_interval_ms = u64::try_from(self.scrub_interval.as_millis()).unwrap_or(u64::MAX);
        [
            (
                "wal_file_bytes",
                self.wal_file_bytes,
                blocks(self.wal_file_bytes)
                    && (16 * block..=1 << 32).contains(&self.wal_file_bytes),
                format!("a multiple of {block} from {} to 4 GiB", 16 * block),
            ),
            (
                "wal_files_max",
                self.wal_files_max,
                self.wal_files_max >= 3,
                "at least 3: one filling, one flushed, one next".to_owned(),
            ),
            (
                "memtables_frozen_max",
                wide(self.memtables_frozen_max),
                self.memtables_frozen_max > 0,
                "at least 1".to_owned(),
            ),
            (
                "memtable_bytes",
                wide(self.memtable_bytes),
                self.memtable_bytes > 0 && wide(self.memtable_bytes) <= frozen_in_time,
                format!(
                    "from 1 to wal_file_bytes × (wal_files_max − 2), which is {frozen_in_time}"
                ),
            ),
            (
                "block_bytes",
                wide(self.block_bytes),
                blocks(wide(self.block_bytes))
                    && (BLOCK_BYTES..=1 << 20).contains(&self.block_bytes),
                format!("a multiple of {block} up to 1 MiB"),
            ),
            (
                "commit_bytes_max",
                wide(self.commit_bytes_max),
                (4 * BLOCK_BYTES..=1 << 30).contains(&self.commit_bytes_max),
                format!("from {} to 1 GiB", 4 * block),
            ),
            (
                "rewrite_dead_percent",
                self.rewrite_dead_percent,
                (1..=100).contains(&self.rewrite_dead_percent),
                "from 1 to 100".to_owned(),
            ),
            (
                // Each table of a merge has a window of memory while it runs.
                "merge_fan_in",
                wide(self.merge_fan_in),
                (2..=64).contains(&self.merge_fan_in),
                "from 2 to 64".to_owned(),
            ),
            self.table_files_rule(),
            (
                // Without tables a pass takes no time at all.
                "scrub_interval_ms",
                scrub_interval_ms,
                scrub_interval_ms >= 1,
                "at least 1".to_owned(),
            ),
        ]
    }

    fn table_files_rule(&self) -> (&'static str, u64, bool, String) {
        let files = self.table_files_max;
        let wants = "at least 1".to_owned();
        ("table_files_max", files as u64, files >= 1, wants)
    }

    /// How tables are verified in the background, if they are.
    pub(crate) fn scrub_pace(&self) -> Option<ScrubPace> {
        (self.scrub_bytes_per_second > 0).then_some(ScrubPace {
            bytes_per_second: self.scrub_bytes_per_second,
            interval: self.scrub_interval,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_hold_their_own_bounds() {
        // Proves that the defaults are valid and that settings which would dead-lock are refused.
        assert!(LaneConfig::default().validate().is_ok());
        let stuck = LaneConfig {
            memtable_bytes: 1 << 30,
            ..LaneConfig::default()
        };
        assert!(matches!(
            stuck.validate(),
            Err(StorageError::Config {
                setting: "memtable_bytes",
                ..
            })
        ));
        let unaligned = LaneConfig {
            block_bytes: 5000,
            ..LaneConfig::default()
        };
        assert!(unaligned.validate().is_err());
        let few = LaneConfig {
            wal_files_max: 2,
            ..LaneConfig::default()
        };
        assert!(few.validate().is_err());
    }
}
