use std::sync::Arc;

use super::*;
use crate::config::{CleanupPolicy, TimestampType};
use crate::metadata::alteration::{ConfigEdit, ConfigOp};
use crate::metadata::image::Identity;

const LIMITS: Limits = Limits {
    topics_max: 10,
    partitions_max: 40,
    partitions_per_topic_max: 20,
    message_bytes_max: 64 << 20,
};

fn empty(lanes: u16) -> Image {
    let identity = Identity {
        cluster_id: "test".to_owned(),
        node: NodeId(0),
        lanes,
    };
    Image::empty(identity, Arc::new(ConfigMap::new()))
}

fn id(byte: u8) -> TopicId {
    TopicId([byte; 16])
}

fn auto(partitions: i32, replication_factor: i16) -> Layout {
    Layout::Auto {
        partitions,
        replication_factor,
    }
}

fn create(name: &str, byte: u8, layout: Layout, configs: &[(&str, Option<&str>)]) -> Command {
    let configs = configs
        .iter()
        .map(|(name, value)| ((*name).into(), value.map(Into::into)));
    Command::CreateTopic {
        name: name.into(),
        id: id(byte),
        layout,
        configs: configs.collect(),
    }
}

fn done(image: &mut Image, command: &Command) -> Delta {
    let delta = apply(image, command, &LIMITS).expect("the command is good");
    image.absorb(&delta);
    delta
}

fn refused(image: &Image, command: &Command) -> Refusal {
    apply(image, command, &LIMITS).expect_err("the command is bad")
}

fn expect(image: &Image, command: &Command, code: ErrorCode, part: &str) {
    let refusal = refused(image, command);
    assert_eq!(refusal.code, code, "{refusal}");
    assert!(refusal.message.contains(part), "{refusal} lacks {part:?}");
}

fn edit(name: &str, op: ConfigOp, value: Option<&str>) -> Command {
    Command::AlterTopicConfig {
        topic: "t".into(),
        alteration: Alteration::Edit(vec![ConfigEdit {
            name: name.into(),
            op,
            value: value.map(Into::into),
        }]),
    }
}

#[test]
fn a_topic_is_created_spread_and_counted() {
    // Proves placement, the default counts, and that the image knows the topic both ways.
    let mut image = empty(2);
    done(&mut image, &create("a", 1, auto(3, 1), &[]));
    done(
        &mut image,
        &create("b", 2, auto(-1, -1), &[("retention.ms", Some("5"))]),
    );
    let a = image.topic("a").expect("created");
    let lanes: Vec<u16> = a.partitions.iter().map(|place| place.lane).collect();
    assert_eq!(lanes, [0, 1, 0]);
    assert_eq!(a.partitions[0].replicas, [NodeId(0)]);
    let b = image.topic_by_id(id(2)).expect("created");
    assert_eq!((b.partition_count(), b.partitions[0].lane), (1, 1));
    assert_eq!(b.settings.retention_ms, 5);
    assert_eq!((image.topic_count(), image.partition_count()), (2, 4));
    assert_eq!(image.lane_partitions(), [2, 2]);
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn bad_topics_are_refused_with_kafkas_codes() {
    // Proves each rule of CreateTopics on one node.
    let mut image = empty(2);
    done(&mut image, &create("a.b", 1, auto(1, 1), &[]));
    let one = || auto(1, 1);
    let cases: Vec<(Command, ErrorCode, &str)> = vec![
        (
            create("", 9, one(), &[]),
            ErrorCode::InvalidTopicException,
            "empty string",
        ),
        (
            create("..", 9, one(), &[]),
            ErrorCode::InvalidTopicException,
            "'..' is not allowed",
        ),
        (
            create("a.b", 9, one(), &[]),
            ErrorCode::TopicAlreadyExists,
            "Topic 'a.b' already exists.",
        ),
        (
            create("a_b", 9, one(), &[]),
            ErrorCode::InvalidTopicException,
            "existing topic: a.b",
        ),
        (
            create("__cluster_metadata", 9, one(), &[]),
            ErrorCode::InvalidRequest,
            "prohibited",
        ),
        (
            create("c", 9, auto(0, 1), &[]),
            ErrorCode::InvalidPartitions,
            "non-positive",
        ),
        (
            create("c", 9, auto(-2, 1), &[]),
            ErrorCode::InvalidPartitions,
            "non-positive",
        ),
        (
            create("c", 9, auto(21, 1), &[]),
            ErrorCode::InvalidPartitions,
            "partitions_per_topic_max=20",
        ),
        (
            create("c", 9, auto(1_000_000, 1), &[]),
            ErrorCode::InvalidPartitions,
            "1000000",
        ),
        (
            create("c", 9, auto(1, 0), &[]),
            ErrorCode::InvalidReplicationFactor,
            "larger than 0",
        ),
        (
            create("c", 9, auto(1, 2), &[]),
            ErrorCode::InvalidReplicationFactor,
            "2 time(s)",
        ),
        (
            create("c", 9, one(), &[("retention.mss", Some("1"))]),
            ErrorCode::InvalidConfig,
            "did you mean retention.ms?",
        ),
        (
            create("c", 9, one(), &[("retention.ms", Some("-2"))]),
            ErrorCode::InvalidConfig,
            "Invalid value -2 for configuration retention.ms: Value must be at least -1",
        ),
        (
            create("c", 9, one(), &[("retention.ms", None)]),
            ErrorCode::InvalidConfig,
            "Null value",
        ),
        (
            create(
                "c",
                9,
                one(),
                &[("retention.ms", Some("1")), ("retention.ms", Some("2"))],
            ),
            ErrorCode::InvalidRequest,
            "duplicate config keys",
        ),
        (
            create("c", 9, one(), &[("remote.storage.enable", Some("true"))]),
            ErrorCode::InvalidConfig,
            "Tiered Storage",
        ),
        (
            create(
                "c",
                9,
                one(),
                &[
                    ("max.compaction.lag.ms", Some("1")),
                    ("min.compaction.lag.ms", Some("2")),
                ],
            ),
            ErrorCode::InvalidConfig,
            "min.compaction.lag.ms (2) > max.compaction.lag.ms (1)",
        ),
    ];
    for (command, code, part) in cases {
        expect(&image, &command, code, part);
    }
}

#[test]
fn totals_are_bounded() {
    // Proves that neither many small topics nor a few large ones pass the limits.
    let mut image = empty(1);
    for byte in 1..=10 {
        done(
            &mut image,
            &create(&format!("t{byte}"), byte, auto(1, 1), &[]),
        );
    }
    expect(
        &image,
        &create("more", 99, auto(1, 1), &[]),
        ErrorCode::PolicyViolation,
        "topics_max allows 10",
    );

    let mut image = empty(1);
    done(&mut image, &create("a", 1, auto(20, 1), &[]));
    done(&mut image, &create("b", 2, auto(20, 1), &[]));
    expect(
        &image,
        &create("c", 3, auto(1, 1), &[]),
        ErrorCode::PolicyViolation,
        "partitions_max=40",
    );
    let grow = Command::CreatePartitions {
        topic: "a".into(),
        count: 21,
        manual: None,
    };
    expect(
        &image,
        &grow,
        ErrorCode::InvalidPartitions,
        "partitions_per_topic_max",
    );
}

#[test]
fn manual_assignments_are_judged() {
    // Proves Kafka's rules for them, and that a named core's lane is taken.
    let mut image = empty(2);
    let on = |replicas: &[u16], lane| ManualPartition {
        replicas: replicas.iter().map(|node| NodeId(*node)).collect(),
        lane,
    };
    for (partitions, part) in [
        (vec![on(&[], None)], "empty replica list"),
        (
            vec![on(&[7], None)],
            "includes broker 7, but no such broker is registered",
        ),
        (vec![on(&[0, 0], None)], "more than once"),
        (vec![on(&[0], Some(2))], "no lane 2"),
    ] {
        let command = create("m", 1, Layout::Manual(partitions), &[]);
        expect(&image, &command, ErrorCode::InvalidReplicaAssignment, part);
    }
    let nothing = create("m", 1, Layout::Manual(Vec::new()), &[]);
    expect(
        &image,
        &nothing,
        ErrorCode::InvalidPartitions,
        "non-positive",
    );
    let good = Layout::Manual(vec![on(&[0], Some(1)), on(&[0], Some(1)), on(&[0], None)]);
    done(&mut image, &create("m", 1, good, &[]));
    let lanes: Vec<u16> = image
        .topic("m")
        .expect("made")
        .partitions
        .iter()
        .map(|p| p.lane)
        .collect();
    assert_eq!(lanes, [1, 1, 0]);
}

#[test]
fn partitions_only_grow() {
    // Proves Kafka's answers for the same count, a smaller one, and wrong assignments.
    let mut image = empty(3);
    done(&mut image, &create("t", 1, auto(2, 1), &[]));
    let to = |count, manual| Command::CreatePartitions {
        topic: "t".into(),
        count,
        manual,
    };
    expect(
        &image,
        &to(2, None),
        ErrorCode::InvalidPartitions,
        "already has 2 partition(s)",
    );
    expect(
        &image,
        &to(1, None),
        ErrorCode::InvalidPartitions,
        "1 would not be an increase",
    );
    expect(
        &image,
        &to(-1, None),
        ErrorCode::InvalidPartitions,
        "-1 would not be an increase",
    );
    expect(
        &image,
        &to(i32::MIN, None),
        ErrorCode::InvalidPartitions,
        "not be an increase",
    );
    let two = vec![
        ManualPartition {
            replicas: vec![NodeId(0)],
            lane: None
        };
        2
    ];
    expect(
        &image,
        &to(3, Some(two)),
        ErrorCode::InvalidReplicaAssignment,
        "only 2 assignment(s)",
    );
    let missing = Command::CreatePartitions {
        topic: "x\0".into(),
        count: 3,
        manual: None,
    };
    expect(
        &image,
        &missing,
        ErrorCode::UnknownTopicOrPartition,
        "'x\\u{0}' does not exist",
    );
    let delta = done(&mut image, &to(4, None));
    assert!(matches!(
        &delta.changes[..],
        [Change::PartitionsAdded { first: 2, .. }]
    ));
    let topic = image.topic("t").expect("there");
    let lanes: Vec<u16> = topic.partitions.iter().map(|place| place.lane).collect();
    assert_eq!(
        lanes,
        [0, 1, 2, 0],
        "growth goes on from the least loaded lane"
    );
}

#[test]
fn a_deleted_topic_leaves_nothing() {
    // Proves that counts go back and that the name is free again under another id.
    let mut image = empty(2);
    done(&mut image, &create("x.y", 1, auto(3, 1), &[]));
    done(&mut image, &Command::DeleteTopic { id: id(1) });
    expect(
        &image,
        &Command::DeleteTopic { id: id(1) },
        ErrorCode::UnknownTopicId,
        "topic ID",
    );
    assert!(image.topic("x.y").is_none() && image.topic_by_id(id(1)).is_none());
    assert_eq!(
        (image.partition_count(), image.lane_partitions()),
        (0, &[0, 0][..])
    );
    done(&mut image, &create("x_y", 2, auto(1, 1), &[]));
    assert_eq!(image.topic("x_y").expect("made").id, id(2));

    let statics = ConfigMap::from([("delete.topic.enable".to_owned(), "false".to_owned())]);
    let identity = image.identity().clone();
    let mut image = Image::empty(identity, Arc::new(statics));
    done(&mut image, &create("kept", 3, auto(1, 1), &[]));
    let delete = Command::DeleteTopic { id: id(3) };
    expect(
        &image,
        &delete,
        ErrorCode::TopicDeletionDisabled,
        "delete_topic_enable",
    );
}

#[test]
fn deleted_topics_are_remembered_until_they_are_forgotten() {
    // Proves that an id of which a lane may still hold something is known as deleted, is not given again,
    // and that forgetting some leaves the others, and those that were never deleted, as they are.
    let mut image = empty(2);
    for byte in 1..=4 {
        done(
            &mut image,
            &create(&format!("t{byte}"), byte, auto(1, 1), &[]),
        );
    }
    let remembered =
        |image: &Image| -> Vec<TopicId> { image.deleted_topics().iter().copied().collect() };
    assert_eq!(remembered(&image), []);
    for byte in 1..=3 {
        done(&mut image, &Command::DeleteTopic { id: id(byte) });
    }
    assert_eq!(remembered(&image), [id(1), id(2), id(3)]);
    expect(
        &image,
        &create("again", 2, auto(1, 1), &[]),
        ErrorCode::UnknownServerError,
        "taken",
    );
    let forget = Command::ForgetTopics {
        ids: vec![id(1), id(3), id(4), id(9)],
    };
    let delta = done(&mut image, &forget);
    assert_eq!(
        delta.changes,
        [Change::DeletedTopicsSet { ids: vec![id(2)] }]
    );
    assert_eq!(remembered(&image), [id(2)]);
    assert!(image.topic_by_id(id(4)).is_some(), "it was never deleted");
    done(&mut image, &create("again", 3, auto(1, 1), &[]));
}

#[test]
fn topic_settings_change_one_by_one_or_all_at_once() {
    // Proves set, delete, append and subtract, the full replacement, and that the resolved
    // settings follow.
    let mut image = empty(1);
    done(
        &mut image,
        &create("t", 1, auto(1, 1), &[("retention.ms", Some("7"))]),
    );
    let settings = |image: &Image| image.topic("t").expect("there").settings.as_ref().clone();

    done(
        &mut image,
        &edit("cleanup.policy", ConfigOp::Append, Some("compact")),
    );
    assert_eq!(
        settings(&image).cleanup_policy,
        Some(CleanupPolicy::CompactDelete)
    );
    done(
        &mut image,
        &edit("cleanup.policy", ConfigOp::Subtract, Some("delete")),
    );
    assert_eq!(
        settings(&image).cleanup_policy,
        Some(CleanupPolicy::Compact)
    );
    done(&mut image, &edit("cleanup.policy", ConfigOp::Delete, None));
    assert_eq!(settings(&image).cleanup_policy, Some(CleanupPolicy::Delete));
    done(
        &mut image,
        &edit(
            "message.timestamp.type",
            ConfigOp::Set,
            Some("LogAppendTime"),
        ),
    );
    assert_eq!(
        settings(&image).message_timestamp_type,
        TimestampType::LogAppendTime
    );
    assert_eq!(settings(&image).retention_ms, 7, "the rest stays");

    let not_a_list = edit("retention.ms", ConfigOp::Append, Some("1"));
    expect(
        &image,
        &not_a_list,
        ErrorCode::InvalidConfig,
        "Can't APPEND to key retention.ms",
    );
    expect(
        &image,
        &edit("retention.ms", ConfigOp::Set, None),
        ErrorCode::InvalidConfig,
        "Null value",
    );
    expect(
        &image,
        &edit("colour", ConfigOp::Delete, None),
        ErrorCode::InvalidConfig,
        "Unknown topic config",
    );

    let all = Alteration::Replace(vec![("max.message.bytes".into(), Some("2000".into()))]);
    done(
        &mut image,
        &Command::AlterTopicConfig {
            topic: "t".into(),
            alteration: all,
        },
    );
    assert_eq!(settings(&image).max_message_bytes, 2000);
    assert_eq!(
        settings(&image).retention_ms,
        604_800_000,
        "what is not named is gone"
    );
}

#[test]
fn broker_settings_reach_every_topic_without_its_own() {
    // Proves the order topic, node, cluster, default, and that only dynamic settings change.
    let mut image = empty(1);
    done(
        &mut image,
        &create("own", 1, auto(1, 1), &[("retention.ms", Some("7"))]),
    );
    done(&mut image, &create("plain", 2, auto(1, 1), &[]));
    let set = |scope, name: &str, value: &str| Command::AlterBrokerConfig {
        scope,
        alteration: Alteration::Replace(vec![(name.into(), Some(value.into()))]),
    };
    let of = |image: &Image, name: &str| image.topic(name).expect("there").settings.retention_ms;
    done(
        &mut image,
        &set(ConfigScope::Cluster, "log.retention.ms", "100"),
    );
    assert_eq!((of(&image, "own"), of(&image, "plain")), (7, 100));
    done(
        &mut image,
        &set(ConfigScope::Node(NodeId(0)), "log.retention.ms", "50"),
    );
    assert_eq!((of(&image, "own"), of(&image, "plain")), (7, 50));
    let none = Alteration::Replace(Vec::new());
    let scope = ConfigScope::Node(NodeId(0));
    done(
        &mut image,
        &Command::AlterBrokerConfig {
            scope,
            alteration: none,
        },
    );
    assert_eq!(of(&image, "plain"), 100);
    let fixed = set(ConfigScope::Cluster, "node.id", "3");
    expect(&image, &fixed, ErrorCode::InvalidRequest, "streambus.toml");
    let scope = ConfigScope::Cluster;
    let pairs =
        ["node.id", "log.retention.ms", "log.dirs"].map(|name| (name.into(), Some("3".into())));
    let alteration = Alteration::Replace(pairs.to_vec());
    let several = Command::AlterBrokerConfig { scope, alteration };
    expect(
        &image,
        &several,
        ErrorCode::InvalidRequest,
        "dynamically: [node.id, log.dirs]",
    );
    let nobody = set(ConfigScope::Node(NodeId(9)), "log.retention.ms", "3");
    expect(&image, &nobody, ErrorCode::InvalidRequest, "no node 9");
}

#[test]
fn a_batch_may_be_as_large_as_a_log_file_takes() {
    // Proves the bound of max.message.bytes at a creation and a change, and of the broker's default.
    let mut image = empty(1);
    let limits = Limits {
        message_bytes_max: 1_000,
        ..LIMITS
    };
    done(&mut image, &create("t", 1, auto(1, 1), &[]));
    let set =
        |name: &str, value| Alteration::Replace(vec![(name.into(), Some(String::from(value)))]);
    for (value, good) in [("1000", true), ("1001", false)] {
        let commands = [
            create("u", 2, auto(1, 1), &[("max.message.bytes", Some(value))]),
            Command::AlterTopicConfig {
                topic: "t".into(),
                alteration: set("max.message.bytes", value),
            },
            Command::AlterBrokerConfig {
                scope: ConfigScope::Cluster,
                alteration: set("message.max.bytes", value),
            },
        ];
        for command in commands {
            match apply(&image, &command, &limits) {
                Ok(_) => assert!(good, "{command:?}"),
                Err(refusal) => {
                    let message = refusal.to_string();
                    assert!(
                        !good && message.contains("raise storage.wal_file_bytes"),
                        "{message}"
                    );
                }
            }
        }
    }
}

#[test]
fn producer_ids_are_given_once() {
    // Proves that blocks follow each other without overlap and are bounded.
    let mut image = empty(1);
    for first in [0, 10, 20] {
        let delta = done(&mut image, &Command::AllocateProducerIds { count: 10 });
        assert_eq!(
            delta.changes,
            [Change::ProducerIdsAllocated { first, count: 10 }]
        );
    }
    for count in [0, u32::MAX] {
        let command = Command::AllocateProducerIds { count };
        expect(&image, &command, ErrorCode::InvalidRequest, "not from 1");
    }
}

#[test]
#[should_panic(expected = "skipped or absorbed twice")]
fn a_delta_is_absorbed_once() {
    // Proves that an image notices when it would differ from the others.
    let mut image = empty(1);
    let delta = done(&mut image, &Command::AllocateProducerIds { count: 1 });
    image.absorb(&delta);
}
