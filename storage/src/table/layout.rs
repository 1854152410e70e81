//! Works out a table's blocks and index while its batches are added, in order. No I/O.

use streambus_proto::ids::Offset;

use super::filter::{BuiltFilter, FilterBuilder, FilterKey, SEGMENT_ENTRIES};
use super::footer::{BlockChecksum, Footer, IndexEntry, KeyFilter, TablePart};
use crate::clean::for_each_key;
use crate::key::PartitionKey;
use crate::key_hash::KeyHash;
use crate::wal::record::Nonce;

/// The footer in the making. Batches come sorted by (partition, offset).
pub(crate) struct Layout {
    nonce: Nonce,
    id: u64,
    block_bytes: usize,
    index_stride_bytes: u64,
    data_bytes: u64,
    block: BlockChecksum,
    block_crcs: Vec<u32>,
    parts: Vec<TablePart>,
    filters: FilterBuilder,
}

impl Layout {
    pub(crate) fn new(nonce: Nonce, id: u64, block_bytes: usize, stride: usize) -> Layout {
        assert!(block_bytes > 0, "blocks of no bytes");
        Layout {
            nonce,
            id,
            block_bytes,
            index_stride_bytes: stride as u64,
            data_bytes: 0,
            block: BlockChecksum::new(nonce, id, 0),
            block_crcs: Vec::new(),
            parts: Vec::new(),
            filters: FilterBuilder::default(),
        }
    }

    /// Counts in the next batch, whose bytes follow those of the one before.
    ///
    /// # Panics
    /// If batches come out of order: a table that is not sorted cannot be searched.
    pub(crate) fn add(
        &mut self,
        key: PartitionKey,
        base_offset: Offset,
        last_offset: Offset,
        max_timestamp: i64,
        bytes: &[u8],
    ) {
        assert!(
            last_offset >= base_offset,
            "batch that ends before it begins"
        );
        let entry = IndexEntry {
            offset: base_offset,
            position: self.data_bytes,
            max_timestamp,
        };
        match self.parts.last_mut() {
            Some(part) if part.key == key => {
                assert!(base_offset >= part.end, "batches out of order in a table");
                let last = part
                    .index
                    .last_mut()
                    .expect("a part begins with an index entry");
                if entry.position - last.position >= self.index_stride_bytes {
                    part.index.push(entry);
                } else {
                    last.max_timestamp = last.max_timestamp.max(max_timestamp);
                }
                part.end = Offset(last_offset.0 + 1);
                part.bytes += bytes.len() as u64;
                part.max_timestamp = part.max_timestamp.max(max_timestamp);
            }
            previous => {
                let sorted = previous.is_none_or(|part| part.key < key);
                assert!(sorted, "partitions out of order in a table");
                self.parts.push(TablePart {
                    key,
                    start: base_offset,
                    end: Offset(last_offset.0 + 1),
                    position: self.data_bytes,
                    bytes: bytes.len() as u64,
                    max_timestamp,
                    index: vec![entry],
                    filters: Vec::new(),
                });
            }
        }
        self.checksum(bytes);
    }

    /// Notes the keys of the batch that was added last: its segment's filter will know of them.
    ///
    /// A part has filters if this is called for each of its batches.
    pub(crate) async fn note_keys(&mut self, batch: &[u8], hash: KeyHash, scratch: &mut Vec<u8>) {
        let part = self.parts.len().checked_sub(1).expect("a batch was added");
        let entries = self.parts.last().map_or(0, |part| part.index.len());
        let segment = entries.saturating_sub(1) / SEGMENT_ENTRIES;
        let segment = u32::try_from(segment).expect("an index has fewer than 2^32 entries");
        self.filters.enter(part, segment).await;
        let note = |key: &[u8]| self.filters.note(FilterKey::new(hash.of(key)));
        if for_each_key(batch, scratch, note).await.is_err() {
            self.filters.spoil();
        }
    }

    /// All batches were added: gives the filters their places behind them, and their bytes, which
    /// follow those of the batches.
    pub(crate) async fn place_filters(&mut self) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        let filters = std::mem::take(&mut self.filters);
        for built in filters.finish().await {
            let BuiltFilter { part, bytes, .. } = built;
            let filter = KeyFilter {
                first_segment: built.first_segment,
                segments: built.segments,
                position: self.data_bytes,
                bytes: u32::try_from(bytes.len()).expect("filters stay below 4 GiB"),
                probes: built.probes,
            };
            let part = self.parts.get_mut(part).expect("filters of its parts");
            part.filters.push(filter);
            self.checksum(&bytes);
            all.push(bytes);
        }
        all
    }

    fn checksum(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let filled = usize::try_from(self.block.bytes()).expect("less than a block");
            let take = bytes.len().min(self.block_bytes - filled);
            let (now, later) = bytes.split_at(take);
            self.block.update(now);
            self.data_bytes += take as u64;
            if filled + take == self.block_bytes {
                self.close_block();
            }
            bytes = later;
        }
    }

    fn close_block(&mut self) {
        let next = BlockChecksum::new(self.nonce, self.id, self.data_bytes);
        let block = std::mem::replace(&mut self.block, next);
        self.block_crcs.push(block.finish());
    }

    pub(crate) fn finish(mut self) -> Footer {
        assert!(!self.parts.is_empty(), "a table of nothing");
        if self.block.bytes() > 0 {
            self.close_block();
        }
        let blocks = self.data_bytes.div_ceil(self.block_bytes as u64);
        assert!(
            self.block_crcs.len() as u64 == blocks,
            "a checksum for each block"
        );
        Footer {
            id: self.id,
            block_bytes: self.block_bytes,
            data_bytes: self.data_bytes,
            block_crcs: self.block_crcs,
            parts: self.parts,
        }
    }
}
