//! `DescribeQuorum`: who decides on metadata. On one node the controller is the only voter.

use streambus_proto::error_code::ErrorCode;
use streambus_proto::messages::DescribeQuorumRequest;
use streambus_proto::messages::describe_quorum_response::{
    DescribeQuorumResponse, Listener, Node, PartitionData, ReplicaState, TopicData,
};

use super::topics::told;
use crate::metadata::routing::Routing;
use crate::metadata::{Image, Refusal, topic_name};

/// The controller of one node never changes, so its first term is its only one.
const LEADER_EPOCH: i32 = 1;

/// `DescribeQuorum`. `now_ms` is the wall clock: a leader is always caught up with itself.
pub(crate) fn describe_quorum(
    image: &Image,
    routing: &impl Routing,
    listener: &str,
    request: &DescribeQuorumRequest<'_>,
    now_ms: i64,
) -> DescribeQuorumResponse<'static> {
    // Kafka answers for the one partition of the metadata log, and refuses every other list whole.
    let asked: Vec<(String, Vec<i32>)> = request
        .topics
        .iter()
        .map(|topic| {
            let partitions = topic.partitions.iter();
            let indexes = partitions.map(|partition| partition.partition_index);
            (topic.topic_name.into_owned(), indexes.collect())
        })
        .collect();
    let is_metadata_log = matches!(
        asked.as_slice(),
        [(name, indexes)] if name == topic_name::METADATA_LOG && *indexes == [0]
    );
    if !is_metadata_log {
        return unknown(asked);
    }
    let controller = routing.controller();
    let log_end = i64::try_from(image.index().0).unwrap_or(i64::MAX);
    let voter = ReplicaState {
        replica_id: controller.0,
        log_end_offset: log_end,
        last_fetch_timestamp: now_ms,
        last_caught_up_timestamp: now_ms,
        ..ReplicaState::default()
    };
    let partition = PartitionData {
        leader_id: controller.0,
        leader_epoch: LEADER_EPOCH,
        high_watermark: log_end,
        current_voters: vec![voter].into(),
        ..PartitionData::default()
    };
    let brokers = routing.brokers().into_iter();
    let nodes = brokers
        .filter(|broker| broker.id == controller)
        .map(|broker| Node {
            node_id: broker.id.0,
            listeners: vec![Listener {
                // Java's admin client fails on a name with small letters.
                name: listener.to_ascii_uppercase().into(),
                host: broker.host.into(),
                port: broker.port,
            }]
            .into(),
        });
    DescribeQuorumResponse {
        topics: vec![TopicData {
            topic_name: topic_name::METADATA_LOG.into(),
            partitions: vec![partition].into(),
        }]
        .into(),
        nodes: nodes.collect(),
        ..DescribeQuorumResponse::default()
    }
}

fn unknown(asked: Vec<(String, Vec<i32>)>) -> DescribeQuorumResponse<'static> {
    let message = "This server does not host this topic-partition.";
    let partition = |partition_index| {
        let refusal = Refusal::new(ErrorCode::UnknownTopicOrPartition, message);
        let (error_code, error_message) = told(Err(refusal));
        PartitionData {
            partition_index,
            error_code,
            error_message: error_message.map(Into::into),
            ..PartitionData::default()
        }
    };
    let topics = asked.into_iter().map(|(name, indexes)| TopicData {
        topic_name: name.into(),
        partitions: indexes.into_iter().map(partition).collect(),
    });
    DescribeQuorumResponse {
        topics: topics.collect(),
        ..DescribeQuorumResponse::default()
    }
}

#[cfg(test)]
mod tests {
    use streambus_proto::messages::describe_quorum_request as asked;

    use super::*;
    use crate::kafka::test_host::{TwoCores, image};

    fn ask(topics: &[(&'static str, &[i32])]) -> DescribeQuorumRequest<'static> {
        let topics = topics.iter().map(|(name, indexes)| asked::TopicData {
            topic_name: (*name).into(),
            partitions: indexes
                .iter()
                .map(|partition_index| asked::PartitionData {
                    partition_index: *partition_index,
                })
                .collect(),
        });
        DescribeQuorumRequest {
            topics: topics.collect(),
        }
    }

    #[test]
    fn the_controller_is_the_only_voter() {
        // Proves leader, voter, end of the log and the controller's address.
        let image = image(&[("a", 1), ("b", 1)]);
        let request = ask(&[("__cluster_metadata", &[0])]);
        let answer = describe_quorum(&image, &TwoCores, "main", &request, 77);
        let topic = answer.topics.iter().next().expect("the metadata log");
        let partition = topic.partitions.iter().next().expect("its partition");
        assert_eq!((partition.error_code, partition.leader_id), (0, 0));
        assert_eq!(partition.observers.len(), 0);
        let voters: Vec<_> = partition.current_voters.iter().collect();
        let [voter] = voters.as_slice() else {
            panic!("{voters:?}");
        };
        let end = i64::try_from(image.index().0).expect("small");
        assert!(end > 0);
        assert_eq!((partition.high_watermark, voter.log_end_offset), (end, end));
        assert_eq!((voter.replica_id, voter.last_caught_up_timestamp), (0, 77));
        let node = answer.nodes.iter().next().expect("the controller");
        let listener = node.listeners.iter().next().expect("its listener");
        assert_eq!((node.node_id, listener.port), (0, 10_092));
        assert_eq!(&*listener.name, "MAIN");
    }

    #[test]
    fn other_lists_are_refused_whole() {
        // Proves the error for each partition that is asked for, in place of an answer for one of them.
        let image = image(&[("a", 1)]);
        for (topics, expected) in [
            (&[("a", &[0][..])][..], vec![3]),
            (&[("__cluster_metadata", &[1][..])][..], vec![3]),
            (&[("__cluster_metadata", &[0, 1][..])][..], vec![3, 3]),
            (&[][..], vec![]),
        ] {
            let answer = describe_quorum(&image, &TwoCores, "main", &ask(topics), 0);
            let codes: Vec<i16> = answer
                .topics
                .iter()
                .flat_map(|topic| topic.partitions.iter().collect::<Vec<_>>())
                .map(|partition| partition.error_code)
                .collect();
            assert_eq!((codes, answer.nodes.len()), (expected, 0), "{topics:?}");
        }
    }
}
