//! Key compaction, called cleaning here: which records of a partition may go. No I/O.
//!
//! A [`Survey`] reads what was appended since the last cleaning and notes the newest offset of each
//! key. Then every batch from the log start on is looked at against it, and what is older than its
//! key's newest record goes. Offsets keep their holes, and a batch its place: base offset, last
//! offset delta and producer stay as they were.
//!
//! What is not certain stays: records of transactions whose end is not in sight supersede nothing; a
//! batch that cannot be decompressed within the limits stays as it is, and so do the tombstones behind it,
//! which may delete what it holds. Markers stay for what they end: see `clean/markers.rs`.

mod markers;

use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasherDefault;
use std::time::Duration;

use streambus_proto::ids::Offset;
use streambus_proto::records::{
    BatchBuilder, BatchView, Codec, ControlKind, DecompressLimits, EndTransactionMarker, Progress,
    Record, Records, RecordsError,
};
use streambus_shards::{Instant, planted, yield_if_needed};

pub(crate) use self::markers::Passed;
use crate::key::KeyHasher;
use crate::key_hash::KeyHash;

/// What a batch may decompress to while it is cleaned. A lane takes several times that much memory
/// for such a batch: the survey, the rewriting and the table's filters decompress it each for themselves,
/// and what is kept of it is there twice, before and after it is compressed. All of that is done in
/// steps. One that decompresses further stays as it is.
pub(crate) const LIMITS: DecompressLimits = DecompressLimits {
    bytes_max: 64 << 20,
    ratio_max: 1_000,
    ratio_free_bytes: 4 << 20,
};

/// Records that are gone over before others may have the core: about 100 µs.
const RECORDS_A_YIELD: usize = 2_048;

/// The records of a batch, decompressed in steps into `scratch`, which is cleared first.
///
/// # Errors
/// As [`BatchView::records`].
pub(crate) async fn records_in_steps<'s>(
    batch: &BatchView<'s>,
    scratch: &'s mut Vec<u8>,
) -> Result<Records<'s>, RecordsError> {
    if batch.codec()? == Codec::None {
        return batch.records(scratch, LIMITS);
    }
    scratch.clear();
    let mut decompression = batch.decompression(LIMITS)?;
    while decompression.step(scratch)? == Progress::More {
        yield_if_needed().await;
    }
    batch.records_in(scratch)
}

/// Lets others have the core after every so many records.
async fn after_record(number: usize) {
    if number % RECORDS_A_YIELD == RECORDS_A_YIELD - 1 {
        yield_if_needed().await;
    }
}

/// Goes through the keys of a batch's records; markers have none.
///
/// # Errors
/// When the batch does not decompress within the limits: what it holds behind that is not known.
pub(crate) async fn for_each_key(
    bytes: &[u8],
    scratch: &mut Vec<u8>,
    mut see: impl FnMut(&[u8]),
) -> Result<(), RecordsError> {
    let (batch, _) = BatchView::split_first(bytes)?;
    if batch.attributes().is_control() {
        return Ok(());
    }
    for (number, record) in records_in_steps(&batch, scratch).await?.enumerate() {
        if let Some(key) = record?.key {
            see(key);
        }
        after_record(number).await;
    }
    Ok(())
}

/// The records of a batch up to the first that does not stand behind the one before it, or that
/// stands behind the batch's end.
///
/// A batch is stored as its producer made it, and on a topic that is not compacted nothing looks at
/// its records: what they say of their places must be checked before anything is derived from it.
fn in_place<'a>(
    batch: &BatchView<'_>,
    records: Records<'a>,
) -> impl Iterator<Item = Result<Record<'a>, RecordsError>> {
    let (mut before, last) = (-1, batch.last_offset_delta());
    records.map(move |record| {
        let record = record?;
        if record.offset_delta <= before || record.offset_delta > last {
            let what = "offset deltas do not rise within the batch";
            return Err(RecordsError::Corrupt(what));
        }
        before = record.offset_delta;
        Ok(record)
    })
}

/// What a topic's settings say about its compaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CleanPolicy {
    /// Records younger than this stay (`min.compaction.lag.ms`); 0 for none.
    pub min_compaction_lag_ms: i64,
    /// A record older than this is due, whatever the ratio says (`max.compaction.lag.ms`).
    pub max_compaction_lag_ms: i64,
    /// More than this share of the log must be new, in millionths (`min.cleanable.dirty.ratio`).
    pub min_cleanable_dirty_ppm: u32,
    /// How long a tombstone stays after it was first cleaned (`delete.retention.ms`).
    pub delete_retention_ms: i64,
}

/// What there is to clean in a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Dirt {
    /// Bytes that were cleaned before.
    pub(crate) clean_bytes: u64,
    /// Bytes since then that may be cleaned.
    pub(crate) dirty_bytes: u64,
    /// The oldest timestamp at the front of a range of them, ms.
    pub(crate) oldest_timestamp: Option<i64>,
}

impl Dirt {
    /// Counts in what a range has at its front; batches without a timestamp have no age.
    pub(crate) fn see_timestamp(&mut self, timestamp: i64) {
        if timestamp > 0 {
            let oldest = self.oldest_timestamp.unwrap_or(timestamp);
            self.oldest_timestamp = Some(oldest.min(timestamp));
        }
    }
}

impl CleanPolicy {
    /// Whether it is worth the writing, or overdue.
    pub(crate) fn is_due(&self, dirt: Dirt, now_ms: i64) -> bool {
        let Dirt {
            clean_bytes,
            dirty_bytes,
            oldest_timestamp,
        } = dirt;
        if dirty_bytes == 0 {
            return false;
        }
        if oldest_timestamp.is_some_and(|timestamp| self.is_overdue(timestamp, now_ms)) {
            return true;
        }
        let all = u128::from(clean_bytes) + u128::from(dirty_bytes);
        u128::from(dirty_bytes) * 1_000_000 > all * u128::from(self.min_cleanable_dirty_ppm)
    }

    /// Whether a record with this timestamp has waited for too long.
    pub(crate) fn is_overdue(&self, timestamp: i64, now_ms: i64) -> bool {
        timestamp > 0 && now_ms.saturating_sub(timestamp) > self.max_compaction_lag_ms.max(0)
    }

    /// Records with a timestamp after this are too young. Without a lag none is, whatever it says:
    /// a producer whose clock is ahead must not keep a log from being compacted.
    pub(crate) fn youngest(&self, now_ms: i64) -> i64 {
        match self.min_compaction_lag_ms {
            ..=0 => i64::MAX,
            lag => now_ms.saturating_sub(lag),
        }
    }
}

/// For so long a survey that decided nothing is not repeated over less than twice as much.
const UNDECIDED_REST: Duration = Duration::from_hours(1);

/// A survey that decided nothing: what it began with was in transactions without an end in sight.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Undecided {
    pub(crate) start: Offset,
    pub(crate) bytes: u64,
    pub(crate) when: Instant,
}

impl Undecided {
    /// Whether a survey of `bytes` from `start` on must wait.
    ///
    /// Over the same bytes it would be in vain again. As a rule the end of a transaction is in what
    /// follows; if it never comes, surveys over twice as much each read no more than twice what was
    /// written, but for one in an hour, for transactions that end in little more.
    pub(crate) fn bars(&self, start: Offset, bytes: u64, now: Instant) -> bool {
        let rested = now.since(self.when) >= UNDECIDED_REST;
        let may = bytes >= 2 * self.bytes || bytes > self.bytes && rested;
        start == self.start && !may
    }
}

/// What remains of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Remains {
    /// All of it, as it is.
    Whole,
    /// Less than before.
    Part(Vec<u8>),
    Nothing,
}

/// Records of a transaction whose end has not come yet.
#[derive(Debug)]
struct Pending {
    first: Offset,
    keys: Vec<(u128, Offset)>,
}

/// The newest offset of each key in a stretch of the log. Bounded by `keys_max`, but one batch.
///
/// A full survey takes no more keys. It goes on for as long as it must to learn how the transactions
/// ended whose records it has: one of more records than there is room for must not hold it up for ever.
pub(crate) struct Survey {
    hash: KeyHash,
    keys_max: usize,
    newest: HashMap<u128, Offset, BuildHasherDefault<KeyHasher>>,
    pending: BTreeMap<i64, Pending>,
    pending_keys: usize,
    /// By producer: from the first offset of an aborted transaction to its marker.
    aborted: BTreeMap<i64, Vec<(Offset, Offset)>>,
    start: Offset,
    end: Offset,
    is_full: bool,
    scratch: Vec<u8>,
}

impl Survey {
    /// A survey of the log from `start` on.
    pub(crate) fn new(hash: KeyHash, keys_max: usize, start: Offset) -> Survey {
        Survey {
            hash,
            keys_max,
            newest: HashMap::default(),
            pending: BTreeMap::new(),
            pending_keys: 0,
            aborted: BTreeMap::new(),
            start,
            end: start,
            is_full: false,
            scratch: Vec::new(),
        }
    }

    /// Whether there is nothing to be learnt from further batches.
    pub(crate) fn is_done(&self) -> bool {
        self.is_full && self.pending.is_empty()
    }

    /// Where the survey began.
    pub(crate) fn start(&self) -> Offset {
        self.start
    }

    /// Where the survey has got to: what lies behind is not looked at.
    pub(crate) fn end(&self) -> Offset {
        self.end
    }

    /// Up to where every key's newest record is known: the next survey begins here.
    pub(crate) fn settled_end(&self) -> Offset {
        let firsts = self.pending.values().map(|pending| pending.first);
        firsts.fold(self.end, Offset::min)
    }

    /// Takes in the next batch.
    pub(crate) async fn take(&mut self, bytes: &[u8]) {
        let Ok((batch, _)) = BatchView::split_first(bytes) else {
            return;
        };
        if self.is_full {
            if batch.attributes().is_control() {
                self.take_marker(&batch);
            }
            return;
        }
        assert!(
            batch.base_offset() >= self.end || batch.next_offset() > self.end,
            "a survey that goes back"
        );
        self.end = batch.next_offset();
        if batch.attributes().is_control() {
            self.take_marker(&batch);
            return;
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        // A batch that cannot be read stays, and nothing of it counts.
        let _ = self.take_records(&batch, &mut scratch).await;
        self.scratch = scratch;
        self.is_full = self.newest.len() + self.pending_keys >= self.keys_max;
    }

    async fn take_records(
        &mut self,
        batch: &BatchView<'_>,
        scratch: &mut Vec<u8>,
    ) -> Result<(), RecordsError> {
        let producer = batch.producer_id();
        let transaction = producer.filter(|_| batch.attributes().is_transactional());
        let records = records_in_steps(batch, scratch).await?;
        for (number, record) in in_place(batch, records.clone()).enumerate() {
            record?;
            after_record(number).await;
        }
        for (number, record) in records.enumerate() {
            after_record(number).await;
            let record = record?;
            let Some(key) = record.key else { continue };
            let hash = self.hash.of(key);
            if record.offset < self.start {
                continue;
            }
            if let Some(producer) = transaction {
                let begun = || Pending {
                    first: batch.base_offset(),
                    keys: Vec::new(),
                };
                let pending = self.pending.entry(producer.0).or_insert_with(begun);
                pending.keys.push((hash, record.offset));
                self.pending_keys += 1;
            } else if record.value.is_some() || !planted::on("tombstones-replace-nothing") {
                self.newest.insert(hash, record.offset);
            }
        }
        Ok(())
    }

    fn take_marker(&mut self, batch: &BatchView<'_>) {
        let marker = EndTransactionMarker::of_batch(batch).ok().flatten();
        let (Some(marker), Some(producer)) = (marker, batch.producer_id()) else {
            return;
        };
        let Some(ended) = self.pending.remove(&producer.0) else {
            return;
        };
        self.pending_keys -= ended.keys.len();
        match marker.kind {
            ControlKind::Commit => {
                for (hash, offset) in ended.keys {
                    let newest = self.newest.entry(hash).or_insert(offset);
                    *newest = offset.max(*newest);
                }
            }
            ControlKind::Abort | ControlKind::Other(_) => {
                let aborted = self.aborted.entry(producer.0).or_default();
                aborted.push((ended.first, batch.base_offset()));
            }
        }
    }

    fn was_aborted(&self, batch: &BatchView<'_>) -> bool {
        let producer = batch.producer_id();
        let transaction = producer.filter(|_| batch.attributes().is_transactional());
        let aborted = transaction.and_then(|producer| self.aborted.get(&producer.0));
        let offset = batch.base_offset();
        aborted.is_some_and(|all| {
            all.iter()
                .any(|(first, marker)| (*first..*marker).contains(&offset))
        })
    }

    /// What remains of a batch; a pass looks at them in order, from the log's start on. One that
    /// `must_stay` keeps its header at least: the log's end is known by its last batch.
    pub(crate) async fn remains(
        &self,
        bytes: &[u8],
        policy: &CleanPolicy,
        now_ms: i64,
        must_stay: bool,
        scratch: &mut Vec<u8>,
        passed: &mut Passed,
    ) -> Remains {
        let Ok((batch, _)) = BatchView::split_first(bytes) else {
            passed.left_unread = true;
            return Remains::Whole;
        };
        if batch.base_offset() >= self.end {
            return Remains::Whole;
        }
        let remains = if batch.attributes().is_control() {
            passed.marker(&batch, policy, now_ms, must_stay)
        } else {
            passed.see(&batch);
            let tombstones_may_go = !passed.left_unread;
            let rebuilt = self.rebuild(
                &batch,
                policy,
                now_ms,
                must_stay,
                tombstones_may_go,
                scratch,
            );
            let rebuilt = rebuilt.await;
            passed.left_unread |= rebuilt.is_err();
            rebuilt
        };
        remains.unwrap_or(Remains::Whole)
    }

    async fn rebuild(
        &self,
        batch: &BatchView<'_>,
        policy: &CleanPolicy,
        now_ms: i64,
        must_stay: bool,
        tombstones_may_go: bool,
        scratch: &mut Vec<u8>,
    ) -> Result<Remains, RecordsError> {
        let aborted = self.was_aborted(batch);
        let horizon = batch
            .attributes()
            .has_delete_horizon()
            .then(|| batch.base_timestamp());
        let expired = tombstones_may_go && horizon.is_some_and(|horizon| now_ms >= horizon);
        let stays = |record: &Record<'_>| {
            let newest = record.key.is_some_and(|key| {
                let known = self.newest.get(&self.hash.of(key));
                known.is_none_or(|newest| *newest <= record.offset)
                    && !(planted::on("clean-the-newest") && known == Some(&record.offset))
            });
            newest && !aborted && !(expired && record.value.is_none())
        };
        let (mut kept, mut tombstones) = (0, 0);
        let records = records_in_steps(batch, scratch).await?;
        for (number, record) in in_place(batch, records.clone()).enumerate() {
            after_record(number).await;
            let record = record?;
            if stays(&record) {
                kept += 1;
                tombstones += i32::from(record.value.is_none());
            }
        }
        if kept == 0 && !must_stay {
            return Ok(Remains::Nothing);
        }
        let to_come = (tombstones > 0 && horizon.is_none())
            .then(|| now_ms.saturating_add(policy.delete_retention_ms));
        if kept == batch.record_count() && to_come.is_none() {
            return Ok(Remains::Whole);
        }
        let mut builder = BatchBuilder::remaining_of(batch, to_come)?;
        for (number, record) in records.enumerate() {
            after_record(number).await;
            let record = record?;
            if stays(&record) {
                builder.push_again(&record);
            }
        }
        builder.stretch_to(batch.last_offset_delta());
        let mut build = builder.build_in_steps();
        while build.step() == Progress::More {
            yield_if_needed().await;
        }
        Ok(Remains::Part(build.finish()))
    }
}

#[cfg(test)]
mod tests;
