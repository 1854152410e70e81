//! Frames appends into commits, in the memory that is then written to disk and read from.
//!
//! An append copies its batch once, into the chunk at the end of the open commit. Sealing pads
//! the commit to whole blocks, writes its header and hands out the memory shared: the same bytes
//! go to disk and stay in the memtable. The rest of the chunk takes the next commit, so a commit
//! is filled while its predecessor is on its way.
//!
//! No I/O and no clock: a pure state machine over bytes.

use std::ops::Range;

use streambus_proto::ids::{LeaderEpoch, Offset};
use streambus_shards::{Buf, BufMut, LOG_PIECE_BYTES};

use super::WalPlace;
use super::record::{
    BLOCK_BYTES, COMMIT_HEADER_BYTES, CommitHeader, FIRST_COMMIT_POSITION, Nonce, RECORD_ALIGN,
    RECORD_HEADER_BYTES, RecordHeader, RecordKind,
};
use crate::batch::{BatchInfo, place_batch};
use crate::key::PartitionKey;

/// Memory is taken in pieces of this size.
pub(crate) const CHUNK_BYTES: usize = LOG_PIECE_BYTES;

/// A chunk with less room than this begins no further commit: better to give up a sixteenth of it
/// than to sync a commit of a few records because the chunk ends.
const CHUNK_REST_BYTES_MIN: usize = CHUNK_BYTES / 16;

/// Bounds of the WAL that the buffer keeps to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WalBounds {
    /// Bytes of each WAL file, a multiple of the block size.
    pub(crate) file_bytes: u64,
    /// A commit that has reached this takes no further record.
    pub(crate) commit_bytes_max: usize,
}

/// What must happen before a record of some size can be put into the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    /// Nothing: it fits the open commit.
    Fits,
    /// The open commit must be sealed.
    Seal,
    /// The open commit (if any) must be sealed, and the next one begins in the next file.
    Roll,
    /// It would not fit an empty file.
    Never,
}

/// A batch of a sealed commit, to go into the memtable.
#[derive(Debug, Clone)]
pub(crate) struct FramedBatch {
    /// Number of its partition in the lane.
    pub(crate) slot: usize,
    pub(crate) base_offset: Offset,
    pub(crate) last_offset: Offset,
    pub(crate) max_timestamp: i64,
    pub(crate) bytes: Buf,
}

/// A commit whose bytes no longer change.
#[derive(Debug)]
pub(crate) struct SealedCommit {
    pub(crate) place: WalPlace,
    /// As they go to disk: whole blocks in aligned memory.
    pub(crate) bytes: Buf,
    /// Bytes of memory that its batches keep alive, with padding and unused rests.
    pub(crate) held_bytes: usize,
    pub(crate) records: u32,
    pub(crate) batches: Vec<FramedBatch>,
}

struct PendingBatch {
    slot: usize,
    base_offset: Offset,
    last_offset: Offset,
    max_timestamp: i64,
    range: Range<usize>,
}

/// The open commit and the memory behind it. Lives on the lane's core.
///
/// Order: `place` never goes back; every byte before `place` belongs to a sealed commit; the
/// chunk's filled part is the open commit, so a commit is one piece of memory and one write.
pub(crate) struct WalBuffer {
    nonce: Nonce,
    run: u32,
    bounds: WalBounds,
    /// Where the open commit stands (its first sequence number with it).
    place: WalPlace,
    next_sequence: u64,
    records: u32,
    chunk: BufMut,
    /// Memory given up at the end of earlier chunks, not yet counted in a sealed commit.
    unused_bytes: usize,
    pending: Vec<PendingBatch>,
}

impl WalBuffer {
    pub(crate) fn new(nonce: Nonce, run: u32, bounds: WalBounds, place: WalPlace) -> WalBuffer {
        assert!(
            bounds.file_bytes.is_multiple_of(BLOCK_BYTES as u64),
            "unaligned WAL file size"
        );
        assert!(
            bounds.file_bytes > FIRST_COMMIT_POSITION,
            "WAL file without room"
        );
        assert!(
            place.position.is_multiple_of(BLOCK_BYTES as u64),
            "unaligned WAL place"
        );
        WalBuffer {
            nonce,
            run,
            bounds,
            place,
            next_sequence: place.sequence,
            records: 0,
            chunk: BufMut::with_capacity(CHUNK_BYTES),
            unused_bytes: 0,
            pending: Vec::new(),
        }
    }

    /// Where the open commit stands, which is where the next seal's commit will lie.
    pub(crate) fn place(&self) -> WalPlace {
        self.place
    }

    pub(crate) fn next_sequence(&self) -> u64 {
        self.next_sequence
    }

    pub(crate) fn has_open_commit(&self) -> bool {
        self.records > 0
    }

    /// Bytes of the open commit so far, without the padding of its end.
    pub(crate) fn open_bytes(&self) -> usize {
        self.chunk.len()
    }

    pub(crate) fn room_for(&self, payload_bytes: usize) -> Room {
        let record = record_bytes(payload_bytes);
        let alone = (COMMIT_HEADER_BYTES + record).next_multiple_of(BLOCK_BYTES) as u64;
        if FIRST_COMMIT_POSITION + alone > self.bounds.file_bytes
            || u32::try_from(payload_bytes).is_err()
        {
            return Room::Never;
        }
        if self.records > 0 {
            let open = self.chunk.len();
            let after = (open + record).next_multiple_of(BLOCK_BYTES);
            let fits = self.place.position + after as u64 <= self.bounds.file_bytes
                && after <= self.bounds.commit_bytes_max
                && after - open <= self.chunk.remaining();
            if fits {
                return Room::Fits;
            }
            let next = self.place.position + open.next_multiple_of(BLOCK_BYTES) as u64;
            return if next + alone <= self.bounds.file_bytes {
                Room::Seal
            } else {
                Room::Roll
            };
        }
        let fits = self.place.position + alone <= self.bounds.file_bytes;
        if fits { Room::Fits } else { Room::Roll }
    }

    /// The next commit begins in the file of the next epoch.
    ///
    /// # Panics
    /// If a commit is open: its records are bound to the file they were framed for.
    pub(crate) fn roll(&mut self) {
        assert!(self.records == 0, "rolling under an open commit");
        self.place.epoch += 1;
        self.place.position = FIRST_COMMIT_POSITION;
    }

    /// Copies `batch` into the open commit and writes its offset and leader epoch there.
    ///
    /// # Panics
    /// If [`WalBuffer::room_for`] does not say that it fits.
    pub(crate) fn append_batch(
        &mut self,
        key: PartitionKey,
        slot: usize,
        base_offset: Offset,
        leader_epoch: LeaderEpoch,
        batch: &[u8],
    ) -> BatchInfo {
        let range = self.begin_record(batch.len());
        self.chunk.extend_from_slice(batch);
        let placed = self
            .chunk
            .as_mut_slice()
            .get_mut(range.clone())
            .expect("just appended");
        place_batch(placed, base_offset, leader_epoch);
        let info = BatchInfo::read(placed).expect("validated batch");
        assert!(
            info.bytes == batch.len(),
            "batch of {} in {} bytes",
            info.bytes,
            batch.len()
        );
        self.end_record(RecordKind::Batch, key, range.clone());
        self.pending.push(PendingBatch {
            slot,
            base_offset: info.base_offset,
            last_offset: info.last_offset,
            max_timestamp: info.max_timestamp,
            range,
        });
        info
    }

    /// Puts a record of another kind into the open commit; `payload` is its offset, if it has one.
    pub(crate) fn append_control(
        &mut self,
        kind: RecordKind,
        key: PartitionKey,
        offset: Option<Offset>,
    ) {
        assert!(kind != RecordKind::Batch, "batches carry their payload");
        let field = offset.map(|offset| offset.0.to_le_bytes());
        let payload = field
            .as_ref()
            .map_or([].as_slice(), |bytes| bytes.as_slice());
        let range = self.begin_record(payload.len());
        self.chunk.extend_from_slice(payload);
        self.end_record(kind, key, range);
    }

    /// Leaves the headers' bytes blank; says where the payload will lie.
    fn begin_record(&mut self, payload_bytes: usize) -> Range<usize> {
        assert!(
            self.room_for(payload_bytes) == Room::Fits,
            "no room for the record"
        );
        if self.records == 0 {
            self.begin_commit(record_bytes(payload_bytes));
        }
        let start = self.chunk.len() + RECORD_HEADER_BYTES;
        self.chunk.put_zeros(RECORD_HEADER_BYTES);
        start..start + payload_bytes
    }

    fn begin_commit(&mut self, record: usize) {
        assert!(self.chunk.is_empty(), "leftovers of a sealed commit");
        let needed = (COMMIT_HEADER_BYTES + record).next_multiple_of(BLOCK_BYTES);
        if self.chunk.remaining() < needed.max(CHUNK_REST_BYTES_MIN) {
            self.unused_bytes += self.chunk.remaining();
            self.chunk = BufMut::with_capacity(needed.max(CHUNK_BYTES));
        }
        self.chunk.put_zeros(COMMIT_HEADER_BYTES);
    }

    fn end_record(&mut self, kind: RecordKind, key: PartitionKey, payload: Range<usize>) {
        assert!(self.chunk.len() == payload.end, "payload of another length");
        let header_start = payload.start - RECORD_HEADER_BYTES;
        let header = RecordHeader {
            kind,
            payload_bytes: u32::try_from(payload.len()).expect("checked by room_for"),
            file_epoch: self.place.epoch,
            commit_id: self.place.commit_id,
            position_in_commit: u32::try_from(header_start).expect("commits stay below 4 GiB"),
            sequence: self.next_sequence,
            key,
            run: self.run,
        };
        let bytes = self.chunk.as_mut_slice();
        let (front, tail) = bytes.split_at_mut(payload.start);
        let encoded = header.encode(
            self.nonce,
            tail.get(..payload.len()).expect("just appended"),
        );
        front
            .get_mut(header_start..)
            .expect("just reserved")
            .copy_from_slice(&encoded);
        pad_to(&mut self.chunk, RECORD_ALIGN);
        self.next_sequence += 1;
        self.records += 1;
    }

    /// Closes the open commit at this time by the wall clock; `None` if it has no records.
    pub(crate) fn seal(&mut self, now_ms: i64) -> Option<SealedCommit> {
        if self.records == 0 {
            return None;
        }
        pad_to(&mut self.chunk, BLOCK_BYTES);
        let place = self.place;
        self.write_commit_header(now_ms);
        let bytes = self.chunk.split();
        let length = bytes.len();
        let held_bytes = length + std::mem::take(&mut self.unused_bytes);
        let batches = self
            .pending
            .drain(..)
            .map(|pending| pending.framed(&bytes))
            .collect();
        let sealed = SealedCommit {
            place,
            bytes,
            held_bytes,
            records: self.records,
            batches,
        };
        self.place = WalPlace {
            epoch: place.epoch,
            position: place.position + length as u64,
            commit_id: place.commit_id + 1,
            sequence: self.next_sequence,
        };
        assert!(
            self.place.position <= self.bounds.file_bytes,
            "commit past its file's end"
        );
        self.records = 0;
        Some(sealed)
    }

    fn write_commit_header(&mut self, now_ms: i64) {
        let header = CommitHeader {
            file_epoch: self.place.epoch,
            commit_id: self.place.commit_id,
            position: self.place.position,
            length: u32::try_from(self.chunk.len()).expect("commits stay below 4 GiB"),
            record_count: self.records,
            first_sequence: self.place.sequence,
            run: self.run,
            // A clock that stands before 1970 says nothing.
            sealed_ms: u64::try_from(now_ms).unwrap_or(0),
        };
        let encoded = header.encode(self.nonce);
        let front = self.chunk.as_mut_slice().get_mut(..COMMIT_HEADER_BYTES);
        let front = front.expect("reserved front");
        front.copy_from_slice(&encoded);
    }
}

impl PendingBatch {
    fn framed(self, commit: &Buf) -> FramedBatch {
        FramedBatch {
            slot: self.slot,
            base_offset: self.base_offset,
            last_offset: self.last_offset,
            max_timestamp: self.max_timestamp,
            bytes: commit.slice(self.range),
        }
    }
}

fn record_bytes(payload_bytes: usize) -> usize {
    (RECORD_HEADER_BYTES + payload_bytes).next_multiple_of(RECORD_ALIGN)
}

fn pad_to(chunk: &mut BufMut, align: usize) {
    let padding = chunk.len().next_multiple_of(align) - chunk.len();
    chunk.put_zeros(padding);
}
