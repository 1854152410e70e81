//! The client against brokers that follow a script on the loopback: what a well-behaved broker
//! never does.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use streambus_proto::api::ApiKey;
use streambus_proto::error_code::ErrorCode;
use streambus_proto::frame::{self, RequestHeader};
use streambus_proto::messages::api_versions_response::ApiVersion;
use streambus_proto::messages::metadata_response::{
    MetadataResponse, MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use streambus_proto::messages::produce_response::{
    LeaderIdAndEpoch, PartitionProduceResponse, TopicProduceResponse,
};
use streambus_proto::messages::{
    ApiVersionsResponse, InitProducerIdResponse, Message, ProduceRequest, ProduceResponse,
};
use streambus_proto::records::{BatchView, Codec};
use streambus_proto::wire::{Reader, Writer};

use super::*;
use crate::producer::ProducerConfig;

/// What a scripted broker does with a request.
enum Deed {
    /// Answer with this frame.
    Answer(Vec<u8>),
    /// Send these bytes, whatever they are.
    Send(Vec<u8>),
    /// Close the connection.
    Close,
    /// Nothing, for ever.
    Silence,
}

type Script = dyn FnMut(&RequestHeader<'_>, &[u8]) -> Deed + Send;

/// Serves connections until the test ends; threads end when the client closes.
fn serve(listener: TcpListener, script: Box<Script>) {
    let script = Arc::new(Mutex::new(script));
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let script = Arc::clone(&script);
            std::thread::spawn(move || converse(stream, &script));
        }
    });
}

fn converse(mut stream: TcpStream, script: &Mutex<Box<Script>>) -> Option<()> {
    loop {
        let mut length = [0; 4];
        stream.read_exact(&mut length).ok()?;
        let mut request = vec![0; usize::try_from(i32::from_be_bytes(length)).unwrap()];
        stream.read_exact(&mut request).ok()?;
        let mut reader = Reader::new(&request);
        let header = RequestHeader::read(&mut reader).unwrap();
        let deed = script.lock().unwrap()(&header, reader.rest());
        match deed {
            Deed::Answer(bytes) | Deed::Send(bytes) => stream.write_all(&bytes).ok()?,
            Deed::Close => return None,
            Deed::Silence => {}
        }
    }
}

fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn answer<'a>(header: &RequestHeader<'_>, version: i16, message: &impl Message<'a>) -> Deed {
    let api = ApiKey::from_i16(header.api_key).unwrap();
    let mut writer = Writer::new();
    frame::response_header(&mut writer, api, version, header.correlation_id);
    message.write(&mut writer, version).unwrap();
    Deed::Answer(frame::finish(writer).unwrap().0)
}

fn versions(header: &RequestHeader<'_>) -> Deed {
    let keys = ApiKey::ALL.iter().map(|api| ApiVersion {
        api_key: *api as i16,
        min_version: api.info().first,
        max_version: api.info().last,
    });
    let message = ApiVersionsResponse {
        api_keys: keys.collect(),
        ..Default::default()
    };
    answer(header, header.api_version, &message)
}

/// One topic `t` of one partition, led by the given broker of these.
fn metadata(header: &RequestHeader<'_>, brokers: &[SocketAddr], leader: i32, epoch: i32) -> Deed {
    let brokers = (1..)
        .zip(brokers)
        .map(|(node_id, address)| MetadataResponseBroker {
            node_id,
            host: address.ip().to_string().into(),
            port: i32::from(address.port()),
            rack: None,
        });
    let partition = MetadataResponsePartition {
        leader_id: leader,
        leader_epoch: epoch,
        ..Default::default()
    };
    let topic = MetadataResponseTopic {
        name: Some("t".into()),
        topic_id: streambus_proto::ids::TopicId([7; 16]),
        partitions: vec![partition].into(),
        ..Default::default()
    };
    let message = MetadataResponse {
        brokers: brokers.collect(),
        topics: vec![topic].into(),
        ..Default::default()
    };
    answer(header, header.api_version, &message)
}

fn produced(header: &RequestHeader<'_>, code: ErrorCode, leader: i32, epoch: i32) -> Deed {
    let partition = PartitionProduceResponse {
        error_code: code.code(),
        base_offset: 41,
        current_leader: LeaderIdAndEpoch {
            leader_id: leader,
            leader_epoch: epoch,
        },
        ..Default::default()
    };
    let topic = TopicProduceResponse {
        topic_id: streambus_proto::ids::TopicId([7; 16]),
        partition_responses: vec![partition].into(),
        ..Default::default()
    };
    let message = ProduceResponse {
        responses: vec![topic].into(),
        ..Default::default()
    };
    answer(header, header.api_version, &message)
}

fn identity(header: &RequestHeader<'_>) -> Deed {
    let message = InitProducerIdResponse {
        producer_id: 5,
        ..Default::default()
    };
    answer(header, header.api_version, &message)
}

/// The bytes of the batch in a produce request.
fn batch_of(header: &RequestHeader<'_>, body: &[u8]) -> Vec<u8> {
    let mut reader = Reader::new(body);
    let request = ProduceRequest::read(&mut reader, header.api_version).unwrap();
    let topic = request.topic_data.iter().next().unwrap();
    let data = topic.partition_data.iter().next().unwrap();
    data.records.bytes().unwrap().to_vec()
}

fn api(header: &RequestHeader<'_>) -> ApiKey {
    ApiKey::from_i16(header.api_key).unwrap()
}

fn config() -> ClientConfig {
    ClientConfig {
        patience: Duration::from_secs(5),
        connection: ConnectionConfig {
            request_timeout_ms: 200,
            ..ConnectionConfig::default()
        },
        ..ClientConfig::default()
    }
}

#[test]
fn a_batch_whose_answer_was_lost_is_sent_again_as_it_was() {
    // The broker closes instead of answering: the same bytes come again, and the broker's word
    // that it has them already counts as success.
    let (listener, address) = listen();
    let (seen, batches) = mpsc::channel();
    let mut tries = 0;
    let script = move |header: &RequestHeader<'_>, body: &[u8]| match api(header) {
        ApiKey::ApiVersions => versions(header),
        ApiKey::Metadata => metadata(header, &[address], 1, 0),
        ApiKey::InitProducerId => identity(header),
        _ => {
            seen.send(batch_of(header, body)).unwrap();
            tries += 1;
            if tries == 1 {
                Deed::Close
            } else {
                produced(header, ErrorCode::DuplicateSequenceNumber, -1, -1)
            }
        }
    };
    serve(listener, Box::new(script));
    let mut client = Client::connect(&address.to_string(), config()).unwrap();
    let mut producer = client.producer(ProducerConfig {
        codec: Codec::Lz4,
        ..Default::default()
    });
    producer
        .send(&TopicPartition::new("t", 0), Some(b"k"), b"v")
        .unwrap();
    producer.flush().unwrap();
    let delivered: Vec<_> = producer.take_delivered().collect();
    assert_eq!((delivered.len(), delivered[0].result), (1, Ok(None)));
    let (first, second) = (batches.recv().unwrap(), batches.recv().unwrap());
    assert_eq!(first, second);
    let view = BatchView::produced(&first).unwrap();
    assert_eq!(
        (view.producer_id().map(|id| id.0), view.base_sequence()),
        (Some(5), 0)
    );
}

#[test]
fn a_refusal_that_names_the_new_leader_is_followed() {
    // The old leader says who leads now: the batch goes there without asking for metadata.
    let ((old, first), (new, second)) = (listen(), listen());
    let addresses = [first, second];
    let (asked, metadata_asked) = mpsc::channel();
    let script = move |header: &RequestHeader<'_>, _: &[u8]| match api(header) {
        ApiKey::ApiVersions => versions(header),
        ApiKey::Metadata => {
            asked.send(()).unwrap();
            metadata(header, &addresses, 1, 3)
        }
        ApiKey::InitProducerId => identity(header),
        _ => produced(header, ErrorCode::NotLeaderOrFollower, 2, 4),
    };
    serve(old, Box::new(script));
    let script = move |header: &RequestHeader<'_>, _: &[u8]| match api(header) {
        ApiKey::ApiVersions => versions(header),
        _ => produced(header, ErrorCode::None, -1, -1),
    };
    serve(new, Box::new(script));
    let mut client = Client::connect(&first.to_string(), config()).unwrap();
    let mut producer = client.producer(ProducerConfig::default());
    producer
        .send(&TopicPartition::new("t", 0), None, b"v")
        .unwrap();
    producer.flush().unwrap();
    let delivered: Vec<_> = producer.take_delivered().collect();
    assert_eq!(
        delivered[0].result,
        Ok(Some(streambus_proto::ids::Offset(41)))
    );
    assert_eq!(metadata_asked.try_iter().count(), 1, "when connecting");
}

#[test]
fn producers_that_are_dropped_leave_a_bounded_trace() {
    // Answers that nobody takes are kept up to a bound, and never taken for another's.
    let (listener, address) = listen();
    let script = move |header: &RequestHeader<'_>, _: &[u8]| match api(header) {
        ApiKey::ApiVersions => versions(header),
        ApiKey::Metadata => metadata(header, &[address], 1, 0),
        _ => produced(header, ErrorCode::None, -1, -1),
    };
    serve(listener, Box::new(script));
    let mut config = config();
    config.connection.in_flight_max = 3;
    let mut client = Client::connect(&address.to_string(), config).unwrap();
    let plain = ProducerConfig {
        idempotent: false,
        linger_ms: 0,
        ..ProducerConfig::default()
    };
    let partition = TopicPartition::new("t", 0);
    let batch = streambus_proto::records::BatchBuilder::new(Codec::None).build();
    for _ in 0..10 {
        let mut producer = client.producer(plain);
        producer.send(&partition, None, b"v").unwrap();
        producer.poll().unwrap();
        assert!(
            client
                .produce_batch(&partition, &batch, Acks::All)
                .unwrap()
                .is_some()
        );
    }
    let link = client.links.get(&BrokerId(1)).unwrap();
    assert!(link.early_len() <= 3);
}

#[test]
fn a_broker_that_does_not_know_our_version_is_asked_in_its_own() {
    // An old broker answers an unknown version of ApiVersions in version 0: ask again so.
    let (listener, address) = listen();
    let script = move |header: &RequestHeader<'_>, _: &[u8]| match (api(header), header.api_version)
    {
        (ApiKey::ApiVersions, 0) => versions(header),
        (ApiKey::ApiVersions, _) => {
            let code = ErrorCode::UnsupportedVersion.code();
            let message = ApiVersionsResponse {
                error_code: code,
                ..Default::default()
            };
            answer(header, 0, &message)
        }
        _ => metadata(header, &[address], 1, 0),
    };
    serve(listener, Box::new(script));
    let mut client = Client::connect(&address.to_string(), config()).unwrap();
    let view = client.metadata(Some(&["t"])).unwrap();
    assert_eq!(view.topics[0].partitions[&0].leader, Some(BrokerId(1)));
}

#[test]
fn a_broker_that_breaks_the_protocol_is_an_error_in_time() {
    // Senseless lengths, answers nobody asked for, cut answers, silence, and a closed door: each
    // ends in its error, none in a wait without end.
    type Break = Box<dyn Fn() -> Deed + Send>;
    let zeros = |length: i32, body: usize| [length.to_be_bytes().to_vec(), vec![0; body]].concat();
    let table: Vec<(&str, Break)> = vec![
        (
            "negative length",
            Box::new(move || Deed::Send(zeros(-1, 0))),
        ),
        (
            "huge length",
            Box::new(move || Deed::Send(zeros(i32::MAX, 0))),
        ),
        (
            "another's answer",
            Box::new(move || Deed::Send(zeros(8, 8).into_iter().map(|b| b | 8).collect())),
        ),
        ("unreadable", Box::new(move || Deed::Send(zeros(6, 6)))),
        (
            "cut and silent",
            Box::new(move || Deed::Send(zeros(100, 10))),
        ),
        ("silence", Box::new(|| Deed::Silence)),
        ("closed", Box::new(|| Deed::Close)),
    ];
    for (name, deed) in table {
        let (listener, address) = listen();
        serve(listener, Box::new(move |_, _| deed()));
        let error = Client::connect(&address.to_string(), config()).unwrap_err();
        assert!(error.ends_connection(), "{name}: {error}");
    }
}

#[test]
fn bootstrap_addresses_are_read_or_refused() {
    // Lists, blanks and IPv6 are understood; what has no port is refused by name.
    let read = |text| addresses(text).unwrap();
    assert_eq!(
        read("a:1, b:2,"),
        [("a".to_owned(), 1), ("b".to_owned(), 2)]
    );
    assert_eq!(read("[::1]:9092"), [("::1".to_owned(), 9092)]);
    for wrong in ["a", ":1", "a:b", "a:70000"] {
        let error = addresses(wrong).unwrap_err().to_string();
        assert!(error.contains(wrong), "{error}");
    }
}

#[test]
fn a_silent_broker_is_waited_for_as_long_as_asked() {
    // Nothing blocks while no answer comes: a full buffer is said, not waited for; a late answer is told as the
    // trouble; what is given up then may be stored.
    let (listener, address) = listen();
    let script = move |header: &RequestHeader<'_>, _: &[u8]| match api(header) {
        ApiKey::ApiVersions => versions(header),
        ApiKey::Metadata => metadata(header, &[address], 1, 0),
        ApiKey::InitProducerId => identity(header),
        _ => Deed::Silence,
    };
    serve(listener, Box::new(script));
    let mut client = Client::connect(&address.to_string(), config()).unwrap();
    let mut producer = client.producer(ProducerConfig {
        linger_ms: 0,
        buffered_bytes_max: 150,
        delivery_timeout_ms: u64::MAX / 2,
        ..ProducerConfig::default()
    });
    let partition = TopicPartition::new("t", 0);
    let record = streambus_proto::records::NewRecord {
        value: Some(b"ten bytes."),
        ..Default::default()
    };
    assert!(producer.offer(&partition, &record).unwrap());
    assert!(!producer.offer(&partition, &record).unwrap(), "full");
    while producer.trouble().is_none() {
        producer
            .turn_within(true, Duration::from_millis(10))
            .unwrap();
        assert!(!producer.is_idle());
    }
    assert_eq!(producer.trouble(), Some("no answer in time"));
    producer.give_up();
    let results: Vec<_> = producer.take_delivered().map(|end| end.result).collect();
    assert_eq!(results, [Err(crate::producer::DeliveryError::Unknown)]);
    assert!(producer.is_idle());
}
