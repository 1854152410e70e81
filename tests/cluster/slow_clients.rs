//! Clients that are slow, or wait: deadlines are on progress, and a stop reaches those that wait.

use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use streambus_client::blocking::{Client, ClientConfig, OffsetSpec};
use streambus_client::consumer::Isolation;
use streambus_client::partition::TopicPartition;
use streambus_proto::messages::{FetchRequest, MetadataRequest, ProduceRequest};
use streambus_proto::messages::{fetch_request as fetch, produce_request as produce};
use streambus_proto::records::{BatchBuilder, Codec, NewRecord};
use streambus_proto::wire::Records;

use crate::hostile::exchange;
use crate::listeners::{counter, scrape};
use crate::overload::{FETCH, fill, greedy};
use crate::process::{Broker, command};
use crate::wire::{PATIENCE, Wire};

const MIB: usize = 1 << 20;
/// By topic name.
const PRODUCE: i16 = 8;

fn log_of(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn a_steady_slow_reader_gets_all_and_one_that_takes_nothing_is_cut() {
    // Proves that the deadline for an answer is on progress: a client that takes 4 MB/s needs three times
    // limits.write_timeout_ms for its answer and gets all of it; one that takes nothing is cut, and the log says who it
    // was and how much it had.
    let home = tempfile::tempdir().unwrap();
    let log = home.path().join("log");
    let data = home.path().join("data");
    let settings = [("STREAMBUS_LIMITS__WRITE_TIMEOUT_MS", "2000")];
    let broker = Broker::start_logged(&data, &settings, &log);
    fill(broker.core, "bulk", 1, 24);
    let mut deaf = Wire::connect(broker.core);
    let peer = deaf.local_address();
    deaf.send(&greedy("bulk", 1, 1, 0), FETCH).unwrap();
    let mut slow = Wire::connect(broker.core);
    slow.send(&greedy("bulk", 1, 1, 0), FETCH).unwrap();
    let began = Instant::now();
    let answer = slow.receive_slowly(4 * MIB).expect("the whole answer");
    assert!(answer.len() > 23 * MIB, "{} bytes", answer.len());
    assert!(began.elapsed() > Duration::from_secs(4), "it was slow");
    slow.ask(&MetadataRequest::default(), 1, |answer| {
        assert!(!answer.brokers.is_empty(), "the connection goes on");
    });
    // It is cut while nobody reads; then what was on its way comes, and the end.
    let deadline = Instant::now() + PATIENCE;
    let cut = || {
        log_of(&log)
            .lines()
            .find(|line| line.contains("was cut"))
            .map(str::to_owned)
    };
    while cut().is_none() {
        assert!(
            Instant::now() < deadline,
            "nobody was cut: {}",
            log_of(&log)
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    let line = cut().unwrap();
    assert!(
        line.contains(&peer.to_string()),
        "{line} does not name {peer}"
    );
    assert!(
        line.contains("taken_bytes") && line.contains("write_timeout_ms=2000"),
        "{line}"
    );
    assert_eq!(deaf.receive(), None);
}

/// One batch of a record with a small value for partition 0 of a topic.
fn batch() -> Vec<u8> {
    let mut builder = BatchBuilder::new(Codec::None);
    builder.push(&NewRecord {
        timestamp: 1_700_000_000_000,
        value: Some(&[7; 100]),
        ..NewRecord::default()
    });
    builder.build()
}

/// A produce request of one batch for each of the partitions.
fn produced<'a>(
    topic: &'static str,
    partitions: &[i32],
    acks: i16,
    batch: &'a [u8],
) -> ProduceRequest<'a> {
    let partitions = partitions
        .iter()
        .map(|index| produce::PartitionProduceData {
            index: *index,
            records: Records::Bytes(batch),
        });
    let topic = produce::TopicProduceData {
        name: topic.into(),
        partition_data: partitions.collect(),
        ..produce::TopicProduceData::default()
    };
    ProduceRequest {
        acks,
        timeout_ms: 30_000,
        topic_data: vec![topic].into(),
        ..ProduceRequest::default()
    }
}

#[test]
fn a_refused_batch_without_an_answer_ends_the_connection() {
    // Proves Kafka's rule for acks=0, for a topic that is not there, a partition that is not, a batch that is broken,
    // and batches for another core: the connection ends, and what was taken beside the refused batch is in the log. Batches
    // that are taken leave the connection open.
    let home = tempfile::tempdir().unwrap();
    let broker = Broker::start(home.path(), &[]);
    let mut client = Client::connect(&broker.node.to_string(), ClientConfig::default()).unwrap();
    client.create_topic("rows", 4, 1).unwrap();
    let good = batch();
    let mut torn = good.clone();
    *torn.last_mut().unwrap() ^= 1;
    let mut taken = 0;
    for _ in 0..4 {
        // Connections to the node's address come to either core, and own two of the partitions or the other two.
        let mut wire = Wire::connect(broker.node);
        wire.send(&produced("rows", &[0, 1, 2, 3], 0, &good), PRODUCE)
            .unwrap();
        wire.ask(&MetadataRequest::default(), 1, |_| ());
        taken += 1;
        let refused: [(&'static str, &[i32], &[u8]); 4] = [
            ("gone", &[0], &good),
            ("rows", &[0, 1, 2, 3, 9], &good),
            ("rows", &[0], &torn),
            ("rows", &[1], &torn),
        ];
        for (topic, partitions, batch) in refused {
            let mut wire = Wire::connect(broker.node);
            wire.send(&produced(topic, partitions, 0, batch), PRODUCE)
                .unwrap();
            assert_eq!(wire.receive(), None, "{topic} {partitions:?}");
            taken += i64::from(partitions.len() == 5);
        }
    }
    let deadline = Instant::now() + PATIENCE;
    for partition in 0..4 {
        let partition = TopicPartition::new("rows", partition);
        let question = [(partition.clone(), OffsetSpec::Latest)];
        let mut end = || {
            let listed = client
                .list_offsets(&question, Isolation::ReadUncommitted)
                .unwrap();
            listed[&partition].offset.unwrap().0
        };
        while end() < taken {
            assert!(
                Instant::now() < deadline,
                "{partition} has {} of {taken}",
                end()
            );
        }
        assert_eq!(end(), taken, "{partition}");
    }
}

/// A fetch of one topic's partitions from the start that wants this many bytes.
fn patient(
    topic: &'static str,
    partitions: i32,
    bytes_min: i32,
    partition_max: i32,
) -> FetchRequest<'static> {
    let mut request = greedy(topic, partitions, 1, i32::MAX);
    request.min_bytes = bytes_min;
    request.topics = vec![fetch::FetchTopic {
        topic: topic.into(),
        partitions: (0..partitions)
            .map(|partition| fetch::FetchPartition {
                partition,
                fetch_offset: 0,
                partition_max_bytes: partition_max,
                ..fetch::FetchPartition::default()
            })
            .collect(),
        ..fetch::FetchTopic::default()
    }]
    .into();
    request
}

/// How often fetches have read so far.
fn reads(broker: &Broker) -> u64 {
    let stages = scrape(broker.admin);
    let of_reads: Vec<&str> = stages
        .lines()
        .filter(|line| line.contains("stage=\"read\""))
        .collect();
    counter(&of_reads.join("\n"), "streambus_fetch_stage_seconds_count")
}

#[test]
fn a_fetch_that_waits_for_many_bytes_reads_when_they_are_there() {
    // Proves that small commits neither wake a fetch that waits for many bytes nor have it read: at the core of both
    // partitions or another, it reads a few times while 200 batches come, and is answered with what it waited for.
    let home = tempfile::tempdir().unwrap();
    let broker = Broker::start(home.path(), &[]);
    let mut client = Client::connect(&broker.node.to_string(), ClientConfig::default()).unwrap();
    client.create_topic("rows", 2, 1).unwrap();
    let batch = batch();
    let bytes_min = 100 * batch.len();
    let mut waiting: Vec<Wire> = (0..4).map(|_| Wire::connect(broker.node)).collect();
    let request = patient("rows", 2, i32::try_from(bytes_min).unwrap(), 1 << 20);
    for wire in &mut waiting {
        wire.send(&request, FETCH).unwrap();
    }
    let deadline = Instant::now() + PATIENCE;
    while reads(&broker) < 4 {
        assert!(Instant::now() < deadline, "the fetches did not begin");
    }
    let mut producer = Wire::connect(broker.node);
    for number in 0..200 {
        let partition = number % 2;
        producer.ask(
            &produced("rows", &[partition], -1, &batch),
            PRODUCE,
            |answer| {
                let topic = answer.responses.iter().next().unwrap();
                assert_eq!(
                    topic.partition_responses.iter().next().unwrap().error_code,
                    0
                );
            },
        );
    }
    for wire in &mut waiting {
        let answer = wire.receive().expect("an answer");
        assert!(answer.len() >= bytes_min, "{} of {bytes_min}", answer.len());
    }
    // Two cores know nothing of each other: each wakes for its half, so there are some more than two each.
    let reads = reads(&broker);
    assert!(reads <= 4 * 8, "{reads} reads for four answers");
}

/// Has processes that this thread starts take signals to stop: the test runner's first thread, which is in them too,
/// would else let one end the process. They inherit what is blocked here.
fn take_signals() {
    streambus_shards::catch_stop_signals().unwrap();
}

fn terminate(broker: &Broker) {
    let id = broker.id().to_string();
    let sent = Command::new("kill").args(["-TERM", &id]).status().unwrap();
    assert!(sent.success());
}

#[test]
fn a_stop_answers_fetches_that_wait_and_ends_at_once() {
    // Proves that a stop does not wait for the time of parked fetches, at the core that owns the partition or another:
    // all are answered, and the process ends well within shutdown.drain_timeout_ms.
    let home = tempfile::tempdir().unwrap();
    let settings = [("STREAMBUS_SHUTDOWN__DRAIN_TIMEOUT_MS", "60000")];
    take_signals();
    let mut broker = Broker::start(home.path(), &settings);
    let mut client = Client::connect(&broker.node.to_string(), ClientConfig::default()).unwrap();
    client.create_topic("quiet", 4, 1).unwrap();
    drop(client);
    let mut waiting: Vec<Wire> = (0..20).map(|_| Wire::connect(broker.node)).collect();
    for wire in &mut waiting {
        wire.send(&greedy("quiet", 4, 1, i32::MAX), FETCH).unwrap();
    }
    let deadline = Instant::now() + PATIENCE;
    while reads(&broker) < 20 {
        assert!(Instant::now() < deadline, "the fetches did not begin");
    }
    let began = Instant::now();
    terminate(&broker);
    for wire in &mut waiting {
        assert!(wire.receive().is_some(), "an answer");
        assert_eq!(wire.receive(), None, "then the end");
    }
    let status: ExitStatus = broker.ended();
    assert!(status.success(), "{status}");
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
}

#[test]
fn a_stop_while_the_node_starts_ends_it() {
    // Proves that a signal that is there before any core serves is not lost on one of them: the node starts, stops and
    // ends with 0.
    take_signals();
    for cores in ["1", "2"] {
        let home = tempfile::tempdir().unwrap();
        let mut process = command(home.path(), &[("STREAMBUS_NODE__CORES", cores)])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let id = process.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &id]).status().unwrap();
        assert!(sent.success());
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = process.try_wait().unwrap() {
                break status;
            }
            if Instant::now() >= deadline {
                process.kill().unwrap();
                process.wait().unwrap();
                panic!("a node of {cores} cores does not end");
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        assert!(status.success(), "{status}");
    }
}

#[test]
fn a_stuck_core_does_not_keep_the_process() {
    // Proves that a process with a core in an endless loop ends after SIGTERM, once the time to drain is over and the core
    // has been silent for so long that it counts as stalled, with a line that says so and exit code 1.
    let home = tempfile::tempdir().unwrap();
    let (data, log) = (home.path().join("data"), home.path().join("log"));
    let settings = [
        (crate::process::STUCK, "1"),
        ("STREAMBUS_SHUTDOWN__DRAIN_TIMEOUT_MS", "1000"),
    ];
    take_signals();
    let mut broker = Broker::start_logged(&data, &settings, &log);
    let deadline = Instant::now() + PATIENCE;
    let live = || {
        exchange(
            broker.admin,
            b"GET /health/live HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n",
        )
    };
    while live().starts_with(b"HTTP/1.1 200") {
        assert!(Instant::now() < deadline, "the core is not stuck");
        std::thread::sleep(Duration::from_millis(100));
    }
    let began = Instant::now();
    terminate(&broker);
    let status = broker.ended();
    assert_eq!(status.code(), Some(1), "{status}");
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    let log = log_of(&log);
    let last = log.lines().last().unwrap();
    assert!(last.contains("cores [0] are stuck"), "{log}");
    assert!(last.contains("drain_timeout_ms=1000"), "{log}");
}
