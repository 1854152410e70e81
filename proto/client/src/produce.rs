//! A Produce request of several batches, and what its answer says of each.

use std::collections::BTreeMap;

use streambus_proto::error_code::ErrorCode;
use streambus_proto::ids::{BrokerId, LeaderEpoch, Offset, TopicId};
use streambus_proto::messages::ProduceRequest;
use streambus_proto::messages::produce_request::{PartitionProduceData, TopicProduceData};
use streambus_proto::messages::produce_response::TopicProduceResponse;
use streambus_proto::wire::{DecodeError, Records};

use crate::partition::TopicPartition;
use crate::producer::{BatchId, BatchResult};
use crate::request::Reply;

/// Who must have a batch before the broker answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Acks {
    /// Nobody: there is no answer, and nothing is known.
    None,
    /// The leader.
    Leader,
    /// Every replica that is in sync.
    #[default]
    All,
}

impl Acks {
    pub(crate) fn to_wire(self) -> i16 {
        match self {
            Acks::None => 0,
            Acks::Leader => 1,
            Acks::All => -1,
        }
    }
}

/// How long a broker may wait for its followers.
const REPLICATION_TIMEOUT_MS: i32 = 30_000;

/// A request of batches to one broker: each part a partition, its topic's id and its batch's length. Topics by id or by name: each version takes its own.
pub fn produce_request<'n>(
    parts: &[(&'n TopicPartition, TopicId, usize)],
    acks: Acks,
) -> ProduceRequest<'n> {
    let mut topics: BTreeMap<&'n str, (TopicId, Vec<PartitionProduceData<'n>>)> = BTreeMap::new();
    for (partition, topic_id, bytes) in parts {
        let (_, data) = topics
            .entry(&partition.topic)
            .or_insert_with(|| (*topic_id, Vec::new()));
        data.push(PartitionProduceData {
            index: partition.index,
            records: Records::Splice(*bytes),
        });
    }
    let topic_data = topics
        .into_iter()
        .map(|(name, (topic_id, data))| TopicProduceData {
            name: name.into(),
            topic_id,
            partition_data: data.into(),
        });
    ProduceRequest {
        transactional_id: None,
        acks: acks.to_wire(),
        timeout_ms: REPLICATION_TIMEOUT_MS,
        topic_data: topic_data.collect(),
    }
}

/// What came of one batch of a request.
#[derive(Debug, Clone, Copy)]
pub struct BatchAnswer {
    /// Which batch.
    pub batch: BatchId,
    /// What the broker says of it.
    pub outcome: BatchResult,
    /// Who leads now, if a refusal says so; else negative.
    pub leader: BrokerId,
    /// Its epoch.
    pub leader_epoch: LeaderEpoch,
}

/// What an answer says of the batches of its request. A batch that it leaves out was not answered for.
///
/// # Errors
/// [`DecodeError`]: close the connection.
pub fn results_of(
    reply: &Reply<ProduceRequest<'_>>,
    batches: &[(BatchId, TopicPartition, TopicId)],
) -> Result<Vec<BatchAnswer>, DecodeError> {
    let answer = reply.read()?;
    let mut results = Vec::with_capacity(batches.len());
    for topic in &answer.responses {
        for result in &topic.partition_responses {
            let Some(batch) = find_batch(batches, &topic, result.index) else {
                continue;
            };
            results.push(BatchAnswer {
                batch,
                outcome: match ErrorCode::from_i16(result.error_code) {
                    ErrorCode::None => BatchResult::Stored(Some(Offset(result.base_offset))),
                    code => BatchResult::Refused(code),
                },
                leader: BrokerId(result.current_leader.leader_id),
                leader_epoch: LeaderEpoch(result.current_leader.leader_epoch),
            });
        }
    }
    Ok(results)
}

/// Answers name topics as the request did: by id since version 13.
fn find_batch(
    batches: &[(BatchId, TopicPartition, TopicId)],
    topic: &TopicProduceResponse<'_>,
    index: i32,
) -> Option<BatchId> {
    let by_id = topic.topic_id != TopicId::ZERO;
    let found = batches.iter().find(|(_, partition, id)| {
        let same_topic = if by_id {
            *id == topic.topic_id
        } else {
            *partition.topic == *topic.name
        };
        same_topic && partition.index == index
    });
    found.map(|(batch, _, _)| *batch)
}
