//! `ListOffsets`, `OffsetForLeaderEpoch`, `DeleteRecords`, `DescribeProducers`: questions and orders
//! about offsets, partition by partition.

use std::rc::Rc;

use rustc_hash::FxHashSet;
use streambus_proto::error_code::ErrorCode;
use streambus_proto::ids::{LeaderEpoch, Offset, TopicId};
use streambus_proto::messages::Message;
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
use streambus_proto::wire::{Array, ArrayBuilder, Element};
use streambus_storage::PartitionKey;

use super::broker::Broker;
use super::request_memory::Steps;
use super::response::ResponseError;
use crate::config::CleanupPolicy;
use crate::metadata::Topic;
use crate::partition::Isolation;
use crate::partition::producers::ProducerView;
use crate::shard::op::{EpochItem, FoundOffset, OffsetItem};

/// Partitions that the shards are asked about at a time: enough that one request to another core serves many, few
/// enough that their answers are little and are written in one step.
const ASKED_MAX: usize = 256;

/// What to do with a partition that a request names twice.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Repeated {
    /// Answer it once.
    AnsweredOnce,
    /// Refuse each mention, as Kafka does.
    Refused,
}

/// A request's topics in turn: each begins, then come its partitions.
enum Entry {
    Topic(String),
    /// The place among what is asked, or an error.
    Partition(i32, Result<usize, ErrorCode>),
}

/// Answers a request of topics and partitions in steps, so that neither it nor its answer takes the core for
/// long, nor more memory than the bytes of the answer.
struct Answer<'b, T, F, P, R> {
    broker: &'b Broker,
    version: i16,
    flexible_from: i16,
    repeated: Repeated,
    /// Why a topic's partitions are refused, if they are.
    refused: fn(&Topic) -> Option<ErrorCode>,
    /// Partitions that were seen; of those that are refused when repeated, the ones that are.
    seen: FxHashSet<PartitionKey>,
    entries: Vec<Entry>,
    items: Vec<T>,
    steps: Steps,
    partition: fn(i32, Result<F, ErrorCode>) -> P,
    topic: fn(String, Array<'static, P>) -> R,
    /// The topic that is being answered.
    open: Option<(String, ArrayBuilder<P>)>,
    topics: ArrayBuilder<R>,
    /// Partitions that are asked about at a time.
    asked_max: usize,
    /// What is found takes so much in the answer, beside what each partition takes.
    bytes_of: fn(&F) -> usize,
    found_bytes: usize,
    /// From here on partitions are refused.
    found_bytes_max: usize,
}

impl<'b, T, F, P, R> Answer<'b, T, F, P, R>
where
    F: Clone,
    P: Element<'static>,
    R: Element<'static>,
{
    fn new<M: Message<'static>>(
        broker: &'b Broker,
        version: i16,
        partition: fn(i32, Result<F, ErrorCode>) -> P,
        topic: fn(String, Array<'static, P>) -> R,
    ) -> Answer<'b, T, F, P, R> {
        Answer {
            broker,
            version,
            flexible_from: M::FLEXIBLE_FROM,
            repeated: Repeated::AnsweredOnce,
            refused: |_| None,
            seen: FxHashSet::default(),
            entries: Vec::new(),
            items: Vec::new(),
            steps: Steps::default(),
            partition,
            topic,
            open: None,
            topics: ArrayBuilder::new(version, M::FLEXIBLE_FROM),
            asked_max: ASKED_MAX,
            bytes_of: |_| 0,
            found_bytes: 0,
            found_bytes_max: usize::MAX,
        }
    }

    /// Adds a topic with its partitions; asks about what has gathered when that is much.
    async fn topic(
        &mut self,
        name: &str,
        partitions: impl Iterator<Item = (i32, T)>,
        item: impl Fn(PartitionKey, T) -> T,
        ask: impl AsyncFn(Vec<T>) -> Vec<Result<F, ErrorCode>>,
    ) -> Result<(), ResponseError> {
        self.steps.next().await;
        let known = known(self.broker, name);
        let refused = self.broker.shard.image(|image| {
            let topic = image.topic(name);
            topic.and_then(|topic| (self.refused)(topic))
        });
        self.begin(Entry::Topic(name.to_owned()), &ask).await?;
        for (index, asked) in partitions {
            self.steps.next().await;
            let place = match known {
                Some((topic, count)) if (0..count).contains(&index) => {
                    let key = PartitionKey { topic, index };
                    match self.repeated {
                        Repeated::AnsweredOnce if !self.seen.insert(key) => continue,
                        Repeated::Refused if self.seen.contains(&key) => {
                            Err(ErrorCode::InvalidRequest)
                        }
                        _ => {
                            if let Some(code) = refused {
                                Err(code)
                            } else if self.found_bytes >= self.found_bytes_max {
                                Err(ErrorCode::InvalidRequest)
                            } else {
                                self.items.push(item(key, asked));
                                Ok(self.items.len() - 1)
                            }
                        }
                    }
                }
                _ => Err(ErrorCode::UnknownTopicOrPartition),
            };
            self.begin(Entry::Partition(index, place), &ask).await?;
        }
        Ok(())
    }

    async fn begin(
        &mut self,
        entry: Entry,
        ask: impl AsyncFn(Vec<T>) -> Vec<Result<F, ErrorCode>>,
    ) -> Result<(), ResponseError> {
        self.entries.push(entry);
        if self.entries.len() >= self.asked_max {
            self.write(ask).await?;
        }
        Ok(())
    }

    /// Asks about what has gathered and writes it.
    async fn write(
        &mut self,
        ask: impl AsyncFn(Vec<T>) -> Vec<Result<F, ErrorCode>>,
    ) -> Result<(), ResponseError> {
        let items = std::mem::take(&mut self.items);
        let found = if items.is_empty() {
            Vec::new()
        } else {
            ask(items).await
        };
        for entry in std::mem::take(&mut self.entries) {
            match entry {
                Entry::Topic(name) => {
                    self.close_topic()?;
                    let partitions = ArrayBuilder::new(self.version, self.flexible_from);
                    self.open = Some((name, partitions));
                }
                Entry::Partition(index, place) => {
                    let found = place.and_then(|place| found[place].clone());
                    self.found_bytes += found.as_ref().map_or(0, self.bytes_of);
                    let (_, partitions) = self.open.as_mut().expect("its topic came before");
                    partitions.push((self.partition)(index, found))?;
                }
            }
        }
        Ok(())
    }

    fn close_topic(&mut self) -> Result<(), ResponseError> {
        if let Some((name, partitions)) = self.open.take() {
            self.topics.push((self.topic)(name, partitions.finish()))?;
        }
        Ok(())
    }

    /// The topics of the answer.
    async fn finish(
        mut self,
        ask: impl AsyncFn(Vec<T>) -> Vec<Result<F, ErrorCode>>,
    ) -> Result<Array<'static, R>, ResponseError> {
        self.write(ask).await?;
        self.close_topic()?;
        Ok(self.topics.finish())
    }
}

/// A topic's id and how many partitions it has.
fn known(broker: &Broker, name: &str) -> Option<(TopicId, i32)> {
    broker.shard.image(|image| {
        image
            .topic(name)
            .map(|topic| (topic.id, topic.partition_count()))
    })
}

/// The partitions that a request names more than once.
async fn repeated(broker: &Broker, request: &ListOffsetsRequest<'_>) -> FxHashSet<PartitionKey> {
    let (mut seen, mut repeated) = (FxHashSet::default(), FxHashSet::default());
    let mut steps = Steps::default();
    for topic in &request.topics {
        steps.next().await;
        let Some((id, count)) = known(broker, &topic.name) else {
            continue;
        };
        for partition in &topic.partitions {
            steps.next().await;
            let index = partition.partition_index;
            let key = PartitionKey { topic: id, index };
            if (0..count).contains(&index) && !seen.insert(key) {
                repeated.insert(key);
            }
        }
    }
    repeated
}

const NOWHERE: PartitionKey = PartitionKey {
    topic: TopicId::ZERO,
    index: -1,
};

pub(super) async fn list_offsets(
    broker: &Rc<Broker>,
    request: &ListOffsetsRequest<'_>,
    version: i16,
) -> Result<ListOffsetsResponse<'static>, ResponseError> {
    let isolation = match request.isolation_level {
        0 => Isolation::ReadUncommitted,
        _ => Isolation::ReadCommitted,
    };
    let ask = async |items| broker.shard.offsets_anywhere(items).await;
    let mut answer = Answer::new::<ListOffsetsResponse<'_>>(
        broker,
        version,
        |partition_index, found: Result<FoundOffset, ErrorCode>| match found {
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
            partitions,
        },
    );
    answer.repeated = Repeated::Refused;
    answer.seen = repeated(broker, request).await;
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
        let item = |key, item| OffsetItem { key, ..item };
        answer.topic(&topic.name, partitions, item, ask).await?;
    }
    Ok(ListOffsetsResponse {
        topics: answer.finish(ask).await?,
        ..ListOffsetsResponse::default()
    })
}

pub(super) async fn offset_for_leader_epoch(
    broker: &Rc<Broker>,
    request: &OffsetForLeaderEpochRequest<'_>,
    version: i16,
) -> Result<OffsetForLeaderEpochResponse<'static>, ResponseError> {
    let ask = async |items| broker.shard.epoch_ends_anywhere(items).await;
    let mut answer = Answer::new::<OffsetForLeaderEpochResponse<'_>>(
        broker,
        version,
        |partition, found: Result<(LeaderEpoch, Offset), ErrorCode>| match found {
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
            partitions,
        },
    );
    for topic in &request.topics {
        let partitions = topic.partitions.iter().map(|partition| {
            let item = EpochItem {
                key: NOWHERE,
                leader_epoch: partition.leader_epoch,
                current_leader_epoch: partition.current_leader_epoch,
            };
            (partition.partition, item)
        });
        let item = |key, item| EpochItem { key, ..item };
        answer.topic(&topic.topic, partitions, item, ask).await?;
    }
    Ok(OffsetForLeaderEpochResponse {
        topics: answer.finish(ask).await?,
        ..OffsetForLeaderEpochResponse::default()
    })
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
    version: i16,
) -> Result<DeleteRecordsResponse<'static>, ResponseError> {
    let ask = async |items| broker.shard.delete_records_anywhere(items).await;
    let mut answer = Answer::new::<DeleteRecordsResponse<'_>>(
        broker,
        version,
        |partition_index, moved: Result<Offset, ErrorCode>| DeleteRecordsPartitionResult {
            partition_index,
            low_watermark: moved.map_or(-1, |log_start| log_start.0),
            error_code: moved.err().unwrap_or(ErrorCode::None).into(),
        },
        |name, partitions| DeleteRecordsTopicResult {
            name: name.into(),
            partitions,
        },
    );
    answer.refused = undeletable;
    for topic in &request.topics {
        let partitions = topic
            .partitions
            .iter()
            .map(|partition| (partition.partition_index, (NOWHERE, partition.offset)));
        let item = |key, (_, to)| (key, to);
        answer.topic(&topic.name, partitions, item, ask).await?;
    }
    Ok(DeleteRecordsResponse {
        topics: answer.finish(ask).await?,
        ..DeleteRecordsResponse::default()
    })
}

/// Partitions whose producers are looked up at a time: each may have thousands.
const PRODUCERS_ASKED_MAX: usize = 8;
/// What a producer takes in an answer.
const PRODUCER_BYTES: usize = 40;

/// `DescribeProducers` 0. What an answer of `answer_bytes_max` does not hold is refused: each partition may have
/// thousands of producers.
pub(super) async fn describe_producers(
    broker: &Rc<Broker>,
    request: &DescribeProducersRequest<'_>,
    version: i16,
    answer_bytes_max: usize,
) -> Result<DescribeProducersResponse<'static>, ResponseError> {
    let ask = async |items| broker.shard.producers_anywhere(items).await;
    let mut answer = Answer::new::<DescribeProducersResponse<'_>>(
        broker,
        version,
        |partition_index, views: Result<Vec<ProducerView>, ErrorCode>| PartitionResponse {
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
            partitions,
        },
    );
    answer.asked_max = PRODUCERS_ASKED_MAX;
    answer.bytes_of = |views| views.len() * PRODUCER_BYTES;
    answer.found_bytes_max = answer_bytes_max;
    for topic in &request.topics {
        let partitions = topic.partition_indexes.iter().map(|index| (index, NOWHERE));
        let item = |key, _| key;
        answer.topic(&topic.name, partitions, item, ask).await?;
    }
    Ok(DescribeProducersResponse {
        topics: answer.finish(ask).await?,
        ..DescribeProducersResponse::default()
    })
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
