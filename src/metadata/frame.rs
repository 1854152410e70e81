//! The bytes of metadata files: a header block that says whose they are, then frames.
//!
//! One frame is one synced write of whole deltas, so a frame that is not valid is either the torn
//! end of the file (nothing valid follows: the write was never acknowledged and is cut) or damage
//! (a valid frame follows: it was only written after this one was synced, and start-up is refused).

use super::delta::{Change, MetadataIndex};
use super::image::{Identity, Image, NodeId};
use super::record::{self, Bytes, RecordError};

/// The version of header and frames. Kinds of records have their own numbers.
const FORMAT_VERSION: u32 = 1;

/// The header fills one sector, which the disk writes whole.
pub(super) const HEADER_BYTES: usize = 512;

/// Frames start at multiples of this, so that a search after damage finds them.
const FRAME_ALIGN: usize = 8;

/// Checksum, length, index.
const FRAME_HEADER_BYTES: usize = 16;

/// The most bytes a frame holds: far above the largest delta (a topic with all partitions one may
/// have), far below what would make start-up allocate absurdly.
pub(super) const FRAME_BYTES_MAX: usize = 64 << 20;

/// The longest cluster id that fits the header.
const CLUSTER_ID_BYTES_MAX: usize = 256;

/// Which of the two kinds of file.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum FileKind {
    /// Frames that are appended.
    Log,
    /// An image, written once.
    Snapshot,
}

impl FileKind {
    fn magic(self) -> &'static [u8; 8] {
        match self {
            FileKind::Log => b"SBUSMLOG",
            FileKind::Snapshot => b"SBUSMSNP",
        }
    }
}

/// What a metadata file says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// A log's first index; a snapshot's last.
    pub(super) index: MetadataIndex,
    /// Whose it is.
    pub(super) identity: Identity,
}

/// Why a metadata file can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Something else lies where a metadata file should.
    #[error("it does not begin as a metadata file")]
    NotOurs,
    /// A later version wrote it.
    #[error(
        "its format version is {0}, this program knows up to {FORMAT_VERSION}; start the version that wrote it"
    )]
    FutureVersion(u32),
    /// The bytes are not what was written.
    #[error("at byte {position}: {what}")]
    Corrupt {
        /// Where.
        position: usize,
        /// What is wrong.
        what: &'static str,
    },
    /// A record can't be read.
    #[error("at byte {position}: {record}")]
    Record {
        /// Where its frame starts.
        position: usize,
        /// What is wrong.
        record: RecordError,
    },
}

/// The header block of a file.
pub(super) fn encode_header(kind: FileKind, header: &Header) -> Vec<u8> {
    let cluster_id = header.identity.cluster_id.as_bytes();
    assert!(
        cluster_id.len() <= CLUSTER_ID_BYTES_MAX,
        "the configuration bounds the cluster id"
    );
    let mut out = Vec::with_capacity(HEADER_BYTES);
    out.extend_from_slice(kind.magic());
    out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&header.index.0.to_le_bytes());
    out.extend_from_slice(&header.identity.node.0.to_le_bytes());
    out.extend_from_slice(&header.identity.lanes.to_le_bytes());
    let len = u32::try_from(cluster_id.len()).expect("bounded above");
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(cluster_id);
    out.resize(HEADER_BYTES, 0);
    let checksum = header_checksum(&out);
    out[12..16].copy_from_slice(&checksum.to_le_bytes());
    out
}

fn header_checksum(block: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&block[..12]);
    hasher.update(&block[16..HEADER_BYTES]);
    hasher.finalize()
}

/// Reads the header block of a file.
///
/// # Errors
/// If it is not there, not ours, of a later version, or damaged.
pub(super) fn decode_header(kind: FileKind, bytes: &[u8]) -> Result<Header, FrameError> {
    let Some(block) = bytes.get(..HEADER_BYTES) else {
        return Err(FrameError::NotOurs);
    };
    let mut fields = Bytes(block);
    let corrupt = |what| FrameError::Corrupt { position: 0, what };
    if fields.array::<8>() != Some(*kind.magic()) {
        return Err(FrameError::NotOurs);
    }
    let version = fields.array().map_or(0, u32::from_le_bytes);
    // Before the checksum: a later version may keep it elsewhere.
    if version > FORMAT_VERSION {
        return Err(FrameError::FutureVersion(version));
    }
    let checksum = fields.array().map_or(0, u32::from_le_bytes);
    if version == 0 || checksum != header_checksum(block) {
        return Err(corrupt("the header's checksum is wrong"));
    }
    let cut = || corrupt("the header is malformed");
    let index = MetadataIndex(u64::from_le_bytes(fields.array().ok_or_else(cut)?));
    let node = NodeId(fields.u16().ok_or_else(cut)?);
    let lanes = fields.u16().filter(|lanes| *lanes > 0).ok_or_else(cut)?;
    let len = fields.length().ok_or_else(cut)?;
    let cluster_id = std::str::from_utf8(fields.take(len).ok_or_else(cut)?);
    let cluster_id = cluster_id.map_err(|_| cut())?.to_owned();
    Ok(Header {
        index,
        identity: Identity {
            cluster_id,
            node,
            lanes,
        },
    })
}

/// A frame that grows group by group until it is written.
#[derive(Debug, Default)]
pub(super) struct FrameWriter {
    bytes: Vec<u8>,
}

impl FrameWriter {
    /// Starts a frame whose groups have the indexes from `first` on.
    pub(super) fn begin(first: MetadataIndex) -> FrameWriter {
        let mut bytes = vec![0; FRAME_HEADER_BYTES];
        bytes[8..16].copy_from_slice(&first.0.to_le_bytes());
        FrameWriter { bytes }
    }

    /// Adds a group, if the frame then takes at most `bytes_max` in the file. Else nothing changes.
    pub(super) fn push(&mut self, changes: &[Change], bytes_max: usize) -> bool {
        let before = self.bytes.len();
        let count = u32::try_from(changes.len()).expect("a delta has few changes");
        self.bytes.extend_from_slice(&count.to_le_bytes());
        for change in changes {
            record::encode(change, &mut self.bytes);
        }
        let fits = self.bytes.len().next_multiple_of(FRAME_ALIGN) <= bytes_max.min(FRAME_BYTES_MAX);
        if !fits {
            self.bytes.truncate(before);
        }
        fits
    }

    /// Whether it has no group.
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.len() <= FRAME_HEADER_BYTES
    }

    /// The frame for a file. `file` is the index in the file's header: a frame that strayed from
    /// another file is not valid in this one.
    pub(super) fn finish(mut self, file: MetadataIndex) -> Vec<u8> {
        let len = self.bytes.len() - FRAME_HEADER_BYTES;
        let len = u32::try_from(len).expect("FRAME_BYTES_MAX fits 32 bits");
        self.bytes[4..8].copy_from_slice(&len.to_le_bytes());
        let checksum = frame_checksum(file, &self.bytes[4..]);
        self.bytes[..4].copy_from_slice(&checksum.to_le_bytes());
        self.bytes
            .resize(self.bytes.len().next_multiple_of(FRAME_ALIGN), 0);
        self.bytes
    }
}

fn frame_checksum(file: MetadataIndex, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&file.0.to_le_bytes());
    hasher.update(bytes);
    hasher.finalize()
}

/// A frame that is as it was written.
pub(super) struct Frame<'a> {
    /// The index of its first group.
    pub(super) first: MetadataIndex,
    /// Its groups of changes.
    pub(super) groups: &'a [u8],
    /// Where the next frame starts.
    pub(super) next: usize,
}

/// The valid frame at a position, if there is one.
pub(super) fn frame_at(file: MetadataIndex, bytes: &[u8], position: usize) -> Option<Frame<'_>> {
    let mut fields = Bytes(bytes.get(position..)?);
    let checksum = u32::from_le_bytes(fields.array()?);
    let covered = fields.0;
    let len = fields.length().filter(|len| *len <= FRAME_BYTES_MAX)?;
    let first = MetadataIndex(u64::from_le_bytes(fields.array()?));
    let groups = fields.take(len)?;
    let covered = covered.get(..FRAME_HEADER_BYTES - 4 + len)?;
    if checksum != frame_checksum(file, covered) {
        return None;
    }
    let end = position + FRAME_HEADER_BYTES + len;
    Some(Frame {
        first,
        groups,
        next: end.next_multiple_of(FRAME_ALIGN),
    })
}

/// What a log's replay came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Replayed {
    /// Where the next frame goes.
    pub(super) end: usize,
    /// How many deltas were absorbed.
    pub(super) deltas: u64,
    /// How many bytes at the end are the rest of a write that was never acknowledged.
    pub(super) torn_bytes: usize,
}

/// Absorbs a log into an image that may have its first deltas already.
///
/// # Errors
/// If the log is damaged, of a later version, or does not follow the image. The image is not to be
/// used then.
pub(super) fn replay(
    image: &mut Image,
    file: MetadataIndex,
    bytes: &[u8],
) -> Result<Replayed, FrameError> {
    let mut position = HEADER_BYTES;
    let mut deltas = 0;
    while let Some(frame) = frame_at(file, bytes, position) {
        deltas += absorb_frame(image, &frame, position)?;
        position = frame.next;
    }
    let rest = bytes.get(position..).unwrap_or_default();
    // A frame's own zeros at the end tell nothing of its length, so the last other byte is the end.
    let torn_bytes = rest
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |last| last + 1);
    if torn_bytes > 0 {
        let later = (FRAME_ALIGN..torn_bytes).step_by(FRAME_ALIGN);
        if later
            .into_iter()
            .any(|at| frame_at(file, bytes, position + at).is_some())
        {
            let what = "a frame is damaged, for a valid one follows it; restore the file or start \
                        from a copy of the data directory";
            return Err(FrameError::Corrupt { position, what });
        }
    }
    Ok(Replayed {
        end: position,
        deltas,
        torn_bytes,
    })
}

fn absorb_frame(image: &mut Image, frame: &Frame<'_>, position: usize) -> Result<u64, FrameError> {
    let mut groups = Bytes(frame.groups);
    let mut index = frame.first;
    let mut absorbed = 0;
    while !groups.0.is_empty() {
        let changes = decode_group(&mut groups, position)?;
        if index > image.index() {
            let corrupt = |what| FrameError::Corrupt { position, what };
            if index != image.index().next() {
                return Err(corrupt("deltas are missing before this one"));
            }
            // Judged one by one, for a change may need the one before it.
            for change in &changes {
                image.admits(change).map_err(corrupt)?;
                image.absorb_change(change);
            }
            image.set_index(index);
            absorbed += 1;
        }
        index = index.next();
    }
    Ok(absorbed)
}

/// Takes one group of changes off the front of a frame.
pub(super) fn decode_group(
    groups: &mut Bytes<'_>,
    position: usize,
) -> Result<Vec<Change>, FrameError> {
    let cut = FrameError::Corrupt {
        position,
        what: "a group of changes is cut short",
    };
    let count = groups.length().ok_or(cut)?;
    let mut changes = Vec::new();
    for _ in 0..count {
        let change = record::decode(groups);
        changes.push(change.map_err(|record| FrameError::Record { position, record })?);
    }
    Ok(changes)
}

#[cfg(test)]
mod tests;
