//! Reads a table from front to back: what merging and cleaning do with it.

use std::ops::Range;
use std::rc::Rc;

use streambus_shards::Buf;

use super::reader::Table;
use crate::batch::BatchInfo;
use crate::error::StorageError;

/// What is read at once: tables are read from front to back, so this is a cursor's whole memory
/// until it is let go of, but for a batch that is larger.
const WINDOW_BYTES: u64 = 256 << 10;

/// A table, and the part of it that was read last.
pub(crate) struct TableCursor {
    table: Rc<Table>,
    window: Option<(u64, Buf)>,
}

impl TableCursor {
    pub(crate) fn new(table: &Rc<Table>) -> TableCursor {
        TableCursor {
            table: Rc::clone(table),
            window: None,
        }
    }

    pub(crate) fn table(&self) -> &Rc<Table> {
        &self.table
    }

    #[cfg(test)]
    pub(crate) fn has_window(&self) -> bool {
        self.window.is_some()
    }

    /// Lets go of what was read last.
    pub(crate) fn forget(&mut self) {
        self.window = None;
    }

    /// Bytes from `range.start` on, within `range` and with at least one whole batch.
    pub(crate) async fn batches_at(&mut self, range: &Range<u64>) -> Result<Buf, StorageError> {
        let mut bytes = self.bytes_at(range.start, 1, range.end).await?;
        let mut first = BatchInfo::read(&bytes);
        if first.is_none() {
            // The header may be cut by the window's end.
            bytes = self.load(range.start, WINDOW_BYTES, range.end).await?;
            first = BatchInfo::read(&bytes);
        }
        let first = first.filter(|info| range.start + info.bytes as u64 <= range.end);
        let damaged = "no batch where one begins";
        let first =
            first.ok_or_else(|| StorageError::corrupt(self.table.path(), range.start, damaged))?;
        if first.bytes > bytes.len() {
            bytes = self
                .load(range.start, first.bytes as u64, range.end)
                .await?;
        }
        Ok(bytes)
    }

    async fn bytes_at(&mut self, position: u64, least: u64, end: u64) -> Result<Buf, StorageError> {
        if let Some((start, bytes)) = &self.window {
            let window_end = start + bytes.len() as u64;
            if *start <= position && position + least <= window_end {
                return Ok(slice_of(bytes, *start, position, end));
            }
        }
        self.load(position, WINDOW_BYTES, end).await
    }

    /// Moves the window: whole blocks from the one at `position` on.
    async fn load(&mut self, position: u64, least: u64, end: u64) -> Result<Buf, StorageError> {
        let start = self.table.block_start(position);
        let least_end = (position + least).max(start + WINDOW_BYTES);
        let wanted = position..least_end.min(self.table.footer.data_bytes);
        let blocks = self.table.blocks_of(&wanted);
        let bytes = self.table.read_blocks(blocks).await?;
        let slice = slice_of(&bytes, start, position, end);
        self.window = Some((start, bytes));
        Ok(slice)
    }
}

/// What `bytes`, which lie at `start` of a table, hold from `position` on, up to `end` at most.
fn slice_of(bytes: &Buf, start: u64, position: u64, end: u64) -> Buf {
    let from = usize::try_from(position - start).expect("within the window");
    let length = usize::try_from(end - position).map_or(usize::MAX, |length| length);
    bytes.slice(from..bytes.len().min(from.saturating_add(length)))
}
