//! Gathers the tables that one busy partition has for itself into a few large ones.
//!
//! A partition that fills memtables gets a table from each flush. They are contiguous and read well, but there would be
//! as many as the data has memtables. When a partition has two large tables' worth of them, the oldest ranges, with
//! what lies between them in tables of many partitions, are written again as one table, in steps as a merge is. Each
//! byte is written once more for that; what merges may write bounds it, too.

use streambus_shards::{disk, now};

use super::Lane;
use super::merge::{Copied, copy_some};
use super::replace::Replacement;
use super::state::State;
use crate::error::StorageError;
use crate::key::PartitionKey;
use crate::merge::MERGES_MAX;
use crate::partition::TableRange;
use crate::table::cursor::TableCursor;
use crate::table::writer::TableWriter;

/// Ranges of a partition on their way into one table.
pub(super) struct Gathering {
    created_sequence: u64,
    copied: Copied,
    ranges: Vec<TableRange>,
    bytes: u64,
    /// The range that is read, how it is read, and where in it; its front when `None`.
    at: usize,
    cursor: Option<TableCursor>,
    position: Option<u64>,
    /// The new table: its file is there, and no manifest that names it.
    unpublished: Option<u64>,
    writer: Option<TableWriter>,
}

impl Gathering {
    /// The table that the error is about, if it is about reading one.
    pub(super) fn unreadable(&self, error: &StorageError) -> Option<u64> {
        let (StorageError::Corrupt { file, .. } | StorageError::Disk { file, .. }) = error else {
            return None;
        };
        let mut tables = self.ranges.iter().map(|range| &range.table);
        tables
            .find(|table| table.path() == file)
            .map(|table| table.id())
    }

    /// Copies as far as one read reaches; says whether there is more.
    async fn copy(&mut self, writer: &mut TableWriter) -> Result<bool, StorageError> {
        let Some(range) = self.ranges.get(self.at) else {
            return Ok(false);
        };
        let part = range.part();
        let end = part.position + part.bytes;
        let position = self.position.unwrap_or(part.position);
        let cursor = self
            .cursor
            .get_or_insert_with(|| TableCursor::new(&range.table));
        let next = copy_some(cursor, self.copied, position..end, writer).await?;
        assert!(next > position && next <= end, "a copy that goes nowhere");
        self.position = (next < end).then_some(next);
        if next == end {
            self.at += 1;
            self.cursor = None;
        }
        Ok(true)
    }
}

impl Lane {
    /// Begins with the partition that has the most to gain next.
    pub(super) fn begin_gathering(&self) -> Option<Gathering> {
        let mut state = self.state.borrow_mut();
        if state.merges_rest(now()) {
            return None;
        }
        let budget = state.merge_budget();
        while let Some(key) = state.tables.gathering_due() {
            if budget < state.config.gathered_table_bytes {
                return None;
            }
            let Some(gathering) = state.gathering(key) else {
                state.tables.nothing_to_gather(key);
                continue;
            };
            // All is there twice at the end, and the WAL must not starve for it.
            let needed = gathering.bytes + 2 * state.config.wal_file_bytes;
            let enough = || disk::free_bytes(&self.dir).is_ok_and(|free| free > needed);
            return (gathering.bytes <= budget && enough()).then_some(gathering);
        }
        None
    }

    /// Goes on by one step; says whether there is more to do. After an error the gathering must be
    /// given up.
    pub(super) async fn gather_step(
        &self,
        gathering: &mut Gathering,
    ) -> Result<bool, StorageError> {
        let Some(mut writer) = gathering.writer.take() else {
            let id = self.take_table_id();
            gathering.unpublished = Some(id);
            let config = self.state.borrow().config.clone();
            let bytes = gathering.bytes;
            let created = TableWriter::create(&self.dir, self.nonce, id, bytes, &config).await;
            gathering.writer = Some(created?);
            return Ok(true);
        };
        if gathering.copy(&mut writer).await? {
            gathering.writer = Some(writer);
            return Ok(true);
        }
        self.end_gathering(gathering, writer).await?;
        Ok(false)
    }

    /// Gives up, and removes what was written.
    pub(super) async fn abandon_gathering(&self, gathering: Gathering) {
        self.abandon_tables(gathering.unpublished.as_slice()).await;
        let mut state = self.state.borrow_mut();
        state.merge_after = Some(now() + state.config.no_space_retry);
    }

    async fn end_gathering(
        &self,
        gathering: &mut Gathering,
        writer: TableWriter,
    ) -> Result<(), StorageError> {
        let file_bytes = writer.finish().await?;
        let Copied { key, .. } = gathering.copied;
        let id = gathering.unpublished.take().expect("the table was begun");
        if !self.is_same(key, gathering.created_sequence) {
            self.abandon_tables(&[id]).await;
            return Ok(());
        }
        let replacement = Replacement {
            key,
            created_sequence: gathering.created_sequence,
            ranges: &gathering.ranges,
            // It is not gathered again, however little the log start leaves of it.
            merges: MERGES_MAX,
            settled: None,
            drops_batches: false,
        };
        self.publish_replacement(&replacement, id, file_bytes)
            .await?;
        let mut state = self.state.borrow_mut();
        state.stats.merges += 1;
        state.stats.merged_bytes += file_bytes;
        Ok(())
    }
}

impl State {
    /// The oldest ranges of the partition that make a large table; `None` if no adjacent ones do. Those of a compacted
    /// partition are joined when it is cleaned.
    fn gathering(&self, key: PartitionKey) -> Option<Gathering> {
        let partition = self.partition(key).filter(|known| !known.keyed)?;
        let large = self.config.gathered_table_bytes;
        let (mut first, mut bytes) = (0, 0);
        for (at, range) in partition.ranges.iter().enumerate() {
            let part = range.part();
            let live = self.tables.get(range.table.id())?;
            let gathered = live.merges >= MERGES_MAX && live.table.footer.parts.len() == 1;
            if gathered || live.unreadable || part.bytes >= large {
                (first, bytes) = (at + 1, 0);
                continue;
            }
            bytes += part.bytes;
            if bytes >= large {
                let ranges = partition.ranges.get(first..=at)?.to_vec();
                return Some(Gathering {
                    created_sequence: partition.created_sequence,
                    copied: Copied {
                        key,
                        log_start: partition.log_start,
                        keyed: false,
                    },
                    ranges,
                    bytes,
                    at: 0,
                    cursor: None,
                    position: None,
                    unpublished: None,
                    writer: None,
                });
            }
        }
        None
    }
}
