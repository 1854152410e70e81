//! The broker's settings under Kafka's names: what tools may ask for and what can be changed at run
//! time. Everything else of the broker is in `streambus.toml` only.

mod absent;
mod statics;
mod table;

pub use statics::statics;

use super::config_value::{self, Bound, Effect, Kind};
use super::image::ConfigMap;
use super::routing::BrokerAddress;
use super::topic_config::{ConfigSource, Origin};

/// One broker setting that clients see.
#[derive(Debug)]
pub struct BrokerConfigDef {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// Its value where nobody says anything; `None` where there is none.
    pub default: Option<&'static str>,
    /// Which values are good.
    pub bound: Bound,
    /// Whether it can be changed at run time. What can't is set in `streambus.toml`.
    pub dynamic: bool,
    /// Other names for the same thing, in the order in which they hold.
    pub synonyms: &'static [&'static str],
    /// Whether it does anything here.
    pub effect: Effect,
    /// What it does.
    pub documentation: &'static str,
}

/// Every broker setting of Kafka 4.3.1.
pub fn all() -> impl Iterator<Item = &'static BrokerConfigDef> {
    table::TABLE.iter().chain(absent::ABSENT)
}

/// Looks a setting up.
pub fn find(name: &str) -> Option<&'static BrokerConfigDef> {
    [table::TABLE, absent::ABSENT].into_iter().find_map(|rows| {
        let place = rows.binary_search_by(|def| def.name.cmp(name));
        place.ok().and_then(|place| rows.get(place))
    })
}

/// Judges a setting that is to be changed at run time.
///
/// # Errors
/// With what is wrong with it, and the name that was probably meant.
pub fn check(name: &str, value: &str) -> Result<(), String> {
    let def = changeable(name)?;
    config_value::check(name, def.kind, def.bound, value)
}

/// A setting that can be changed at run time.
///
/// # Errors
/// If there is none of this name, or if it can only be set in the configuration file.
pub fn changeable(name: &str) -> Result<&'static BrokerConfigDef, String> {
    let Some(def) = find(name) else {
        let near = config_value::suggestion(name, all().map(|def| def.name));
        let meant = near
            .map(|near| format!("; did you mean {near}?"))
            .unwrap_or_default();
        let shown = name.escape_default();
        return Err(format!("Unknown broker config name: {shown}{meant}"));
    };
    if !def.dynamic {
        return Err(fixed(&[name]));
    }
    Ok(def)
}

/// Why settings can't be changed at run time: Kafka's sentence, and the remedy.
pub fn fixed(names: &[&str]) -> String {
    let absent = |name: &&str| find(name).is_some_and(|def| def.effect == Effect::Absent);
    let remedy = if names.iter().all(absent) {
        "nothing here depends on what they say"
    } else {
        "set them in streambus.toml and restart"
    };
    let names = names.join(", ");
    format!("Cannot update these configs dynamically: [{names}]; {remedy}")
}

/// What a broker's settings say of the broker itself, as clients of one listener see it.
///
/// Kafka names a listener after its security protocol where nothing else is said.
pub fn identity(broker: &BrokerAddress) -> ConfigMap {
    let id = broker.id.0.to_string();
    let address = |host: &str, port: u16| {
        if host.contains(':') {
            format!("PLAINTEXT://[{host}]:{port}")
        } else {
            format!("PLAINTEXT://{host}:{port}")
        }
    };
    let listens = &broker.listens;
    ConfigMap::from([
        ("node.id".to_owned(), id.clone()),
        ("broker.id".to_owned(), id),
        (
            "listeners".to_owned(),
            address(&listens.ip().to_string(), listens.port()),
        ),
        (
            "advertised.listeners".to_owned(),
            address(&broker.host, broker.port),
        ),
    ])
}

/// Where a node's settings come from, the one that goes first in front. The defaults come last.
#[derive(Copy, Clone, Debug)]
pub struct Sources<'a> {
    /// What the node was given at run time.
    pub node: Option<&'a ConfigMap>,
    /// What the cluster was given at run time.
    pub cluster: Option<&'a ConfigMap>,
    /// What the node's own configuration says.
    pub statics: &'a ConfigMap,
}

/// All values that a setting of these names has, the one that holds first.
pub fn origins(sources: &Sources<'_>, names: &[&str]) -> Vec<Origin> {
    let maps = [
        (sources.node, ConfigSource::Broker),
        (sources.cluster, ConfigSource::Cluster),
        (Some(sources.statics), ConfigSource::Static),
    ];
    let mut found = Vec::new();
    for (map, source) in maps {
        for name in names {
            if let Some(value) = map.and_then(|map| map.get(*name)) {
                found.push(Origin {
                    name: (*name).to_owned(),
                    value: value.clone(),
                    source,
                });
            }
        }
    }
    for name in names {
        if let Some(value) = find(name).and_then(|def| def.default) {
            found.push(Origin {
                name: (*name).to_owned(),
                value: value.to_owned(),
                source: ConfigSource::Default,
            });
        }
    }
    found
}

/// All values that a broker's setting has, the one that holds first.
pub fn origins_of(sources: &Sources<'_>, def: &BrokerConfigDef) -> Vec<Origin> {
    let names: Vec<&str> = std::iter::once(def.name)
        .chain(def.synonyms.iter().copied())
        .collect();
    origins(sources, &names)
}

/// The broker's settings that it acts on, resolved once a delta.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerSettings {
    /// Whether a topic that a client names is made when it is missing.
    pub auto_create_topics_enable: bool,
    /// Partitions of a topic that is made without a count.
    pub num_partitions: i32,
    /// Replicas of a partition that is made without a count.
    pub default_replication_factor: i16,
    /// Whether a topic may be deleted.
    pub delete_topic_enable: bool,
    /// How many partitions the topic of committed offsets has: a group belongs to one of them.
    pub offsets_topic_partitions: i32,
}

impl Default for BrokerSettings {
    fn default() -> BrokerSettings {
        let statics = ConfigMap::new();
        BrokerSettings::resolve(&Sources {
            node: None,
            cluster: None,
            statics: &statics,
        })
    }
}

impl BrokerSettings {
    /// What holds for a node.
    pub fn resolve(sources: &Sources<'_>) -> BrokerSettings {
        let value = |name: &str| {
            origins(sources, &[name])
                .into_iter()
                .next()
                .map_or_else(String::new, |best| best.value)
        };
        BrokerSettings {
            auto_create_topics_enable: value("auto.create.topics.enable") == "true",
            num_partitions: value("num.partitions").parse().unwrap_or(1),
            default_replication_factor: value("default.replication.factor").parse().unwrap_or(1),
            delete_topic_enable: value("delete.topic.enable") == "true",
            offsets_topic_partitions: value("offsets.topic.num.partitions").parse().unwrap_or(50),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn the_table_is_sorted_and_sound() {
        // Proves that names are in order and unique, that each default is good, and that each
        // synonym of a topic's or a broker's setting exists.
        for rows in [table::TABLE, absent::ABSENT] {
            for pair in rows.windows(2) {
                let (one, next) = (pair[0].name, pair[1].name);
                assert!(one < next, "{one} {next}");
            }
        }
        for def in all() {
            assert!(!def.documentation.is_empty(), "{}", def.name);
            if let Some(default) = def.default {
                config_value::check(def.name, def.kind, def.bound, default).expect(def.name);
            }
            for synonym in def.synonyms {
                assert!(find(synonym).is_some(), "{synonym}");
            }
        }
    }

    #[test]
    fn every_broker_setting_of_kafka_is_there() {
        // Proves that names, types and defaults are those of Kafka 4.3.1, that no setting is made up,
        // and that only what Kafka changes at run time can be changed.
        let differs: &[(&str, Option<&str>)] = &[
            // Bounds of our own.
            ("max.connections", Some("10000")),
            ("max.connections.per.ip", Some("5000")),
            // A node has the only replica of each partition.
            ("offsets.topic.replication.factor", Some("1")),
        ];
        let mut names = Vec::new();
        for kafka in config_value::kafka_settings("broker") {
            let def = find(kafka.name).unwrap_or_else(|| panic!("{} is missing", kafka.name));
            assert_eq!(def.kind.name(), kafka.kind, "{}", kafka.name);
            let own = differs.iter().find(|(name, _)| *name == kafka.name);
            let expected = own.map_or(kafka.default, |(_, default)| *default);
            assert_eq!(def.default, expected, "{}", kafka.name);
            names.push(kafka.name);
        }
        for def in all() {
            assert!(names.contains(&def.name), "{} is none of Kafka's", def.name);
        }
    }

    #[test]
    fn defaults_of_the_configuration_are_those_of_the_table() {
        // Proves that a setting which was never touched shows as a default, and that what differs
        // from node to node shows as the node's own.
        let own: Vec<String> = statics(&Config::default()).into_keys().collect();
        let expected = ["log.dir", "log.dirs", "process.roles"];
        assert_eq!(own, expected);

        let mut config = Config::default();
        config.topics.retention_ms = 60_000;
        config.topics.num_partitions = 6;
        let statics = statics(&config);
        assert_eq!(statics["log.retention.ms"], "60000");
        assert_eq!(statics["num.partitions"], "6");
        let settings = BrokerSettings::resolve(&Sources {
            node: None,
            cluster: None,
            statics: &statics,
        });
        assert_eq!(settings.num_partitions, 6);
        assert!(settings.auto_create_topics_enable && settings.delete_topic_enable);
    }

    #[test]
    fn origins_come_in_the_order_in_which_they_hold() {
        // Proves node before cluster before file before default, across synonyms.
        let map = |pairs: &[(&str, &str)]| -> ConfigMap {
            pairs
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect()
        };
        let node = map(&[("log.retention.ms", "1")]);
        let cluster = map(&[("log.retention.ms", "2")]);
        let statics = map(&[("log.retention.ms", "3"), ("log.retention.hours", "4")]);
        let sources = Sources {
            node: Some(&node),
            cluster: Some(&cluster),
            statics: &statics,
        };
        let def = find("log.retention.ms").expect("it is in the table");
        let found: Vec<(String, ConfigSource)> = origins_of(&sources, def)
            .into_iter()
            .map(|origin| (origin.value, origin.source))
            .collect();
        let expected = [
            ("1", ConfigSource::Broker),
            ("2", ConfigSource::Cluster),
            ("3", ConfigSource::Static),
            ("4", ConfigSource::Static),
            ("168", ConfigSource::Default),
        ];
        assert_eq!(
            found,
            expected.map(|(value, source)| (value.to_owned(), source))
        );
    }

    #[test]
    fn changes_are_refused_with_a_remedy() {
        // Proves the three refusals: unknown, fixed, and out of bounds.
        let unknown = check("log.retenton.ms", "1").expect_err("no such name");
        assert!(
            unknown.contains("did you mean log.retention.ms?"),
            "{unknown}"
        );
        let fixed = check("node.id", "1").expect_err("fixed");
        assert!(fixed.contains("streambus.toml"), "{fixed}");
        let bad = check("message.max.bytes", "-5").expect_err("negative");
        assert!(bad.contains("Value must be at least 0"), "{bad}");
        check("log.retention.ms", "60000").expect("good");
    }
}
