//! Topics that are deleted while the broker crashes: their space comes back, and nobody else's goes.

use std::fs;
use std::path::Path;
use std::time::Instant;

use streambus_client::blocking::{Client, ClientConfig};
use streambus_client::partition::TopicPartition;
use streambus_client::producer::ProducerConfig;

use crate::process::Broker;
use crate::wire::PATIENCE;

const MIB: u64 = 1 << 20;

fn client(broker: &Broker) -> Client {
    Client::connect(&broker.core.to_string(), ClientConfig::default()).unwrap()
}

/// Makes a topic of 40 MiB, which no memtable of the test holds: most of it is in tables.
fn make(client: &mut Client, topic: &str) {
    client.create_topic(topic, 2, 1).unwrap();
    let mut producer = client.producer(ProducerConfig::default());
    let value = vec![7; 16 << 10];
    for number in 0..2_560 {
        let to = TopicPartition::new(topic, number % 2);
        producer.send(&to, None, &value).unwrap();
    }
    producer.flush().unwrap();
}

/// Bytes of tables of all lanes: what is on disk but for the log, whose files stay.
fn table_bytes(data: &Path) -> u64 {
    let lanes = ["lane-0", "lane-1"];
    let files = lanes
        .iter()
        .flat_map(|lane| fs::read_dir(data.join(lane)).unwrap());
    files
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().extension().is_some_and(|kind| kind == "tbl"))
        // A table may go while it is looked at.
        .filter_map(|entry| Some(entry.metadata().ok()?.len()))
        .sum()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn a_lane_that_missed_a_deletion_makes_up_for_it_and_keeps_what_nobody_deleted() {
    // Proves the rule for partitions that the metadata does not list: those of a topic that it deleted are
    // dropped at the start, those of a topic that it never heard of are kept. A crash between the
    // deletion and the lanes is put together from the directories of before and after.
    let home = tempfile::tempdir().unwrap();
    let (data, before) = (home.path().join("data"), home.path().join("before"));
    let empty = home.path().join("empty");
    Broker::start(&data, &[]).kill();
    copy(&data, &empty);
    let broker = Broker::start(&data, &[]);
    make(&mut client(&broker), "gone");
    // What is flushed when the node dies depends on the disk.
    let deadline = Instant::now() + PATIENCE;
    while table_bytes(&data) <= 20 * MIB {
        assert!(Instant::now() < deadline, "most of it goes to tables");
    }
    broker.kill();
    copy(&data, &before);

    // The metadata says deleted, the lanes do not.
    let broker = Broker::start(&data, &[]);
    assert!(table_bytes(&data) > 20 * MIB);
    client(&broker).delete_topics(&["gone"]).unwrap();
    broker.kill();
    for lane in ["lane-0", "lane-1"] {
        fs::remove_dir_all(data.join(lane)).unwrap();
        copy(&before.join(lane), &data.join(lane));
    }
    let broker = Broker::start(&data, &[]);
    let deadline = Instant::now() + PATIENCE;
    while table_bytes(&data) > MIB {
        assert!(
            Instant::now() < deadline,
            "{} bytes stay",
            table_bytes(&data)
        );
    }
    // The name is free, and the new topic's records are its own.
    make(&mut client(&broker), "gone");
    broker.kill();

    // The lanes hold a topic that the metadata never had.
    let orphaned = home.path().join("orphaned");
    copy(&empty, &orphaned);
    for lane in ["lane-0", "lane-1"] {
        fs::remove_dir_all(orphaned.join(lane)).unwrap();
        copy(&before.join(lane), &orphaned.join(lane));
    }
    for _ in 0..2 {
        let broker = Broker::start(&orphaned, &[]);
        assert!(client(&broker).list_topics().unwrap().is_empty());
        assert!(table_bytes(&orphaned) > 20 * MIB, "unknown data is kept");
        broker.kill();
    }
}
