//! Settings of topics and of the broker have the effect that their documentation says.

use std::time::{SystemTime, UNIX_EPOCH};

use streambus_proto::messages::{
    CreateTopicsRequest, DeleteTopicsRequest, DescribeConfigsRequest, MetadataRequest,
    create_topics_request as create, delete_topics_request as delete,
    describe_configs_request as describe, metadata_request as metadata, metadata_response,
};
use streambus_proto::records::{BatchBuilder, Codec, NewRecord};

use crate::process::Broker;
use crate::records::{PRODUCE, create, send};
use crate::wire::Wire;

const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
const MESSAGE_TOO_LARGE: i16 = 10;
const NOT_ENOUGH_REPLICAS: i16 = 19;
const INVALID_TIMESTAMP: i16 = 32;
const TOPIC_DELETION_DISABLED: i16 = 73;
const HOUR_MS: i64 = 3_600_000;

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(since.as_millis()).unwrap()
}

/// One record of 1,000 bytes with this time.
fn batch(timestamp: i64) -> Vec<u8> {
    let mut builder = BatchBuilder::new(Codec::None);
    builder.push(&NewRecord {
        timestamp,
        key: Some(b"key"),
        value: Some(&[b'v'; 1_000]),
        ..NewRecord::default()
    });
    builder.build()
}

#[test]
fn settings_of_a_topic_have_their_effect() {
    // Proves what an append is refused for, and that the same append is taken without the setting.
    let home = tempfile::tempdir().unwrap();
    let broker = Broker::start(home.path(), &[]);
    let mut wire = Wire::connect(broker.core);
    let now = now_ms();
    create(&mut wire, "plain", &[]);
    let cases = [
        ("min.insync.replicas", "2", now, NOT_ENOUGH_REPLICAS),
        ("max.message.bytes", "1000", now, MESSAGE_TOO_LARGE),
        (
            "message.timestamp.before.max.ms",
            "60000",
            now - HOUR_MS,
            INVALID_TIMESTAMP,
        ),
        (
            "message.timestamp.after.max.ms",
            "60000",
            now + HOUR_MS / 2,
            INVALID_TIMESTAMP,
        ),
    ];
    for (name, value, timestamp, code) in cases {
        create(&mut wire, name, &[(name, value)]);
        let refused = send(&mut wire, name, &batch(timestamp), PRODUCE);
        assert_eq!(refused.code, code, "{name}: {refused:?}");
        assert_eq!(send(&mut wire, "plain", &batch(timestamp), PRODUCE).code, 0);
    }
    let stamps = [("message.timestamp.type", "LogAppendTime")];
    create(&mut wire, "stamped", &stamps);
    let stamped = send(&mut wire, "stamped", &batch(now - HOUR_MS), PRODUCE);
    assert!(stamped.log_append_time_ms >= now, "{stamped:?}");
    let plain = send(&mut wire, "plain", &batch(now - HOUR_MS), PRODUCE);
    assert_eq!(plain.log_append_time_ms, -1);
}

/// The error of a topic that metadata is asked for by a client that would have it created, and the
/// number of its partitions.
fn named(wire: &mut Wire, name: &str) -> (i16, usize) {
    let topic = metadata::MetadataRequestTopic {
        name: Some(name.into()),
        ..metadata::MetadataRequestTopic::default()
    };
    let request = MetadataRequest {
        topics: Some(vec![topic].into()),
        allow_auto_topic_creation: true,
        ..MetadataRequest::default()
    };
    wire.ask(&request, 8, |answer| {
        let topic = answer.topics.iter().next().unwrap();
        (topic.error_code, topic.partitions.len())
    })
}

/// The error of a new topic that leaves the numbers of partitions and replicas to the broker.
fn created_by_default(wire: &mut Wire, name: &str) -> i16 {
    let request = CreateTopicsRequest {
        topics: vec![create::CreatableTopic {
            name: name.into(),
            num_partitions: -1,
            replication_factor: -1,
            ..create::CreatableTopic::default()
        }]
        .into(),
        timeout_ms: 10_000,
        ..CreateTopicsRequest::default()
    };
    wire.ask(&request, 5, |answer| {
        answer.topics.iter().next().unwrap().error_code
    })
}

fn deleted(wire: &mut Wire, name: &str) -> i16 {
    let request = DeleteTopicsRequest {
        topics: vec![delete::DeleteTopicState {
            name: Some(name.into()),
            ..delete::DeleteTopicState::default()
        }]
        .into(),
        timeout_ms: 10_000,
        ..DeleteTopicsRequest::default()
    };
    wire.ask(&request, 6, |answer| {
        answer.responses.iter().next().unwrap().error_code
    })
}

#[test]
fn settings_of_the_broker_have_their_effect() {
    // Proves creation by name, numbers of partitions and replicas by default, and deletion: each with
    // the default and with another value.
    let homes = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let plain = Broker::start(homes[0].path(), &[]);
    let other = Broker::start(
        homes[1].path(),
        &[
            ("STREAMBUS_TOPICS__AUTO_CREATE_TOPICS_ENABLE", "false"),
            ("STREAMBUS_TOPICS__NUM_PARTITIONS", "4"),
            ("STREAMBUS_TOPICS__DELETE_TOPIC_ENABLE", "false"),
        ],
    );
    let (mut plain, mut other) = (Wire::connect(plain.core), Wire::connect(other.core));
    assert_eq!(named(&mut plain, "named"), (0, 1));
    assert_eq!(named(&mut other, "named"), (UNKNOWN_TOPIC_OR_PARTITION, 0));
    assert_eq!(created_by_default(&mut plain, "made"), 0);
    assert_eq!(created_by_default(&mut other, "made"), 0);
    assert_eq!(named(&mut plain, "made"), (0, 1));
    assert_eq!(named(&mut other, "made"), (0, 4));
    assert_eq!(deleted(&mut plain, "made"), 0);
    assert_eq!(deleted(&mut other, "made"), TOPIC_DELETION_DISABLED);

    let home = tempfile::tempdir().unwrap();
    let replicas = ("STREAMBUS_TOPICS__DEFAULT_REPLICATION_FACTOR", "2");
    let broker = Broker::start(home.path(), &[replicas]);
    let mut wire = Wire::connect(broker.core);
    assert_ne!(
        created_by_default(&mut wire, "made"),
        0,
        "one node has one replica"
    );
}

#[test]
fn a_broker_says_where_it_listens() {
    // Proves for a listener of each mode that the addresses in a broker's settings are those of Metadata.
    let home = tempfile::tempdir().unwrap();
    let broker = Broker::start(home.path(), &[]);
    for bootstrap in [broker.core, broker.node] {
        let mut wire = Wire::connect(bootstrap);
        let none = MetadataRequest {
            topics: Some(Vec::new().into()),
            ..MetadataRequest::default()
        };
        let brokers: Vec<(i32, String)> = wire.ask(&none, 8, |answer| {
            let address = |broker: metadata_response::MetadataResponseBroker<'_>| {
                (
                    broker.node_id,
                    format!("PLAINTEXT://{}:{}", broker.host, broker.port),
                )
            };
            answer.brokers.iter().map(address).collect()
        });
        for (id, address) in brokers {
            let names = ["node.id", "listeners", "advertised.listeners"];
            let resource = describe::DescribeConfigsResource {
                resource_type: 4,
                resource_name: id.to_string().into(),
                configuration_keys: Some(names.iter().map(|name| (*name).into()).collect()),
            };
            let request = DescribeConfigsRequest {
                resources: vec![resource].into(),
                ..DescribeConfigsRequest::default()
            };
            let mut found: Vec<(String, String)> = wire.ask(&request, 4, |answer| {
                let result = answer.results.iter().next().unwrap();
                let configs = result.configs.iter();
                let pair = configs.map(|one| (one.name.into(), one.value.unwrap().into()));
                pair.collect()
            });
            found.sort();
            let expected = [
                ("advertised.listeners", address.clone()),
                ("listeners", address),
                ("node.id", id.to_string()),
            ];
            assert_eq!(
                found,
                expected.map(|(name, value)| (name.to_owned(), value))
            );
        }
    }
}
