//! Looks up the newest record of a key: in memory, then in tables from the newest one on.
//!
//! The filters of a table say whether to read it at all and which segments of it: see
//! `table/filter.rs`. What is in memory has no filter and is unfolded batch by batch, so a look-up
//! costs the more the more of its partition is not flushed yet: at most a few memtables' worth.

use streambus_proto::ids::Offset;
use streambus_proto::records::{BatchView, RecordsError};
use streambus_shards::{Buf, yield_if_needed};

use super::Lane;
use crate::batch::BatchInfo;
use crate::clean::records_in_steps;
use crate::error::StorageError;
use crate::key::PartitionKey;
use crate::key_hash::KeyHash;
use crate::memtable::MemBatch;
use crate::partition::TableRange;
use crate::table::filter::FilterKey;

/// The newest record of a key.
#[derive(Debug, Clone)]
pub struct KeyHit {
    /// Its offset.
    pub offset: Offset,
    /// Its timestamp, ms.
    pub timestamp: i64,
    /// Its value; `None` for a tombstone: the key was deleted.
    pub value: Option<Vec<u8>>,
    /// The batch that it is in, which tells its headers, its producer and its transaction.
    pub batch: Buf,
}

/// What is asked for.
struct Lookup<'a> {
    partition: PartitionKey,
    record_key: &'a [u8],
    from: Offset,
    upto: Offset,
    scratch: Vec<u8>,
}

impl Lane {
    /// The newest record with this key before `upto`, which is at or below the high watermark.
    ///
    /// Records of aborted transactions are found as others are, until they are cleaned away: a
    /// caller that does not want one asks again for what lies before it.
    ///
    /// # Errors
    /// [`StorageError::UnknownPartition`]; [`StorageError::Undecodable`] when a batch that may hold
    /// the key cannot be decompressed; when the disk fails or is damaged.
    pub async fn latest_by_key(
        &self,
        key: PartitionKey,
        record_key: &[u8],
        upto: Offset,
    ) -> Result<Option<KeyHit>, StorageError> {
        let (mut lookup, memory, ranges) = self.begin_lookup(key, record_key, upto)?;
        for batch in memory.iter().rev() {
            if let Some(hit) = lookup.newest_in_batch(&batch.bytes).await? {
                return Ok(Some(hit));
            }
            yield_if_needed().await;
        }
        let filter_key = FilterKey::new(KeyHash::new(self.nonce).of(record_key));
        for range in ranges.iter().rev() {
            if let Some(hit) = self.newest_in_range(range, filter_key, &mut lookup).await? {
                return Ok(Some(hit));
            }
        }
        Ok(None)
    }

    /// What there is to look at, as of now: tables stay readable while somebody holds them.
    fn begin_lookup<'a>(
        &self,
        key: PartitionKey,
        record_key: &'a [u8],
        upto: Offset,
    ) -> Result<(Lookup<'a>, Vec<MemBatch>, Vec<TableRange>), StorageError> {
        let mut state = self.state.borrow_mut();
        state.stats.key_lookups += 1;
        let partition = state.partition(key);
        let partition = partition.ok_or(StorageError::UnknownPartition(key))?;
        let from = partition.log_start;
        let before = |batch: &&MemBatch| batch.base_offset < upto;
        let memory = partition.mem.iter().take_while(before).cloned();
        let ranges = partition.ranges.iter().filter(|range| range.start < upto);
        let lookup = Lookup {
            partition: key,
            record_key,
            from,
            upto,
            scratch: Vec::new(),
        };
        Ok((lookup, memory.collect(), ranges.cloned().collect()))
    }

    async fn newest_in_range(
        &self,
        range: &TableRange,
        key: FilterKey,
        lookup: &mut Lookup<'_>,
    ) -> Result<Option<KeyHit>, StorageError> {
        let segments = self.segments_with(range, key).await?;
        let mut hit = None;
        for segment in &segments {
            let segment = range.part().segment_range(*segment);
            let start = segment.start;
            let bytes = self.cache.fetch(&range.table, segment).await?;
            self.cache.used(&range.table, start);
            hit = lookup.newest_in_segment(&bytes).await?;
            if hit.is_some() {
                break;
            }
        }
        let mut state = self.state.borrow_mut();
        state.stats.key_tables_asked += 1;
        state.stats.key_tables_read += u64::from(!segments.is_empty());
        let in_vain = hit.is_none() && !segments.is_empty();
        state.stats.key_tables_read_in_vain += u64::from(in_vain);
        Ok(hit)
    }

    /// The segments of a range that may hold the key, the last one first.
    async fn segments_with(
        &self,
        range: &TableRange,
        key: FilterKey,
    ) -> Result<Vec<u32>, StorageError> {
        let part = range.part();
        let mut found = Vec::new();
        let mut end = part.segments();
        for filter in part.filters.iter().rev() {
            // What lies behind a filter and before the next one is in none.
            found.extend((filter.first_segment + filter.segments..end).rev());
            let page = filter.page_range(key);
            let start = page.start;
            let page = self.cache.fetch(&range.table, page).await?;
            self.cache.used(&range.table, start);
            found.extend(filter.segments_with(key, &page));
            end = filter.first_segment;
        }
        found.extend((0..end).rev());
        Ok(found)
    }
}

impl Lookup<'_> {
    /// Looks through the batches of a segment, the last one first.
    async fn newest_in_segment(&mut self, bytes: &Buf) -> Result<Option<KeyHit>, StorageError> {
        let mut batches = Vec::new();
        let mut at = 0;
        while let Some(info) = bytes.get(at..).and_then(BatchInfo::read) {
            let end = (at + info.bytes).min(bytes.len());
            let wanted = info.last_offset >= self.from && info.base_offset < self.upto;
            if wanted {
                batches.push(at..end);
            }
            at = end;
        }
        for batch in batches.into_iter().rev() {
            if let Some(hit) = self.newest_in_batch(&bytes.slice(batch)).await? {
                return Ok(Some(hit));
            }
            yield_if_needed().await;
        }
        Ok(None)
    }

    async fn newest_in_batch(&mut self, bytes: &Buf) -> Result<Option<KeyHit>, StorageError> {
        let mut scratch = std::mem::take(&mut self.scratch);
        let found = self.newest_record(bytes, &mut scratch).await;
        self.scratch = scratch;
        found.map_err(|source| StorageError::Undecodable {
            partition: self.partition,
            offset: BatchInfo::read(bytes).map_or(self.from, |info| info.base_offset),
            source,
        })
    }

    async fn newest_record(
        &self,
        bytes: &Buf,
        scratch: &mut Vec<u8>,
    ) -> Result<Option<KeyHit>, RecordsError> {
        let (batch, _) = BatchView::split_first(bytes)?;
        if batch.attributes().is_control() {
            return Ok(None);
        }
        let mut newest = None;
        for record in records_in_steps(&batch, scratch).await? {
            let record = record?;
            let inside = record.offset >= self.from && record.offset < self.upto;
            if inside && record.key == Some(self.record_key) {
                newest = Some(record);
            }
        }
        Ok(newest.map(|record| KeyHit {
            offset: record.offset,
            timestamp: record.timestamp,
            value: record.value.map(<[u8]>::to_vec),
            batch: bytes.clone(),
        }))
    }
}
