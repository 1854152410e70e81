//! Clients that take more than their share (fault rows 30, 31 and 34): memory and descriptors stay within
//! bounds, and everybody else is served.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use streambus_client::blocking::{Client, ClientConfig};
use streambus_client::partition::TopicPartition;
use streambus_client::producer::ProducerConfig;
use streambus_proto::messages::{FetchRequest, MetadataRequest, fetch_request as fetch};
use streambus_shards::probe;

use crate::process::{Broker, resident, resident_at_rest};
use crate::wire::{PATIENCE, Wire};

/// Fetch by topic name, without a session.
pub(crate) const FETCH: i16 = 4;
const MIB: u64 = 1 << 20;

fn client(address: SocketAddr) -> Client {
    Client::connect(&address.to_string(), ClientConfig::default()).unwrap()
}

/// Makes a topic and puts `mib` megabytes into each of its partitions.
pub(crate) fn fill(address: SocketAddr, topic: &str, partitions: i32, mib: usize) {
    let mut client = client(address);
    client.create_topic(topic, partitions, 1).unwrap();
    let mut producer = client.producer(ProducerConfig::default());
    let value = vec![7; 16 << 10];
    for partition in 0..partitions {
        let to = TopicPartition::new(topic, partition);
        for _ in 0..mib * 64 {
            producer.send(&to, None, &value).unwrap();
        }
        producer.flush().unwrap();
    }
}

/// Asks for `times` x all of some partitions, of each as much as can be said.
pub(crate) fn greedy(
    topic: &'static str,
    partitions: i32,
    times: usize,
    wait_ms: i32,
) -> FetchRequest<'static> {
    let wanted = (0..times).flat_map(|_| 0..partitions);
    let partitions = wanted.map(|partition| fetch::FetchPartition {
        partition,
        fetch_offset: 0,
        partition_max_bytes: i32::MAX,
        ..fetch::FetchPartition::default()
    });
    FetchRequest {
        replica_id: -1,
        max_wait_ms: wait_ms,
        min_bytes: i32::MAX,
        max_bytes: i32::MAX,
        session_epoch: -1,
        topics: vec![fetch::FetchTopic {
            topic: topic.into(),
            partitions: partitions.collect(),
            ..fetch::FetchTopic::default()
        }]
        .into(),
        ..FetchRequest::default()
    }
}

/// Waits until `holds`, or fails.
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "never came true: {what}");
        // Not so often that the looks are the load.
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn descriptors(process: u32) -> usize {
    std::fs::read_dir(format!("/proc/{process}/fd"))
        .unwrap()
        .count()
}

/// The 99th percentile of so many round trips.
fn p99(wire: &mut Wire) -> Duration {
    let mut taken: Vec<Duration> = (0..300)
        .map(|_| {
            let began = Instant::now();
            wire.ask(&MetadataRequest::default(), 1, |answer| {
                assert!(!answer.brokers.is_empty());
            });
            began.elapsed()
        })
        .collect();
    taken.sort();
    taken[taken.len() * 99 / 100]
}

#[test]
fn unfinished_requests_cost_little_and_end_by_their_deadline() {
    // Proves fault row 30: a thousand clients that announce 90 MiB and send a byte now and then hold no more
    // memory than they sent, do not slow others down, and are closed by the deadline that began with
    // their first byte.
    probe::raise_open_files();
    let home = tempfile::tempdir().unwrap();
    let broker = Broker::start(
        home.path(),
        &[("STREAMBUS_LIMITS__REQUEST_READ_TIMEOUT_MS", "3000")],
    );
    let mut other = Wire::connect(broker.core);
    p99(&mut other);
    let alone = p99(&mut other);
    let before = resident_at_rest(broker.id());
    let began = Instant::now();
    let mut slow: Vec<Wire> = (0..1_000).map(|_| Wire::connect(broker.core)).collect();
    for wire in &mut slow {
        wire.raw(&(90_i32 << 20).to_be_bytes()).unwrap();
    }
    let crowded = p99(&mut other);
    let grown = resident(broker.id()).saturating_sub(before);
    assert!(
        grown < 1_000 * (64 << 10),
        "{grown} bytes for 1,000 unfinished requests"
    );
    assert!(
        crowded < 2 * alone + Duration::from_millis(25),
        "p99 of others went from {alone:?} to {crowded:?}"
    );
    let mut drips = 0;
    while slow[0].raw(&[0]).is_ok() {
        drips += 1;
        assert!(began.elapsed() < PATIENCE, "still open after {drips} drips");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(drips > 5, "closed after {drips} drips: too early");
    for wire in &mut slow {
        assert_eq!(wire.receive(), None, "each is closed");
    }
}

#[test]
fn flood_of_connections_leaves_memory_and_descriptors_flat() {
    // Proves fault row 31: beyond limits.connections_max connections are closed at once, whatever their
    // number; the admin address is another's, and answers.
    let home = tempfile::tempdir().unwrap();
    let broker = Broker::start(
        home.path(),
        &[
            ("STREAMBUS_LIMITS__CONNECTIONS_MAX", "50"),
            ("STREAMBUS_LIMITS__CONNECTIONS_PER_IP_MAX", "50"),
        ],
    );
    let mut held: Vec<Wire> = (0..50).map(|_| Wire::connect(broker.core)).collect();
    for wire in &mut held {
        // An answer: each of them has its place.
        wire.ask(&MetadataRequest::default(), 1, |_| ());
    }
    let (memory, files) = (resident_at_rest(broker.id()), descriptors(broker.id()));
    for round in 0..20 {
        let flood: Vec<Wire> = (0..100).map(|_| Wire::connect(broker.core)).collect();
        for mut wire in flood {
            assert_eq!(wire.receive(), None, "round {round}");
        }
    }
    let more_files = descriptors(broker.id()).saturating_sub(files);
    assert!(
        more_files < 60,
        "{more_files} descriptors more after 2,000 refused connections"
    );
    let grown = resident(broker.id()).saturating_sub(memory);
    assert!(
        grown < 8 * MIB,
        "{grown} bytes more after 2,000 refused connections"
    );
    assert!(std::net::TcpStream::connect(broker.admin).is_ok());
    drop(held);
    eventually("places come back", || {
        let mut wire = Wire::connect(broker.core);
        wire.send(&MetadataRequest::default(), 1).is_ok() && wire.receive().is_some()
    });
}

#[test]
fn clients_that_never_read_are_bounded_and_closed() {
    // Proves the bound on answers (fault row 30): 40 clients that pipeline fetches of everything and read
    // nothing hold what limits.fetch_bytes_per_core_max allows, others go on, and the deadline for
    // writing ends them.
    let home = tempfile::tempdir().unwrap();
    let broker = Broker::start(
        home.path(),
        &[
            ("STREAMBUS_LIMITS__FETCH_BYTES_PER_CORE_MAX", "33554432"),
            ("STREAMBUS_LIMITS__WRITE_TIMEOUT_MS", "3000"),
        ],
    );
    fill(broker.core, "bulk", 2, 48);
    let before = resident_at_rest(broker.id());
    let request = greedy("bulk", 2, 1, 0);
    let mut deaf: Vec<Wire> = (0..40).map(|_| Wire::connect(broker.core)).collect();
    for wire in &mut deaf {
        for _ in 0..100 {
            // Once its queue is full it is not read any more.
            let _ = wire.send(&request, FETCH);
        }
    }
    let mut other = Wire::connect(broker.core);
    let mut peak = 0;
    for _ in 0..50 {
        other.ask(&greedy("bulk", 2, 1, 0), FETCH, |answer| {
            assert_eq!(answer.responses.len(), 1);
        });
        peak = peak.max(resident(broker.id()));
    }
    let grown = peak.saturating_sub(before);
    assert!(
        grown < 256 * MIB,
        "{} MiB for 40 clients that never read",
        grown / MIB
    );
    for mut wire in deaf {
        // What was on its way comes, then the end.
        while wire.receive().is_some() {}
    }
}

#[test]
fn parked_fetches_cost_little_and_nothing_once_their_clients_are_gone() {
    // Proves fault row 34: ten thousand fetches that wait for minutes, each on a connection of its own,
    // and memory that comes back when they go, twice.
    let home = tempfile::tempdir().unwrap();
    // This process needs as many descriptors as the broker.
    let count = usize::try_from(probe::raise_open_files() / 4 * 3 - 100)
        .unwrap()
        .min(10_000);
    let broker = Broker::start(
        home.path(),
        &[
            ("STREAMBUS_LIMITS__CONNECTIONS_MAX", "20000"),
            ("STREAMBUS_LIMITS__CONNECTIONS_PER_IP_MAX", "20000"),
        ],
    );
    client(broker.core).create_topic("quiet", 1, 1).unwrap();
    let base = resident_at_rest(broker.id());
    let request = greedy("quiet", 1, 1, i32::MAX);
    for _ in 0..2 {
        let mut parked: Vec<Wire> = (0..count).map(|_| Wire::connect(broker.core)).collect();
        for wire in &mut parked {
            wire.send(&request, FETCH).unwrap();
        }
        // Whoever comes last is answered when all before it are parked.
        client(broker.core).metadata(None).unwrap();
        let each = resident(broker.id()).saturating_sub(base) / count as u64;
        assert!(
            each < 24 << 10,
            "{each} bytes for a connection with a parked fetch"
        );
        drop(parked);
        eventually("memory is back to where it was", || {
            resident(broker.id()) < base + 16 * MIB
        });
        assert!(descriptors(broker.id()) < 500);
    }
}

#[test]
fn fetches_that_wait_at_another_core_hold_up_nobody() {
    // Proves that waiting fetches take no places of the mesh: of 3,000 through the node's own address about half
    // come to a core that does not own the partition, more than it may ask the other core at a time.
    probe::raise_open_files();
    let home = tempfile::tempdir().unwrap();
    let broker = Broker::start(
        home.path(),
        &[("STREAMBUS_LIMITS__CONNECTIONS_PER_IP_MAX", "10000")],
    );
    client(broker.node).create_topic("quiet", 1, 1).unwrap();
    client(broker.node).create_topic("busy", 8, 1).unwrap();
    let request = greedy("quiet", 1, 1, i32::MAX);
    let mut parked: Vec<Wire> = (0..3_000).map(|_| Wire::connect(broker.node)).collect();
    for wire in &mut parked {
        wire.send(&request, FETCH).unwrap();
    }
    let began = Instant::now();
    for _ in 0..8 {
        let mut client = client(broker.node);
        let mut producer = client.producer(ProducerConfig::default());
        for partition in 0..8 {
            let to = TopicPartition::new("busy", partition);
            producer.send(&to, None, b"through").unwrap();
        }
        producer.flush().unwrap();
    }
    let took = began.elapsed();
    assert!(
        took < Duration::from_secs(4),
        "{took:?} for eight producers"
    );
}

#[test]
fn greedy_fetches_get_what_the_limits_allow() {
    // Proves fault row 34: 2 GiB of each of 10,000 partitions and a wait of 24 days come to one bounded
    // answer after limits.fetch_wait_max_ms.
    let home = tempfile::tempdir().unwrap();
    let broker = Broker::start(
        home.path(),
        &[
            ("STREAMBUS_LIMITS__FETCH_RESPONSE_BYTES_MAX", "4194304"),
            ("STREAMBUS_LIMITS__FETCH_WAIT_MAX_MS", "1000"),
        ],
    );
    fill(broker.core, "bulk", 4, 4);
    let mut wire = Wire::connect(broker.core);
    let before = resident_at_rest(broker.id());
    let began = Instant::now();
    wire.send(&greedy("bulk", 4, 2_500, i32::MAX), FETCH)
        .unwrap();
    let answer = wire.receive().unwrap();
    assert!(began.elapsed() < PATIENCE);
    // The records, at most a batch more, and 10,000 partitions' headers of some 40 bytes.
    let bytes = answer.len() as u64;
    assert!(
        (MIB..6 * MIB).contains(&bytes),
        "an answer of {bytes} bytes"
    );
    let grown = resident(broker.id()).saturating_sub(before);
    assert!(grown < 64 * MIB, "{grown} bytes for one greedy fetch");
}
