//! What administrators ask, over TCP.

use streambus_proto::messages::{MetadataRequest, metadata_request as metadata};

use crate::process::Broker;
use crate::wire::Wire;

/// Read, write, create, delete, alter, describe, and describe and alter configs.
const TOPIC_OPERATIONS: i32 = 0b1101_1111_1000;
/// Create, alter, describe, cluster action, describe and alter configs, idempotent write.
const CLUSTER_OPERATIONS: i32 = 0b1_1111_1010_0000;

#[test]
fn operations_are_told_when_asked_for_and_else_not() {
    // Proves Metadata's authorized operations, version by version: without ACLs everybody may do
    // everything that the resource knows; unasked, Kafka's smallest number stands for "not told".
    let home = tempfile::tempdir().unwrap();
    let broker = Broker::start(home.path(), &[]);
    let mut wire = Wire::connect(broker.core);
    for version in 8..=13 {
        for (topics, cluster) in [(false, false), (true, false), (false, true), (true, true)] {
            // Versions after 10 have no place for the cluster's: DescribeCluster has taken it over.
            let cluster = cluster && version <= 10;
            let request = MetadataRequest {
                topics: Some(
                    vec![metadata::MetadataRequestTopic {
                        name: Some("told".into()),
                        ..metadata::MetadataRequestTopic::default()
                    }]
                    .into(),
                ),
                allow_auto_topic_creation: true,
                include_cluster_authorized_operations: cluster,
                include_topic_authorized_operations: topics,
            };
            let told = wire.ask(&request, version, |answer| {
                let topic = answer.topics.iter().next().unwrap();
                assert_eq!(topic.error_code, 0);
                let of_topic = topic.topic_authorized_operations;
                (of_topic, answer.cluster_authorized_operations)
            });
            let expected = |asked, all| if asked { all } else { i32::MIN };
            assert_eq!(
                told,
                (
                    expected(topics, TOPIC_OPERATIONS),
                    expected(cluster, CLUSTER_OPERATIONS)
                ),
                "version {version}"
            );
        }
    }
}
