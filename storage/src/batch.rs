//! The fixed header of a record batch (format v2), as far as storage reads it.
//!
//! Storage stores batches byte for byte: it looks at these fields, writes `baseOffset` and
//! `partitionLeaderEpoch` (both outside the batch's CRC), and never looks at the records.

use streambus_proto::ids::{LeaderEpoch, Offset};

/// Bytes of the fixed header: a batch is never shorter.
pub const BATCH_HEADER_BYTES: usize = 61;

/// Bytes before the part that `batchLength` counts: `baseOffset` (8) and the length itself (4).
const LENGTH_PREFIX_BYTES: usize = 12;

/// What the header of a stored batch says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchInfo {
    /// Offset of the batch's first record.
    pub base_offset: Offset,
    /// Offset of its last record (offsets in between may be missing after key compaction).
    pub last_offset: Offset,
    /// Bytes of the whole batch, header included.
    pub bytes: usize,
    /// Leader epoch under which it was appended.
    pub leader_epoch: LeaderEpoch,
    /// CRC-32C of the bytes from `attributes` on, as the producer computed it.
    pub crc: u32,
    /// Codec, timestamp type, transactional and control bits.
    pub attributes: i16,
    /// Timestamp of the first record, ms.
    pub base_timestamp: i64,
    /// Largest timestamp of its records, ms; -1 without.
    pub max_timestamp: i64,
    /// Producer id, -1 without.
    pub producer_id: i64,
    /// Producer epoch, -1 without.
    pub producer_epoch: i16,
    /// Sequence number of the first record, -1 without.
    pub base_sequence: i32,
    /// Records in the batch.
    pub record_count: i32,
}

impl BatchInfo {
    /// Reads the header at the front of `bytes`; `None` where no batch can begin like that.
    pub fn read(bytes: &[u8]) -> Option<BatchInfo> {
        let header = bytes.first_chunk::<BATCH_HEADER_BYTES>()?;
        let base_offset = i64_at(header, 0)?;
        let length = usize::try_from(i32_at(header, 8)?).ok()?;
        let magic = *header.get(16)?;
        let last_delta = i32_at(header, 23)?;
        let bytes = length.checked_add(LENGTH_PREFIX_BYTES)?;
        if magic != 2 || last_delta < 0 || base_offset < 0 || bytes < BATCH_HEADER_BYTES {
            return None;
        }
        Some(BatchInfo {
            base_offset: Offset(base_offset),
            last_offset: Offset(base_offset.checked_add(i64::from(last_delta))?),
            bytes,
            leader_epoch: LeaderEpoch(i32_at(header, 12)?),
            crc: u32::from_be_bytes(*header.get(17..)?.first_chunk()?),
            attributes: i16_at(header, 21)?,
            base_timestamp: i64_at(header, 27)?,
            max_timestamp: i64_at(header, 35)?,
            producer_id: i64_at(header, 43)?,
            producer_epoch: i16_at(header, 51)?,
            base_sequence: i32_at(header, 53)?,
            record_count: i32_at(header, 57)?,
        })
    }

    /// Offset after the batch.
    pub fn next_offset(&self) -> Offset {
        Offset(self.last_offset.0 + 1)
    }
}

/// Writes the two fields that the leader owns. Neither is covered by the batch's CRC.
///
/// # Panics
/// If `batch` is shorter than a batch header: the caller validated it.
pub(crate) fn place_batch(batch: &mut [u8], base_offset: Offset, leader_epoch: LeaderEpoch) {
    let header = batch
        .first_chunk_mut::<BATCH_HEADER_BYTES>()
        .expect("validated batch");
    let (offset_field, rest) = header.split_at_mut(8);
    offset_field.copy_from_slice(&base_offset.0.to_be_bytes());
    let epoch_field = rest.get_mut(4..8).expect("fixed header");
    epoch_field.copy_from_slice(&leader_epoch.0.to_be_bytes());
}

fn i64_at(header: &[u8; BATCH_HEADER_BYTES], at: usize) -> Option<i64> {
    header
        .get(at..)?
        .first_chunk()
        .map(|field| i64::from_be_bytes(*field))
}

fn i32_at(header: &[u8; BATCH_HEADER_BYTES], at: usize) -> Option<i32> {
    header
        .get(at..)?
        .first_chunk()
        .map(|field| i32::from_be_bytes(*field))
}

fn i16_at(header: &[u8; BATCH_HEADER_BYTES], at: usize) -> Option<i16> {
    header
        .get(at..)?
        .first_chunk()
        .map(|field| i16::from_be_bytes(*field))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A batch whose header is sound and whose records are `payload` (storage never reads them).
    pub(crate) fn batch(records: i32, max_timestamp: i64, payload: &[u8]) -> Vec<u8> {
        assert!(records > 0);
        let mut bytes = vec![0; BATCH_HEADER_BYTES];
        let length = i32::try_from(BATCH_HEADER_BYTES - LENGTH_PREFIX_BYTES + payload.len());
        bytes[8..12].copy_from_slice(&length.unwrap().to_be_bytes());
        bytes[16] = 2;
        bytes[23..27].copy_from_slice(&(records - 1).to_be_bytes());
        bytes[27..35].copy_from_slice(&max_timestamp.to_be_bytes());
        bytes[35..43].copy_from_slice(&max_timestamp.to_be_bytes());
        bytes[43..51].copy_from_slice(&(-1_i64).to_be_bytes());
        bytes[51..53].copy_from_slice(&(-1_i16).to_be_bytes());
        bytes[53..57].copy_from_slice(&(-1_i32).to_be_bytes());
        bytes[57..61].copy_from_slice(&records.to_be_bytes());
        bytes.extend_from_slice(payload);
        bytes
    }

    #[test]
    fn a_placed_batch_reads_back() {
        // Proves that placing a batch changes its offset and leader epoch and nothing else.
        let mut bytes = batch(5, 1_000, b"records");
        place_batch(&mut bytes, Offset(40), LeaderEpoch(3));
        let info = BatchInfo::read(&bytes).unwrap();
        assert_eq!(
            (info.base_offset, info.last_offset),
            (Offset(40), Offset(44))
        );
        assert_eq!(
            (info.leader_epoch, info.bytes),
            (LeaderEpoch(3), bytes.len())
        );
        assert_eq!((info.max_timestamp, info.record_count), (1_000, 5));
        place_batch(&mut bytes, Offset(0), LeaderEpoch(0));
        assert_eq!(bytes, batch(5, 1_000, b"records"));
    }

    #[test]
    fn bytes_that_begin_no_batch_are_refused() {
        // Proves that short, old, negative and overflowing headers are errors and not panics.
        let sound = batch(1, 0, b"");
        assert!(BatchInfo::read(&sound[..60]).is_none());
        for (at, field) in [
            (16, &[1_u8][..]),
            (8, &[0xff; 4]),
            (23, &[0xff; 4]),
            (0, &[0xff; 8]),
        ] {
            let mut bytes = sound.clone();
            bytes[at..at + field.len()].copy_from_slice(field);
            assert!(BatchInfo::read(&bytes).is_none(), "field at {at}");
        }
        let mut overflow = sound;
        overflow[0..8].copy_from_slice(&i64::MAX.to_be_bytes());
        overflow[23..27].copy_from_slice(&i32::MAX.to_be_bytes());
        assert!(BatchInfo::read(&overflow).is_none());
    }
}
