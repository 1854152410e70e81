//! `DescribeQuorum`: who decides on metadata. On one node the controller is the only voter.

use streambus_proto::error_code::ErrorCode;
use streambus_proto::messages::DescribeQuorumRequest;
use streambus_proto::messages::describe_quorum_response::{
    DescribeQuorumResponse, Listener, Node, PartitionData, ReplicaState, TopicData,
};
use streambus_shards::yield_if_needed;

use super::admin::Host;
use crate::metadata::routing::Routing;
use crate::metadata::topic_name;

/// The controller of one node never changes, so its first term is its only one.
const LEADER_EPOCH: i32 = 1;

/// `DescribeQuorum`. `now_ms` is the wall clock: a leader is always caught up with itself.
pub(crate) async fn describe_quorum(
    host: &impl Host,
    routing: &impl Routing,
    listener: &str,
    request: &DescribeQuorumRequest<'_>,
    now_ms: i64,
) -> DescribeQuorumResponse<'static> {
    // Kafka answers for the one partition of the metadata log, and refuses every other list whole.
    if !is_metadata_log(request) {
        return unknown(request).await;
    }
    let log_end = host.image(|image| i64::try_from(image.index().0).unwrap_or(i64::MAX));
    let controller = routing.controller();
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

fn is_metadata_log(request: &DescribeQuorumRequest<'_>) -> bool {
    let mut topics = request.topics.iter();
    let (Some(topic), None) = (topics.next(), topics.next()) else {
        return false;
    };
    let mut partitions = topic.partitions.iter();
    let only = (partitions.next(), partitions.next());
    topic.topic_name == topic_name::METADATA_LOG
        && matches!(only, (Some(partition), None) if partition.partition_index == 0)
}

async fn unknown(request: &DescribeQuorumRequest<'_>) -> DescribeQuorumResponse<'static> {
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in &request.topics {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for partition in &topic.partitions {
            yield_if_needed().await;
            partitions.push(PartitionData {
                partition_index: partition.partition_index,
                error_code: ErrorCode::UnknownTopicOrPartition.into(),
                error_message: Some("This server does not host this topic-partition.".into()),
                ..PartitionData::default()
            });
        }
        topics.push(TopicData {
            topic_name: topic.topic_name.into_owned().into(),
            partitions: partitions.into(),
        });
    }
    DescribeQuorumResponse {
        topics: topics.into(),
        ..DescribeQuorumResponse::default()
    }
}

#[cfg(test)]
mod tests {
    use streambus_proto::messages::describe_quorum_request as asked;
    use streambus_shards::run_alone;

    use super::*;
    use crate::kafka::test_host::{TestHost, TwoCores};

    fn answer(
        topics: &[(&'static str, &[i32])],
        now_ms: i64,
    ) -> (DescribeQuorumResponse<'static>, i64) {
        let request = ask(topics);
        let answered = run_alone(async move {
            let host = TestHost::new(&[("a", 1), ("b", 1)]);
            let answer = describe_quorum(&host, &TwoCores, "main", &request, now_ms).await;
            let end = host.image(|image| image.index().0);
            (answer, i64::try_from(end).expect("small"))
        });
        answered.expect("an executor")
    }

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
        let (answer, end) = answer(&[("__cluster_metadata", &[0])], 77);
        let topic = answer.topics.iter().next().expect("the metadata log");
        let partition = topic.partitions.iter().next().expect("its partition");
        assert_eq!((partition.error_code, partition.leader_id), (0, 0));
        assert_eq!(partition.observers.len(), 0);
        let voters: Vec<_> = partition.current_voters.iter().collect();
        let [voter] = voters.as_slice() else {
            panic!("{voters:?}");
        };
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
        for (topics, expected) in [
            (&[("a", &[0][..])][..], vec![3]),
            (&[("__cluster_metadata", &[1][..])][..], vec![3]),
            (&[("__cluster_metadata", &[0, 1][..])][..], vec![3, 3]),
            (&[][..], vec![]),
        ] {
            let (answer, _) = answer(topics, 0);
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
