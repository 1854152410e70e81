//! Frees what nobody needs any more: whole dead tables, and the dead parts of shared ones.

use std::rc::Rc;

use streambus_proto::ids::Offset;
use streambus_shards::{disk, yield_if_needed};

use super::Lane;
use super::state::{LiveTable, State};
use crate::batch::BatchInfo;
use crate::error::StorageError;
use crate::key::PartitionKey;
use crate::manifest::TableEntry;
use crate::memtable::MemBatch;
use crate::names;
use crate::partition::TableRange;
use crate::table::reader::Table;
use crate::table::writer::TableWriter;

/// Bytes of a table that a rewrite reads at once.
const REWRITE_READ_BYTES: u64 = 1 << 20;

/// What a rewrite keeps of a table.
struct Kept {
    key: PartitionKey,
    part: usize,
    /// Batches that end before this are left out.
    log_start: Offset,
}

impl Lane {
    /// Does the next thing that frees space; says whether there was one.
    pub(super) async fn collect(&self) -> Result<bool, StorageError> {
        if self.collect_dead().await? {
            return Ok(true);
        }
        let worst = self.state.borrow().table_to_rewrite();
        let Some(table) = worst else { return Ok(false) };
        self.rewrite(&table).await?;
        Ok(true)
    }

    /// Removes tables that no partition needs; says whether there were any.
    pub(super) async fn collect_dead(&self) -> Result<bool, StorageError> {
        let dead = self.take_dead_tables();
        if dead.is_empty() {
            return Ok(false);
        }
        self.with_reserve(|| self.drop_tables(&dead)).await?;
        Ok(true)
    }

    /// Takes the tables that no partition needs out of the lane.
    fn take_dead_tables(&self) -> Vec<u64> {
        let mut state = self.state.borrow_mut();
        let dead: Vec<u64> = state
            .tables
            .iter()
            .filter(|(_, live)| live.live_bytes == 0)
            .map(|(id, _)| *id)
            .collect();
        for id in &dead {
            state.tables.remove(id);
        }
        state.obsolete.extend(&dead);
        std::mem::take(&mut state.obsolete)
    }

    /// The manifest lets go of the tables first; then their files go.
    async fn drop_tables(&self, dead: &[u64]) -> Result<(), StorageError> {
        let manifest = {
            let mut state = self.state.borrow_mut();
            // Kept as obsolete until the files are gone: a crash in between must not leave
            // orphans that nobody dares to delete.
            state.obsolete = dead.to_vec();
            state.manifest(state.floor, &[])
        };
        self.write_manifest(&manifest).await?;
        for id in dead {
            let path = self.dir.join(names::table(*id));
            let failed = |source| StorageError::disk(&path, source);
            disk::remove_file(&path).await.map_err(failed)?;
        }
        let mut state = self.state.borrow_mut();
        state.obsolete.retain(|id| !dead.contains(id));
        drop(state);
        tracing::debug!(dir = %self.dir.display(), tables = dead.len(), "tables removed");
        self.space_came_back();
        Ok(())
    }

    /// Writes the table again without its dead parts.
    async fn rewrite(&self, table: &Rc<Table>) -> Result<(), StorageError> {
        let (kept, sequence_end) = {
            let state = self.state.borrow();
            let live = state
                .tables
                .get(&table.id())
                .expect("the table was just chosen");
            (state.kept_of(table), live.sequence_end)
        };
        let id = self.take_table_id();
        let written = self.write_kept(id, table, &kept, sequence_end).await;
        let entry = match written {
            Ok(entry) => entry,
            Err(error) => {
                self.abandon_tables(&[id]).await;
                return Err(error);
            }
        };
        let named = self.name_tables(&[entry]).await?;
        let mut state = self.state.borrow_mut();
        state.stats.rewritten_bytes += entry.file_bytes;
        for new in named {
            state.replace_table(table, &new, sequence_end);
        }
        Ok(())
    }

    /// Writes what is kept into table `id` and swaps the manifest.
    async fn write_kept(
        &self,
        id: u64,
        table: &Rc<Table>,
        kept: &[Kept],
        sequence_end: u64,
    ) -> Result<TableEntry, StorageError> {
        let config = self.state.borrow().config.clone();
        let bytes = kept.iter().map(|kept| table.part(kept.part).bytes).sum();
        let mut writer = TableWriter::create(&self.dir, self.nonce, id, bytes, &config).await?;
        for kept in kept {
            copy_part(table, kept, &mut writer).await?;
        }
        let file_bytes = writer.finish().await?;
        let entry = TableEntry {
            id,
            file_bytes,
            sequence_end,
        };
        let manifest = {
            let state = self.state.borrow();
            let mut manifest = state.manifest(state.floor, &[entry]);
            manifest.tables.retain(|known| known.id != table.id());
            manifest.obsolete.push(table.id());
            manifest
        };
        self.write_manifest(&manifest).await?;
        Ok(entry)
    }
}

async fn copy_part(
    table: &Table,
    kept: &Kept,
    writer: &mut TableWriter,
) -> Result<(), StorageError> {
    let part = table.part(kept.part);
    let end = part.position + part.bytes;
    let mut position = part.position;
    while position < end {
        let wanted = position..end.min(position + REWRITE_READ_BYTES);
        let mut bytes = read_exactly(table, wanted.clone()).await?;
        let first = BatchInfo::read(&bytes).filter(|info| position + info.bytes as u64 <= end);
        let damaged = || StorageError::corrupt(table.path(), position, "no batch where one begins");
        let first = first.ok_or_else(damaged)?;
        if first.bytes > bytes.len() {
            bytes = read_exactly(table, position..position + first.bytes as u64).await?;
        }
        let mut at = 0;
        while let Some(info) = bytes.get(at..).and_then(BatchInfo::read) {
            if at + info.bytes > bytes.len() {
                break;
            }
            let batch = MemBatch {
                base_offset: info.base_offset,
                last_offset: info.last_offset,
                max_timestamp: info.max_timestamp,
                bytes: bytes.slice(at..at + info.bytes),
            };
            if batch.last_offset >= kept.log_start {
                writer.push(kept.key, &batch).await?;
            }
            at += info.bytes;
        }
        assert!(at > 0, "the first batch is whole");
        position += at as u64;
        yield_if_needed().await;
    }
    Ok(())
}

async fn read_exactly(
    table: &Table,
    range: std::ops::Range<u64>,
) -> Result<streambus_shards::Buf, StorageError> {
    let blocks = table.blocks_of(&range);
    let start = usize::try_from(range.start - blocks.start).expect("within a block");
    let length = usize::try_from(range.end - range.start).expect("bounded reads");
    let bytes = table.read_blocks(blocks).await?;
    Ok(bytes.slice(start..start + length))
}

impl State {
    /// A table with a larger dead share than is allowed.
    fn table_to_rewrite(&self) -> Option<Rc<Table>> {
        let limit = self.config.rewrite_dead_percent;
        let over = self.tables.values().find(|live| {
            let data = live.table.footer.data_bytes;
            live.live_bytes > 0 && (data - live.live_bytes) * 100 >= data * limit
        });
        over.map(|live| Rc::clone(&live.table))
    }

    /// The parts of `table` that partitions refer to, in the table's order.
    fn kept_of(&self, table: &Table) -> Vec<Kept> {
        let parts = table.footer.parts.iter().enumerate();
        parts
            .filter_map(|(part, entry)| {
                let partition = self.partition(entry.key)?;
                let mut ranges = partition.ranges.iter();
                let refers = ranges.any(|range| range.table.id() == table.id());
                let log_start = partition.log_start;
                refers.then_some(Kept {
                    key: entry.key,
                    part,
                    log_start,
                })
            })
            .collect()
    }

    /// Ranges of `old` become ranges of `new`; parts that died meanwhile are dead in `new` too.
    fn replace_table(&mut self, old: &Table, new: &Rc<Table>, sequence_end: u64) {
        let mut live_bytes = 0;
        for (at, part) in new.footer.parts.iter().enumerate() {
            let Some(partition) = self.partition_mut(part.key) else {
                continue;
            };
            let mut ranges = partition.ranges.iter_mut();
            if let Some(range) = ranges.find(|range| range.table.id() == old.id()) {
                *range = TableRange::new(new, at);
                live_bytes += part.bytes;
            }
        }
        let live = LiveTable {
            table: Rc::clone(new),
            sequence_end,
            live_bytes,
        };
        self.tables.insert(new.id(), live);
        self.tables
            .remove(&old.id())
            .expect("the old table was the lane's");
        self.obsolete.push(old.id());
    }
}
