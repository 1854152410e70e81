//! Plain counters of a lane, for metrics.

/// What a lane did and holds; a snapshot from `Lane::stats`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LaneStats {
    /// Commits synced since the lane was opened.
    pub commits: u64,
    /// Their bytes on disk, padding included.
    pub commit_bytes: u64,
    /// Records in them.
    pub commit_records: u64,
    /// Nanoseconds that writes and syncs of commits took in sum.
    pub sync_ns: u64,
    /// Bytes of batches appended.
    pub appended_bytes: u64,
    /// Appends refused with `Full`.
    pub full: u64,
    /// Memtables flushed.
    pub flushes: u64,
    /// Bytes written into tables, by flushing.
    pub flushed_bytes: u64,
    /// Bytes written into tables, by rewriting tables without their dead ranges.
    pub rewritten_bytes: u64,
    /// Merges of several tables carried out.
    pub merges: u64,
    /// Bytes written into tables, by merging.
    pub merged_bytes: u64,
    /// Partitions compacted by key.
    pub cleanings: u64,
    /// Bytes written into tables, by compacting.
    pub cleaned_bytes: u64,
    /// Bytes of batches that compacting left out.
    pub cleaned_away_bytes: u64,
    /// Bytes of manifests written.
    pub manifest_bytes: u64,
    /// Bytes read from tables.
    pub table_read_bytes: u64,
    /// Cold reads of a range of a table that were served from memory.
    pub cache_hits: u64,
    /// Cold reads that had to read the disk.
    pub cache_misses: u64,
    /// Look-ups of the newest record of a key.
    pub key_lookups: u64,
    /// Tables whose filters they asked.
    pub key_tables_asked: u64,
    /// Tables whose batches they read, whether the key was there or not.
    pub key_tables_read: u64,
    /// Of those, tables in which it was not.
    pub key_tables_read_in_vain: u64,
    /// Memory that the block cache holds now.
    pub cache_bytes: u64,
    /// Bytes of tables verified by the scrub.
    pub scrubbed_bytes: u64,
    /// Times that it went over all tables.
    pub scrub_passes: u64,
    /// Places of tables that were found damaged, by the scrub or by a read.
    pub damage_found: u64,
    /// Places that are known to be damaged now.
    pub damaged: u64,
    /// Memory that memtables hold now which are not flushed.
    pub memtable_bytes: u64,
    /// Memory that flushed memtables hold now, at most: what a deletion has freed of it is counted until they go.
    pub memtables_kept_bytes: u64,
    /// Memtables that wait to be flushed now.
    pub memtables_frozen: u64,
    /// Tables now.
    pub tables: u64,
    /// Bytes of their files now.
    pub table_bytes: u64,
    /// WAL files now, with those kept for recycling.
    pub wal_files: u64,
    /// Bytes of WAL files now.
    pub wal_bytes: u64,
    /// Partitions now.
    pub partitions: u64,
}

impl LaneStats {
    /// Bytes written to disk since the lane was opened: commits, tables and manifests.
    pub fn written_bytes(&self) -> u64 {
        let tables =
            self.flushed_bytes + self.merged_bytes + self.rewritten_bytes + self.cleaned_bytes;
        self.commit_bytes + tables + self.manifest_bytes
    }
}
