use super::*;
use crate::messages::Message;
use crate::messages::fetch_response::{FetchResponse, FetchableTopicResponse, PartitionData};

#[test]
fn counts_above_what_is_left_are_refused_before_anything_is_made() {
    // Proves fault row 28 for arrays, strings and bytes, in both encodings.
    let mut reader = Reader::new(&[0x7f, 0xff, 0xff, 0xff]);
    assert!(matches!(
        reader.array::<i32>(0),
        Err(DecodeError::Truncated { .. })
    ));
    let mut reader = Reader::new(&[0xff, 0xff, 0xff, 0xff, 0x0f, 1, 2]);
    reader.set_flexible(true);
    assert!(matches!(
        reader.array::<i8>(0),
        Err(DecodeError::Truncated { .. })
    ));
    let mut reader = Reader::new(&[0x7f, 0xff, b'a']);
    assert!(matches!(
        reader.string(),
        Err(DecodeError::Truncated { .. })
    ));
    let mut reader = Reader::new(&[0xff, 0xfe]);
    assert_eq!(reader.string(), Err(DecodeError::BadLength(-2)));
    let mut reader = Reader::new(&[0xff; 10]);
    reader.set_flexible(true);
    assert_eq!(reader.bytes(), Err(DecodeError::VarintTooLong));
}

#[test]
fn arrays_are_walked_as_they_were_written() {
    // Proves a nested round trip: what was items comes back from the wire, equal and as often as asked.
    let items: Array<'_, i64> = vec![1, -1, i64::MAX].into();
    let mut writer = Writer::new();
    writer.set_flexible(true);
    items.encode(&mut writer, 0).unwrap();
    let bytes = writer.as_slice().to_vec();
    let mut reader = Reader::new(&bytes);
    reader.set_flexible(true);
    let read: Array<'_, i64> = reader.array(0).unwrap();
    reader.finish().unwrap();
    assert_eq!(read, items);
    assert_eq!(read.iter().collect::<Vec<_>>(), [1, -1, i64::MAX]);
}

#[test]
fn spliced_bytes_count_but_are_not_copied() {
    // Proves that a splice stands at its place and in the total, also inside a tagged field.
    let mut writer = Writer::new();
    writer.set_flexible(true);
    writer.i8(1);
    writer.records(Records::Splice(1_000)).unwrap();
    writer.i8(2);
    writer
        .tagged(5, |inside| inside.records(Records::Splice(10)))
        .unwrap();
    assert_eq!(writer.total_len(), writer.len() + 1_010);
    let (bytes, splices) = writer.into_parts();
    assert_eq!(bytes, [1, 0xe9, 0x07, 2, 5, 11, 11]);
    assert_eq!(
        splices,
        [
            Splice {
                position: 3,
                len: 1_000
            },
            Splice {
                position: 7,
                len: 10
            }
        ]
    );
}

#[test]
fn varints_of_every_length_return() {
    // Proves both sides of each boundary between two lengths, as lengths of 1 to 5 bytes.
    for (shift, bytes) in [(7, 1), (14, 2), (21, 3), (28, 4), (32, 5)] {
        let first_too_long = 1_u64 << shift;
        let values = [first_too_long - 1, first_too_long].map(u32::try_from);
        for (value, bytes) in values.into_iter().flatten().zip([bytes, bytes + 1]) {
            let mut writer = Writer::new();
            writer.uvarint(value);
            assert_eq!(writer.len(), bytes, "{value}");
            let mut reader = Reader::new(writer.as_slice());
            assert_eq!(reader.uvarint(), Ok(value));
            assert_eq!(reader.finish(), Ok(()), "{value}");
        }
    }
}

#[test]
fn a_run_keeps_only_what_was_written() {
    // Proves that a field left out of a run leaves no gap, and that what follows stands right behind it.
    for with_second in [false, true] {
        let mut writer = Writer::new();
        writer.i8(9);
        writer.run::<{ 2 + 4 + 1 }>(|run| {
            run.i16(0x0102);
            if with_second {
                run.i32(-1);
            }
            run.bool(true);
        });
        writer.i8(8);
        let second: &[u8] = if with_second { &[0xff; 4] } else { &[] };
        assert_eq!(writer.as_slice(), [&[9, 1, 2], second, &[1, 8]].concat());
    }
}

#[test]
fn a_writer_knows_the_errors_that_it_wrote() {
    // Proves: each error code of an answer is kept once, success is not, and neither is what the version
    // has no place for.
    let partition = |error_code| PartitionData {
        error_code,
        ..PartitionData::default()
    };
    let response = FetchResponse {
        error_code: 70,
        responses: vec![FetchableTopicResponse {
            partitions: vec![partition(3), partition(0), partition(3)].into(),
            ..FetchableTopicResponse::default()
        }]
        .into(),
        ..FetchResponse::default()
    };
    for (version, errors) in [(4, vec![3, 3]), (12, vec![70, 3, 3])] {
        let mut writer = Writer::new();
        response.write(&mut writer, version).unwrap();
        assert_eq!(writer.errors(), errors, "version {version}");
        writer.clear();
        assert_eq!(writer.errors(), [] as [i16; 0]);
    }
}
