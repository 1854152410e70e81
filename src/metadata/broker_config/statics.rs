//! A node's own configuration under Kafka's names. What a broker says of itself (its number and its
//! addresses) depends on the listener that is asked: see [`super::identity`].

use super::find;
use crate::config::{Config, LimitsConfig, TopicsConfig};
use crate::metadata::ConfigMap;

/// `log.retention.hours` and `log.roll.hours`, 168 each, in milliseconds.
const WEEK_MS: i64 = 168 * 3_600_000;

/// What a node's own configuration says, by Kafka's names: everything that is not the default.
pub fn statics(config: &Config) -> ConfigMap {
    let said = node(config).into_iter();
    let said = said
        .chain(topics(&config.topics))
        .chain(limits(&config.limits));
    said.filter(|(name, value)| {
        let default = find(name).and_then(|def| def.default);
        !value.is_empty() && default != Some(value.as_str())
    })
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}

type Said = Vec<(&'static str, String)>;

fn node(config: &Config) -> Said {
    vec![
        ("broker.rack", config.node.rack.clone().unwrap_or_default()),
        ("process.roles", "broker,controller".to_owned()),
        ("log.dirs", config.data.dir.clone()),
        ("log.dir", config.data.dir.clone()),
    ]
}

fn topics(topics: &TopicsConfig) -> Said {
    // Kafka's default of these is under another name, in hours: an empty text says nothing.
    let weekly = |ms: i64| {
        if ms == WEEK_MS {
            String::new()
        } else {
            ms.to_string()
        }
    };
    let before = topics.message_timestamp_before_max_ms;
    let after = topics.message_timestamp_after_max_ms;
    let replicas = topics.default_replication_factor;
    let check_ms = topics.retention_check_interval_ms;
    vec![
        ("log.retention.ms", weekly(topics.retention_ms)),
        ("log.roll.ms", weekly(topics.segment_ms)),
        (
            "auto.create.topics.enable",
            topics.auto_create_topics_enable.to_string(),
        ),
        ("num.partitions", topics.num_partitions.to_string()),
        ("default.replication.factor", replicas.to_string()),
        (
            "delete.topic.enable",
            topics.delete_topic_enable.to_string(),
        ),
        ("message.max.bytes", topics.message_max_bytes.to_string()),
        ("log.retention.bytes", topics.retention_bytes.to_string()),
        ("log.retention.check.interval.ms", check_ms.to_string()),
        ("log.segment.bytes", topics.segment_bytes.to_string()),
        (
            "min.insync.replicas",
            topics.min_insync_replicas.to_string(),
        ),
        (
            "log.cleanup.policy",
            topics.cleanup_policy.as_str().to_owned(),
        ),
        (
            "compression.type",
            topics.compression_type.as_str().to_owned(),
        ),
        (
            "log.message.timestamp.type",
            topics.message_timestamp_type.as_str().to_owned(),
        ),
        ("log.message.timestamp.before.max.ms", before.to_string()),
        ("log.message.timestamp.after.max.ms", after.to_string()),
    ]
}

fn limits(limits: &LimitsConfig) -> Said {
    let sessions = limits.fetch_sessions_max;
    vec![
        ("max.connections", limits.connections_max.to_string()),
        (
            "max.connections.per.ip",
            limits.connections_per_ip_max.to_string(),
        ),
        (
            "socket.request.max.bytes",
            limits.request_bytes_max.to_string(),
        ),
        (
            "connections.max.idle.ms",
            limits.idle_timeout_ms.to_string(),
        ),
        (
            "fetch.max.bytes",
            limits.fetch_response_bytes_max.to_string(),
        ),
        (
            "max.incremental.fetch.session.cache.slots",
            sessions.to_string(),
        ),
    ]
}
