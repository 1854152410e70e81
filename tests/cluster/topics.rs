//! Names and numbers that no topic may have (fault row 35).

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;

use streambus_proto::messages::{
    CreateTopicsRequest, MetadataRequest, create_topics_request as create,
    metadata_request as metadata,
};

use crate::process::{Broker, resident};
use crate::wire::Wire;

const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
const INVALID_TOPIC: i16 = 17;
const INVALID_PARTITIONS: i16 = 37;
const INVALID_REQUEST: i16 = 42;
const POLICY_VIOLATION: i16 = 44;

fn ask(wire: &mut Wire, name: &str, partitions: i32) -> i16 {
    let request = CreateTopicsRequest {
        topics: vec![create::CreatableTopic {
            name: name.into(),
            num_partitions: partitions,
            replication_factor: 1,
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

/// Everything below a directory but the log's files, which are made and renamed at any time.
fn files(directory: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name().to_string_lossy().starts_with("wal-") {
            continue;
        }
        found.insert(entry.path().display().to_string());
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&entry.path()));
        }
    }
    found
}

fn names(wire: &mut Wire) -> Vec<String> {
    let all = MetadataRequest {
        topics: None,
        ..MetadataRequest::default()
    };
    wire.ask(&all, 1, |answer| {
        let names = answer
            .topics
            .iter()
            .map(|topic| topic.name.unwrap().into_owned());
        names.collect()
    })
}

#[test]
fn hostile_names_and_numbers_make_no_topic_and_no_file() {
    // Proves fault row 35: each name and number gets its code, bytes that are no text close the connection,
    // the data directory has the files that it had, and they cost no memory: what the broker takes for its first
    // requests and the commits to come it takes once.
    let home = tempfile::tempdir().unwrap();
    let broker = Broker::start(home.path(), &[]);
    let mut wire = Wire::connect(broker.core);
    let before = files(home.path());
    for round in 0.. {
        let memory = resident(broker.id());
        ask_for_hostile_topics(&mut wire, broker.core);
        let grown = resident(broker.id()).saturating_sub(memory);
        if grown < 64 << 10 {
            break;
        }
        assert!(round < 100, "{grown} bytes more each time");
    }
    assert!(names(&mut wire).is_empty());
    assert_eq!(files(home.path()), before);
}

fn ask_for_hostile_topics(wire: &mut Wire, address: SocketAddr) {
    let long = "x".repeat(300);
    let names_refused = [
        "",
        ".",
        "..",
        "../../etc/passwd",
        "a/b",
        "a\\b",
        "nul\0inside",
        "line\nbreak",
        "spa ce",
        "ünïcode",
        "\u{202e}reversed",
        long.as_str(),
    ];
    for name in names_refused {
        assert_eq!(ask(wire, name, 1), INVALID_TOPIC, "{name:?}");
        // Metadata makes topics by itself, but not these.
        let request = MetadataRequest {
            topics: Some(
                vec![
                    streambus_proto::messages::metadata_request::MetadataRequestTopic {
                        name: Some(name.into()),
                        ..Default::default()
                    },
                ]
                .into(),
            ),
            allow_auto_topic_creation: true,
            ..MetadataRequest::default()
        };
        let code = wire.ask(&request, 4, |answer| {
            answer.topics.iter().next().unwrap().error_code
        });
        assert_eq!(code, INVALID_TOPIC, "{name:?}");
    }
    for partitions in [0, -2, i32::MIN] {
        assert_eq!(
            ask(wire, "t", partitions),
            INVALID_PARTITIONS,
            "{partitions}"
        );
    }
    for partitions in [1_000_000, i32::MAX] {
        let code = ask(wire, "t", partitions);
        assert!(
            [INVALID_PARTITIONS, POLICY_VIOLATION].contains(&code),
            "{partitions}: {code}"
        );
    }
    // CreateTopics 2 with a name that is not UTF-8.
    let mut raw = vec![
        0, 19, 0, 2, 0, 0, 0, 1, 0xff, 0xff, 0, 0, 0, 1, 0, 2, 0xff, 0xfe,
    ];
    raw.extend_from_slice(&[0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0, 0]);
    let mut other = Wire::connect(address);
    other
        .raw(&i32::try_from(raw.len()).unwrap().to_be_bytes())
        .unwrap();
    other.raw(&raw).unwrap();
    assert_eq!(other.receive(), None, "bytes that are no text");
}

#[test]
fn topics_one_by_one_end_at_the_limit() {
    // Proves the bound on topics and on partitions of all: what is beyond is refused, whichever way it is
    // asked for, and topics that were made go on.
    let home = tempfile::tempdir().unwrap();
    let broker = Broker::start(
        home.path(),
        &[
            ("STREAMBUS_LIMITS__TOPICS_MAX", "1000"),
            ("STREAMBUS_LIMITS__PARTITIONS_MAX", "1500"),
        ],
    );
    let mut wire = Wire::connect(broker.core);
    for number in 0..1_000 {
        assert_eq!(ask(&mut wire, &format!("t{number}"), 1), 0, "{number}");
    }
    assert_eq!(ask(&mut wire, "one-more", 1), POLICY_VIOLATION);
    assert_eq!(names(&mut wire).len(), 1_000);
    drop(broker);
    let broker = Broker::start(home.path(), &[]);
    assert_eq!(
        names(&mut Wire::connect(broker.core)).len(),
        1_000,
        "after a crash"
    );
}

/// Error code, whether it is internal, and number of partitions, as `Metadata` answers.
fn looked_up(wire: &mut Wire, name: &'static str) -> (i16, bool, usize) {
    let request = MetadataRequest {
        topics: Some(
            vec![metadata::MetadataRequestTopic {
                name: Some(name.into()),
                ..metadata::MetadataRequestTopic::default()
            }]
            .into(),
        ),
        allow_auto_topic_creation: true,
        ..MetadataRequest::default()
    };
    wire.ask(&request, 12, |answer| {
        let topic = answer.topics.iter().next().unwrap();
        (topic.error_code, topic.is_internal, topic.partitions.len())
    })
}

#[test]
fn clients_never_create_a_topic_of_the_broker() {
    // Proves that neither Metadata nor CreateTopics creates one, and that any other name that Metadata
    // is asked for is created and answered at once, as ops/README.md says.
    let home = tempfile::tempdir().unwrap();
    let broker = Broker::start(home.path(), &[]);
    let mut wire = Wire::connect(broker.core);
    for (name, is_internal) in [
        ("__consumer_offsets", true),
        ("__transaction_state", true),
        ("__share_group_state", true),
        ("__cluster_metadata", false),
    ] {
        let expected = (UNKNOWN_TOPIC_OR_PARTITION, is_internal, 0);
        assert_eq!(looked_up(&mut wire, name), expected, "{name}");
        assert_eq!(ask(&mut wire, name, 1), INVALID_REQUEST, "{name}");
        assert_eq!(looked_up(&mut wire, name), expected, "{name}");
    }
    assert_eq!(names(&mut wire), Vec::<String>::new());
    assert_eq!(looked_up(&mut wire, "any.other"), (0, false, 1));
    assert_eq!(names(&mut wire), ["any.other"]);
}
