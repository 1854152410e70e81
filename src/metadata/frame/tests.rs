use std::sync::Arc;

use super::*;
use crate::metadata::delta::Delta;
use crate::metadata::image::ConfigMap;
use crate::metadata::{record, snapshot};

const FILE: MetadataIndex = MetadataIndex(1);

fn encode_frame(file: MetadataIndex, deltas: &[&Delta], out: &mut Vec<u8>) {
    let mut frame = FrameWriter::begin(deltas[0].index);
    for delta in deltas {
        assert!(frame.push(&delta.changes, FRAME_BYTES_MAX));
    }
    out.extend(frame.finish(file));
}

fn identity() -> Identity {
    Identity {
        cluster_id: "test-cluster".to_owned(),
        node: NodeId(0),
        lanes: 4,
    }
}

fn empty() -> Image {
    Image::empty(identity(), Arc::new(ConfigMap::new()))
}

fn deltas() -> Vec<Delta> {
    let changes = record::tests::samples().into_iter().zip(1..);
    changes
        .map(|(change, index)| Delta {
            index: MetadataIndex(index),
            changes: vec![change],
        })
        .collect()
}

/// A log with the sample deltas, two a frame, and room behind them; and where each frame starts.
fn log() -> (Vec<u8>, Vec<usize>) {
    let header = Header {
        index: FILE,
        identity: identity(),
    };
    let mut bytes = encode_header(FileKind::Log, &header);
    let mut starts = Vec::new();
    let deltas = deltas();
    for pair in deltas.chunks(2) {
        starts.push(bytes.len());
        encode_frame(FILE, &pair.iter().collect::<Vec<_>>(), &mut bytes);
    }
    starts.push(bytes.len());
    bytes.resize(bytes.len() + 4096, 0);
    (bytes, starts)
}

fn all_absorbed() -> Image {
    let mut image = empty();
    for delta in deltas() {
        image.absorb(&delta);
    }
    image
}

/// What two images can be compared by.
fn shown(image: &Image) -> String {
    format!("{image:?}")
}

#[test]
fn a_log_replays_to_the_image_it_came_from() {
    // Proves replay = absorb, and that the part an image has already is skipped.
    let (bytes, starts) = log();
    let mut image = empty();
    let replayed = replay(&mut image, FILE, &bytes).expect("the log is whole");
    assert_eq!(
        replayed,
        Replayed {
            end: starts[5],
            deltas: 9,
            torn_bytes: 0
        }
    );
    assert_eq!(shown(&image), shown(&all_absorbed()));

    let mut ahead = empty();
    for delta in deltas().iter().take(4) {
        ahead.absorb(delta);
    }
    assert_eq!(replay(&mut ahead, FILE, &bytes).expect("whole").deltas, 5);
    assert_eq!(shown(&ahead), shown(&image));
}

#[test]
fn a_torn_end_is_cut_wherever_it_tears() {
    // Proves that a last frame cut at any byte, or with any byte not written, leaves the frames
    // before it and nothing of itself.
    let (bytes, starts) = log();
    let (start, end) = (starts[4], starts[5]);
    for cut in start + 1..end {
        let mut torn = bytes.clone();
        torn[cut..end].fill(0);
        if torn[..end] == bytes[..end] {
            continue; // only zeros were lost
        }
        let mut image = empty();
        let replayed = replay(&mut image, FILE, &torn).expect("a torn end is no damage");
        assert_eq!((replayed.end, replayed.deltas), (start, 8), "cut at {cut}");
        assert!(replayed.torn_bytes > 0 && replayed.torn_bytes <= end - start);
        assert_eq!(image.index(), MetadataIndex(8));
    }
    let mut image = empty();
    let replayed = replay(&mut image, FILE, &bytes[..start + 5]).expect("the file may be short");
    assert_eq!(replayed.end, start);
}

#[test]
fn damage_before_a_valid_frame_is_refused() {
    // Proves faults row 36: any flipped bit of an acknowledged frame is named with its place, and
    // no delta is skipped.
    let (bytes, starts) = log();
    for frame in 0..3 {
        for at in starts[frame]..starts[frame + 1] {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            let mut image = empty();
            match replay(&mut image, FILE, &damaged) {
                Err(FrameError::Corrupt { position, .. }) => assert_eq!(position, starts[frame]),
                // The padding of a frame belongs to nobody.
                Ok(replayed) => {
                    assert!(starts[frame + 1] - at < FRAME_ALIGN);
                    assert_eq!(replayed.deltas, 9);
                }
                other => panic!("{other:?} for byte {at}"),
            }
        }
    }
}

#[test]
fn what_a_later_version_wrote_is_refused() {
    // Proves faults row 36 for the format version and for the type of a record.
    let header = Header {
        index: FILE,
        identity: identity(),
    };
    let mut bytes = encode_header(FileKind::Log, &header);
    bytes[8] = 2;
    assert_eq!(
        decode_header(FileKind::Log, &bytes),
        Err(FrameError::FutureVersion(2))
    );

    let mut bytes = encode_header(FileKind::Log, &header);
    let start = bytes.len();
    let changes = [Change::ProducerIdsAllocated { first: 0, count: 1 }];
    let delta = Delta {
        index: FILE,
        changes: changes.to_vec(),
    };
    encode_frame(FILE, &[&delta], &mut bytes);
    bytes[start + FRAME_HEADER_BYTES + 4] = 99;
    let checksum = frame_checksum(FILE, &bytes[start + 4..start + FRAME_HEADER_BYTES + 22]);
    bytes[start..start + 4].copy_from_slice(&checksum.to_le_bytes());
    let refused = replay(&mut empty(), FILE, &bytes).expect_err("unknown type");
    assert_eq!(
        refused.to_string(),
        "at byte 512: record type 99 is unknown to this version; start the version that wrote it"
    );
}

#[test]
fn history_must_fit() {
    // Proves that a gap, and a change that can't follow, are refused and not absorbed.
    let header = Header {
        index: FILE,
        identity: identity(),
    };
    let all = deltas();
    let log = |deltas: &[&Delta]| {
        let mut bytes = encode_header(FileKind::Log, &header);
        encode_frame(FILE, deltas, &mut bytes);
        bytes
    };
    let refused = replay(&mut empty(), FILE, &log(&[&all[5]])).expect_err("a gap");
    assert!(
        refused.to_string().contains("deltas are missing"),
        "{refused}"
    );
    let orphan = Delta {
        index: MetadataIndex(1),
        changes: all[6].changes.clone(),
    };
    let refused = replay(&mut empty(), FILE, &log(&[&orphan])).expect_err("no such topic");
    assert!(refused.to_string().contains("does not exist"), "{refused}");
}

#[test]
fn a_frame_takes_what_fits() {
    // Proves that a group which does not fit leaves the frame as it was.
    let all = deltas();
    let mut frame = FrameWriter::begin(FILE);
    assert!(frame.is_empty());
    assert!(
        frame.push(&all[6].changes, 48),
        "16 + 4 + 6 + 16 bytes, in eights"
    );
    assert!(!frame.push(&all[6].changes, 48));
    let bytes = frame.finish(FILE);
    assert_eq!(bytes.len(), 48);
    let whole = frame_at(FILE, &bytes, 0).expect("valid");
    assert_eq!(
        decode_group(&mut Bytes(whole.groups), 0),
        Ok(all[6].changes.clone())
    );
}

#[test]
fn a_frame_of_another_file_is_not_valid() {
    // Proves that the checksum covers whose frame it is.
    let mut bytes = Vec::new();
    encode_frame(FILE, &[&deltas()[0]], &mut bytes);
    assert!(frame_at(FILE, &bytes, 0).is_some());
    assert!(frame_at(MetadataIndex(2), &bytes, 0).is_none());
}

#[test]
fn headers_come_back_or_are_refused() {
    // Proves the round trip, the golden bytes, and that each flipped bit is noticed.
    let header = Header {
        index: MetadataIndex(7),
        identity: identity(),
    };
    let bytes = encode_header(FileKind::Log, &header);
    assert_eq!(bytes.len(), HEADER_BYTES);
    let golden =
        b"SBUSMLOG\x01\0\0\0\x2b\xb2\x28\x23\x07\0\0\0\0\0\0\0\0\0\x04\0\x0c\0\0\0test-cluster";
    assert_eq!(
        &bytes[..golden.len()],
        golden,
        "{:x?}",
        &bytes[..golden.len()]
    );
    assert_eq!(decode_header(FileKind::Log, &bytes), Ok(header));
    assert_eq!(
        decode_header(FileKind::Snapshot, &bytes),
        Err(FrameError::NotOurs)
    );
    assert_eq!(
        decode_header(FileKind::Log, b"short"),
        Err(FrameError::NotOurs)
    );
    for at in 0..HEADER_BYTES {
        let mut damaged = bytes.clone();
        damaged[at] ^= 4;
        decode_header(FileKind::Log, &damaged).expect_err("each byte is covered");
    }
}

#[test]
fn a_snapshot_is_the_image() {
    // Proves the round trip with many topics, and that every cut and damage is refused.
    let mut image = empty();
    for delta in deltas() {
        image.absorb(&delta);
    }
    assert_eq!(image.deleted_topics().len(), 1, "that, too, comes back");
    for number in 0..300_u16 {
        let mut id = [0xee; 16];
        id[..2].copy_from_slice(&number.to_le_bytes());
        let Change::TopicCreated {
            partitions,
            configs,
            ..
        } = deltas()[0].changes[0].clone()
        else {
            panic!("the first sample is a topic");
        };
        let name = format!("t{number}");
        let id = streambus_proto::ids::TopicId(id);
        let changes = vec![Change::TopicCreated {
            name,
            id,
            partitions,
            configs,
        }];
        image.absorb(&Delta {
            index: image.index().next(),
            changes,
        });
    }
    let bytes = snapshot::encode(&image);
    let header = decode_header(FileKind::Snapshot, &bytes).expect("whole");
    let mut again = empty();
    snapshot::decode(&mut again, &header, &bytes).expect("whole");
    assert_eq!(shown(&again), shown(&image));
    for cut in (HEADER_BYTES..bytes.len())
        .step_by(97)
        .chain([bytes.len() - 1])
    {
        snapshot::decode(&mut empty(), &header, &bytes[..cut]).expect_err("cut");
        let mut damaged = bytes.clone();
        damaged[cut] ^= 0x10;
        let outcome = snapshot::decode(&mut empty(), &header, &damaged);
        assert!(
            outcome.is_err() || cut % FRAME_ALIGN != 0,
            "byte {cut} is not covered"
        );
    }
}

/// Makes each frame's checksum right again, as far as its length can be followed.
fn seal_again(file: MetadataIndex, bytes: &mut [u8]) {
    if bytes.len() < HEADER_BYTES {
        return;
    }
    let header = header_checksum(&bytes[..HEADER_BYTES]);
    bytes[12..16].copy_from_slice(&header.to_le_bytes());
    let mut position = HEADER_BYTES;
    while let Some(length) = bytes.get(position + 4..position + 8) {
        let length = u32::from_le_bytes(length.try_into().expect("four bytes")) as usize;
        let end = position + FRAME_HEADER_BYTES + length;
        let Some(covered) = bytes.get(position + 4..end).filter(|_| length > 0) else {
            return;
        };
        let checksum = frame_checksum(file, covered);
        bytes[position..position + 4].copy_from_slice(&checksum.to_le_bytes());
        position = end.next_multiple_of(FRAME_ALIGN);
    }
}

#[test]
fn no_bytes_are_too_much_for_the_log_and_snapshot_decoders() {
    // Proves that mutations of metadata files, their checksums right or wrong, are refused or absorbed, and never
    // panic: what is judged before it is absorbed is all that absorbing takes for granted.
    let (mut log, starts) = log();
    log.truncate(starts[starts.len() - 1] + 64);
    let samples = [log, snapshot::encode(&all_absorbed())];
    let try_it = |bytes: &[u8]| {
        let _ = decode_header(FileKind::Log, bytes);
        let _ = replay(&mut empty(), FILE, bytes);
        if let Ok(header) = decode_header(FileKind::Snapshot, bytes) {
            let mut image = Image::empty(header.identity.clone(), Arc::new(ConfigMap::new()));
            let _ = snapshot::decode(&mut image, &header, bytes);
        }
    };
    streambus_shards::sim::mutated(&samples, |bytes| {
        try_it(bytes);
        seal_again(FILE, bytes);
        try_it(bytes);
        let index = decode_header(FileKind::Snapshot, bytes).map(|header| header.index);
        if let Ok(index) = index {
            seal_again(index, bytes);
            try_it(bytes);
        }
    });
}
