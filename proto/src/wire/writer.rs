//! Writing a message: one run of bytes, and notes where record bytes go in between.

use super::{Element, Records};
use crate::ids::TopicId;

/// Why a message can't be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The message has no such version.
    #[error("version {0} is not known")]
    UnknownVersion(i16),
    /// The field says something that this version has no place for.
    #[error("{field} can't be said in version {version}")]
    NoSuchField {
        /// The field.
        field: &'static str,
        /// The version.
        version: i16,
    },
    /// A null where the version has none.
    #[error("{field} can't be null in version {version}")]
    Null {
        /// The field.
        field: &'static str,
        /// The version.
        version: i16,
    },
    /// A string or run of bytes is longer than its length can say.
    #[error("{0} bytes are more than the length can say")]
    TooLong(usize),
}

/// Record bytes that belong into the message but were not copied there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Splice {
    /// Where in the written bytes they go.
    pub position: usize,
    /// How many they are.
    pub len: usize,
}

/// A message being written.
#[derive(Debug, Default, Clone)]
pub struct Writer {
    out: Vec<u8>,
    splices: Vec<Splice>,
    errors: Vec<(i16, u64)>,
    flexible: bool,
}

impl Writer {
    /// An empty one.
    pub fn new() -> Writer {
        Writer::default()
    }

    /// Forgets what was written and keeps the memory for the next message.
    pub fn clear(&mut self) {
        self.out.clear();
        self.splices.clear();
        self.errors.clear();
        self.flexible = false;
    }

    /// Switches to compact lengths and tagged fields, or back.
    pub fn set_flexible(&mut self, flexible: bool) {
        self.flexible = flexible;
    }

    /// Whether lengths are compact and structs end with tagged fields.
    pub fn flexible(&self) -> bool {
        self.flexible
    }

    /// Bytes written, without those to be spliced in.
    pub fn len(&self) -> usize {
        self.out.len()
    }

    /// Whether nothing is written.
    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    /// What was written.
    pub fn as_slice(&self) -> &[u8] {
        &self.out
    }

    /// Bytes of the whole message, spliced ones included.
    pub fn total_len(&self) -> usize {
        self.out.len() + self.splices.iter().map(|splice| splice.len).sum::<usize>()
    }

    /// The written bytes, and where others go in between, in order.
    pub fn into_parts(self) -> (Vec<u8>, Vec<Splice>) {
        (self.out, self.splices)
    }

    /// Counts an error code of the response being written, unless it is none.
    #[inline]
    pub fn note_error(&mut self, code: i16) {
        if code != 0 {
            self.count_error(code, 1);
        }
    }

    #[inline(never)]
    fn count_error(&mut self, code: i16, times: u64) {
        // There are some 130 codes, and few of them in one response.
        match self.errors.iter_mut().find(|(known, _)| *known == code) {
            Some((_, count)) => *count += times,
            None => self.errors.push((code, times)),
        }
    }

    /// The error codes in the response, each with how often it is there: of the response as a whole, and of
    /// each topic, partition or resource.
    pub fn errors(&self) -> &[(i16, u64)] {
        &self.errors
    }

    /// Overwrites four bytes written before: a length that is known only afterwards.
    pub fn patch_i32(&mut self, position: usize, value: i32) {
        if let Some(place) = self.out.get_mut(position..position + 4) {
            place.copy_from_slice(&value.to_be_bytes());
        }
    }

    /// Bytes as they are.
    #[inline]
    pub fn raw(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// Fields of fixed width, at most `ROOM` bytes of them, with one look at the memory for all.
    #[inline]
    pub fn run<const ROOM: usize>(&mut self, write: impl FnOnce(&mut Run<'_>)) {
        let start = self.out.len();
        // A store or two; with the room known, nothing is left to check for each field.
        self.out.extend_from_slice(&[0; ROOM]);
        if let Some(room) = self.out.last_chunk_mut::<ROOM>() {
            let mut run = Run { room };
            write(&mut run);
            let left = run.room.len();
            self.out.truncate(start + (ROOM - left));
        }
    }

    /// One byte.
    #[inline]
    pub fn i8(&mut self, value: i8) {
        self.raw(&value.to_be_bytes());
    }

    /// 1 or 0.
    #[inline]
    pub fn bool(&mut self, value: bool) {
        self.i8(i8::from(value));
    }

    /// Two bytes.
    #[inline]
    pub fn i16(&mut self, value: i16) {
        self.raw(&value.to_be_bytes());
    }

    /// Two bytes, unsigned.
    #[inline]
    pub fn u16(&mut self, value: u16) {
        self.raw(&value.to_be_bytes());
    }

    /// Four bytes.
    #[inline]
    pub fn i32(&mut self, value: i32) {
        self.raw(&value.to_be_bytes());
    }

    /// Four bytes, unsigned.
    #[inline]
    pub fn u32(&mut self, value: u32) {
        self.raw(&value.to_be_bytes());
    }

    /// Eight bytes.
    #[inline]
    pub fn i64(&mut self, value: i64) {
        self.raw(&value.to_be_bytes());
    }

    /// Eight bytes of IEEE 754.
    #[inline]
    pub fn f64(&mut self, value: f64) {
        self.raw(&value.to_be_bytes());
    }

    /// Sixteen bytes.
    #[inline]
    pub fn uuid(&mut self, value: TopicId) {
        self.raw(&value.0);
    }

    /// An unsigned varint.
    #[inline]
    pub fn uvarint(&mut self, value: u32) {
        // Nearly all are lengths and counts below 127, and the zero of no tagged fields.
        match u8::try_from(value) {
            Ok(byte) if byte < 0x80 => self.out.push(byte),
            _ => self.long_uvarint(value),
        }
    }

    #[inline(never)]
    fn long_uvarint(&mut self, value: u32) {
        let byte = |place: u32| (value >> (7 * place)).to_le_bytes()[0] | 0x80;
        let last = |place: u32| byte(place) & 0x7f;
        match value {
            // The records of most messages, and of a batch up to 2 MiB.
            0..0x4000 => self.raw(&[byte(0), last(1)]),
            0x4000..0x20_0000 => self.raw(&[byte(0), byte(1), last(2)]),
            0x20_0000..0x1000_0000 => self.raw(&[byte(0), byte(1), byte(2), last(3)]),
            _ => self.raw(&[byte(0), byte(1), byte(2), byte(3), last(4)]),
        }
    }

    #[inline]
    fn compact(&mut self, length: Option<usize>) -> Result<(), EncodeError> {
        let said = length.map_or(Some(0), |length| u32::try_from(length).ok()?.checked_add(1));
        self.uvarint(said.ok_or(EncodeError::TooLong(length.unwrap_or_default()))?);
        Ok(())
    }

    /// A string, or null.
    ///
    /// # Errors
    /// [`EncodeError::TooLong`].
    #[inline]
    pub fn string(&mut self, text: Option<&str>) -> Result<(), EncodeError> {
        let length = text.map(str::len);
        if self.flexible {
            self.compact(length)?;
        } else {
            let said = length.map_or(Ok(-1), i16::try_from);
            self.i16(said.map_err(|_| EncodeError::TooLong(length.unwrap_or_default()))?);
        }
        self.raw(text.unwrap_or_default().as_bytes());
        Ok(())
    }

    #[inline]
    fn bytes_length(&mut self, length: Option<usize>) -> Result<(), EncodeError> {
        if self.flexible {
            return self.compact(length);
        }
        let said = length.map_or(Ok(-1), i32::try_from);
        self.i32(said.map_err(|_| EncodeError::TooLong(length.unwrap_or_default()))?);
        Ok(())
    }

    /// Bytes, or null.
    ///
    /// # Errors
    /// [`EncodeError::TooLong`].
    #[inline]
    pub fn bytes(&mut self, bytes: Option<&[u8]>) -> Result<(), EncodeError> {
        self.bytes_length(bytes.map(<[u8]>::len))?;
        self.raw(bytes.unwrap_or_default());
        Ok(())
    }

    /// Record batches, here or to be spliced in.
    ///
    /// # Errors
    /// [`EncodeError::TooLong`].
    #[inline]
    pub fn records(&mut self, records: Records<'_>) -> Result<(), EncodeError> {
        match records {
            Records::Null => self.bytes_length(None),
            Records::Bytes(bytes) => self.bytes(Some(bytes)),
            Records::Splice(len) => {
                self.bytes_length(Some(len))?;
                if len > 0 {
                    self.splices.push(Splice {
                        position: self.out.len(),
                        len,
                    });
                }
                Ok(())
            }
        }
    }

    /// The count before an array's elements, `None` for a null array.
    #[inline]
    pub fn count(&mut self, count: Option<usize>) {
        // An array in memory never has 2^31 elements: each takes at least a byte of 2 GiB.
        let count = count.map_or(-1, |count| i32::try_from(count).unwrap_or(i32::MAX));
        if self.flexible {
            self.uvarint(count.cast_unsigned().wrapping_add(1));
        } else {
            self.i32(count);
        }
    }

    /// A struct that may be null.
    ///
    /// # Errors
    /// [`EncodeError`].
    pub fn nullable_struct<'a, T: Element<'a>>(
        &mut self,
        value: Option<&T>,
        version: i16,
    ) -> Result<(), EncodeError> {
        match value {
            None => {
                self.i8(-1);
                Ok(())
            }
            Some(value) => {
                self.i8(1);
                value.encode(self, version)
            }
        }
    }

    /// One tagged field: its tag, its size, and what `write` writes.
    ///
    /// # Errors
    /// [`EncodeError`].
    #[cold]
    pub fn tagged(
        &mut self,
        tag: u32,
        write: impl FnOnce(&mut Writer) -> Result<(), EncodeError>,
    ) -> Result<(), EncodeError> {
        let mut inside = Writer {
            flexible: true,
            ..Writer::default()
        };
        write(&mut inside)?;
        self.uvarint(tag);
        let size = u32::try_from(inside.total_len());
        self.uvarint(size.map_err(|_| EncodeError::TooLong(inside.total_len()))?);
        self.append(&inside);
        Ok(())
    }

    /// All that another wrote, behind what is here.
    pub(super) fn append(&mut self, other: &Writer) {
        assert_eq!(self.flexible, other.flexible, "both in one encoding");
        let at = self.out.len();
        self.splices
            .extend(other.splices.iter().map(|splice| Splice {
                position: splice.position + at,
                ..*splice
            }));
        self.raw(&other.out);
        for (code, times) in &other.errors {
            self.count_error(*code, *times);
        }
    }
}

/// Fields of fixed width being written; see [`Writer::run`].
#[derive(Debug)]
pub struct Run<'w> {
    room: &'w mut [u8],
}

impl Run<'_> {
    #[inline]
    fn put<const WIDTH: usize>(&mut self, bytes: [u8; WIDTH]) {
        // The generator counts the room from the fields it writes.
        let room = std::mem::take(&mut self.room);
        let (place, room) = room
            .split_first_chunk_mut()
            .expect("the run has room for its fields");
        *place = bytes;
        self.room = room;
    }
}

macro_rules! fixed {
    ($($name:ident: $type:ty;)*) => {
        impl Run<'_> {$(
            /// As [`Writer`] does.
            #[inline]
            pub fn $name(&mut self, value: $type) {
                self.put(value.to_be_bytes());
            }
        )*}
    };
}

fixed! {
    i8: i8;
    i16: i16;
    u16: u16;
    i32: i32;
    u32: u32;
    i64: i64;
    f64: f64;
}

impl Run<'_> {
    /// 1 or 0.
    #[inline]
    pub fn bool(&mut self, value: bool) {
        self.put([u8::from(value)]);
    }

    /// Sixteen bytes.
    #[inline]
    pub fn uuid(&mut self, value: TopicId) {
        self.put(value.0);
    }
}
