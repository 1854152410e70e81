//! The settings of a topic: what there is, which values are good, and what holds for one topic.
//!
//! A value is looked for on the topic, then under the broker-wide name (on the node, in the
//! cluster, in the configuration file), then in the table.

mod table;

use std::num::ParseIntError;

pub use table::TABLE;

use streambus_proto::records::Codec;

use super::broker_config::{self, Sources};
use super::config_value::{self, Bound, Effect, Kind};
use super::image::ConfigMap;
use crate::config::{CleanupPolicy, Compression, TimestampType};

/// One setting that a topic can have.
#[derive(Debug)]
pub struct TopicConfigDef {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// Its value where nobody says anything.
    pub default: &'static str,
    /// Which values are good.
    pub bound: Bound,
    /// The broker settings that are its default, the one that goes first in front; empty if none.
    pub synonyms: &'static [&'static str],
    /// Whether it does anything here.
    pub effect: Effect,
    /// What it does, and what it does not do here.
    pub documentation: &'static str,
}

/// Looks a setting up.
pub fn find(name: &str) -> Option<&'static TopicConfigDef> {
    TABLE.iter().find(|def| def.name == name)
}

/// Judges one setting.
///
/// # Errors
/// With Kafka's sentence on what is wrong with it, and the name that was probably meant.
pub fn check(name: &str, value: &str) -> Result<(), String> {
    let Some(def) = find(name) else {
        let near = config_value::suggestion(name, TABLE.iter().map(|def| def.name));
        let meant = near
            .map(|near| format!("; did you mean {near}?"))
            .unwrap_or_default();
        let shown = name.escape_default();
        return Err(format!("Unknown topic config name: {shown}{meant}"));
    };
    config_value::check(name, def.kind, def.bound, value)?;
    if name == "remote.storage.enable" && value.trim().eq_ignore_ascii_case("true") {
        return Err("Tiered Storage functionality is disabled in the broker. \
                    Topic cannot be configured with remote log storage."
            .to_owned());
    }
    Ok(())
}

/// Judges settings that must fit each other.
///
/// # Errors
/// With Kafka's sentence on what does not fit.
pub fn check_together(configs: &ConfigMap) -> Result<(), String> {
    let number = |name: &str| -> Result<i64, ParseIntError> {
        let default = find(name).map_or("0", |def| def.default);
        configs
            .get(name)
            .map_or(default, String::as_str)
            .trim()
            .parse()
    };
    let at_least = number("min.compaction.lag.ms").unwrap_or(0);
    let at_most = number("max.compaction.lag.ms").unwrap_or(i64::MAX);
    if at_least > at_most {
        return Err(format!(
            "conflict topic config setting min.compaction.lag.ms ({at_least}) > \
             max.compaction.lag.ms ({at_most})"
        ));
    }
    Ok(())
}

/// The settings of one topic that the broker acts on, resolved once a delta.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSettings {
    /// How long records are kept, -1 for ever.
    pub retention_ms: i64,
    /// How many bytes of a partition are kept, -1 all.
    pub retention_bytes: i64,
    /// The largest batch.
    pub max_message_bytes: usize,
    /// Whose clock timestamps are.
    pub message_timestamp_type: TimestampType,
    /// How far in the past a producer's timestamp may lie.
    pub message_timestamp_before_max_ms: i64,
    /// How far in the future a producer's timestamp may lie.
    pub message_timestamp_after_max_ms: i64,
    /// What happens to old records. `None` keeps them for ever: the list is empty.
    pub cleanup_policy: Option<CleanupPolicy>,
    /// How many replicas must hold a batch before `acks=all` is answered.
    pub min_insync_replicas: usize,
    /// How batches are stored.
    pub compression_type: Compression,
    /// The level of that codec, if it has levels.
    pub compression_level: Option<i32>,
    /// How long the key compaction keeps tombstones.
    pub delete_retention_ms: i64,
    /// How long the key compaction leaves a record alone.
    pub min_compaction_lag_ms: i64,
    /// How long the key compaction may leave a record alone.
    pub max_compaction_lag_ms: i64,
    /// Which share of a log must be new before it is compacted, in millionths.
    pub min_cleanable_dirty_ppm: u32,
    /// Whether a replica that may lack records can lead when no other is left.
    pub unclean_leader_election_enable: bool,
}

impl TopicSettings {
    /// Whether records are dropped by age and size.
    pub fn deletes(&self) -> bool {
        matches!(
            self.cleanup_policy,
            Some(CleanupPolicy::Delete | CleanupPolicy::CompactDelete)
        )
    }

    /// Whether only the newest record of each key is kept, so that each record needs a key.
    pub fn compacts(&self) -> bool {
        matches!(
            self.cleanup_policy,
            Some(CleanupPolicy::Compact | CleanupPolicy::CompactDelete)
        )
    }

    /// The codec that batches are stored with; `None` for that of their producer.
    pub fn stored_codec(&self) -> Option<Codec> {
        match self.compression_type {
            Compression::Producer => None,
            Compression::Uncompressed => Some(Codec::None),
            Compression::Gzip => Some(Codec::Gzip),
            Compression::Snappy => Some(Codec::Snappy),
            Compression::Lz4 => Some(Codec::Lz4),
            Compression::Zstd => Some(Codec::Zstd),
        }
    }

    /// What holds for a topic with these settings of its own.
    pub fn resolve(sources: &Sources<'_>, configs: &ConfigMap) -> TopicSettings {
        let long = |name: &str| value(sources, configs, name).trim().parse().unwrap_or(-1);
        let size = |name: &str| value(sources, configs, name).trim().parse().unwrap_or(1);
        let compression_type = codec(value(sources, configs, "compression.type").trim());
        TopicSettings {
            retention_ms: long("retention.ms"),
            retention_bytes: long("retention.bytes"),
            max_message_bytes: size("max.message.bytes"),
            message_timestamp_type: match value(sources, configs, "message.timestamp.type").trim() {
                "LogAppendTime" => TimestampType::LogAppendTime,
                _ => TimestampType::CreateTime,
            },
            message_timestamp_before_max_ms: long("message.timestamp.before.max.ms"),
            message_timestamp_after_max_ms: long("message.timestamp.after.max.ms"),
            cleanup_policy: policy(&value(sources, configs, "cleanup.policy")),
            min_insync_replicas: size("min.insync.replicas"),
            compression_level: level_setting(compression_type)
                .and_then(|name| value(sources, configs, name).trim().parse().ok()),
            compression_type,
            delete_retention_ms: long("delete.retention.ms"),
            min_compaction_lag_ms: long("min.compaction.lag.ms"),
            max_compaction_lag_ms: long("max.compaction.lag.ms"),
            min_cleanable_dirty_ppm: millionths(&value(
                sources,
                configs,
                "min.cleanable.dirty.ratio",
            )),
            unclean_leader_election_enable: value(
                sources,
                configs,
                "unclean.leader.election.enable",
            )
            .trim()
            .eq_ignore_ascii_case("true"),
        }
    }
}

/// The value of a setting that holds for a topic.
fn value(sources: &Sources<'_>, configs: &ConfigMap, name: &str) -> String {
    let def = find(name).expect("only settings of the table are resolved");
    let best = origins(sources, Some(configs), def).into_iter().next();
    best.map_or_else(
        || def.default.to_owned(),
        |best| in_topic_unit(&best.name, best.value),
    )
}

/// A share from 0 to 1, as the table has checked it.
fn millionths(value: &str) -> u32 {
    let share = value.trim().parse::<f64>().unwrap_or(1.0).clamp(0.0, 1.0);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to 0..=1_000_000"
    )]
    let millionths = (share * 1e6).round() as u32;
    millionths
}

fn policy(value: &str) -> Option<CleanupPolicy> {
    let items = config_value::list_items(value);
    match (items.contains(&"delete"), items.contains(&"compact")) {
        (true, true) => Some(CleanupPolicy::CompactDelete),
        (true, false) => Some(CleanupPolicy::Delete),
        (false, true) => Some(CleanupPolicy::Compact),
        (false, false) => None,
    }
}

fn codec(value: &str) -> Compression {
    match value {
        "uncompressed" => Compression::Uncompressed,
        "gzip" => Compression::Gzip,
        "snappy" => Compression::Snappy,
        "lz4" => Compression::Lz4,
        "zstd" => Compression::Zstd,
        _ => Compression::Producer,
    }
}

/// The setting that has the level of a codec.
fn level_setting(compression: Compression) -> Option<&'static str> {
    match compression {
        Compression::Gzip => Some("compression.gzip.level"),
        Compression::Zstd => Some("compression.zstd.level"),
        Compression::Producer
        | Compression::Uncompressed
        | Compression::Snappy
        | Compression::Lz4 => None,
    }
}

/// Where a value comes from. The numbers are those of `DescribeConfigs`.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConfigSource {
    /// The topic.
    Topic = 1,
    /// One node, at run time.
    Broker = 2,
    /// The cluster, at run time.
    Cluster = 3,
    /// The node's configuration file, variables and flags.
    Static = 4,
    /// The table.
    Default = 5,
    /// A logger's level.
    Logger = 6,
}

impl ConfigSource {
    /// The number in `DescribeConfigs`.
    pub fn code(self) -> i8 {
        self as i8
    }
}

/// A value that a setting has somewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The name under which it was found: the setting's, or a synonym's.
    pub name: String,
    /// The value.
    pub value: String,
    /// Where.
    pub source: ConfigSource,
}

/// All values that a topic's setting has, the one that holds first: Kafka's list of synonyms.
pub fn origins(
    sources: &Sources<'_>,
    configs: Option<&ConfigMap>,
    def: &TopicConfigDef,
) -> Vec<Origin> {
    let own = configs.and_then(|configs| configs.get(def.name));
    let own = own.map(|value| Origin {
        name: def.name.to_owned(),
        value: value.clone(),
        source: ConfigSource::Topic,
    });
    own.into_iter()
        .chain(broker_config::origins(sources, def.synonyms))
        .collect()
}

/// The value of a topic's setting that holds, with its source.
pub fn effective(
    sources: &Sources<'_>,
    configs: Option<&ConfigMap>,
    def: &TopicConfigDef,
) -> (String, ConfigSource) {
    match origins(sources, configs, def).into_iter().next() {
        Some(best) => (in_topic_unit(&best.name, best.value), best.source),
        None => (def.default.to_owned(), ConfigSource::Default),
    }
}

/// Some broker-wide names count hours or minutes where the topic's counts milliseconds.
fn in_topic_unit(name: &str, value: String) -> String {
    let unit_ms: i64 = match name.rsplit('.').next() {
        Some("hours") => 3_600_000,
        Some("minutes") => 60_000,
        _ => return value,
    };
    match value.trim().parse::<i64>() {
        // Kafka takes -1 hours for ever, too.
        Ok(count) if count >= 0 => count.saturating_mul(unit_ms).to_string(),
        _ => value,
    }
}

#[cfg(test)]
mod tests;
