//! A snapshot: an image as the changes that make it out of nothing, so that start-up has one way to
//! take metadata in. It is written beside the old one and renamed when it is on disk.

use streambus_proto::ids::LeaderEpoch;

use super::delta::{Change, MetadataIndex};
use super::frame::{
    self, FRAME_BYTES_MAX, FileKind, FrameError, FrameWriter, HEADER_BYTES, Header,
};
use super::image::Image;
use super::record::Bytes;

/// A frame is about this long; one topic that takes more gets a frame of its own.
const FRAME_BYTES: usize = 1 << 16;

/// The bytes of an image's snapshot.
pub(super) fn encode(image: &Image) -> Vec<u8> {
    let index = image.index();
    let header = Header {
        index,
        identity: image.identity().clone(),
    };
    let mut out = frame::encode_header(FileKind::Snapshot, &header);
    let changes = changes(image);
    let mut number = MetadataIndex(0);
    let mut frame = FrameWriter::begin(number);
    for change in changes.chunks(1) {
        if !frame.push(change, FRAME_BYTES) {
            out.extend(frame.finish(index));
            number = number.next();
            frame = FrameWriter::begin(number);
            let fits = frame.push(change, FRAME_BYTES_MAX);
            assert!(
                fits,
                "a topic's partitions are bounded far below {FRAME_BYTES_MAX} bytes"
            );
        }
    }
    out.extend(frame.finish(index));
    number = number.next();
    // The end is a frame of its own that says how many came before it: a file cut at a frame's
    // border is not taken for a whole one.
    out.extend(FrameWriter::begin(number).finish(index));
    out
}

/// The changes that make an image out of nothing.
fn changes(image: &Image) -> Vec<Change> {
    let mut changes: Vec<Change> = image
        .broker_config_scopes()
        .map(|(scope, configs)| Change::BrokerConfigsSet {
            scope,
            configs: configs.clone(),
        })
        .collect();
    let first = image.next_producer_id();
    changes.push(Change::ProducerIdsAllocated { first, count: 0 });
    changes.push(Change::DeletedTopicsSet {
        ids: image.deleted_topics().iter().copied().collect(),
    });
    changes.extend(image.topics().map(|topic| {
        debug_assert!(
            topic
                .partitions
                .iter()
                .all(|place| place.leader_epoch >= LeaderEpoch(0))
        );
        Change::TopicCreated {
            name: topic.name.to_string(),
            id: topic.id,
            partitions: topic.partitions.clone(),
            configs: topic.configs.clone(),
        }
    }));
    changes
}

/// Absorbs a snapshot into an empty image.
///
/// # Errors
/// If it is not whole: it was synced before it got its name, so that is damage.
pub(super) fn decode(image: &mut Image, header: &Header, bytes: &[u8]) -> Result<(), FrameError> {
    assert_eq!(
        image.index(),
        MetadataIndex(0),
        "a snapshot is where an image starts"
    );
    let mut position = HEADER_BYTES;
    for number in 0.. {
        let corrupt = |what| FrameError::Corrupt { position, what };
        let frame = frame::frame_at(header.index, bytes, position);
        let frame = frame.ok_or(corrupt("a frame of the snapshot is damaged or missing"))?;
        if frame.first != MetadataIndex(number) {
            return Err(corrupt("a frame of the snapshot is out of order"));
        }
        if frame.groups.is_empty() {
            break;
        }
        let mut groups = Bytes(frame.groups);
        while !groups.0.is_empty() {
            for change in &frame::decode_group(&mut groups, position)? {
                image.admits(change).map_err(corrupt)?;
                image.absorb_change(change);
            }
        }
        position = frame.next;
    }
    image.set_index(header.index);
    Ok(())
}
