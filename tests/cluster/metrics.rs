//! Every figure that `/metrics` shows is one that something moves.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use streambus_client::request::encode;
use streambus_proto::error_code::ErrorCode;
use streambus_proto::ids::{ProducerEpoch, ProducerId};
use streambus_proto::messages::{
    DeleteTopicsRequest, ListOffsetsRequest, ProduceRequest, delete_topics_request as delete,
    list_offsets_request as list, produce_request as produce,
};
use streambus_proto::records::{BatchBuilder, Codec, NewRecord};
use streambus_proto::wire::Records;

use crate::hostile::exchange;
use crate::listeners::{counter, scrape};
use crate::overload::{FETCH, greedy};
use crate::process::Broker;
use crate::records::{self, PRODUCE};
use crate::scrub::{damage, health, tables};
use crate::storage_command::storage;
use crate::wire::Wire;

/// More than enough on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);
/// Topics of one partition each; the cores share them.
const KEPT: [&str; 4] = ["kept-a", "kept-b", "kept-c", "kept-d"];
const DOOMED: [&str; 4] = ["doomed-a", "doomed-b", "doomed-c", "doomed-d"];
const COMPACTED: [&str; 2] = ["compacted-a", "compacted-b"];
const VALUE_BYTES: usize = 64 << 10;
/// Of each topic, one a batch: some tables of a MiB on each lane.
const BATCHES: usize = 40;

/// Series that nothing here can move, and why.
const STILL: [(&str, &str); 4] = [
    (
        "streambus_core_stalls_total",
        "a core would have to stand still for five seconds; `ops` tests the count",
    ),
    (
        "streambus_log_lines_dropped_total",
        "standard error would have to be full; `ops` tests the count",
    ),
    (
        "streambus_requests_total{api=\"other\"}",
        "for more APIs than there are: the bound on what a client can make the node remember",
    ),
    (
        "streambus_errors_total{code=\"other\"}",
        "for more codes than there are, likewise",
    ),
];

/// The largest value of each series that was seen, all cores and brokers together.
#[derive(Default)]
struct Seen(BTreeMap<String, f64>);

impl Seen {
    fn look(&mut self, broker: &Broker) {
        let text = scrape(broker.admin);
        let (_, body) = text.split_once("\r\n\r\n").unwrap();
        for line in body.lines().filter(|line| !line.starts_with('#')) {
            let Some((series, value)) = line.rsplit_once(' ') else {
                continue;
            };
            // Of a histogram, how many values it has.
            let name = series.split('{').next().unwrap();
            if name.ends_with("_bucket") || name.ends_with("_sum") {
                continue;
            }
            let seen = self.0.entry(without_core(series)).or_default();
            *seen = seen.max(value.parse().unwrap());
        }
    }

    fn moved(&self, series: &str) -> bool {
        self.0.get(series).is_some_and(|value| *value > 0.0)
    }

    /// Those that never moved, without those of which that is known.
    fn still(&self) -> Vec<&str> {
        let series = self.0.iter().filter(|(_, value)| **value == 0.0);
        let series = series.map(|(series, _)| series.as_str());
        let known = |series: &&str| !STILL.iter().any(|(known, _)| known == series);
        series.filter(known).collect()
    }

    /// Looks until all of these have moved; none means all that there are.
    fn await_moved(&mut self, broker: &Broker, wanted: &[&str]) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.look(broker);
            let missing: Vec<&str> = match wanted {
                [] => self.still(),
                wanted => {
                    let missing = wanted.iter().filter(|series| !self.moved(series));
                    missing.copied().collect()
                }
            };
            if missing.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "never moved: {missing:#?}");
            // The cores report twice a second.
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// A series' name and labels, less its core and its topic.
fn without_core(series: &str) -> String {
    let Some((name, labels)) = series.split_once('{') else {
        return series.to_owned();
    };
    let labels = labels.trim_end_matches('}').split(',');
    let others: Vec<&str> = labels
        .filter(|label| !label.starts_with("core=") && !label.starts_with("topic="))
        .collect();
    if others.is_empty() {
        name.to_owned()
    } else {
        format!("{name}{{{}}}", others.join(","))
    }
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(since.as_millis()).unwrap()
}

/// A batch of one record. Retention must not take it for old.
fn batch(value_bytes: usize) -> Vec<u8> {
    let mut builder = BatchBuilder::new(Codec::None);
    builder.push(&NewRecord {
        timestamp: now_ms(),
        key: Some(b"key"),
        value: Some(&vec![7; value_bytes]),
        ..NewRecord::default()
    });
    builder.build()
}

fn fill(wire: &mut Wire) {
    for topic in KEPT.iter().chain(&DOOMED) {
        records::create(wire, topic, &[]);
    }
    let compact = [
        ("cleanup.policy", "compact"),
        ("min.cleanable.dirty.ratio", "0"),
    ];
    for topic in COMPACTED {
        records::create(wire, topic, &compact);
    }
    let batch = batch(VALUE_BYTES);
    for _ in 0..BATCHES {
        for topic in KEPT.iter().chain(&DOOMED).chain(&COMPACTED) {
            assert_eq!(records::send(wire, topic, &batch, PRODUCE).code, 0);
        }
    }
}

fn delete(wire: &mut Wire, topics: &[&'static str]) {
    let request = DeleteTopicsRequest {
        topics: topics
            .iter()
            .map(|name| delete::DeleteTopicState {
                name: Some((*name).into()),
                ..delete::DeleteTopicState::default()
            })
            .collect(),
        timeout_ms: 10_000,
        ..DeleteTopicsRequest::default()
    };
    wire.ask(&request, 6, |answer| {
        assert!(answer.responses.iter().all(|topic| topic.error_code == 0));
    });
}

/// Asks for offsets of topics that there aren't: an error for each partition.
fn ask_in_vain(wire: &mut Wire) {
    let request = ListOffsetsRequest {
        replica_id: -1,
        topics: vec![list::ListOffsetsTopic {
            name: "nowhere".into(),
            partitions: vec![
                list::ListOffsetsPartition::default(),
                list::ListOffsetsPartition::default(),
            ]
            .into(),
        }]
        .into(),
        ..ListOffsetsRequest::default()
    };
    wire.ask(&request, 4, |answer| {
        assert_eq!(answer.topics.iter().next().unwrap().partitions.len(), 2);
    });
}

fn produce_to<'a>(topic: &'static str, acks: i16, batch: &'a [u8]) -> ProduceRequest<'a> {
    ProduceRequest {
        transactional_id: None,
        acks,
        timeout_ms: 10_000,
        topic_data: vec![produce::TopicProduceData {
            name: topic.into(),
            partition_data: vec![produce::PartitionProduceData {
                index: 0,
                records: Records::Bytes(batch),
            }]
            .into(),
            ..produce::TopicProduceData::default()
        }]
        .into(),
    }
}

/// Produces more at once than one core may have under way at the other, whichever core takes the
/// connections.
fn flood(broker: &Broker) {
    let batch = batch(16);
    let request = encode(&produce_to(KEPT[0], 1, &batch), PRODUCE, 1, "test");
    let requests = request.unwrap().bytes.repeat(1_000);
    let mut wires: Vec<Wire> = (0..4).map(|_| Wire::connect(broker.node)).collect();
    for wire in &mut wires {
        wire.raw(&requests).unwrap();
    }
    for wire in &mut wires {
        for _ in 0..1_000 {
            assert!(wire.receive().is_some());
        }
    }
}

/// Two connections that the broker has taken: until then a third may come before them, on the other core.
fn served(broker: &Broker) -> [Wire; 2] {
    [(); 2].map(|()| {
        let mut wire = Wire::connect(broker.node);
        ask_in_vain(&mut wire);
        wire
    })
}

/// A client that asks for everything again and again, and takes nothing.
fn deaf(broker: &Broker) -> Wire {
    let mut wire = Wire::connect(broker.node);
    let request = greedy(KEPT[0], 1, 1, 0);
    for _ in 0..100 {
        // The broker may have had enough before all are sent.
        let _ = wire.send(&request, FETCH);
    }
    wire
}

/// Flips a bit in the last commit of a lane, as if the power had gone while it was written.
fn tear(data: &Path) {
    let (code, listed, errors) = storage("inspect", data, &["--records"]);
    assert_eq!(code, Some(0), "{errors}");
    let lane = listed
        .split(&format!("{}/", data.display()))
        .find(|lane| lane.starts_with("lane-") && lane.contains("\n  commit "))
        .unwrap();
    let mut commits = lane.lines().filter(|line| line.starts_with("  commit "));
    let words: Vec<&str> = commits.next_back().unwrap().split([' ', ':']).collect();
    let at = words.iter().position(|word| *word == "at").unwrap();
    let path: PathBuf = data.join(lane.lines().next().unwrap()).join(words[at + 1]);
    // In the header of its first record: what follows may be padding, as after a drop.
    let position = words[at + 3].parse::<u64>().unwrap() + 100;
    let file = fs::File::options().read(true).write(true).open(path);
    let file = file.unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, position).unwrap();
    file.write_all_at(&[byte[0] ^ 1], position).unwrap();
}

/// Everything that one broker can be brought to do; it is killed in the end.
fn work(seen: &mut Seen, data: &Path) {
    let settings = [
        ("STREAMBUS_STORAGE__MEMTABLE_BYTES", "1048576"),
        ("STREAMBUS_STORAGE__WAL_FILE_BYTES", "4194304"),
        ("STREAMBUS_STORAGE__MEMTABLES_KEPT_BYTES", "2097152"),
        ("STREAMBUS_STORAGE__SCRUB_BYTES_PER_SECOND", "268435456"),
        ("STREAMBUS_STORAGE__SCRUB_INTERVAL_MS", "1000"),
        ("STREAMBUS_TOPICS__RETENTION_CHECK_INTERVAL_MS", "100"),
        ("STREAMBUS_LIMITS__IDLE_TIMEOUT_MS", "5000"),
        ("STREAMBUS_LIMITS__REQUEST_READ_TIMEOUT_MS", "500"),
        ("STREAMBUS_LIMITS__WRITE_TIMEOUT_MS", "500"),
    ];
    let broker = Broker::start(data, &settings);
    let mut wire = Wire::connect(broker.node);
    fill(&mut wire);
    for _ in 0..2 {
        for topic in KEPT {
            wire.ask(&greedy(topic, 1, 1, 0), FETCH, |answer| {
                assert_eq!(answer.responses.len(), 1);
            });
        }
    }
    records::create(&mut wire, "quiet", &[]);
    wire.ask(&greedy("quiet", 1, 1, 100), FETCH, |_| ());
    ask_in_vain(&mut wire);
    seen.look(&broker);
    delete(&mut wire, &DOOMED);
    assert_eq!(exchange(broker.node, b"GET / HTTP/1.1\r\n\r\n"), b"");
    assert_eq!(exchange(broker.node, &[0, 0, 1, 0]), b"", "half a request");
    assert_eq!(exchange(broker.node, &[]), b"", "idle");
    let deaf = deaf(&broker);
    let deadline = Instant::now() + PATIENCE;
    while !seen.moved("streambus_mesh_full_total") {
        assert!(Instant::now() < deadline, "the other core always had room");
        flood(&broker);
        seen.look(&broker);
    }
    let deadline = Instant::now() + PATIENCE;
    seen.await_moved(
        &broker,
        &[
            "streambus_cleanings_total",
            "streambus_merges_total",
            "streambus_storage_written_bytes_total{stage=\"rewrite\"}",
            "streambus_connections_refused_total{reason=\"slow_reader\"}",
        ],
    );
    // A table may be merged away before anybody reads it: then those that come are damaged.
    let mut damaged = BTreeSet::new();
    let found = ["streambus_damaged_places", "streambus_damage_found_total"];
    while !found.iter().all(|series| seen.moved(series)) {
        assert!(Instant::now() < deadline, "no damage was found");
        for table in tables(data) {
            if !damaged.contains(&table) && damage(&table).is_ok() {
                damaged.insert(table);
            }
        }
        seen.look(&broker);
    }
    drop(deaf);
    broker.kill();
}

#[test]
fn every_figure_is_one_that_something_moves() {
    // Proves that no metric is shown which nothing writes: over the life of three brokers each series of each
    // family leaves zero, but for those of a short table.
    let home = tempfile::tempdir().unwrap();
    let (data, other) = (home.path().join("data"), home.path().join("other"));
    let mut seen = Seen::default();
    work(&mut seen, &data);

    tear(&data);
    let limit = ("STREAMBUS_LIMITS__CONNECTIONS_PER_IP_MAX", "2");
    let broker = Broker::start_logged(&data, &[limit], &home.path().join("log"));
    let held = served(&broker);
    assert_eq!(exchange(broker.node, &[]), b"", "the third of an address");
    seen.look(&broker);
    drop(held);
    broker.kill();

    let settings = [
        ("STREAMBUS_LIMITS__CONNECTIONS_MAX", "2"),
        ("STREAMBUS_STORAGE__MIN_FREE_BYTES", "1099511627776"),
    ];
    let broker = Broker::start(&other, &settings);
    let held = served(&broker);
    assert_eq!(exchange(broker.node, &[]), b"", "the third of all");
    if streambus_shards::disk::free_bytes(&other).unwrap() < 1 << 40 {
        seen.await_moved(&broker, &[]);
    } else {
        println!("SKIP streambus_low_space: this disk has more free than any limit");
        seen.look(&broker);
        assert_eq!(seen.still(), ["streambus_low_space"]);
    }
    drop(held);
    for (series, _) in STILL {
        assert!(
            seen.0.contains_key(series),
            "{series} is not there any more"
        );
    }
}

#[test]
fn produce_counts_what_was_appended_and_errors_what_was_answered() {
    // Proves: a duplicate and a refused batch are no batch appended, one that nobody waits for is; and each
    // partition of an answer that says an error is counted, whatever the API.
    let home = tempfile::tempdir().unwrap();
    let broker = Broker::start(home.path(), &[]);
    let mut wire = Wire::connect(broker.node);
    records::create(&mut wire, "counted", &[]);
    let mut builder = BatchBuilder::new(Codec::None);
    builder.set_producer(ProducerId(7), ProducerEpoch(0), 0);
    for _ in 0..3 {
        builder.push(&NewRecord {
            timestamp: now_ms(),
            value: Some(b"value"),
            ..NewRecord::default()
        });
    }
    let sequenced = builder.build();
    for _ in 0..2 {
        let told = records::send(&mut wire, "counted", &sequenced, PRODUCE);
        assert_eq!(told.code, 0, "{told:?}");
    }
    let mut torn = batch(16);
    torn.truncate(40);
    let told = records::send(&mut wire, "counted", &torn, PRODUCE);
    assert_eq!(told.code, ErrorCode::CorruptMessage.code());
    let unheard = batch(16);
    let request = produce_to("counted", 0, &unheard);
    wire.send(&request, PRODUCE).unwrap();
    // Answered after it.
    ask_in_vain(&mut wire);
    let told = records::send(&mut wire, "nowhere", &sequenced, PRODUCE);
    assert_eq!(told.code, ErrorCode::UnknownTopicOrPartition.code());
    let text = scrape(broker.admin);
    let bytes = u64::try_from(sequenced.len() + unheard.len()).unwrap();
    for (name, count) in [
        ("streambus_produce_batches_total{", 2),
        ("streambus_produce_records_total{", 4),
        ("streambus_produce_bytes_total{", bytes),
    ] {
        assert_eq!(counter(&text, name), count, "{name}\n{text}");
    }
    let mut seen = Seen::default();
    seen.look(&broker);
    let errors = |code: &str| {
        seen.0
            .get(&format!("streambus_errors_total{{code=\"{code}\"}}"))
            .copied()
    };
    assert_eq!(errors("UNKNOWN_TOPIC_OR_PARTITION"), Some(3.0), "{text}");
    assert_eq!(errors("CORRUPT_MESSAGE"), Some(1.0), "{text}");
}

#[test]
fn a_node_that_takes_no_produce_for_want_of_space_says_so() {
    // Proves that health, and a gauge, name what a producer is told: where, how much is free, and the setting.
    let home = tempfile::tempdir().unwrap();
    let settings = [("STREAMBUS_STORAGE__MIN_FREE_BYTES", "1099511627776")];
    let broker = Broker::start(home.path(), &settings);
    if streambus_shards::disk::free_bytes(home.path()).unwrap() >= 1 << 40 {
        println!("SKIP: this disk has more free than any limit");
        return;
    }
    let mut wire = Wire::connect(broker.node);
    records::create(&mut wire, "full", &[]);
    let told = records::send(&mut wire, "full", &batch(16), PRODUCE);
    assert_eq!(told.code, ErrorCode::KafkaStorageError.code());
    let deadline = Instant::now() + PATIENCE;
    let report = loop {
        let report = health(&broker);
        if report["degraded"] == true {
            break report;
        }
        assert!(Instant::now() < deadline, "{report}");
    };
    assert_eq!(
        (&report["live"], &report["ready"], &report["damage"]),
        (&true.into(), &true.into(), &serde_json::Value::Null)
    );
    assert_eq!(report["low_space"]["min_free_bytes"], 1_u64 << 40);
    let reason = report["reason"].as_str().unwrap();
    let directory = home.path().display().to_string();
    for part in [directory.as_str(), "storage.min_free_bytes=1099511627776"] {
        assert!(reason.contains(part), "{part} is not in {reason}");
    }
    assert_eq!(counter(&scrape(broker.admin), "streambus_low_space{"), 2);
}

/// The figures of one family by topic.
fn by_topic(broker: &Broker, family: &str) -> BTreeMap<String, u64> {
    let text = scrape(broker.admin);
    let start = format!("{family}{{topic=\"");
    let series = text.lines().filter_map(|line| line.strip_prefix(&start));
    let series = series.map(|series| {
        let (topic, value) = series.split_once("\"} ").unwrap();
        (topic.to_owned(), value.parse().unwrap())
    });
    series.collect()
}

#[test]
fn topics_have_figures_of_their_own_within_a_limit() {
    // Proves, over TCP, with both cores: what is appended, sent and held is counted by topic; topics beyond the limit
    // share a series; a topic that is deleted takes its series along; after a restart the first by name have theirs.
    let home = tempfile::tempdir().unwrap();
    let settings = [
        ("STREAMBUS_METRICS__TOPICS_MAX", "2"),
        ("STREAMBUS_TOPICS__RETENTION_CHECK_INTERVAL_MS", "100"),
    ];
    let broker = Broker::start(home.path(), &settings);
    let mut wire = Wire::connect(broker.node);
    let batch = batch(100);
    let bytes = batch.len() as u64;
    let named = |figures: &[(&str, u64)]| -> BTreeMap<String, u64> {
        let owned = figures
            .iter()
            .map(|(name, value)| ((*name).to_owned(), *value));
        owned.collect()
    };
    for (topic, batches) in [("b", 1), ("d", 2), ("a", 3), ("c", 4)] {
        records::create(&mut wire, topic, &[]);
        for _ in 0..batches {
            assert_eq!(records::send(&mut wire, topic, &batch, PRODUCE).code, 0);
        }
    }
    for topic in ["b", "d", "a"] {
        wire.ask(&greedy(topic, 1, 1, 0), FETCH, |answer| {
            assert_eq!(answer.responses.len(), 1);
        });
    }
    let records_in = named(&[("b", 1), ("d", 2), ("(other)", 7)]);
    let bytes_in = named(&[("b", bytes), ("d", 2 * bytes), ("(other)", 7 * bytes)]);
    let records_out = named(&[("b", 1), ("d", 2), ("(other)", 3)]);
    let bytes_out = named(&[("b", bytes), ("d", 2 * bytes), ("(other)", 3 * bytes)]);
    for (family, expected) in [
        ("streambus_topic_records_in_total", &records_in),
        ("streambus_topic_bytes_in_total", &bytes_in),
        ("streambus_topic_records_out_total", &records_out),
        ("streambus_topic_bytes_out_total", &bytes_out),
    ] {
        assert_eq!(&by_topic(&broker, family), expected, "{family}");
    }
    let await_sizes = |broker: &Broker, expected: &BTreeMap<String, u64>| {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let sizes = by_topic(broker, "streambus_topic_log_bytes");
            if &sizes == expected {
                return;
            }
            assert!(Instant::now() < deadline, "{sizes:?}, not {expected:?}");
        }
    };
    await_sizes(&broker, &bytes_in);
    delete(&mut wire, &["d", "c"]);
    await_sizes(&broker, &named(&[("b", bytes), ("(other)", 3 * bytes)]));
    records::create(&mut wire, "e", &[]);
    let expected = named(&[("b", 1), ("e", 0), ("(other)", 7)]);
    assert_eq!(
        by_topic(&broker, "streambus_topic_records_in_total"),
        expected
    );
    broker.kill();
    let broker = Broker::start(home.path(), &settings);
    await_sizes(
        &broker,
        &named(&[("a", 3 * bytes), ("b", bytes), ("(other)", 0)]),
    );
}
