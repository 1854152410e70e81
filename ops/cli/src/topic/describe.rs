//! Looking at topics.

use std::collections::BTreeMap;

use argh::FromArgs;
use serde_json::json;
use streambus_client::{
    blocking::{ConfigEntry, ConfigResource, ListedOffset, OffsetSpec},
    consumer::Isolation,
    partition::TopicPartition,
    router::{Partition, Topic},
};
use streambus_proto::ids::BrokerId;

use crate::{
    CliError, Format,
    connect::{connect, find_topic, local_broker},
    output::{print, table},
};

/// How the protocol numbers a setting that the topic itself has.
const SOURCE_TOPIC: i8 = 1;

/// Show all topics.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "list")]
pub(super) struct List {
    /// show the broker's own topics too
    #[argh(switch)]
    internal: bool,
    /// text or json
    #[argh(option, default = "Format::Text")]
    format: Format,
    /// any broker's address as HOST:PORT (default: 127.0.0.1:9092)
    #[argh(option, default = "local_broker()")]
    bootstrap: String,
}

impl List {
    pub(super) fn run(&self) -> Result<(), CliError> {
        let mut topics = connect(&self.bootstrap)?.list_topics()?;
        topics.retain(|topic| self.internal || !topic.is_internal);
        print(&listed(&topics, self.format))
            .map(drop)
            .map_err(CliError::Output)
    }
}

fn replicas(topic: &Topic) -> usize {
    topic
        .partitions
        .values()
        .map(|partition| partition.replicas.len())
        .max()
        .unwrap_or(0)
}

fn listed(topics: &[Topic], format: Format) -> String {
    match format {
        Format::Text => {
            let rows = topics.iter().map(|topic| {
                let partitions = topic.partitions.len().to_string();
                vec![
                    topic.name.to_string(),
                    partitions,
                    replicas(topic).to_string(),
                ]
            });
            table(
                &["TOPIC", "PARTITIONS", "REPLICAS"],
                &rows.collect::<Vec<_>>(),
            )
        }
        Format::Json => {
            let rows = topics.iter().map(|topic| {
                json!({
                    "name": &*topic.name,
                    "id": topic.id.to_string(),
                    "internal": topic.is_internal,
                    "partitions": topic.partitions.len(),
                    "replication_factor": replicas(topic),
                })
            });
            format!("{}\n", json!(rows.collect::<Vec<_>>()))
        }
    }
}

/// Show a topic's partitions, offsets and settings.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "describe")]
pub(super) struct Describe {
    /// the topic's name
    #[argh(positional)]
    name: String,
    /// text or json
    #[argh(option, default = "Format::Text")]
    format: Format,
    /// any broker's address as HOST:PORT (default: 127.0.0.1:9092)
    #[argh(option, default = "local_broker()")]
    bootstrap: String,
}

/// A partition and the offsets of its first and behind its last record.
struct Described {
    partition: Partition,
    earliest: Option<i64>,
    latest: Option<i64>,
}

impl Describe {
    pub(super) fn run(&self) -> Result<(), CliError> {
        let mut client = connect(&self.bootstrap)?;
        let topic = find_topic(&mut client, &self.name)?;
        let mut offsets = |spec| {
            let wanted: Vec<_> = topic
                .partitions
                .keys()
                .map(|index| (TopicPartition::new(topic.name.clone(), *index), spec))
                .collect();
            client.list_offsets(&wanted, Isolation::ReadUncommitted)
        };
        let (earliest, latest) = (offsets(OffsetSpec::Earliest)?, offsets(OffsetSpec::Latest)?);
        let configs = client.describe_configs(&ConfigResource::Topic(self.name.clone()), false)?;
        let at = |found: &BTreeMap<TopicPartition, ListedOffset>, index| {
            let name = TopicPartition::new(topic.name.clone(), index);
            found
                .get(&name)
                .and_then(|listed| listed.offset)
                .map(|offset| offset.0)
        };
        let described: Vec<_> = topic
            .partitions
            .values()
            .map(|partition| Described {
                earliest: at(&earliest, partition.index),
                latest: at(&latest, partition.index),
                partition: partition.clone(),
            })
            .collect();
        let text = match self.format {
            Format::Text => to_text(&topic, &described, &configs),
            Format::Json => to_json(&topic, &described, &configs),
        };
        print(&text).map(drop).map_err(CliError::Output)
    }
}

fn to_text(topic: &Topic, partitions: &[Described], configs: &[ConfigEntry]) -> String {
    let shown = |number: Option<i64>| number.map_or_else(|| "-".to_owned(), |it| it.to_string());
    let ids = |ids: &[BrokerId]| {
        ids.iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(",")
    };
    let rows = partitions.iter().map(
        |Described {
             partition,
             earliest,
             latest,
         }| {
            vec![
                partition.index.to_string(),
                partition
                    .leader
                    .map_or_else(|| "none".to_owned(), |leader| leader.to_string()),
                ids(&partition.replicas),
                ids(&partition.in_sync),
                shown(*earliest),
                shown(*latest),
            ]
        },
    );
    let heads = [
        "PARTITION",
        "LEADER",
        "REPLICAS",
        "IN SYNC",
        "EARLIEST",
        "LATEST",
    ];
    let mut out = format!("topic {}  id {}\n", topic.name, topic.id);
    out.push_str(&table(&heads, &rows.collect::<Vec<_>>()));
    let own: Vec<_> = configs
        .iter()
        .filter(|config| config.source == SOURCE_TOPIC)
        .map(|config| {
            vec![
                config.name.clone(),
                config.value.clone().unwrap_or_default(),
            ]
        })
        .collect();
    if !own.is_empty() {
        out.push_str(&table(&["SETTING", "VALUE"], &own));
    }
    out
}

fn to_json(topic: &Topic, partitions: &[Described], configs: &[ConfigEntry]) -> String {
    let ids = |ids: &[BrokerId]| ids.iter().map(|id| id.0).collect::<Vec<_>>();
    let rows = partitions.iter().map(
        |Described {
             partition,
             earliest,
             latest,
         }| {
            json!({
                "partition": partition.index,
                "leader": partition.leader.map(|leader| leader.0),
                "leader_epoch": partition.leader_epoch.0,
                "replicas": ids(&partition.replicas),
                "in_sync": ids(&partition.in_sync),
                "earliest": earliest,
                "latest": latest,
            })
        },
    );
    let settings = configs.iter().map(|config| {
        json!({
            "name": config.name,
            "value": config.value,
            "is_default": config.source != SOURCE_TOPIC,
        })
    });
    let value = json!({
        "name": &*topic.name,
        "id": topic.id.to_string(),
        "internal": topic.is_internal,
        "partitions": rows.collect::<Vec<_>>(),
        "settings": settings.collect::<Vec<_>>(),
    });
    format!("{value}\n")
}

#[cfg(test)]
mod tests {
    use streambus_proto::ids::{LeaderEpoch, TopicId};

    use super::*;

    fn topic() -> Topic {
        let partition = Partition {
            index: 0,
            leader: Some(BrokerId(1)),
            leader_epoch: LeaderEpoch(4),
            replicas: vec![BrokerId(1), BrokerId(2)],
            in_sync: vec![BrokerId(1)],
        };
        Topic {
            name: "orders".into(),
            id: TopicId([0; 16]),
            is_internal: false,
            partitions: BTreeMap::from([(0, partition)]),
        }
    }

    fn described() -> Vec<Described> {
        let partition = topic().partitions.remove(&0).unwrap();
        vec![Described {
            partition,
            earliest: Some(3),
            latest: None,
        }]
    }

    fn config(name: &str, source: i8) -> ConfigEntry {
        ConfigEntry {
            name: name.to_owned(),
            value: Some("1".to_owned()),
            source,
            read_only: false,
            is_sensitive: false,
            documentation: None,
        }
    }

    #[test]
    fn topics_are_listed() {
        // Proves: both forms hold name, partitions and replicas (golden).
        assert_eq!(
            listed(&[topic()], Format::Text),
            "TOPIC   PARTITIONS  REPLICAS\norders  1           2\n"
        );
        assert_eq!(
            listed(&[topic()], Format::Json),
            "[{\"id\":\"AAAAAAAAAAAAAAAAAAAAAA\",\"internal\":false,\"name\":\"orders\",\
             \"partitions\":1,\"replication_factor\":2}]\n"
        );
    }

    #[test]
    fn a_topic_is_described_for_people() {
        // Proves: an unknown offset is a dash, and defaults are left out (golden).
        let configs = [
            config("retention.ms", SOURCE_TOPIC),
            config("segment.ms", 5),
        ];
        assert_eq!(
            to_text(&topic(), &described(), &configs),
            "topic orders  id AAAAAAAAAAAAAAAAAAAAAA\n\
             PARTITION  LEADER  REPLICAS  IN SYNC  EARLIEST  LATEST\n\
             0          1       1,2       1        3         -\n\
             SETTING       VALUE\nretention.ms  1\n"
        );
    }

    #[test]
    fn a_topic_is_described_for_programs() {
        // Proves: all settings are there, and what is unknown is null.
        let text = to_json(&topic(), &described(), &[config("segment.ms", 5)]);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["partitions"][0]["leader_epoch"], 4);
        assert_eq!(value["partitions"][0]["latest"], serde_json::Value::Null);
        assert_eq!(value["settings"][0]["is_default"], true);
    }
}
