//! Where partitions begin and end, and which offset belongs to a time.

use std::collections::BTreeMap;

use streambus_proto::ids::{BrokerId, Offset};
use streambus_proto::messages::list_offsets_request::{
    ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic,
};

use super::Client;
use crate::consumer::{Isolation, Lookup};
use crate::error::{ClientError, Refusal, refusal};
use crate::partition::TopicPartition;
use crate::reaction::{Reaction, reaction};

/// Which offset of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffsetSpec {
    /// Of the first record there is.
    Earliest,
    /// Behind the last record that may be read.
    Latest,
    /// Of the first record of this time (milliseconds since 1970) or later.
    Timestamp(i64),
    /// Of the record with the latest timestamp.
    MaxTimestamp,
}

impl OffsetSpec {
    fn timestamp(self) -> i64 {
        match self {
            OffsetSpec::Timestamp(timestamp) => timestamp,
            OffsetSpec::Latest => -1,
            OffsetSpec::Earliest => -2,
            OffsetSpec::MaxTimestamp => -3,
        }
    }
}

/// An offset that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListedOffset {
    /// The offset; `None` if no record answers the question.
    pub offset: Option<Offset>,
    /// The record's timestamp, if it was asked for by time.
    pub timestamp: Option<i64>,
}

/// A partition's answer to a lookup.
pub(super) type Found = (TopicPartition, Result<ListedOffset, Refusal>);

impl Client {
    /// Looks offsets up. Partitions that nobody leads, or that moved, are asked for again until
    /// the client's patience ends.
    ///
    /// # Errors
    /// [`ClientError`] for the first partition that cannot be had.
    pub fn list_offsets(
        &mut self,
        wanted: &[(TopicPartition, OffsetSpec)],
        isolation: Isolation,
    ) -> Result<BTreeMap<TopicPartition, ListedOffset>, ClientError> {
        let mut found = BTreeMap::new();
        self.with_patience(|client| {
            let missing: Vec<Lookup> = wanted
                .iter()
                .filter(|(partition, _)| !found.contains_key(partition))
                .map(|(partition, spec)| Lookup {
                    partition: partition.clone(),
                    timestamp: spec.timestamp(),
                })
                .collect();
            client.find_leaders(missing.iter().map(|lookup| &lookup.partition))?;
            let mut by_leader: BTreeMap<BrokerId, Vec<Lookup>> = BTreeMap::new();
            for lookup in missing {
                let leader = client.leader_of(&lookup.partition)?;
                by_leader.entry(leader).or_default().push(lookup);
            }
            let mut last = None;
            for (leader, lookups) in by_leader {
                for (partition, outcome) in client.look_up(leader, &lookups, isolation)? {
                    match outcome {
                        Ok(listed) => drop(found.insert(partition, listed)),
                        Err(refusal) => {
                            let what = partition.to_string();
                            let hopeless = reaction(refusal.code) == Reaction::GiveUp;
                            let error = ClientError::Refused { what, refusal };
                            if hopeless {
                                return Err(error);
                            }
                            last = Some(error);
                        }
                    }
                }
            }
            last.map_or(Ok(()), Err)
        })?;
        Ok(found)
    }

    /// Asks one broker.
    pub(super) fn look_up(
        &mut self,
        broker: BrokerId,
        lookups: &[Lookup],
        isolation: Isolation,
    ) -> Result<Vec<Found>, ClientError> {
        let mut by_topic: BTreeMap<&str, Vec<ListOffsetsPartition>> = BTreeMap::new();
        for lookup in lookups {
            by_topic
                .entry(&lookup.partition.topic)
                .or_default()
                .push(ListOffsetsPartition {
                    partition_index: lookup.partition.index,
                    timestamp: lookup.timestamp,
                    ..Default::default()
                });
        }
        let topics = by_topic
            .into_iter()
            .map(|(name, partitions)| ListOffsetsTopic {
                name: name.into(),
                partitions: partitions.into(),
            });
        let request = ListOffsetsRequest {
            replica_id: -1,
            isolation_level: isolation.to_wire(),
            topics: topics.collect(),
            ..Default::default()
        };
        let reply = self.call(Some(broker), &request)?;
        let mut found = Vec::new();
        for topic in &reply.read()?.topics {
            for partition in &topic.partitions {
                let name = TopicPartition::new(&*topic.name, partition.partition_index);
                let said = |number: i64| (number >= 0).then_some(number);
                let listed = ListedOffset {
                    offset: said(partition.offset).map(Offset),
                    timestamp: said(partition.timestamp),
                };
                found.push((
                    name,
                    refusal(partition.error_code, None).map_or(Ok(listed), Err),
                ));
            }
        }
        Ok(found)
    }
}
