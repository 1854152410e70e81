use streambus_proto::messages::alter_partition_reassignments_request::ReassignableTopic;
use streambus_proto::messages::alter_replica_log_dirs_request::{
    AlterReplicaLogDir, AlterReplicaLogDirTopic,
};
use streambus_proto::messages::elect_leaders_request::TopicPartitions;
use streambus_shards::run_alone;

use super::*;
use crate::kafka::test_host::{TestHost, TwoCores};

#[test]
fn no_election_is_needed() {
    // Proves the outcome of each kind of partition and election, the code of the whole answer, and that
    // a request for all partitions names no partition.
    let elect = |election_type, topics: Option<Vec<(&'static str, Vec<i32>)>>, version| {
        let topics = topics.map(|topics| {
            let topics = topics
                .into_iter()
                .map(|(topic, partitions)| TopicPartitions {
                    topic: topic.into(),
                    partitions: partitions.into(),
                });
            topics.collect()
        });
        let request = ElectLeadersRequest {
            election_type,
            topic_partitions: topics,
            ..ElectLeadersRequest::default()
        };
        let answer = run_alone(async move {
            elect_leaders(&TestHost::new(&[("a", 2)]), &request, version).await
        });
        let answer = answer.expect("an executor");
        let results = answer.replica_election_results.iter();
        let results: Vec<(String, Vec<i16>)> = results
            .map(|topic| {
                let codes = topic.partition_result.iter().map(|one| one.error_code);
                (topic.topic.to_string(), codes.collect())
            })
            .collect();
        (answer.error_code, results)
    };
    let named = |name: &str, codes: &[i16]| vec![(name.to_owned(), codes.to_vec())];
    let some = |name, partitions: &[i32]| Some(vec![(name, partitions.to_vec())]);
    for (election_type, topics, version, code, results) in [
        (0, some("a", &[0, 9]), 2, 0, named("a", &[84, 3])),
        (1, some("a", &[1]), 1, 0, named("a", &[84])),
        (0, some("no", &[0]), 0, 0, named("no", &[3])),
        (7, some("a", &[0]), 2, 42, named("a", &[42])),
        (7, some("a", &[0]), 0, 0, named("a", &[84])),
        (0, None, 2, 0, named("a", &[])),
        (7, None, 2, 42, vec![]),
        (7, Some(vec![]), 2, 0, vec![]),
    ] {
        let case = format!("{election_type} {topics:?} {version}");
        let answer = elect(election_type, topics, version);
        assert_eq!(answer, (code, results), "{case}");
    }
}

#[test]
fn a_partition_can_only_be_assigned_to_where_it_is() {
    // Proves each refusal with its sentence, and that the present place is accepted.
    let here = TestHost::new(&[("a", 2)]).image(|image| {
        let place = image.topic("a").and_then(|topic| topic.partition(0));
        TwoCores.leader_of(place.expect("it is there")).0
    });
    let other = 1 - here;
    for (topic, index, replicas, code, part) in [
        ("a", 0, Some(vec![here]), 0, ""),
        ("a", 0, None, 85, ""),
        ("a", 0, Some(vec![]), 39, "an empty replica list"),
        ("a", 0, Some(vec![here, here]), 39, "more than once"),
        ("a", 0, Some(vec![5]), 39, "broker 5, but no such broker"),
        ("a", 0, Some(vec![other]), 39, "stays on its core for life"),
        ("a", 9, Some(vec![here]), 3, "Unable to find partition a:9."),
        ("a", 9, None, 3, "Unable to find partition a:9."),
        ("no", 0, None, 3, "Unable to find a topic named no."),
    ] {
        let asked = ReassignablePartition {
            partition_index: index,
            replicas: replicas.clone().map(Into::into),
        };
        let request = AlterPartitionReassignmentsRequest {
            topics: vec![ReassignableTopic {
                name: topic.into(),
                partitions: vec![asked].into(),
            }]
            .into(),
            ..AlterPartitionReassignmentsRequest::default()
        };
        let answer = run_alone(async move {
            let host = TestHost::new(&[("a", 2)]);
            alter_partition_reassignments(&host, &TwoCores, &request).await
        });
        let answer = answer.expect("an executor");
        let topics: Vec<_> = answer.responses.iter().collect();
        let partitions: Vec<_> = topics[0].partitions.iter().collect();
        let message = partitions[0].error_message.clone().unwrap_or_default();
        assert_eq!(
            partitions[0].error_code, code,
            "{topic}-{index} {replicas:?}"
        );
        assert!(message.contains(part), "{message}");
        assert_eq!(message.is_empty(), part.is_empty(), "{message}");
        assert_eq!((answer.error_code, answer.error_message), (0, None));
    }
    assert_eq!(list_partition_reassignments().topics.len(), 0);
}

#[test]
fn replicas_stay_in_the_data_directory() {
    // Proves that the data directory takes what it has, and that no other directory is known.
    for (path, codes) in [("/data", [0, 3]), ("/other", [57, 57])] {
        let topic = AlterReplicaLogDirTopic {
            name: "a".into(),
            partitions: vec![0, 9].into(),
        };
        let request = AlterReplicaLogDirsRequest {
            dirs: vec![AlterReplicaLogDir {
                path: path.into(),
                topics: vec![topic].into(),
            }]
            .into(),
        };
        let answer = run_alone(async move {
            alter_replica_log_dirs(&TestHost::new(&[("a", 1)]), &request, "/data").await
        });
        let answer = answer.expect("an executor");
        let topics: Vec<_> = answer.results.iter().collect();
        let found: Vec<i16> = topics[0]
            .partitions
            .iter()
            .map(|one| one.error_code)
            .collect();
        assert_eq!(found, codes, "{path}");
    }
}
