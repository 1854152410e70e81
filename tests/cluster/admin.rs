//! What administrators ask, over TCP.

use streambus_client::request::Request;
use streambus_proto::messages::{
    AlterPartitionReassignmentsRequest, AlterReplicaLogDirsRequest, CreateAclsRequest,
    DeleteAclsRequest, DescribeAclsRequest, DescribeQuorumRequest, ElectLeadersRequest,
    ListPartitionReassignmentsRequest, MetadataRequest, SaslAuthenticateRequest,
    SaslHandshakeRequest, UpdateFeaturesRequest, describe_quorum_request as quorum,
    metadata_request as metadata,
};

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

#[test]
fn one_node_answers_what_tools_ask_of_a_cluster() {
    // Proves over TCP that each of these APIs is answered in every version, and its code: quorum,
    // reassignments, elections, log directories and features of one node, and that there are neither
    // ACLs nor SASL.
    fn each<R: Request + Default>(
        wire: &mut Wire,
        last: i16,
        look: impl Fn(R::Response<'_>) -> i16,
    ) -> Vec<i16> {
        let first = R::KEY.info().first;
        let versions = first..=last;
        versions
            .map(|version| wire.ask(&R::default(), version, &look))
            .collect()
    }
    let home = tempfile::tempdir().unwrap();
    let broker = Broker::start(home.path(), &[]);
    let mut wire = Wire::connect(broker.core);
    let wire = &mut wire;
    let code = each::<ElectLeadersRequest<'_>>(wire, 2, |answer| answer.error_code);
    assert_eq!(code, [0, 0, 0]);
    let code = each::<ListPartitionReassignmentsRequest<'_>>(wire, 0, |answer| answer.error_code);
    assert_eq!(code, [0]);
    let code = each::<AlterPartitionReassignmentsRequest<'_>>(wire, 1, |answer| answer.error_code);
    assert_eq!(code, [0, 0]);
    let count = |count: usize| i16::try_from(count).unwrap();
    let found =
        each::<AlterReplicaLogDirsRequest<'_>>(wire, 2, |answer| count(answer.results.len()));
    assert_eq!(found, [0, 0]);
    let code = each::<UpdateFeaturesRequest<'_>>(wire, 2, |answer| answer.error_code);
    assert_eq!(code, [0, 0, 0]);
    let code = each::<DescribeAclsRequest<'_>>(wire, 3, |answer| answer.error_code);
    assert_eq!(code, [54, 54, 54]);
    let found = each::<CreateAclsRequest<'_>>(wire, 3, |answer| count(answer.results.len()));
    assert_eq!(found, [0, 0, 0]);
    let found = each::<DeleteAclsRequest<'_>>(wire, 3, |answer| count(answer.filter_results.len()));
    assert_eq!(found, [0, 0, 0]);
    let code = each::<SaslHandshakeRequest<'_>>(wire, 1, |answer| answer.error_code);
    assert_eq!(code, [34, 34]);
    let code = each::<SaslAuthenticateRequest<'_>>(wire, 2, |answer| answer.error_code);
    assert_eq!(code, [34, 34, 34]);
    let request = DescribeQuorumRequest {
        topics: vec![quorum::TopicData {
            topic_name: "__cluster_metadata".into(),
            partitions: vec![quorum::PartitionData { partition_index: 0 }].into(),
        }]
        .into(),
    };
    for version in 0..=2 {
        wire.ask(&request, version, |answer| {
            let topic = answer.topics.iter().next().unwrap();
            let partition = topic.partitions.iter().next().unwrap();
            assert_eq!((answer.error_code, partition.error_code), (0, 0));
            assert_eq!(
                (partition.leader_id, partition.current_voters.len()),
                (0, 1)
            );
        });
    }
}
