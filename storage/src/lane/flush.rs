//! Turns frozen memtables into tables, and swaps the manifest.
//!
//! Order, and why: tables written and synced under temporary names; the directory synced; the
//! manifest swapped; the tables renamed; only then may memtable and WAL files go. A crash before
//! the swap leaves the old manifest, a WAL that still holds everything that it does not name, and
//! files whose names say that nobody needs them; a crash after it leaves tables that are found
//! under their temporary names. No step leaves a file that might be somebody's.

use std::path::Path;
use std::rc::Rc;

use streambus_shards::{Buf, File, OpenOptions, disk, wall_ms, yield_if_needed};

use super::Lane;
use super::state::State;
use super::tables::LiveTable;
use crate::error::StorageError;
use crate::key::PartitionKey;
use crate::manifest::{Annotation, Manifest, TableEntry};
use crate::memtable::{MemBatch, MemRange, Memtable};
use crate::names;
use crate::partition::TableRange;
use crate::table::reader::Table;
use crate::table::writer::TableWriter;

/// One partition's batches on their way into a table.
struct Part {
    key: PartitionKey,
    keyed: bool,
    bytes: u64,
    batches: Vec<MemBatch>,
}

/// The oldest frozen memtable, once all of it is durable.
pub(super) fn flushable(state: &State) -> Option<Rc<Memtable>> {
    let memtable = state.frozen.front()?;
    let wal_end = memtable.wal_end.expect("frozen memtables know their end");
    (state.durable.commit_id >= wal_end.commit_id).then(|| Rc::clone(memtable))
}

impl Lane {
    /// Turns the memtable, which is durable, into tables.
    pub(super) async fn flush_memtable(&self, memtable: &Memtable) -> Result<(), StorageError> {
        let parts = self.take_annotations(memtable);
        let mut ids = Vec::new();
        let flushed = self.flush(memtable, parts, &mut ids).await;
        if let Err(error) = &flushed {
            self.abandon_after(error, &ids).await;
        }
        flushed
    }

    /// Collects what the memtable's partitions still need, sorted, and adopts the annotations:
    /// what they describe is durable now.
    fn take_annotations(&self, memtable: &Memtable) -> Vec<Part> {
        let mut state = self.state.borrow_mut();
        let mut parts = Vec::with_capacity(memtable.ranges.len());
        for range in &memtable.ranges {
            let MemRange {
                slot,
                start,
                end,
                annotation,
                ..
            } = range;
            let Some(partition) = state.in_slot(*slot) else {
                continue;
            };
            assert!(
                partition.durable_end >= *end,
                "flushing what is not durable"
            );
            // Without bytes, too: should its tables be lost, this is what tells where its log ended.
            partition.annotation = Some(Annotation {
                offset: *end,
                bytes: annotation.clone(),
            });
            let batches = partition.mem.batches_between(*start, *end);
            if !batches.is_empty() {
                let bytes = batches.iter().map(|batch| batch.bytes.len() as u64).sum();
                parts.push(Part {
                    key: partition.key,
                    keyed: partition.keyed,
                    bytes,
                    batches,
                });
            }
        }
        parts.sort_unstable_by_key(|part| part.key);
        parts
    }

    async fn flush(
        &self,
        memtable: &Memtable,
        parts: Vec<Part>,
        ids: &mut Vec<u64>,
    ) -> Result<(), StorageError> {
        let mut entries = Vec::new();
        for group in self.group(parts) {
            let id = self.take_table_id();
            ids.push(id);
            let file_bytes = self.write_table(id, &group).await?;
            let wal_end = memtable.wal_end.expect("frozen memtables know their end");
            entries.push(TableEntry {
                id,
                file_bytes,
                sequence_end: wal_end.sequence,
                merges: 0,
                replaced_parts: Vec::new(),
                written_ms: Some(memtable.appended_ms),
            });
            self.state.borrow_mut().stats.flushed_bytes += file_bytes;
        }
        let floor = memtable.wal_end.expect("frozen memtables know their end");
        let manifest = self.state.borrow().manifest(floor, &entries);
        self.write_manifest(&manifest).await?;
        ids.clear(); // They are the lane's now, and no longer to be abandoned.
        let tables = self.name_tables(&entries).await?;
        self.install(&tables, &entries);
        self.state.borrow_mut().flushed(floor);
        self.space_came_back();
        self.prepare_wake.notify_one();
        self.wal_wake.notify_one();
        self.drop_unneeded().await;
        self.keep_reserve().await;
        self.remove_spare_files().await
    }

    /// Hot partitions get a table of their own; the others share one.
    fn group(&self, parts: Vec<Part>) -> Vec<Vec<Part>> {
        let hot_bytes = self.state.borrow().config.hot_table_bytes;
        let (hot, small): (Vec<_>, Vec<_>) =
            parts.into_iter().partition(|part| part.bytes >= hot_bytes);
        let mut groups: Vec<Vec<Part>> = hot.into_iter().map(|part| vec![part]).collect();
        if !small.is_empty() {
            groups.push(small);
        }
        groups
    }

    pub(super) fn take_table_id(&self) -> u64 {
        let mut state = self.state.borrow_mut();
        let id = state.next_table_id;
        state.next_table_id += 1;
        id
    }

    async fn write_table(&self, id: u64, parts: &[Part]) -> Result<u64, StorageError> {
        let config = self.state.borrow().config.clone();
        let bytes = parts.iter().map(|part| part.bytes).sum();
        let created = TableWriter::create(&self.dir, self.nonce, id, bytes, &config).await;
        let mut writer = created?;
        for part in parts {
            for batch in &part.batches {
                writer.push(part.key, batch, part.keyed).await?;
            }
            yield_if_needed().await;
        }
        writer.finish().await
    }

    /// Gives the tables that the manifest names now their names, and opens them.
    ///
    /// No error here can be mended by trying again: the manifest is out.
    pub(super) async fn name_tables(
        &self,
        entries: &[TableEntry],
    ) -> Result<Vec<Rc<Table>>, StorageError> {
        let mut tables = Vec::with_capacity(entries.len());
        for entry in entries {
            let path = self.dir.join(names::table(entry.id));
            let failed = |source| StorageError::Disk {
                file: path.clone(),
                source,
            };
            let unnamed = self.dir.join(names::table_new(entry.id));
            disk::rename(&unnamed, &path).await.map_err(failed)?;
            let opened =
                Table::open(&self.table_files, &self.dir, self.nonce, entry, wall_ms()).await?;
            tables.push(Rc::new(opened));
        }
        Ok(tables)
    }

    /// Swaps the manifest. When this returns, the new one is what a restart finds.
    pub(super) async fn write_manifest(&self, manifest: &Manifest) -> Result<(), StorageError> {
        let bytes = write_manifest(&self.dir, manifest).await?;
        let mut state = self.state.borrow_mut();
        assert!(manifest.generation > state.generation, "manifests go back");
        state.generation = manifest.generation;
        state.stats.manifest_bytes += bytes;
        self.reserve.note_manifest(bytes);
        Ok(())
    }

    /// Hands the tables' ranges to their partitions; the same batches may leave memory.
    fn install(&self, tables: &[Rc<Table>], entries: &[TableEntry]) {
        let mut state = self.state.borrow_mut();
        for (table, entry) in tables.iter().zip(entries) {
            assert!(table.id() == entry.id, "installing another table");
            let mut live = LiveTable::new(Rc::clone(table), entry.sequence_end, 0);
            for (at, part) in table.footer.parts.iter().enumerate() {
                let created_before = entry.sequence_end;
                let Some(partition) = state.partition_mut(part.key) else {
                    continue;
                };
                let needed =
                    partition.created_sequence < created_before && part.end > partition.log_start;
                if needed {
                    live.count_in(part.bytes);
                    partition.install(TableRange::new(table, at));
                }
            }
            state.tables.insert(live);
        }
    }

    /// Removes what was written in vain, if the lane goes on after this error. Else the start that follows
    /// does: the manifest that names the tables may have its name already, though not for certain, and
    /// without them it could not be opened.
    pub(super) async fn abandon_after(&self, error: &StorageError, ids: &[u64]) {
        if matches!(error, StorageError::NoSpace { .. }) {
            self.abandon_tables(ids).await;
        }
    }

    /// Removes tables that no manifest names: written by this call, never published.
    pub(super) async fn abandon_tables(&self, ids: &[u64]) {
        self.state.borrow_mut().abandoned.extend(ids);
        if let Some(error) = self.remove_abandoned().await {
            tracing::warn!(%error, "a table that was given up is not removed yet");
        }
    }

    /// Keeps a few WAL files for recycling and removes the others.
    async fn remove_spare_files(&self) -> Result<(), StorageError> {
        loop {
            let spare = {
                let mut state = self.state.borrow_mut();
                let floor = state.floor.epoch;
                let spare = state.wal.range(..floor).count();
                let oldest = state.wal.first_key_value().map(|(epoch, _)| *epoch);
                let surplus = spare > state.config.wal_files_spare_max;
                let epoch = oldest.filter(|_| surplus);
                epoch.inspect(|epoch| drop(state.wal.remove(epoch)))
            };
            let Some(epoch) = spare else { return Ok(()) };
            let path = self.wal_files.path(epoch);
            let failed = |source| StorageError::disk(&path, source);
            disk::remove_file(&path).await.map_err(failed)?;
        }
    }
}

/// Writes `MANIFEST.new`, syncs it, renames it over `MANIFEST`; returns its bytes.
///
/// The directory is synced twice: before the rename, so that the new tables which the manifest
/// names are found; after it, so that the manifest is.
pub(crate) async fn write_manifest(dir: &Path, manifest: &Manifest) -> Result<u64, StorageError> {
    let encoded = manifest.encode();
    let unfinished = dir.join(names::MANIFEST_NEW);
    let failed = |source| StorageError::disk(&unfinished, source);
    let options = OpenOptions {
        write: true,
        create: true,
        ..OpenOptions::default()
    };
    let file = File::open(&unfinished, options).await.map_err(failed)?;
    let length = encoded.len() as u64;
    file.write_at(0, &Buf::from(encoded))
        .await
        .map_err(failed)?;
    file.set_len(length).map_err(failed)?;
    file.datasync().await.map_err(failed)?;
    drop(file);
    disk::sync_dir(dir).await.map_err(failed)?;
    let path = dir.join(names::MANIFEST);
    let failed = |source| StorageError::disk(&path, source);
    disk::rename(&unfinished, &path).await.map_err(failed)?;
    // Whatever this one says, a want of space too: the manifest may be out, and must not be taken for unwritten.
    let failed = |source| StorageError::Disk { file: path, source };
    disk::sync_dir(dir).await.map_err(failed)?;
    Ok(length)
}
