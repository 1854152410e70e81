//! The rules: what a command comes to, given an image. Pure, so that they are tested by tables and
//! so that every node that judges alike decides alike.

use std::collections::BTreeSet;

use streambus_proto::error_code::ErrorCode;
use streambus_proto::ids::{LeaderEpoch, TopicId};

use super::alteration::{self, Alteration, Rules};
use super::broker_config;
use super::command::{Command, Layout, ManualPartition, Refusal};
use super::delta::{Change, Delta};
use super::image::{ConfigMap, ConfigScope, Image, NodeId, PartitionPlace, Topic};
use super::{placement, topic_config, topic_name};
use crate::config::Config;

/// How much metadata there may be.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Topics of the cluster.
    pub topics_max: usize,
    /// Partitions of the cluster.
    pub partitions_max: usize,
    /// Partitions of one topic.
    pub partitions_per_topic_max: usize,
    /// The largest batch that a log file takes.
    pub message_bytes_max: usize,
}

impl From<&Config> for Limits {
    fn from(config: &Config) -> Limits {
        let limits = &config.limits;
        Limits {
            topics_max: limits.topics_max,
            partitions_max: limits.partitions_max,
            partitions_per_topic_max: limits.partitions_per_topic_max,
            message_bytes_max: config.storage.lane().batch_bytes_max(),
        }
    }
}

/// Judges a command.
///
/// # Errors
/// A refusal that goes to the client as it is. Nothing changes then.
pub fn apply(image: &Image, command: &Command, limits: &Limits) -> Result<Delta, Refusal> {
    let change = match command {
        Command::CreateTopic {
            name,
            id,
            layout,
            configs,
        } => create_topic(image, name, *id, layout, configs, limits)?,
        Command::DeleteTopic { id } => delete_topic(image, *id)?,
        Command::CreatePartitions {
            topic,
            count,
            manual,
        } => create_partitions(image, topic, *count, manual.as_deref(), limits)?,
        Command::AlterTopicConfig { topic, alteration } => {
            alter_topic_config(image, topic, alteration, limits)?
        }
        Command::AlterBrokerConfig { scope, alteration } => {
            alter_broker_config(image, *scope, alteration, limits)?
        }
        Command::ForgetTopics { ids } => forget_topics(image, ids),
        Command::AllocateProducerIds { count } => allocate_producer_ids(image, *count)?,
    };
    Ok(Delta {
        index: image.index().next(),
        changes: vec![change],
    })
}

fn create_topic(
    image: &Image,
    name: &str,
    id: TopicId,
    layout: &Layout,
    configs: &[(String, Option<String>)],
    limits: &Limits,
) -> Result<Change, Refusal> {
    check_new_name(image, name)?;
    let taken = image.topic_by_id(id).is_some() || image.deleted_topics().contains(&id);
    if taken || id == TopicId::ZERO {
        // Chance this bad means a broken source of it.
        return Err(Refusal::new(
            ErrorCode::UnknownServerError,
            "the drawn topic id is taken",
        ));
    }
    let current = |name: &str| topic_value(image, None, name);
    let configs = alteration::replaced(configs, &topic_rules(&current))?;
    topic_config::check_together(&configs)
        .map_err(|message| Refusal::new(ErrorCode::InvalidConfig, message))?;
    check_message_bytes(&configs, "max.message.bytes", limits)?;
    let partitions = match layout {
        Layout::Auto {
            partitions,
            replication_factor,
        } => {
            let count = partition_count(image, *partitions)?;
            check_replication_factor(image, *replication_factor)?;
            check_growth(image, name, 0, count, limits)?;
            auto_places(image, count)
        }
        Layout::Manual(manual) => {
            if manual.is_empty() {
                return Err(Refusal::new(
                    ErrorCode::InvalidPartitions,
                    "Number of partitions was set to an invalid non-positive value.",
                ));
            }
            check_growth(image, name, 0, manual.len(), limits)?;
            manual_places(image, manual, None)?
        }
    };
    if image.topic_count() >= limits.topics_max {
        return Err(Refusal::new(
            ErrorCode::PolicyViolation,
            format!(
                "the cluster has {} topics, limits.topics_max allows {}; delete topics or raise it",
                image.topic_count(),
                limits.topics_max
            ),
        ));
    }
    Ok(Change::TopicCreated {
        name: name.to_owned(),
        id,
        partitions,
        configs,
    })
}

fn check_new_name(image: &Image, name: &str) -> Result<(), Refusal> {
    topic_name::check(name)
        .map_err(|message| Refusal::new(ErrorCode::InvalidTopicException, message))?;
    if name == "__cluster_metadata" {
        return Err(Refusal::new(
            ErrorCode::InvalidRequest,
            "Creation of internal topic __cluster_metadata is prohibited.",
        ));
    }
    if image.topic(name).is_some() {
        let message = format!("Topic '{name}' already exists.");
        return Err(Refusal::new(ErrorCode::TopicAlreadyExists, message));
    }
    if let Some(other) = image.colliding_topic(name) {
        return Err(Refusal::new(
            ErrorCode::InvalidTopicException,
            format!("Topic '{name}' collides with existing topic: {other}"),
        ));
    }
    Ok(())
}

fn partition_count(image: &Image, asked: i32) -> Result<usize, Refusal> {
    let count = if asked == -1 {
        image.broker().num_partitions
    } else {
        asked
    };
    usize::try_from(count)
        .ok()
        .filter(|count| *count > 0)
        .ok_or_else(|| {
            Refusal::new(
                ErrorCode::InvalidPartitions,
                "Number of partitions was set to an invalid non-positive value.",
            )
        })
}

/// One node holds each partition once: only a factor of 1 can be met.
fn check_replication_factor(image: &Image, asked: i16) -> Result<(), Refusal> {
    let factor = if asked == -1 {
        image.broker().default_replication_factor
    } else {
        asked
    };
    match factor {
        1 => Ok(()),
        2.. => Err(Refusal::new(
            ErrorCode::InvalidReplicationFactor,
            format!(
                "Unable to replicate the partition {factor} time(s): The target replication factor \
                 of {factor} cannot be reached because only 1 node is registered (the cores of a \
                 node show as brokers but hold no replicas of each other); ask for 1"
            ),
        )),
        _ => Err(Refusal::new(
            ErrorCode::InvalidReplicationFactor,
            "Replication factor must be larger than 0, or -1 to use the default value.",
        )),
    }
}

/// Whether a topic that has `existing` partitions may get `added` more.
fn check_growth(
    image: &Image,
    name: &str,
    existing: usize,
    added: usize,
    limits: &Limits,
) -> Result<(), Refusal> {
    let total = existing.saturating_add(added);
    let per_topic = limits.partitions_per_topic_max;
    if total > per_topic {
        return Err(Refusal::new(
            ErrorCode::InvalidPartitions,
            format!(
                "{total} partitions of topic {name} are above limits.partitions_per_topic_max={per_topic}; \
                 ask for fewer or raise it"
            ),
        ));
    }
    let all = image.partition_count();
    if all.saturating_add(added) > limits.partitions_max {
        return Err(Refusal::new(
            ErrorCode::PolicyViolation,
            format!(
                "{added} partitions more than the {all} there are go above limits.partitions_max={}; \
                 ask for fewer, delete topics or raise it",
                limits.partitions_max
            ),
        ));
    }
    Ok(())
}

fn auto_places(image: &Image, count: usize) -> Vec<PartitionPlace> {
    placement::lanes_for(image.lane_partitions(), count)
        .into_iter()
        .map(|lane| place(image.node(), lane))
        .collect()
}

fn place(node: NodeId, lane: u16) -> PartitionPlace {
    PartitionPlace {
        lane,
        leader: node,
        replicas: vec![node],
        leader_epoch: LeaderEpoch(0),
    }
}

/// Places that the asker chose. `replication_factor` is that of the partitions there are already.
fn manual_places(
    image: &Image,
    manual: &[ManualPartition],
    replication_factor: Option<usize>,
) -> Result<Vec<PartitionPlace>, Refusal> {
    let wrong = |message: String| Refusal::new(ErrorCode::InvalidReplicaAssignment, message);
    let mut factor = replication_factor;
    let mut automatic = placement::lanes_for(image.lane_partitions(), manual.len()).into_iter();
    let mut places = Vec::with_capacity(manual.len());
    for partition in manual {
        let replicas = &partition.replicas;
        if replicas.is_empty() {
            return Err(wrong(
                "The manual partition assignment includes an empty replica list.".into(),
            ));
        }
        for (at, node) in replicas.iter().enumerate() {
            if *node != image.node() {
                return Err(wrong(format!(
                    "The manual partition assignment includes broker {}, but no such broker is registered.",
                    node.0
                )));
            }
            if replicas.iter().take(at).any(|earlier| earlier == node) {
                return Err(wrong(format!(
                    "The manual partition assignment includes node {} more than once; its cores show \
                     as brokers but hold no replicas of each other",
                    node.0
                )));
            }
        }
        match factor {
            Some(factor) if factor != replicas.len() => {
                return Err(wrong(format!(
                    "The manual partition assignment includes a partition with {} replica(s), but this \
                     is not consistent with previous partitions, which have {factor} replica(s).",
                    replicas.len()
                )));
            }
            _ => factor = Some(replicas.len()),
        }
        let lane = partition.lane.or_else(|| automatic.next()).unwrap_or(0);
        if usize::from(lane) >= image.lane_partitions().len() {
            return Err(wrong(format!("there is no lane {lane}")));
        }
        places.push(place(image.node(), lane));
    }
    Ok(places)
}

fn delete_topic(image: &Image, id: TopicId) -> Result<Change, Refusal> {
    if !image.broker().delete_topic_enable {
        return Err(Refusal::new(
            ErrorCode::TopicDeletionDisabled,
            "Topic deletion is disabled: topics.delete_topic_enable is false",
        ));
    }
    match image.topic_by_id(id) {
        Some(_) if image.deleted_topics().len() >= DELETED_TOPICS_MAX => {
            let message = format!(
                "the space of {DELETED_TOPICS_MAX} deleted topics is still being freed; try again"
            );
            Err(Refusal::new(ErrorCode::RequestTimedOut, message))
        }
        Some(_) => Ok(Change::TopicDeleted { id }),
        None => Err(Refusal::new(
            ErrorCode::UnknownTopicId,
            "This server does not host this topic ID.",
        )),
    }
}

/// Deleted topics that are remembered at most: 1.6 MB of a snapshot. Some seconds after a deletion the
/// lanes have dropped what they held, and the topic is forgotten.
const DELETED_TOPICS_MAX: usize = 100_000;

fn forget_topics(image: &Image, ids: &[TopicId]) -> Change {
    let forgotten: BTreeSet<TopicId> = ids.iter().copied().collect();
    Change::DeletedTopicsSet {
        ids: image
            .deleted_topics()
            .difference(&forgotten)
            .copied()
            .collect(),
    }
}

fn create_partitions(
    image: &Image,
    name: &str,
    count: i32,
    manual: Option<&[ManualPartition]>,
    limits: &Limits,
) -> Result<Change, Refusal> {
    let topic = existing(image, name)?;
    let first = topic.partition_count();
    let added = added_partitions(name, first, count)?;
    if let Some(manual) = manual
        && manual.len() != added
    {
        return Err(Refusal::new(
            ErrorCode::InvalidReplicaAssignment,
            format!(
                "Attempted to add {added} additional partition(s), but only {} assignment(s) were \
                 specified.",
                manual.len()
            ),
        ));
    }
    check_growth(image, name, topic.partitions.len(), added, limits)?;
    let partitions = match manual {
        Some(manual) => {
            let factor = topic.partitions.first().map(|place| place.replicas.len());
            manual_places(image, manual, factor)?
        }
        None => auto_places(image, added),
    };
    Ok(Change::PartitionsAdded {
        id: topic.id,
        first,
        partitions,
    })
}

fn added_partitions(name: &str, first: i32, count: i32) -> Result<usize, Refusal> {
    if count == first {
        let message = format!("Topic already has {first} partition(s).");
        return Err(Refusal::new(ErrorCode::InvalidPartitions, message));
    }
    // `first` is not negative, so a negative count fails here, too.
    let added = usize::try_from(i64::from(count) - i64::from(first)).map_err(|_| {
        Refusal::new(
            ErrorCode::InvalidPartitions,
            format!(
                "The topic {name} currently has {first} partition(s); {count} would not be an increase."
            ),
        )
    })?;
    Ok(added)
}

fn alter_topic_config(
    image: &Image,
    name: &str,
    alteration: &Alteration,
    limits: &Limits,
) -> Result<Change, Refusal> {
    let topic = existing(image, name)?;
    let current = |name: &str| topic_value(image, Some(&topic.configs), name);
    let configs = alteration::altered(&topic.configs, alteration, &topic_rules(&current))?;
    topic_config::check_together(&configs)
        .map_err(|message| Refusal::new(ErrorCode::InvalidConfig, message))?;
    check_message_bytes(&configs, "max.message.bytes", limits)?;
    Ok(Change::TopicConfigsSet {
        id: topic.id,
        configs,
    })
}

/// A batch is never split over two log files.
fn check_message_bytes(configs: &ConfigMap, name: &str, limits: &Limits) -> Result<(), Refusal> {
    let most = limits.message_bytes_max;
    let value = configs
        .get(name)
        .and_then(|value| value.trim().parse::<usize>().ok());
    match value {
        Some(value) if value > most => {
            let message = format!(
                "Invalid value {value} for configuration {name}: Value must be no more than {most}, \
                 the largest batch that a log file takes; raise storage.wal_file_bytes in \
                 streambus.toml and restart"
            );
            Err(Refusal::new(ErrorCode::InvalidConfig, message))
        }
        _ => Ok(()),
    }
}

fn existing<'a>(image: &'a Image, name: &str) -> Result<&'a Topic, Refusal> {
    image.topic(name).map(AsRef::as_ref).ok_or_else(|| {
        // A name that could not exist is shown harmless and short.
        let shown: String = name.chars().take(topic_name::NAME_BYTES_MAX).collect();
        let message = format!("The topic '{}' does not exist.", shown.escape_default());
        Refusal::new(ErrorCode::UnknownTopicOrPartition, message)
    })
}

/// The value of a topic's setting that holds.
fn topic_value(image: &Image, configs: Option<&ConfigMap>, name: &str) -> String {
    topic_config::find(name).map_or_else(String::new, |def| {
        topic_config::effective(&image.sources(), configs, def).0
    })
}

fn topic_rules(current: &dyn Fn(&str) -> String) -> Rules<'_> {
    Rules {
        noun: "topic",
        kind: &|name| {
            topic_config::find(name)
                .map(|def| def.kind)
                // The check knows what to say about an unknown name.
                .ok_or_else(|| topic_config::check(name, "").err().unwrap_or_default())
        },
        check: &topic_config::check,
        current,
    }
}

fn alter_broker_config(
    image: &Image,
    scope: ConfigScope,
    alteration: &Alteration,
    limits: &Limits,
) -> Result<Change, Refusal> {
    if let ConfigScope::Node(node) = scope
        && node != image.node()
    {
        let message = format!("there is no node {}", node.0);
        return Err(Refusal::new(ErrorCode::InvalidRequest, message));
    }
    let fixed: Vec<&str> = alteration
        .names_with_values()
        .filter(|name| broker_config::find(name).is_some_and(|def| !def.dynamic))
        .collect();
    if !fixed.is_empty() {
        let message = broker_config::fixed(&fixed);
        return Err(Refusal::new(ErrorCode::InvalidRequest, message));
    }
    let none = ConfigMap::new();
    let before = image.broker_configs(scope).unwrap_or(&none);
    let current = |name: &str| {
        let origins = broker_config::origins(&image.sources(), &[name]);
        origins
            .into_iter()
            .next()
            .map_or_else(String::new, |origin| origin.value)
    };
    let rules = Rules {
        noun: "broker",
        kind: &|name| broker_config::changeable(name).map(|def| def.kind),
        check: &broker_config::check,
        current: &current,
    };
    let configs = alteration::altered(before, alteration, &rules)?;
    check_message_bytes(&configs, "message.max.bytes", limits)?;
    Ok(Change::BrokerConfigsSet { scope, configs })
}

/// The largest block that is given at once.
const PRODUCER_IDS_MAX: u32 = 1_000_000;

fn allocate_producer_ids(image: &Image, count: u32) -> Result<Change, Refusal> {
    if count == 0 || count > PRODUCER_IDS_MAX {
        let message = format!("{count} producer ids are not from 1 to {PRODUCER_IDS_MAX}");
        return Err(Refusal::new(ErrorCode::InvalidRequest, message));
    }
    let first = image.next_producer_id();
    if first.checked_add(i64::from(count)).is_none() {
        let message = "all producer ids are taken";
        return Err(Refusal::new(ErrorCode::UnknownServerError, message));
    }
    Ok(Change::ProducerIdsAllocated { first, count })
}

#[cfg(test)]
mod tests;
