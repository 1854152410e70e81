//! Reads a sorted table: every block is verified, every time it comes from the disk.

use std::cell::OnceCell;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use streambus_proto::ids::Offset;
use streambus_shards::disk::READ_PIECE_BYTES;
use streambus_shards::{Buf, BufMut, DiskError, File, planted, yield_if_needed};

use super::files::{TableFile, TableFiles};
use super::footer::{Footer, TABLE_VERSION, TablePart, Trailer, TrailerRead, checksum};
use crate::batch::{BATCH_HEADER_BYTES, BatchInfo};
use crate::error::StorageError;
use crate::manifest::TableEntry;
use crate::names;
use crate::wal::record::{BLOCK_BYTES, Nonce};

/// A table that can be read: its file is opened when it is, and closed when others need the descriptor more. Its
/// footer stays in memory: 24 bytes for each `index_stride_bytes` of data, 4 for each
/// `block_bytes`, and about 140 for each partition in it.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) footer: Footer,
    pub(crate) file_bytes: u64,
    path: PathBuf,
    nonce: Nonce,
    written_ms: i64,
    files: Rc<TableFiles>,
    /// The file, once the table's name has left the disk.
    held: OnceCell<TableFile>,
}

/// Whole batches of one partition, as they lie in a table.
#[derive(Debug)]
pub(crate) struct TableRead {
    pub(crate) bytes: Buf,
    /// Offset after the last batch.
    pub(crate) next_offset: Offset,
    /// Where in the table the batches begin and end.
    pub(crate) range: Range<u64>,
}

/// What to read of a part.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    /// The first batch returned is the first that ends at or after this.
    pub(crate) from: Offset,
    /// Only batches that end at or before this.
    pub(crate) upto: Offset,
    /// At most this many bytes, but always one batch.
    pub(crate) max_bytes: usize,
}

impl Table {
    /// Opens a table as the manifest knows it, and reads its footer. `now_ms` is when it was written, if the manifest
    /// does not say.
    pub(crate) async fn open(
        files: &Rc<TableFiles>,
        dir: &Path,
        nonce: Nonce,
        entry: &TableEntry,
        now_ms: i64,
    ) -> Result<Table, StorageError> {
        let path = dir.join(names::table(entry.id));
        let mut table = Table::open_in(files, path, entry.id, nonce, entry.file_bytes).await?;
        table.written_ms = entry.written_ms.unwrap_or(now_ms);
        Ok(table)
    }

    /// Opens a table alone, which may have another name.
    pub(crate) async fn open_file(
        path: PathBuf,
        id: u64,
        nonce: Nonce,
        file_bytes: u64,
    ) -> Result<Table, StorageError> {
        let files = Rc::new(TableFiles::new(1, Rc::default()));
        Table::open_in(&files, path, id, nonce, file_bytes).await
    }

    /// Opens a table whose file is one of `files`.
    pub(crate) async fn open_in(
        files: &Rc<TableFiles>,
        path: PathBuf,
        id: u64,
        nonce: Nonce,
        file_bytes: u64,
    ) -> Result<Table, StorageError> {
        let failed = |source| not_opened(&path, source);
        let file = files.get(id, &path).await.map_err(failed)?;
        let found = file.len().map_err(failed)?;
        if found != file_bytes || found < 2 * BLOCK_BYTES as u64 {
            let position = found.min(file_bytes);
            return Err(StorageError::corrupt(
                &path,
                position,
                "the table has another length",
            ));
        }
        let trailer = read_trailer(&file, &path, id, nonce, file_bytes).await?;
        let footer = read_footer(&file, &path, &trailer, nonce, file_bytes).await?;
        Ok(Table {
            footer,
            file_bytes,
            path,
            nonce,
            written_ms: 0,
            files: Rc::clone(files),
            held: OnceCell::new(),
        })
    }

    /// Keeps the file for those who read the table, so that its name may leave the disk; says whether it may.
    ///
    /// # Errors
    /// When the file can't be opened.
    pub(crate) async fn hold(&self) -> Result<bool, StorageError> {
        if self.held.get().is_some() {
            return Ok(true);
        }
        let held = self.files.hold(self.id(), &self.path).await;
        let held = held.map_err(|source| not_opened(&self.path, source))?;
        Ok(held.is_some_and(|file| {
            // If somebody else was faster, one of the two is enough.
            let _ = self.held.set(file);
            true
        }))
    }

    /// A table that nothing can be read of.
    #[cfg(test)]
    pub(crate) fn without_file(footer: Footer) -> Table {
        Table {
            file_bytes: footer.data_bytes,
            footer,
            path: PathBuf::new(),
            nonce: Nonce(0),
            written_ms: 0,
            files: Rc::new(TableFiles::new(1, Rc::default())),
            held: OnceCell::new(),
        }
    }

    /// Nothing in it was appended later, by the wall clock, ms.
    pub(crate) fn written_ms(&self) -> i64 {
        self.written_ms
    }

    pub(crate) fn id(&self) -> u64 {
        self.footer.id
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn part(&self, at: usize) -> &TablePart {
        self.footer
            .parts
            .get(at)
            .expect("ranges name parts of their table")
    }

    /// The blocks that hold `range`, as bytes of the table.
    pub(crate) fn blocks_of(&self, range: &Range<u64>) -> Range<u64> {
        let block = self.footer.block_bytes as u64;
        let end = range.end.div_ceil(block) * block;
        self.block_start(range.start)..end.min(self.footer.data_bytes)
    }

    /// Each of the blocks in `blocks`.
    pub(crate) fn single_blocks(&self, blocks: Range<u64>) -> impl Iterator<Item = Range<u64>> {
        let (block_bytes, end) = (self.footer.block_bytes, blocks.end);
        let starts = (blocks.start..end).step_by(block_bytes);
        starts.map(move |start| start..(start + block_bytes as u64).min(end))
    }

    /// Reads whole blocks and verifies each.
    ///
    /// # Panics
    /// If `blocks` does not come from [`Table::blocks_of`].
    pub(crate) async fn read_blocks(&self, blocks: Range<u64>) -> Result<Buf, StorageError> {
        self.read_blocks_behind(&[], blocks, READ_PIECE_BYTES).await
    }

    /// The same, when the first of them are known: `front`, which is verified. The disk is asked for `piece_bytes` at a
    /// time.
    ///
    /// # Panics
    /// If `front` is no whole number of blocks, or all of them.
    pub(crate) async fn read_blocks_behind(
        &self,
        front: &[u8],
        blocks: Range<u64>,
        piece_bytes: usize,
    ) -> Result<Buf, StorageError> {
        let block_bytes = self.footer.block_bytes as u64;
        assert!(
            blocks.start.is_multiple_of(block_bytes),
            "range begins within a block"
        );
        assert!(
            blocks.start < blocks.end && blocks.end <= self.footer.data_bytes,
            "empty range"
        );
        assert!(
            front.len().is_multiple_of(self.footer.block_bytes) && front.len() < length(&blocks),
            "{} bytes are known of {blocks:?}",
            front.len()
        );
        let wanted = length(&blocks);
        let aligned = wanted.next_multiple_of(BLOCK_BYTES);
        let failed = |source| StorageError::disk(&self.path, source);
        let mut memory = BufMut::with_capacity(aligned);
        memory.extend_from_slice(front);
        let rest = blocks.start + front.len() as u64..blocks.end;
        let file = self.files.get(self.id(), &self.path).await;
        let file = file.map_err(|source| not_opened(&self.path, source))?;
        let read = file
            .read_behind(memory, rest.start, aligned - front.len(), piece_bytes)
            .await
            .map_err(failed)?;
        assert!(
            read.len() == aligned,
            "read {} bytes of {aligned}",
            read.len()
        );
        drop(file);
        let bytes = read.slice(0..wanted);
        let first = usize::try_from(rest.start / block_bytes).expect("blocks fit memory");
        let crcs = self.footer.block_crcs.iter().skip(first);
        let mut position = rest.start;
        let unknown = bytes.slice(front.len()..wanted);
        for (block, crc) in unknown.chunks(self.footer.block_bytes).zip(crcs) {
            let holds = checksum(self.nonce, self.id(), position, block) == *crc;
            if !holds && !planted::on("skip-table-crc") {
                let what = "a block's checksum does not hold";
                return Err(StorageError::corrupt(&self.path, position, what));
            }
            position += block.len() as u64;
            // A read of 50 MiB takes ten milliseconds to verify.
            yield_if_needed().await;
        }
        assert!(position == blocks.end, "every block was verified");
        Ok(bytes)
    }

    /// Where to read so that the batch at `from` is in it, and about `max_bytes` from there on:
    /// as many whole blocks as `max_bytes` are, so that a read of 1 MiB is 1 MiB of pooled memory.
    pub(crate) fn range_for(&self, part: &TablePart, wanted: Wanted) -> Range<u64> {
        let (at, entry) = part.index_before(wanted.from);
        let end = part.position + part.bytes;
        let blocks_end = self.block_start(entry.position) + wanted.max_bytes as u64;
        entry.position..part.stride_end(at).max(blocks_end).min(end)
    }

    /// Where the block begins that holds `position`.
    pub(crate) fn block_start(&self, position: u64) -> u64 {
        let block = self.footer.block_bytes as u64;
        position / block * block
    }

    /// Picks the wanted batches out of `bytes`, which lie at `position` of the part and begin with
    /// a batch; `Ok(None)` when the part has no such batch before `wanted.upto`.
    pub(crate) fn pick(
        part: &TablePart,
        bytes: &Buf,
        position: u64,
        wanted: Wanted,
    ) -> Result<Option<TableRead>, PickError> {
        let part_end = part.position + part.bytes;
        let mut at = 0;
        let mut picked: Option<(usize, usize, Offset)> = None;
        loop {
            let rest = bytes.get(at..).unwrap_or_default();
            let batch = position + at as u64;
            if rest.len() < BATCH_HEADER_BYTES {
                if picked.is_none() && batch < part_end {
                    let end = part_end.min(batch + wanted.max_bytes.max(BLOCK_BYTES) as u64);
                    return Err(PickError::Cut(batch..end));
                }
                break;
            }
            let info = BatchInfo::read(rest).ok_or(PickError::NoBatch { position: batch })?;
            let end = at + info.bytes;
            if position + end as u64 > part_end {
                return Err(PickError::NoBatch { position: batch });
            }
            if info.last_offset >= wanted.from {
                let start = picked.map_or(at, |(start, ..)| start);
                let too_much = picked.is_some() && end - start > wanted.max_bytes;
                if info.next_offset() > wanted.upto || too_much {
                    break;
                }
                if end > bytes.len() {
                    if picked.is_none() {
                        return Err(PickError::Cut(batch..batch + info.bytes as u64));
                    }
                    break;
                }
                picked = Some((start, end, info.next_offset()));
            }
            at = end;
        }
        Ok(picked.map(|(start, end, next_offset)| TableRead {
            bytes: bytes.slice(start..end),
            next_offset,
            range: position + start as u64..position + end as u64,
        }))
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        self.files.close(self.id());
    }
}

fn not_opened(path: &Path, source: DiskError) -> StorageError {
    match source {
        DiskError::NotFound { .. } => StorageError::corrupt(path, 0, "the table is missing"),
        source => StorageError::disk(path, source),
    }
}

/// Why no batches could be picked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PickError {
    /// The first wanted batch reaches beyond the bytes: read this range.
    Cut(Range<u64>),
    /// Verified bytes that are no batch: a bug or a forged table.
    NoBatch { position: u64 },
}

async fn read_trailer(
    file: &File,
    path: &Path,
    id: u64,
    nonce: Nonce,
    file_bytes: u64,
) -> Result<Trailer, StorageError> {
    let position = file_bytes - BLOCK_BYTES as u64;
    let failed = |source| StorageError::disk(path, source);
    let block = file.read_at(position, BLOCK_BYTES).await.map_err(failed)?;
    let damaged = |what| StorageError::corrupt(path, position, what);
    match Trailer::decode(&block, nonce, id) {
        TrailerRead::Valid(trailer) => {
            let end = trailer
                .footer_position
                .checked_add(u64::from(trailer.footer_bytes));
            let fits = end.is_some_and(|end| end <= position);
            let aligned = trailer.footer_position.is_multiple_of(BLOCK_BYTES as u64);
            if fits && aligned {
                Ok(trailer)
            } else {
                Err(damaged("the footer lies outside"))
            }
        }
        TrailerRead::OtherVersion(found) => Err(StorageError::OtherVersion {
            file: path.to_owned(),
            found,
            supported: TABLE_VERSION,
        }),
        TrailerRead::Invalid => Err(damaged("the trailer does not verify")),
    }
}

async fn read_footer(
    file: &File,
    path: &Path,
    trailer: &Trailer,
    nonce: Nonce,
    file_bytes: u64,
) -> Result<Footer, StorageError> {
    let position = trailer.footer_position;
    let bytes = trailer.footer_bytes as usize;
    let aligned = bytes.next_multiple_of(BLOCK_BYTES);
    assert!(
        position + (aligned + BLOCK_BYTES) as u64 <= file_bytes,
        "checked with the trailer"
    );
    let failed = |source| StorageError::disk(path, source);
    let read = file.read_at(position, aligned).await.map_err(failed)?;
    let encoded = read.get(..bytes).unwrap_or_default();
    let damaged = |what| StorageError::corrupt(path, position, what);
    if checksum(nonce, trailer.id, position, encoded) != trailer.footer_crc {
        return Err(damaged("the footer's checksum does not hold"));
    }
    let footer = Footer::decode(encoded, trailer.version);
    let footer = footer.map_err(|_| damaged("the footer contradicts itself"))?;
    if footer.id != trailer.id || footer.data_bytes > position {
        return Err(damaged("the footer is another table's"));
    }
    Ok(footer)
}

fn length(range: &Range<u64>) -> usize {
    usize::try_from(range.end - range.start).expect("reads fit memory")
}
