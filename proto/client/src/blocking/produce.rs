//! Producing, batch by batch or through a [`Producer`].

use std::collections::{BTreeMap, VecDeque};

use streambus_proto::error_code::ErrorCode;
use streambus_proto::ids::{BrokerId, LeaderEpoch, Offset, ProducerEpoch, ProducerId, TopicId};
use streambus_proto::messages::ProduceRequest;
use streambus_proto::messages::produce_request::{PartitionProduceData, TopicProduceData};
use streambus_proto::messages::produce_response::PartitionProduceResponse;
use streambus_proto::messages::{InitProducerIdRequest, produce_response};
use streambus_proto::records::NewRecord;
use streambus_proto::wire::Records;

use super::{Client, RETRY_PAUSE};
use crate::error::{ClientError, Refusal, refusal};
use crate::partition::TopicPartition;
use crate::producer::{
    AppendError, BatchId, BatchResult, Delivery, Producer, ProducerConfig, Ticket, ToSend,
};
use crate::reaction::{Reaction, reaction};
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
    fn to_wire(self) -> i16 {
        match self {
            Acks::None => 0,
            Acks::Leader => 1,
            Acks::All => -1,
        }
    }
}

/// A batch that a broker has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Produced {
    /// Offset of its first record.
    pub base_offset: Offset,
    /// When the broker appended it, if the topic keeps that time.
    pub log_append_time_ms: Option<i64>,
}

/// How long a broker may wait for its followers.
const REPLICATION_TIMEOUT_MS: i32 = 30_000;

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
            self.heed(partition, refusal.code, &result);
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

    /// A producer that collects records into batches and retries them.
    pub fn producer(&mut self, config: ProducerConfig) -> BlockingProducer<'_> {
        BlockingProducer {
            client: self,
            core: Producer::new(config),
            acks: Acks::All,
            awaited: VecDeque::new(),
            delivered: VecDeque::new(),
        }
    }

    /// A new identity for an idempotent producer.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn init_producer_id(&mut self) -> Result<(ProducerId, ProducerEpoch), ClientError> {
        let request = InitProducerIdRequest {
            transactional_id: None,
            transaction_timeout_ms: i32::MAX,
            ..Default::default()
        };
        self.with_patience(|client| {
            let reply = client.call(None, &request)?;
            let answer = reply.read()?;
            ClientError::check("producer id", answer.error_code, None)?;
            Ok((
                ProducerId(answer.producer_id),
                ProducerEpoch(answer.producer_epoch),
            ))
        })
    }

    fn topic_id(&self, partition: &TopicPartition) -> TopicId {
        self.router
            .topic(&partition.topic)
            .map(|topic| topic.id)
            .unwrap_or_default()
    }

    /// Learns from a refusal who leads now.
    fn heed(
        &mut self,
        partition: &TopicPartition,
        code: ErrorCode,
        result: &PartitionProduceResponse<'_>,
    ) {
        if reaction(code) != Reaction::RefreshAndRetry {
            return;
        }
        let hint = &result.current_leader;
        let told = hint.leader_id >= 0
            && self.router.moved(
                partition,
                BrokerId(hint.leader_id),
                LeaderEpoch(hint.leader_epoch),
            );
        if !told {
            self.router.suspect();
        }
    }
}

/// Requests of batches to one broker. Topics by id or by name: each version takes its own.
fn produce_request<'n>(
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

/// A request under way and the batches in it.
#[derive(Debug)]
struct AwaitedBatches {
    broker: BrokerId,
    correlation_id: i32,
    batches: Vec<(BatchId, TopicPartition, TopicId)>,
}

/// Produces through a [`Producer`]: batches form as records come, several requests are under way
/// to each broker, failures are retried. Dropping it gives up what was not flushed.
#[derive(Debug)]
pub struct BlockingProducer<'c> {
    client: &'c mut Client,
    core: Producer,
    acks: Acks,
    /// In the order sent.
    awaited: VecDeque<AwaitedBatches>,
    /// Ends of batches that the caller has not taken.
    delivered: VecDeque<Delivery>,
}

/// Requests under way to all brokers together, at most.
const REQUESTS_IN_FLIGHT_MAX: usize = 32;
/// Ends of batches kept for a caller that does not take them; the oldest go first.
const DELIVERED_MAX: usize = 100_000;

impl BlockingProducer<'_> {
    /// Who must have a batch. Other than [`Acks::All`] needs a producer that is not idempotent.
    #[must_use]
    pub fn with_acks(mut self, acks: Acks) -> Self {
        self.acks = acks;
        self
    }

    /// Takes a record with the current time; see [`BlockingProducer::append`].
    ///
    /// # Errors
    /// As [`BlockingProducer::append`].
    pub fn send(
        &mut self,
        partition: &TopicPartition,
        key: Option<&[u8]>,
        value: &[u8],
    ) -> Result<Ticket, ClientError> {
        let timestamp = wall_ms();
        self.append(
            partition,
            &NewRecord {
                timestamp,
                key,
                value: Some(value),
                headers: &[],
            },
        )
    }

    /// Takes a record, and sends what is due. Waits only while the buffer is full.
    ///
    /// # Errors
    /// [`ClientError::Append`] if the record is too large; errors of the cluster if the buffer
    /// stays full because of them.
    pub fn append(
        &mut self,
        partition: &TopicPartition,
        record: &NewRecord<'_>,
    ) -> Result<Ticket, ClientError> {
        loop {
            match self.core.append(partition, record, self.client.now_ms()) {
                Ok(ticket) => {
                    if self.awaited.len() < REQUESTS_IN_FLIGHT_MAX {
                        self.dispatch(false)?;
                    }
                    return Ok(ticket);
                }
                Err(AppendError::Full) => self.turn(true)?,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sends everything and waits until each batch was stored or given up. Ends that were not
    /// taken with [`BlockingProducer::take_delivered`] stay there.
    ///
    /// # Errors
    /// [`ClientError::Delivery`] of the first batch that was given up since the last call.
    pub fn flush(&mut self) -> Result<(), ClientError> {
        while !self.core.is_idle() {
            self.turn(true)?;
        }
        let failed = self
            .delivered
            .iter()
            .find_map(|delivery| delivery.result.err());
        failed.map_or(Ok(()), |error| Err(error.into()))
    }

    /// Takes the ends of batches known so far.
    pub fn take_delivered(&mut self) -> impl Iterator<Item = Delivery> + '_ {
        self.delivered.drain(..)
    }

    /// Batches under way.
    pub fn in_flight(&self) -> usize {
        self.core.in_flight()
    }

    /// Sends what is due and takes one answer, or passes the time until something is due.
    fn turn(&mut self, flush: bool) -> Result<(), ClientError> {
        self.dispatch(flush)?;
        if !self.awaited.is_empty() {
            self.take_answer();
        } else if !self.core.is_idle() {
            // Nothing under way and nothing due: a retry's pause, or no leader.
            std::thread::sleep(RETRY_PAUSE);
        }
        let expired = self.core.expire(self.client.now_ms());
        self.delivered(expired);
        Ok(())
    }

    /// Sends what is due.
    fn dispatch(&mut self, flush: bool) -> Result<(), ClientError> {
        if self.core.needs_identity() {
            let (id, epoch) = self.client.init_producer_id()?;
            let given_up = self.core.set_identity(id, epoch);
            self.delivered(given_up);
        }
        let now_ms = self.client.now_ms();
        let router = &self.client.router;
        let mut leaderless = false;
        let sends = self.core.take_ready(
            |partition| {
                let leader = router.leader(partition);
                leaderless |= leader.is_none();
                leader
            },
            flush,
            now_ms,
        );
        if leaderless || self.client.router.refresh_due(now_ms) {
            let waiting: Vec<TopicPartition> = self.core.waiting_partitions().cloned().collect();
            // Not reaching anyone is no news to a producer that retries: batches expire.
            let _ = self.client.find_leaders(waiting.iter());
        }
        let mut by_broker: BTreeMap<BrokerId, Vec<ToSend>> = BTreeMap::new();
        for send in sends {
            by_broker.entry(send.broker).or_default().push(send);
        }
        for (broker, sends) in by_broker {
            self.send_to(broker, sends);
        }
        Ok(())
    }

    /// Sends batches to a broker: one of a partition in each request, as the protocol has it.
    fn send_to(&mut self, broker: BrokerId, mut sends: Vec<ToSend>) {
        while !sends.is_empty() {
            let mut taken: Vec<ToSend> = Vec::new();
            let mut rest = Vec::new();
            for send in sends {
                if taken.iter().any(|other| other.partition == send.partition) {
                    rest.push(send);
                } else {
                    taken.push(send);
                }
            }
            sends = rest;
            self.send_request(broker, &taken);
        }
    }

    fn send_request(&mut self, broker: BrokerId, sends: &[ToSend]) {
        let with_ids = sends
            .iter()
            .map(|send| (send, self.client.topic_id(&send.partition)));
        let batches: Vec<_> = with_ids
            .map(|(send, id)| (send.batch, send.partition.clone(), id))
            .collect();
        let parts: Vec<_> = sends
            .iter()
            .zip(&batches)
            .map(|(send, (_, _, id))| (&send.partition, *id, send.bytes.len()))
            .collect();
        // A broker reads the parts in the order of the request, which groups them by topic.
        let request = produce_request(&parts, self.acks);
        let mut in_order: Vec<&ToSend> = sends.iter().collect();
        in_order.sort_by(|a, b| a.partition.topic.cmp(&b.partition.topic));
        let spliced: Vec<&[u8]> = in_order.iter().map(|send| &*send.bytes).collect();
        let acks = self.acks;
        // Room for this request: the connection bounds what is under way.
        while self.awaited.len() >= REQUESTS_IN_FLIGHT_MAX {
            self.take_answer();
        }
        let sent = self.client.on_link(Some(broker), |link| {
            if acks == Acks::None {
                return link.send_unanswered(&request, &spliced).map(|()| None);
            }
            link.send(&request, &spliced).map(Some)
        });
        match sent {
            Ok(Some(correlation_id)) => {
                self.awaited.push_back(AwaitedBatches {
                    broker,
                    correlation_id,
                    batches,
                });
            }
            Ok(None) => self.finish(&batches, BatchResult::Stored(None)),
            Err(_) => {
                self.finish(&batches, BatchResult::Lost);
                self.lose(broker);
            }
        }
    }

    /// Waits for the oldest answer that is due.
    fn take_answer(&mut self) {
        let Some(awaited) = self.awaited.pop_front() else {
            return;
        };
        let AwaitedBatches {
            broker,
            correlation_id,
            batches,
        } = awaited;
        let answered = self.client.on_link(Some(broker), |link| {
            let reply: Reply<ProduceRequest<'_>> = link.wait(correlation_id)?;
            let answer = reply.read()?;
            let mut results = Vec::with_capacity(batches.len());
            for topic in &answer.responses {
                for result in &topic.partition_responses {
                    let batch = find_batch(&batches, &topic, result.index);
                    let hint = (
                        result.current_leader.leader_id,
                        result.current_leader.leader_epoch,
                    );
                    results.extend(
                        batch.map(|batch| (batch, result.error_code, result.base_offset, hint)),
                    );
                }
            }
            Ok(results)
        });
        let Ok(results) = answered else {
            self.finish(&batches, BatchResult::Lost);
            self.lose(broker);
            return;
        };
        let mut unanswered = batches.clone();
        for (batch, code, base_offset, (leader, epoch)) in results {
            unanswered.retain(|(id, _, _)| *id != batch);
            let Some((_, partition, _)) = batches.iter().find(|(id, _, _)| *id == batch) else {
                continue;
            };
            let outcome = match refusal(code, None) {
                None => BatchResult::Stored(Some(Offset(base_offset))),
                Some(Refusal { code, .. }) => {
                    let router = &mut self.client.router;
                    let told = leader >= 0
                        && router.moved(partition, BrokerId(leader), LeaderEpoch(epoch));
                    if !told && reaction(code) == Reaction::RefreshAndRetry {
                        router.suspect();
                    }
                    BatchResult::Refused(code)
                }
            };
            let now_ms = self.client.now_ms();
            let ended = self.core.finished(batch, outcome, now_ms);
            self.delivered(ended);
        }
        // A broker that leaves a partition out of its answer has not answered for it.
        self.finish(&unanswered, BatchResult::Lost);
    }

    /// A connection is gone: none of what was sent over it will be answered.
    fn lose(&mut self, broker: BrokerId) {
        let (lost, kept) = std::mem::take(&mut self.awaited)
            .into_iter()
            .partition::<VecDeque<_>, _>(|awaited| awaited.broker == broker);
        self.awaited = kept;
        self.client.drop_link(Some(broker));
        for awaited in lost {
            self.finish(&awaited.batches, BatchResult::Lost);
        }
    }

    fn finish(&mut self, batches: &[(BatchId, TopicPartition, TopicId)], outcome: BatchResult) {
        let now_ms = self.client.now_ms();
        for (batch, _, _) in batches {
            let ended = self.core.finished(*batch, outcome, now_ms);
            self.delivered(ended);
        }
    }

    fn delivered(&mut self, ended: impl IntoIterator<Item = Delivery>) {
        self.delivered.extend(ended);
        while self.delivered.len() > DELIVERED_MAX {
            self.delivered.pop_front();
        }
    }
}

/// Answers name topics as the request did: by id since version 13.
fn find_batch(
    batches: &[(BatchId, TopicPartition, TopicId)],
    topic: &produce_response::TopicProduceResponse<'_>,
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

/// Milliseconds since 1970, for the timestamps of records.
fn wall_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    })
}
