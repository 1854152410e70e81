//! The end of a table file: block checksums, partitions and their index, and the trailer that
//! finds them. The diagram is in the crate's docs.

use crc32fast::Hasher;
use streambus_proto::ids::{Offset, TopicId};

use super::filter::{PAGE_UNIT_BYTES, PROBES_MAX, SEGMENT_ENTRIES, pages_of};
use crate::codec::{Decoder, Encoder, Malformed};
use crate::key::PartitionKey;
use crate::wal::record::{BLOCK_BYTES, Nonce};

/// Version of the table format that this build writes. It reads version 1 as well, which has no
/// filters.
pub(crate) const TABLE_VERSION: u16 = 2;
const VERSION_BEFORE_FILTERS: u16 = 1;
/// The trailer stands in a block of its own at the end of the file.
pub(crate) const TRAILER_BYTES: usize = 64;

const TABLE_MAGIC: u32 = u32::from_le_bytes(*b"SBTB");
const CRC_POSITION: usize = TRAILER_BYTES - 4;
const INDEX_ENTRY_BYTES: usize = 24;
const PARTITION_BYTES_MIN: usize = 64;
const FILTER_BYTES: usize = 24;

/// Where batches of a partition begin in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IndexEntry {
    /// Base offset of the batch that begins at `position`.
    pub(crate) offset: Offset,
    /// Byte in the table.
    pub(crate) position: u64,
    /// Largest timestamp of the batches from here up to the next entry.
    pub(crate) max_timestamp: i64,
}

/// A Bloom filter over the keys of some segments of a part: see the `filter` module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeyFilter {
    /// The segments whose keys it has.
    pub(crate) first_segment: u32,
    pub(crate) segments: u32,
    /// Where it lies in the table, behind the batches.
    pub(crate) position: u64,
    pub(crate) bytes: u32,
    /// Bits that stand for an entry.
    pub(crate) probes: u32,
}

/// A partition's contiguous part of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TablePart {
    pub(crate) key: PartitionKey,
    /// Base offset of its first batch.
    pub(crate) start: Offset,
    /// Offset after its last batch.
    pub(crate) end: Offset,
    /// Where its first batch begins.
    pub(crate) position: u64,
    pub(crate) bytes: u64,
    pub(crate) max_timestamp: i64,
    /// Sparse, by offset and position; the first entry is the first batch.
    pub(crate) index: Vec<IndexEntry>,
    /// By segment. Segments that none of them covers may hold any key.
    pub(crate) filters: Vec<KeyFilter>,
}

impl TablePart {
    /// The last index entry at or before `offset`, and its number.
    pub(crate) fn index_before(&self, offset: Offset) -> (usize, IndexEntry) {
        let after = self.index.partition_point(|entry| entry.offset <= offset);
        let at = after.saturating_sub(1);
        (
            at,
            *self
                .index
                .get(at)
                .expect("a part has at least one index entry"),
        )
    }

    /// Segments of the part: so many entries of its index are one.
    pub(crate) fn segments(&self) -> u32 {
        let segments = self.index.len().div_ceil(SEGMENT_ENTRIES);
        u32::try_from(segments).expect("an index has fewer than 2^32 entries")
    }

    /// Where the batches of a segment lie in the table.
    pub(crate) fn segment_range(&self, segment: u32) -> std::ops::Range<u64> {
        let first = segment as usize * SEGMENT_ENTRIES;
        let start = self.index.get(first).map(|entry| entry.position);
        let start = start.expect("a segment of the part");
        let last = (first + SEGMENT_ENTRIES).min(self.index.len()) - 1;
        start..self.stride_end(last)
    }

    /// Where the batches of index entry `at` end.
    pub(crate) fn stride_end(&self, at: usize) -> u64 {
        self.index
            .get(at + 1)
            .map_or(self.position + self.bytes, |entry| entry.position)
    }
}

/// What the end of a table says about the rest of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Footer {
    pub(crate) id: u64,
    pub(crate) block_bytes: usize,
    /// Bytes of batches and of filters behind them, without the padding to whole I/O blocks.
    pub(crate) data_bytes: u64,
    /// One for each block of `block_bytes`; the last block may be shorter.
    pub(crate) block_crcs: Vec<u32>,
    /// Sorted by partition.
    pub(crate) parts: Vec<TablePart>,
}

impl Footer {
    /// Bytes of batches alone.
    pub(crate) fn batch_bytes(&self) -> u64 {
        self.parts
            .last()
            .map_or(0, |last| last.position + last.bytes)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let index: usize = self.parts.iter().map(|part| part.index.len()).sum();
        let bytes = 64 + self.block_crcs.len() * 4 + self.parts.len() * 112 + index * 24;
        let mut encoder = Encoder::with_capacity(bytes);
        encoder.u64(self.id);
        encoder.count(self.block_bytes);
        encoder.u64(self.data_bytes);
        encoder.count(self.block_crcs.len());
        for crc in &self.block_crcs {
            encoder.u32(*crc);
        }
        encoder.count(self.parts.len());
        for part in &self.parts {
            encode_part(&mut encoder, part);
        }
        encoder.finish()
    }

    /// Reads a footer whose CRC was found right, and checks that it agrees with itself.
    pub(crate) fn decode(bytes: &[u8], version: u16) -> Result<Footer, Malformed> {
        let mut decoder = Decoder::new(bytes);
        let id = decoder.u64()?;
        let block_bytes = usize::try_from(decoder.u32()?).map_err(|_| Malformed)?;
        let data_bytes = decoder.u64()?;
        let blocks = decoder.count(4)?;
        let block_crcs = (0..blocks)
            .map(|_| decoder.u32())
            .collect::<Result<Vec<_>, _>>()?;
        let parts = decoder.count(PARTITION_BYTES_MIN)?;
        let parts = (0..parts)
            .map(|_| decode_part(&mut decoder, version))
            .collect::<Result<Vec<_>, _>>()?;
        decoder.finish()?;
        let footer = Footer {
            id,
            block_bytes,
            data_bytes,
            block_crcs,
            parts,
        };
        if footer.agrees() {
            Ok(footer)
        } else {
            Err(Malformed)
        }
    }

    fn agrees(&self) -> bool {
        let aligned = self.block_bytes > 0 && self.block_bytes.is_multiple_of(BLOCK_BYTES);
        if !aligned || self.data_bytes.div_ceil(self.block_bytes as u64) != self.blocks() {
            return false;
        }
        let mut end = 0;
        let mut previous: Option<PartitionKey> = None;
        for part in &self.parts {
            let first = part
                .index
                .first()
                .map(|entry| (entry.offset, entry.position));
            let sorted = previous.is_none_or(|key| key < part.key);
            let mut steps = part.index.iter().zip(part.index.iter().skip(1));
            let indexed = steps
                .all(|(entry, next)| entry.offset < next.offset && entry.position < next.position);
            if part.position != end
                || part.start >= part.end
                || first != Some((part.start, part.position))
                || !sorted
                || !indexed
            {
                return false;
            }
            end = match part.position.checked_add(part.bytes) {
                Some(end) => end,
                None => return false,
            };
            if part.index.last().is_none_or(|entry| entry.position >= end) {
                return false;
            }
            previous = Some(part.key);
        }
        self.filters_follow(end)
    }

    /// Whether the filters lie one behind the other from `end` on, up to the end of the data.
    fn filters_follow(&self, mut end: u64) -> bool {
        for part in &self.parts {
            let mut segment = 0;
            for filter in &part.filters {
                let last = filter.first_segment.checked_add(filter.segments);
                let covers = filter.first_segment >= segment
                    && filter.segments > 0
                    && last.is_some_and(|last| last <= part.segments());
                let (pages, page_bytes) = pages_of(filter.bytes as usize);
                let whole = page_bytes > 0
                    && page_bytes.is_multiple_of(PAGE_UNIT_BYTES)
                    && pages * page_bytes == filter.bytes as usize;
                let probes = (1..=PROBES_MAX).contains(&filter.probes);
                if !covers || !whole || !probes || filter.position != end {
                    return false;
                }
                segment = filter.first_segment + filter.segments;
                end = match end.checked_add(u64::from(filter.bytes)) {
                    Some(end) => end,
                    None => return false,
                };
            }
        }
        end == self.data_bytes
    }

    fn blocks(&self) -> u64 {
        self.block_crcs.len() as u64
    }
}

fn encode_part(encoder: &mut Encoder, part: &TablePart) {
    encoder.raw(&part.key.topic.0);
    encoder.i32(part.key.index);
    encoder.i64(part.start.0);
    encoder.i64(part.end.0);
    encoder.u64(part.position);
    encoder.u64(part.bytes);
    encoder.i64(part.max_timestamp);
    encoder.count(part.index.len());
    for entry in &part.index {
        encoder.i64(entry.offset.0);
        encoder.u64(entry.position);
        encoder.i64(entry.max_timestamp);
    }
    encoder.count(part.filters.len());
    for filter in &part.filters {
        encoder.u32(filter.first_segment);
        encoder.u32(filter.segments);
        encoder.u64(filter.position);
        encoder.u32(filter.bytes);
        encoder.u32(filter.probes);
    }
}

fn decode_part(decoder: &mut Decoder<'_>, version: u16) -> Result<TablePart, Malformed> {
    let key = PartitionKey {
        topic: TopicId(decoder.uuid()?),
        index: decoder.i32()?,
    };
    let start = Offset(decoder.i64()?);
    let end = Offset(decoder.i64()?);
    let position = decoder.u64()?;
    let bytes = decoder.u64()?;
    let max_timestamp = decoder.i64()?;
    let entries = decoder.count(INDEX_ENTRY_BYTES)?;
    let mut index = Vec::with_capacity(entries);
    for _ in 0..entries {
        let offset = Offset(decoder.i64()?);
        let position = decoder.u64()?;
        let max_timestamp = decoder.i64()?;
        index.push(IndexEntry {
            offset,
            position,
            max_timestamp,
        });
    }
    let filters = match version {
        VERSION_BEFORE_FILTERS => 0,
        _ => decoder.count(FILTER_BYTES)?,
    };
    let mut decode_filter = || -> Result<KeyFilter, Malformed> {
        Ok(KeyFilter {
            first_segment: decoder.u32()?,
            segments: decoder.u32()?,
            position: decoder.u64()?,
            bytes: decoder.u32()?,
            probes: decoder.u32()?,
        })
    };
    let filters = (0..filters)
        .map(|_| decode_filter())
        .collect::<Result<Vec<_>, _>>()?;
    Ok(TablePart {
        key,
        start,
        end,
        position,
        bytes,
        max_timestamp,
        index,
        filters,
    })
}

/// The last block of a table: where the footer lies, and its checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Trailer {
    /// Of the footer's format.
    pub(crate) version: u16,
    pub(crate) id: u64,
    pub(crate) footer_position: u64,
    pub(crate) footer_bytes: u32,
    pub(crate) footer_crc: u32,
}

/// What the last block of a table turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TrailerRead {
    Valid(Trailer),
    /// A sound trailer of a format that this build does not read.
    OtherVersion(u16),
    Invalid,
}

impl Trailer {
    pub(crate) fn encode(&self, nonce: Nonce) -> [u8; TRAILER_BYTES] {
        let mut encoder = Encoder::with_capacity(TRAILER_BYTES);
        encoder.u32(TABLE_MAGIC);
        encoder.u16(self.version);
        encoder.u16(0);
        encoder.u64(self.id);
        encoder.u64(self.footer_position);
        encoder.u32(self.footer_bytes);
        encoder.u32(self.footer_crc);
        encoder.raw(&[0; CRC_POSITION - 32]);
        let fields = encoder.finish();
        let crc = checksum(nonce, self.id, 0, &fields);
        let mut bytes = [0; TRAILER_BYTES];
        for (to, from) in bytes
            .iter_mut()
            .zip(fields.iter().chain(&crc.to_le_bytes()))
        {
            *to = *from;
        }
        bytes
    }

    pub(crate) fn decode(block: &[u8], nonce: Nonce, id: u64) -> TrailerRead {
        let Some(bytes) = block.first_chunk::<TRAILER_BYTES>() else {
            return TrailerRead::Invalid;
        };
        let (fields, stored) = bytes.split_at(CRC_POSITION);
        if checksum(nonce, id, 0, fields).to_le_bytes() != *stored {
            return TrailerRead::Invalid;
        }
        match Trailer::fields(fields) {
            Ok(trailer) if !(VERSION_BEFORE_FILTERS..=TABLE_VERSION).contains(&trailer.version) => {
                TrailerRead::OtherVersion(trailer.version)
            }
            Ok(trailer) if trailer.id == id => TrailerRead::Valid(trailer),
            _ => TrailerRead::Invalid,
        }
    }

    fn fields(bytes: &[u8]) -> Result<Trailer, Malformed> {
        let mut decoder = Decoder::new(bytes);
        if decoder.u32()? != TABLE_MAGIC {
            return Err(Malformed);
        }
        let version = decoder.u16()?;
        decoder.u16()?;
        Ok(Trailer {
            version,
            id: decoder.u64()?,
            footer_position: decoder.u64()?,
            footer_bytes: decoder.u32()?,
            footer_crc: decoder.u32()?,
        })
    }
}

/// Checksum of `bytes` as they lie at `position` of table `id`: sound bytes in another place, of
/// another length or of another lane's table do not verify.
pub(crate) fn checksum(nonce: Nonce, id: u64, position: u64, bytes: &[u8]) -> u32 {
    let mut running = BlockChecksum::new(nonce, id, position);
    running.update(bytes);
    running.finish()
}

/// A [`checksum`] over bytes that come in parts.
#[derive(Debug, Clone)]
pub(crate) struct BlockChecksum {
    hasher: Hasher,
    bytes: u64,
}

impl BlockChecksum {
    pub(crate) fn new(nonce: Nonce, id: u64, position: u64) -> BlockChecksum {
        let mut hasher = Hasher::new();
        hasher.update(&nonce.0.to_le_bytes());
        hasher.update(&id.to_le_bytes());
        hasher.update(&position.to_le_bytes());
        BlockChecksum { hasher, bytes: 0 }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn finish(mut self) -> u32 {
        self.hasher.update(&self.bytes.to_le_bytes());
        self.hasher.finalize()
    }
}
