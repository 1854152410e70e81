//! Reads: from memory at once, from tables with verified reads.

use std::ops::Range;
use std::rc::Rc;

use streambus_proto::ids::Offset;
use streambus_shards::Buf;

use super::Lane;
use super::state::State;
use crate::error::StorageError;
use crate::key::PartitionKey;
use crate::partition::{Partition, TableRange};
use crate::table::reader::{PickError, Table, TableRead, Wanted};

/// Whole batches of one partition, in order.
///
/// The slices keep the memory alive that they lie in (see `Buf::backing_capacity`): whoever holds
/// them for long counts that, not their length.
#[derive(Debug, Clone, Default)]
pub struct Batches {
    /// Their bytes, to be sent one after the other as they are.
    pub bufs: Vec<Buf>,
    /// Bytes in `bufs`.
    pub bytes: usize,
    /// Offset after the last batch; what was asked for, when there is none.
    pub next_offset: Offset,
}

impl Batches {
    fn none_at(offset: Offset) -> Batches {
        Batches {
            bufs: Vec::new(),
            bytes: 0,
            next_offset: offset,
        }
    }

    fn push(&mut self, bytes: Buf, next_offset: Offset) {
        assert!(next_offset > self.next_offset, "a read that goes back");
        self.bytes += bytes.len();
        self.bufs.push(bytes);
        self.next_offset = next_offset;
    }

    /// Adds batches from memory up to `upto` and `max_bytes`, but the first one of all always.
    fn push_from_memory(&mut self, partition: &Partition, max_bytes: usize, upto: Offset) {
        for batch in partition.mem.batches_from(self.next_offset) {
            let next = Offset(batch.last_offset.0 + 1);
            let too_much = self.bytes > 0 && self.bytes + batch.bytes.len() > max_bytes;
            if next > upto || too_much {
                break;
            }
            self.push(batch.bytes.clone(), next);
        }
    }
}

/// How a read goes on.
pub enum ReadPlan {
    /// It was all in memory.
    Ready(Batches),
    /// It needs the disk.
    Cold(ColdRead),
}

/// A read that needs the disk.
pub struct ColdRead {
    lane: Rc<Lane>,
    key: PartitionKey,
    from: Offset,
    max_bytes: usize,
    upto: Offset,
}

/// Where the next bytes of a read are.
enum Source {
    Table { range: TableRange },
    Memory,
}

impl Lane {
    /// Reads whole batches from the one that holds `from` (or the first after it) on: at most
    /// `max_bytes`, but always one batch, and only batches that end at or before `upto`.
    ///
    /// # Errors
    /// [`StorageError::UnknownPartition`], or [`StorageError::OffsetOutOfRange`] when `from` is
    /// not between log start and log end.
    pub fn read(
        self: &Rc<Lane>,
        key: PartitionKey,
        from: Offset,
        max_bytes: usize,
        upto: Offset,
    ) -> Result<ReadPlan, StorageError> {
        let state = self.state.borrow();
        let partition = state.readable(key, from)?;
        let mut batches = Batches::none_at(from);
        if from >= upto {
            return Ok(ReadPlan::Ready(batches));
        }
        if !partition.mem.reaches(from) && partition.range_at(from).is_some() {
            let lane = Rc::clone(self);
            return Ok(ReadPlan::Cold(ColdRead {
                lane,
                key,
                from,
                max_bytes,
                upto,
            }));
        }
        batches.push_from_memory(partition, max_bytes, upto);
        Ok(ReadPlan::Ready(batches))
    }
}

impl Lane {
    /// Bytes of the batches in memory from `from` up to `upto`, each a place where a batch begins or ends: what has
    /// just become durable is in memory. Zero for a partition that is gone.
    pub fn bytes_between(&self, key: PartitionKey, from: Offset, upto: Offset) -> usize {
        let state = self.state.borrow();
        let Some(partition) = state.partition(key) else {
            return 0;
        };
        let batches = partition.mem.batches_from(from);
        let inside = batches.take_while(|batch| batch.base_offset < upto);
        inside.map(|batch| batch.bytes.len()).sum()
    }
}

impl ColdRead {
    /// Reads.
    ///
    /// # Errors
    /// When the partition is gone, the disk fails, or what it holds does not verify: damaged
    /// bytes are never returned.
    pub async fn read(self) -> Result<Batches, StorageError> {
        let read = self.read_batches().await;
        read.inspect_err(|error| self.lane.note_error(error))
    }

    async fn read_batches(&self) -> Result<Batches, StorageError> {
        let mut batches = Batches::none_at(self.from);
        loop {
            let next = batches.next_offset;
            let source = match self.source(next) {
                Ok(source) => source,
                // The log start passed what was read already: that is still an answer.
                Err(_) if batches.bytes > 0 => return Ok(batches),
                Err(error) => return Err(error),
            };
            let Source::Table { range } = source else {
                let state = self.lane.state.borrow();
                if let Some(partition) = state.partition(self.key) {
                    batches.push_from_memory(partition, self.max_bytes, self.upto);
                }
                return Ok(batches);
            };
            let left = self.max_bytes.saturating_sub(batches.bytes);
            let wanted = Wanted {
                from: next,
                upto: self.upto,
                max_bytes: left,
            };
            let Some(read) = self.read_range(&range, wanted).await? else {
                return Ok(batches);
            };
            if batches.bytes > 0 && read.bytes.len() > left {
                return Ok(batches); // One batch that is too much: it begins the next read.
            }
            let part = range.part();
            let whole = part.position..part.position + part.bytes;
            self.lane.cache.note(&range.table, &whole, &read.range);
            let whole_range = read.next_offset >= range.end;
            batches.push(unpinned(read.bytes), read.next_offset);
            if !whole_range || batches.bytes >= self.max_bytes || batches.next_offset >= self.upto {
                return Ok(batches);
            }
        }
    }

    fn source(&self, offset: Offset) -> Result<Source, StorageError> {
        let state = self.lane.state.borrow();
        let partition = state.readable(self.key, offset)?;
        if partition.mem.reaches(offset) {
            return Ok(Source::Memory);
        }
        let range = partition.range_at(offset).cloned();
        Ok(range.map_or(Source::Memory, |range| Source::Table { range }))
    }

    async fn read_range(
        &self,
        range: &TableRange,
        wanted: Wanted,
    ) -> Result<Option<TableRead>, StorageError> {
        let (table, part) = (&range.table, range.part());
        let mut span = table.range_for(part, wanted);
        loop {
            let bytes = self.lane.cache.fetch(table, span.clone()).await?;
            match Table::pick(part, &bytes, span.start, wanted) {
                Ok(Some(read)) => return Ok(Some(read)),
                Ok(None) => return Ok(None),
                Err(PickError::Cut(further)) => span = further_span(&span, further),
                Err(PickError::NoBatch { position }) => {
                    let what = "no batch where one begins";
                    return Err(StorageError::corrupt(table.path(), position, what));
                }
            }
        }
    }
}

/// Bytes that keep little memory besides their own: copied if they are less than three quarters of what they lie in. An
/// answer of many small batches would else hold a whole block of 64 KiB for each, long after the cache has given
/// that up.
fn unpinned(bytes: Buf) -> Buf {
    if bytes.len() + bytes.len() / 3 < bytes.backing_capacity() {
        Buf::from(bytes.to_vec())
    } else {
        bytes
    }
}

/// The span to read instead of `span`, which did not reach far enough.
fn further_span(span: &Range<u64>, further: Range<u64>) -> Range<u64> {
    let progress = further.start > span.start || further.end > span.end;
    assert!(progress, "a read that would be repeated as it was");
    further
}

impl State {
    /// The partition, if `offset` is one that it can be read from.
    fn readable(&self, key: PartitionKey, offset: Offset) -> Result<&Partition, StorageError> {
        let partition = self
            .partition(key)
            .ok_or(StorageError::UnknownPartition(key))?;
        let Partition {
            log_start, log_end, ..
        } = *partition;
        if offset < log_start || offset > log_end {
            return Err(StorageError::OffsetOutOfRange {
                offset,
                log_start,
                log_end,
            });
        }
        Ok(partition)
    }
}
