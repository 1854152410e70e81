//! Arrays: still on the wire, items to be sent, or written already.

use std::borrow::Cow;
use std::fmt;

use super::{DecodeError, EncodeError, Reader, Writer};
use crate::ids::TopicId;

/// What an [`Array`] can hold.
pub trait Element<'a>: Sized + Clone {
    /// Reads one.
    ///
    /// # Errors
    /// [`DecodeError`].
    fn decode(reader: &mut Reader<'a>, version: i16) -> Result<Self, DecodeError>;

    /// Passes over `count` of them: checks all that `decode` checks, and builds nothing.
    ///
    /// # Errors
    /// [`DecodeError`], whenever `decode` returns one.
    fn skip(reader: Reader<'a>, count: usize, version: i16) -> Result<Reader<'a>, DecodeError>;

    /// Writes one.
    ///
    /// # Errors
    /// [`EncodeError`].
    fn encode(&self, writer: &mut Writer, version: i16) -> Result<(), EncodeError>;
}

#[derive(Clone)]
enum Inner<'a, T> {
    Wire {
        bytes: &'a [u8],
        count: usize,
        version: i16,
        flexible: bool,
    },
    Items(Vec<T>),
    // Apart, so that an array of few items stays small.
    Written(Box<Written>),
}

#[derive(Debug, Clone)]
struct Written {
    elements: Writer,
    count: usize,
    version: i16,
}

impl Written {
    fn write<'a, T: Element<'a>>(&mut self, element: &T) -> Result<(), EncodeError> {
        self.count += 1;
        element.encode(&mut self.elements, self.version)
    }
}

/// Elements that an [`ArrayBuilder`] keeps: more than most answers have, and few enough to write in one step.
const ITEMS_MAX: usize = 256;

/// A run of elements. Received ones stay on the wire, checked, and are decoded as they are walked; ones to
/// be sent are made [from a vector](From), or [one by one](ArrayBuilder) where they may be many.
#[derive(Clone)]
pub struct Array<'a, T>(Inner<'a, T>);

impl<T> Default for Array<'_, T> {
    fn default() -> Self {
        Array(Inner::Items(Vec::new()))
    }
}

impl<T> From<Vec<T>> for Array<'_, T> {
    fn from(items: Vec<T>) -> Self {
        Array(Inner::Items(items))
    }
}

impl<'a, T: Element<'a>> FromIterator<T> for Array<'a, T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        Array(Inner::Items(items.into_iter().collect()))
    }
}

impl<'a, T: Element<'a>> Array<'a, T> {
    /// `count` elements that fill `bytes` and were passed over without an error.
    pub(super) fn on_the_wire(bytes: &'a [u8], count: usize, version: i16, flexible: bool) -> Self {
        Array(Inner::Wire {
            bytes,
            count,
            version,
            flexible,
        })
    }

    /// How many elements there are.
    pub fn len(&self) -> usize {
        match &self.0 {
            Inner::Wire { count, .. } => *count,
            Inner::Items(items) => items.len(),
            Inner::Written(written) => written.count,
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Walks the elements.
    ///
    /// # Panics
    /// If they are written already, as an [`ArrayBuilder`] does with many: those can only be sent.
    pub fn iter(&self) -> Iter<'_, 'a, T> {
        match &self.0 {
            Inner::Wire {
                bytes,
                count,
                version,
                flexible,
            } => Iter::Wire {
                reader: Reader::resume(bytes, *flexible),
                left: *count,
                version: *version,
            },
            Inner::Items(items) => Iter::Items(items.iter()),
            Inner::Written(_) => unreachable!("written elements are sent, not walked"),
        }
    }

    /// Writes the length and the elements.
    ///
    /// # Errors
    /// [`EncodeError`].
    #[inline]
    pub fn encode(&self, writer: &mut Writer, version: i16) -> Result<(), EncodeError> {
        writer.count(Some(self.len()));
        match &self.0 {
            // The items themselves, for `iter` would clone them.
            Inner::Items(items) => {
                for item in items {
                    item.encode(writer, version)?;
                }
                Ok(())
            }
            Inner::Written(written) => {
                assert_eq!(written.version, version, "written as it is sent");
                writer.append(&written.elements);
                Ok(())
            }
            Inner::Wire { .. } => self.encode_again(writer, version),
        }
    }

    /// Received elements, sent on.
    #[cold]
    fn encode_again(&self, writer: &mut Writer, version: i16) -> Result<(), EncodeError> {
        self.iter()
            .try_for_each(|item| item.encode(writer, version))
    }
}

/// Collects the elements of an array to be sent. The first few are kept; once there are more, all are written as
/// they come, so that a long array takes the memory that its bytes take, is built in steps that its
/// owner chooses, and is sent by a copy.
#[derive(Debug)]
pub struct ArrayBuilder<T> {
    items: Vec<T>,
    written: Written,
}

impl<'a, T: Element<'a>> ArrayBuilder<T> {
    /// No elements yet, in this version of a message whose flexible versions begin with `flexible_from`.
    pub fn new(version: i16, flexible_from: i16) -> ArrayBuilder<T> {
        let mut elements = Writer::new();
        elements.set_flexible(version >= flexible_from);
        ArrayBuilder {
            items: Vec::new(),
            written: Written {
                elements,
                count: 0,
                version,
            },
        }
    }

    /// Adds one more.
    ///
    /// # Errors
    /// [`EncodeError`]; the array is of no use then.
    pub fn push(&mut self, element: T) -> Result<(), EncodeError> {
        if self.written.count == 0 {
            self.items.push(element);
            if self.items.len() > ITEMS_MAX {
                return std::mem::take(&mut self.items)
                    .iter()
                    .try_for_each(|item| self.written.write(item));
            }
            return Ok(());
        }
        self.written.write(&element)
    }

    /// How many bytes are written: 0 while there are few elements.
    pub fn written_bytes(&self) -> usize {
        self.written.elements.len()
    }

    /// All of them.
    pub fn finish(self) -> Array<'a, T> {
        if self.written.count == 0 {
            return Array(Inner::Items(self.items));
        }
        Array(Inner::Written(Box::new(self.written)))
    }
}

/// Walks an [`Array`]; see [`Array::iter`].
pub enum Iter<'s, 'a, T> {
    /// Decodes what was checked before.
    Wire {
        /// Where the next element starts.
        reader: Reader<'a>,
        /// How many are left.
        left: usize,
        /// The message's version.
        version: i16,
    },
    /// Clones items.
    Items(std::slice::Iter<'s, T>),
}

impl<'a, T: Element<'a>> Iterator for Iter<'_, 'a, T> {
    type Item = T;

    #[inline]
    fn next(&mut self) -> Option<T> {
        match self {
            Iter::Wire {
                reader,
                left,
                version,
            } => {
                *left = left.checked_sub(1)?;
                let element = T::decode(reader, *version);
                debug_assert!(element.is_ok(), "every element was checked");
                element.ok()
            }
            Iter::Items(items) => items.next().cloned(),
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = match self {
            Iter::Wire { left, .. } => *left,
            Iter::Items(items) => items.len(),
        };
        (left, Some(left))
    }
}

impl<'a, T: Element<'a>> ExactSizeIterator for Iter<'_, 'a, T> {}

impl<'s, 'a, T: Element<'a>> IntoIterator for &'s Array<'a, T> {
    type Item = T;
    type IntoIter = Iter<'s, 'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<'a, T: Element<'a> + PartialEq> PartialEq for Array<'a, T> {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().eq(other.iter())
    }
}

impl<'a, T: Element<'a> + fmt::Debug> fmt::Debug for Array<'a, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Inner::Written(written) => write!(f, "[{} written elements]", written.count),
            _ => f.debug_list().entries(self.iter()).finish(),
        }
    }
}

/// An element that is a number: how it is read and written.
macro_rules! number {
    ($($type:ty, $name:ident;)*) => {$(
        impl<'a> Element<'a> for $type {
            #[inline]
            fn decode(reader: &mut Reader<'a>, _: i16) -> Result<Self, DecodeError> {
                reader.$name()
            }

            #[inline]
            fn skip(
                mut reader: Reader<'a>,
                count: usize,
                _: i16,
            ) -> Result<Reader<'a>, DecodeError> {
                // Each is as wide on the wire as here.
                reader.take(count.saturating_mul(size_of::<$type>()))?;
                Ok(reader)
            }

            #[inline]
            fn encode(&self, writer: &mut Writer, _: i16) -> Result<(), EncodeError> {
                writer.$name(*self);
                Ok(())
            }
        }
    )*};
}

number! {
    bool, bool;
    i8, i8;
    i16, i16;
    u16, u16;
    i32, i32;
    u32, u32;
    i64, i64;
    f64, f64;
    TopicId, uuid;
}

impl<'a> Element<'a> for Cow<'a, str> {
    #[inline]
    fn decode(reader: &mut Reader<'a>, _: i16) -> Result<Self, DecodeError> {
        reader.string()
    }

    #[inline]
    fn skip(mut reader: Reader<'a>, count: usize, _: i16) -> Result<Reader<'a>, DecodeError> {
        for _ in 0..count {
            reader.skip_string()?;
        }
        Ok(reader)
    }

    #[inline]
    fn encode(&self, writer: &mut Writer, _: i16) -> Result<(), EncodeError> {
        writer.string(Some(self))
    }
}

impl<'a> Element<'a> for Cow<'a, [u8]> {
    #[inline]
    fn decode(reader: &mut Reader<'a>, _: i16) -> Result<Self, DecodeError> {
        reader.bytes()
    }

    #[inline]
    fn skip(mut reader: Reader<'a>, count: usize, _: i16) -> Result<Reader<'a>, DecodeError> {
        for _ in 0..count {
            reader.bytes()?;
        }
        Ok(reader)
    }

    #[inline]
    fn encode(&self, writer: &mut Writer, _: i16) -> Result<(), EncodeError> {
        writer.bytes(Some(self))
    }
}
