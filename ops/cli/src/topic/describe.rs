//! Looking at topics.

use std::collections::BTreeMap;

use argh::FromArgs;
use serde_json::json;
use streambus_client::{
    blocking::{Client, ConfigEntry, ConfigResource, ListedOffset, OffsetSpec},
    consumer::Isolation,
    error::ClientError,
    partition::TopicPartition,
    router::{Partition, Topic},
};
use streambus_proto::ids::BrokerId;

use crate::{
    CliError, Format,
    connect::{connect, find_topic, local_broker},
    output::{bytes, count, print, table},
};

/// How the protocol numbers a setting that nobody set.
const SOURCE_DEFAULT: i8 = 5;

/// Show all topics.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "list")]
pub(super) struct List {
    /// show the broker's own topics too
    #[argh(switch, short = 'i')]
    internal: bool,
    /// text or json
    #[argh(option, default = "Format::Text")]
    format: Format,
    /// any broker's address as HOST:PORT (default: 127.0.0.1:9092)
    #[argh(option, short = 'b', default = "local_broker()")]
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

/// Show partitions, offsets, sizes, and the settings that are not the default.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "describe")]
pub(super) struct Describe {
    /// the topics' names
    #[argh(positional)]
    names: Vec<String>,
    /// text or json (one object a line)
    #[argh(option, default = "Format::Text")]
    format: Format,
    /// any broker's address as HOST:PORT (default: 127.0.0.1:9092)
    #[argh(option, short = 'b', default = "local_broker()")]
    bootstrap: String,
}

/// A partition, the offsets of its first and behind its last record, and the bytes that its leader keeps.
struct Described {
    partition: Partition,
    earliest: Option<i64>,
    latest: Option<i64>,
    size_bytes: Option<u64>,
}

impl Describe {
    pub(super) fn run(&self) -> Result<(), CliError> {
        if self.names.is_empty() {
            return Err(CliError::Refused("name the topics to describe".to_owned()));
        }
        let mut client = connect(&self.bootstrap)?;
        for (place, name) in self.names.iter().enumerate() {
            let text = describe(&mut client, name, self.format)?;
            let gap = if place > 0 && self.format == Format::Text {
                "\n"
            } else {
                ""
            };
            if !print(&format!("{gap}{text}")).map_err(CliError::Output)? {
                break;
            }
        }
        Ok(())
    }
}

fn describe(client: &mut Client, name: &str, format: Format) -> Result<String, CliError> {
    let topic = find_topic(client, name)?;
    let mut offsets = |spec| {
        let wanted: Vec<_> = topic
            .partitions
            .keys()
            .map(|index| (TopicPartition::new(topic.name.clone(), *index), spec))
            .collect();
        client.list_offsets(&wanted, Isolation::ReadUncommitted)
    };
    let (earliest, latest) = (offsets(OffsetSpec::Earliest)?, offsets(OffsetSpec::Latest)?);
    let configs = client.describe_configs(&ConfigResource::Topic(name.to_owned()), false)?;
    let sizes = sizes(client, &topic)?;
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
            size_bytes: sizes.get(&partition.index).copied(),
            partition: partition.clone(),
        })
        .collect();
    Ok(match format {
        Format::Text => to_text(&topic, &described, &configs),
        Format::Json => to_json(&topic, &described, &configs),
    })
}

/// How many bytes of each partition its leader keeps; nothing if a broker does not say.
fn sizes(client: &mut Client, topic: &Topic) -> Result<BTreeMap<i32, u64>, CliError> {
    let mut by_leader: BTreeMap<BrokerId, Vec<i32>> = BTreeMap::new();
    for partition in topic.partitions.values() {
        if let Some(leader) = partition.leader {
            by_leader.entry(leader).or_default().push(partition.index);
        }
    }
    let mut sizes = BTreeMap::new();
    for (leader, partitions) in by_leader {
        let dirs = match client.describe_log_dirs(leader, &topic.name, &partitions) {
            Ok(dirs) => dirs,
            Err(ClientError::Unsupported(_) | ClientError::Refused { .. }) => continue,
            Err(error) => return Err(error.into()),
        };
        let replicas = dirs.into_iter().flat_map(|dir| dir.replicas);
        sizes.extend(replicas.filter_map(|replica| {
            let bytes = u64::try_from(replica.size_bytes).ok()?;
            Some((replica.partition.index, bytes))
        }));
    }
    Ok(sizes)
}

/// Where a setting comes from, by the protocol's number.
fn origin(source: i8) -> &'static str {
    match source {
        1 => "this topic",
        2 => "this broker",
        3 => "all brokers",
        4 => "the broker's own settings",
        SOURCE_DEFAULT => "default",
        _ => "elsewhere",
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
             size_bytes,
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
                size_bytes.map_or_else(|| "-".to_owned(), bytes),
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
        "SIZE",
    ];
    let total = partitions
        .iter()
        .filter_map(|partition| partition.size_bytes);
    let mut out = format!(
        "topic {}  id {}  {}  {}\n",
        topic.name,
        topic.id,
        count(partitions.len() as u64, "partition"),
        bytes(total.sum()),
    );
    out.push_str(&table(&heads, &rows.collect::<Vec<_>>()));
    let set: Vec<_> = configs
        .iter()
        .filter(|config| config.source != SOURCE_DEFAULT)
        .map(|config| {
            vec![
                config.name.clone(),
                config.value.clone().unwrap_or_default(),
                origin(config.source).to_owned(),
            ]
        })
        .collect();
    if !set.is_empty() {
        out.push_str(&table(&["SETTING", "VALUE", "SET BY"], &set));
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
             size_bytes,
         }| {
            json!({
                "partition": partition.index,
                "leader": partition.leader.map(|leader| leader.0),
                "leader_epoch": partition.leader_epoch.0,
                "replicas": ids(&partition.replicas),
                "in_sync": ids(&partition.in_sync),
                "earliest": earliest,
                "latest": latest,
                "size_bytes": size_bytes,
            })
        },
    );
    let settings = configs.iter().map(|config| {
        json!({
            "name": config.name,
            "value": config.value,
            "is_default": config.source == SOURCE_DEFAULT,
            "set_by": origin(config.source),
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
            size_bytes: Some(1_536),
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
        // Proves: an unknown offset is a dash, sizes are there, and so is what is not the built-in default, with
        // where it comes from (golden).
        let configs = [
            config("max.message.bytes", 4),
            config("retention.ms", 1),
            config("segment.ms", SOURCE_DEFAULT),
        ];
        assert_eq!(
            to_text(&topic(), &described(), &configs),
            "topic orders  id AAAAAAAAAAAAAAAAAAAAAA  1 partition  1.5 KiB\n\
             PARTITION  LEADER  REPLICAS  IN SYNC  EARLIEST  LATEST  SIZE\n\
             0          1       1,2       1        3         -       1.5 KiB\n\
             SETTING            VALUE  SET BY\n\
             max.message.bytes  1      the broker's own settings\n\
             retention.ms       1      this topic\n"
        );
    }

    #[test]
    fn a_topic_is_described_for_programs() {
        // Proves: all settings are there, and what is unknown is null.
        let text = to_json(
            &topic(),
            &described(),
            &[config("segment.ms", SOURCE_DEFAULT)],
        );
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["partitions"][0]["leader_epoch"], 4);
        assert_eq!(value["partitions"][0]["latest"], serde_json::Value::Null);
        assert_eq!(value["partitions"][0]["size_bytes"], 1_536);
        assert_eq!(value["settings"][0]["is_default"], true);
        assert_eq!(value["settings"][0]["set_by"], "default");
    }
}
