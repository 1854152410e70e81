//! Producing through a [`Producer`]: many batches and requests at a time.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use streambus_proto::ids::{BrokerId, TopicId};
use streambus_proto::messages::ProduceRequest;
use streambus_proto::records::NewRecord;

use super::{Client, RETRY_PAUSE};
use crate::error::ClientError;
use crate::partition::TopicPartition;
use crate::produce::{Acks, produce_request, results_of};
use crate::producer::{
    AppendError, BatchId, BatchResult, Delivery, Producer, ProducerConfig, Ticket, ToSend,
};
use crate::reaction::{Reaction, reaction};
use crate::request::Reply;

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
    linger_ms: u64,
    /// When to look again for what is due.
    dispatch_at_ms: u64,
    /// In the order sent.
    awaited: VecDeque<AwaitedBatches>,
    /// Ends of batches that the caller has not taken.
    delivered: VecDeque<Delivery>,
    /// Why nothing was stored lately, in words.
    trouble: Option<String>,
}

/// Requests under way to all brokers together, at most.
const REQUESTS_IN_FLIGHT_MAX: usize = 32;
/// Ends of batches kept for a caller that does not take them; the oldest go first.
const DELIVERED_MAX: usize = 100_000;

impl Client {
    /// A producer that collects records into batches and retries them.
    pub fn producer(&mut self, config: ProducerConfig) -> BlockingProducer<'_> {
        BlockingProducer {
            client: self,
            core: Producer::new(config),
            acks: Acks::All,
            linger_ms: config.linger_ms.max(1),
            dispatch_at_ms: 0,
            awaited: VecDeque::new(),
            delivered: VecDeque::new(),
            trouble: None,
        }
    }
}

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
            let now_ms = self.client.now_ms();
            match self.core.append(partition, record, now_ms) {
                Ok(ticket) => {
                    // A batch was begun, so the one before it is full; or the linger time passed.
                    // Not for each record: looking for what is due visits every partition.
                    if ticket.offset_delta == 0 || now_ms >= self.dispatch_at_ms {
                        self.poll()?;
                    }
                    return Ok(ticket);
                }
                Err(AppendError::Full) => self.turn(true)?,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Takes a record if the buffer has room: `false` if it has none, until [`BlockingProducer::turn_within`]
    /// has made some. Waits for nothing.
    ///
    /// # Errors
    /// As [`BlockingProducer::turn_within`].
    pub fn offer(
        &mut self,
        partition: &TopicPartition,
        record: &NewRecord<'_>,
    ) -> Result<bool, ClientError> {
        let now_ms = self.client.now_ms();
        match self.core.append(partition, record, now_ms) {
            Ok(ticket) => {
                if ticket.offset_delta == 0 || now_ms >= self.dispatch_at_ms {
                    self.turn_within(false, Duration::ZERO)?;
                }
                Ok(true)
            }
            Err(AppendError::Full) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends what is due (with `flush` everything) and takes answers, waiting for one at most about `wait`, and for
    /// a new connection as long as the client's `connect_timeout`. A broker that can't be reached or does not
    /// answer is no error: batches wait, and [`BlockingProducer::trouble`] says why.
    ///
    /// # Errors
    /// What a later try does not mend: a request that the broker does not know or does not allow.
    pub fn turn_within(&mut self, flush: bool, wait: Duration) -> Result<(), ClientError> {
        self.take_arrived();
        if self.awaited.len() < REQUESTS_IN_FLIGHT_MAX
            && let Err(error) = self.dispatch(flush, Duration::ZERO)
        {
            let passes = match &error {
                ClientError::Refused { refusal, .. } => reaction(refusal.code) != Reaction::GiveUp,
                error => error.ends_connection() || matches!(error, ClientError::GaveUp(_)),
            };
            if !passes {
                return Err(error);
            }
            self.trouble = Some(error.to_string());
        }
        if wait.is_zero() {
            // Nothing to wait for.
        } else if self.awaited.is_empty() {
            std::thread::sleep(wait.min(RETRY_PAUSE));
        } else {
            self.take_answer_within(wait);
        }
        let expired = self.core.expire(self.client.now_ms());
        self.delivered(expired);
        Ok(())
    }

    /// Whether all that was taken is stored or given up.
    pub fn is_idle(&self) -> bool {
        self.core.is_idle()
    }

    /// Why nothing could be stored when that was last tried, in words; `None` when something was stored since.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// Gives up everything that is not stored, sent or not.
    pub fn give_up(&mut self) {
        for awaited in std::mem::take(&mut self.awaited) {
            self.finish(&awaited.batches, BatchResult::Lost);
        }
        let ended = self.core.give_up();
        self.delivered(ended);
    }

    /// Sends what is due and takes the answers that have come, without waiting for any.
    /// [`BlockingProducer::append`] does so often enough while records come.
    ///
    /// # Errors
    /// As [`BlockingProducer::append`].
    pub fn poll(&mut self) -> Result<(), ClientError> {
        self.take_arrived();
        if self.awaited.len() < REQUESTS_IN_FLIGHT_MAX {
            self.dispatch(false, self.client.config.patience)?;
        }
        let expired = self.core.expire(self.client.now_ms());
        self.delivered(expired);
        Ok(())
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
        self.dispatch(flush, self.client.config.patience)?;
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

    /// Sends what is due. An identity, if one is needed, is asked for as long as `patience`.
    fn dispatch(&mut self, flush: bool, patience: Duration) -> Result<(), ClientError> {
        self.dispatch_at_ms = self.client.now_ms() + self.linger_ms;
        if self.core.needs_identity() {
            let (id, epoch) = self.client.init_producer_id_within(patience)?;
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
            if let Err(error) = self.client.find_leaders(waiting.iter()) {
                self.trouble = Some(error.to_string());
            }
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
            if !self.send_request(broker, &taken) {
                // On a new connection what follows would overtake what was lost with the old one.
                for send in rest {
                    let ended =
                        self.core
                            .finished(send.batch, BatchResult::Lost, self.client.now_ms());
                    self.delivered(ended);
                }
                return;
            }
            sends = rest;
        }
    }

    /// Sends a request; returns whether it went out.
    fn send_request(&mut self, broker: BrokerId, sends: &[ToSend]) -> bool {
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
                true
            }
            Ok(None) => {
                self.finish(&batches, BatchResult::Stored(None));
                true
            }
            Err(error) => {
                self.trouble = Some(error.to_string());
                self.finish(&batches, BatchResult::Lost);
                self.lose(broker);
                false
            }
        }
    }

    /// Waits for the oldest answer that is due.
    fn take_answer(&mut self) {
        let Some(awaited) = self.awaited.pop_front() else {
            return;
        };
        let reply = self.client.on_link(Some(awaited.broker), |link| {
            link.wait(awaited.correlation_id)
        });
        self.settle(awaited, reply);
    }

    /// Waits for the oldest answer that is due, at most `wait`.
    fn take_answer_within(&mut self, wait: Duration) {
        let Some(oldest) = self.awaited.front() else {
            return;
        };
        let (broker, id) = (oldest.broker, oldest.correlation_id);
        let arrived = self
            .client
            .on_link(Some(broker), |link| link.wait_within(id, wait));
        let reply = match arrived {
            Ok(None) => return,
            Ok(Some(reply)) => Ok(reply),
            Err(error) => Err(error),
        };
        if let Some(awaited) = self.awaited.pop_front() {
            self.settle(awaited, reply);
        }
    }

    /// Takes the answers that have come already.
    fn take_arrived(&mut self) {
        // Brokers from which nothing more has come.
        let mut silent: Vec<BrokerId> = Vec::new();
        let mut place = 0;
        while let Some(awaited) = self.awaited.get(place) {
            let (broker, id) = (awaited.broker, awaited.correlation_id);
            if silent.contains(&broker) {
                place += 1;
                continue;
            }
            let arrived = self
                .client
                .on_link(Some(broker), |link| link.wait_no_longer(id));
            let reply = match arrived {
                Ok(None) => {
                    silent.push(broker);
                    continue;
                }
                Ok(Some(reply)) => Ok(reply),
                Err(error) => Err(error),
            };
            if let Some(awaited) = self.awaited.remove(place) {
                self.settle(awaited, reply);
            }
            // A lost connection takes others out of the queue: begin again.
            place = 0;
        }
    }

    /// Tells the core what came of the batches of a request.
    fn settle(
        &mut self,
        awaited: AwaitedBatches,
        reply: Result<Reply<ProduceRequest<'_>>, ClientError>,
    ) {
        let AwaitedBatches {
            broker, batches, ..
        } = awaited;
        let answered = reply.and_then(|reply| Ok(results_of(&reply, &batches)?));
        let results = match answered {
            Ok(results) => results,
            Err(error) => {
                self.trouble = Some(error.to_string());
                self.finish(&batches, BatchResult::Lost);
                self.lose(broker);
                return;
            }
        };
        let mut unanswered = batches.clone();
        for result in results {
            unanswered.retain(|(id, _, _)| *id != result.batch);
            let Some((_, partition, _)) = batches.iter().find(|(id, _, _)| *id == result.batch)
            else {
                continue;
            };
            self.trouble = match result.outcome {
                BatchResult::Refused(code) => Some(format!("{partition}: {code}")),
                BatchResult::Stored(_) | BatchResult::Lost => None,
            };
            if let BatchResult::Refused(code) = result.outcome
                && reaction(code) == Reaction::RefreshAndRetry
            {
                self.client
                    .router
                    .heed(partition, result.leader, result.leader_epoch);
            }
            let now_ms = self.client.now_ms();
            let ended = self.core.finished(result.batch, result.outcome, now_ms);
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

/// Milliseconds since 1970, for the timestamps of records.
fn wall_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    })
}
