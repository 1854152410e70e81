//! What the tests do with a message, whatever its type.

use kafka_protocol::protocol::{Decodable, Encodable, Message as Oracle};
use streambus_proto::messages::{self, Message};
use streambus_proto::wire::{DecodeError, EncodeError, Reader, Writer};

/// A message of ours and the oracle's of the same name.
pub(crate) struct Subject {
    pub(crate) name: &'static str,
    pub(crate) key: i16,
    /// First version, last, first flexible one.
    pub(crate) versions: (i16, i16, i16),
    pub(crate) oracle_versions: (i16, i16),
    /// Reads a message, which must end with the bytes, and drops it.
    pub(crate) decode: fn(&[u8], i16) -> Result<(), DecodeError>,
    /// How many bytes are left behind a message, as reading it says and as passing over it says.
    pub(crate) left: fn(&[u8], i16) -> [Option<usize>; 2],
    /// Reads a message and writes it again.
    pub(crate) recode: fn(&[u8], i16) -> Result<Vec<u8>, EncodeError>,
    /// Whether a message equals itself once written and read again, and the default one too.
    pub(crate) returns_equal: fn(&[u8], i16) -> bool,
    pub(crate) debug: fn(&[u8], i16) -> String,
    /// The same, as the oracle reads and writes it.
    pub(crate) oracle_recode: fn(&[u8], i16) -> Result<Vec<u8>, String>,
    pub(crate) oracle_debug: fn(&[u8], i16) -> String,
}

fn read<'a, M: Message<'a>>(bytes: &'a [u8], version: i16) -> Result<M, DecodeError> {
    let mut reader = Reader::new(bytes);
    let message = M::read(&mut reader, version)?;
    reader.finish().map(|()| message)
}

fn left<'a, M: Message<'a>>(bytes: &'a [u8], version: i16) -> [Option<usize>; 2] {
    let mut reader = Reader::new(bytes);
    reader.set_flexible(version >= M::FLEXIBLE_FROM);
    let skipped = M::skip(reader.clone(), 1, version);
    let read = M::decode(&mut reader, version);
    [
        read.ok().map(|_| reader.rest().len()),
        skipped.ok().map(|reader| reader.rest().len()),
    ]
}

fn write<'a, M: Message<'a>>(message: &M, version: i16) -> Result<Vec<u8>, EncodeError> {
    let mut writer = Writer::new();
    message.write(&mut writer, version)?;
    let (bytes, splices) = writer.into_parts();
    assert!(splices.is_empty(), "what was read is all here");
    Ok(bytes)
}

fn oracle_read<M: Decodable>(mut bytes: &[u8], version: i16) -> Result<M, String> {
    let message = M::decode(&mut bytes, version).map_err(|error| error.to_string())?;
    if bytes.is_empty() {
        Ok(message)
    } else {
        Err(format!("{} bytes left", bytes.len()))
    }
}

fn oracle_write<M: Encodable>(message: &M, version: i16) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    message
        .encode(&mut bytes, version)
        .map_err(|error| error.to_string())?;
    Ok(bytes)
}

macro_rules! subjects {
    ($($name:ident)*) => {
        /// Every message.
        pub(crate) const SUBJECTS: &[Subject] = &[$(Subject {
            name: messages::$name::NAME,
            key: messages::$name::KEY,
            versions: (messages::$name::FIRST, messages::$name::LAST, messages::$name::FLEXIBLE_FROM),
            oracle_versions: (
                kafka_protocol::messages::$name::VERSIONS.min,
                kafka_protocol::messages::$name::VERSIONS.max,
            ),
            decode: |bytes, version| read::<messages::$name>(bytes, version).map(|_| ()),
            left: |bytes, version| left::<messages::$name>(bytes, version),
            recode: |bytes, version| {
                let message = read::<messages::$name>(bytes, version).expect("it can be read");
                write(&message, version)
            },
            returns_equal: |bytes, version| {
                let message = read::<messages::$name>(bytes, version).expect("it can be read");
                let again = write(&message, version).expect("it can be written");
                read::<messages::$name>(&again, version).expect("ours can be read") == message
            },
            debug: |bytes, version| {
                format!("{:?}", read::<messages::$name>(bytes, version).expect("it can be read"))
            },
            oracle_recode: |bytes, version| {
                let message = oracle_read::<kafka_protocol::messages::$name>(bytes, version)?;
                oracle_write(&message, version)
            },
            oracle_debug: |bytes, version| {
                let message = oracle_read::<kafka_protocol::messages::$name>(bytes, version);
                format!("{:?}", message.expect("the oracle read it before"))
            },
        }),*];
    };
}

streambus_proto::every_message!(subjects);
