//! The number of cores changes from start to start, and lanes are added: the data stays where it is.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use streambus_client::blocking::{Client, ClientConfig};
use streambus_client::consumer::{ConsumerConfig, Start};
use streambus_client::partition::TopicPartition;
use streambus_client::producer::ProducerConfig;
use streambus_shards::run_alone;
use streambus_storage::PartitionKey;
use streambus_storage::offline::{self, Depth, Seen};

use crate::process::{Broker, refused};

const PARTITIONS: i32 = 4;
const RECORDS: u32 = 400;

fn started(data: &Path, cores: &str, lanes: &str) -> (Broker, Client) {
    let settings = [
        ("STREAMBUS_NODE__CORES", cores),
        ("STREAMBUS_DATA__LANES", lanes),
    ];
    let broker = Broker::start(data, &settings);
    let client = Client::connect(&broker.core.to_string(), ClientConfig::default()).unwrap();
    (broker, client)
}

fn fill(client: &mut Client, topic: &str) {
    client.create_topic(topic, PARTITIONS, 1).unwrap();
    client.wait_for_topic(topic).unwrap();
    let mut producer = client.producer(ProducerConfig::default());
    for value in 0..RECORDS {
        let partition = i32::try_from(value).unwrap() % PARTITIONS;
        let to = TopicPartition::new(topic, partition);
        producer.send(&to, None, &value.to_be_bytes()).unwrap();
    }
    producer.flush().unwrap();
}

/// Reads all of a topic: each record once, in order.
fn holds_all(client: &mut Client, topic: &str) {
    client.wait_for_topic(topic).unwrap();
    let mut consumer = client.consumer(ConsumerConfig::default());
    for partition in 0..PARTITIONS {
        consumer.assign(TopicPartition::new(topic, partition), Start::Earliest);
    }
    let mut found = Vec::new();
    while found.len() < RECORDS as usize {
        let mut take = |value: &[u8]| found.push(u32::from_be_bytes(value.try_into().unwrap()));
        consumer
            .poll(&mut |_, _, record| take(record.value.unwrap()))
            .unwrap();
    }
    found.sort_unstable();
    assert!(found.into_iter().eq(0..RECORDS), "{topic}");
}

/// Which lane each partition lies in.
fn placed(data: &Path, lanes: u16) -> BTreeMap<PartitionKey, u16> {
    let mut placed = BTreeMap::new();
    for lane in 0..lanes {
        let dir = data.join(format!("lane-{lane}"));
        let mut keys = Vec::new();
        let see = &mut |seen| match seen {
            Seen::Part { key, .. } | Seen::Record { key, .. } => keys.push(key),
            _ => {}
        };
        let examined = run_alone(offline::examine(&dir, Depth::Everything, see)).unwrap();
        assert_eq!(examined.findings, vec![]);
        for key in keys {
            let before = placed.insert(key, lane);
            assert!(before.is_none_or(|before| before == lane), "{key} twice");
        }
    }
    placed
}

#[test]
fn cores_change_and_lanes_are_added_without_a_copy() {
    // Proves 1, 2, 4 and 1 cores on one directory: every record is read at each step, partitions stay in
    // their lanes, and a topic made after lanes were added uses all of them.
    let home = tempfile::tempdir().unwrap();
    let steps = [("1", "0", 1), ("2", "2", 2), ("4", "4", 4), ("1", "0", 4)];
    let mut before = BTreeMap::new();
    for (step, (cores, configured, lanes)) in steps.into_iter().enumerate() {
        let (broker, mut client) = started(home.path(), cores, configured);
        for earlier in 0..step {
            holds_all(&mut client, &format!("topic-{earlier}"));
        }
        let topic = format!("topic-{step}");
        fill(&mut client, &topic);
        holds_all(&mut client, &topic);
        broker.kill();
        let now = placed(home.path(), lanes);
        assert!(!home.path().join(format!("lane-{lanes}")).exists());
        for (key, lane) in &before {
            assert_eq!(now.get(key), Some(lane), "{key} moved at step {step}");
        }
        let mut used: Vec<u16> = now
            .iter()
            .filter(|(key, _)| !before.contains_key(key))
            .map(|(_, lane)| *lane)
            .collect();
        used.sort_unstable();
        used.dedup();
        assert!(used.into_iter().eq(0..lanes), "step {step} spread");
        before = now;
    }
}

#[test]
fn lanes_that_changed_places_are_told() {
    // Proves that directories under each other's names are refused, whichever core has them, and serve again
    // under their own.
    let home = tempfile::tempdir().unwrap();
    let (broker, mut client) = started(home.path(), "2", "2");
    fill(&mut client, "topic");
    broker.kill();
    let lane = |name: &str| home.path().join(name);
    let swap = || {
        std::fs::rename(lane("lane-0"), lane("other")).unwrap();
        std::fs::rename(lane("lane-1"), lane("lane-0")).unwrap();
        std::fs::rename(lane("other"), lane("lane-1")).unwrap();
    };
    swap();
    let (_, said) = refused(home.path(), &[("STREAMBUS_NODE__CORES", "2")]);
    assert!(said.contains("belongs to lane"), "{said}");
    swap();
    let (_broker, mut client) = started(home.path(), "2", "2");
    holds_all(&mut client, "topic");
}

#[test]
fn three_and_eight_cores_serve_on_any_machine() {
    // Proves that a node runs with numbers of cores that divide nothing or exceed the CPUs there are: each core's
    // lane takes records, and all of them are read before and after a kill.
    for cores in [3, 8] {
        let home = tempfile::tempdir().unwrap();
        let topics = ["a", "b", "c", "d"];
        let (broker, mut client) = started(home.path(), &cores.to_string(), "0");
        for topic in topics {
            fill(&mut client, topic);
            holds_all(&mut client, topic);
        }
        broker.kill();
        let placed = placed(home.path(), cores);
        let lanes: BTreeSet<u16> = placed.into_values().collect();
        assert!(lanes.iter().copied().eq(0..cores), "{cores}: {lanes:?}");
        let (_broker, mut client) = started(home.path(), &cores.to_string(), "0");
        for topic in topics {
            holds_all(&mut client, topic);
        }
    }
}

#[test]
fn fewer_lanes_are_refused_with_the_remedy() {
    // Proves that lanes are not taken away, that the line says what to set, and that the directory still
    // starts with what is there.
    let home = tempfile::tempdir().unwrap();
    started(home.path(), "2", "3").0.kill();
    let (output, errors) = refused(home.path(), &[("STREAMBUS_DATA__LANES", "2")]);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(
        errors.contains("it has 3 lanes, and data.lanes is 2") && errors.contains("data.lanes=3"),
        "{errors}"
    );
    started(home.path(), "2", "0").0.kill();
}
