//! Topics and the cluster.

use std::collections::BTreeMap;

use streambus_proto::error_code::ErrorCode;
use streambus_proto::ids::{BrokerId, Offset};
use streambus_proto::messages::create_partitions_request::{
    CreatePartitionsAssignment, CreatePartitionsRequest, CreatePartitionsTopic,
};
use streambus_proto::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig, CreateTopicsRequest,
};
use streambus_proto::messages::delete_records_request::{
    DeleteRecordsPartition, DeleteRecordsRequest, DeleteRecordsTopic,
};
use streambus_proto::messages::delete_topics_request::{DeleteTopicState, DeleteTopicsRequest};
use streambus_proto::messages::describe_cluster_request::DescribeClusterRequest;

use super::Client;
use crate::error::{ClientError, Refusal, refusal};
use crate::partition::TopicPartition;
use crate::request::{Reply, Request};
use crate::router::{Broker, Topic};

/// A topic to be created.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewTopic {
    /// Its name.
    pub name: String,
    /// How many partitions; `None` for the broker's default.
    pub partitions: Option<i32>,
    /// How many replicas of each; `None` for the broker's default.
    pub replication_factor: Option<i16>,
    /// Which brokers hold which partition, the preferred leader first, instead of the two above.
    pub assignments: BTreeMap<i32, Vec<BrokerId>>,
    /// Settings other than the broker's.
    pub configs: Vec<(String, String)>,
}

/// What a cluster says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterDescription {
    /// Its id.
    pub id: String,
    /// Which broker answers for the controller.
    pub controller: Option<BrokerId>,
    /// Its brokers.
    pub brokers: Vec<Broker>,
}

/// What became of each thing that a request named.
pub type Outcome = (String, Result<(), Refusal>);

/// How long a broker may take over an admin request.
const ADMIN_TIMEOUT_MS: i32 = 30_000;

impl Client {
    /// Creates a topic. Returns once the cluster knows of it and every partition has a leader.
    ///
    /// # Errors
    /// [`ClientError::Refused`], among others because it exists.
    pub fn create_topic(
        &mut self,
        name: &str,
        partitions: i32,
        replication_factor: i16,
    ) -> Result<Topic, ClientError> {
        let new = NewTopic {
            name: name.to_owned(),
            partitions: Some(partitions),
            replication_factor: Some(replication_factor),
            ..NewTopic::default()
        };
        let outcomes = self.create_topics(std::slice::from_ref(&new), false)?;
        for (name, outcome) in outcomes {
            outcome.map_err(|refusal| ClientError::Refused {
                what: name,
                refusal,
            })?;
        }
        self.wait_for_topic(name)
    }

    /// Creates topics, each on its own; with `validate_only` only says whether it would.
    ///
    /// # Errors
    /// [`ClientError`] if the request as a whole failed.
    pub fn create_topics(
        &mut self,
        topics: &[NewTopic],
        validate_only: bool,
    ) -> Result<Vec<Outcome>, ClientError> {
        let request = CreateTopicsRequest {
            topics: topics.iter().map(creatable).collect(),
            timeout_ms: ADMIN_TIMEOUT_MS,
            validate_only,
        };
        let reply = self.ask_controller(&request, |reply| {
            Ok(reply
                .read()?
                .topics
                .iter()
                .map(|topic| topic.error_code)
                .collect())
        })?;
        let answer = reply.read()?;
        let outcome = answer.topics.iter().map(|topic| {
            let refused = refusal(topic.error_code, topic.error_message.as_deref());
            (topic.name.into_owned(), refused.map_or(Ok(()), Err))
        });
        Ok(outcome.collect())
    }

    /// Waits until every partition of a topic has a leader.
    ///
    /// # Errors
    /// [`ClientError::Refused`] if that takes longer than the client's patience.
    pub fn wait_for_topic(&mut self, name: &str) -> Result<Topic, ClientError> {
        self.with_patience(|client| {
            let view = client.metadata(Some(&[name]))?;
            let ready = view.topics.into_iter().find(|topic| {
                !topic.partitions.is_empty()
                    && topic
                        .partitions
                        .values()
                        .all(|partition| partition.leader.is_some())
            });
            ready.ok_or_else(|| ClientError::Refused {
                what: name.to_owned(),
                refusal: Refusal {
                    code: ErrorCode::LeaderNotAvailable,
                    message: None,
                },
            })
        })
    }

    /// Deletes topics, each on its own.
    ///
    /// # Errors
    /// [`ClientError`] if the request as a whole failed.
    pub fn delete_topics(&mut self, names: &[&str]) -> Result<Vec<Outcome>, ClientError> {
        // By state since version 6, by bare name before: say both, each version takes its own.
        let by_id = self.version_of::<DeleteTopicsRequest<'_>>(None)? >= 6;
        let owned = |name: &&str| (*name).to_owned().into();
        let state = |name| DeleteTopicState {
            name: Some(owned(name)),
            ..Default::default()
        };
        let request = DeleteTopicsRequest {
            topics: names.iter().filter(|_| by_id).map(state).collect(),
            topic_names: names.iter().filter(|_| !by_id).map(owned).collect(),
            timeout_ms: ADMIN_TIMEOUT_MS,
        };
        let reply = self.ask_controller(&request, |reply| {
            Ok(reply
                .read()?
                .responses
                .iter()
                .map(|topic| topic.error_code)
                .collect())
        })?;
        let answer = reply.read()?;
        let mut outcomes = Vec::new();
        for topic in &answer.responses {
            let name = topic
                .name
                .map(std::borrow::Cow::into_owned)
                .unwrap_or_default();
            self.router.forget(&name);
            let refused = refusal(topic.error_code, topic.error_message.as_deref());
            outcomes.push((name, refused.map_or(Ok(()), Err)));
        }
        Ok(outcomes)
    }

    /// All topics, by name.
    ///
    /// # Errors
    /// [`ClientError`] if no broker answers.
    pub fn list_topics(&mut self) -> Result<Vec<Topic>, ClientError> {
        let mut topics = self.metadata(None)?.topics;
        topics.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(topics)
    }

    /// Raises the number of a topic's partitions to `count`. `assignments` says who holds each of
    /// the new ones; empty leaves it to the broker.
    ///
    /// # Errors
    /// [`ClientError::Refused`].
    pub fn create_partitions(
        &mut self,
        topic: &str,
        count: i32,
        assignments: &[Vec<BrokerId>],
    ) -> Result<(), ClientError> {
        let assigned = |brokers: &Vec<BrokerId>| CreatePartitionsAssignment {
            broker_ids: brokers.iter().map(|broker| broker.0).collect(),
        };
        let wanted = CreatePartitionsTopic {
            name: topic.to_owned().into(),
            count,
            assignments: (!assignments.is_empty())
                .then(|| assignments.iter().map(assigned).collect()),
        };
        let request = CreatePartitionsRequest {
            topics: vec![wanted].into(),
            timeout_ms: ADMIN_TIMEOUT_MS,
            ..Default::default()
        };
        let reply = self.ask_controller(&request, |reply| {
            Ok(reply
                .read()?
                .results
                .iter()
                .map(|topic| topic.error_code)
                .collect())
        })?;
        for result in &reply.read()?.results {
            let message = result.error_message.as_deref();
            ClientError::check(topic, result.error_code, message)?;
        }
        self.router.suspect();
        Ok(())
    }

    /// What the cluster says of itself.
    ///
    /// # Errors
    /// [`ClientError`] if no broker answers.
    pub fn describe_cluster(&mut self) -> Result<ClusterDescription, ClientError> {
        let request = DescribeClusterRequest::default();
        let reply = self.with_patience(|client| client.call(None, &request))?;
        let answer = reply.read()?;
        let message = answer.error_message.as_deref();
        ClientError::check("describe cluster", answer.error_code, message)?;
        let brokers = answer.brokers.iter().map(|broker| Broker {
            id: BrokerId(broker.broker_id),
            host: broker.host.into_owned(),
            port: u16::try_from(broker.port).unwrap_or_default(),
            rack: broker.rack.map(std::borrow::Cow::into_owned),
        });
        Ok(ClusterDescription {
            id: answer.cluster_id.to_string(),
            controller: (answer.controller_id >= 0).then_some(BrokerId(answer.controller_id)),
            brokers: brokers.collect(),
        })
    }

    /// Removes the records before an offset ([`Offset`] -1: all there are now). Returns the
    /// partition's new first offset.
    ///
    /// # Errors
    /// [`ClientError::Refused`].
    pub fn delete_records(
        &mut self,
        partition: &TopicPartition,
        before: Offset,
    ) -> Result<Offset, ClientError> {
        let request = DeleteRecordsRequest {
            topics: vec![DeleteRecordsTopic {
                name: partition.topic.to_string().into(),
                partitions: vec![DeleteRecordsPartition {
                    partition_index: partition.index,
                    offset: before.0,
                }]
                .into(),
            }]
            .into(),
            timeout_ms: ADMIN_TIMEOUT_MS,
        };
        self.with_patience(|client| {
            client.find_leaders(std::iter::once(partition))?;
            let leader = client.leader_of(partition)?;
            let reply = client.call(Some(leader), &request)?;
            let answer = reply.read()?;
            let result = answer
                .topics
                .iter()
                .flat_map(|topic| topic.partitions.iter().collect::<Vec<_>>());
            let Some(result) = result.into_iter().next() else {
                return Err(ClientError::GaveUp(format!("no answer for {partition}")));
            };
            ClientError::check(partition.to_string(), result.error_code, None)?;
            Ok(Offset(result.low_watermark))
        })
    }

    /// The leader of a partition, or a refusal that is worth trying again.
    pub(super) fn leader_of(&self, partition: &TopicPartition) -> Result<BrokerId, ClientError> {
        self.router.leader(partition).ok_or_else(|| {
            let known = self.router.partition(partition).is_some();
            let code = if known {
                ErrorCode::LeaderNotAvailable
            } else {
                ErrorCode::UnknownTopicOrPartition
            };
            let refusal = Refusal {
                code,
                message: None,
            };
            ClientError::Refused {
                what: partition.to_string(),
                refusal,
            }
        })
    }

    /// Sends to any broker first (all of them forward), and to the controller if told so.
    fn ask_controller<R: Request>(
        &mut self,
        request: &R,
        codes: impl Fn(&Reply<R>) -> Result<Vec<i16>, ClientError>,
    ) -> Result<Reply<R>, ClientError> {
        let mut target = None;
        self.with_patience(|client| {
            let reply = client.call(target, request)?;
            let moved = ErrorCode::NotController.code();
            if codes(&reply)?.contains(&moved) {
                client.refresh(Some(&[]))?;
                target = client.router.controller();
                ClientError::check("admin request", moved, None)?;
            }
            Ok(reply)
        })
    }
}

fn creatable(topic: &NewTopic) -> CreatableTopic<'_> {
    let assigned = !topic.assignments.is_empty();
    let assignments = topic
        .assignments
        .iter()
        .map(|(index, brokers)| CreatableReplicaAssignment {
            partition_index: *index,
            broker_ids: brokers.iter().map(|broker| broker.0).collect(),
        });
    let configs = topic
        .configs
        .iter()
        .map(|(name, value)| CreatableTopicConfig {
            name: name.as_str().into(),
            value: Some(value.as_str().into()),
        });
    CreatableTopic {
        name: topic.name.as_str().into(),
        // -1 stands for the broker's default, and for "see the assignments".
        num_partitions: topic.partitions.filter(|_| !assigned).unwrap_or(-1),
        replication_factor: topic.replication_factor.filter(|_| !assigned).unwrap_or(-1),
        assignments: assignments.collect(),
        configs: configs.collect(),
    }
}
