//! Writes a sorted table: large direct writes, one on its way while the next is filled.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use streambus_shards::{
    Buf, BufMut, DiskError, File, OpenOptions, Queue, Task, disk, spawn_in, yield_if_needed,
};

use super::footer::{TABLE_VERSION, TRAILER_BYTES, Trailer, checksum};
use super::layout::Layout;
use crate::config::LaneConfig;
use crate::error::StorageError;
use crate::key::PartitionKey;
use crate::key_hash::KeyHash;
use crate::memtable::MemBatch;
use crate::names;
use crate::wal::record::{BLOCK_BYTES, Nonce};

/// Bytes of each write: large enough for all but a few percent of the device's bandwidth, small enough that two of
/// them in flight do not hold up a WAL commit for long.
const WRITE_BYTES: usize = 256 << 10;

/// A table in the making, in the file `table-<id>.new`.
pub(crate) struct TableWriter {
    path: PathBuf,
    nonce: Nonce,
    id: u64,
    file: Rc<File>,
    layout: Layout,
    /// What a batch unfolds to, when its keys are noted.
    scratch: Vec<u8>,
    chunk: BufMut,
    /// Bytes handed to the disk so far.
    position: u64,
    in_flight: Option<Task<Result<(), DiskError>>>,
}

impl TableWriter {
    /// Creates the file and reserves `bytes_expected`, so that a full disk shows before the work.
    pub(crate) async fn create(
        dir: &Path,
        nonce: Nonce,
        id: u64,
        bytes_expected: u64,
        config: &LaneConfig,
    ) -> Result<TableWriter, StorageError> {
        let path = dir.join(names::table_new(id));
        let failed = |source| StorageError::disk(&path, source);
        let options = OpenOptions {
            write: true,
            create: true,
            direct: true,
            ..OpenOptions::default()
        };
        let file = File::open(&path, options).await.map_err(failed)?;
        let reserve = bytes_expected.next_multiple_of(BLOCK_BYTES as u64);
        file.allocate(reserve).await.map_err(failed)?;
        Ok(TableWriter {
            nonce,
            id,
            file: Rc::new(file),
            layout: Layout::new(nonce, id, config.block_bytes, config.index_stride_bytes),
            scratch: Vec::new(),
            chunk: BufMut::with_capacity(WRITE_BYTES),
            position: 0,
            in_flight: None,
            path,
        })
    }

    /// Adds the next batch: batches come sorted by (partition, offset). A part is `keyed`, all of it
    /// or nothing, if its keys can be looked up by filters.
    pub(crate) async fn push(
        &mut self,
        key: PartitionKey,
        batch: &MemBatch,
        keyed: bool,
    ) -> Result<(), StorageError> {
        let (base, last) = (batch.base_offset, batch.last_offset);
        self.layout
            .add(key, base, last, batch.max_timestamp, &batch.bytes);
        if keyed {
            let hash = KeyHash::new(self.nonce);
            self.layout
                .note_keys(&batch.bytes, hash, &mut self.scratch)
                .await;
            yield_if_needed().await;
        }
        self.write(&batch.bytes).await
    }

    /// Writes what is left, filters, footer and trailer, and syncs; returns the file's bytes.
    pub(crate) async fn finish(mut self) -> Result<u64, StorageError> {
        let mut layout =
            std::mem::replace(&mut self.layout, Layout::new(self.nonce, self.id, 1, 1));
        for filter in layout.place_filters().await {
            self.write(&filter).await?;
        }
        let footer = layout.finish();
        self.pad().await?;
        let footer_position = self.position + self.chunk.len() as u64;
        let encoded = footer.encode();
        let footer_bytes = u32::try_from(encoded.len()).expect("footers stay below 4 GiB");
        let footer_crc = checksum(self.nonce, self.id, footer_position, &encoded);
        self.write(&encoded).await?;
        self.pad().await?;
        let trailer = Trailer {
            version: TABLE_VERSION,
            id: self.id,
            footer_position,
            footer_bytes,
            footer_crc,
        };
        let mut block = [0; BLOCK_BYTES];
        for (to, from) in block.iter_mut().zip(trailer.encode(self.nonce)) {
            *to = from;
        }
        const { assert!(TRAILER_BYTES <= BLOCK_BYTES) };
        self.write(&block).await?;
        self.send_chunk().await?;
        self.settle().await?;
        let failed = |source| StorageError::disk(&self.path, source);
        // The reservation may have been larger than what it took.
        self.file.set_len(self.position).map_err(failed)?;
        self.file.datasync().await.map_err(failed)?;
        Ok(self.position)
    }

    /// Gives up the table and removes its file, if it is there.
    ///
    /// # Errors
    /// [`StorageError`] if the file is there still.
    pub(crate) async fn abandon(dir: &Path, id: u64) -> Result<(), StorageError> {
        let path = dir.join(names::table_new(id));
        match disk::remove_file(&path).await {
            Ok(()) | Err(DiskError::NotFound { .. }) => Ok(()),
            Err(error) => Err(StorageError::disk(&path, error)),
        }
    }

    async fn write(&mut self, mut bytes: &[u8]) -> Result<(), StorageError> {
        while !bytes.is_empty() {
            let take = bytes.len().min(self.chunk.remaining());
            let (now, later) = bytes.split_at(take);
            self.chunk.extend_from_slice(now);
            if self.chunk.remaining() == 0 {
                self.send_chunk().await?;
            }
            bytes = later;
        }
        Ok(())
    }

    async fn pad(&mut self) -> Result<(), StorageError> {
        let padding = self.chunk.len().next_multiple_of(BLOCK_BYTES) - self.chunk.len();
        self.chunk.put_zeros(padding);
        if self.chunk.remaining() == 0 {
            self.send_chunk().await
        } else {
            Ok(())
        }
    }

    /// Waits for the write before, then starts this one and goes on in a fresh chunk.
    async fn send_chunk(&mut self) -> Result<(), StorageError> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        assert!(
            self.chunk.len().is_multiple_of(BLOCK_BYTES),
            "unaligned table write"
        );
        self.settle().await?;
        let chunk = std::mem::replace(&mut self.chunk, BufMut::with_capacity(WRITE_BYTES));
        let bytes: Buf = chunk.freeze();
        let (file, position) = (Rc::clone(&self.file), self.position);
        self.position += bytes.len() as u64;
        let write = async move { file.write_at(position, &bytes).await };
        self.in_flight = Some(spawn_in(Queue::Background, write));
        yield_if_needed().await;
        Ok(())
    }

    async fn settle(&mut self) -> Result<(), StorageError> {
        let Some(write) = self.in_flight.take() else {
            return Ok(());
        };
        write
            .await
            .map_err(|source| StorageError::disk(&self.path, source))
    }
}
