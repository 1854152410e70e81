//! Verifies tables block by block, and finds out which batches a damaged block takes with it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use streambus_proto::ids::Offset;
use streambus_shards::{Buf, disk, yield_if_needed};

use super::reading::{self, twice};
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

/// Bytes of a table's data that do not verify.
#[derive(Debug)]
pub(super) struct Bad {
    pub(super) at: Range<u64>,
    /// What was said, if the medium does not even give them.
    unreadable: Option<String>,
}

impl Bad {
    fn what(&self) -> String {
        let bytes = self.at.end - self.at.start;
        match &self.unreadable {
            Some(said) => format!("{bytes} bytes: {said}"),
            None => format!("the checksum of {bytes} bytes does not hold"),
        }
    }
}

pub(super) async fn examine(
    examined: &mut Examined,
    manifest: &Manifest,
    depth: Depth,
    see: &mut dyn FnMut(Seen),
) -> Vec<Span> {
    let dir = examined.dir.clone();
    let mut spans = Vec::new();
    for entry in &manifest.tables {
        let opened = twice(|| open(&dir, entry.id, manifest, entry.file_bytes)).await;
        let table = match opened {
            Ok(table) => table,
            Err(error) => {
                let path = dir.join(names::table(entry.id));
                let remedy = Remedy::DropTable { id: entry.id };
                let finding = reading::finding(&path, error, remedy);
                examined.findings.push(finding);
                continue;
            }
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
        if depth == Depth::Everything
            && let Err(error) = examine_data(examined, &table, entry, see).await
        {
            let finding = reading::finding(table.path(), error, Remedy::Unread);
            examined.findings.push(finding);
        }
    }
    needed(manifest, &mut spans);
    find_overlaps(examined, &spans);
    spans
}

/// Reads the table's data, and tells what does not verify and what is lost with it.
async fn examine_data(
    examined: &mut Examined,
    table: &Table,
    entry: &TableEntry,
    see: &mut dyn FnMut(Seen),
) -> Result<(), StorageError> {
    let bad = bad_blocks(table, see).await?;
    let bad_bytes: u64 = bad.iter().map(|bad| bad.at.end - bad.at.start).sum();
    examined.totals.table_bytes += table.footer.data_bytes - bad_bytes;
    if bad.is_empty() {
        return Ok(());
    }
    let lost = lost_with(table, entry, &bad).await?;
    for (bad, lost) in bad.iter().zip(lost) {
        examined.findings.push(Finding {
            file: table.path().to_owned(),
            position: bad.at.start,
            what: bad.what(),
            remedy: Remedy::RewriteTable { id: entry.id },
            lost,
        });
    }
    examined.bad.insert(entry.id, bad);
    Ok(())
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
///
/// # Errors
/// When this process can't read: then nothing is known of the data.
async fn bad_blocks(table: &Table, see: &mut dyn FnMut(Seen)) -> Result<Vec<Bad>, StorageError> {
    let mut bad: Vec<Bad> = Vec::new();
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
                let unreadable = match twice(|| table.read_blocks(block.clone())).await {
                    Ok(_) => continue,
                    Err(StorageError::Corrupt { .. }) => None,
                    Err(StorageError::Disk { source, .. }) if source.is_of_medium() => {
                        Some(reading::unreadable(&source))
                    }
                    Err(other) => return Err(other),
                };
                let joins = |last: &&mut Bad| {
                    last.at.end == block.start && last.unreadable.is_some() == unreadable.is_some()
                };
                match bad.last_mut().filter(joins) {
                    Some(last) => last.at.end = block.end,
                    None => bad.push(Bad {
                        at: block,
                        unreadable,
                    }),
                }
            }
        }
        yield_if_needed().await;
    }
    Ok(bad)
}

/// The first of the bad ranges, which are in order, that ends behind `position`.
fn first_behind(bad: &[Bad], position: u64) -> usize {
    bad.partition_point(|bad| bad.at.end <= position)
}

fn hits(bad: &[Bad], range: &Range<u64>) -> bool {
    let first = bad.get(first_behind(bad, range.start));
    first.is_some_and(|bad| bad.at.start < range.end)
}

/// What each bad range takes with it. A batch that several of them hit is lost with the first.
async fn lost_with(
    table: &Table,
    entry: &TableEntry,
    bad: &[Bad],
) -> Result<Vec<Vec<Lost>>, StorageError> {
    let mut lost = vec![Vec::new(); bad.len()];
    for part in live_parts(table, entry) {
        if !hits(bad, &(part.position..part.position + part.bytes)) {
            continue;
        }
        let mut walk = Walk::new(table, part, bad);
        while let Some(step) = walk.next().await? {
            let Step::Lost { from, to, at } = step else {
                continue;
            };
            let first = first_behind(bad, at.start).min(bad.len() - 1);
            if let Some(lost) = lost.get_mut(first) {
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
    bad: &'a [Bad],
    position: u64,
    /// Offset after the last batch that is accounted for.
    next: Offset,
    window: Option<(u64, Buf)>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(table: &'a Table, part: &'a TablePart, bad: &'a [Bad]) -> Walk<'a> {
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
            if damaged && !hits(self.bad, &at) {
                break;
            }
            self.position = at.end;
            if hits(self.bad, &at) {
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

    /// The batch header at the position, if it verifies and its batch lies in the part.
    async fn header(&mut self, end: u64) -> Result<Option<BatchInfo>, StorageError> {
        let range = self.position..self.position + BATCH_HEADER_BYTES as u64;
        if range.end > end || hits(self.bad, &range) {
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
            let behind = self.bad.partition_point(|bad| bad.at.start < range.end);
            let clean = self.bad.get(behind).map(|bad| bad.at.start);
            let clean = clean.unwrap_or(self.table.footer.data_bytes);
            let wanted = range.start..(range.start + READ_BYTES).max(range.end).min(clean);
            let blocks = self.table.blocks_of(&wanted);
            let start = blocks.start;
            let read = twice(|| self.table.read_blocks(blocks.clone())).await?;
            self.window = Some((start, read));
        }
        let (start, window) = self.window.as_ref().expect("just read");
        let at = usize::try_from(range.start - start).expect("within the window");
        let length = usize::try_from(range.end - range.start).expect("a header");
        Ok(window.slice(at..at + length))
    }

    /// The next place after the damage where a batch is known to begin.
    fn entry_after_damage(&self, end: u64) -> u64 {
        let header_end = self.position + BATCH_HEADER_BYTES as u64;
        let first = self.bad.get(first_behind(self.bad, self.position));
        let hit = first.filter(|bad| bad.at.start < header_end);
        let clear = hit.map_or(self.position + 1, |bad| bad.at.end);
        let index = &self.part.index;
        let next = index.get(index.partition_point(|entry| entry.position < clear));
        next.map_or(end, |entry| entry.position)
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
