//! `ListOffsets`, `OffsetForLeaderEpoch`, `DeleteRecords`, `DescribeProducers`: questions and orders
//! about offsets, partition by partition.

use std::rc::Rc;

use streambus_proto::error_code::ErrorCode;
use streambus_proto::messages::delete_records_request::DeleteRecordsRequest;
use streambus_proto::messages::delete_records_response::{
    DeleteRecordsPartitionResult, DeleteRecordsResponse, DeleteRecordsTopicResult,
};
use streambus_proto::messages::describe_producers_request::DescribeProducersRequest;
use streambus_proto::messages::describe_producers_response::{
    DescribeProducersResponse, PartitionResponse, ProducerState, TopicResponse,
};
use streambus_proto::messages::list_offsets_request::ListOffsetsRequest;
use streambus_proto::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsResponse, ListOffsetsTopicResponse,
};
use streambus_proto::messages::offset_for_leader_epoch_request::OffsetForLeaderEpochRequest;
use streambus_proto::messages::offset_for_leader_epoch_response::{
    EpochEndOffset, OffsetForLeaderEpochResponse, OffsetForLeaderTopicResult,
};
use streambus_storage::PartitionKey;

use super::broker::Broker;
use crate::config::CleanupPolicy;
use crate::metadata::Topic;

use crate::partition::Isolation;
use crate::shard::op::{EpochItem, OffsetItem};

/// Topics with their partitions: the place among the items of those that exist, an error for the others.
type Places = Vec<(String, Vec<(i32, Result<usize, ErrorCode>)>)>;

/// The partitions of a request: those that exist become items.
struct Asked<T> {
    topics: Places,
    items: Vec<T>,
}

impl<T> Asked<T> {
    fn new() -> Asked<T> {
        Asked {
            topics: Vec::new(),
            items: Vec::new(),
        }
    }

    /// Adds a topic. With `refused` its partitions that exist are answered with that code.
    fn topic(
        &mut self,
        broker: &Broker,
        name: &str,
        refused: Option<ErrorCode>,
        partitions: impl Iterator<Item = (i32, T)>,
        item: impl Fn(PartitionKey, T) -> T,
    ) {
        let known = broker.shard.image(|image| {
            image
                .topic(name)
                .map(|topic| (topic.id, topic.partition_count()))
        });
        let places = partitions.map(|(index, asked)| match known {
            Some((topic, count)) if (0..count).contains(&index) => match refused {
                Some(code) => (index, Err(code)),
                None => {
                    self.items.push(item(PartitionKey { topic, index }, asked));
                    (index, Ok(self.items.len() - 1))
                }
            },
            _ => (index, Err(ErrorCode::UnknownTopicOrPartition)),
        });
        let places = places.collect();
        self.topics.push((name.to_owned(), places));
    }

    /// Builds the answer: `partition` turns each place and what was found for it into an entry.
    fn answer<F: Clone, P, R>(
        topics: Places,
        found: &[Result<F, ErrorCode>],
        partition: impl Fn(i32, Result<F, ErrorCode>) -> P,
        topic: impl Fn(String, Vec<P>) -> R,
    ) -> Vec<R> {
        topics
            .into_iter()
            .map(|(name, places)| {
                let partitions = places.into_iter().map(|(index, place)| {
                    partition(index, place.and_then(|place| found[place].clone()))
                });
                let partitions = partitions.collect();
                topic(name, partitions)
            })
            .collect()
    }
}

const NOWHERE: PartitionKey = PartitionKey {
    topic: streambus_proto::ids::TopicId::ZERO,
    index: -1,
};

pub(super) async fn list_offsets(
    broker: &Rc<Broker>,
    request: &ListOffsetsRequest<'_>,
) -> ListOffsetsResponse<'static> {
    let isolation = match request.isolation_level {
        0 => Isolation::ReadUncommitted,
        _ => Isolation::ReadCommitted,
    };
    let mut asked = Asked::new();
    for topic in &request.topics {
        let partitions = topic.partitions.iter().map(|partition| {
            let item = OffsetItem {
                key: NOWHERE,
                timestamp: partition.timestamp,
                isolation,
                current_leader_epoch: partition.current_leader_epoch,
            };
            (partition.partition_index, item)
        });
        asked.topic(broker, &topic.name, None, partitions, |key, item| {
            OffsetItem { key, ..item }
        });
    }
    let found = broker.shard.offsets_anywhere(asked.items).await;
    let topics = Asked::<OffsetItem>::answer(
        asked.topics,
        &found,
        |partition_index, found| match found {
            Ok(found) => ListOffsetsPartitionResponse {
                partition_index,
                timestamp: found.timestamp,
                offset: found.offset,
                leader_epoch: found.leader_epoch,
                ..ListOffsetsPartitionResponse::default()
            },
            Err(code) => ListOffsetsPartitionResponse {
                partition_index,
                error_code: code.into(),
                ..ListOffsetsPartitionResponse::default()
            },
        },
        |name, partitions| ListOffsetsTopicResponse {
            name: name.into(),
            partitions: partitions.into(),
        },
    );
    ListOffsetsResponse {
        topics: topics.into(),
        ..ListOffsetsResponse::default()
    }
}

pub(super) async fn offset_for_leader_epoch(
    broker: &Rc<Broker>,
    request: &OffsetForLeaderEpochRequest<'_>,
) -> OffsetForLeaderEpochResponse<'static> {
    let mut asked = Asked::new();
    for topic in &request.topics {
        let partitions = topic.partitions.iter().map(|partition| {
            let item = EpochItem {
                key: NOWHERE,
                leader_epoch: partition.leader_epoch,
                current_leader_epoch: partition.current_leader_epoch,
            };
            (partition.partition, item)
        });
        asked.topic(broker, &topic.topic, None, partitions, |key, item| {
            EpochItem { key, ..item }
        });
    }
    let found = broker.shard.epoch_ends_anywhere(asked.items).await;
    let topics = Asked::<EpochItem>::answer(
        asked.topics,
        &found,
        |partition, found| match found {
            Ok((leader_epoch, end_offset)) => EpochEndOffset {
                partition,
                leader_epoch: leader_epoch.0,
                end_offset: end_offset.0,
                ..EpochEndOffset::default()
            },
            Err(code) => EpochEndOffset {
                partition,
                error_code: code.into(),
                ..EpochEndOffset::default()
            },
        },
        |topic, partitions| OffsetForLeaderTopicResult {
            topic: topic.into(),
            partitions: partitions.into(),
        },
    );
    OffsetForLeaderEpochResponse {
        topics: topics.into(),
        ..OffsetForLeaderEpochResponse::default()
    }
}

/// Why no client may delete records of a topic: the broker needs them, or their keys decide.
fn undeletable(topic: &Topic) -> Option<ErrorCode> {
    if topic.is_internal() {
        return Some(ErrorCode::InvalidTopicException);
    }
    let compact_only = topic.settings.cleanup_policy == Some(CleanupPolicy::Compact);
    compact_only.then_some(ErrorCode::PolicyViolation)
}

pub(super) async fn delete_records(
    broker: &Rc<Broker>,
    request: &DeleteRecordsRequest<'_>,
) -> DeleteRecordsResponse<'static> {
    let mut asked = Asked::new();
    for topic in &request.topics {
        let partitions = topic
            .partitions
            .iter()
            .map(|partition| (partition.partition_index, (NOWHERE, partition.offset)));
        let refused = broker.shard.image(|image| {
            image
                .topic(&topic.name)
                .and_then(|topic| undeletable(topic))
        });
        asked.topic(broker, &topic.name, refused, partitions, |key, (_, to)| {
            (key, to)
        });
    }
    let moved = broker.shard.delete_records_anywhere(asked.items).await;
    let topics = Asked::<(PartitionKey, i64)>::answer(
        asked.topics,
        &moved,
        |partition_index, moved| DeleteRecordsPartitionResult {
            partition_index,
            low_watermark: moved.map_or(-1, |log_start| log_start.0),
            error_code: moved.err().unwrap_or(ErrorCode::None).into(),
        },
        |name, partitions| DeleteRecordsTopicResult {
            name: name.into(),
            partitions: partitions.into(),
        },
    );
    DeleteRecordsResponse {
        topics: topics.into(),
        ..DeleteRecordsResponse::default()
    }
}

pub(super) async fn describe_producers(
    broker: &Rc<Broker>,
    request: &DescribeProducersRequest<'_>,
) -> DescribeProducersResponse<'static> {
    let mut asked = Asked::new();
    for topic in &request.topics {
        let partitions = topic.partition_indexes.iter().map(|index| (index, NOWHERE));
        asked.topic(broker, &topic.name, None, partitions, |key, _| key);
    }
    let views = broker.shard.producers_anywhere(asked.items).await;
    let topics = Asked::<PartitionKey>::answer(
        asked.topics,
        &views,
        |partition_index, views| PartitionResponse {
            partition_index,
            error_code: views
                .as_ref()
                .err()
                .copied()
                .unwrap_or(ErrorCode::None)
                .into(),
            active_producers: views
                .unwrap_or_default()
                .into_iter()
                .map(|view| ProducerState {
                    producer_id: view.producer_id.0,
                    producer_epoch: i32::from(view.producer_epoch.0),
                    last_sequence: view.last_sequence,
                    last_timestamp: view.last_timestamp_ms,
                    coordinator_epoch: -1,
                    ..ProducerState::default()
                })
                .collect(),
            ..PartitionResponse::default()
        },
        |name, partitions| TopicResponse {
            name: name.into(),
            partitions: partitions.into(),
        },
    );
    DescribeProducersResponse {
        topics: topics.into(),
        ..DescribeProducersResponse::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::test_host::{LIMITS, image, topic_id};
    use crate::metadata::{Command, Layout, apply};

    #[test]
    fn records_are_deleted_where_a_policy_allows_it() {
        // Proves Kafka's two refusals: the broker's own topics, and topics that are compacted only.
        let mut image = image(&[("__consumer_offsets", 1), ("plain", 1)]);
        for policy in ["compact", "compact,delete"] {
            let command = Command::CreateTopic {
                name: policy.replace(',', "-"),
                id: topic_id(policy),
                layout: Layout::Auto {
                    partitions: 1,
                    replication_factor: 1,
                },
                configs: vec![("cleanup.policy".to_owned(), Some(policy.to_owned()))],
            };
            let delta = apply(&image, &command, &LIMITS).expect("a good topic");
            image.absorb(&delta);
        }
        for (name, expected) in [
            ("plain", None),
            ("compact-delete", None),
            ("compact", Some(ErrorCode::PolicyViolation)),
            ("__consumer_offsets", Some(ErrorCode::InvalidTopicException)),
        ] {
            let topic = image.topic(name).expect("it was made");
            assert_eq!(undeletable(topic), expected, "{name}");
        }
    }
}
