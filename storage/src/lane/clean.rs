//! Cleans partitions: reads what is new in one, then writes its ranges again without what newer
//! records replaced.
//!
//! The ranges are written group by group into tables of their own, and each group is published as
//! a merge is: the manifest names the new table and which parts of the old ones it replaces, so
//! that a crash leaves the old ranges or the new one. A partition that was dropped or begun anew
//! meanwhile is left alone. What is in memory is not cleaned: as in Kafka, where the active
//! segment is not.

use streambus_proto::ids::Offset;
use streambus_shards::{Buf, Instant, now};

use super::Lane;
use super::replace::Replacement;
use crate::batch::BatchInfo;
use crate::clean::{CleanPolicy, Dirt, Passed, Remains, Survey, Undecided};
use crate::error::StorageError;
use crate::key::PartitionKey;
use crate::key_hash::KeyHash;
use crate::memtable::MemBatch;
use crate::partition::{Partition, TableRange};
use crate::table::cursor::TableCursor;
use crate::table::writer::TableWriter;

/// Ranges are cleaned together until they are this large: that much space a cleaning takes at a
/// time, beside what it will give back.
const GROUP_BYTES: u64 = 256 << 20;
/// Partitions that may wait for their cleaning. Whoever finds no place asks again.
const WAITING_MAX: usize = 1_024;

/// A partition that is to be cleaned.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CleanRequest {
    key: PartitionKey,
    policy: CleanPolicy,
    upto: Offset,
    /// The time by the owner's clock when it was asked for, and the moment that this was.
    now_ms: i64,
    asked: Instant,
}

/// A range to be cleaned.
struct Source {
    cursor: TableCursor,
    range: TableRange,
}

/// A cleaning under way.
pub(super) struct Cleaning {
    request: CleanRequest,
    /// Tells this partition from a later one of the same name.
    created_sequence: u64,
    /// Bytes that the survey reads.
    dirty_bytes: u64,
    survey: Survey,
    passed: Passed,
    surveyed: bool,
    sources: Vec<Source>,
    /// The source that is read, and where in it; its front when `None`.
    at: usize,
    position: Option<u64>,
    group: Option<Group>,
    scratch: Vec<u8>,
}

/// Sources that become one range.
struct Group {
    id: u64,
    writer: TableWriter,
    first: usize,
    /// The number after its last source.
    end: usize,
    /// Bytes of batches read, and how many of them remained.
    read_bytes: u64,
    kept_bytes: u64,
    changed: bool,
}

impl Lane {
    /// Has the partition compacted by key, in the background, if its settings say that it is due;
    /// returns whether it waits for that now. Nothing from `upto` on is touched, nor what is only in
    /// memory; but what has been in memory for longer than the longest lag is flushed, for the next time.
    ///
    /// What is asked for last counts. Whoever is refused though it is due, because too many others
    /// wait, asks again.
    ///
    /// `upto` must be at or below the last stable offset: what is decided may be replaced.
    pub fn clean(&self, key: PartitionKey, policy: CleanPolicy, upto: Offset, now_ms: i64) -> bool {
        let mut state = self.state.borrow_mut();
        let Some(partition) = state.partition_mut(key) else {
            return false;
        };
        partition.keyed = true;
        let request = CleanRequest {
            key,
            policy,
            upto: upto.min(partition.durable_end),
            now_ms,
            asked: now(),
        };
        let due = request.is_due(partition);
        let overdue = !due && request.is_overdue_in_memory(partition);
        if overdue && state.frozen.is_empty() {
            state.freeze_wanted = true;
            self.wal_wake.notify_one();
        }
        if let Some(waiting) = state.cleans.iter_mut().find(|waiting| waiting.key == key) {
            *waiting = request;
            return due;
        }
        let waits = due && state.cleans.len() < WAITING_MAX;
        if waits {
            state.cleans.push_back(request);
            drop(state);
            self.keeper_wake.notify_one();
        }
        waits
    }

    /// The partition is not to be compacted any more: if it waits for that, it does no longer. A
    /// cleaning that has begun goes on.
    pub fn clean_no_more(&self, key: PartitionKey) {
        let mut state = self.state.borrow_mut();
        // Most partitions never were: they are not to look through those that wait.
        if state.partition(key).is_some_and(|known| known.keyed) {
            state.cleans.retain(|waiting| waiting.key != key);
        }
    }

    /// Up to where the partition was compacted; what lies before has no two records of a key, but
    /// for what had to be left.
    pub fn cleaned_end(&self, key: PartitionKey) -> Option<Offset> {
        Some(self.state.borrow().partition(key)?.cleaned_end)
    }

    /// Begins with the next partition that waits.
    pub(super) fn begin_cleaning(&self) -> Option<Cleaning> {
        let mut state = self.state.borrow_mut();
        while let Some(request) = state.cleans.pop_front() {
            let request = request.as_of_now();
            let Some(partition) = state.partition(request.key) else {
                continue;
            };
            let readable = |range: &TableRange| {
                let live = state.tables.get(range.table.id());
                live.is_some_and(|live| !live.unreadable)
            };
            let ranges = request.cleanable(partition);
            if !request.is_due(partition) || !ranges.iter().all(readable) {
                continue;
            }
            let sources = ranges.iter().map(|range| Source {
                cursor: TableCursor::new(&range.table),
                range: range.clone(),
            });
            let start = partition.dirty_start();
            let hash = KeyHash::new(self.nonce);
            return Some(Cleaning {
                dirty_bytes: request.dirt(partition).dirty_bytes,
                request,
                created_sequence: partition.created_sequence,
                survey: Survey::new(hash, state.config.clean_keys_max, start),
                passed: Passed::default(),
                surveyed: false,
                sources: sources.collect(),
                at: 0,
                position: None,
                group: None,
                scratch: Vec::new(),
            });
        }
        None
    }

    /// Goes on by one step; says whether there is more to do. After an error the cleaning must be
    /// given up.
    pub(super) async fn clean_step(&self, cleaning: &mut Cleaning) -> Result<bool, StorageError> {
        if !cleaning.surveyed {
            cleaning.survey_step(self).await?;
            if cleaning.surveyed && cleaning.sources.is_empty() {
                self.note_undecided(cleaning);
            }
            return Ok(true);
        }
        if cleaning.group.is_none() {
            if cleaning.at == cleaning.sources.len() || !self.is_there(cleaning) {
                return Ok(false);
            }
            cleaning.group = Some(self.begin_group(cleaning).await?);
        }
        if cleaning.rewrite_step(self).await? {
            let group = cleaning.group.take().expect("it was just rewritten");
            self.end_group(cleaning, group).await?;
        }
        Ok(true)
    }

    /// Gives up; what was published stays, what was not is removed.
    pub(super) async fn abandon_cleaning(&self, cleaning: Cleaning) {
        if let Some(group) = cleaning.group {
            self.abandon_tables(&[group.id]).await;
        }
    }

    /// Remembers that the survey was in vain, so that it is not repeated over the same bytes.
    fn note_undecided(&self, cleaning: &Cleaning) {
        let mut state = self.state.borrow_mut();
        let partition = state.partition_mut(cleaning.request.key);
        let same = partition.filter(|known| known.created_sequence == cleaning.created_sequence);
        if let Some(partition) = same {
            partition.undecided = Some(Undecided {
                start: cleaning.survey.start(),
                bytes: cleaning.dirty_bytes,
                when: now(),
            });
        }
    }

    fn is_there(&self, cleaning: &Cleaning) -> bool {
        self.is_same(cleaning.request.key, cleaning.created_sequence)
    }

    async fn begin_group(&self, cleaning: &Cleaning) -> Result<Group, StorageError> {
        let (first, mut end, mut bytes) = (cleaning.at, cleaning.at, 0);
        for source in cleaning.sources.iter().skip(first) {
            let more = source.range.part().bytes;
            if end > first && bytes + more > GROUP_BYTES {
                break;
            }
            (end, bytes) = (end + 1, bytes + more);
        }
        let id = self.take_table_id();
        let config = self.state.borrow().config.clone();
        let created = TableWriter::create(&self.dir, self.nonce, id, bytes, &config).await;
        if created.is_err() {
            self.abandon_tables(&[id]).await;
        }
        Ok(Group {
            id,
            writer: created?,
            first,
            end,
            read_bytes: 0,
            kept_bytes: 0,
            changed: false,
        })
    }

    /// Publishes the group, if anything went; notes how far the partition is clean after the last.
    async fn end_group(&self, cleaning: &Cleaning, group: Group) -> Result<(), StorageError> {
        let Group { id, changed, .. } = group;
        let last = group.end == cleaning.sources.len();
        let settled = last.then(|| cleaning.survey.settled_end());
        if changed && self.is_there(cleaning) {
            let removed = group.read_bytes - group.kept_bytes.min(group.read_bytes);
            let sources = cleaning.sources.get(group.first..group.end);
            let replaced: Vec<TableRange> = sources
                .unwrap_or_default()
                .iter()
                .map(|source| source.range.clone())
                .collect();
            let finished = group.writer.finish().await;
            if finished.is_err() {
                self.abandon_tables(&[id]).await;
            }
            let file_bytes = finished?;
            let replacement = Replacement {
                key: cleaning.request.key,
                created_sequence: cleaning.created_sequence,
                ranges: &replaced,
                merges: 0,
                settled,
                // What was cleaned away must not be read in memory.
                drops_batches: true,
            };
            self.publish_replacement(&replacement, id, file_bytes)
                .await?;
            let mut state = self.state.borrow_mut();
            state.stats.cleaned_bytes += file_bytes;
            state.stats.cleaned_away_bytes += removed;
        } else {
            drop(group.writer);
            self.abandon_tables(&[id]).await;
        }
        let mut state = self.state.borrow_mut();
        if last {
            state.stats.cleanings += 1;
        }
        let partition = state.partition_mut(cleaning.request.key);
        let same = partition.filter(|known| known.created_sequence == cleaning.created_sequence);
        if let (Some(partition), Some(settled)) = (same, settled) {
            // Not durable before the next manifest: at worst it is cleaned once more.
            partition.cleaned_end = partition.cleaned_end.max(settled);
        }
        Ok(())
    }
}

impl Cleaning {
    /// How many of its ranges hold memory.
    #[cfg(test)]
    pub(super) fn windows(&self) -> usize {
        let cursors = self.sources.iter().map(|source| &source.cursor);
        cursors.filter(|cursor| cursor.has_window()).count()
    }

    /// The table of a source that the error is about, if it is about reading one.
    pub(super) fn unreadable(&self, error: &StorageError) -> Option<u64> {
        let (StorageError::Corrupt { file, .. } | StorageError::Disk { file, .. }) = error else {
            return None;
        };
        let mut tables = self.sources.iter().map(|source| &source.range.table);
        let table = tables.find(|table| table.path() == file)?;
        Some(table.id())
    }

    /// Reads on in what is new. Ends with the sources that begin before where it got to.
    async fn survey_step(&mut self, lane: &Lane) -> Result<(), StorageError> {
        let Cleaning {
            survey, sources, ..
        } = self;
        let start = survey.end();
        let Some(source) = sources.get_mut(self.at).filter(|_| !survey.is_done()) else {
            self.end_survey();
            return Ok(());
        };
        if source.range.end <= start {
            self.pass_source();
            return Ok(());
        }
        let part = source.range.part();
        let end = part.position + part.bytes;
        let (_, indexed) = part.index_before(start);
        let position = self.position.unwrap_or(indexed.position);
        let bytes = source.cursor.batches_at(&(position..end)).await?;
        let (mut at, mut since) = (0, now());
        while let Some((info, batch)) = batch_at(&bytes, at) {
            if survey.is_done() {
                self.end_survey();
                return Ok(());
            }
            if info.next_offset() > survey.end() {
                survey.take(&batch).await;
            }
            at += info.bytes;
            lane.give_way(&mut since).await;
        }
        assert!(at > 0, "a survey that goes nowhere");
        let next = position + at as u64;
        self.position = (next < end).then_some(next);
        if next == end {
            self.pass_source();
        }
        Ok(())
    }

    /// Goes on to the next source, and lets go of the memory of this one: there may be thousands.
    fn pass_source(&mut self) {
        if let Some(source) = self.sources.get_mut(self.at) {
            source.cursor.forget();
        }
        self.at += 1;
    }

    fn end_survey(&mut self) {
        let end = self.survey.end();
        let settled = self.survey.settled_end();
        let begun = self.survey.start();
        self.pass_source();
        self.sources.retain(|source| source.range.start < end);
        if settled <= begun {
            self.sources.clear(); // Nothing is decided that was not before.
        }
        (self.surveyed, self.at, self.position) = (true, 0, None);
    }

    /// Rewrites on in the group; says whether it is complete.
    async fn rewrite_step(&mut self, lane: &Lane) -> Result<bool, StorageError> {
        let group = self.group.as_mut().expect("a group was begun");
        let CleanRequest {
            key,
            policy,
            now_ms,
            ..
        } = self.request;
        let source = self.sources.get_mut(self.at);
        let source = source.expect("groups end with the sources");
        let part = source.range.part();
        let (position, end) = (
            self.position.unwrap_or(part.position),
            part.position + part.bytes,
        );
        let last_source = self.at + 1 == group.end;
        let bytes = source.cursor.batches_at(&(position..end)).await?;
        let (mut at, mut since) = (0, now());
        while let Some((info, batch)) = batch_at(&bytes, at) {
            at += info.bytes;
            let is_last = last_source && position + at as u64 == end;
            let remains = self.survey.remains(
                &batch,
                &policy,
                now_ms,
                is_last,
                &mut self.scratch,
                &mut self.passed,
            );
            let remains = remains.await;
            group.read_bytes += info.bytes as u64;
            group.changed |= remains != Remains::Whole;
            let kept = match remains {
                Remains::Whole => Some(batch),
                Remains::Part(rest) => Some(Buf::from(rest)),
                Remains::Nothing => None,
            };
            if let Some(kept) = kept {
                group.kept_bytes += kept.len() as u64;
                group.writer.push(key, &mem_batch(kept), true).await?;
            }
            lane.give_way(&mut since).await;
        }
        assert!(at > 0, "a cleaning that goes nowhere");
        let next = position + at as u64;
        self.position = (next < end).then_some(next);
        let group_end = group.end;
        if next == end {
            self.pass_source();
        }
        Ok(self.at == group_end)
    }
}

/// The whole batch that begins at `at`, if there is one.
fn batch_at(bytes: &Buf, at: usize) -> Option<(BatchInfo, Buf)> {
    let info = bytes.get(at..).and_then(BatchInfo::read)?;
    let end = at
        .checked_add(info.bytes)
        .filter(|end| *end <= bytes.len())?;
    Some((info, bytes.slice(at..end)))
}

fn mem_batch(bytes: Buf) -> MemBatch {
    let info = BatchInfo::read(&bytes).expect("a batch remains a batch");
    MemBatch {
        base_offset: info.base_offset,
        last_offset: info.last_offset,
        max_timestamp: info.max_timestamp,
        bytes,
    }
}

impl CleanRequest {
    /// The same by the time of its begin: it may have waited for hours.
    fn as_of_now(self) -> CleanRequest {
        let asked = now();
        let waited_ms = i64::try_from(asked.since(self.asked).as_millis()).unwrap_or(i64::MAX);
        CleanRequest {
            now_ms: self.now_ms.saturating_add(waited_ms),
            asked,
            ..self
        }
    }

    /// The ranges, oldest first, that may be cleaned as a whole: decided, and old enough.
    fn cleanable<'a>(&self, partition: &'a Partition) -> &'a [TableRange] {
        let youngest = self.policy.youngest(self.now_ms);
        let may = |range: &&TableRange| {
            let new = range.end > partition.cleaned_end;
            range.end <= self.upto && (!new || range.part().max_timestamp <= youngest)
        };
        let count = partition.ranges.iter().take_while(may).count();
        partition.ranges.get(..count).unwrap_or_default()
    }

    /// Whether what is only in memory should have been compacted by now.
    fn is_overdue_in_memory(&self, partition: &Partition) -> bool {
        let mut memory = partition.mem.iter();
        memory.next().is_some_and(|oldest| {
            oldest.last_offset < self.upto
                && self.policy.is_overdue(oldest.max_timestamp, self.now_ms)
        })
    }

    fn is_due(&self, partition: &Partition) -> bool {
        let dirt = self.dirt(partition);
        let (start, bytes) = (partition.dirty_start(), dirt.dirty_bytes);
        let undecided = partition.undecided;
        let in_vain = undecided.is_some_and(|known| known.bars(start, bytes, now()));
        !in_vain && self.policy.is_due(dirt, self.now_ms)
    }

    fn dirt(&self, partition: &Partition) -> Dirt {
        let mut dirt = Dirt::default();
        for range in self.cleanable(partition) {
            let part = range.part();
            if range.end <= partition.cleaned_end {
                dirt.clean_bytes += part.bytes;
                continue;
            }
            if let Some(first) = part.index.first() {
                dirt.see_timestamp(first.max_timestamp);
            }
            dirt.dirty_bytes += part.bytes;
        }
        dirt
    }
}
