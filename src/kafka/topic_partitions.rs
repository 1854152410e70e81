//! `DescribeTopicPartitions`: topics page by page, for clusters whose Metadata would not fit one answer.

use std::collections::BTreeSet;
use std::rc::Rc;

use streambus_proto::error_code::ErrorCode;
use streambus_proto::messages::describe_topic_partitions_request::DescribeTopicPartitionsRequest;
use streambus_proto::messages::describe_topic_partitions_response::{
    Cursor, DescribeTopicPartitionsResponse, DescribeTopicPartitionsResponsePartition,
    DescribeTopicPartitionsResponseTopic,
};
use streambus_proto::wire::Array;

use super::request_memory::Steps;
use crate::metadata::routing::Routing;
use crate::metadata::{Image, Refusal, Topic, topic_name};

/// The most partitions of one answer: `max.request.partition.size.limit` of Kafka.
const PARTITIONS_MAX: usize = 2_000;

/// Read, write, create, delete, alter, describe, and describe and alter configs: everything a topic
/// knows, for nobody is kept from it.
pub(super) const TOPIC_OPERATIONS: i32 = 0b1101_1111_1000;

/// The topics that a request names. Sorted, so that a cursor splits the list the same way each time.
pub(crate) async fn names(request: &DescribeTopicPartitionsRequest<'_>) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut steps = Steps::default();
    for topic in &request.topics {
        steps.next().await;
        names.insert(topic.name.into_owned());
    }
    names
}

/// `DescribeTopicPartitions` of these topics, or of all if there are none.
///
/// # Errors
/// `INVALID_REQUEST` for a cursor that no answer gave: the whole request fails.
pub(crate) fn describe_topic_partitions(
    image: &Image,
    routing: &impl Routing,
    request: &DescribeTopicPartitionsRequest<'_>,
    names: &BTreeSet<String>,
) -> Result<DescribeTopicPartitionsResponse<'static>, Refusal> {
    let (first_topic, first_partition) = match &request.cursor {
        None => (String::new(), 0),
        Some(cursor) => {
            let first = usize::try_from(cursor.partition_index).map_err(|_| {
                let message = format!(
                    "DescribeTopicPartitionsRequest cursor partition must be valid: {}",
                    cursor.partition_index
                );
                Refusal::new(ErrorCode::InvalidRequest, message)
            })?;
            (cursor.topic_name.clone().into_owned(), first)
        }
    };
    let asked = usize::try_from(request.response_partition_limit).unwrap_or(0);
    let mut page = Page {
        routing,
        room: asked.clamp(1, PARTITIONS_MAX),
        topics: Vec::new(),
        next: None,
    };
    let skip = |name: &str| {
        if name == first_topic {
            first_partition
        } else {
            0
        }
    };
    if names.is_empty() {
        for topic in image.topics_from(&first_topic) {
            if !page.topic(topic, skip(&topic.name)) {
                break;
            }
        }
    } else {
        for name in names.range(first_topic.clone()..) {
            let more = match image.topic(name) {
                Some(topic) => page.topic(topic, skip(name)),
                None => page.unknown(name),
            };
            if !more {
                break;
            }
        }
    }
    Ok(DescribeTopicPartitionsResponse {
        topics: page.topics.into(),
        next_cursor: page.next,
        ..DescribeTopicPartitionsResponse::default()
    })
}

/// An answer that is filled until it is full.
struct Page<'a, R> {
    routing: &'a R,
    /// How many partitions still fit. A topic that is not there takes the room of one.
    room: usize,
    topics: Vec<DescribeTopicPartitionsResponseTopic<'static>>,
    /// Where the next page starts.
    next: Option<Cursor<'static>>,
}

impl<R: Routing> Page<'_, R> {
    /// Adds a topic's partitions from `first` on. `false` once the page is full.
    fn topic(&mut self, topic: &Rc<Topic>, first: usize) -> bool {
        if self.room == 0 {
            return self.full(&topic.name, first);
        }
        let places = topic
            .partitions
            .iter()
            .enumerate()
            .skip(first)
            .take(self.room);
        let partitions: Vec<_> = places
            .map(|(index, place)| {
                let replicas: Vec<i32> = self
                    .routing
                    .replicas_of(place)
                    .into_iter()
                    .map(|broker| broker.0)
                    .collect();
                DescribeTopicPartitionsResponsePartition {
                    partition_index: i32::try_from(index).unwrap_or(i32::MAX),
                    leader_id: self.routing.leader_of(place).0,
                    leader_epoch: place.leader_epoch.0,
                    isr_nodes: replicas.clone().into(),
                    replica_nodes: replicas.into(),
                    // Empty, not null: Java's admin client reads these without a look.
                    eligible_leader_replicas: Some(Array::default()),
                    last_known_elr: Some(Array::default()),
                    ..DescribeTopicPartitionsResponsePartition::default()
                }
            })
            .collect();
        let end = first + partitions.len();
        self.room -= partitions.len();
        self.topics.push(DescribeTopicPartitionsResponseTopic {
            name: Some(topic.name.to_string().into()),
            topic_id: topic.id,
            is_internal: topic.is_internal(),
            partitions: partitions.into(),
            topic_authorized_operations: TOPIC_OPERATIONS,
            ..DescribeTopicPartitionsResponseTopic::default()
        });
        end >= topic.partitions.len() || self.full(&topic.name, end)
    }

    fn unknown(&mut self, name: &str) -> bool {
        if self.room == 0 {
            return self.full(name, 0);
        }
        self.room -= 1;
        let code = match topic_name::check(name) {
            Ok(()) => ErrorCode::UnknownTopicOrPartition,
            Err(_) => ErrorCode::InvalidTopicException,
        };
        self.topics.push(DescribeTopicPartitionsResponseTopic {
            error_code: code.into(),
            name: Some(name.to_owned().into()),
            topic_authorized_operations: TOPIC_OPERATIONS,
            ..DescribeTopicPartitionsResponseTopic::default()
        });
        true
    }

    fn full(&mut self, name: &str, first: usize) -> bool {
        self.next = Some(Cursor {
            topic_name: name.to_owned().into(),
            partition_index: i32::try_from(first).unwrap_or(i32::MAX),
        });
        false
    }
}

#[cfg(test)]
mod tests;
