//! `CreateTopics`, `DeleteTopics`, `CreatePartitions`, `DescribeTopicPartitions`.

use std::collections::BTreeSet;

use streambus_proto::error_code::ErrorCode;
use streambus_proto::ids::TopicId;
use streambus_proto::messages::create_partitions_request::{
    CreatePartitionsRequest, CreatePartitionsTopic,
};
use streambus_proto::messages::create_partitions_response::{
    CreatePartitionsResponse, CreatePartitionsTopicResult,
};
use streambus_proto::messages::create_topics_request::{CreatableTopic, CreateTopicsRequest};
use streambus_proto::messages::create_topics_response::{
    CreatableTopicConfigs, CreatableTopicResult, CreateTopicsResponse,
};
use streambus_proto::messages::delete_topics_request::DeleteTopicsRequest;
use streambus_proto::messages::delete_topics_response::{
    DeletableTopicResult, DeleteTopicsResponse,
};

use super::admin::{self, Host, check_settings, duplicates, shown, submit_all};
use super::request_memory::Steps;
use crate::metadata::routing::Routing;
use crate::metadata::{
    Change, Command, ConfigMap, Delta, Image, Layout, ManualPartition, Refusal, apply,
    topic_config, topic_name,
};

/// Topics of one request of which the answer has the settings too: some 3 KiB each. Those of further ones can be
/// asked for.
const CONFIGS_ANSWERED_MAX: usize = 1_000;
/// What judging a command, or answering its outcome, takes of the core's time, in entries.
const STEPS_OF_A_COMMAND: usize = 16;

/// `CreateTopics`: each topic on its own, in the order of the request.
pub(crate) async fn create_topics(
    host: &impl Host,
    routing: &impl Routing,
    request: &CreateTopicsRequest<'_>,
) -> CreateTopicsResponse<'static> {
    let twice: BTreeSet<String> =
        duplicates(request.topics.iter().map(|topic| topic.name.into_owned())).await;
    let mut steps = Steps::default();
    let mut results = Vec::with_capacity(request.topics.len());
    let mut commands = Vec::new();
    let mut places = Vec::new();
    let mut answered = BTreeSet::new();
    for topic in &request.topics {
        steps.take(1 + topic.configs.len()).await;
        // A name that stands twice is answered once, as Kafka does.
        if twice.contains(&*topic.name) && !answered.insert(topic.name.clone().into_owned()) {
            continue;
        }
        let command = if twice.contains(&*topic.name) {
            let message = "Duplicate topic name.";
            Err(Refusal::new(ErrorCode::InvalidRequest, message))
        } else if topic_name::is_reserved(&topic.name) {
            let message = format!("Creation of internal topic {} is prohibited.", topic.name);
            Err(Refusal::new(ErrorCode::InvalidRequest, message))
        } else {
            creation(host, routing, &topic).await
        };
        match command {
            Ok(command) => {
                places.push(results.len());
                results.push(named(&topic.name));
                commands.push(command);
            }
            Err(refusal) => results.push(refused_topic(named(&topic.name), refusal)),
        }
    }
    let decisions = if request.validate_only {
        let limits = host.limits();
        let judge = |command| host.image(|image| apply(image, command, &limits));
        let mut decisions = Vec::with_capacity(commands.len());
        for command in &commands {
            steps.take(STEPS_OF_A_COMMAND).await;
            decisions.push(judge(command).map(std::sync::Arc::new));
        }
        decisions
    } else {
        submit_all(host, commands).await
    };
    let mut with_configs = 0;
    for (place, decision) in places.into_iter().zip(decisions) {
        steps.take(STEPS_OF_A_COMMAND).await;
        let result = std::mem::take(&mut results[place]);
        results[place] = match decision {
            Ok(delta) => {
                with_configs += 1;
                let with_configs = with_configs <= CONFIGS_ANSWERED_MAX;
                created(host, result, &delta, request.validate_only, with_configs)
            }
            Err(refusal) => refused_topic(result, refusal),
        };
    }
    CreateTopicsResponse {
        topics: results.into(),
        ..CreateTopicsResponse::default()
    }
}

fn named(name: &str) -> CreatableTopicResult<'static> {
    CreatableTopicResult {
        name: name.to_owned().into(),
        error_message: None,
        num_partitions: -1,
        replication_factor: -1,
        configs: Some(Vec::new().into()),
        ..CreatableTopicResult::default()
    }
}

fn refused_topic(
    result: CreatableTopicResult<'static>,
    refusal: Refusal,
) -> CreatableTopicResult<'static> {
    CreatableTopicResult {
        error_code: refusal.code.into(),
        error_message: Some(refusal.message.into()),
        ..result
    }
}

/// The command that makes a topic. Kafka's rules on what excludes what come first.
async fn creation(
    host: &impl Host,
    routing: &impl Routing,
    topic: &CreatableTopic<'_>,
) -> Result<Command, Refusal> {
    check_settings(topic.configs.len())?;
    let layout = if topic.assignments.is_empty() {
        Layout::Auto {
            partitions: topic.num_partitions,
            replication_factor: topic.replication_factor,
        }
    } else {
        let excluded = |what| {
            let message = format!(
                "A manual partition assignment was specified, but {what} was not set to -1."
            );
            Err(Refusal::new(ErrorCode::InvalidRequest, message))
        };
        if topic.replication_factor != -1 {
            return excluded("replication factor");
        }
        if topic.num_partitions != -1 {
            return excluded("numPartitions");
        }
        Layout::Manual(assigned(host, routing, topic).await?)
    };
    let configs = topic.configs.iter();
    let configs = configs.map(|config| {
        (
            config.name.into_owned(),
            config.value.map(std::borrow::Cow::into_owned),
        )
    });
    Ok(Command::CreateTopic {
        name: topic.name.clone().into_owned(),
        id: admin::draw_topic_id(host),
        layout,
        configs: configs.collect(),
    })
}

/// A new topic's assignments by partition index, which they must cover from 0 on.
async fn assigned(
    host: &impl Host,
    routing: &impl Routing,
    topic: &CreatableTopic<'_>,
) -> Result<Vec<ManualPartition>, Refusal> {
    let wrong = |message: String| Refusal::new(ErrorCode::InvalidReplicaAssignment, message);
    let mut assignments: Vec<_> = topic.assignments.iter().collect();
    assignments.sort_by_key(|assignment| assignment.partition_index);
    let mut partitions = Vec::with_capacity(assignments.len());
    let mut steps = Steps::default();
    for (turn, assignment) in assignments.iter().enumerate() {
        steps.take(1 + assignment.broker_ids.len()).await;
        let index = assignment.partition_index;
        let repeated = turn > 0 && assignments[turn - 1].partition_index == index;
        if repeated {
            return Err(wrong(format!(
                "Found multiple manual partition assignments for partition {index}"
            )));
        }
        if usize::try_from(index) != Ok(turn) {
            return Err(wrong(
                "partitions should be a consecutive 0-based integer sequence".into(),
            ));
        }
        let brokers = assignment.broker_ids.iter();
        let place = |image: &_| admin::manual_partition(image, routing, brokers, turn);
        partitions.push(host.image(place)?);
    }
    Ok(partitions)
}

/// What version 5 and later tell of a topic that was made.
fn created(
    host: &impl Host,
    result: CreatableTopicResult<'static>,
    delta: &Delta,
    validate_only: bool,
    with_configs: bool,
) -> CreatableTopicResult<'static> {
    let Some(Change::TopicCreated {
        id,
        partitions,
        configs,
        ..
    }) = delta.changes.first()
    else {
        return result;
    };
    let configs = if with_configs {
        host.image(|image| topic_configs(image, configs))
    } else {
        Vec::new()
    };
    let replicas = partitions.first().map_or(0, |place| place.replicas.len());
    CreatableTopicResult {
        topic_id: if validate_only { TopicId::ZERO } else { *id },
        num_partitions: i32::try_from(partitions.len()).unwrap_or(-1),
        replication_factor: i16::try_from(replicas).unwrap_or(-1),
        configs: Some(configs.into()),
        ..result
    }
}

fn topic_configs(image: &Image, configs: &ConfigMap) -> Vec<CreatableTopicConfigs<'static>> {
    let sources = image.sources();
    let entry = |def: &'static topic_config::TopicConfigDef| {
        let (value, source) = topic_config::effective(&sources, Some(configs), def);
        CreatableTopicConfigs {
            name: def.name.into(),
            value: Some(value.into()),
            config_source: source.code(),
            ..CreatableTopicConfigs::default()
        }
    };
    topic_config::TABLE.iter().map(entry).collect()
}

/// `DeleteTopics`, by name or, from version 6 on, by id.
pub(crate) async fn delete_topics(
    host: &impl Host,
    request: &DeleteTopicsRequest<'_>,
    version: i16,
) -> DeleteTopicsResponse<'static> {
    let wanted: Vec<(Option<String>, TopicId)> = if version >= 6 {
        let topics = request.topics.iter();
        topics
            .map(|topic| (topic.name.map(std::borrow::Cow::into_owned), topic.topic_id))
            .collect()
    } else {
        request
            .topic_names
            .iter()
            .map(|name| (Some(name.into_owned()), TopicId::ZERO))
            .collect()
    };
    let mut found = identified(host, &wanted, version).await;
    let mut steps = Steps::default();
    let commands = found.iter().filter_map(|one| one.1.clone().ok());
    let commands = commands.map(|id| Command::DeleteTopic { id }).collect();
    let mut decisions = submit_all(host, commands).await.into_iter();
    let mut results = Vec::with_capacity(found.len());
    for (result, id) in found.drain(..) {
        steps.next().await;
        let outcome = match id {
            Ok(_) => decisions
                .next()
                .map_or(Ok(()), |decision| decision.map(drop)),
            Err(refusal) => Err(refusal),
        };
        results.push(match outcome {
            Ok(()) => result,
            Err(refusal) => refused_deletion(result, refusal, version),
        });
    }
    DeleteTopicsResponse {
        responses: results.into(),
        ..DeleteTopicsResponse::default()
    }
}

fn refused_deletion(
    result: DeletableTopicResult<'static>,
    refusal: Refusal,
    version: i16,
) -> DeletableTopicResult<'static> {
    // Clients of before version 3 do not know that deletion can be switched off.
    let code = match refusal.code {
        ErrorCode::TopicDeletionDisabled if version < 3 => ErrorCode::InvalidRequest,
        code => code,
    };
    DeletableTopicResult {
        error_code: code.into(),
        error_message: Some(refusal.message.into()),
        ..result
    }
}

/// Finds each topic's name and id, and refuses what is named twice, by whatever name.
async fn identified(
    host: &impl Host,
    wanted: &[(Option<String>, TopicId)],
    version: i16,
) -> Vec<(DeletableTopicResult<'static>, Result<TopicId, Refusal>)> {
    let names_twice = duplicates(wanted.iter().filter_map(|(name, _)| name.as_deref())).await;
    let ids = || {
        wanted
            .iter()
            .map(|(_, id)| *id)
            .filter(|id| *id != TopicId::ZERO)
    };
    let ids_twice = duplicates(ids()).await;
    let by_id: BTreeSet<TopicId> = ids().collect();
    let invalid = |message: &str| Err(Refusal::new(ErrorCode::InvalidRequest, message));
    let resolve = |image: &Image, name: Option<&str>, id: TopicId| match name {
        Some(_) if id != TopicId::ZERO => {
            invalid("You may not specify both topic name and topic id.")
        }
        None if id == TopicId::ZERO => invalid("Neither topic name nor id were specified."),
        Some(name) if names_twice.contains(name) => invalid("Duplicate topic name."),
        None if ids_twice.contains(&id) => invalid("Duplicate topic id."),
        Some(name) => match image.topic(name) {
            Some(topic) if by_id.contains(&topic.id) => {
                invalid("The provided topic name maps to an ID that was already supplied.")
            }
            Some(topic) => Ok(topic.id),
            None => Err(unknown_topic(name)),
        },
        None => match image.topic_by_id(id) {
            Some(_) => Ok(id),
            None => Err(Refusal::new(
                ErrorCode::UnknownTopicId,
                "This server does not host this topic ID.",
            )),
        },
    };
    let one = |image: &Image, name: &Option<String>, id: TopicId| {
        let resolved = resolve(image, name.as_deref(), id);
        let topic = resolved.as_ref().ok().and_then(|id| image.topic_by_id(*id));
        let result = DeletableTopicResult {
            name: name
                .clone()
                .or_else(|| topic.map(|topic| topic.name.to_string()))
                .map(Into::into),
            topic_id: if version >= 6 {
                topic.map_or(id, |topic| topic.id)
            } else {
                TopicId::ZERO
            },
            error_message: None,
            ..DeletableTopicResult::default()
        };
        (result, resolved)
    };
    let mut steps = Steps::default();
    let mut found = Vec::with_capacity(wanted.len());
    for (name, id) in wanted {
        steps.next().await;
        found.push(host.image(|image| one(image, name, *id)));
    }
    found
}

fn unknown_topic(name: &str) -> Refusal {
    let message = format!("The topic '{}' does not exist.", shown(name));
    Refusal::new(ErrorCode::UnknownTopicOrPartition, message)
}

/// `CreatePartitions`: each topic on its own, in the order of the request.
pub(crate) async fn create_partitions(
    host: &impl Host,
    routing: &impl Routing,
    request: &CreatePartitionsRequest<'_>,
) -> CreatePartitionsResponse<'static> {
    let twice: BTreeSet<String> =
        duplicates(request.topics.iter().map(|topic| topic.name.into_owned())).await;
    let growth = async |topic: &CreatePartitionsTopic<'_>| {
        if twice.contains(&*topic.name) {
            return Err(Refusal::new(
                ErrorCode::InvalidRequest,
                "Duplicate topic in request.",
            ));
        }
        let command = growth(host, routing, topic).await?;
        if request.validate_only {
            host.image(|image| apply(image, &command, &host.limits()))?;
            return Ok(None);
        }
        Ok(Some(command))
    };
    let mut answered = BTreeSet::new();
    let mut steps = Steps::default();
    let mut judged = Vec::with_capacity(request.topics.len());
    for topic in &request.topics {
        steps.take(STEPS_OF_A_COMMAND).await;
        if twice.contains(&*topic.name) && !answered.insert(topic.name.clone().into_owned()) {
            continue;
        }
        judged.push((topic.name.clone().into_owned(), growth(&topic).await));
    }
    let commands = judged
        .iter()
        .filter_map(|(_, one)| one.clone().ok().flatten())
        .collect();
    let mut decisions = submit_all(host, commands).await.into_iter();
    let results = judged.into_iter().map(|(name, one)| {
        let outcome = match one {
            Ok(Some(_)) => decisions
                .next()
                .map_or(Ok(()), |decision| decision.map(drop)),
            Ok(None) => Ok(()),
            Err(refusal) => Err(refusal),
        };
        let (error_code, error_message) = told(outcome);
        CreatePartitionsTopicResult {
            name: name.into(),
            error_code,
            error_message: error_message.map(Into::into),
        }
    });
    CreatePartitionsResponse {
        results: results.collect(),
        ..CreatePartitionsResponse::default()
    }
}

/// An outcome as responses tell it: no message where all is well.
pub(super) fn told(outcome: Result<(), Refusal>) -> (i16, Option<String>) {
    match outcome {
        Ok(()) => (ErrorCode::None.into(), None),
        Err(refusal) => (refusal.code.into(), Some(refusal.message)),
    }
}

async fn growth(
    host: &impl Host,
    routing: &impl Routing,
    topic: &CreatePartitionsTopic<'_>,
) -> Result<Command, Refusal> {
    let mut manual = None;
    if let Some(assignments) = &topic.assignments {
        let mut steps = Steps::default();
        let mut partitions = Vec::with_capacity(assignments.len());
        for (turn, assignment) in assignments.iter().enumerate() {
            steps.take(1 + assignment.broker_ids.len()).await;
            let brokers = assignment.broker_ids.iter();
            let place = |image: &_| admin::manual_partition(image, routing, brokers, turn);
            partitions.push(host.image(place)?);
        }
        manual = Some(partitions);
    }
    Ok(Command::CreatePartitions {
        topic: topic.name.clone().into_owned(),
        count: topic.count,
        manual,
    })
}

#[cfg(test)]
mod tests;
