//! Encoding and decoding Produce and Fetch: one partition, 1 KiB of records, borrowed.
//!
//! The versions are those of librdkafka 2.12. Encoding writes into memory that is used again and
//! leaves the records where they are, as the broker does. Decoding walks down to the records and
//! checks everything on the way, but the records themselves.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use streambus_proto::ids::TopicId;
use streambus_proto::messages::Message;
use streambus_proto::messages::fetch_request::{FetchPartition, FetchRequest, FetchTopic};
use streambus_proto::messages::fetch_response::{
    FetchResponse, FetchableTopicResponse, PartitionData,
};
use streambus_proto::messages::produce_request::{
    PartitionProduceData, ProduceRequest, TopicProduceData,
};
use streambus_proto::messages::produce_response::{
    PartitionProduceResponse, ProduceResponse, TopicProduceResponse,
};
use streambus_proto::wire::{Reader, Records, Writer};

const RECORD_BYTES: usize = 1_024;
const PRODUCE_VERSION: i16 = 10;
const FETCH_VERSION: i16 = 16;
const TOPIC: &str = "benchmark";

fn produce_request(records: Records<'_>) -> ProduceRequest<'_> {
    ProduceRequest {
        acks: -1,
        timeout_ms: 30_000,
        topic_data: vec![TopicProduceData {
            name: TOPIC.into(),
            partition_data: vec![PartitionProduceData { index: 7, records }].into(),
            ..TopicProduceData::default()
        }]
        .into(),
        ..ProduceRequest::default()
    }
}

fn produce_response() -> ProduceResponse<'static> {
    ProduceResponse {
        responses: vec![TopicProduceResponse {
            name: TOPIC.into(),
            partition_responses: vec![PartitionProduceResponse {
                index: 7,
                base_offset: 123_456,
                log_append_time_ms: -1,
                ..PartitionProduceResponse::default()
            }]
            .into(),
            ..TopicProduceResponse::default()
        }]
        .into(),
        ..ProduceResponse::default()
    }
}

fn fetch_request() -> FetchRequest<'static> {
    FetchRequest {
        replica_id: -1,
        max_wait_ms: 500,
        min_bytes: 1,
        max_bytes: 50 << 20,
        session_epoch: -1,
        topics: vec![FetchTopic {
            topic_id: TopicId([7; 16]),
            partitions: vec![FetchPartition {
                partition: 7,
                fetch_offset: 123_456,
                partition_max_bytes: 1 << 20,
                ..FetchPartition::default()
            }]
            .into(),
            ..FetchTopic::default()
        }]
        .into(),
        ..FetchRequest::default()
    }
}

fn fetch_response(records: Records<'_>) -> FetchResponse<'_> {
    FetchResponse {
        responses: vec![FetchableTopicResponse {
            topic_id: TopicId([7; 16]),
            partitions: vec![PartitionData {
                partition_index: 7,
                high_watermark: 123_457,
                last_stable_offset: 123_457,
                preferred_read_replica: -1,
                records,
                ..PartitionData::default()
            }]
            .into(),
            ..FetchableTopicResponse::default()
        }]
        .into(),
        ..FetchResponse::default()
    }
}

fn written<'a>(message: &impl Message<'a>, version: i16) -> Vec<u8> {
    let mut writer = Writer::new();
    message
        .write(&mut writer, version)
        .expect("the message can be said in its version");
    writer.into_parts().0
}

fn encode<'a>(criterion: &mut Criterion, name: &str, message: &impl Message<'a>, version: i16) {
    let mut writer = Writer::new();
    criterion.bench_function(name, |bencher| {
        bencher.iter(|| {
            writer.clear();
            let outcome = black_box(message).write(&mut writer, version);
            assert!(outcome.is_ok(), "the message can be said in its version");
            black_box(writer.as_slice().len())
        });
    });
}

fn encoding(criterion: &mut Criterion) {
    let records = Records::Splice(RECORD_BYTES);
    let message = produce_request(records);
    encode(
        criterion,
        "encode/produce_request",
        &message,
        PRODUCE_VERSION,
    );
    encode(
        criterion,
        "encode/produce_response",
        &produce_response(),
        PRODUCE_VERSION,
    );
    encode(
        criterion,
        "encode/fetch_request",
        &fetch_request(),
        FETCH_VERSION,
    );
    let message = fetch_response(records);
    encode(criterion, "encode/fetch_response", &message, FETCH_VERSION);
}

fn decoding(criterion: &mut Criterion) {
    let payload = [0x5a; RECORD_BYTES];
    let records = Records::Bytes(&payload);
    let bytes = written(&produce_request(records), PRODUCE_VERSION);
    criterion.bench_function("decode/produce_request", |bencher| {
        bencher.iter(|| {
            let mut reader = Reader::new(black_box(&bytes));
            let message = ProduceRequest::read(&mut reader, PRODUCE_VERSION).expect("sound");
            let mut found = 0;
            for topic in &message.topic_data {
                for partition in &topic.partition_data {
                    found += partition.records.bytes().map_or(0, <[u8]>::len);
                }
            }
            assert_eq!(found, RECORD_BYTES);
        });
    });
    let bytes = written(&fetch_request(), FETCH_VERSION);
    criterion.bench_function("decode/fetch_request", |bencher| {
        bencher.iter(|| {
            let mut reader = Reader::new(black_box(&bytes));
            let message = FetchRequest::read(&mut reader, FETCH_VERSION).expect("sound");
            let mut offsets = 0;
            for topic in &message.topics {
                for partition in &topic.partitions {
                    offsets += partition.fetch_offset;
                }
            }
            assert_eq!(offsets, 123_456);
        });
    });
    let bytes = written(&fetch_response(records), FETCH_VERSION);
    criterion.bench_function("decode/fetch_response", |bencher| {
        bencher.iter(|| {
            let mut reader = Reader::new(black_box(&bytes));
            let message = FetchResponse::read(&mut reader, FETCH_VERSION).expect("sound");
            let mut found = 0;
            for topic in &message.responses {
                for partition in &topic.partitions {
                    found += partition.records.bytes().map_or(0, <[u8]>::len);
                }
            }
            assert_eq!(found, RECORD_BYTES);
        });
    });
}

fn configured() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3))
}

criterion_group! {
    name = codec;
    config = configured();
    targets = encoding, decoding
}
criterion_main!(codec);
