//! The records inside a batch, borrowed from it, or from what it was decompressed into.

use super::batch::{BatchView, TimestampType};
use super::compression::{Codec, DecompressLimits, decompress};
use super::cursor::Cursor;
use super::decompress::Decompressor;
use super::error::RecordsError;
use crate::ids::Offset;

/// The fewest bytes a record takes: length, attributes, two deltas, two lengths, a header count.
pub(super) const RECORD_BYTES_MIN: usize = 7;
/// The fewest bytes a header takes: its two lengths.
const HEADER_BYTES_MIN: usize = 2;

/// One record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its offset, if the batch's base offset is the broker's.
    pub offset: Offset,
    /// Its place after the batch's base offset.
    pub offset_delta: i32,
    /// Milliseconds since 1970: the producer's, or the batch's if that has the append time.
    pub timestamp: i64,
    /// The key.
    pub key: Option<&'a [u8]>,
    /// The value; a record without one is a tombstone in a compacted topic.
    pub value: Option<&'a [u8]>,
    /// The headers, in order, repeated names kept.
    pub headers: Headers<'a>,
}

/// One header of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header<'a> {
    /// The name: text by convention, which nobody checks.
    pub key: &'a [u8],
    /// The value.
    pub value: Option<&'a [u8]>,
}

/// The headers of a record, already checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Headers<'a> {
    bytes: &'a [u8],
    count: usize,
}

impl<'a> Headers<'a> {
    /// How many headers there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The headers one by one.
    pub fn iter(&self) -> impl Iterator<Item = Header<'a>> + use<'a> {
        let mut cursor = Cursor::new(self.bytes);
        // They were all read once when the record was: none fails now.
        std::iter::from_fn(move || {
            if cursor.is_empty() {
                None
            } else {
                read_header(&mut cursor).ok()
            }
        })
    }

    fn read(cursor: &mut Cursor<'a>) -> Result<Self, RecordsError> {
        let count = cursor.length()?;
        let bytes = cursor.rest();
        if count > bytes.len() / HEADER_BYTES_MIN {
            return Err(RecordsError::Corrupt("more headers than bytes for them"));
        }
        for _ in 0..count {
            read_header(cursor)?;
        }
        if !cursor.is_empty() {
            return Err(RecordsError::Corrupt("bytes after a record's headers"));
        }
        Ok(Headers { bytes, count })
    }
}

fn read_header<'a>(cursor: &mut Cursor<'a>) -> Result<Header<'a>, RecordsError> {
    let length = cursor.length()?;
    let key = cursor.take(length)?;
    Ok(Header {
        key,
        value: cursor.nullable_bytes()?,
    })
}

/// Iterates over a batch's records: exactly as many as its header says, in all of its bytes.
/// Ends after the first error.
#[derive(Debug, Clone)]
pub struct Records<'a> {
    cursor: Cursor<'a>,
    left: usize,
    done: bool,
    base_offset: Offset,
    base_timestamp: i64,
    append_time: Option<i64>,
}

impl<'a> Records<'a> {
    fn new(batch: &BatchView<'_>, payload: &'a [u8]) -> Result<Self, RecordsError> {
        let count = usize::try_from(batch.record_count())
            .map_err(|_| RecordsError::Corrupt("negative record count"))?;
        if count > payload.len() / RECORD_BYTES_MIN {
            return Err(RecordsError::Corrupt("more records than bytes for them"));
        }
        let append_time = match batch.attributes().timestamp_type() {
            TimestampType::CreateTime => None,
            TimestampType::LogAppendTime => Some(batch.max_timestamp()),
        };
        Ok(Records {
            cursor: Cursor::new(payload),
            left: count,
            done: false,
            base_offset: batch.base_offset(),
            base_timestamp: batch.base_timestamp(),
            append_time,
        })
    }

    fn read(&mut self) -> Result<Record<'a>, RecordsError> {
        let length = self.cursor.length()?;
        let mut record = Cursor::new(self.cursor.take(length)?);
        record.byte()?; // A record's attributes: eight bits, none of them in use.
        let timestamp_delta = record.varlong()?;
        let offset_delta = record.varint()?;
        let key = record.nullable_bytes()?;
        let value = record.nullable_bytes()?;
        let headers = Headers::read(&mut record)?;
        let created = self.base_timestamp.wrapping_add(timestamp_delta);
        Ok(Record {
            offset: Offset(self.base_offset.0.wrapping_add(i64::from(offset_delta))),
            offset_delta,
            timestamp: self.append_time.unwrap_or(created),
            key,
            value,
            headers,
        })
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, RecordsError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        if self.left == 0 {
            self.done = true;
            let clean = self.cursor.is_empty();
            return (!clean).then_some(Err(RecordsError::Corrupt("bytes after the last record")));
        }
        self.left -= 1;
        let record = self.read();
        self.done = record.is_err();
        Some(record)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        // Bounded by the payload's size: the count was checked against it.
        (0, Some(self.left + 1))
    }
}

impl std::iter::FusedIterator for Records<'_> {}

impl<'a> BatchView<'a> {
    /// The records. Of a compressed batch they are decompressed into `scratch`, which is cleared
    /// first and can be used again and again; else they borrow from the batch.
    ///
    /// # Errors
    /// [`RecordsError::TooLarge`] if they decompress to more than `limits` allows,
    /// [`RecordsError::UnsupportedCompression`], [`RecordsError::Corrupt`].
    pub fn records<'s>(
        &self,
        scratch: &'s mut Vec<u8>,
        limits: DecompressLimits,
    ) -> Result<Records<'s>, RecordsError>
    where
        'a: 's,
    {
        let payload: &'s [u8] = match self.codec()? {
            Codec::None => self.body(),
            codec => {
                decompress(codec, self.body(), limits, scratch)?;
                scratch
            }
        };
        Records::new(self, payload)
    }

    /// The decompression of the records, to be done in steps. [`BatchView::records_in`] reads what it gives.
    ///
    /// # Errors
    /// [`RecordsError::UnsupportedCompression`], [`RecordsError::Corrupt`].
    pub fn decompression(
        &self,
        limits: DecompressLimits,
    ) -> Result<Decompressor<'a>, RecordsError> {
        Decompressor::new(self.codec()?, self.body(), limits)
    }

    /// The records, which were decompressed to `payload`.
    ///
    /// # Errors
    /// [`RecordsError::Corrupt`].
    pub fn records_in<'s>(&self, payload: &'s [u8]) -> Result<Records<'s>, RecordsError> {
        Records::new(self, payload)
    }
}
