//! Makes batches: for clients, for the records a broker writes itself, and for the cleaner.

use super::batch::{Attributes, BATCH_BYTES_MIN, BatchView, LENGTH_PREFIX_BYTES, MAGIC, at};
use super::compression::Codec;
use super::cursor::{put_varlong, varlong_len};
use super::decompress::{Progress, STEP_BYTES};
use super::encoder::Encoder;
use super::error::RecordsError;
use super::patch::{put, set_crc};
use super::record::{Header, Record};
use crate::ids::{LeaderEpoch, Offset, ProducerEpoch, ProducerId};

/// A record to be put into a batch.
#[derive(Debug, Clone, Copy, Default)]
pub struct NewRecord<'a> {
    /// Milliseconds since 1970.
    pub timestamp: i64,
    /// The key.
    pub key: Option<&'a [u8]>,
    /// The value.
    pub value: Option<&'a [u8]>,
    /// The headers, in order.
    pub headers: &'a [Header<'a>],
}

/// Collects records and writes them as one batch. Bounded by its caller, who looks at
/// [`BatchBuilder::len_with`] before each push; a batch's length is 31 bits.
#[derive(Debug, Clone)]
pub struct BatchBuilder {
    codec: Codec,
    flags: i16,
    base_offset: Offset,
    leader_epoch: LeaderEpoch,
    producer: Option<(ProducerId, ProducerEpoch, i32)>,
    /// Encoded, not yet compressed.
    records: Vec<u8>,
    record_count: i32,
    last_offset_delta: i32,
    base_timestamp: i64,
    max_timestamp: i64,
    /// The base timestamp is the delete horizon, not the first record's.
    has_delete_horizon: bool,
}

impl BatchBuilder {
    /// An empty batch whose records will be compressed with `codec`.
    pub fn new(codec: Codec) -> Self {
        BatchBuilder {
            codec,
            flags: 0,
            base_offset: Offset(0),
            leader_epoch: LeaderEpoch(-1),
            producer: None,
            records: Vec::new(),
            record_count: 0,
            last_offset_delta: -1,
            base_timestamp: -1,
            max_timestamp: -1,
            has_delete_horizon: false,
        }
    }

    /// An empty batch of the kind and at the place of `batch`, for the cleaner, who pushes what it
    /// keeps and stretches the batch to its old end. With `delete_horizon_ms` the batch says from
    /// when on its tombstones may go; one that says so already goes on saying it.
    ///
    /// # Errors
    /// [`RecordsError::UnsupportedCompression`].
    pub fn remaining_of(
        batch: &BatchView<'_>,
        delete_horizon_ms: Option<i64>,
    ) -> Result<Self, RecordsError> {
        let attributes = batch.attributes();
        let mut builder = BatchBuilder::new(batch.codec()?);
        builder.set_place(batch.base_offset(), batch.partition_leader_epoch());
        builder.flags = attributes.0 & !Attributes::CODEC;
        if let Some(id) = batch.producer_id() {
            builder.set_producer(id, batch.producer_epoch(), batch.base_sequence());
        }
        builder.max_timestamp = batch.max_timestamp();
        builder.base_timestamp = delete_horizon_ms.unwrap_or(batch.base_timestamp());
        builder.has_delete_horizon = attributes.has_delete_horizon() || delete_horizon_ms.is_some();
        if builder.has_delete_horizon {
            builder.flags |= Attributes::DELETE_HORIZON;
        }
        Ok(builder)
    }

    /// Makes the batch one of an idempotent producer.
    pub fn set_producer(&mut self, id: ProducerId, epoch: ProducerEpoch, base_sequence: i32) {
        self.producer = Some((id, epoch, base_sequence));
    }

    /// Makes the batch part of a transaction. It needs a producer as well.
    pub fn set_transactional(&mut self) {
        self.flags |= Attributes::TRANSACTIONAL;
    }

    /// Gives the batch a place in a log, for those who write logs and not requests.
    pub fn set_place(&mut self, base_offset: Offset, leader_epoch: LeaderEpoch) {
        self.base_offset = base_offset;
        self.leader_epoch = leader_epoch;
    }

    pub(super) fn set_flags(&mut self, flags: i16) {
        self.flags |= flags;
    }

    /// Appends a record behind the last.
    ///
    /// # Panics
    /// If the batch would pass 2^31 records or bytes.
    pub fn push(&mut self, record: &NewRecord<'_>) {
        let delta = self
            .last_offset_delta
            .checked_add(1)
            .expect("fewer than 2^31 records");
        self.push_at(delta, record);
    }

    /// Appends a record of another batch at the place it had there, which leaves holes.
    ///
    /// # Panics
    /// If that is not behind the last, or the batch would pass 2^31 records or bytes.
    pub fn push_again(&mut self, record: &Record<'_>) {
        let headers: Vec<Header<'_>> = record.headers.iter().collect();
        let again = NewRecord {
            timestamp: record.timestamp,
            key: record.key,
            value: record.value,
            headers: &headers,
        };
        self.push_at(record.offset_delta, &again);
    }

    pub(super) fn push_at(&mut self, offset_delta: i32, record: &NewRecord<'_>) {
        assert!(
            offset_delta > self.last_offset_delta,
            "offset deltas only grow"
        );
        if self.record_count == 0 {
            if !self.has_delete_horizon {
                self.base_timestamp = record.timestamp;
            }
            self.max_timestamp = record.timestamp;
        }
        self.max_timestamp = self.max_timestamp.max(record.timestamp);
        let timestamp_delta = record.timestamp.wrapping_sub(self.base_timestamp);
        let size = record_size(offset_delta, timestamp_delta, record);
        let out = &mut self.records;
        assert!(
            out.len() + size < MAX_RECORDS_BYTES,
            "a batch is below 2^31 bytes"
        );
        put_varlong(out, size_as_varint(size));
        let start = out.len();
        out.push(0);
        put_varlong(out, timestamp_delta);
        put_varlong(out, i64::from(offset_delta));
        put_bytes(out, record.key);
        put_bytes(out, record.value);
        put_varlong(out, size_as_varint(record.headers.len()));
        for header in record.headers {
            put_bytes(out, Some(header.key));
            put_bytes(out, header.value);
        }
        debug_assert_eq!(
            out.len() - start,
            size,
            "the size foretold is the size written"
        );
        self.record_count += 1;
        self.last_offset_delta = offset_delta;
    }

    /// Stretches the batch over offsets behind its last record, whose records the cleaner removed.
    ///
    /// # Panics
    /// If the batch already reaches further.
    pub fn stretch_to(&mut self, last_offset_delta: i32) {
        assert!(
            last_offset_delta >= self.last_offset_delta,
            "offset deltas only grow"
        );
        self.last_offset_delta = last_offset_delta;
    }

    /// Records in the batch.
    pub fn record_count(&self) -> i32 {
        self.record_count
    }

    /// Whether nothing was pushed yet.
    pub fn is_empty(&self) -> bool {
        self.record_count == 0
    }

    /// Bytes of the batch as it stands, not counting what compression will save.
    pub fn len(&self) -> usize {
        BATCH_BYTES_MIN + self.records.len()
    }

    /// What [`BatchBuilder::len`] will be after pushing `record`.
    pub fn len_with(&self, record: &NewRecord<'_>) -> usize {
        let base = if self.record_count == 0 {
            record.timestamp
        } else {
            self.base_timestamp
        };
        let timestamp_delta = record.timestamp.wrapping_sub(base);
        let size = record_size(
            self.last_offset_delta.wrapping_add(1),
            timestamp_delta,
            record,
        );
        self.len() + varlong_len(size_as_varint(size)) + size
    }

    /// Writes the batch, and empties the builder for the next one of the same kind: a producer's
    /// sequence moves on, a place does not.
    pub fn build(&mut self) -> Vec<u8> {
        let mut encoder = self.encoder();
        encoder.write(&self.records);
        let batch = self.finish(encoder);
        self.reset();
        batch
    }

    /// Begins to write the batch in steps.
    pub fn build_in_steps(self) -> BatchBuild {
        BatchBuild {
            encoder: self.encoder(),
            builder: self,
            written: 0,
        }
    }

    fn encoder(&self) -> Encoder {
        // Compressed output can exceed its input by a little: the frame's own bytes.
        let mut out = Vec::with_capacity(self.len() + 64);
        out.resize(BATCH_BYTES_MIN, 0);
        Encoder::new(self.codec, None, out)
    }

    /// The batch, whose records went into `encoder`.
    fn finish(&self, encoder: Encoder) -> Vec<u8> {
        let mut out = encoder.finish();
        let length = i32::try_from(out.len() - LENGTH_PREFIX_BYTES).expect("below 2^31 bytes");
        let (id, epoch, sequence) =
            self.producer
                .unwrap_or((ProducerId(-1), ProducerEpoch(-1), -1));
        let attributes = self.flags | i16::from(self.codec as u8);
        put::<{ at::BASE_OFFSET }, 8>(&mut out, self.base_offset.0.to_be_bytes());
        put::<{ at::BATCH_LENGTH }, 4>(&mut out, length.to_be_bytes());
        put::<{ at::PARTITION_LEADER_EPOCH }, 4>(&mut out, self.leader_epoch.0.to_be_bytes());
        put::<{ at::MAGIC }, 1>(&mut out, MAGIC.to_be_bytes());
        put::<{ at::ATTRIBUTES }, 2>(&mut out, attributes.to_be_bytes());
        put::<{ at::LAST_OFFSET_DELTA }, 4>(&mut out, self.last_offset_delta.to_be_bytes());
        put::<{ at::BASE_TIMESTAMP }, 8>(&mut out, self.base_timestamp.to_be_bytes());
        put::<{ at::MAX_TIMESTAMP }, 8>(&mut out, self.max_timestamp.to_be_bytes());
        put::<{ at::PRODUCER_ID }, 8>(&mut out, id.0.to_be_bytes());
        put::<{ at::PRODUCER_EPOCH }, 2>(&mut out, epoch.0.to_be_bytes());
        put::<{ at::BASE_SEQUENCE }, 4>(&mut out, sequence.to_be_bytes());
        put::<{ at::RECORD_COUNT }, 4>(&mut out, self.record_count.to_be_bytes());
        set_crc(&mut out);
        out
    }

    fn reset(&mut self) {
        if let Some((_, _, sequence)) = &mut self.producer
            && *sequence >= 0
        {
            // From i32::MAX sequences go on with 0.
            *sequence = sequence.wrapping_add(self.record_count) & i32::MAX;
        }
        self.records.clear();
        self.record_count = 0;
        self.last_offset_delta = -1;
    }
}

/// A batch that is written in steps.
pub struct BatchBuild {
    builder: BatchBuilder,
    encoder: Encoder,
    /// Bytes of its records that are compressed.
    written: usize,
}

impl BatchBuild {
    /// Compresses the next [`STEP_BYTES`] of the records.
    pub fn step(&mut self) -> Progress {
        let left = self.builder.records.get(self.written..);
        let left = left.unwrap_or_default();
        let now = left.get(..left.len().min(STEP_BYTES)).unwrap_or_default();
        self.encoder.write(now);
        self.written += now.len();
        if self.written < self.builder.records.len() {
            Progress::More
        } else {
            Progress::Done
        }
    }

    /// The batch.
    ///
    /// # Panics
    /// If the last step was not [`Progress::Done`].
    pub fn finish(self) -> Vec<u8> {
        assert!(
            self.written == self.builder.records.len(),
            "a batch of half its records"
        );
        self.builder.finish(self.encoder)
    }
}

/// Records below this leave room for the header and a codec's frame under a 31-bit length.
const MAX_RECORDS_BYTES: usize = (i32::MAX - (1 << 20)) as usize;

fn record_size(offset_delta: i32, timestamp_delta: i64, record: &NewRecord<'_>) -> usize {
    let headers: usize = record
        .headers
        .iter()
        .map(|header| bytes_size(Some(header.key)) + bytes_size(header.value))
        .sum();
    1 + varlong_len(timestamp_delta)
        + varlong_len(i64::from(offset_delta))
        + bytes_size(record.key)
        + bytes_size(record.value)
        + varlong_len(size_as_varint(record.headers.len()))
        + headers
}

fn bytes_size(bytes: Option<&[u8]>) -> usize {
    let length = bytes.map_or(0, <[u8]>::len);
    varlong_len(bytes.map_or(-1, |bytes| size_as_varint(bytes.len()))) + length
}

fn put_bytes(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    put_varlong(out, bytes.map_or(-1, |bytes| size_as_varint(bytes.len())));
    out.extend_from_slice(bytes.unwrap_or_default());
}

/// A slice's length never passes `isize::MAX`.
fn size_as_varint(size: usize) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}
