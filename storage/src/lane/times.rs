//! Looks up records by their time: the first one at or after a timestamp, and the latest one.
//!
//! The index of a table says where to look: a bound on the timestamps of each stride. Which record it is, and
//! whether there is one at all, only the records tell: cleaning leaves batches without some of theirs, a log start
//! may lie within a batch, and a producer may claim a timestamp that no record has.

use std::ops::Range;

use streambus_proto::ids::{LeaderEpoch, Offset};
use streambus_proto::records::{
    BatchView, Codec, DecompressLimits, OffsetAndTimestamp, Progress, RecordsError, TimestampSearch,
};
use streambus_shards::{Buf, yield_if_needed};

use super::Lane;
use crate::batch::BatchInfo;
use crate::error::StorageError;
use crate::key::PartitionKey;
use crate::memtable::MemBatch;
use crate::partition::{Partition, TableRange};

/// Batches in memory that are looked at before others get the core: some 50 us.
pub(super) const BATCHES_AT_ONCE: usize = 8_192;

/// A record that was looked up by its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimestampHit {
    /// Its offset.
    pub offset: Offset,
    /// Its timestamp, ms.
    pub timestamp: i64,
    /// Epoch of the leader that appended it.
    pub leader_epoch: LeaderEpoch,
}

/// A batch whose header claims a record that is late enough.
#[derive(Debug, Clone)]
pub(super) struct BatchHit {
    pub(super) base_offset: Offset,
    /// Offset after the batch.
    pub(super) next_offset: Offset,
    pub(super) batch: Buf,
}

impl Lane {
    /// The first record from the log start on and before `upto`, which is at or below the high watermark, whose
    /// timestamp is `timestamp` or later.
    ///
    /// # Errors
    /// [`StorageError::UnknownPartition`]; [`StorageError::Undecodable`] when a batch that may hold the record
    /// cannot be decompressed; when the disk fails or is damaged.
    pub async fn offset_for_timestamp(
        &self,
        key: PartitionKey,
        timestamp: i64,
        upto: Offset,
    ) -> Result<Option<TimestampHit>, StorageError> {
        let mut from = Offset(0);
        while let Some(hit) = self.batch_at_or_after(key, from, timestamp).await? {
            if hit.base_offset >= upto {
                break;
            }
            // It may have moved while the disk was read.
            let log_start = || {
                let known = self.log_start(key);
                known.ok_or(StorageError::UnknownPartition(key))
            };
            let found = self.first_record(&hit, log_start()?, timestamp).await;
            let found = found.map_err(|source| StorageError::Undecodable {
                partition: key,
                offset: hit.base_offset,
                source,
            })?;
            if let Some(found) = found
                && found.offset < log_start()?
            {
                // It moved while the batch was decompressed.
                continue;
            }
            if found.is_some() {
                return Ok(found.filter(|found| found.offset < upto));
            }
            from = hit.next_offset;
            yield_if_needed().await;
        }
        Ok(None)
    }

    /// The first of the records from the log start on and before `upto` with the largest timestamp of them all;
    /// `None` if they have none.
    ///
    /// # Errors
    /// As [`Lane::offset_for_timestamp`].
    pub async fn offset_of_max_timestamp(
        &self,
        key: PartitionKey,
        upto: Offset,
    ) -> Result<Option<TimestampHit>, StorageError> {
        // Whether there is a record at or after a timestamp is a question with one turning point: it lies above
        // the last yes and at or below the last no. The bound is nearly always the answer itself.
        let (mut low, mut high) = (0, self.max_timestamp_bound(key, upto));
        let mut sought = high;
        let mut latest = None;
        while low <= high {
            match self.offset_for_timestamp(key, sought, upto).await? {
                Some(hit) => {
                    latest = Some(hit);
                    // Nothing is later. The bound may be the largest number that there is: no number lies above it.
                    if hit.timestamp >= high {
                        break;
                    }
                    low = hit.timestamp + 1;
                }
                None => high = sought - 1,
            }
            sought = low.midpoint(high);
        }
        Ok(latest)
    }

    /// No record before `upto` has a larger timestamp; negative if none has any.
    fn max_timestamp_bound(&self, key: PartitionKey, upto: Offset) -> i64 {
        let state = self.state.borrow();
        let Some(partition) = state.partition(key) else {
            return -1;
        };
        let ranges = partition.ranges.iter();
        let tables = ranges.map(|range| range.part().max_timestamp);
        let memory = partition.mem.max_timestamps_before(upto);
        tables.chain(memory).max().unwrap_or(-1)
    }

    /// The first batch that ends behind `from` and the log start and claims a record at or after `timestamp`.
    pub(super) async fn batch_at_or_after(
        &self,
        key: PartitionKey,
        mut from: Offset,
        timestamp: i64,
    ) -> Result<Option<BatchHit>, StorageError> {
        // What is appended meanwhile is not sought: the search would follow it without end.
        let end = self.log_end(key);
        let end = end.ok_or(StorageError::UnknownPartition(key))?;
        loop {
            yield_if_needed().await;
            let range = {
                let state = self.state.borrow();
                let partition = state.partition(key);
                let partition = partition.ok_or(StorageError::UnknownPartition(key))?;
                // It may have moved while a table was read.
                from = from.max(partition.log_start);
                let after = partition.ranges.iter().filter(|range| range.end > from);
                let mut late = after.filter(|range| range.part().max_timestamp >= timestamp);
                match late.next() {
                    Some(range) if !partition.mem.reaches(from.max(range.start)) => range.clone(),
                    Some(range) => {
                        let found = hit_in_kept(partition, range, from, timestamp);
                        if found.is_some() {
                            return Ok(found);
                        }
                        from = range.end;
                        continue;
                    }
                    None => {
                        let flushed_end = partition.ranges.last().map_or(from, |range| range.end);
                        let unflushed = from.max(flushed_end)..end.min(partition.log_end);
                        let batches = batches_within(partition, unflushed);
                        let mut last = None;
                        for batch in batches.take(BATCHES_AT_ONCE) {
                            if batch.max_timestamp >= timestamp {
                                return Ok(Some(BatchHit::from(batch)));
                            }
                            last = Some(batch.last_offset);
                        }
                        let Some(last) = last else {
                            return Ok(None);
                        };
                        from = last.next();
                        continue;
                    }
                }
            };
            let found = self.hit_in_table(&range, from, timestamp).await;
            let found = found.inspect_err(|error| self.note_error(error))?;
            if found.is_some() {
                return Ok(found);
            }
            from = range.end;
        }
    }

    /// The record of the batch at or behind `from`, if there is one: decompressed in steps, one batch of the lane
    /// at a time, so that the memory for it is bounded.
    async fn first_record(
        &self,
        hit: &BatchHit,
        from: Offset,
        timestamp: i64,
    ) -> Result<Option<TimestampHit>, RecordsError> {
        let (batch, _) = BatchView::split_first(&hit.batch)?;
        let turn = (batch.codec()? != Codec::None).then(|| self.decompressions.join());
        if let Some(turn) = &turn {
            turn.first().await;
        }
        let limits = DecompressLimits::default();
        let mut search = TimestampSearch::new(&batch, from, timestamp, limits)?;
        while search.step()? == Progress::More {
            yield_if_needed().await;
        }
        let of_log = |found: OffsetAndTimestamp| TimestampHit {
            offset: found.offset,
            timestamp: found.timestamp,
            leader_epoch: batch.partition_leader_epoch(),
        };
        Ok(search.found().map(of_log))
    }

    async fn hit_in_table(
        &self,
        range: &TableRange,
        from: Offset,
        timestamp: i64,
    ) -> Result<Option<BatchHit>, StorageError> {
        let part = range.part();
        let (first, _) = part.index_before(from);
        for (at, entry) in part.index.iter().enumerate().skip(first) {
            if entry.max_timestamp < timestamp {
                continue;
            }
            let stride = entry.position..part.stride_end(at);
            let bytes = self.cache.fetch(&range.table, stride).await?;
            self.cache.used(&range.table, entry.position);
            let mut position = 0;
            while let Some(info) = bytes.get(position..).and_then(BatchInfo::read) {
                let end = (position + info.bytes).min(bytes.len());
                let late = info.record_count > 0 && info.max_timestamp >= timestamp;
                if late && info.last_offset >= from {
                    return Ok(Some(BatchHit {
                        base_offset: info.base_offset,
                        next_offset: info.next_offset(),
                        batch: bytes.slice(position..end),
                    }));
                }
                position = end;
            }
        }
        Ok(None)
    }
}

/// The hit in a range that is in memory, too: its index says where to look.
fn hit_in_kept(
    partition: &Partition,
    range: &TableRange,
    from: Offset,
    timestamp: i64,
) -> Option<BatchHit> {
    let part = range.part();
    let (first, _) = part.index_before(from);
    let entries = part.index.iter().enumerate().skip(first);
    let mut late = entries.filter(|(_, entry)| entry.max_timestamp >= timestamp);
    late.find_map(|(at, entry)| {
        let next = part.index.get(at + 1);
        let end = next.map_or(range.end, |next| next.offset);
        memory_hit(partition, from.max(entry.offset)..end, timestamp)
    })
}

/// Of one stride of an index, which bounds how many there are.
fn memory_hit(partition: &Partition, offsets: Range<Offset>, timestamp: i64) -> Option<BatchHit> {
    let mut batches = batches_within(partition, offsets);
    let batch = batches.find(|batch| batch.max_timestamp >= timestamp)?;
    Some(BatchHit::from(batch))
}

/// Batches in memory that begin within these offsets, and the one that the first of them lies in.
fn batches_within(
    partition: &Partition,
    offsets: Range<Offset>,
) -> impl Iterator<Item = &MemBatch> {
    let batches = partition.mem.batches_from(offsets.start);
    batches.take_while(move |batch| batch.base_offset < offsets.end)
}

impl From<&MemBatch> for BatchHit {
    fn from(batch: &MemBatch) -> BatchHit {
        BatchHit {
            base_offset: batch.base_offset,
            next_offset: batch.last_offset.next(),
            batch: batch.bytes.clone(),
        }
    }
}
