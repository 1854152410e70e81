//! Writes tables anew: several merged into one, or one without its dead parts.
//!
//! A merge takes a copy of which ranges it will replace and then only reads tables, which never
//! change; what its partitions do meanwhile is looked at again when it is published. Until then
//! its files have temporary names; the manifest that names them lets go of its inputs, so that a
//! crash leaves the old tables or the new ones.
//!
//! What a partition has in the inputs need not be adjacent: a table that is not merged may hold
//! what lies in between. Then the ranges before and behind it go to different outputs.

use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;

use streambus_proto::ids::Offset;
use streambus_shards::{Instant, disk, now};

use super::Lane;
use super::state::State;
use super::tables::LiveTable;
use crate::batch::BatchInfo;
use crate::error::StorageError;
use crate::key::PartitionKey;
use crate::manifest::TableEntry;
use crate::memtable::MemBatch;
use crate::merge::budget;
use crate::partition::TableRange;
use crate::table::cursor::TableCursor;
use crate::table::reader::Table;
use crate::table::writer::TableWriter;

/// What a merge is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// Fewer tables: nothing is lost if it does not happen.
    Merge,
    /// Space: what is dead in one table.
    Rewrite,
}

/// A range of an input on its way into an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Piece {
    key: PartitionKey,
    /// Number of the range among those of its partition.
    nth: usize,
    /// Number of the input, and of the part in it.
    input: usize,
    part: usize,
    bytes: u64,
    /// Batches that end before this are left out.
    log_start: Offset,
    /// The output has filters on its keys.
    keyed: bool,
}

/// The output that is being written.
struct Writing {
    id: u64,
    writer: TableWriter,
    pieces: VecDeque<Piece>,
    /// Where the first piece's next batch begins; `None` at its front.
    position: Option<u64>,
}

/// A merge under way.
pub(super) struct Merging {
    purpose: Purpose,
    merges: u32,
    sequence_end: u64,
    /// Nothing in the inputs was appended later.
    written_ms: i64,
    inputs: Vec<TableCursor>,
    outputs: VecDeque<Vec<Piece>>,
    writing: Option<Writing>,
    written: Vec<TableEntry>,
    /// Tables that have files and no manifest that names them.
    unpublished: Vec<u64>,
}

impl Merging {
    /// Whether it is there to give space back.
    pub(super) fn gives_back(&self) -> bool {
        self.purpose == Purpose::Rewrite
    }

    fn input_ids(&self) -> BTreeSet<u64> {
        self.inputs.iter().map(|input| input.table().id()).collect()
    }

    /// The input that the error is about, if it is about reading one.
    pub(super) fn unreadable(&self, error: &StorageError) -> Option<u64> {
        let (StorageError::Corrupt { file, .. } | StorageError::Disk { file, .. }) = error else {
            return None;
        };
        let mut inputs = self.inputs.iter();
        let input = inputs.find(|input| input.table().path() == file)?;
        Some(input.table().id())
    }
}

impl Lane {
    /// Begins to rewrite a table that is dead in part.
    pub(super) fn begin_rewrite(&self) -> Option<Merging> {
        let state = self.state.borrow();
        let live = state.tables.to_rewrite().next()?;
        Some(state.merging(Purpose::Rewrite, &[live.table.id()], live.merges))
    }

    /// Begins the rewrite that gives back most, of those that fit into what is free.
    pub(super) fn begin_rewrite_that_fits(&self) -> Option<Merging> {
        let state = self.state.borrow();
        let mut tables = state.tables.to_rewrite().peekable();
        tables.peek()?;
        let free = disk::free_bytes(&self.dir).ok()?;
        let fits = |live: &&LiveTable| {
            // Filters and footer take no more in the new table than in the old one.
            let around = live.table.file_bytes - live.table.footer.batch_bytes();
            live.live_bytes + around + self.reserve.manifest_bytes() <= free
        };
        let live = tables.filter(fits).max_by_key(|live| live.dead_bytes())?;
        Some(state.merging(Purpose::Rewrite, &[live.table.id()], live.merges))
    }

    /// Begins the merge that is due.
    pub(super) fn begin_merge(&self) -> Option<Merging> {
        let state = self.state.borrow();
        if state.merges_rest(now()) {
            return None;
        }
        let merge = state.tables.merge_due(state.merge_budget())?;
        // Inputs and outputs are there at once, and the WAL must not starve for it.
        let needed = merge.bytes + 2 * state.config.wal_file_bytes;
        let enough = disk::free_bytes(&self.dir).is_ok_and(|free| free > needed);
        enough.then(|| state.merging(Purpose::Merge, &merge.tables, merge.merges))
    }

    /// Goes on by one step; says whether there is more to do. After an error the merge must be
    /// given up.
    pub(super) async fn merge_step(&self, merging: &mut Merging) -> Result<bool, StorageError> {
        if self.copy_step(merging).await? {
            return Ok(true);
        }
        self.publish(merging).await?;
        Ok(false)
    }

    /// Gives up the merge and removes what it wrote.
    pub(super) async fn abandon_merge(&self, merging: Merging) {
        let Merging {
            purpose,
            unpublished,
            ..
        } = merging;
        self.abandon_tables(&unpublished).await;
        let mut state = self.state.borrow_mut();
        if purpose == Purpose::Merge {
            state.merge_after = Some(now() + state.config.no_space_retry);
        }
    }

    /// Copies some of the current output; says whether there is more to do.
    async fn copy_step(&self, merging: &mut Merging) -> Result<bool, StorageError> {
        let Some(writing) = merging.writing.as_mut() else {
            let Some(pieces) = merging.outputs.pop_front() else {
                return Ok(false);
            };
            let id = self.take_table_id();
            merging.unpublished.push(id);
            merging.writing = Some(self.begin_output(id, pieces).await?);
            return Ok(true);
        };
        if let Some(piece) = writing.pieces.front() {
            let input = merging.inputs.get_mut(piece.input);
            let input = input.expect("pieces name inputs of their merge");
            let part = input.table().part(piece.part);
            let (start, end) = (part.position, part.position + part.bytes);
            let position = writing.position.unwrap_or(start);
            let copied = Copied::from(piece);
            let next = copy_some(input, copied, position..end, &mut writing.writer).await?;
            assert!(next > position && next <= end, "a copy that goes nowhere");
            writing.position = (next < end).then_some(next);
            if next == end {
                writing.pieces.pop_front();
            }
            return Ok(true);
        }
        let Writing { id, writer, .. } = merging.writing.take().expect("just looked at");
        let entry = TableEntry {
            id,
            file_bytes: writer.finish().await?,
            sequence_end: merging.sequence_end,
            merges: merging.merges,
            replaced_parts: Vec::new(),
            written_ms: Some(merging.written_ms),
        };
        merging.written.push(entry);
        Ok(true)
    }

    async fn begin_output(&self, id: u64, pieces: Vec<Piece>) -> Result<Writing, StorageError> {
        let config = self.state.borrow().config.clone();
        let bytes = pieces.iter().map(|piece| piece.bytes).sum();
        Ok(Writing {
            id,
            writer: TableWriter::create(&self.dir, self.nonce, id, bytes, &config).await?,
            pieces: pieces.into(),
            position: None,
        })
    }

    /// Swaps the manifest: from here on the outputs are the lane's, and the inputs obsolete.
    async fn publish(&self, merging: &mut Merging) -> Result<(), StorageError> {
        let inputs = merging.input_ids();
        let manifest = {
            let state = self.state.borrow();
            let mut manifest = state.manifest(state.floor, &merging.written);
            manifest.tables.retain(|known| !inputs.contains(&known.id));
            // An input that died meanwhile is gone already.
            let still = inputs.iter().filter(|id| state.tables.contains(**id));
            manifest.obsolete.extend(still);
            manifest
        };
        self.write_manifest(&manifest).await?;
        merging.unpublished.clear();
        let named = self.name_tables(&merging.written).await?;
        let mut state = self.state.borrow_mut();
        let written: u64 = merging.written.iter().map(|entry| entry.file_bytes).sum();
        match merging.purpose {
            Purpose::Merge => {
                state.stats.merges += 1;
                state.stats.merged_bytes += written;
            }
            Purpose::Rewrite => state.stats.rewritten_bytes += written,
        }
        for table in &named {
            let live = LiveTable::new(Rc::clone(table), merging.sequence_end, merging.merges);
            state.replace_ranges(&inputs, live);
        }
        for id in &inputs {
            if let Some(live) = state.tables.remove(*id) {
                state.obsolete.push(live.into());
            }
        }
        Ok(())
    }
}

/// What is copied of a part.
#[derive(Debug, Clone, Copy)]
pub(super) struct Copied {
    pub(super) key: PartitionKey,
    /// Batches that end before this are left out.
    pub(super) log_start: Offset,
    /// The output has filters on its keys.
    pub(super) keyed: bool,
}

impl From<&Piece> for Copied {
    fn from(piece: &Piece) -> Copied {
        Copied {
            key: piece.key,
            log_start: piece.log_start,
            keyed: piece.keyed,
        }
    }
}

/// Copies the batches of a part from `range.start` on, as far as one read reaches; returns where
/// the next one begins.
pub(super) async fn copy_some(
    input: &mut TableCursor,
    copied: Copied,
    range: std::ops::Range<u64>,
    writer: &mut TableWriter,
) -> Result<u64, StorageError> {
    let position = range.start;
    let bytes = input.batches_at(&range).await?;
    let mut at = 0;
    while let Some(info) = bytes.get(at..).and_then(BatchInfo::read) {
        if at + info.bytes > bytes.len() {
            break;
        }
        if info.last_offset >= copied.log_start {
            let batch = MemBatch {
                base_offset: info.base_offset,
                last_offset: info.last_offset,
                max_timestamp: info.max_timestamp,
                bytes: bytes.slice(at..at + info.bytes),
            };
            writer.push(copied.key, &batch, copied.keyed).await?;
        }
        at += info.bytes;
    }
    Ok(position + at as u64)
}

/// Distributes pieces over outputs, each sorted by (partition, offset).
///
/// Adjacent ranges of a partition become one; those that have `own_bytes` get an output of their
/// own. Ranges of a partition that are not adjacent go to different outputs.
fn lay_out(mut pieces: Vec<Piece>, own_bytes: u64) -> Vec<Vec<Piece>> {
    pieces.sort_unstable_by_key(|piece| (piece.key, piece.nth));
    let mut shared: Vec<Vec<Piece>> = Vec::new();
    let mut own = Vec::new();
    for partition in pieces.chunk_by(|one, next| one.key == next.key) {
        let mut apart = 0;
        for run in partition.chunk_by(|one, next| one.nth + 1 == next.nth) {
            let bytes: u64 = run.iter().map(|piece| piece.bytes).sum();
            if bytes >= own_bytes {
                own.push(run.to_vec());
                continue;
            }
            if apart == shared.len() {
                shared.push(Vec::new());
            }
            shared
                .get_mut(apart)
                .expect("just pushed")
                .extend_from_slice(run);
            apart += 1;
        }
    }
    shared.append(&mut own);
    shared
}

impl State {
    /// Whether no merge may begin now.
    pub(super) fn merges_rest(&self, now: Instant) -> bool {
        self.no_space || self.merge_after.is_some_and(|after| now < after)
    }

    pub(super) fn merge_budget(&self) -> u64 {
        // One merge of the lowest tier: a flush writes up to two memtables' worth.
        let burst = 2 * self.config.memtable_bytes as u64 * self.config.merge_fan_in as u64;
        let percent = self.config.merge_budget_percent;
        budget(
            self.stats.flushed_bytes,
            self.stats.merged_bytes,
            percent,
            burst,
        )
    }

    /// A merge of these tables as of now.
    fn merging(&self, purpose: Purpose, ids: &[u64], merges: u32) -> Merging {
        let known = |id: &u64| {
            self.tables
                .get(*id)
                .expect("tables of a plan are the lane's")
        };
        let mut pieces = Vec::new();
        for (input, live) in ids.iter().map(known).enumerate() {
            pieces.extend(self.pieces_of(input, &live.table));
        }
        let outputs = lay_out(pieces, self.config.hot_table_bytes);
        assert!(!outputs.is_empty(), "a merge of nothing");
        let ends = ids.iter().map(known).map(|live| live.sequence_end);
        let sequence_end = ends.max().expect("a merge of something");
        let times = ids.iter().map(known).map(|live| live.table.written_ms());
        let written_ms = times.max().expect("a merge of something");
        Merging {
            purpose,
            merges,
            sequence_end,
            written_ms,
            inputs: ids
                .iter()
                .map(known)
                .map(|live| TableCursor::new(&live.table))
                .collect(),
            outputs: outputs.into(),
            writing: None,
            written: Vec::new(),
            unpublished: Vec::new(),
        }
    }

    /// The parts of `table` that partitions refer to.
    fn pieces_of(&self, input: usize, table: &Table) -> Vec<Piece> {
        let parts = table.footer.parts.iter().enumerate();
        parts
            .filter_map(|(part, entry)| {
                let partition = self.partition(entry.key)?;
                let (nth, range) = partition.nth_range_at(entry.start)?;
                (range.table.id() == table.id()).then_some(Piece {
                    key: entry.key,
                    nth,
                    input,
                    part,
                    bytes: entry.bytes,
                    log_start: partition.log_start,
                    keyed: partition.keyed,
                })
            })
            .collect()
    }

    /// Ranges of `inputs` become ranges of the new table; parts that died meanwhile are dead in
    /// it, too.
    fn replace_ranges(&mut self, inputs: &BTreeSet<u64>, mut live: LiveTable) {
        let table = Rc::clone(&live.table);
        for (at, part) in table.footer.parts.iter().enumerate() {
            let Some(partition) = self.partition_mut(part.key) else {
                continue;
            };
            let replaced = |range: &TableRange| {
                let within = range.end > part.start && range.end <= part.end;
                within && inputs.contains(&range.table.id())
            };
            if !partition
                .replace(replaced, TableRange::new(&table, at))
                .is_empty()
            {
                live.count_in(part.bytes);
            }
        }
        self.tables.insert(live);
    }
}

#[cfg(test)]
mod tests {
    use streambus_proto::ids::TopicId;

    use super::*;

    fn piece(index: i32, nth: usize, bytes: u64) -> Piece {
        let topic = TopicId([1; 16]);
        Piece {
            key: PartitionKey { topic, index },
            nth,
            input: nth,
            part: 0,
            bytes,
            log_start: Offset(0),
            keyed: false,
        }
    }

    #[test]
    fn adjacent_ranges_join_and_others_stay_apart() {
        // Proves how ranges are laid out: sorted, hot partitions alone, and ranges that another
        // table lies between never in one output, where they would claim what is not theirs.
        let all = vec![
            piece(2, 1, 10),
            piece(1, 4, 10),
            piece(2, 0, 10),
            piece(1, 1, 10),
            piece(3, 0, 50),
            piece(3, 1, 50),
            piece(1, 3, 10),
        ];
        let numbers = |outputs: Vec<Vec<Piece>>| -> Vec<Vec<(i32, usize)>> {
            let number = |piece: &Piece| (piece.key.index, piece.nth);
            let of = |output: &Vec<Piece>| output.iter().map(number).collect();
            outputs.iter().map(of).collect()
        };
        let laid_out = numbers(lay_out(all.clone(), 100));
        let expected = [
            vec![(1, 1), (2, 0), (2, 1)],
            vec![(1, 3), (1, 4)],
            vec![(3, 0), (3, 1)],
        ];
        assert_eq!(laid_out, expected);
        assert_eq!(numbers(lay_out(all, 101)).len(), 2);
        assert!(lay_out(Vec::new(), 1).is_empty());
    }
}
