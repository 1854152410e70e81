//! What is read comes out again as it was.

use streambus_proto::messages::{self, FetchResponse, Message, ProduceRequest};
use streambus_proto::wire::{EncodeError, Writer};

use crate::each_version;
use crate::sample::{Make, sample};

/// Samples of each version; two more are made full.
const SAMPLES: u64 = 30;

#[test]
fn every_version_returns_byte_for_byte() {
    // Proves for every message and version that reading loses nothing and writing adds nothing.
    each_version(|message, subject, version| {
        for seed in 0..SAMPLES {
            let make = if seed < 2 { Make::Full } else { Make::Any };
            let sample = sample(message, version, make, seed);
            let at = format!("{} {version}, seed {seed}", message.name);
            assert_eq!((subject.decode)(&sample.bytes, version), Ok(()), "{at}");
            assert_eq!(
                (subject.recode)(&sample.bytes, version),
                Ok(sample.bytes.clone()),
                "{at}"
            );
            assert!((subject.returns_equal)(&sample.bytes, version), "{at}");
        }
    });
}

#[test]
fn unknown_tagged_fields_are_passed_over() {
    // Proves that a newer peer's tagged fields change nothing of what is known (KIP-482).
    each_version(|message, subject, version| {
        for seed in 2..6 {
            let known = sample(message, version, Make::Any, seed);
            let unknown = sample(message, version, Make::Unknown, seed);
            let at = format!("{} {version}, seed {seed}", message.name);
            assert_eq!(
                (subject.recode)(&unknown.bytes, version),
                Ok(known.bytes),
                "{at}"
            );
        }
    });
}

/// Writes the default of a message in every version and reads it again.
macro_rules! defaults_return {
    ($($name:ident)*) => {$(
        for version in messages::$name::FIRST..=messages::$name::LAST {
            let mut writer = Writer::new();
            let message = messages::$name::default();
            match message.write(&mut writer, version) {
                Ok(()) => {
                    let (bytes, _) = writer.into_parts();
                    let mut reader = streambus_proto::wire::Reader::new(&bytes);
                    let read = messages::$name::read(&mut reader, version).expect(messages::$name::NAME);
                    reader.finish().expect(messages::$name::NAME);
                    assert_eq!(read, message, "{} {version}", messages::$name::NAME);
                }
                // Null by default, but only later versions can say so.
                Err(error) => assert!(matches!(error, EncodeError::Null { .. }), "{error}"),
            }
        }
    )*};
}

#[test]
fn defaults_return() {
    // Proves that `..Default::default()` is a message that can be sent and that comes back the same.
    streambus_proto::every_message!(defaults_return);
}

#[test]
fn a_request_does_not_lose_what_it_asks() {
    // Proves that a field the version lacks is an error in a request, unless it may be ignored, and is left
    // out of a response.
    let mut writer = Writer::new();
    let request = messages::MetadataRequest {
        include_cluster_authorized_operations: true,
        ..Default::default()
    };
    assert!(request.write(&mut writer, 8).is_ok());
    assert!(matches!(
        request.write(&mut writer, 11),
        Err(EncodeError::NoSuchField { .. })
    ));
    let ignorable = messages::FetchRequest {
        session_id: 5,
        ..Default::default()
    };
    assert!(ignorable.write(&mut writer, 4).is_ok());
    let response = FetchResponse {
        session_id: 5,
        ..Default::default()
    };
    assert!(response.write(&mut writer, 4).is_ok());
}

#[test]
fn versions_without_a_table_are_refused() {
    // Proves that neither reading nor writing guesses at a version it has no table for.
    let mut writer = Writer::new();
    let request = ProduceRequest::default();
    for version in [
        ProduceRequest::FIRST - 1,
        ProduceRequest::LAST + 1,
        i16::MIN,
        i16::MAX,
    ] {
        assert_eq!(
            request.write(&mut writer, version),
            Err(EncodeError::UnknownVersion(version))
        );
        let mut reader = streambus_proto::wire::Reader::new(&[0; 100]);
        assert!(ProduceRequest::read(&mut reader, version).is_err());
    }
    assert!(writer.is_empty());
}
