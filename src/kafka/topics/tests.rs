use streambus_proto::messages::create_partitions_request::CreatePartitionsAssignment;
use streambus_proto::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopicConfig,
};
use streambus_proto::messages::delete_topics_request::DeleteTopicState;
use streambus_shards::run_alone;

use super::*;
use crate::kafka::test_host::{TestHost, TwoCores, topic_id};

fn topic(name: &str, partitions: i32, replication_factor: i16) -> CreatableTopic<'static> {
    CreatableTopic {
        name: name.to_owned().into(),
        num_partitions: partitions,
        replication_factor,
        ..CreatableTopic::default()
    }
}

fn assigned_to(name: &str, assignments: &[(i32, &[i32])]) -> CreatableTopic<'static> {
    let assignments = assignments
        .iter()
        .map(|(index, brokers)| CreatableReplicaAssignment {
            partition_index: *index,
            broker_ids: brokers.to_vec().into(),
        });
    CreatableTopic {
        assignments: assignments.collect(),
        ..topic(name, -1, -1)
    }
}

fn request(
    topics: Vec<CreatableTopic<'static>>,
    validate_only: bool,
) -> CreateTopicsRequest<'static> {
    CreateTopicsRequest {
        topics: topics.into(),
        validate_only,
        ..CreateTopicsRequest::default()
    }
}

/// Name, code and message of each result.
fn outcomes(answer: &CreateTopicsResponse<'_>) -> Vec<(String, i16, String)> {
    let outcome = |topic: CreatableTopicResult<'_>| {
        let message = topic
            .error_message
            .map(std::borrow::Cow::into_owned)
            .unwrap_or_default();
        (topic.name.into_owned(), topic.error_code, message)
    };
    answer.topics.iter().map(outcome).collect()
}

#[test]
fn each_topic_of_a_request_stands_for_itself() {
    // Proves that good topics are made beside bad ones, in the order of the request, and that a
    // name which stands twice makes nothing and is answered once.
    run_alone(async {
        let host = TestHost::new(&[("old", 1)]);
        let topics = vec![
            topic("new", 3, 1),
            topic("old", 1, 1),
            topic("twin", 1, 1),
            topic("..", 1, 1),
            topic("twin", 2, 1),
            topic("wide", 1, 3),
        ];
        let answer = create_topics(&host, &TwoCores, &request(topics, false)).await;
        let outcomes = outcomes(&answer);
        let codes: Vec<(&str, i16)> = outcomes
            .iter()
            .map(|(name, code, _)| (name.as_str(), *code))
            .collect();
        let expected = [
            ("new", 0),
            ("old", 36),
            ("twin", 42),
            ("..", 17),
            ("wide", 38),
        ];
        assert_eq!(codes, expected);
        assert_eq!(outcomes[0].2, "");
        assert_eq!(outcomes[2].2, "Duplicate topic name.");
        assert!(outcomes[4].2.contains("3 time(s)"), "{}", outcomes[4].2);
        assert_eq!(host.image(Image::topic_count), 2);
    })
    .expect("an executor");
}

#[test]
fn a_made_topic_is_told_with_its_settings() {
    // Proves what versions 5 and 7 add: counts, id, and every setting with its source.
    run_alone(async {
        let host = TestHost::new(&[]);
        let config = |name: &'static str, value: &'static str| CreatableTopicConfig {
            name: name.into(),
            value: Some(value.into()),
        };
        let with_config = CreatableTopic {
            configs: vec![config("retention.ms", "1000")].into(),
            ..topic("t", 4, -1)
        };
        let answer = create_topics(&host, &TwoCores, &request(vec![with_config], false)).await;
        let made = answer.topics.iter().next().expect("one result");
        assert_eq!(
            (
                made.error_code,
                made.num_partitions,
                made.replication_factor
            ),
            (0, 4, 1)
        );
        let id = host.image(|image| image.topic("t").expect("made").id);
        assert_eq!(made.topic_id, id);
        let configs: Vec<_> = made.configs.expect("told").iter().collect();
        assert_eq!(configs.len(), topic_config::TABLE.len());
        let of = |name: &str| {
            let config = configs
                .iter()
                .find(|config| config.name == name)
                .expect("told");
            (
                config.value.as_deref().map(str::to_owned),
                config.config_source,
            )
        };
        assert_eq!(of("retention.ms"), (Some("1000".to_owned()), 1));
        assert_eq!(of("retention.bytes"), (Some("-1".to_owned()), 5));
    })
    .expect("an executor");
}

#[test]
fn validation_makes_nothing() {
    // Proves that validate_only judges alike and leaves no topic and no id.
    run_alone(async {
        let host = TestHost::new(&[("old", 1)]);
        let topics = vec![topic("new", 3, 1), topic("old", 1, 1)];
        let answer = create_topics(&host, &TwoCores, &request(topics, true)).await;
        let codes: Vec<i16> = answer.topics.iter().map(|topic| topic.error_code).collect();
        assert_eq!(codes, [0, 36]);
        let would_be = answer.topics.iter().next().expect("one result");
        assert_eq!(
            (would_be.num_partitions, would_be.topic_id),
            (3, TopicId::ZERO)
        );
        assert_eq!((host.submitted(), host.image(Image::topic_count)), (0, 1));
    })
    .expect("an executor");
}

#[test]
fn assignments_name_brokers_of_the_listener() {
    // Proves that a core's broker id puts the partition on a lane of that core, and Kafka's
    // errors for assignments that mean nothing.
    run_alone(async {
        let host = TestHost::new(&[]);
        let good = assigned_to("good", &[(1, &[0]), (0, &[1]), (2, &[1])]);
        let bad: [(CreatableTopic<'static>, i16, &str); 6] = [
            (
                assigned_to("a", &[(0, &[9])]),
                39,
                "includes broker 9, but no such broker",
            ),
            (
                assigned_to("b", &[(0, &[0]), (0, &[1])]),
                39,
                "multiple manual partition",
            ),
            (assigned_to("c", &[(1, &[0])]), 39, "consecutive 0-based"),
            (assigned_to("d", &[(0, &[])]), 39, "empty replica list"),
            (
                assigned_to("e", &[(0, &[0, 1])]),
                39,
                "node 0 more than once",
            ),
            (
                CreatableTopic {
                    num_partitions: 1,
                    ..assigned_to("f", &[(0, &[0])])
                },
                42,
                "numPartitions was not set to -1",
            ),
        ];
        let answer = create_topics(&host, &TwoCores, &request(vec![good], false)).await;
        assert_eq!(outcomes(&answer)[0].1, 0);
        let lanes: Vec<u16> = host.image(|image| {
            let topic = image.topic("good").expect("made");
            topic.partitions.iter().map(|place| place.lane).collect()
        });
        assert_eq!(lanes, [1, 0, 1]);
        for (topic, code, part) in bad {
            let answer = create_topics(&host, &TwoCores, &request(vec![topic], false)).await;
            let (name, told, message) = outcomes(&answer).remove(0);
            assert!(
                told == code && message.contains(part),
                "{name}: {told} {message}"
            );
        }
    })
    .expect("an executor");
}

#[test]
fn ids_are_never_reserved_ones() {
    // Proves that ids differ and keep clear of those that Kafka gives a meaning.
    let host = TestHost::new(&[]);
    let one = admin::draw_topic_id(&host);
    assert_ne!(one, admin::draw_topic_id(&host));
    assert_eq!(one.0[0] & 0x80, 0x80);
}

#[test]
fn topics_are_deleted_by_name_and_by_id() {
    // Proves both forms, and Kafka's rules on what may not be said together.
    run_alone(async {
        let host = TestHost::new(&[("a", 1), ("b", 1), ("c", 1), ("d", 1)]);
        let names = |names: &[&'static str]| DeleteTopicsRequest {
            topic_names: names.iter().map(|name| (*name).into()).collect(),
            ..DeleteTopicsRequest::default()
        };
        let codes = |answer: &DeleteTopicsResponse<'_>| -> Vec<(Option<String>, i16)> {
            let responses = answer.responses.iter();
            responses
                .map(|one| (one.name.map(Into::into), one.error_code))
                .collect()
        };
        let some = |name: &str| Some(name.to_owned());
        let answer = delete_topics(&host, &names(&["a", "x", "b", "b"]), 5).await;
        assert_eq!(
            codes(&answer),
            [
                (some("a"), 0),
                (some("x"), 3),
                (some("b"), 42),
                (some("b"), 42)
            ]
        );

        let state = |name: Option<&'static str>, id| DeleteTopicState {
            name: name.map(Into::into),
            topic_id: id,
        };
        let zero = TopicId::ZERO;
        let states = vec![
            state(Some("b"), zero),
            state(None, topic_id("c")),
            state(None, topic_id("x")),
            state(Some("d"), topic_id("d")),
            state(None, zero),
            state(Some("c"), zero),
        ];
        let request = DeleteTopicsRequest {
            topics: states.into(),
            ..DeleteTopicsRequest::default()
        };
        let answer = delete_topics(&host, &request, 6).await;
        let expected = [
            (some("b"), 0),
            (some("c"), 0),
            (None, 100),
            (some("d"), 42),
            (None, 42),
            (some("c"), 42),
        ];
        assert_eq!(codes(&answer), expected);
        let first = answer.responses.iter().next().expect("six");
        assert_eq!(first.topic_id, topic_id("b"), "an id is told for a name");
        let left: Vec<String> =
            host.image(|image| image.topics().map(|topic| topic.name.to_string()).collect());
        assert_eq!(left, ["d"]);
    })
    .expect("an executor");
}

#[test]
fn partitions_are_added_each_topic_for_itself() {
    // Proves growth, validation only, duplicates (answered once), unknown topics and assignments.
    run_alone(async {
        let host = TestHost::new(&[("a", 1), ("b", 1)]);
        let topic = |name: &'static str, count, brokers: Option<&[i32]>| CreatePartitionsTopic {
            name: name.into(),
            count,
            assignments: brokers.map(|brokers| {
                let assignment = |broker: &i32| CreatePartitionsAssignment {
                    broker_ids: vec![*broker].into(),
                };
                brokers.iter().map(assignment).collect()
            }),
        };
        let ask =
            |topics: Vec<CreatePartitionsTopic<'static>>, validate_only| CreatePartitionsRequest {
                topics: topics.into(),
                validate_only,
                ..CreatePartitionsRequest::default()
            };
        let codes = |answer: &CreatePartitionsResponse<'_>| -> Vec<i16> {
            answer
                .results
                .iter()
                .map(|result| result.error_code)
                .collect()
        };
        let judged = ask(vec![topic("a", 3, None), topic("b", 1, None)], true);
        let answer = create_partitions(&host, &TwoCores, &judged).await;
        assert_eq!((codes(&answer), host.submitted()), (vec![0, 37], 0));

        let mixed = vec![
            topic("a", 3, None),
            topic("x", 3, None),
            topic("b", 3, Some(&[1, 1])),
            topic("dup", 3, None),
            topic("dup", 4, None),
        ];
        let answer = create_partitions(&host, &TwoCores, &ask(mixed, false)).await;
        assert_eq!(codes(&answer), [0, 3, 0, 42]);
        let lanes = |name: &str| -> Vec<u16> {
            host.image(|image| {
                let topic = image.topic(name).expect("there");
                topic.partitions.iter().map(|place| place.lane).collect()
            })
        };
        assert_eq!(lanes("a").len(), 3);
        assert_eq!(lanes("b")[1..], [1, 1]);
        let unknown = ask(vec![topic("a", 4, Some(&[7]))], false);
        let answer = create_partitions(&host, &TwoCores, &unknown).await;
        let result = answer.results.iter().next().expect("one");
        assert_eq!(result.error_code, 39);
        assert!(result.error_message.expect("told").contains("broker 7"));
    })
    .expect("an executor");
}

#[test]
fn many_topics_come_in_order() {
    // Proves that a request larger than one round of commands keeps its order.
    run_alone(async {
        let host = TestHost::new(&[]);
        let topics = (0..1_000)
            .map(|number| topic(&format!("t{number:04}"), 1, 1))
            .collect();
        let answer = create_topics(&host, &TwoCores, &request(topics, false)).await;
        for (number, result) in answer.topics.iter().enumerate() {
            assert_eq!(
                (result.error_code, &*result.name),
                (0, &*format!("t{number:04}"))
            );
        }
        assert_eq!(host.image(Image::topic_count), 1_000);
    })
    .expect("an executor");
}
