//! Reading from a frame.

use std::borrow::Cow;

use super::{Array, Element, Records};
use crate::ids::TopicId;

/// Longest unsigned varint of 32 bits.
const VARINT_BYTES_MAX: usize = 5;
/// Longest string. The first encoding counts its bytes in 16 bits; Kafka holds compact strings to the same.
const STRING_BYTES_MAX: usize = 0x7fff;

/// Why bytes are not the message they should be. The connection is not worth keeping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The frame ends before the field does.
    #[error("{wanted} more bytes were announced than the {left} that are left")]
    Truncated {
        /// Bytes needed.
        wanted: usize,
        /// Bytes there.
        left: usize,
    },
    /// A length or count is negative where null is not allowed, or larger than what is left.
    #[error("a length of {0} is impossible here")]
    BadLength(i64),
    /// A variable-length number does not end.
    #[error("a varint is longer than {VARINT_BYTES_MAX} bytes")]
    VarintTooLong,
    /// A string is longer than any that Kafka takes.
    #[error("a string of {0} bytes is longer than {STRING_BYTES_MAX}")]
    StringTooLong(usize),
    /// The arrays of the message have more entries than the reader may pass over.
    #[error("{count} more entries were announced where {left} more are allowed")]
    TooManyEntries {
        /// Entries of the array at which the reader stopped.
        count: usize,
        /// Entries that it could still pass over.
        left: usize,
    },
    /// A string is not UTF-8.
    #[error("a string is not UTF-8")]
    NotUtf8,
    /// The message has no such version.
    #[error("version {0} is not known")]
    UnknownVersion(i16),
    /// Bytes are left after the last field.
    #[error("{0} bytes are left after the last field")]
    Trailing(usize),
}

/// A position in a frame, which of the two encodings the message uses, and how many entries may follow.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
    flexible: bool,
    entries_left: usize,
}

impl<'a> Reader<'a> {
    /// Reads from the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader {
            rest: bytes,
            flexible: false,
            entries_left: usize::MAX,
        }
    }

    /// Reads what was passed over before, and counted then.
    pub(super) fn resume(rest: &'a [u8], flexible: bool) -> Reader<'a> {
        Reader {
            rest,
            flexible,
            entries_left: usize::MAX,
        }
    }

    /// Lets at most `entries` entries follow: elements of arrays, nested ones too, and tagged fields. An entry
    /// takes as little as a byte, so only this bounds how long a frame is walked and what is built from
    /// it. It is checked once for each array, before its first element.
    pub fn set_entries_left(&mut self, entries: usize) {
        self.entries_left = entries;
    }

    /// How many entries may still follow.
    pub fn entries_left(&self) -> usize {
        self.entries_left
    }

    /// Counts `count` entries that are announced.
    #[inline]
    fn announce(&mut self, count: usize) -> Result<(), DecodeError> {
        match self.entries_left.checked_sub(count) {
            Some(left) => {
                self.entries_left = left;
                Ok(())
            }
            None => Err(DecodeError::TooManyEntries {
                count,
                left: self.entries_left,
            }),
        }
    }

    /// Switches to compact lengths and tagged fields, or back.
    pub fn set_flexible(&mut self, flexible: bool) {
        self.flexible = flexible;
    }

    /// Whether lengths are compact and structs end with tagged fields.
    pub fn flexible(&self) -> bool {
        self.flexible
    }

    /// What has not been read.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Checks that all has been read.
    ///
    /// # Errors
    /// [`DecodeError::Trailing`].
    pub fn finish(&self) -> Result<(), DecodeError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(DecodeError::Trailing(self.rest.len()))
        }
    }

    /// The next `count` bytes.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`].
    #[inline]
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        match self.rest.split_at_checked(count) {
            Some((taken, rest)) => {
                self.rest = rest;
                Ok(taken)
            }
            None => Err(DecodeError::Truncated {
                wanted: count,
                left: self.rest.len(),
            }),
        }
    }

    #[inline]
    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        match self.rest.split_first_chunk::<N>() {
            Some((taken, rest)) => {
                self.rest = rest;
                Ok(*taken)
            }
            None => Err(DecodeError::Truncated {
                wanted: N,
                left: self.rest.len(),
            }),
        }
    }

    /// One byte.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`].
    #[inline]
    pub fn i8(&mut self) -> Result<i8, DecodeError> {
        self.fixed().map(i8::from_be_bytes)
    }

    /// A byte that is not 0.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`].
    #[inline]
    pub fn bool(&mut self) -> Result<bool, DecodeError> {
        Ok(self.i8()? != 0)
    }

    /// Two bytes.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`].
    #[inline]
    pub fn i16(&mut self) -> Result<i16, DecodeError> {
        self.fixed().map(i16::from_be_bytes)
    }

    /// Two bytes, unsigned.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`].
    #[inline]
    pub fn u16(&mut self) -> Result<u16, DecodeError> {
        self.fixed().map(u16::from_be_bytes)
    }

    /// Four bytes.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`].
    #[inline]
    pub fn i32(&mut self) -> Result<i32, DecodeError> {
        self.fixed().map(i32::from_be_bytes)
    }

    /// Four bytes, unsigned.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`].
    #[inline]
    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        self.fixed().map(u32::from_be_bytes)
    }

    /// Eight bytes.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`].
    #[inline]
    pub fn i64(&mut self) -> Result<i64, DecodeError> {
        self.fixed().map(i64::from_be_bytes)
    }

    /// Eight bytes of IEEE 754.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`].
    #[inline]
    pub fn f64(&mut self) -> Result<f64, DecodeError> {
        self.fixed().map(f64::from_be_bytes)
    }

    /// Sixteen bytes.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`].
    #[inline]
    pub fn uuid(&mut self) -> Result<TopicId, DecodeError> {
        self.fixed().map(TopicId)
    }

    /// An unsigned varint of at most 32 bits.
    ///
    /// # Errors
    /// [`DecodeError::VarintTooLong`] or [`DecodeError::Truncated`].
    #[inline]
    pub fn uvarint(&mut self) -> Result<u32, DecodeError> {
        // Nearly all are lengths and counts below 127, and the zero of no tagged fields.
        match self.rest {
            [byte, rest @ ..] if byte & 0x80 == 0 => {
                self.rest = rest;
                Ok(u32::from(*byte))
            }
            _ => {
                let (value, rest) = long_uvarint(self.rest)?;
                self.rest = rest;
                Ok(value)
            }
        }
    }

    /// A length that fits what is left, or `None` for null.
    #[inline]
    fn length(
        &mut self,
        fixed: impl FnOnce(&mut Self) -> Result<i64, DecodeError>,
    ) -> Result<Option<usize>, DecodeError> {
        let length = if self.flexible {
            i64::from(self.uvarint()?) - 1
        } else {
            fixed(self)?
        };
        match usize::try_from(length) {
            Ok(length) if length <= self.rest.len() => Ok(Some(length)),
            Ok(length) => Err(DecodeError::Truncated {
                wanted: length,
                left: self.rest.len(),
            }),
            Err(_) if length == -1 => Ok(None),
            Err(_) => Err(DecodeError::BadLength(length)),
        }
    }

    /// A string that may be null.
    ///
    /// # Errors
    /// [`DecodeError`].
    #[inline]
    pub fn nullable_string(&mut self) -> Result<Option<Cow<'a, str>>, DecodeError> {
        match self.text()? {
            Some(text) => Ok(Some(Cow::Borrowed(utf8(text)?))),
            None => Ok(None),
        }
    }

    /// The bytes of a string that may be null, unchecked.
    #[inline]
    fn text(&mut self) -> Result<Option<&'a [u8]>, DecodeError> {
        match self.length(|reader| reader.i16().map(i64::from))? {
            Some(length) if length > STRING_BYTES_MAX => Err(DecodeError::StringTooLong(length)),
            Some(length) => self.take(length).map(Some),
            None => Ok(None),
        }
    }

    /// Passes over a string that may be null, and says whether it is not.
    ///
    /// # Errors
    /// [`DecodeError`].
    #[inline]
    pub fn skip_nullable_string(&mut self) -> Result<bool, DecodeError> {
        let text = self.text()?;
        // Nearly all are ASCII, which is seen in a fraction of the time.
        if let Some(text) = text.filter(|text| !text.is_ascii()) {
            utf8(text)?;
        }
        Ok(text.is_some())
    }

    /// Passes over a string.
    ///
    /// # Errors
    /// [`DecodeError`]; null is one.
    #[inline]
    pub fn skip_string(&mut self) -> Result<(), DecodeError> {
        if self.skip_nullable_string()? {
            Ok(())
        } else {
            Err(DecodeError::BadLength(-1))
        }
    }

    /// A string.
    ///
    /// # Errors
    /// [`DecodeError`]; null is one.
    #[inline]
    pub fn string(&mut self) -> Result<Cow<'a, str>, DecodeError> {
        self.nullable_string()?.ok_or(DecodeError::BadLength(-1))
    }

    /// Bytes that may be null.
    ///
    /// # Errors
    /// [`DecodeError`].
    #[inline]
    pub fn nullable_bytes(&mut self) -> Result<Option<Cow<'a, [u8]>>, DecodeError> {
        match self.length(|reader| reader.i32().map(i64::from))? {
            Some(length) => Ok(Some(Cow::Borrowed(self.take(length)?))),
            None => Ok(None),
        }
    }

    /// Bytes.
    ///
    /// # Errors
    /// [`DecodeError`]; null is one.
    #[inline]
    pub fn bytes(&mut self) -> Result<Cow<'a, [u8]>, DecodeError> {
        self.nullable_bytes()?.ok_or(DecodeError::BadLength(-1))
    }

    /// Record batches.
    ///
    /// # Errors
    /// [`DecodeError`].
    #[inline]
    pub fn records(&mut self) -> Result<Records<'a>, DecodeError> {
        match self.length(|reader| reader.i32().map(i64::from))? {
            Some(length) => Ok(Records::Bytes(self.take(length)?)),
            None => Ok(Records::Null),
        }
    }

    /// An array that may be null. Every element is checked here, so walking it can't fail.
    ///
    /// # Errors
    /// [`DecodeError`].
    #[inline]
    pub fn nullable_array<T: Element<'a>>(
        &mut self,
        version: i16,
    ) -> Result<Option<Array<'a, T>>, DecodeError> {
        let Some(count) = self.count()? else {
            return Ok(None);
        };
        let start = self.rest;
        self.skip::<T>(count, version)?;
        let used = start.len() - self.rest.len();
        let bytes = start.get(..used).unwrap_or_default();
        Ok(Some(Array::on_the_wire(
            bytes,
            count,
            version,
            self.flexible,
        )))
    }

    /// An array.
    ///
    /// # Errors
    /// [`DecodeError`]; null is one.
    #[inline]
    pub fn array<T: Element<'a>>(&mut self, version: i16) -> Result<Array<'a, T>, DecodeError> {
        self.nullable_array(version)?
            .ok_or(DecodeError::BadLength(-1))
    }

    /// How many elements follow, `None` for a null array. An element takes at least one byte, so a count above
    /// what is left is a lie.
    #[inline]
    fn count(&mut self) -> Result<Option<usize>, DecodeError> {
        let count = self.length(|reader| reader.i32().map(i64::from))?;
        self.announce(count.unwrap_or(0))?;
        Ok(count)
    }

    /// Passes over `count` elements.
    ///
    /// # Errors
    /// [`DecodeError`].
    #[inline]
    pub fn skip<T: Element<'a>>(&mut self, count: usize, version: i16) -> Result<(), DecodeError> {
        if count > 0 {
            *self = T::skip(self.clone(), count, version)?;
        }
        Ok(())
    }

    /// Passes over an array that may be null, and says whether it is not.
    ///
    /// # Errors
    /// [`DecodeError`].
    #[inline]
    pub fn skip_nullable_array<T: Element<'a>>(
        &mut self,
        version: i16,
    ) -> Result<bool, DecodeError> {
        let count = self.count()?;
        self.skip::<T>(count.unwrap_or(0), version)?;
        Ok(count.is_some())
    }

    /// Passes over an array.
    ///
    /// # Errors
    /// [`DecodeError`]; null is one.
    #[inline]
    pub fn skip_array<T: Element<'a>>(&mut self, version: i16) -> Result<(), DecodeError> {
        if self.skip_nullable_array::<T>(version)? {
            Ok(())
        } else {
            Err(DecodeError::BadLength(-1))
        }
    }

    /// A struct that may be null: one byte says which, -1 for null.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn nullable_struct<T: Element<'a>>(
        &mut self,
        version: i16,
    ) -> Result<Option<T>, DecodeError> {
        if self.i8()? < 0 {
            Ok(None)
        } else {
            T::decode(self, version).map(Some)
        }
    }

    /// Passes over a struct that may be null.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn skip_nullable_struct<T: Element<'a>>(
        &mut self,
        version: i16,
    ) -> Result<(), DecodeError> {
        if self.i8()? < 0 {
            Ok(())
        } else {
            self.skip::<T>(1, version)
        }
    }

    /// The tagged fields at the end of a struct. `field` reads those it knows and says whether it did;
    /// the rest is skipped.
    ///
    /// # Errors
    /// [`DecodeError`].
    #[inline]
    pub fn tagged(
        &mut self,
        field: impl FnMut(u32, &mut Reader<'a>) -> Result<bool, DecodeError>,
    ) -> Result<(), DecodeError> {
        if self.flexible {
            let count = self.uvarint()?;
            if count > 0 {
                *self = tagged_fields(self.clone(), count, field)?;
            }
        }
        Ok(())
    }
}

// What is rare stands apart, and takes and returns positions by value: a reader that nobody holds a reference
// to stays in registers.

fn utf8(bytes: &[u8]) -> Result<&str, DecodeError> {
    std::str::from_utf8(bytes).map_err(|_| DecodeError::NotUtf8)
}

/// An unsigned varint, and what follows it.
#[inline(never)]
fn long_uvarint(mut rest: &[u8]) -> Result<(u32, &[u8]), DecodeError> {
    let mut value = 0_u64;
    for place in 0..VARINT_BYTES_MAX {
        let Some((byte, after)) = rest.split_first() else {
            return Err(DecodeError::Truncated { wanted: 1, left: 0 });
        };
        rest = after;
        value |= u64::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            let value = u32::try_from(value).map_err(|_| DecodeError::VarintTooLong)?;
            return Ok((value, rest));
        }
    }
    Err(DecodeError::VarintTooLong)
}

/// Passes over `count` tagged fields.
#[cold]
#[inline(never)]
fn tagged_fields<'a>(
    mut reader: Reader<'a>,
    count: u32,
    mut field: impl FnMut(u32, &mut Reader<'a>) -> Result<bool, DecodeError>,
) -> Result<Reader<'a>, DecodeError> {
    reader.announce(count as usize)?;
    for _ in 0..count {
        let tag = reader.uvarint()?;
        let size = reader.uvarint()? as usize;
        let mut inside = Reader {
            rest: reader.take(size)?,
            ..reader
        };
        if field(tag, &mut inside)? {
            inside.finish()?;
        }
        reader.entries_left = inside.entries_left;
    }
    Ok(reader)
}
