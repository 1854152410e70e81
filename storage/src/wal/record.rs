//! The bytes of a WAL file: file header, commits, records. The diagram is in the crate's docs.
//!
//! Every header binds its own place: a commit's CRC covers file epoch, commit id and position, a
//! record's covers file epoch, commit id, position in the commit and sequence, and both start
//! from the lane's nonce. An old record in a recycled file, a block that landed in the wrong
//! place, or a producer that sends WAL bytes as records: none of them verifies.

use crc32fast::Hasher;
use streambus_proto::ids::TopicId;
use streambus_shards::planted;

use crate::codec::{Decoder, Encoder, Malformed};
use crate::key::PartitionKey;

// Position, length and memory of direct I/O: commits are padded to it.
pub(crate) use streambus_shards::BLOCK_BYTES;
/// Bytes of the header in front of each commit.
pub(crate) const COMMIT_HEADER_BYTES: usize = 64;
/// Bytes of the header in front of each record.
pub(crate) const RECORD_HEADER_BYTES: usize = 64;
/// Records begin at multiples of this in their commit.
pub(crate) const RECORD_ALIGN: usize = 8;
/// Where the first commit of a file begins: after the file's header block.
pub(crate) const FIRST_COMMIT_POSITION: u64 = BLOCK_BYTES as u64;
/// Version of the WAL format that this build writes, and the only one that it reads.
pub(crate) const WAL_VERSION: u16 = 1;

const FILE_MAGIC: u32 = u32::from_le_bytes(*b"SBWF");
const COMMIT_MAGIC: u32 = u32::from_le_bytes(*b"SBWC");
const RECORD_MAGIC: u16 = u16::from_le_bytes(*b"WR");
/// Bytes of a header that its CRC field follows.
const CRC_POSITION: usize = 60;

const _: () = assert!(COMMIT_HEADER_BYTES.is_multiple_of(RECORD_ALIGN));
const _: () = assert!(RECORD_HEADER_BYTES.is_multiple_of(RECORD_ALIGN));
const _: () = assert!(BLOCK_BYTES > COMMIT_HEADER_BYTES + RECORD_HEADER_BYTES);

/// Whose WAL it is: drawn once for a lane, it starts every CRC, so that no file of another lane
/// and no bytes that a client can make up verify.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Nonce(pub(crate) u64);

impl Nonce {
    pub(super) fn hasher(self) -> Hasher {
        let folded = (self.0 ^ (self.0 >> 32)) & u64::from(u32::MAX);
        Hasher::new_with_initial(u32::try_from(folded).expect("masked to 32 bits"))
    }
}

/// What a record does. The numbers are on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RecordKind {
    /// A record batch; the payload is the batch with its offset and leader epoch in place.
    Batch = 1,
    /// The log start moved; the payload is the offset.
    LogStart = 2,
    /// The partition is gone with all that it held; no payload.
    DropPartition = 3,
    // 4 is kept for truncation, which followers will need.
}

impl RecordKind {
    fn of(byte: u8) -> Option<RecordKind> {
        match byte {
            1 => Some(RecordKind::Batch),
            2 => Some(RecordKind::LogStart),
            3 => Some(RecordKind::DropPartition),
            _ => None,
        }
    }
}

/// The front of a commit: written last, when the commit's length is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CommitHeader {
    pub(crate) file_epoch: u64,
    /// Counts the lane's commits from 1 and leaves none out, across files and restarts.
    pub(crate) commit_id: u64,
    /// Where in the file the commit begins.
    pub(crate) position: u64,
    /// Bytes of the whole commit with header and padding: a multiple of [`BLOCK_BYTES`].
    pub(crate) length: u32,
    pub(crate) record_count: u32,
    /// Sequence number of its first record; the others follow without a gap.
    pub(crate) first_sequence: u64,
    /// Drawn at each opening of the lane: when a torn commit is written over by its successor of
    /// the same id, blocks of the two cannot be taken for one commit.
    pub(crate) run: u32,
    /// When it was sealed, by the wall clock, ms: the age of records without a timestamp. 0 from builds that did not
    /// write it.
    pub(crate) sealed_ms: u64,
}

impl CommitHeader {
    pub(crate) fn encode(&self, nonce: Nonce) -> [u8; COMMIT_HEADER_BYTES] {
        assert!(
            (self.length as usize).is_multiple_of(BLOCK_BYTES) && self.length > 0,
            "unaligned commit"
        );
        assert!(
            self.position.is_multiple_of(BLOCK_BYTES as u64),
            "unaligned commit position"
        );
        let mut encoder = Encoder::with_capacity(COMMIT_HEADER_BYTES);
        encoder.u32(COMMIT_MAGIC);
        encoder.u16(WAL_VERSION);
        encoder.u16(0);
        encoder.u64(self.file_epoch);
        encoder.u64(self.commit_id);
        encoder.u64(self.position);
        encoder.u32(self.length);
        encoder.u32(self.record_count);
        encoder.u64(self.first_sequence);
        encoder.u32(self.run);
        encoder.u64(self.sealed_ms);
        with_crc(encoder, nonce)
    }

    /// The header at the front of `block`, if it is one of `file_epoch` and stands at `position`.
    pub(crate) fn decode(
        block: &[u8],
        nonce: Nonce,
        file_epoch: u64,
        position: u64,
    ) -> Option<CommitHeader> {
        let bytes = block.first_chunk::<COMMIT_HEADER_BYTES>()?;
        if *bytes.first_chunk::<4>()? != COMMIT_MAGIC.to_le_bytes() || !crc_holds(bytes, nonce) {
            return None;
        }
        let header = CommitHeader::fields(bytes).ok()?;
        let sound = header.file_epoch == file_epoch
            && header.position == position
            && header.length > 0
            && (header.length as usize).is_multiple_of(BLOCK_BYTES);
        sound.then_some(header)
    }

    fn fields(bytes: &[u8]) -> Result<CommitHeader, Malformed> {
        let mut decoder = Decoder::new(bytes);
        decoder.u32()?;
        if decoder.u16()? != WAL_VERSION {
            return Err(Malformed);
        }
        decoder.u16()?;
        Ok(CommitHeader {
            file_epoch: decoder.u64()?,
            commit_id: decoder.u64()?,
            position: decoder.u64()?,
            length: decoder.u32()?,
            record_count: decoder.u32()?,
            first_sequence: decoder.u64()?,
            run: decoder.u32()?,
            sealed_ms: decoder.u64()?,
        })
    }
}

/// The front of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    pub(crate) kind: RecordKind,
    /// Bytes after the header, without the padding to [`RECORD_ALIGN`].
    pub(crate) payload_bytes: u32,
    pub(crate) file_epoch: u64,
    pub(crate) commit_id: u64,
    /// Where in the commit the header stands.
    pub(crate) position_in_commit: u32,
    /// Counts the lane's records from 1 and leaves none out.
    pub(crate) sequence: u64,
    pub(crate) key: PartitionKey,
    pub(crate) run: u32,
}

impl RecordHeader {
    /// The header with its CRC over itself and `payload`.
    pub(crate) fn encode(&self, nonce: Nonce, payload: &[u8]) -> [u8; RECORD_HEADER_BYTES] {
        assert!(
            payload.len() == self.payload_bytes as usize,
            "header of another payload"
        );
        // Filled in place: this runs for every append, and a vector would cost an allocation.
        let mut bytes = [0; RECORD_HEADER_BYTES];
        let mut at = 0;
        let mut put = |field: &[u8]| {
            let end = at + field.len();
            bytes
                .get_mut(at..end)
                .expect("fields fill 60 bytes")
                .copy_from_slice(field);
            at = end;
        };
        put(&[self.kind as u8, 0]);
        put(&RECORD_MAGIC.to_le_bytes());
        put(&self.payload_bytes.to_le_bytes());
        put(&self.file_epoch.to_le_bytes());
        put(&self.commit_id.to_le_bytes());
        put(&self.sequence.to_le_bytes());
        put(&self.key.topic.0);
        put(&self.key.index.to_le_bytes());
        put(&self.position_in_commit.to_le_bytes());
        put(&self.run.to_le_bytes());
        assert!(at == CRC_POSITION, "record header fields take {at} bytes");
        let crc = record_crc(&bytes, nonce, payload);
        *bytes.last_chunk_mut::<4>().expect("fixed header") = crc.to_le_bytes();
        bytes
    }

    fn fields(bytes: &[u8]) -> Result<RecordHeader, Malformed> {
        let mut decoder = Decoder::new(bytes);
        let kind = decoder
            .raw(2)?
            .first()
            .and_then(|byte| RecordKind::of(*byte));
        if decoder.u16()? != RECORD_MAGIC {
            return Err(Malformed);
        }
        let payload_bytes = decoder.u32()?;
        let file_epoch = decoder.u64()?;
        let commit_id = decoder.u64()?;
        let sequence = decoder.u64()?;
        let key = PartitionKey {
            topic: TopicId(decoder.uuid()?),
            index: decoder.i32()?,
        };
        let position_in_commit = decoder.u32()?;
        let run = decoder.u32()?;
        let kind = kind.ok_or(Malformed)?;
        Ok(RecordHeader {
            kind,
            payload_bytes,
            file_epoch,
            commit_id,
            position_in_commit,
            sequence,
            key,
            run,
        })
    }
}

/// A record of a verified commit; its payload lies at `payload` in the commit's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RecordAt {
    pub(crate) header: RecordHeader,
    pub(crate) payload: std::ops::Range<usize>,
}

/// Reads all records of the commit `bytes`, or says where in it the first bad one stands.
///
/// # Errors
/// The position in the commit of the first record that does not verify.
pub(crate) fn read_commit(
    bytes: &[u8],
    header: &CommitHeader,
    nonce: Nonce,
) -> Result<Vec<RecordAt>, usize> {
    assert!(
        bytes.len() == header.length as usize,
        "commit of another length"
    );
    let mut records = Vec::new();
    let mut at = COMMIT_HEADER_BYTES;
    for nth in 0..u64::from(header.record_count) {
        let record = read_record(bytes, at, header, header.first_sequence + nth, nonce);
        let record = record.ok_or(at)?;
        at = record.payload.end.next_multiple_of(RECORD_ALIGN);
        records.push(record);
    }
    // Only the padding to a whole block may follow: more would mean that the header counts fewer
    // records than were written.
    if at.next_multiple_of(BLOCK_BYTES) == bytes.len() {
        Ok(records)
    } else {
        Err(at)
    }
}

fn read_record(
    bytes: &[u8],
    at: usize,
    commit: &CommitHeader,
    sequence: u64,
    nonce: Nonce,
) -> Option<RecordAt> {
    let head = bytes.get(at..)?.first_chunk::<RECORD_HEADER_BYTES>()?;
    let header = RecordHeader::fields(head).ok()?;
    let start = at + RECORD_HEADER_BYTES;
    let payload = start..start.checked_add(header.payload_bytes as usize)?;
    let stored = u32::from_le_bytes(*head.last_chunk::<4>()?);
    let in_place = header.file_epoch == commit.file_epoch
        && header.commit_id == commit.commit_id
        && header.run == commit.run
        && header.position_in_commit as usize == at
        && header.sequence == sequence;
    let holds = record_crc(head, nonce, bytes.get(payload.clone())?) == stored;
    let verified = in_place && (holds || planted::on("skip-wal-crc"));
    verified.then_some(RecordAt { header, payload })
}

/// The first block of a WAL file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileHeader {
    pub(crate) epoch: u64,
}

/// What the first block of a WAL file turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileHeaderRead {
    Valid(FileHeader),
    /// A sound header of a format that this build does not read.
    OtherVersion(u16),
    /// Anything else: never written, torn, rotten, or another lane's.
    Invalid,
}

impl FileHeader {
    pub(crate) fn encode(self, nonce: Nonce) -> [u8; COMMIT_HEADER_BYTES] {
        let mut encoder = Encoder::with_capacity(COMMIT_HEADER_BYTES);
        encoder.u32(FILE_MAGIC);
        encoder.u16(WAL_VERSION);
        encoder.u16(0);
        encoder.u64(self.epoch);
        encoder.raw(&[0; CRC_POSITION - 16]);
        with_crc(encoder, nonce)
    }

    pub(crate) fn decode(block: &[u8], nonce: Nonce) -> FileHeaderRead {
        let Some(bytes) = block.first_chunk::<COMMIT_HEADER_BYTES>() else {
            return FileHeaderRead::Invalid;
        };
        let mut decoder = Decoder::new(bytes);
        let fields = (decoder.u32(), decoder.u16(), decoder.u16(), decoder.u64());
        match fields {
            (Ok(FILE_MAGIC), Ok(version), Ok(_), Ok(epoch)) if crc_holds(bytes, nonce) => {
                if version == WAL_VERSION {
                    FileHeaderRead::Valid(FileHeader { epoch })
                } else {
                    FileHeaderRead::OtherVersion(version)
                }
            }
            _ => FileHeaderRead::Invalid,
        }
    }
}

fn with_crc(mut encoder: Encoder, nonce: Nonce) -> [u8; COMMIT_HEADER_BYTES] {
    assert!(
        encoder.len() == CRC_POSITION,
        "header fields take {} bytes",
        encoder.len()
    );
    encoder.u32(0);
    let mut bytes = [0; COMMIT_HEADER_BYTES];
    bytes.copy_from_slice(&encoder.finish());
    let crc = header_crc(&bytes, nonce);
    *bytes.last_chunk_mut::<4>().expect("fixed header") = crc.to_le_bytes();
    bytes
}

fn header_crc(bytes: &[u8; COMMIT_HEADER_BYTES], nonce: Nonce) -> u32 {
    let mut hasher = nonce.hasher();
    hasher.update(bytes.first_chunk::<CRC_POSITION>().expect("fixed header"));
    hasher.finalize()
}

fn record_crc(head: &[u8; RECORD_HEADER_BYTES], nonce: Nonce, payload: &[u8]) -> u32 {
    let mut hasher = nonce.hasher();
    hasher.update(head.first_chunk::<CRC_POSITION>().expect("fixed header"));
    hasher.update(payload);
    hasher.finalize()
}

fn crc_holds(bytes: &[u8; COMMIT_HEADER_BYTES], nonce: Nonce) -> bool {
    let stored = bytes
        .last_chunk::<4>()
        .map(|field| u32::from_le_bytes(*field));
    stored == Some(header_crc(bytes, nonce))
}
