use super::*;
use crate::messages::Message;
use crate::messages::fetch_request::{FetchPartition, FetchRequest, FetchTopic};
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
    // Proves: each error code of an answer is counted, success is not, and neither is what the version
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
    for (version, errors) in [(4, vec![(3, 2)]), (12, vec![(70, 1), (3, 2)])] {
        let mut writer = Writer::new();
        response.write(&mut writer, version).unwrap();
        assert_eq!(writer.errors(), errors, "version {version}");
        writer.clear();
        assert_eq!(writer.errors(), []);
    }
}

/// The request of a fetch with so many topics of so many partitions, each without a byte too many.
fn fetch_of(topics: usize, partitions: usize) -> Vec<u8> {
    let topic = FetchTopic {
        partitions: (0..partitions).map(|_| FetchPartition::default()).collect(),
        ..FetchTopic::default()
    };
    let request = FetchRequest {
        topics: (0..topics).map(|_| topic.clone()).collect(),
        ..FetchRequest::default()
    };
    let mut writer = Writer::new();
    request.write(&mut writer, 12).unwrap();
    writer.as_slice().to_vec()
}

#[test]
fn entries_of_all_levels_are_counted_before_they_are_walked() {
    // Proves the bound on entries: those of nested arrays count, exactly the allowed number passes, one
    // more is refused, what was passed over is walked later without being counted again.
    let bytes = fetch_of(3, 5);
    for (allowed, left) in [
        (18, Ok(0)),
        (20, Ok(2)),
        (17, Err(DecodeError::TooManyEntries { count: 5, left: 4 })),
        (2, Err(DecodeError::TooManyEntries { count: 3, left: 2 })),
    ] {
        let mut reader = Reader::new(&bytes);
        reader.set_entries_left(allowed);
        let read = FetchRequest::read(&mut reader, 12);
        assert_eq!(
            read.as_ref().map(|_| reader.entries_left()),
            left.as_ref().copied(),
            "{allowed} entries are allowed"
        );
        if let Ok(request) = read {
            let partitions = request.topics.iter().map(|topic| topic.partitions.len());
            assert_eq!(partitions.sum::<usize>(), 15);
            assert_eq!(reader.entries_left(), left.unwrap());
        }
    }
}

#[test]
fn tagged_fields_are_entries() {
    // Proves that a struct can't end with more unknown fields than entries are allowed, in the struct itself
    // or within a field.
    let fields = |count: u8| {
        let mut bytes = vec![count];
        for tag in 0..count {
            bytes.extend([tag + 100, 1, 0]);
        }
        bytes
    };
    for (allowed, left) in [
        (9, Ok(1)),
        (7, Err(DecodeError::TooManyEntries { count: 8, left: 7 })),
    ] {
        let bytes = fields(8);
        let mut reader = Reader::new(&bytes);
        reader.set_flexible(true);
        reader.set_entries_left(allowed);
        let read = reader.tagged(|_, _| Ok(false));
        assert_eq!(read.map(|()| reader.entries_left()), left);
    }
    let inside = fields(3);
    let outside = [&[1, 0, u8::try_from(inside.len()).unwrap()], &*inside].concat();
    for (allowed, left) in [
        (4, Ok(0)),
        (3, Err(DecodeError::TooManyEntries { count: 3, left: 2 })),
    ] {
        let mut reader = Reader::new(&outside);
        reader.set_flexible(true);
        reader.set_entries_left(allowed);
        let read = reader.tagged(|_, reader| {
            reader.tagged(|_, _| Ok(false))?;
            Ok(true)
        });
        assert_eq!(read.map(|()| reader.entries_left()), left);
    }
}

#[test]
fn strings_are_as_long_as_kafkas_at_most() {
    // Proves that a compact length can't announce a string that the first encoding could not carry.
    for (length, fits) in [(0x7fff_u32, true), (0x8000, false)] {
        let mut writer = Writer::new();
        writer.uvarint(length + 1);
        writer.raw(&vec![b'a'; length as usize]);
        let mut reader = Reader::new(writer.as_slice());
        reader.set_flexible(true);
        assert_eq!(reader.string().is_ok(), fits, "{length} bytes");
    }
}

#[test]
fn many_elements_are_sent_as_few_are() {
    // Proves that an array that was built element by element leaves the same bytes, splices and errors as one of
    // items, nested, in both encodings, with few elements and with so many that they were written as they came.
    let partition = |index: usize| PartitionData {
        error_code: i16::from(index.is_multiple_of(2)) * 3,
        records: Records::Splice(index),
        ..PartitionData::default()
    };
    for (version, count) in [(4, 3), (12, 3), (4, 700), (12, 700)] {
        let topic = |partitions| FetchableTopicResponse {
            topic: "t".into(),
            partitions,
            ..FetchableTopicResponse::default()
        };
        let mut topics = ArrayBuilder::new(version, FetchResponse::FLEXIBLE_FROM);
        let mut items = Vec::new();
        for _ in 0..count / 2 {
            topics.push(topic(Array::default())).unwrap();
            items.push(topic(Array::default()));
        }
        let mut partitions = ArrayBuilder::new(version, FetchResponse::FLEXIBLE_FROM);
        for index in 0..count {
            partitions.push(partition(index)).unwrap();
        }
        topics.push(topic(partitions.finish())).unwrap();
        items.push(topic((0..count).map(partition).collect()));
        let written = [topics.finish(), items.into()].map(|responses| {
            let mut writer = Writer::new();
            let response = FetchResponse {
                responses,
                ..FetchResponse::default()
            };
            response.write(&mut writer, version).unwrap();
            let errors = writer.errors().to_vec();
            (writer.into_parts(), errors)
        });
        assert!(written[0] == written[1], "{count} in version {version}");
        assert_eq!(written[0].1, [(3, count.div_ceil(2) as u64)]);
    }
}
