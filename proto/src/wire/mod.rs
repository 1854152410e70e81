//! The encodings that all messages are made of: integers, strings, arrays, tagged fields.
//!
//! Reading borrows from the frame and allocates nothing: an [`Array`] is passed over once, element by
//! element, which checks it against the bytes that are there and builds nothing, and is decoded as it is
//! walked. So a count of 2^31 in four bytes costs an error, not memory. Source: the Kafka protocol guide; KIP-482 for the compact
//! and tagged forms.

mod array;
mod reader;
mod writer;

pub use array::{Array, ArrayBuilder, Element};
pub use reader::{DecodeError, Reader};
pub use writer::{EncodeError, Run, Splice, Writer};

/// The bytes of record batches in a message.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Records<'a> {
    /// Null: no bytes were sent, not even an empty run.
    #[default]
    Null,
    /// The bytes themselves.
    Bytes(&'a [u8]),
    /// So many bytes, which the caller puts in between when the message is sent: storage's own
    /// slices, never copied.
    Splice(usize),
}

impl<'a> Records<'a> {
    /// The bytes, if they are here.
    pub fn bytes(self) -> Option<&'a [u8]> {
        match self {
            Records::Bytes(bytes) => Some(bytes),
            Records::Null | Records::Splice(_) => None,
        }
    }
}

#[cfg(test)]
mod tests;
