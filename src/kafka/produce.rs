//! `Produce`.

use std::borrow::Cow;
use std::rc::Rc;

use rustc_hash::FxHashSet;
use streambus_proto::error_code::ErrorCode;
use streambus_proto::ids::TopicId;
use streambus_proto::messages::Message;
use streambus_proto::messages::produce_request::{ProduceRequest, TopicProduceData};
use streambus_proto::messages::produce_response::{
    BatchIndexAndErrorMessage, PartitionProduceResponse, ProduceResponse, TopicProduceResponse,
};
use streambus_proto::wire::ArrayBuilder;
use streambus_shards::{Buf, Instant, now};
use streambus_storage::PartitionKey;

use super::broker::Broker;
use super::dispatch::{Answer, Refused};
use super::in_flight::Charge;
use super::request_memory::{RequestMemory, Steps, TooMuch};
use super::response::{ReplyTo, ResponseError};
use crate::metadata::{Image, topic_name};
use crate::partition::refusals::TopicRef;
use crate::shard::nanos;
use crate::shard::op::{AppendItem, AppendOutcome, AppendRefusal};

/// A partition of a request: what to answer, or which item of the append will tell.
enum Place {
    Refused(ErrorCode),
    Item(usize),
}

struct TopicPlaces {
    name: String,
    id: TopicId,
    partitions: Vec<(i32, Place)>,
}

/// Appends what the request carries, in order, and answers when it is committed.
pub(super) async fn produce(
    broker: &Rc<Broker>,
    frame: &Buf,
    request: &ProduceRequest<'_>,
    reply_to: ReplyTo,
    began: Instant,
    memory: &mut RequestMemory,
    charge: &mut Charge,
) -> Result<Answer, Refused> {
    let acks = request.acks;
    let (topics, items) = places(broker, frame, request, memory).await?;
    let appending = broker.shard.append_anywhere(items).await;
    charge.merge(broker.in_flight.charge(appending.refusal_bytes()));
    let appended = now();
    let figures = &broker.shard.metrics().produce;
    figures.parse_ns.record(nanos(appended.since(began)));
    if acks == 0 {
        // Nobody waits for the answer, but the batches are committed all the same.
        if appending.leaves_core() {
            return Ok(Answer::Quiet(Box::pin(async move {
                let outcomes = appending.committed().await;
                all_taken(&topics, |item| outcomes.get(item)?.as_ref().err())
            })));
        }
        let refusals = appending.refused_here();
        all_taken(&topics, |item| refusals.get(&item).copied())?;
        return Ok(Answer::Nothing);
    }
    let shard = Rc::clone(&broker.shard);
    Ok(Answer::Later(Box::pin(async move {
        let outcomes = appending.committed().await;
        let durable = now();
        let figures = &shard.metrics().produce;
        // Of the time since the append, what the sync did not take was spent waiting for it to start.
        let waited = durable.since(appended);
        let sync = shard
            .last_commit()
            .map_or(waited, |commit| commit.sync.min(waited));
        figures.sync_ns.record(nanos(sync));
        figures.queue_ns.record(nanos(waited.saturating_sub(sync)));
        let response = response(topics, &outcomes, reply_to.version).await?;
        let slices = reply_to.with(&response)?;
        figures.respond_ns.record(nanos(now().since(durable)));
        figures.total_ns.record(nanos(now().since(began)));
        Ok(slices)
    })))
}

/// Whether every batch of a request without an answer was taken; `refusal` says why an item was not.
fn all_taken<'a>(
    topics: &[TopicPlaces],
    refusal: impl Fn(usize) -> Option<&'a AppendRefusal>,
) -> Result<(), Refused> {
    for topic in topics {
        for (index, place) in &topic.partitions {
            let code = match place {
                Place::Refused(code) => *code,
                Place::Item(item) => match refusal(*item) {
                    Some(refusal) => refusal.code,
                    None => continue,
                },
            };
            let topic = if topic.id == TopicId::ZERO {
                topic.name.clone()
            } else {
                topic.id.to_string()
            };
            return Err(Refused::Unanswered {
                topic,
                index: *index,
                code,
            });
        }
    }
    Ok(())
}

/// Sorts out which partitions can be appended to; their batches become items.
async fn places(
    broker: &Broker,
    frame: &Buf,
    request: &ProduceRequest<'_>,
    memory: &mut RequestMemory,
) -> Result<(Vec<TopicPlaces>, Vec<AppendItem>), TooMuch> {
    let valid_acks = matches!(request.acks, -1..=1);
    let mut topics = Vec::with_capacity(request.topic_data.len());
    let mut items = Vec::new();
    // Kafka takes a partition once a request; a second batch for it would break its order.
    let mut seen: FxHashSet<PartitionKey> = FxHashSet::default();
    let mut remembered = 0;
    let mut steps = Steps::default();
    for data in &request.topic_data {
        memory.copy(data.name.len())?;
        let found = broker.shard.image(|image| find(image, &data));
        let mut partitions = Vec::with_capacity(data.partition_data.len());
        steps.next().await;
        for partition in &data.partition_data {
            steps.next().await;
            let place = match (found, partition.records.bytes()) {
                _ if !valid_acks => Place::Refused(ErrorCode::InvalidRequiredAcks),
                (Err(code), records) => {
                    if remembered < REMEMBERED_MAX {
                        remember_refused(broker, &data, partition.index, records);
                        remembered += 1;
                    }
                    Place::Refused(code)
                }
                (Ok((_, count)), records) if !(0..count).contains(&partition.index) => {
                    if remembered < REMEMBERED_MAX {
                        remember_refused(broker, &data, partition.index, records);
                        remembered += 1;
                    }
                    Place::Refused(ErrorCode::UnknownTopicOrPartition)
                }
                (Ok(_), None) => Place::Refused(ErrorCode::InvalidRecord),
                (Ok((topic, _)), Some(records)) => {
                    let key = PartitionKey {
                        topic,
                        index: partition.index,
                    };
                    if seen.insert(key) {
                        let records = within(frame, records);
                        items.push(AppendItem {
                            key,
                            awaited: broker.shard.awaited(key, &records),
                            records,
                            acks_all: request.acks == -1,
                        });
                        Place::Item(items.len() - 1)
                    } else {
                        Place::Refused(ErrorCode::InvalidRequest)
                    }
                }
            };
            partitions.push((partition.index, place));
        }
        topics.push(TopicPlaces {
            name: data.name.into_owned(),
            id: data.topic_id,
            partitions,
        });
    }
    Ok((topics, items))
}

/// Refused batches of one request that are remembered: no producer has more under way at partitions that
/// are not here, and each costs about a microsecond.
const REMEMBERED_MAX: usize = 200;

/// Remembers a refused batch, so that no later one of its producer overtakes it. A name that no topic
/// can have is not worth it.
fn remember_refused(
    broker: &Broker,
    data: &TopicProduceData<'_>,
    index: i32,
    records: Option<&[u8]>,
) {
    let Some(records) = records else {
        return;
    };
    let topic = if data.topic_id != TopicId::ZERO {
        TopicRef::Id(data.topic_id)
    } else if topic_name::check(&data.name).is_ok() {
        TopicRef::Name(data.name.as_ref().into())
    } else {
        return;
    };
    broker.shard.remember_refused(topic, index, records);
}

/// The topic's id and its number of partitions.
fn find(image: &Image, data: &TopicProduceData<'_>) -> Result<(TopicId, i32), ErrorCode> {
    let by_id = data.topic_id != TopicId::ZERO;
    let topic = if by_id {
        image.topic_by_id(data.topic_id)
    } else {
        image.topic(&data.name)
    };
    match topic {
        // Only the broker writes to its own topics.
        Some(topic) if topic.is_internal() => Err(ErrorCode::InvalidTopicException),
        Some(topic) => Ok((topic.id, topic.partition_count())),
        None if by_id => Err(ErrorCode::UnknownTopicId),
        None => Err(ErrorCode::UnknownTopicOrPartition),
    }
}

/// The part of the frame that `part`, borrowed from it, is.
fn within(frame: &Buf, part: &[u8]) -> Buf {
    let start = part.as_ptr() as usize - frame.as_ptr() as usize;
    frame.slice(start..start + part.len())
}

/// Refused records that one answer names at most; a batch whose records are not named is still
/// refused whole. About 700 KB.
const RECORD_ERRORS_MAX: usize = 10_000;

/// The answer, written as it is built: it may have as many partitions as the request.
async fn response(
    topics: Vec<TopicPlaces>,
    outcomes: &[AppendOutcome],
    version: i16,
) -> Result<ProduceResponse<'static>, ResponseError> {
    let mut room = RECORD_ERRORS_MAX;
    let mut refused = |index, refusal: &AppendRefusal| {
        let told = refusal.records.len().min(room);
        room -= told;
        refused(index, refusal, told)
    };
    let mut steps = Steps::default();
    let mut responses = ArrayBuilder::new(version, ProduceResponse::FLEXIBLE_FROM);
    for topic in topics {
        let mut partitions = ArrayBuilder::new(version, ProduceResponse::FLEXIBLE_FROM);
        steps.next().await;
        for (index, place) in topic.partitions {
            steps.next().await;
            partitions.push(match place {
                Place::Refused(code) => refused(index, &AppendRefusal::from(code)),
                Place::Item(item) => match &outcomes[item] {
                    Ok(appended) => PartitionProduceResponse {
                        index,
                        base_offset: appended.base_offset.0,
                        log_append_time_ms: appended.log_append_time_ms,
                        log_start_offset: appended.log_start.0,
                        ..PartitionProduceResponse::default()
                    },
                    Err(refusal) => refused(index, refusal),
                },
            })?;
        }
        responses.push(TopicProduceResponse {
            name: topic.name.into(),
            topic_id: topic.id,
            partition_responses: partitions.finish(),
        })?;
    }
    Ok(ProduceResponse {
        responses: responses.finish(),
        ..ProduceResponse::default()
    })
}

fn refused(
    index: i32,
    refusal: &AppendRefusal,
    records_told: usize,
) -> PartitionProduceResponse<'static> {
    let record_error = |(batch_index, why): &(i32, Cow<'static, str>)| BatchIndexAndErrorMessage {
        batch_index: *batch_index,
        batch_index_error_message: Some(why.clone()),
    };
    let told = refusal.records.iter().take(records_told);
    let message = (!refusal.message.is_empty()).then(|| refusal.message.clone().into());
    PartitionProduceResponse {
        index,
        error_code: refusal.code.into(),
        base_offset: -1,
        log_append_time_ms: -1,
        log_start_offset: -1,
        record_errors: told.map(record_error).collect(),
        error_message: message,
        ..PartitionProduceResponse::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::test_host::{image, topic_id};

    #[test]
    fn only_the_broker_writes_to_its_own_topics() {
        // Proves the code for each way to name a topic: by name, by id, unknown, and the broker's own.
        let image = image(&[("a", 2), ("__transaction_state", 1)]);
        let name = |name: &'static str| TopicProduceData {
            name: name.into(),
            ..TopicProduceData::default()
        };
        let id = |name| TopicProduceData {
            topic_id: topic_id(name),
            ..TopicProduceData::default()
        };
        for (data, expected) in [
            (name("a"), Ok((topic_id("a"), 2))),
            (id("a"), Ok((topic_id("a"), 2))),
            (name("no"), Err(ErrorCode::UnknownTopicOrPartition)),
            (id("no"), Err(ErrorCode::UnknownTopicId)),
            (
                name("__transaction_state"),
                Err(ErrorCode::InvalidTopicException),
            ),
            (
                id("__transaction_state"),
                Err(ErrorCode::InvalidTopicException),
            ),
        ] {
            assert_eq!(find(&image, &data), expected, "{data:?}");
        }
    }
}
