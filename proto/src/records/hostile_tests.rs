//! Batches that no honest producer writes: each is refused with its error, and nothing panics.

use super::batch::at;
use super::patch::set_crc;
use super::*;
use crate::ids::{Offset, ProducerEpoch, ProducerId};

const LIMITS: DecompressLimits = DecompressLimits {
    bytes_max: 1 << 20,
    ratio_max: 100,
    ratio_free_bytes: 1 << 16,
};

fn batch(codec: Codec) -> Vec<u8> {
    let mut builder = BatchBuilder::new(codec);
    builder.set_producer(ProducerId(77), ProducerEpoch(3), 10);
    let headers = [
        Header {
            key: b"h",
            value: Some(b"1"),
        },
        Header {
            key: b"h",
            value: None,
        },
    ];
    for timestamp in [1_000, 900, 1_100] {
        builder.push(&NewRecord {
            timestamp,
            key: Some(b"key"),
            value: Some(b"value"),
            headers: &headers,
        });
    }
    builder.build()
}

/// A change to an honest batch.
enum Change {
    /// Overwrite bytes and make the checksum fit.
    Put(usize, &'static [u8]),
    /// Overwrite bytes and leave the checksum.
    Damage(usize, &'static [u8]),
    /// Keep so many bytes.
    Cut(usize),
    /// Put bytes behind.
    Append(&'static [u8]),
}
use Change::{Append, Cut, Damage, Put};

fn changed(change: &Change) -> Vec<u8> {
    let mut bytes = batch(Codec::None);
    match change {
        Put(position, value) | Damage(position, value) => {
            bytes[*position..position + value.len()].copy_from_slice(value);
        }
        Cut(length) => bytes.truncate(*length),
        Append(value) => bytes.extend_from_slice(value),
    }
    if matches!(change, Put(..)) {
        set_crc(&mut bytes);
    }
    bytes
}

#[test]
#[allow(clippy::too_many_lines, reason = "one table")]
fn what_a_producer_may_not_send_is_refused_by_name() {
    // Row 32 of the fault list: each lie of a header gets the error that its Kafka code needs.
    let (corrupt, invalid) = (RecordsError::Corrupt, RecordsError::Invalid);
    let length = batch(Codec::None).len();
    let minus_one = &[0xff; 8];
    let cases = [
        (Cut(0), invalid("no batch")),
        (
            Cut(16),
            RecordsError::Truncated {
                needed: 61,
                available: 16,
            },
        ),
        (
            Cut(60),
            RecordsError::Truncated {
                needed: 61,
                available: 60,
            },
        ),
        (
            Cut(length - 1),
            RecordsError::Truncated {
                needed: length,
                available: length - 1,
            },
        ),
        (
            Append(&[0; 5]),
            RecordsError::Truncated {
                needed: 61,
                available: 5,
            },
        ),
        (
            Put(at::MAGIC, &[0]),
            RecordsError::UnsupportedFormat { magic: 0 },
        ),
        (
            Put(at::MAGIC, &[1]),
            RecordsError::UnsupportedFormat { magic: 1 },
        ),
        (Put(at::MAGIC, &[9]), corrupt("unknown magic")),
        (Put(at::MAGIC, &[0xff]), corrupt("unknown magic")),
        (
            Put(at::BATCH_LENGTH, &minus_one[..4]),
            corrupt("negative batch length"),
        ),
        (
            Put(at::BATCH_LENGTH, &[0, 0, 0, 48]),
            corrupt("batch length below the header's"),
        ),
        (
            Put(at::BATCH_LENGTH, &[0x7f, 0xff, 0xff, 0xff]),
            RecordsError::Truncated {
                needed: 0x7fff_ffff + 12,
                available: length,
            },
        ),
        (Damage(at::CRC, &[0, 0, 0, 0]), corrupt("checksum mismatch")),
        (Damage(length - 1, &[0x55]), corrupt("checksum mismatch")),
        (Damage(at::ATTRIBUTES, &[1]), corrupt("checksum mismatch")),
        (
            Put(at::ATTRIBUTES, &[0, 5]),
            RecordsError::UnsupportedCompression { codec: 5 },
        ),
        (
            Put(at::ATTRIBUTES, &[0, 7]),
            RecordsError::UnsupportedCompression { codec: 7 },
        ),
        (
            Put(at::ATTRIBUTES, &[0, 0x20]),
            invalid("control batch from a client"),
        ),
        (
            Put(at::ATTRIBUTES, &[0, 0x40]),
            invalid("delete horizon from a client"),
        ),
        (
            Put(at::ATTRIBUTES, &[0, 0x08]),
            RecordsError::InvalidTimestamp("append time from a client"),
        ),
        (
            Put(at::LAST_OFFSET_DELTA, &minus_one[..4]),
            corrupt("negative last offset delta"),
        ),
        (
            Put(at::LAST_OFFSET_DELTA, &[0, 0, 0, 1]),
            corrupt("more records than offsets"),
        ),
        (
            Put(at::LAST_OFFSET_DELTA, &[0, 0, 0, 3]),
            invalid("record count and last offset delta disagree"),
        ),
        (
            Put(at::LAST_OFFSET_DELTA, &[0x7f, 0xff, 0xff, 0xff]),
            invalid("record count and last offset delta disagree"),
        ),
        (Put(at::RECORD_COUNT, &[0; 4]), invalid("no records")),
        (
            Put(at::RECORD_COUNT, &minus_one[..4]),
            corrupt("negative record count"),
        ),
        (
            Put(at::RECORD_COUNT, &[0x7f, 0xff, 0xff, 0xff]),
            corrupt("more records than offsets"),
        ),
        (
            Put(at::PRODUCER_EPOCH, &minus_one[..2]),
            invalid("negative producer epoch"),
        ),
        (
            Put(at::BASE_SEQUENCE, &minus_one[..4]),
            invalid("negative base sequence"),
        ),
    ];
    for (index, (change, expected)) in cases.iter().enumerate() {
        let bytes = changed(change);
        assert_eq!(BatchView::produced(&bytes), Err(*expected), "case {index}");
    }
    assert!(BatchView::produced(&batch(Codec::None)).is_ok());
}

#[test]
fn relations_between_fields_are_checked() {
    // Lies that need two fields at once: a transaction without a producer, a count that fits the
    // offsets but not the bytes, a second batch, and a second batch that is of an old format.
    let mut bytes = batch(Codec::None);
    bytes[at::ATTRIBUTES + 1] |= 0x10;
    bytes[at::PRODUCER_ID..at::PRODUCER_ID + 8].fill(0xff);
    set_crc(&mut bytes);
    let refused = RecordsError::Invalid("transactional without a producer id");
    assert_eq!(BatchView::produced(&bytes), Err(refused));

    let mut bytes = batch(Codec::None);
    bytes[at::RECORD_COUNT..].first_chunk_mut::<4>().unwrap()[..]
        .copy_from_slice(&[0x7f, 255, 255, 255]);
    bytes[at::LAST_OFFSET_DELTA..at::LAST_OFFSET_DELTA + 4].copy_from_slice(&[0x7f, 255, 255, 254]);
    set_crc(&mut bytes);
    let refused = RecordsError::Corrupt("more records than bytes for them");
    assert_eq!(BatchView::produced(&bytes), Err(refused));

    let two = [batch(Codec::None), batch(Codec::Zstd)].concat();
    let refused = RecordsError::Invalid("more than one batch for a partition");
    assert_eq!(BatchView::produced(&two), Err(refused));
    let mut old = two;
    let second = batch(Codec::None).len();
    old[second + at::MAGIC] = 1;
    assert_eq!(
        BatchView::produced(&old),
        Err(RecordsError::UnsupportedFormat { magic: 1 })
    );
}

fn scanned(bytes: &[u8]) -> Result<usize, RecordsError> {
    let batch = BatchView::produced(bytes)?;
    let mut count = 0;
    let mut scan = RecordScan::new(&batch, LIMITS)?;
    let mut see = |_| {
        count += 1;
        std::ops::ControlFlow::Continue(())
    };
    while scan.step(&mut see)? == Progress::More {}
    Ok(count)
}

#[test]
fn a_look_inside_finds_what_the_header_hides() {
    // For each codec: counts that lie, one record fewer and one more than there are.
    for codec in Codec::ALL {
        let honest = batch(codec);
        assert_eq!(scanned(&honest), Ok(3), "{codec:?}");
        for (count, delta, refusal) in [
            (2, 1, "bytes after the last record"),
            (4, 3, "record reaches beyond its bytes"),
        ] {
            let mut lying = honest.clone();
            lying[at::RECORD_COUNT + 3] = count;
            lying[at::LAST_OFFSET_DELTA + 3] = delta;
            set_crc(&mut lying);
            let refused = Err(RecordsError::Corrupt(refusal));
            assert_eq!(scanned(&lying), refused, "{codec:?}");
            if codec == Codec::None {
                let walk = BatchView::produced(&lying).unwrap().timestamp_range();
                assert_eq!(walk.map(|_| 0), refused);
            }
        }
    }
}

#[test]
fn a_bomb_in_a_batch_is_refused_before_it_is_whole() {
    // Row 33: passes the gate untouched, and is stopped at the limit by whoever looks inside.
    let zeros = vec![0; 2 << 20];
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        let mut bomb = BatchBuilder::new(codec);
        bomb.push(&NewRecord {
            value: Some(&zeros),
            ..NewRecord::default()
        });
        let bomb = bomb.build();
        let view = BatchView::produced(&bomb).unwrap();
        let refused = scanned(&bomb);
        assert!(
            matches!(refused, Err(RecordsError::TooLarge { .. })),
            "{codec:?}"
        );
        let mut scratch = vec![];
        let refused = view.records(&mut scratch, LIMITS).map(|_| ());
        assert!(
            matches!(refused, Err(RecordsError::TooLarge { .. })),
            "{codec:?}"
        );
        assert!(scratch.capacity() <= 4 * LIMITS.bytes_max, "{codec:?}");
    }
}

#[test]
fn record_lengths_that_lie_are_refused() {
    // Hand-made bodies: every length and count inside a record is checked against its bytes.
    let bodies: [&[u8]; 9] = [
        &[0x01, 0, 0, 0, 0, 0, 0],                      // record length -1
        &[0xfe, 0xff, 0xff, 0xff, 0x0f, 0, 0, 0],       // record length 2^31-1
        &[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0, 0],    // a varint without an end
        &[0x0c, 0, 0, 0, 0x7e, 0x01, 0, 0],             // key of 63 bytes in a record of 6
        &[0x0c, 0, 0, 0, 0x01, 0x7e, 0, 0],             // value likewise
        &[0x0c, 0, 0, 0, 0x01, 0x01, 0x7e, 0],          // 63 headers in one byte
        &[0x0c, 0, 0, 0, 0x01, 0x01, 0x01, 0],          // -1 headers
        &[0x10, 0, 0, 0, 0x01, 0x01, 0x02, 0x01, 0x01], // a header without a name
        &[0x0e, 0, 0, 0, 0x01, 0x01, 0x00, 0x00],       // a byte behind the headers
    ];
    for (index, body) in bodies.iter().enumerate() {
        let mut one = BatchBuilder::new(Codec::None);
        one.push(&NewRecord::default());
        let mut bytes = one.build();
        bytes.truncate(BATCH_BYTES_MIN);
        bytes.extend_from_slice(body);
        let length = u8::try_from(bytes.len() - 12).unwrap();
        bytes[at::BATCH_LENGTH + 3] = length;
        set_crc(&mut bytes);
        let checked = scanned(&bytes);
        assert!(
            matches!(checked, Err(RecordsError::Corrupt(_))),
            "body {index}: {checked:?}"
        );
    }
}

fn searched(batch: &BatchView<'_>) -> Result<Option<OffsetAndTimestamp>, RecordsError> {
    let mut search = TimestampSearch::new(batch, Offset(0), 1_050, LIMITS)?;
    while search.step()? == Progress::More {}
    Ok(search.found())
}

#[test]
fn any_bytes_are_survived() {
    // Seeded noise over honest batches, checksum made to fit: errors or records, never a panic,
    // and never more records than bytes.
    let mut seed = 0x5eed_u64;
    let mut next = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        usize::try_from(seed >> 1).unwrap()
    };
    let honest = Codec::ALL.map(batch);
    let mut scratch = vec![];
    for round in 0..20_000 {
        let mut bytes = honest[round % honest.len()].clone();
        for _ in 0..=next() % 4 {
            let position = next() % bytes.len();
            bytes[position] = u8::try_from(next() % 256).unwrap();
        }
        set_crc(&mut bytes);
        for batch in Batches::new(&bytes) {
            let Ok(batch) = batch else { break };
            let _ = (
                batch.verify(),
                BatchView::produced(&bytes),
                batch.last_sequence(),
            );
            let _ = EndTransactionMarker::of_batch(&batch);
            let _ = searched(&batch);
            if batch.codec() == Ok(Codec::None) {
                let _ = batch.timestamp_range();
            }
            let Ok(records) = batch.records(&mut scratch, LIMITS) else {
                continue;
            };
            let read = records.filter(|record| {
                record
                    .as_ref()
                    .is_ok_and(|record| record.headers.iter().count() < 100)
            });
            assert!(
                read.count() <= LIMITS.bytes_for(bytes.len()),
                "round {round}"
            );
        }
    }
}

#[test]
fn sequences_wrap_to_zero() {
    // Row 23: the number after i32::MAX is 0, in the batch's last and in the builder's next.
    let mut builder = BatchBuilder::new(Codec::None);
    builder.set_producer(ProducerId(1), ProducerEpoch(0), i32::MAX - 1);
    for _ in 0..4 {
        builder.push(&NewRecord::default());
    }
    let bytes = builder.build();
    let batch = BatchView::produced(&bytes).unwrap();
    assert_eq!(
        (batch.base_sequence(), batch.last_sequence()),
        (i32::MAX - 1, 1)
    );
    builder.push(&NewRecord::default());
    let bytes = builder.build();
    assert_eq!(BatchView::produced(&bytes).unwrap().base_sequence(), 2);
}
