//! Consuming assigned partitions through a [`Consumer`].

use std::collections::BTreeMap;

use streambus_proto::error_code::ErrorCode;
use streambus_proto::ids::{BrokerId, LeaderEpoch, Offset, ProducerId, TopicId};
use streambus_proto::messages::FetchRequest;
use streambus_proto::messages::fetch_request::{FetchPartition, FetchTopic};
use streambus_proto::messages::fetch_response::PartitionData;
use streambus_proto::records::{BatchView, Record};

use super::{Client, RETRY_PAUSE};
use crate::consumer::{AbortedTransaction, Consumer, ConsumerConfig, Fetched, Isolation, Start};
use crate::error::ClientError;
use crate::partition::TopicPartition;
use crate::reaction::Reaction;
use crate::request::Reply;

impl Isolation {
    pub(super) fn to_wire(self) -> i8 {
        match self {
            Isolation::ReadUncommitted => 0,
            Isolation::ReadCommitted => 1,
        }
    }
}

/// How much a fetch may bring and how long it may wait for something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchBounds {
    /// How long a broker may wait for records.
    pub wait_ms_max: i32,
    /// How many bytes it should wait for.
    pub bytes_min: i32,
    /// How many bytes an answer may bring.
    pub bytes_max: i32,
    /// How many bytes of one partition; a larger batch comes whole all the same.
    pub partition_bytes_max: i32,
}

impl Default for FetchBounds {
    fn default() -> Self {
        FetchBounds {
            wait_ms_max: 500,
            bytes_min: 1,
            bytes_max: 50 << 20,
            partition_bytes_max: 1 << 20,
        }
    }
}

/// Reads assigned partitions.
#[derive(Debug)]
pub struct BlockingConsumer<'c> {
    client: &'c mut Client,
    core: Consumer,
    isolation: Isolation,
    bounds: FetchBounds,
}

impl Client {
    /// A consumer of nothing yet; see [`BlockingConsumer::assign`].
    pub fn consumer(&mut self, config: ConsumerConfig) -> BlockingConsumer<'_> {
        BlockingConsumer {
            client: self,
            core: Consumer::new(config),
            isolation: config.isolation,
            bounds: FetchBounds::default(),
        }
    }
}

impl BlockingConsumer<'_> {
    /// Other bounds for its fetches.
    #[must_use]
    pub fn with_bounds(mut self, bounds: FetchBounds) -> Self {
        self.bounds = bounds;
        self
    }

    /// Adds a partition, or moves to another place in one it has.
    pub fn assign(&mut self, partition: TopicPartition, start: Start) {
        self.core.assign(partition, start);
    }

    /// Removes a partition.
    pub fn unassign(&mut self, partition: &TopicPartition) {
        self.core.unassign(partition);
    }

    /// The offset of the next record to be read; `None` until it was found.
    pub fn position(&self, partition: &TopicPartition) -> Option<Offset> {
        self.core.position(partition)
    }

    /// Whether every partition was read to the end its last fetch knew of.
    pub fn at_end(&self) -> bool {
        self.core.at_end()
    }

    /// Asks each broker once for what comes next, and hands each record on. Returns how many.
    /// None came if it is 0: the brokers waited for as long as they may, or something had to be
    /// found out first; poll again.
    ///
    /// # Errors
    /// [`ClientError::Consume`] if a partition cannot be read on. Brokers that are away or moved
    /// are no errors: they are looked for again with the next poll.
    pub fn poll(
        &mut self,
        hand_on: &mut dyn FnMut(&TopicPartition, &BatchView<'_>, &Record<'_>),
    ) -> Result<u64, ClientError> {
        let partitions: Vec<TopicPartition> = self.core.partitions().cloned().collect();
        if let Err(error) = self.client.find_leaders(partitions.iter())
            && !error.ends_connection()
        {
            return Err(error);
        }
        self.look_up()?;
        let count = self.fetch(hand_on)?;
        if count.is_none() {
            // Nobody to ask: a pause after an error, or no leader.
            std::thread::sleep(RETRY_PAUSE);
        }
        Ok(count.unwrap_or(0))
    }

    fn look_up(&mut self) -> Result<(), ClientError> {
        let now_ms = self.client.now_ms();
        let router = &self.client.router;
        let lookups = self
            .core
            .take_lookups(|partition| router.leader(partition), now_ms);
        for (broker, lookups) in lookups {
            let found = self.client.look_up(broker, &lookups, self.isolation);
            let now_ms = self.client.now_ms();
            // What the answer leaves out was not answered.
            for lookup in &lookups {
                self.core.lost(&lookup.partition, now_ms);
            }
            for (partition, outcome) in found.or_else(passing)? {
                match outcome {
                    Ok(listed) => self.core.found(&partition, listed.offset),
                    Err(refusal) => self.failed(&partition, refusal.code)?,
                }
            }
        }
        Ok(())
    }

    /// One fetch to each leader: all sent first, then each answer waited for. `None` if there
    /// was nothing to ask anyone.
    fn fetch(
        &mut self,
        hand_on: &mut dyn FnMut(&TopicPartition, &BatchView<'_>, &Record<'_>),
    ) -> Result<Option<u64>, ClientError> {
        let now_ms = self.client.now_ms();
        let router = &self.client.router;
        let fetches = self
            .core
            .take_fetches(|partition| router.leader(partition), now_ms);
        if fetches.is_empty() {
            return Ok(None);
        }
        let mut awaited = Vec::new();
        // A failure is told only after every answer was taken: none may stay behind on its link.
        let mut failure = None;
        for (broker, partitions) in fetches {
            let request = self.request(&partitions);
            match self
                .client
                .on_link(Some(broker), |link| link.send(&request, &[]))
            {
                Ok(id) => awaited.push((broker, id, partitions)),
                Err(error) => failure = self.lost(&partitions, error).err().or(failure),
            }
        }
        let mut count = 0;
        for (broker, id, partitions) in awaited {
            let reply = self
                .client
                .on_link(Some(broker), |link| link.wait::<FetchRequest<'_>>(id));
            let taken = match reply {
                Ok(reply) => self.take(&reply, &partitions, hand_on),
                Err(error) => self.lost(&partitions, error).map(|()| 0),
            };
            match taken {
                Ok(taken) => count += taken,
                Err(error) => failure = Some(error),
            }
        }
        failure.map_or(Ok(Some(count)), Err)
    }

    fn request<'n>(&self, partitions: &'n [(TopicPartition, Offset)]) -> FetchRequest<'n> {
        let mut by_topic: BTreeMap<&str, Vec<FetchPartition>> = BTreeMap::new();
        for (partition, offset) in partitions {
            by_topic
                .entry(&partition.topic)
                .or_default()
                .push(FetchPartition {
                    partition: partition.index,
                    fetch_offset: offset.0,
                    partition_max_bytes: self.bounds.partition_bytes_max,
                    ..Default::default()
                });
        }
        let topics = by_topic.into_iter().map(|(name, partitions)| FetchTopic {
            topic: name.into(),
            topic_id: self.topic_id(name),
            partitions: partitions.into(),
        });
        FetchRequest {
            max_wait_ms: self.bounds.wait_ms_max,
            min_bytes: self.bounds.bytes_min,
            max_bytes: self.bounds.bytes_max,
            isolation_level: self.isolation.to_wire(),
            topics: topics.collect(),
            ..Default::default()
        }
    }

    fn topic_id(&self, name: &str) -> TopicId {
        self.client
            .router
            .topic(name)
            .map(|topic| topic.id)
            .unwrap_or_default()
    }

    fn take(
        &mut self,
        reply: &Reply<FetchRequest<'_>>,
        partitions: &[(TopicPartition, Offset)],
        hand_on: &mut dyn FnMut(&TopicPartition, &BatchView<'_>, &Record<'_>),
    ) -> Result<u64, ClientError> {
        let now_ms = self.client.now_ms();
        // What the answer leaves out was not answered.
        for (partition, _) in partitions {
            self.core.lost(partition, now_ms);
        }
        let answer = reply.read()?;
        ClientError::check("fetch", answer.error_code, None)?;
        let mut count = 0;
        for topic in &answer.responses {
            let by_id = topic.topic_id != TopicId::ZERO;
            let known = partitions
                .iter()
                .map(|(partition, _)| partition)
                .find(|partition| {
                    if by_id {
                        self.topic_id(&partition.topic) == topic.topic_id
                    } else {
                        *partition.topic == *topic.topic
                    }
                });
            let Some(known) = known else { continue };
            for data in &topic.partitions {
                let name = TopicPartition::new(known.topic.clone(), data.partition_index);
                count += self.take_partition(&name, &data, hand_on)?;
            }
        }
        Ok(count)
    }

    fn take_partition(
        &mut self,
        name: &TopicPartition,
        data: &PartitionData<'_>,
        hand_on: &mut dyn FnMut(&TopicPartition, &BatchView<'_>, &Record<'_>),
    ) -> Result<u64, ClientError> {
        let code = ErrorCode::from_i16(data.error_code);
        if code != ErrorCode::None {
            let hint = &data.current_leader;
            let (leader, epoch) = (BrokerId(hint.leader_id), LeaderEpoch(hint.leader_epoch));
            if hint.leader_id >= 0 && self.client.router.heed(name, leader, epoch) {
                self.core.lost(name, self.client.now_ms());
                return Ok(0);
            }
            return self.failed(name, code).map(|()| 0);
        }
        let aborted: Vec<AbortedTransaction> = data
            .aborted_transactions
            .iter()
            .flatten()
            .map(|begun| AbortedTransaction {
                first_offset: Offset(begun.first_offset),
                producer_id: ProducerId(begun.producer_id),
            })
            .collect();
        let fetched = Fetched {
            high_watermark: match self.isolation {
                Isolation::ReadUncommitted => Some(Offset(data.high_watermark)),
                Isolation::ReadCommitted => Some(Offset(data.last_stable_offset)),
            },
            aborted: &aborted,
            records: data.records.bytes().unwrap_or_default(),
        };
        Ok(self
            .core
            .fetched(name, fetched, |batch, record| hand_on(name, batch, record))?)
    }

    fn failed(&mut self, partition: &TopicPartition, code: ErrorCode) -> Result<(), ClientError> {
        let now_ms = self.client.now_ms();
        if self.core.failed(partition, code, now_ms)? == Reaction::RefreshAndRetry {
            self.client.router.suspect();
        }
        Ok(())
    }

    fn lost(
        &mut self,
        partitions: &[(TopicPartition, Offset)],
        error: ClientError,
    ) -> Result<(), ClientError> {
        let now_ms = self.client.now_ms();
        for (partition, _) in partitions {
            self.core.lost(partition, now_ms);
        }
        passing(error)
    }
}

/// A broker that is away is looked for again; anything else is the caller's to know.
fn passing<T: Default>(error: ClientError) -> Result<T, ClientError> {
    match error {
        ClientError::Transport(_) | ClientError::GaveUp(_) => Ok(T::default()),
        other => Err(other),
    }
}
