//! Producing a batch at a time.

use std::time::Duration;

use streambus_proto::ids::{BrokerId, LeaderEpoch, Offset, ProducerEpoch, ProducerId, TopicId};
use streambus_proto::messages::InitProducerIdRequest;
use streambus_proto::messages::ProduceRequest;

use super::Client;
use crate::error::{ClientError, refusal};
use crate::partition::TopicPartition;
use crate::produce::{Acks, produce_request};
use crate::reaction::{Reaction, reaction};
use crate::request::Reply;

/// A batch that a broker has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Produced {
    /// Offset of its first record.
    pub base_offset: Offset,
    /// When the broker appended it, if the topic keeps that time.
    pub log_append_time_ms: Option<i64>,
}

impl Client {
    /// Sends one batch, as it is, once, and waits for the answer; `None` with [`Acks::None`].
    /// The leader must be known: see [`Client::metadata`].
    ///
    /// # Errors
    /// [`ClientError::Refused`] with the broker's code; a lost connection leaves it open whether
    /// the batch is stored.
    pub fn produce_batch(
        &mut self,
        partition: &TopicPartition,
        batch: &[u8],
        acks: Acks,
    ) -> Result<Option<Produced>, ClientError> {
        self.find_leaders(std::iter::once(partition))?;
        let leader = self.leader_of(partition)?;
        let topic_id = self.topic_id(partition);
        let parts = [(partition, topic_id, batch.len())];
        let request = produce_request(&parts, acks);
        if acks == Acks::None {
            self.on_link(Some(leader), |link| {
                link.send_unanswered(&request, &[batch])
            })?;
            return Ok(None);
        }
        let reply: Reply<ProduceRequest<'_>> = self.on_link(Some(leader), |link| {
            let id = link.send(&request, &[batch])?;
            link.wait(id)
        })?;
        let answer = reply.read()?;
        let mut results = answer
            .responses
            .iter()
            .flat_map(|t| t.partition_responses.iter().collect::<Vec<_>>());
        let Some(result) = results.next() else {
            return Err(ClientError::GaveUp(format!("no answer for {partition}")));
        };
        let message = result.error_message.as_deref();
        if let Some(refusal) = refusal(result.error_code, message) {
            if reaction(refusal.code) == Reaction::RefreshAndRetry {
                let hint = &result.current_leader;
                let (leader, epoch) = (BrokerId(hint.leader_id), LeaderEpoch(hint.leader_epoch));
                self.router.heed(partition, leader, epoch);
            }
            return Err(ClientError::Refused {
                what: partition.to_string(),
                refusal,
            });
        }
        let time = result.log_append_time_ms;
        Ok(Some(Produced {
            base_offset: Offset(result.base_offset),
            log_append_time_ms: (time >= 0).then_some(time),
        }))
    }

    /// A new identity for an idempotent producer.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn init_producer_id(&mut self) -> Result<(ProducerId, ProducerEpoch), ClientError> {
        self.init_producer_id_within(self.config.patience)
    }

    pub(super) fn init_producer_id_within(
        &mut self,
        patience: Duration,
    ) -> Result<(ProducerId, ProducerEpoch), ClientError> {
        let request = InitProducerIdRequest {
            transactional_id: None,
            transaction_timeout_ms: i32::MAX,
            ..Default::default()
        };
        self.within(patience, |client| {
            let reply = client.call(None, &request)?;
            let answer = reply.read()?;
            ClientError::check("producer id", answer.error_code, None)?;
            Ok((
                ProducerId(answer.producer_id),
                ProducerEpoch(answer.producer_epoch),
            ))
        })
    }

    pub(super) fn topic_id(&self, partition: &TopicPartition) -> TopicId {
        self.router
            .topic(&partition.topic)
            .map(|topic| topic.id)
            .unwrap_or_default()
    }
}
