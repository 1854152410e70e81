//! Puts one new table in the place of adjacent ranges of one partition.
//!
//! The manifest names the new table and which parts of the old ones it replaces, so that a crash leaves the old ranges
//! or the new one. A part that was replaced is dead in its table; a table whose parts are all dead is collected.

use std::collections::BTreeMap;
use std::rc::Rc;

use streambus_proto::ids::Offset;

use super::Lane;
use super::state::State;
use super::tables::LiveTable;
use crate::error::StorageError;
use crate::key::PartitionKey;
use crate::manifest::{Manifest, TableEntry};
use crate::partition::TableRange;

/// Ranges of a partition that a new table replaces.
pub(super) struct Replacement<'a> {
    pub(super) key: PartitionKey,
    /// Tells the partition from a later one of the same name.
    pub(super) created_sequence: u64,
    /// Adjacent, oldest first. What the log start passes meanwhile is passed over.
    pub(super) ranges: &'a [TableRange],
    /// How often the new table's bytes were merged.
    pub(super) merges: u32,
    /// Up to where the partition is compacted with this.
    pub(super) settled: Option<Offset>,
    /// Batches of the ranges are missing in the new table, and must not be read in memory either.
    pub(super) drops_batches: bool,
}

impl Lane {
    /// Whether the partition is there and the same still.
    pub(super) fn is_same(&self, key: PartitionKey, created_sequence: u64) -> bool {
        let state = self.state.borrow();
        let partition = state.partition(key);
        partition.is_some_and(|known| known.created_sequence == created_sequence)
    }

    /// Swaps the manifest: from here on the new table's range is the partition's.
    pub(super) async fn publish_replacement(
        &self,
        replacement: &Replacement<'_>,
        id: u64,
        file_bytes: u64,
    ) -> Result<(), StorageError> {
        let (entry, manifest) = {
            let state = self.state.borrow();
            let entry = state.replacing_entry(replacement, id, file_bytes);
            let mut manifest = state.manifest(state.floor, std::slice::from_ref(&entry));
            replacement.note_in(&mut manifest);
            (entry, manifest)
        };
        if let Err(error) = self.write_manifest(&manifest).await {
            self.abandon_after(&error, &[id]).await;
            return Err(error);
        }
        let named = self.name_tables(std::slice::from_ref(&entry)).await?;
        let mut state = self.state.borrow_mut();
        for table in named {
            let live = LiveTable::new(table, entry.sequence_end, entry.merges);
            state.install_replacement(replacement, live);
        }
        Ok(())
    }
}

impl Replacement<'_> {
    /// Tables and the numbers of their parts that are replaced.
    fn parts(&self) -> impl Iterator<Item = (u64, u32)> {
        self.ranges.iter().map(|range| {
            let part = u32::try_from(range.part).expect("fewer than 2^32 parts");
            (range.table.id(), part)
        })
    }

    fn note_in(&self, manifest: &mut Manifest) {
        let parts: BTreeMap<u64, u32> = self.parts().collect();
        for table in &mut manifest.tables {
            table.replaced_parts.extend(parts.get(&table.id));
        }
        for partition in &mut manifest.partitions {
            if let Some(settled) = self.settled.filter(|_| partition.key == self.key) {
                partition.cleaned_end = partition.cleaned_end.max(settled);
            }
        }
    }
}

impl State {
    fn replacing_entry(
        &self,
        replacement: &Replacement<'_>,
        id: u64,
        file_bytes: u64,
    ) -> TableEntry {
        let ranges = replacement.ranges.iter();
        let live = |range: &TableRange| self.tables.get(range.table.id());
        let ends = ranges
            .clone()
            .filter_map(live)
            .map(|live| live.sequence_end);
        let times = ranges.map(|range| range.table.written_ms());
        TableEntry {
            id,
            file_bytes,
            // If all of them are gone the log start has passed them: any end will do.
            sequence_end: ends.max().unwrap_or(self.floor.sequence),
            merges: replacement.merges,
            replaced_parts: Vec::new(),
            written_ms: times.max(),
        }
    }

    fn install_replacement(&mut self, replacement: &Replacement<'_>, mut live: LiveTable) {
        for (id, part) in replacement.parts() {
            self.tables.note_replaced(id, part);
        }
        let table = Rc::clone(&live.table);
        let partition = self.partition_mut(replacement.key);
        let same = partition.filter(|known| known.created_sequence == replacement.created_sequence);
        let was_replaced = |range: &TableRange| {
            let mut all = replacement.ranges.iter();
            all.any(|old| old.table.id() == range.table.id() && old.part == range.part)
        };
        let new = TableRange::new(&table, 0);
        let (old, batches) = same.map_or_else(Default::default, |known| {
            let last = replacement
                .ranges
                .last()
                .filter(|_| replacement.drops_batches);
            let batches = last.map(|last| known.mem.take_below(last.end));
            (known.replace(was_replaced, new), batches)
        });
        self.unneeded.extend(batches.unwrap_or_default());
        if !old.is_empty() {
            live.count_in(table.part(0).bytes);
        }
        for range in &old {
            self.release(range);
        }
        self.tables.insert(live);
    }
}
