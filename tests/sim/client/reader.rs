//! A reader of some partitions: each record it finds and each bound it is told is written down.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use streambus_client::consumer::{Consumer, ConsumerConfig, Fetched, Start};
use streambus_client::partition::TopicPartition;
use streambus_client::reaction::Reaction;
use streambus_client::request::Reply;
use streambus_proto::error_code::ErrorCode;
use streambus_proto::ids::{BrokerId, LeaderEpoch, Offset, TopicId};
use streambus_proto::messages::FetchRequest;
use streambus_proto::messages::fetch_request::{FetchPartition, FetchTopic};
use streambus_proto::messages::fetch_response::PartitionData;
use streambus_proto::messages::list_offsets_request::{
    ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic,
};
use streambus_shards::sleep;

use super::{CallError, Client, clock_ms};
use crate::history::{Log, Read, Recorder, Seen, Sighting, said};

/// What a fetch may bring.
const FETCH_BYTES_MAX: i32 = 1 << 20;

/// Reads the partitions that were assigned to it.
pub struct Reader {
    number: u32,
    client: Rc<Client>,
    core: Consumer,
    recorder: Recorder,
    wait_ms: i32,
    /// Where the next record is not behind the last one read.
    repositioned: BTreeSet<TopicPartition>,
}

impl Reader {
    /// A reader of nothing yet. Brokers may wait `wait_ms` for something to tell it.
    pub fn new(client: Rc<Client>, number: u32, wait_ms: i32, recorder: Recorder) -> Reader {
        Reader {
            number,
            client,
            core: Consumer::new(ConsumerConfig::default()),
            recorder,
            wait_ms,
            repositioned: BTreeSet::new(),
        }
    }

    /// Adds a partition, or moves to another place in one it has.
    pub fn assign(&mut self, partition: TopicPartition, start: Start) {
        self.repositioned.insert(partition.clone());
        self.core.assign(partition, start);
    }

    /// Removes a partition.
    pub fn unassign(&mut self, partition: &TopicPartition) {
        self.core.unassign(partition);
    }

    /// Its partitions.
    pub fn partitions(&self) -> impl Iterator<Item = &TopicPartition> {
        self.core.partitions()
    }

    /// The offset of the next record.
    pub fn position(&self, partition: &TopicPartition) -> Option<Offset> {
        self.core.position(partition)
    }

    /// Whether each partition was read to the end that its last answer told of.
    pub fn at_end(&self) -> bool {
        self.core.at_end()
    }

    /// Asks each leader once. Returns how many records came; after a failure it pauses.
    pub async fn poll(&mut self) -> u64 {
        let partitions: Vec<TopicPartition> = self.core.partitions().cloned().collect();
        self.client.find_leaders(&partitions).await;
        let client = Rc::clone(&self.client);
        let lookups = self
            .core
            .take_lookups(|name| client.leader(name), clock_ms());
        for (broker, lookups) in lookups {
            for lookup in lookups {
                let found = self
                    .look_up(broker, &lookup.partition, lookup.timestamp)
                    .await;
                self.found(&lookup.partition, &found);
            }
        }
        let fetches = self
            .core
            .take_fetches(|name| client.leader(name), clock_ms());
        let (mut count, mut asked) = (0, false);
        for (broker, partitions) in fetches {
            asked = true;
            count += self.fetch(broker, &partitions).await;
        }
        if !asked {
            sleep(self.client.config().retry_pause).await;
        }
        count
    }

    fn found(&mut self, partition: &TopicPartition, found: &Result<Option<Offset>, CallError>) {
        match found {
            Ok(offset) => self.core.found(partition, *offset),
            Err(CallError::Refused(code)) => self.failed(partition, *code),
            Err(_) => self.core.lost(partition, clock_ms()),
        }
    }

    fn failed(&mut self, partition: &TopicPartition, code: ErrorCode) {
        if code == ErrorCode::OffsetOutOfRange {
            self.repositioned.insert(partition.clone());
        }
        // A partition that is refused for good was deleted: asking on does no harm.
        if self.core.failed(partition, code, clock_ms()) != Ok(Reaction::Retry) {
            self.client.suspect();
        }
    }

    /// Asks for an offset by time (-1 the end, -2 the beginning) and writes down what it says of the log.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn look_up(
        &self,
        broker: BrokerId,
        partition: &TopicPartition,
        timestamp: i64,
    ) -> Result<Option<Offset>, CallError> {
        let log = self.client.log_of(partition);
        let request = ListOffsetsRequest {
            replica_id: -1,
            topics: vec![ListOffsetsTopic {
                name: partition.topic.to_string().into(),
                partitions: vec![ListOffsetsPartition {
                    partition_index: partition.index,
                    timestamp,
                    ..Default::default()
                }]
                .into(),
            }]
            .into(),
            ..Default::default()
        };
        let invoked = self.recorder.now();
        let reply = self.client.call(Some(broker), &request).await?;
        let answer = reply.read()?;
        let first = answer
            .topics
            .iter()
            .next()
            .and_then(|topic| topic.partitions.iter().next());
        let Some(found) = first else {
            return Err(CallError::Lost(
                "an answer without the partition".to_owned(),
            ));
        };
        CallError::check(found.error_code)?;
        let offset = (found.offset >= 0).then_some(Offset(found.offset));
        // The answer names no topic id: another topic of that name may have taken its place meanwhile.
        if let Some(log) = log.filter(|log| self.client.log_of(partition) == Some(*log)) {
            self.recorder.with(|history| {
                history.sighting(Sighting {
                    log,
                    invoked,
                    completed: self.recorder.now(),
                    log_start: offset.filter(|_| timestamp == -2),
                    high_watermark: offset.filter(|_| timestamp == -1),
                    leader_epoch: (found.leader_epoch >= 0)
                        .then_some(LeaderEpoch(found.leader_epoch))
                        .filter(|_| timestamp == -1),
                });
            });
        }
        Ok(offset)
    }

    async fn fetch(&mut self, broker: BrokerId, partitions: &[(TopicPartition, Offset)]) -> u64 {
        let logs: BTreeMap<Log, TopicPartition> = partitions
            .iter()
            .filter_map(|(name, _)| Some((self.client.log_of(name)?, name.clone())))
            .collect();
        let request = self.request(partitions);
        let invoked = self.recorder.now();
        let answered = self.client.call(Some(broker), &request).await;
        // What the answer leaves out was not answered.
        for (partition, _) in partitions {
            self.core.lost(partition, clock_ms());
        }
        let Ok(reply) = answered else {
            return 0;
        };
        self.take(&reply, &logs, invoked).unwrap_or(0)
    }

    fn request<'n>(&self, partitions: &'n [(TopicPartition, Offset)]) -> FetchRequest<'n> {
        let mut by_topic: BTreeMap<&str, Vec<FetchPartition>> = BTreeMap::new();
        for (partition, offset) in partitions {
            let asked = FetchPartition {
                partition: partition.index,
                fetch_offset: offset.0,
                partition_max_bytes: FETCH_BYTES_MAX,
                ..Default::default()
            };
            by_topic.entry(&partition.topic).or_default().push(asked);
        }
        let topics = by_topic.into_iter().map(|(name, partitions)| {
            let log = self.client.log_of(&TopicPartition::new(name, 0));
            FetchTopic {
                topic: name.into(),
                topic_id: log.map(|log| log.topic).unwrap_or_default(),
                partitions: partitions.into(),
            }
        });
        FetchRequest {
            max_wait_ms: self.wait_ms,
            min_bytes: 1,
            max_bytes: FETCH_BYTES_MAX,
            topics: topics.collect(),
            ..Default::default()
        }
    }

    fn take(
        &mut self,
        reply: &Reply<FetchRequest<'_>>,
        logs: &BTreeMap<Log, TopicPartition>,
        invoked: Duration,
    ) -> Result<u64, CallError> {
        let answer = reply.read()?;
        CallError::check(answer.error_code)?;
        let mut count = 0;
        for topic in &answer.responses {
            assert_ne!(topic.topic_id, TopicId::ZERO, "spoken since version 13");
            for data in &topic.partitions {
                let log = Log {
                    topic: topic.topic_id,
                    partition: data.partition_index,
                };
                if let Some(name) = logs.get(&log) {
                    count += self.take_partition(log, name, &data, invoked);
                }
            }
        }
        Ok(count)
    }

    fn take_partition(
        &mut self,
        log: Log,
        name: &TopicPartition,
        data: &PartitionData<'_>,
        invoked: Duration,
    ) -> u64 {
        let code = ErrorCode::from_i16(data.error_code);
        if code != ErrorCode::None {
            self.failed(name, code);
            return 0;
        }
        let (recorder, reader) = (self.recorder.clone(), self.number);
        let at = recorder.now();
        recorder.with(|history| {
            history.sighting(Sighting {
                log,
                invoked,
                completed: at,
                log_start: (data.log_start_offset >= 0).then_some(Offset(data.log_start_offset)),
                high_watermark: Some(Offset(data.high_watermark)),
                leader_epoch: None,
            });
        });
        let fetched = Fetched {
            high_watermark: Some(Offset(data.high_watermark)),
            aborted: &[],
            records: data.records.bytes().unwrap_or_default(),
        };
        let mut repositioned = self.repositioned.contains(name);
        let mut note = |offset, seen, leader_epoch| {
            recorder.with(|history| {
                history.read(Read {
                    reader,
                    log,
                    offset,
                    seen,
                    leader_epoch,
                    at,
                    repositioned: std::mem::take(&mut repositioned),
                });
            });
        };
        let taken = self.core.fetched(name, fetched, |batch, record| {
            note(record.offset, said(record), batch.partition_leader_epoch());
        });
        if taken.is_err() {
            // Bytes that are no batch, or whose CRC is wrong: they must not have been served.
            let position = self.core.position(name).unwrap_or_default();
            note(position, Seen::Garbage, LeaderEpoch(0));
        }
        if !repositioned {
            self.repositioned.remove(name);
        }
        taken.unwrap_or(0)
    }
}
