//! The header fields that are overwritten in a finished batch: by the broker that appends it, and
//! by a producer that sends it under a new identity.

use super::batch::{Attributes, BATCH_BYTES_MIN, at};
use super::validate::checksum;
use crate::ids::{LeaderEpoch, Offset, ProducerEpoch, ProducerId};

/// Gives the batch its place in the log. The CRC does not cover it.
///
/// # Panics
/// If `batch` is shorter than a header: it was not checked before.
pub fn set_base_offset(batch: &mut [u8], base_offset: Offset) {
    put::<{ at::BASE_OFFSET }, 8>(batch, base_offset.0.to_be_bytes());
}

/// Notes the leader that appends the batch. The CRC does not cover it.
///
/// # Panics
/// If `batch` is shorter than a header: it was not checked before.
pub fn set_partition_leader_epoch(batch: &mut [u8], leader_epoch: LeaderEpoch) {
    put::<{ at::PARTITION_LEADER_EPOCH }, 4>(batch, leader_epoch.0.to_be_bytes());
}

/// Turns the batch's timestamps into the time of the append, as topics with
/// `message.timestamp.type=LogAppendTime` have it, and computes the CRC again. The base
/// timestamp stays, as in Kafka: the max timestamp is what holds for every record.
///
/// # Panics
/// If `batch` is shorter than a header: it was not checked before.
pub fn set_log_append_time(batch: &mut [u8], now_ms: i64) {
    assert!(
        batch.len() >= BATCH_BYTES_MIN,
        "not a batch: {} bytes",
        batch.len()
    );
    // The flag is in the low byte of the big-endian attributes.
    if let Some(low) = batch.get_mut(at::ATTRIBUTES + 1) {
        *low |= const { Attributes::LOG_APPEND_TIME.to_be_bytes()[1] };
    }
    put::<{ at::MAX_TIMESTAMP }, 8>(batch, now_ms.to_be_bytes());
    set_crc(batch);
}

/// Gives the batch the largest timestamp of its records, where its producer wrote another, and computes the
/// CRC again.
///
/// # Panics
/// If `batch` is shorter than a header: it was not checked before.
pub fn set_max_timestamp(batch: &mut [u8], max_timestamp: i64) {
    put::<{ at::MAX_TIMESTAMP }, 8>(batch, max_timestamp.to_be_bytes());
    set_crc(batch);
}

/// Puts the batch under another identity and sequence, and computes the CRC again.
///
/// # Panics
/// If `batch` is shorter than a header.
pub fn set_producer(
    batch: &mut [u8],
    id: ProducerId,
    producer_epoch: ProducerEpoch,
    base_sequence: i32,
) {
    put::<{ at::PRODUCER_ID }, 8>(batch, id.0.to_be_bytes());
    put::<{ at::PRODUCER_EPOCH }, 2>(batch, producer_epoch.0.to_be_bytes());
    put::<{ at::BASE_SEQUENCE }, 4>(batch, base_sequence.to_be_bytes());
    set_crc(batch);
}

/// Computes the CRC over what it covers and writes it.
pub(super) fn set_crc(batch: &mut [u8]) {
    let crc = checksum(batch.get(at::ATTRIBUTES..).unwrap_or_default());
    put::<{ at::CRC }, 4>(batch, crc.to_be_bytes());
}

pub(super) fn put<const AT: usize, const N: usize>(batch: &mut [u8], value: [u8; N]) {
    const { assert!(AT + N <= BATCH_BYTES_MIN, "field beyond the header") };
    assert!(
        batch.len() >= BATCH_BYTES_MIN,
        "not a batch: {} bytes",
        batch.len()
    );
    let field = batch
        .get_mut(AT..)
        .and_then(|rest| rest.first_chunk_mut::<N>());
    *field.expect("the length was asserted") = value;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::{BatchBuilder, BatchView, Codec, NewRecord, TimestampType};

    #[test]
    fn patches_change_their_field_and_keep_the_batch_valid() {
        // A patched batch verifies, says what it was told, and all else stays.
        let mut builder = BatchBuilder::new(Codec::None);
        builder.push(&NewRecord {
            timestamp: 70,
            value: Some(b"v"),
            ..NewRecord::default()
        });
        builder.push(&NewRecord {
            timestamp: 50,
            value: Some(b"w"),
            ..NewRecord::default()
        });
        let mut bytes = builder.build();
        set_base_offset(&mut bytes, Offset(1 << 40));
        set_partition_leader_epoch(&mut bytes, LeaderEpoch(9));
        let view = BatchView::split_first(&bytes).unwrap().0;
        view.verify().unwrap();
        assert_eq!(view.next_offset(), Offset((1 << 40) + 2));
        assert_eq!(view.partition_leader_epoch(), LeaderEpoch(9));
        assert_eq!((view.base_timestamp(), view.max_timestamp()), (70, 70));

        set_producer(&mut bytes, ProducerId(5), ProducerEpoch(6), 7);
        let view = BatchView::split_first(&bytes).unwrap().0;
        view.verify().unwrap();
        assert_eq!(
            (view.producer_id(), view.base_sequence()),
            (Some(ProducerId(5)), 7)
        );
        assert_eq!(view.producer_epoch(), ProducerEpoch(6));

        set_log_append_time(&mut bytes, 1_000);
        let view = BatchView::split_first(&bytes).unwrap().0;
        view.verify().unwrap();
        assert_eq!(
            view.attributes().timestamp_type(),
            TimestampType::LogAppendTime
        );
        assert_eq!((view.base_timestamp(), view.max_timestamp()), (70, 1_000));
        let mut scratch = vec![];
        let records = view.records(&mut scratch, crate::records::DecompressLimits::default());
        assert!(
            records
                .unwrap()
                .all(|record| record.unwrap().timestamp == 1_000)
        );
    }
}
