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
