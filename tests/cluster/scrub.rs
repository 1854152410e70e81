//! A disk that rots under a running broker: found, told everywhere an operator looks, and the rest is served.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use std::{fs, io};

use serde_json::Value;
use streambus_client::blocking::{Acks, Client, ClientConfig};
use streambus_client::partition::TopicPartition;
use streambus_proto::error_code::ErrorCode;
use streambus_proto::messages::{FetchRequest, fetch_request as fetch};
use streambus_proto::records::{BatchBuilder, BatchView, Codec, NewRecord};

use crate::process::Broker;
use crate::wire::Wire;

const TOPIC: &str = "rotting";
/// Of each partition, one a batch: some tables of a MiB, and a rest in memory.
const RECORDS: i64 = 40;
const VALUE_BYTES: usize = 128 << 10;
/// More than enough on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);

fn fill(broker: &Broker) {
    let mut client = Client::connect(&broker.core.to_string(), ClientConfig::default()).unwrap();
    client.create_topic(TOPIC, 2, 1).unwrap();
    client.wait_for_topic(TOPIC).unwrap();
    // Retention must not take them for old.
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let now = i64::try_from(since.as_millis()).unwrap();
    for number in 0..RECORDS {
        for partition in 0..2 {
            let mut builder = BatchBuilder::new(Codec::None);
            builder.push(&NewRecord {
                timestamp: now,
                value: Some(&vec![u8::try_from(number).unwrap(); VALUE_BYTES]),
                ..NewRecord::default()
            });
            let to = TopicPartition::new(TOPIC, partition);
            let produced = client.produce_batch(&to, &builder.build(), Acks::All);
            assert_eq!(produced.unwrap().unwrap().base_offset.0, number);
        }
    }
}

/// The tables of the first lane.
pub(crate) fn tables(data: &Path) -> Vec<PathBuf> {
    let lane = fs::read_dir(data.join("lane-0")).unwrap();
    let paths = lane.map(|entry| entry.unwrap().path());
    paths
        .filter(|path| path.extension().is_some_and(|end| end == "tbl"))
        .collect()
}

/// Flips a bit in the data of a table, and returns the byte; an error if the table is gone.
pub(crate) fn damage(table: &Path) -> io::Result<u64> {
    let at = fs::metadata(table)?.len() / 2;
    let file = fs::File::options().read(true).write(true).open(table)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)?;
    file.write_all_at(&[byte[0] ^ 0x40], at)?;
    file.sync_data()?;
    Ok(at)
}

/// Flips a bit in the first table that a flush has finished, and returns its file and the byte.
fn damage_the_first(data: &Path) -> (PathBuf, u64) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(table) = tables(data).into_iter().next() {
            let at = damage(&table).unwrap();
            return (table, at);
        }
        assert!(Instant::now() < deadline, "nothing was flushed");
    }
}

fn get(broker: &Broker, path: &str) -> String {
    let mut stream = TcpStream::connect(broker.admin).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

pub(crate) fn health(broker: &Broker) -> Value {
    serde_json::from_str(&get(broker, "/health")).unwrap()
}

/// Reads a partition from its start; returns where it ended, and the error that ended it, if any.
fn read(broker: &Broker, partition: i32) -> (i64, ErrorCode) {
    let mut wire = Wire::connect(broker.node);
    let mut next = 0;
    while next < RECORDS {
        let request = FetchRequest {
            replica_id: -1,
            max_wait_ms: 100,
            min_bytes: 1,
            max_bytes: 1 << 20,
            session_epoch: -1,
            topics: vec![fetch::FetchTopic {
                topic: TOPIC.into(),
                partitions: vec![fetch::FetchPartition {
                    partition,
                    fetch_offset: next,
                    partition_max_bytes: 1,
                    ..fetch::FetchPartition::default()
                }]
                .into(),
                ..fetch::FetchTopic::default()
            }]
            .into(),
            ..FetchRequest::default()
        };
        let code = wire.ask(&request, 11, |answer| {
            assert_eq!(answer.error_code, 0);
            let topic = answer.responses.iter().next().unwrap();
            let data = topic.partitions.iter().next().unwrap();
            let mut bytes = data.records.bytes().unwrap_or_default();
            while !bytes.is_empty() {
                let (batch, rest) = BatchView::split_first(bytes).unwrap();
                batch.verify().unwrap();
                assert_eq!(batch.base_offset().0, next);
                next = batch.last_offset().0 + 1;
                bytes = rest;
            }
            ErrorCode::from_i16(data.error_code)
        });
        if code != ErrorCode::None {
            return (next, code);
        }
    }
    (next, ErrorCode::None)
}

fn ask_cli(broker: &Broker) -> (Option<i32>, String) {
    let asked = Command::new(env!("CARGO_BIN_EXE_streambus"))
        .args(["health", "--admin", &broker.admin.to_string()])
        .output()
        .unwrap();
    (
        asked.status.code(),
        String::from_utf8(asked.stdout).unwrap(),
    )
}

#[test]
fn damage_under_a_running_broker_is_told_and_costs_only_its_own_bytes() {
    // Proves that a flipped bit in a table of a running broker is found without a read of it; that health, the
    // metrics, the log and the command line name it; that the node stays live and ready; and that a fetch of
    // those bytes is an error for that partition while all before it and the other partition are served.
    let home = tempfile::tempdir().unwrap();
    let (data, log) = (home.path().join("data"), home.path().join("log"));
    let settings = [
        ("STREAMBUS_STORAGE__MEMTABLE_BYTES", "1048576"),
        ("STREAMBUS_STORAGE__WAL_FILE_BYTES", "4194304"),
        ("STREAMBUS_STORAGE__CACHE_BYTES", "0"),
        ("STREAMBUS_STORAGE__MEMTABLES_KEPT_BYTES", "0"),
        ("STREAMBUS_STORAGE__SCRUB_BYTES_PER_SECOND", "268435456"),
        ("STREAMBUS_STORAGE__SCRUB_INTERVAL_MS", "1000"),
    ];
    let broker = Broker::start_logged(&data, &settings, &log);
    fill(&broker);
    assert_eq!(health(&broker)["degraded"], false);
    assert_eq!(ask_cli(&broker), (Some(0), "ready\n".to_owned()));
    let (table, at) = damage_the_first(&data);
    let deadline = Instant::now() + PATIENCE;
    let report = loop {
        let report = health(&broker);
        if report["degraded"] == true {
            break report;
        }
        assert!(Instant::now() < deadline, "never found");
    };
    assert_eq!(report["damage"]["places"], 1, "{report}");
    assert_eq!(report["damage"]["file"], table.display().to_string());
    let position = report["damage"]["position"].as_u64().unwrap();
    assert!((position..position + (64 << 10)).contains(&at), "{report}");
    assert_eq!(
        (&report["live"], &report["ready"]),
        (&true.into(), &true.into())
    );
    let metrics = get(&broker, "/metrics");
    let damaged = "streambus_damaged_places{core=\"0\"} 1";
    assert!(metrics.lines().any(|line| line == damaged), "{metrics}");
    let logged = fs::read_to_string(&log).unwrap();
    let lines: Vec<_> = logged
        .lines()
        .filter(|line| line.contains("is damaged"))
        .collect();
    assert_eq!(lines.len(), 1, "{logged}");
    assert!(
        lines[0].contains(&table.display().to_string()),
        "{}",
        lines[0]
    );
    assert!(lines[0].contains(&position.to_string()), "{}", lines[0]);
    let (code, told) = ask_cli(&broker);
    assert_eq!(code, Some(1));
    assert!(
        told.contains(&format!("{} at byte {position}", table.display())),
        "{told}"
    );
    let mut ends = [read(&broker, 0), read(&broker, 1)];
    ends.sort_by_key(|(end, _)| *end);
    assert_eq!(ends[1], (RECORDS, ErrorCode::None));
    let (end, code) = ends[0];
    assert_eq!(code, ErrorCode::KafkaStorageError);
    assert!((1..RECORDS).contains(&end), "ended at {end}");
    assert!(table.exists());
}
