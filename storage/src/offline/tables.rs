//! Verifies tables block by block, and finds out which batches a damaged block takes with it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use streambus_proto::ids::Offset;
use streambus_shards::{Buf, disk, yield_if_needed};

use super::{Depth, Examined, Finding, Lost, Remedy, Seen};
use crate::batch::{BATCH_HEADER_BYTES, BatchInfo};
use crate::error::StorageError;
use crate::key::PartitionKey;
use crate::manifest::{Manifest, TableEntry};
use crate::names;
use crate::table::footer::TablePart;
use crate::table::reader::Table;
use crate::wal::record::Nonce;

/// Bytes that are read and verified at once.
const READ_BYTES: u64 = 1 << 20;

/// Where a partition's part lies, to find two tables with the same offsets.
pub(super) struct Span {
    pub(super) key: PartitionKey,
    pub(super) start: Offset,
    pub(super) end: Offset,
    table: u64,
    position: u64,
    sequence_end: u64,
}

pub(super) async fn examine(
    examined: &mut Examined,
    manifest: &Manifest,
    depth: Depth,
    see: &mut dyn FnMut(Seen),
) -> Result<Vec<Span>, StorageError> {
    let dir = examined.dir.clone();
    let mut spans = Vec::new();
    for entry in &manifest.tables {
        let table = match open(&dir, entry.id, manifest, entry.file_bytes).await {
            Ok(table) => table,
            Err(StorageError::Corrupt {
                file,
                position,
                what,
            }) => {
                examined.findings.push(Finding {
                    file,
                    position,
                    what: what.to_owned(),
                    remedy: Remedy::DropTable { id: entry.id },
                    lost: Vec::new(),
                });
                continue;
            }
            Err(other) => return Err(other),
        };
        tell(&table, see);
        spans.extend(live_parts(&table, entry).map(|part| Span {
            key: part.key,
            start: part.start,
            end: part.end,
            table: entry.id,
            position: part.position,
            sequence_end: entry.sequence_end,
        }));
        examined.totals.tables += 1;
        if depth == Depth::Everything {
            let bad = bad_blocks(&table, see).await?;
            let bad_bytes: u64 = bad.iter().map(|range| range.end - range.start).sum();
            examined.totals.table_bytes += table.footer.data_bytes - bad_bytes;
            for range in &bad {
                let lost = lost_with(&table, entry, &bad, range).await?;
                examined.findings.push(Finding {
                    file: table.path().to_owned(),
                    position: range.start,
                    what: format!(
                        "the checksum of {} bytes does not hold",
                        range.end - range.start
                    ),
                    remedy: Remedy::RewriteTable { id: entry.id },
                    lost,
                });
            }
        }
    }
    needed(manifest, &mut spans);
    find_overlaps(examined, &spans);
    Ok(spans)
}

/// Opens a table under its name, or under the one that it had when a crash came before its naming.
pub(super) async fn open(
    dir: &Path,
    id: u64,
    manifest: &Manifest,
    file_bytes: u64,
) -> Result<Table, StorageError> {
    let (named, unnamed) = (dir.join(names::table(id)), dir.join(names::table_new(id)));
    let path = if !disk::exists(&named) && disk::exists(&unnamed) {
        unnamed
    } else {
        named
    };
    Table::open_file(path, id, Nonce(manifest.nonce), file_bytes).await
}

/// The parts that their partitions still have here: not those that were compacted into another table.
pub(super) fn live_parts<'a>(
    table: &'a Table,
    entry: &'a TableEntry,
) -> impl Iterator<Item = &'a TablePart> {
    let parts = (0_u32..).zip(&table.footer.parts);
    parts
        .filter(|(number, _)| !entry.replaced_parts.contains(number))
        .map(|(_, part)| part)
}

fn tell(table: &Table, see: &mut dyn FnMut(Seen)) {
    see(Seen::Table {
        id: table.id(),
        bytes: table.file_bytes,
        parts: table.footer.parts.len(),
    });
    for part in &table.footer.parts {
        see(Seen::Part {
            key: part.key,
            offsets: (part.start, part.end),
            bytes: part.bytes,
        });
    }
}

/// The ranges of the table's data that do not verify, in order, neighbours as one.
pub(super) async fn bad_blocks(
    table: &Table,
    see: &mut dyn FnMut(Seen),
) -> Result<Vec<Range<u64>>, StorageError> {
    let mut bad: Vec<Range<u64>> = Vec::new();
    let mut position = 0;
    while position < table.footer.data_bytes {
        let end = (position + READ_BYTES).min(table.footer.data_bytes);
        let blocks = table.blocks_of(&(position..end));
        position = blocks.end;
        see(Seen::Read {
            bytes: blocks.end - blocks.start,
        });
        if table.read_blocks(blocks.clone()).await.is_err() {
            for block in table.single_blocks(blocks) {
                if table.read_blocks(block.clone()).await.is_ok() {
                    continue;
                }
                match bad.last_mut() {
                    Some(last) if last.end == block.start => last.end = block.end,
                    _ => bad.push(block),
                }
            }
        }
        yield_if_needed().await;
    }
    Ok(bad)
}

/// The batches that the damage at `range` takes with it.
async fn lost_with(
    table: &Table,
    entry: &TableEntry,
    bad: &[Range<u64>],
    range: &Range<u64>,
) -> Result<Vec<Lost>, StorageError> {
    let mut lost = Vec::new();
    for part in live_parts(table, entry) {
        let hit = part.position < range.end && range.start < part.position + part.bytes;
        if !hit {
            continue;
        }
        let mut walk = Walk::new(table, part, bad);
        while let Some(step) = walk.next().await? {
            if let Step::Lost { from, to, at } = step
                && at.start < range.end
                && range.start < at.end
            {
                lost.push(Lost {
                    key: part.key,
                    start: from,
                    end: to,
                });
            }
        }
    }
    Ok(lost)
}

/// What stands next in a part.
pub(super) enum Step {
    /// A whole batch that verifies, and where it lies.
    Kept { info: BatchInfo, at: Range<u64> },
    /// Offsets whose batches do not verify, and about where they lay.
    Lost {
        from: Offset,
        to: Offset,
        at: Range<u64>,
    },
}

/// Goes through a part's batches, around what is damaged.
///
/// Only bytes under a block checksum that holds are believed. A batch's own CRC does not cover its
/// partition or its offset: a sound block of another place would pass for this partition's.
pub(super) struct Walk<'a> {
    table: &'a Table,
    part: &'a TablePart,
    bad: &'a [Range<u64>],
    position: u64,
    /// Offset after the last batch that is accounted for.
    next: Offset,
    window: Option<(u64, Buf)>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(table: &'a Table, part: &'a TablePart, bad: &'a [Range<u64>]) -> Walk<'a> {
        Walk {
            table,
            part,
            bad,
            position: part.position,
            next: part.start,
            window: None,
        }
    }

    pub(super) async fn next(&mut self) -> Result<Option<Step>, StorageError> {
        let end = self.part.position + self.part.bytes;
        let from = self.position;
        // Bad batches in a row are one loss: it ends at the next batch that is kept.
        let mut damaged = false;
        while self.position < end {
            let Some(info) = self.header(end).await? else {
                damaged = true;
                self.position = self.entry_after_damage(end);
                continue;
            };
            let at = self.position..self.position + info.bytes as u64;
            if damaged && !self.hits_bad(&at) {
                break;
            }
            self.position = at.end;
            if self.hits_bad(&at) {
                damaged = true;
                continue;
            }
            self.next = info.next_offset();
            return Ok(Some(Step::Kept { info, at }));
        }
        if !damaged {
            return Ok(None);
        }
        let next = if self.position < end {
            self.header(end).await?
        } else {
            None
        };
        let to = next.map_or(self.part.end, |info| info.base_offset);
        let lost = Step::Lost {
            from: self.next,
            to,
            at: from..self.position,
        };
        self.next = to;
        Ok(Some(lost))
    }

    fn hits_bad(&self, range: &Range<u64>) -> bool {
        self.bad
            .iter()
            .any(|bad| bad.start < range.end && range.start < bad.end)
    }

    /// The batch header at the position, if it verifies and its batch lies in the part.
    async fn header(&mut self, end: u64) -> Result<Option<BatchInfo>, StorageError> {
        let range = self.position..self.position + BATCH_HEADER_BYTES as u64;
        if range.end > end || self.hits_bad(&range) {
            return Ok(None);
        }
        let bytes = self.bytes(range.clone()).await?;
        let info = BatchInfo::read(&bytes);
        Ok(info.filter(|info| range.start + info.bytes as u64 <= end))
    }

    /// Bytes that are known to verify, from the window or the disk.
    async fn bytes(&mut self, range: Range<u64>) -> Result<Buf, StorageError> {
        let inside = |start: u64, window: &Buf| {
            range.start >= start && range.end <= start + window.len() as u64
        };
        if !self
            .window
            .as_ref()
            .is_some_and(|(start, window)| inside(*start, window))
        {
            let clean = self
                .bad
                .iter()
                .map(|bad| bad.start)
                .find(|start| *start >= range.end)
                .unwrap_or(self.table.footer.data_bytes);
            let wanted = range.start..(range.start + READ_BYTES).max(range.end).min(clean);
            let blocks = self.table.blocks_of(&wanted);
            let start = blocks.start;
            self.window = Some((start, self.table.read_blocks(blocks).await?));
        }
        let (start, window) = self.window.as_ref().expect("just read");
        let at = usize::try_from(range.start - start).expect("within the window");
        let length = usize::try_from(range.end - range.start).expect("a header");
        Ok(window.slice(at..at + length))
    }

    /// The next place after the damage where a batch is known to begin.
    fn entry_after_damage(&self, end: u64) -> u64 {
        let header_end = self.position + BATCH_HEADER_BYTES as u64;
        let hit = self
            .bad
            .iter()
            .find(|bad| bad.start < header_end && self.position < bad.end);
        let clear = hit.map_or(self.position + 1, |bad| bad.end);
        let mut entries = self.part.index.iter();
        entries
            .find(|entry| entry.position >= clear)
            .map_or(end, |entry| entry.position)
    }
}

/// Leaves the spans that their partitions need, sorted: of this incarnation, and behind the log start.
fn needed(manifest: &Manifest, spans: &mut Vec<Span>) {
    let entries: BTreeMap<_, _> = manifest
        .partitions
        .iter()
        .map(|entry| (entry.key, entry))
        .collect();
    spans.retain(|span| {
        entries.get(&span.key).is_some_and(|entry| {
            entry.created_sequence < span.sequence_end && span.end > entry.log_start
        })
    });
    spans.sort_by_key(|span| (span.key, span.start));
}

/// Two tables with the same offsets of a partition: the lane does not open.
fn find_overlaps(examined: &mut Examined, spans: &[Span]) {
    for pair in spans.windows(2) {
        let [first, second] = pair else { continue };
        if first.key == second.key && first.end > second.start {
            examined.findings.push(Finding {
                file: examined.dir.join(names::table(second.table)),
                position: second.position,
                what: format!("it holds offsets that table {:016x} holds too", first.table),
                remedy: Remedy::None,
                lost: Vec::new(),
            });
        }
    }
}
