//! `ElectLeaders`, `AlterPartitionReassignments`, `ListPartitionReassignments`, `AlterReplicaLogDirs`:
//! where replicas are. On one node each partition has one replica, which leads it and stays where it is.

use std::collections::BTreeSet;

use streambus_proto::error_code::ErrorCode;
use streambus_proto::ids::BrokerId;
use streambus_proto::messages::alter_partition_reassignments_request::ReassignablePartition;
use streambus_proto::messages::alter_partition_reassignments_response::{
    AlterPartitionReassignmentsResponse, ReassignablePartitionResponse, ReassignableTopicResponse,
};
use streambus_proto::messages::alter_replica_log_dirs_response::{
    AlterReplicaLogDirPartitionResult, AlterReplicaLogDirTopicResult, AlterReplicaLogDirsResponse,
};
use streambus_proto::messages::elect_leaders_response::{
    ElectLeadersResponse, PartitionResult, ReplicaElectionResult,
};
use streambus_proto::messages::list_partition_reassignments_response::ListPartitionReassignmentsResponse;
use streambus_proto::messages::{
    AlterPartitionReassignmentsRequest, AlterReplicaLogDirsRequest, ElectLeadersRequest,
};

use super::admin::shown;
use super::topics::told;
use crate::metadata::routing::Routing;
use crate::metadata::{Image, Refusal};

/// Elections of the preferred replica and of any live one, by Kafka's numbers. Version 0 knows the
/// first only.
const ELECTION_TYPES: std::ops::RangeInclusive<i8> = 0..=1;

/// `ElectLeaders`: the only replica leads already.
pub(crate) fn elect_leaders(
    image: &Image,
    request: &ElectLeadersRequest<'_>,
    version: i16,
) -> ElectLeadersResponse<'static> {
    let known_type = version == 0 || ELECTION_TYPES.contains(&request.election_type);
    let outcome = |topic: &str, partition: i32| -> Refusal {
        if !known_type {
            let message = format!("Unknown election type {}", request.election_type);
            return Refusal::new(ErrorCode::InvalidRequest, message);
        }
        let unknown = |what: String| Refusal::new(ErrorCode::UnknownTopicOrPartition, what);
        match image.topic(topic) {
            None => unknown(format!("No such topic as {}", shown(topic))),
            Some(found) if found.partition(partition).is_none() => {
                unknown(format!("No such partition as {}-{partition}", shown(topic)))
            }
            Some(_) => Refusal::new(
                ErrorCode::ElectionNotNeeded,
                "Leader election not needed for topic partition.",
            ),
        }
    };
    let result = |topic: String, partitions: Vec<i32>| {
        let results = partitions.into_iter().map(|partition_id| {
            let (error_code, error_message) = told(Err(outcome(&topic, partition_id)));
            PartitionResult {
                partition_id,
                error_code,
                error_message: error_message.map(Into::into),
            }
        });
        ReplicaElectionResult {
            partition_result: results.collect(),
            topic: topic.into(),
        }
    };
    let (is_empty, results): (bool, Vec<_>) = match &request.topic_partitions {
        Some(topics) => {
            let topics = topics.iter();
            let results = topics
                .map(|topic| result(topic.topic.into_owned(), topic.partitions.iter().collect()));
            let results: Vec<_> = results.collect();
            (results.is_empty(), results)
        }
        // No list means all partitions, of which Kafka names those that got a new leader.
        None if known_type => {
            let topics = image.topics();
            let results = topics.map(|topic| result(topic.name.to_string(), Vec::new()));
            (false, results.collect())
        }
        None => (false, Vec::new()),
    };
    let code = if known_type || is_empty {
        ErrorCode::None
    } else {
        ErrorCode::InvalidRequest
    };
    ElectLeadersResponse {
        error_code: code.into(),
        replica_election_results: results.into(),
        ..ElectLeadersResponse::default()
    }
}

/// `ListPartitionReassignments`: none is ever under way.
pub(crate) fn list_partition_reassignments() -> ListPartitionReassignmentsResponse<'static> {
    ListPartitionReassignmentsResponse {
        error_message: None,
        ..ListPartitionReassignmentsResponse::default()
    }
}

/// `AlterPartitionReassignments`: a partition can be assigned to the broker that has it, which
/// changes nothing, and to no other.
pub(crate) fn alter_partition_reassignments(
    image: &Image,
    routing: &impl Routing,
    request: &AlterPartitionReassignmentsRequest<'_>,
) -> AlterPartitionReassignmentsResponse<'static> {
    let responses = request.topics.iter().map(|topic| {
        let name = topic.name.into_owned();
        let partitions = topic.partitions.iter().map(|partition| {
            let (error_code, error_message) = told(reassign(image, routing, &name, &partition));
            ReassignablePartitionResponse {
                partition_index: partition.partition_index,
                error_code,
                // Kafka's exception for a partition that is not being moved has no text.
                error_message: error_message
                    .filter(|message| !message.is_empty())
                    .map(Into::into),
            }
        });
        ReassignableTopicResponse {
            partitions: partitions.collect(),
            name: name.into(),
        }
    });
    AlterPartitionReassignmentsResponse {
        allow_replication_factor_change: request.allow_replication_factor_change,
        error_message: None,
        responses: responses.collect(),
        ..AlterPartitionReassignmentsResponse::default()
    }
}

fn reassign(
    image: &Image,
    routing: &impl Routing,
    topic: &str,
    asked: &ReassignablePartition<'_>,
) -> Result<(), Refusal> {
    let index = asked.partition_index;
    let unknown = |what: String| Refusal::new(ErrorCode::UnknownTopicOrPartition, what);
    let found = image
        .topic(topic)
        .ok_or_else(|| unknown(format!("Unable to find a topic named {}.", shown(topic))))?;
    let place = found.partition(index).ok_or_else(|| {
        let message = format!("Unable to find partition {}:{index}.", shown(topic));
        unknown(message)
    })?;
    let wrong = |what: String| {
        let message = format!("The manual partition assignment includes {what}");
        Err(Refusal::new(ErrorCode::InvalidReplicaAssignment, message))
    };
    let Some(replicas) = &asked.replicas else {
        return Err(Refusal::new(ErrorCode::NoReassignmentInProgress, ""));
    };
    if replicas.is_empty() {
        return wrong("an empty replica list.".to_owned());
    }
    let present = routing.replicas_of(place);
    let mut seen = BTreeSet::new();
    for broker in replicas.iter().map(BrokerId) {
        if !seen.insert(broker) {
            return wrong(format!("the broker {} more than once.", broker.0));
        }
        if routing.place_of(broker).is_none() {
            let id = broker.0;
            return wrong(format!("broker {id}, but no such broker is registered."));
        }
        if !present.contains(&broker) {
            let here: Vec<String> = present.iter().map(|broker| broker.0.to_string()).collect();
            return wrong(format!(
                "broker {}, but a partition stays on its core for life: this one is on {}.",
                broker.0,
                here.join(", ")
            ));
        }
    }
    Ok(())
}

/// `AlterReplicaLogDirs`: the data directory is the only one, and every partition is in it.
pub(crate) fn alter_replica_log_dirs(
    image: &Image,
    request: &AlterReplicaLogDirsRequest<'_>,
    data_dir: &str,
) -> AlterReplicaLogDirsResponse<'static> {
    let mut results = Vec::new();
    for dir in &request.dirs {
        let known_dir = dir.path == data_dir;
        results.extend(dir.topics.iter().map(|topic| {
            let found = image.topic(&topic.name);
            let partitions = topic.partitions.iter().map(|partition_index| {
                let there = found.is_some_and(|topic| topic.partition(partition_index).is_some());
                let code = match (known_dir, there) {
                    (false, _) => ErrorCode::LogDirNotFound,
                    (true, false) => ErrorCode::UnknownTopicOrPartition,
                    (true, true) => ErrorCode::None,
                };
                AlterReplicaLogDirPartitionResult {
                    partition_index,
                    error_code: code.into(),
                }
            });
            AlterReplicaLogDirTopicResult {
                partitions: partitions.collect(),
                topic_name: topic.name.clone().into_owned().into(),
            }
        }));
    }
    AlterReplicaLogDirsResponse {
        results: results.into(),
        ..AlterReplicaLogDirsResponse::default()
    }
}

#[cfg(test)]
mod tests;
