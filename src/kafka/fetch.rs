//! `Fetch`.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use rustc_hash::FxHashMap;
use streambus_proto::error_code::ErrorCode;
use streambus_proto::ids::{Offset, TopicId};
use streambus_proto::messages::Message;
use streambus_proto::messages::fetch_request::FetchRequest;
use streambus_proto::messages::fetch_response::{
    AbortedTransaction, FetchResponse, FetchableTopicResponse, PartitionData,
};
use streambus_proto::wire::{Array, ArrayBuilder, Records};
use streambus_shards::sync::either;
use streambus_shards::{Buf, now, yield_if_needed};
use streambus_storage::PartitionKey;

use super::broker::Broker;
use super::dispatch::Refused;
use super::fetch_session::{Plan, SessionRequest, Told, TopicRef, Wanted};
use super::fetch_wait::{Found, Verdict, judge};
use super::request_memory::Steps;
use super::response::{ReplyTo, ResponseError, Slices, pinned_bytes_max};
use crate::metadata::Image;
use crate::partition::Isolation;
use crate::shard::nanos;
use crate::shard::op::{ReadItem, ReadOutcome, WaitItem};

/// The first version that names topics by id.
const TOPIC_IDS_FROM: i16 = 13;

/// A fetch gets at most one part in so many of the memory that is left for answers.
const ROOM_SHARES: usize = 4;
/// `limits.parked_fetches_max` fetches may wait if they name so many partitions each; of fetches that
/// name more, fewer.
const PARKED_PARTITIONS_EACH: usize = 10;

/// What a request asks for, apart from its partitions.
struct Asked {
    wait: Duration,
    bytes_min: usize,
    bytes_max: usize,
    isolation: Isolation,
}

/// A fetch, taken out of its frame.
pub(super) struct Wish {
    asked: Asked,
    session: SessionRequest,
}

impl Wish {
    /// What a request asks for, within the limits.
    pub(super) async fn new(broker: &Broker, request: &FetchRequest<'_>, version: i16) -> Wish {
        let limits = broker.limits_config();
        let number = |value: i32| usize::try_from(value).unwrap_or(0);
        let wait_ms = u64::try_from(request.max_wait_ms)
            .unwrap_or(0)
            .min(limits.fetch_wait_max_ms);
        let asked = Asked {
            wait: Duration::from_millis(wait_ms),
            bytes_min: number(request.min_bytes),
            bytes_max: number(request.max_bytes).min(limits.fetch_response_bytes_max),
            isolation: match request.isolation_level {
                0 => Isolation::ReadUncommitted,
                _ => Isolation::ReadCommitted,
            },
        };
        let session = session_request(request, version).await;
        Wish { asked, session }
    }
}

/// Reads, waits for more where there is too little, and answers.
pub(super) async fn fetch(
    broker: &Rc<Broker>,
    wish: Wish,
    reply_to: ReplyTo,
) -> Result<Slices, Refused> {
    let began = now();
    let Wish { asked, session } = wish;
    let planned = broker.sessions.borrow_mut().plan(session, began);
    let plan = match planned {
        Ok(plan) => plan,
        Err(code) => {
            let refused = FetchResponse {
                error_code: code.into(),
                ..FetchResponse::default()
            };
            return Ok(reply_to.with(&refused)?);
        }
    };
    let figures = &broker.shard.metrics().fetch;
    figures.parse_ns.record(nanos(began.elapsed()));
    let outcomes = read_enough(broker, &plan.wanted, &asked).await;
    let found = now();
    let bytes: usize = outcomes.iter().map(ReadOutcome::bytes).sum();
    figures.bytes.increment(bytes as u64);
    // From here on the answer goes to the socket without another wait, and is counted there.
    let _held = Counted::new(&broker.fetch_bytes, pinned_bytes_max(bytes));
    count_by_topic(broker, &plan.wanted, &outcomes).await;
    let slices = answer(broker, &plan, outcomes, asked.isolation, reply_to).await;
    figures.respond_ns.record(nanos(found.elapsed()));
    figures.total_ns.record(nanos(began.elapsed()));
    slices
}

/// Counts what an answer carries of each topic.
async fn count_by_topic(broker: &Broker, wanted: &[Wanted], outcomes: &[ReadOutcome]) {
    let figures = &broker.shard.metrics().topics;
    for (wanted, outcome) in wanted.iter().zip(outcomes) {
        // Less than one by those that a client does not know: a batch may begin before the offset asked for, and
        // compaction leaves holes.
        let records = outcome.next_offset.saturating_sub(wanted.fetch_offset);
        if outcome.records.is_empty() || records <= 0 {
            continue;
        }
        if let Ok(key) = broker.shard.image(|image| key_of(image, wanted)) {
            figures.sent(key.topic, outcome.bytes() as u64, records.unsigned_abs());
        }
        yield_if_needed().await;
    }
}

/// The partitions of a request, each once: of one that is named twice the later mention counts, as in Kafka.
async fn session_request(request: &FetchRequest<'_>, version: i16) -> SessionRequest {
    let by_id = version >= TOPIC_IDS_FROM;
    let name = |name: &str, id: TopicId| {
        if by_id {
            TopicRef::Id(id)
        } else {
            TopicRef::Name(name.into())
        }
    };
    let mut steps = Steps::default();
    let mut wanted: Vec<Wanted> = Vec::new();
    let mut places: FxHashMap<(TopicRef, i32), usize> = FxHashMap::default();
    for topic in &request.topics {
        steps.next().await;
        let topic_ref = name(&topic.topic, topic.topic_id);
        for partition in &topic.partitions {
            steps.next().await;
            let place = match wanted.as_slice() {
                // Most name one partition, and need no map.
                [] => 0,
                [first, ..] => {
                    if places.is_empty() {
                        places.insert((first.topic.clone(), first.index), 0);
                    }
                    let key = (topic_ref.clone(), partition.partition);
                    *places.entry(key).or_insert(wanted.len())
                }
            };
            let partition = Wanted {
                topic: topic_ref.clone(),
                index: partition.partition,
                fetch_offset: partition.fetch_offset,
                bytes_max: partition.partition_max_bytes,
                current_leader_epoch: partition.current_leader_epoch,
                last_fetched_epoch: partition.last_fetched_epoch,
            };
            match wanted.get_mut(place) {
                Some(earlier) => *earlier = partition,
                None => wanted.push(partition),
            }
        }
    }
    let mut forgotten = Vec::new();
    for topic in &request.forgotten_topics_data {
        steps.next().await;
        let topic_ref = name(&topic.topic, topic.topic_id);
        for index in &topic.partitions {
            steps.next().await;
            forgotten.push((topic_ref.clone(), index));
        }
    }
    SessionRequest {
        session_id: request.session_id,
        epoch: request.session_epoch,
        by_id,
        wanted,
        forgotten,
    }
}

/// Reads until there is enough, something is wrong, or the time is up.
async fn read_enough(broker: &Rc<Broker>, wanted: &[Wanted], asked: &Asked) -> Vec<ReadOutcome> {
    let deadline = now() + asked.wait;
    let limits = broker.limits_config();
    let figures = &broker.shard.metrics().fetch;
    loop {
        let crowded = broker.in_flight.crowded();
        let (keys, items) = resolve(broker, wanted, asked.isolation).await;
        let bytes_max = asked.bytes_max.min(answer_bytes_max(broker));
        let reading = now();
        let read = {
            // Reads that are under way together must not all count on the same room.
            let _held = Counted::new(&broker.fetch_bytes, pinned_bytes_max(bytes_max));
            broker.shard.read_anywhere(items, bytes_max).await
        };
        figures.read_ns.record(nanos(reading.elapsed()));
        let mut read = read.into_iter();
        let outcomes: Vec<ReadOutcome> = keys
            .iter()
            .map(|key| match key {
                Ok(_) => read.next().unwrap_or_default(),
                Err(code) => ReadOutcome::failed(*code),
            })
            .collect();
        let failed = outcomes
            .iter()
            .any(|outcome| outcome.error != ErrorCode::None);
        let left = deadline.since(now());
        let full =
            broker.parked.get() + wanted.len() > limits.parked_fetches_max * PARKED_PARTITIONS_EACH;
        // Its connection's requests behind it hold room that others wait for.
        let stops = broker.draining.get() || broker.in_flight.is_crowded();
        if failed || wanted.is_empty() || left.is_zero() || full || stops {
            return outcomes;
        }
        let found = wanted.iter().zip(&outcomes).map(found);
        let Verdict::Wait { missing } = judge(asked.bytes_min, bytes_max, found.clone()) else {
            return outcomes;
        };
        let waits = keys.into_iter().zip(&outcomes).zip(found);
        let waits = waits.filter_map(|((key, outcome), found)| {
            Some(WaitItem {
                key: key.ok()?,
                high_watermark: Offset(outcome.high_watermark),
                bytes_max: found.bytes_left(),
            })
        });
        let waits = waits.collect();
        // What was read is dropped: a parked fetch holds no records.
        drop(outcomes);
        let _parked = Counted::new(&broker.parked, wanted.len());
        let waiting = now();
        let more = broker.shard.await_records_anywhere(waits, missing, left);
        either(more, crowded).await;
        figures.wait_ns.record(nanos(waiting.elapsed()));
        if broker.draining.get() {
            return wanted
                .iter()
                .map(|_| ReadOutcome::failed(ErrorCode::NotLeaderOrFollower))
                .collect();
        }
    }
}

/// How much the next answer may have: a share of what is left, so that a few readers that are slow to take their
/// answers leave something for everybody else.
fn answer_bytes_max(broker: &Broker) -> usize {
    let all = broker.limits_config().fetch_bytes_per_core_max;
    all.saturating_sub(broker.fetch_bytes.get()) / ROOM_SHARES
}

fn found((wanted, outcome): (&Wanted, &ReadOutcome)) -> Found {
    Found {
        bytes: outcome.bytes(),
        bytes_max: usize::try_from(wanted.bytes_max).unwrap_or(0),
        end: outcome.end,
    }
}

/// A part of a total, for as long as it lives: the partitions that a parked fetch waits on, which are
/// what it costs, and the bytes that a read may bring.
struct Counted<'a> {
    total: &'a Cell<usize>,
    part: usize,
}

impl<'a> Counted<'a> {
    fn new(total: &'a Cell<usize>, part: usize) -> Counted<'a> {
        total.set(total.get() + part);
        Counted { total, part }
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.total.set(self.total.get() - self.part);
    }
}

type Keys = Vec<Result<PartitionKey, ErrorCode>>;

/// The partitions that the client means, and the reads of those that there are.
async fn resolve(
    broker: &Broker,
    wanted: &[Wanted],
    isolation: Isolation,
) -> (Keys, Vec<ReadItem>) {
    let mut keys = Keys::with_capacity(wanted.len());
    let mut items = Vec::new();
    let mut steps = Steps::default();
    for wanted in wanted {
        steps.next().await;
        let key = broker.shard.image(|image| key_of(image, wanted));
        if let Ok(key) = key {
            items.push(ReadItem {
                key,
                from: wanted.fetch_offset,
                bytes_max: usize::try_from(wanted.bytes_max).unwrap_or(0),
                whole_first: true,
                isolation,
                current_leader_epoch: wanted.current_leader_epoch,
            });
        }
        keys.push(key);
    }
    (keys, items)
}

fn key_of(image: &Image, wanted: &Wanted) -> Result<PartitionKey, ErrorCode> {
    let (topic, unknown) = match &wanted.topic {
        TopicRef::Name(name) => (image.topic(name), ErrorCode::UnknownTopicOrPartition),
        TopicRef::Id(id) => (image.topic_by_id(*id), ErrorCode::UnknownTopicId),
    };
    let topic = topic.ok_or(unknown)?;
    match topic.partition(wanted.index) {
        Some(_) => Ok(PartitionKey {
            topic: topic.id,
            index: wanted.index,
        }),
        None => Err(ErrorCode::UnknownTopicOrPartition),
    }
}

/// No transaction was aborted. Null, as Kafka sends it, where a read sees all records; a partition that
/// is not known has an empty list, which is the field's default.
fn aborted_transactions(
    isolation: Isolation,
    error: ErrorCode,
) -> Option<Array<'static, AbortedTransaction>> {
    let unknown = matches!(
        error,
        ErrorCode::UnknownTopicOrPartition | ErrorCode::UnknownTopicId
    );
    (unknown || isolation == Isolation::ReadCommitted).then(Array::default)
}

/// A topic's part of a response, and the records that go in between.
type TopicPart<'a> = (&'a TopicRef, Vec<PartitionData<'static>>, Vec<Vec<Buf>>);

/// The response, with the records in between.
async fn answer(
    broker: &Rc<Broker>,
    plan: &Plan,
    outcomes: Vec<ReadOutcome>,
    isolation: Isolation,
    reply_to: ReplyTo,
) -> Result<Slices, Refused> {
    let mut topics: Vec<TopicPart<'_>> = Vec::new();
    let mut places: FxHashMap<&TopicRef, usize> = FxHashMap::default();
    let mut steps = Steps::default();
    for (wanted, outcome) in plan.wanted.iter().zip(outcomes) {
        steps.next().await;
        let bytes = outcome.bytes();
        let told = Told {
            high_watermark: outcome.high_watermark,
            log_start: outcome.log_start,
            failed: outcome.error != ErrorCode::None,
        };
        let mut sessions = broker.sessions.borrow_mut();
        let changed = sessions.changed(plan, wanted, told, bytes > 0);
        drop(sessions);
        if !changed {
            continue;
        }
        let place = *places.entry(&wanted.topic).or_insert_with(|| {
            topics.push((&wanted.topic, Vec::new(), Vec::new()));
            topics.len() - 1
        });
        topics[place].1.push(PartitionData {
            partition_index: wanted.index,
            error_code: outcome.error.into(),
            high_watermark: outcome.high_watermark,
            last_stable_offset: outcome.last_stable_offset,
            log_start_offset: outcome.log_start,
            aborted_transactions: aborted_transactions(isolation, outcome.error),
            records: Records::Splice(bytes),
            ..PartitionData::default()
        });
        if bytes > 0 {
            topics[place].2.push(outcome.records);
        }
    }
    let mut records = Vec::new();
    let mut responses = ArrayBuilder::new(reply_to.version, FetchResponse::FLEXIBLE_FROM);
    for (topic, partitions, bytes) in topics {
        records.extend(bytes);
        let mut written = ArrayBuilder::new(reply_to.version, FetchResponse::FLEXIBLE_FROM);
        steps.next().await;
        for partition in partitions {
            steps.next().await;
            written.push(partition).map_err(ResponseError::from)?;
        }
        let mut response = FetchableTopicResponse {
            partitions: written.finish(),
            ..FetchableTopicResponse::default()
        };
        match topic {
            TopicRef::Name(name) => response.topic = name.to_string().into(),
            TopicRef::Id(id) => response.topic_id = *id,
        }
        responses.push(response).map_err(ResponseError::from)?;
    }
    let response = FetchResponse {
        session_id: plan.session_id,
        responses: responses.finish(),
        ..FetchResponse::default()
    };
    Ok(reply_to.with_records(&response, records)?)
}
