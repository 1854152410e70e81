//! Two listeners side by side: one shows each core as a broker, one the node; both give the same answers.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use streambus_client::blocking::{Client, ClientConfig};
use streambus_client::consumer::{ConsumerConfig, Start};
use streambus_client::partition::TopicPartition;
use streambus_client::producer::ProducerConfig;

use crate::process::Broker;

const PARTITIONS: i32 = 6;

pub(crate) fn scrape(admin: SocketAddr) -> String {
    let mut stream = TcpStream::connect(admin).unwrap();
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

/// The sum of a counter over all cores.
pub(crate) fn counter(text: &str, name: &str) -> u64 {
    let lines = text.lines().filter(|line| line.starts_with(name));
    lines
        .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
        .sum()
}

fn produce(bootstrap: SocketAddr, values: std::ops::Range<u32>) {
    let mut client = Client::connect(&bootstrap.to_string(), ClientConfig::default()).unwrap();
    let mut producer = client.producer(ProducerConfig::default());
    for value in values {
        let partition = i32::try_from(value).unwrap() % PARTITIONS;
        let to = TopicPartition::new("both", partition);
        producer.send(&to, None, &value.to_be_bytes()).unwrap();
    }
    producer.flush().unwrap();
}

fn consume(bootstrap: SocketAddr) -> Vec<(i32, i64, Vec<u8>)> {
    let mut client = Client::connect(&bootstrap.to_string(), ClientConfig::default()).unwrap();
    let mut consumer = client.consumer(ConsumerConfig::default());
    for partition in 0..PARTITIONS {
        consumer.assign(TopicPartition::new("both", partition), Start::Earliest);
    }
    let mut found = Vec::new();
    while found.len() < 2_000 {
        consumer
            .poll(&mut |partition, _, record| {
                found.push((
                    partition.index,
                    record.offset.0,
                    record.value.unwrap().to_vec(),
                ));
            })
            .unwrap();
    }
    found.sort();
    found
}

#[test]
fn core_mode_makes_no_hop_and_both_modes_agree() {
    // Proves routing with counters: a client of the core listener reaches the owning cores itself; one
    // of the node listener gets the same records through hops.
    let home = tempfile::tempdir().unwrap();
    let broker = Broker::start(home.path(), &[]);
    let mut client = Client::connect(&broker.core.to_string(), ClientConfig::default()).unwrap();
    client.create_topic("both", PARTITIONS, 1).unwrap();
    assert_eq!(
        client.metadata(None).unwrap().brokers.len(),
        2,
        "each core is a broker"
    );
    let mut node_client =
        Client::connect(&broker.node.to_string(), ClientConfig::default()).unwrap();
    assert_eq!(
        node_client.metadata(None).unwrap().brokers.len(),
        1,
        "the node is one broker"
    );
    // Ids of producers and the topic's making went over the mesh: from here on only records do.
    produce(broker.core, 0..100);
    let hops = |text: &str| counter(text, "streambus_mesh_hops_total");
    let settled = |at_least: u64| {
        // The figure is brought up to date twice a second.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        loop {
            let seen = hops(&scrape(broker.admin));
            if seen > at_least || std::time::Instant::now() > deadline {
                return seen;
            }
        }
    };
    let by_core = {
        produce(broker.core, 100..1_000);
        consume_some(broker.core)
    };
    assert_eq!(by_core, 1_000);
    let before = hops(&scrape(broker.admin));
    produce(broker.node, 1_000..2_000);
    assert!(
        settled(before) > before,
        "a client of the node listener needs hops"
    );
    assert_eq!(consume(broker.core), consume(broker.node));
}

/// Reads the first thousand records; returns how many came.
fn consume_some(bootstrap: SocketAddr) -> usize {
    let mut client = Client::connect(&bootstrap.to_string(), ClientConfig::default()).unwrap();
    let mut consumer = client.consumer(ConsumerConfig::default());
    for partition in 0..PARTITIONS {
        consumer.assign(TopicPartition::new("both", partition), Start::Earliest);
    }
    let mut found = 0;
    while found < 1_000 {
        consumer.poll(&mut |_, _, _| found += 1).unwrap();
    }
    found
}
