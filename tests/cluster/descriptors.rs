//! A node with more tables than the process may have files open.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use streambus_client::blocking::{Acks, Client, ClientConfig};
use streambus_client::consumer::{ConsumerConfig, Start};
use streambus_client::partition::TopicPartition;
use streambus_proto::ids::{LeaderEpoch, Offset};
use streambus_proto::records::{BatchBuilder, Codec, NewRecord};
use streambus_shards::{run_alone, wall_ms, yield_now};
use streambus_storage::{AppendError, Lane, LaneConfig, LaneObserver, PartitionKey, StorageError};

use crate::process::Broker;

const TOPIC: &str = "wide";
/// More than the 256 files that a node may have open at the least, and each smaller than what is merged at once.
const TABLES: u64 = 320;
const VALUE_BYTES: usize = 16 << 10;
const PATIENCE: Duration = Duration::from_mins(1);

/// Nobody who waits.
struct Owner;

impl LaneObserver for Owner {
    fn durable(&self, _: &[(PartitionKey, Offset)]) {}

    fn annotation(&self, _: PartitionKey) -> Vec<u8> {
        Vec::new()
    }

    fn failed(&self, error: &StorageError) {
        panic!("the lane failed: {error}");
    }
}

fn record(number: i64) -> Vec<u8> {
    let mut value = vec![0; VALUE_BYTES];
    value[..8].copy_from_slice(&number.to_le_bytes());
    let mut builder = BatchBuilder::new(Codec::None);
    builder.push(&NewRecord {
        timestamp: wall_ms(),
        value: Some(&value),
        ..NewRecord::default()
    });
    builder.build()
}

fn lanes(data: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(data).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let is_lane = |path: &PathBuf| {
        path.file_name()
            .unwrap()
            .to_string_lossy()
            .starts_with("lane-")
    };
    paths.filter(is_lane).collect()
}

/// Writes to the one partition of the lane until it has many tables; returns the log end, or `None` if the lane has no
/// partition.
async fn widen(dir: &Path) -> Option<i64> {
    let config = LaneConfig {
        wal_file_bytes: 256 << 10,
        memtable_bytes: 64 << 10,
        commit_bytes_max: 64 << 10,
        // A flush writes a table of the partition's own, which is merged with no other.
        hot_table_bytes: 1,
        ..LaneConfig::default()
    };
    let (lane, _) = Lane::open(dir, config).await.unwrap();
    let owner = Rc::new(Owner);
    lane.start(Rc::clone(&owner) as Rc<dyn LaneObserver>);
    let key = lane.partitions().first().copied();
    if let Some(key) = key {
        while lane.stats().tables < TABLES {
            let end = lane.log_end(key).unwrap();
            match lane.append(key, end, LeaderEpoch(0), &record(end.0)) {
                Ok(_) => yield_now().await,
                Err(AppendError::Full) => lane.writable().await,
                Err(error) => panic!("append: {error}"),
            }
        }
    }
    let end = key.map(|key| lane.log_end(key).unwrap().0);
    lane.close().await.unwrap();
    end
}

#[test]
fn a_node_with_more_tables_than_descriptors_starts_and_serves() {
    // Proves that tables do not keep their files open: a start under the lowest limit that a node takes finds more
    // tables than that, and all that they hold is read.
    let home = tempfile::tempdir().unwrap();
    let to = TopicPartition::new(TOPIC, 0);
    let broker = Broker::start(home.path(), &[]);
    let connect = |broker: &Broker| {
        Client::connect(&broker.core.to_string(), ClientConfig::default()).unwrap()
    };
    let mut client = connect(&broker);
    client.create_topic(TOPIC, 1, 1).unwrap();
    client.wait_for_topic(TOPIC).unwrap();
    let produced = client.produce_batch(&to, &record(0), Acks::All);
    assert_eq!(produced.unwrap().unwrap().base_offset, Offset(0));
    broker.kill();

    let end = Cell::new(None);
    for dir in lanes(home.path()) {
        let found = run_alone(widen(&dir)).unwrap();
        end.set(found.or(end.get()));
    }
    let end = end.get().expect("a lane has the partition");

    let broker = Broker::start_under("ulimit -n 256", home.path());
    let broker = broker.expect("the node serves with fewer descriptors than tables");
    let mut client = connect(&broker);
    let mut consumer = client.consumer(ConsumerConfig::default());
    consumer.assign(to, Start::Earliest);
    let deadline = Instant::now() + PATIENCE;
    let mut next = 0;
    while next < end {
        let polled = consumer.poll(&mut |_, _, record| {
            let (number, _) = record.value.unwrap().split_first_chunk().unwrap();
            assert_eq!((i64::from_le_bytes(*number), record.offset.0), (next, next));
            next += 1;
        });
        polled.unwrap();
        assert!(Instant::now() < deadline, "read {next} of {end}");
    }
}
