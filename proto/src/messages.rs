//! The messages of the protocol, every version of each, generated from `proto/tables`.
//!
//! A message is one struct for all its versions and both directions: fields that a version lacks have
//! their defaults. Reading borrows from the frame.

use crate::wire::{DecodeError, Element, EncodeError, Reader, Writer};

/// A request or response as a whole.
pub trait Message<'a>: Element<'a> {
    /// Its API.
    const KEY: i16;
    /// Its name, as Kafka has it.
    const NAME: &'static str;
    /// The first version there is a table for.
    const FIRST: i16;
    /// The last.
    const LAST: i16;
    /// The first version with compact lengths and tagged fields; `i16::MAX` if there is none.
    const FLEXIBLE_FROM: i16;

    /// Reads a message.
    ///
    /// # Errors
    /// [`DecodeError`]; what is left behind it is the caller's to judge.
    #[inline]
    fn read(reader: &mut Reader<'a>, version: i16) -> Result<Self, DecodeError> {
        if !(Self::FIRST..=Self::LAST).contains(&version) {
            return Err(DecodeError::UnknownVersion(version));
        }
        reader.set_flexible(version >= Self::FLEXIBLE_FROM);
        Self::decode(reader, version)
    }

    /// Writes a message.
    ///
    /// # Errors
    /// [`EncodeError`]; what was written up to then is of no use.
    #[inline]
    fn write(&self, writer: &mut Writer, version: i16) -> Result<(), EncodeError> {
        if !(Self::FIRST..=Self::LAST).contains(&version) {
            return Err(EncodeError::UnknownVersion(version));
        }
        writer.set_flexible(version >= Self::FLEXIBLE_FROM);
        self.encode(writer, version)
    }
}

mod prelude {
    pub(super) use std::borrow::Cow;

    pub(super) use super::Message;
    pub(super) use crate::ids::TopicId;
    pub(super) use crate::wire::{
        Array, DecodeError, Element, EncodeError, Reader, Records, Writer,
    };
}

#[allow(
    missing_docs,
    unused_imports,
    clippy::all,
    clippy::pedantic,
    reason = "generated: the tables are the documentation"
)]
mod generated {
    use super::Message;
    use super::prelude;

    include!(concat!(env!("OUT_DIR"), "/messages.rs"));
}

pub use generated::*;
