//! The header of a batch, read in place.

use super::compression::Codec;
use super::error::RecordsError;
use crate::ids::{LeaderEpoch, Offset, ProducerEpoch, ProducerId};

/// Size of a batch without records: the header, whose fields all have fixed places.
pub const BATCH_BYTES_MIN: usize = 61;

/// Where the fields lie. The CRC covers everything from the attributes on, so that a broker may
/// fill in base offset and partition leader epoch without computing it again.
pub(super) mod at {
    pub(crate) const BASE_OFFSET: usize = 0;
    pub(crate) const BATCH_LENGTH: usize = 8;
    pub(crate) const PARTITION_LEADER_EPOCH: usize = 12;
    pub(crate) const MAGIC: usize = 16;
    pub(crate) const CRC: usize = 17;
    pub(crate) const ATTRIBUTES: usize = 21;
    pub(crate) const LAST_OFFSET_DELTA: usize = 23;
    pub(crate) const BASE_TIMESTAMP: usize = 27;
    pub(crate) const MAX_TIMESTAMP: usize = 35;
    pub(crate) const PRODUCER_ID: usize = 43;
    pub(crate) const PRODUCER_EPOCH: usize = 51;
    pub(crate) const BASE_SEQUENCE: usize = 53;
    pub(crate) const RECORD_COUNT: usize = 57;
}

/// Bytes before the part that `batch_length` counts: base offset and the length itself.
pub(super) const LENGTH_PREFIX_BYTES: usize = 12;
pub(super) const MAGIC: i8 = 2;
const _: () = assert!(at::RECORD_COUNT + 4 == BATCH_BYTES_MIN);
const _: () = assert!(at::BATCH_LENGTH + 4 == LENGTH_PREFIX_BYTES);

/// What a batch's timestamps mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimestampType {
    /// The producer's clock, a timestamp for each record.
    CreateTime,
    /// The broker's clock at the append: the batch's max timestamp holds for all its records.
    LogAppendTime,
}

/// The flags of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attributes(pub i16);

impl Attributes {
    pub(super) const CODEC: i16 = 0b111;
    pub(super) const LOG_APPEND_TIME: i16 = 1 << 3;
    pub(super) const TRANSACTIONAL: i16 = 1 << 4;
    pub(super) const CONTROL: i16 = 1 << 5;
    pub(super) const DELETE_HORIZON: i16 = 1 << 6;

    /// The codec that the records are compressed with.
    ///
    /// # Errors
    /// [`RecordsError::UnsupportedCompression`] for a number that no codec has.
    pub fn codec(self) -> Result<Codec, RecordsError> {
        // Three bits: they fit.
        Codec::from_number(u8::try_from(self.0 & Self::CODEC).unwrap_or(u8::MAX))
    }

    /// Whose clock the timestamps come from.
    pub fn timestamp_type(self) -> TimestampType {
        if self.has(Self::LOG_APPEND_TIME) {
            TimestampType::LogAppendTime
        } else {
            TimestampType::CreateTime
        }
    }

    /// Whether the records belong to a transaction.
    pub fn is_transactional(self) -> bool {
        self.has(Self::TRANSACTIONAL)
    }

    /// Whether this is a marker of a broker (the end of a transaction), not data.
    pub fn is_control(self) -> bool {
        self.has(Self::CONTROL)
    }

    /// Whether the base timestamp is the time from which the cleaner may drop tombstones.
    pub fn has_delete_horizon(self) -> bool {
        self.has(Self::DELETE_HORIZON)
    }

    fn has(self, flag: i16) -> bool {
        self.0 & flag != 0
    }
}

/// One whole batch, borrowed. Its length and format were checked, the rest was not:
/// see [`BatchView::verify`] and [`BatchView::produced`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct BatchView<'a> {
    /// Exactly the batch, header and body; `header` and `body` are its two parts.
    bytes: &'a [u8],
    header: &'a [u8; BATCH_BYTES_MIN],
    body: &'a [u8],
}

impl<'a> BatchView<'a> {
    /// Takes the batch that `bytes` begins with, and returns it with what follows it.
    ///
    /// # Errors
    /// [`RecordsError::Truncated`] if `bytes` ends before the batch does,
    /// [`RecordsError::UnsupportedFormat`] for the formats before this one, else
    /// [`RecordsError::Corrupt`].
    pub fn split_first(bytes: &'a [u8]) -> Result<(BatchView<'a>, &'a [u8]), RecordsError> {
        // Formats 0 and 1 keep their magic at the same place, in far smaller messages:
        // look at it before anything that only this format has.
        let magic = bytes.get(at::MAGIC).copied().map(u8::cast_signed);
        match magic {
            None | Some(MAGIC) => {}
            Some(magic @ (0 | 1)) => return Err(RecordsError::UnsupportedFormat { magic }),
            Some(_) => return Err(RecordsError::Corrupt("unknown magic")),
        }
        let short = |needed| RecordsError::Truncated {
            needed,
            available: bytes.len(),
        };
        let (header, _) = bytes
            .split_first_chunk::<BATCH_BYTES_MIN>()
            .ok_or(short(BATCH_BYTES_MIN))?;
        let length = usize::try_from(i32_at::<{ at::BATCH_LENGTH }>(header))
            .map_err(|_| RecordsError::Corrupt("negative batch length"))?;
        // The length came from at most 31 bits: no overflow.
        let size = length + LENGTH_PREFIX_BYTES;
        if size < BATCH_BYTES_MIN {
            return Err(RecordsError::Corrupt("batch length below the header's"));
        }
        let (bytes, rest) = bytes.split_at_checked(size).ok_or(short(size))?;
        let body = bytes.get(BATCH_BYTES_MIN..).unwrap_or_default();
        Ok((
            BatchView {
                bytes,
                header,
                body,
            },
            rest,
        ))
    }

    /// The batch's bytes, header included.
    pub fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The records, as they lie in the batch: compressed if the batch is.
    pub fn body(&self) -> &'a [u8] {
        self.body
    }

    /// Offset of the first record. What a producer writes here means nothing.
    pub fn base_offset(&self) -> Offset {
        Offset(i64_at::<{ at::BASE_OFFSET }>(self.header))
    }

    /// Offset of the last record: compaction may have removed the record, never the offset.
    pub fn last_offset(&self) -> Offset {
        Offset(
            self.base_offset()
                .0
                .wrapping_add(i64::from(self.last_offset_delta())),
        )
    }

    /// The offset that follows the batch.
    pub fn next_offset(&self) -> Offset {
        Offset(self.last_offset().0.wrapping_add(1))
    }

    /// Epoch of the leader that appended the batch.
    pub fn partition_leader_epoch(&self) -> LeaderEpoch {
        LeaderEpoch(i32_at::<{ at::PARTITION_LEADER_EPOCH }>(self.header))
    }

    /// CRC-32C of everything from the attributes on, as the batch claims it.
    pub fn crc(&self) -> u32 {
        i32_at::<{ at::CRC }>(self.header).cast_unsigned()
    }

    /// The flags.
    pub fn attributes(&self) -> Attributes {
        Attributes(i16_at::<{ at::ATTRIBUTES }>(self.header))
    }

    /// The codec of the records; see [`Attributes::codec`] for the error.
    ///
    /// # Errors
    /// [`RecordsError::UnsupportedCompression`].
    pub fn codec(&self) -> Result<Codec, RecordsError> {
        self.attributes().codec()
    }

    /// Last offset minus base offset.
    pub fn last_offset_delta(&self) -> i32 {
        i32_at::<{ at::LAST_OFFSET_DELTA }>(self.header)
    }

    /// Milliseconds since 1970 that the records' timestamp deltas count from.
    pub fn base_timestamp(&self) -> i64 {
        i64_at::<{ at::BASE_TIMESTAMP }>(self.header)
    }

    /// The largest timestamp of the records, in milliseconds since 1970.
    pub fn max_timestamp(&self) -> i64 {
        i64_at::<{ at::MAX_TIMESTAMP }>(self.header)
    }

    /// Who wrote the batch; `None` if the producer is not idempotent.
    pub fn producer_id(&self) -> Option<ProducerId> {
        let id = i64_at::<{ at::PRODUCER_ID }>(self.header);
        (id >= 0).then_some(ProducerId(id))
    }

    /// Epoch of the producer; only means something with a producer id.
    pub fn producer_epoch(&self) -> ProducerEpoch {
        ProducerEpoch(i16_at::<{ at::PRODUCER_EPOCH }>(self.header))
    }

    /// Sequence number of the first record; only means something with a producer id.
    pub fn base_sequence(&self) -> i32 {
        i32_at::<{ at::BASE_SEQUENCE }>(self.header)
    }

    /// Sequence number of the last record. Sequences wrap from `i32::MAX` to 0.
    pub fn last_sequence(&self) -> i32 {
        let last = i64::from(self.base_sequence()) + i64::from(self.last_offset_delta());
        i32::try_from(last & i64::from(i32::MAX)).unwrap_or_default()
    }

    /// How many records the batch claims to hold.
    pub fn record_count(&self) -> i32 {
        i32_at::<{ at::RECORD_COUNT }>(self.header)
    }

    /// The bytes that the CRC covers.
    pub(super) fn crc_covered(&self) -> &'a [u8] {
        self.bytes.get(at::ATTRIBUTES..).unwrap_or_default()
    }
}

impl std::fmt::Debug for BatchView<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BatchView")
            .field("base_offset", &self.base_offset().0)
            .field("record_count", &self.record_count())
            .field("attributes", &self.attributes())
            .field("bytes", &self.bytes.len())
            .finish_non_exhaustive()
    }
}

fn array_at<const AT: usize, const N: usize>(header: &[u8; BATCH_BYTES_MIN]) -> [u8; N] {
    const { assert!(AT + N <= BATCH_BYTES_MIN, "field beyond the header") };
    let field = header.get(AT..).and_then(|rest| rest.first_chunk::<N>());
    *field.expect("asserted at compile time")
}

fn i16_at<const AT: usize>(header: &[u8; BATCH_BYTES_MIN]) -> i16 {
    i16::from_be_bytes(array_at::<AT, 2>(header))
}

fn i32_at<const AT: usize>(header: &[u8; BATCH_BYTES_MIN]) -> i32 {
    i32::from_be_bytes(array_at::<AT, 4>(header))
}

fn i64_at<const AT: usize>(header: &[u8; BATCH_BYTES_MIN]) -> i64 {
    i64::from_be_bytes(array_at::<AT, 8>(header))
}
