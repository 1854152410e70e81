use super::*;
use crate::metadata::broker_config::BrokerSettings;

fn map(pairs: &[(&str, &str)]) -> ConfigMap {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

#[test]
fn the_table_is_sorted_and_sound() {
    // Proves that names are in order, each default is good, and each synonym exists and has the
    // same default.
    let none = ConfigMap::new();
    let sources = Sources {
        node: None,
        cluster: None,
        statics: &none,
    };
    for pair in TABLE.windows(2) {
        assert!(
            pair[0].name < pair[1].name,
            "{} {}",
            pair[0].name,
            pair[1].name
        );
    }
    for def in TABLE {
        check(def.name, def.default).expect(def.name);
        assert!(!def.documentation.is_empty(), "{}", def.name);
        for synonym in def.synonyms {
            assert!(broker_config::find(synonym).is_some(), "{synonym}");
        }
        assert_eq!(
            effective(&sources, None, def),
            (def.default.to_owned(), ConfigSource::Default)
        );
    }
}

#[test]
fn every_topic_setting_of_kafka_is_there() {
    // Proves that names, types and defaults are those of Kafka 4.3.1, and that no setting is made up.
    let kafka = config_value::kafka_settings("topic");
    let ours: Vec<_> = TABLE
        .iter()
        .map(|def| config_value::KafkaSetting {
            name: def.name,
            kind: def.kind.name(),
            default: Some(def.default),
        })
        .collect();
    assert_eq!(ours, kafka);
}

#[test]
fn hours_count_as_milliseconds() {
    // Proves that a default under a name with another unit holds in the topic's unit.
    let statics = map(&[("log.retention.hours", "2")]);
    let sources = Sources {
        node: None,
        cluster: None,
        statics: &statics,
    };
    let def = find("retention.ms").expect("it is in the table");
    assert_eq!(
        effective(&sources, None, def),
        ("7200000".to_owned(), ConfigSource::Static)
    );
    let names: Vec<String> = origins(&sources, None, def)
        .into_iter()
        .map(|origin| origin.name)
        .collect();
    assert_eq!(
        names,
        ["log.retention.hours", "log.retention.hours"],
        "the file's, the default's"
    );
}

/// A value of the setting that is not its default.
fn other_value(def: &TopicConfigDef) -> &'static str {
    let values = [
        "7",
        "2097152",
        "0.25",
        "true",
        "compact",
        "LogAppendTime",
        "gzip",
    ];
    let accepted = values.into_iter().find(|value| {
        config_value::check(def.name, def.kind, def.bound, value).is_ok() && *value != def.default
    });
    accepted.unwrap_or_else(|| panic!("no other value of {}", def.name))
}

#[test]
fn broker_settings_are_the_defaults_of_topics() {
    // Proves that each broker setting that stands for a topic's changes what the topic has, where its
    // own unit is the topic's, and that the topic's own value comes first.
    let none = ConfigMap::new();
    for def in TABLE {
        for synonym in def.synonyms {
            let unit = synonym.rsplit('.').next();
            let hours_or_minutes = matches!(unit, Some("hours" | "minutes"));
            let value = other_value(def);
            let cluster = map(&[(synonym, value)]);
            let sources = Sources {
                node: None,
                cluster: Some(&cluster),
                statics: &none,
            };
            let (found, source) = effective(&sources, None, def);
            assert_eq!(source, ConfigSource::Cluster, "{synonym}");
            assert_eq!(found == value, !hours_or_minutes, "{synonym}: {found}");
            let own = map(&[(def.name, def.default)]);
            let (found, _) = effective(&sources, Some(&own), def);
            assert_eq!(found, def.default, "{synonym}");
        }
    }
}

#[test]
fn what_does_not_exist_here_is_refused() {
    // Proves the settings of which only the default is accepted: the reason names the feature.
    let refused: Vec<&TopicConfigDef> = TABLE
        .iter()
        .filter(|def| matches!(def.effect, Effect::Refused { .. }))
        .collect();
    let names: Vec<&str> = refused.iter().map(|def| def.name).collect();
    assert_eq!(names, ["remote.storage.enable"]);
    let reason = check("remote.storage.enable", "true").expect_err("no tiered storage");
    assert!(
        reason.starts_with("Tiered Storage functionality is disabled"),
        "{reason}"
    );
    check("remote.storage.enable", "false").expect("the default");
}

#[test]
fn settings_resolve_from_topic_to_default() {
    // Proves the typed settings, each from the place that goes first.
    let statics = map(&[("message.max.bytes", "5000"), ("log.retention.bytes", "77")]);
    let cluster = map(&[("log.retention.bytes", "88"), ("compression.type", "zstd")]);
    let sources = Sources {
        node: None,
        cluster: Some(&cluster),
        statics: &statics,
    };
    let own = map(&[("max.message.bytes", " 6000 "), ("cleanup.policy", "")]);
    let settings = TopicSettings::resolve(&sources, &own);
    assert_eq!(settings.max_message_bytes, 6000);
    assert_eq!(settings.retention_bytes, 88);
    assert_eq!(settings.retention_ms, 604_800_000);
    assert_eq!(settings.cleanup_policy, None);
    assert_eq!(settings.compression_type, Compression::Zstd);
    assert_eq!(settings.min_insync_replicas, 1);
    assert_eq!(settings.message_timestamp_before_max_ms, i64::MAX);
    assert!(!settings.unclean_leader_election_enable);
    assert!(BrokerSettings::resolve(&sources).auto_create_topics_enable);
}

#[test]
fn unknown_names_get_a_suggestion() {
    // Proves the sentence, and that what a client sends is shown harmless.
    assert_eq!(
        check("retention.m", "1").expect_err("unknown"),
        "Unknown topic config name: retention.m; did you mean retention.ms?"
    );
    assert_eq!(
        check("\x1b[2J", "1").expect_err("unknown"),
        "Unknown topic config name: \\u{1b}[2J"
    );
}
