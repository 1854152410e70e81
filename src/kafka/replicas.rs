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
use streambus_proto::wire::Array;
use streambus_shards::yield_if_needed;

use super::admin::{Host, shown};
use super::topics::told;
use crate::metadata::routing::Routing;
use crate::metadata::{Image, Refusal};

/// Elections of the preferred replica and of any live one, by Kafka's numbers. Version 0 knows the
/// first only.
const ELECTION_TYPES: std::ops::RangeInclusive<i8> = 0..=1;

/// `ElectLeaders`: the only replica leads already.
pub(crate) async fn elect_leaders(
    host: &impl Host,
    request: &ElectLeadersRequest<'_>,
    version: i16,
) -> ElectLeadersResponse<'static> {
    let known_type = version == 0 || ELECTION_TYPES.contains(&request.election_type);
    let mut results = Vec::new();
    match &request.topic_partitions {
        Some(topics) => {
            for topic in topics {
                let name = topic.topic.into_owned();
                let mut partitions = Vec::with_capacity(topic.partitions.len());
                for partition_id in &topic.partitions {
                    yield_if_needed().await;
                    let refusal = if known_type {
                        host.image(|image| no_election(image, &name, partition_id))
                    } else {
                        let message = format!("Unknown election type {}", request.election_type);
                        Refusal::new(ErrorCode::InvalidRequest, message)
                    };
                    let (error_code, error_message) = told(Err(refusal));
                    partitions.push(PartitionResult {
                        partition_id,
                        error_code,
                        error_message: error_message.map(Into::into),
                    });
                }
                results.push(ReplicaElectionResult {
                    partition_result: partitions.into(),
                    topic: name.into(),
                });
            }
        }
        // No list means all partitions, of which Kafka names those that got a new leader.
        None if known_type => {
            results = host.image(|image| {
                let topics = image.topics().map(|topic| ReplicaElectionResult {
                    topic: topic.name.to_string().into(),
                    ..ReplicaElectionResult::default()
                });
                topics.collect()
            });
        }
        None => {}
    }
    let asks_for_none = request
        .topic_partitions
        .as_ref()
        .is_some_and(Array::is_empty);
    let code = if known_type || asks_for_none {
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

/// Why a partition gets no new leader.
fn no_election(image: &Image, topic: &str, partition: i32) -> Refusal {
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
pub(crate) async fn alter_partition_reassignments(
    host: &impl Host,
    routing: &impl Routing,
    request: &AlterPartitionReassignmentsRequest<'_>,
) -> AlterPartitionReassignmentsResponse<'static> {
    let mut responses = Vec::with_capacity(request.topics.len());
    for topic in &request.topics {
        let name = topic.name.into_owned();
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for partition in &topic.partitions {
            yield_if_needed().await;
            let outcome = host.image(|image| reassign(image, routing, &name, &partition));
            let (error_code, error_message) = told(outcome);
            partitions.push(ReassignablePartitionResponse {
                partition_index: partition.partition_index,
                error_code,
                // Kafka's exception for a partition that is not being moved has no text.
                error_message: error_message
                    .filter(|message| !message.is_empty())
                    .map(Into::into),
            });
        }
        responses.push(ReassignableTopicResponse {
            partitions: partitions.into(),
            name: name.into(),
        });
    }
    AlterPartitionReassignmentsResponse {
        allow_replication_factor_change: request.allow_replication_factor_change,
        error_message: None,
        responses: responses.into(),
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
pub(crate) async fn alter_replica_log_dirs(
    host: &impl Host,
    request: &AlterReplicaLogDirsRequest<'_>,
    data_dir: &str,
) -> AlterReplicaLogDirsResponse<'static> {
    let mut results = Vec::new();
    for dir in &request.dirs {
        let known_dir = dir.path == data_dir;
        for topic in &dir.topics {
            let name = topic.name.into_owned();
            let mut partitions = Vec::with_capacity(topic.partitions.len());
            for partition_index in &topic.partitions {
                yield_if_needed().await;
                let there = host.image(|image| {
                    let topic = image.topic(&name);
                    topic.is_some_and(|topic| topic.partition(partition_index).is_some())
                });
                let code = match (known_dir, there) {
                    (false, _) => ErrorCode::LogDirNotFound,
                    (true, false) => ErrorCode::UnknownTopicOrPartition,
                    (true, true) => ErrorCode::None,
                };
                partitions.push(AlterReplicaLogDirPartitionResult {
                    partition_index,
                    error_code: code.into(),
                });
            }
            results.push(AlterReplicaLogDirTopicResult {
                partitions: partitions.into(),
                topic_name: name.into(),
            });
        }
    }
    AlterReplicaLogDirsResponse {
        results: results.into(),
        ..AlterReplicaLogDirsResponse::default()
    }
}

#[cfg(test)]
mod tests;
