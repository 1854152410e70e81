//! Connections to a core whose disk is slow, and then full.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use streambus_client::request::encode;
use streambus_ops::{CoreMetrics, Registry};
use streambus_proto::api::ApiKey;
use streambus_proto::error_code::ErrorCode;
use streambus_proto::ids::Offset;
use streambus_proto::messages::fetch_request::{FetchPartition, FetchTopic};
use streambus_proto::messages::produce_request::{PartitionProduceData, TopicProduceData};
use streambus_proto::messages::{FetchRequest, Message, ProduceRequest, ProduceResponse};
use streambus_proto::records::{BatchBuilder, Codec, NewRecord};
use streambus_proto::wire::{Reader, Records};
use streambus_shards::sim::{DiskFaults, Simulation, run};
use streambus_shards::{Listener, MeshSeed, mesh_seeds, sleep, wall_ms};
use streambus_storage::{Lane, PartitionKey};

use super::*;
use crate::config::{Advertise, Config};
use crate::kafka::request_memory::RequestMemory;
use crate::kafka::{ConnectionLimits, ListenerPlan, accept};
use crate::metadata::{Image, NodeId};
use crate::shard::op::{Op, Reply};
use crate::shard::{OpenedLane, Shard, Space};

const TOPIC: &str = "rows";
/// Its answers have a header of four bytes, the correlation id.
const PRODUCE_VERSION: i16 = 8;
const VALUE_BYTES: usize = 20_000;
/// Clients that come to a full lane: more than what is written of it makes room for, which is 70 of their
/// records.
const ASKERS: usize = 150;
/// Many times what any step here takes.
const PATIENCE: Duration = Duration::from_mins(2);

/// A produce request of one record, with its length.
fn produce(acks: i16) -> Vec<u8> {
    produce_of(acks, VALUE_BYTES)
}

fn produce_of(acks: i16, value_bytes: usize) -> Vec<u8> {
    let mut builder = BatchBuilder::new(Codec::None);
    builder.push(&NewRecord {
        timestamp: wall_ms(),
        value: Some(&vec![7; value_bytes]),
        ..NewRecord::default()
    });
    let batch = builder.build();
    let partition = PartitionProduceData {
        index: 0,
        records: Records::Bytes(&batch),
    };
    let topic = TopicProduceData {
        name: TOPIC.into(),
        partition_data: vec![partition].into(),
        ..TopicProduceData::default()
    };
    let request = ProduceRequest {
        acks,
        timeout_ms: 30_000,
        topic_data: vec![topic].into(),
        ..ProduceRequest::default()
    };
    let outgoing = encode(&request, PRODUCE_VERSION, 1, "test").unwrap();
    assert_eq!(outgoing.splices.len(), 0);
    outgoing.bytes
}

/// Settings for lanes of few files.
fn config() -> Config {
    let mut config = Config::default();
    config.storage.wal_file_bytes = 256 << 10;
    config.storage.wal_files_max = 6;
    config.storage.memtable_bytes = 256 << 10;
    config.storage.memtables_kept_bytes = Some(0);
    config.storage.commit_bytes_max = 128 << 10;
    config
}

fn image() -> Image {
    crate::kafka::test_host::image(&[(TOPIC, 1)])
}

/// The lane of the topic's partition.
async fn lane_of_topic(config: &Config) -> OpenedLane {
    let number = image().topic(TOPIC).unwrap().partition(0).unwrap().lane;
    let opened = Lane::open(Path::new("/data/lane"), config.storage.lane()).await;
    let (lane, recovery) = opened.unwrap();
    OpenedLane {
        number,
        lane,
        partitions: recovery.partitions,
    }
}

fn shard(mesh: MeshSeed<Op, Reply>, lanes: Vec<OpenedLane>) -> Rc<Shard> {
    let metrics = Rc::new(CoreMetrics::new(&Registry::new(), 0, 1));
    let space = Space::new("/nowhere".into(), 0);
    Shard::new(mesh.grow(), image(), lanes, None, metrics, space)
}

/// A core with one lane. Its connections may hold two requests.
async fn serving(address: SocketAddr) -> (Rc<Broker>, Rc<Lane>) {
    let mut config = config();
    config.limits.in_flight_bytes_per_core_max = 2 * (produce(1).len() - LENGTH_BYTES);
    let opened = lane_of_topic(&config).await;
    let lane = Rc::clone(&opened.lane);
    let shard = shard(mesh_seeds(1).remove(0), vec![opened]);
    (accepting(shard, config, address), lane)
}

fn accepting(shard: Rc<Shard>, config: Config, address: SocketAddr) -> Rc<Broker> {
    let broker = Broker::new(
        shard,
        Arc::new(config),
        ConnectionLimits::new(2 * ASKERS, 1_000),
    );
    let plan = Rc::new(ListenerPlan {
        name: "main".to_owned(),
        advertise: Advertise::Node,
        advertised_host: None,
        listens: address,
        node_port: address.port(),
        core_ports: Vec::new(),
        node: NodeId(0),
        cores: 1,
        lanes: 2,
        rack: None,
    });
    let listener = Listener::bind(address, false).unwrap();
    spawn(accept(Rc::clone(&broker), listener, plan)).detach();
    broker
}

/// Produces for ever and wants no answers.
async fn flood(address: SocketAddr) {
    let stream = Stream::connect(address).await.unwrap();
    loop {
        let frame = [Buf::from(produce(0))];
        stream.write_all(&frame).await.unwrap();
        sleep(Duration::from_millis(1)).await;
    }
}

/// Produces one record and waits for the answer.
async fn produced(stream: &Stream) -> ErrorCode {
    stream.write_all(&[Buf::from(produce(-1))]).await.unwrap();
    answered(stream).await
}

/// The answer to a produce request.
async fn answered(stream: &Stream) -> ErrorCode {
    let mut answer = BufMut::with_capacity(4 << 10);
    loop {
        let (count, more) = stream.read(answer).await;
        assert!(count.unwrap() > 0, "the connection is open");
        answer = more;
        let bytes = answer.as_slice();
        let length = frame_length(bytes, 4 << 10).unwrap();
        if length.is_some_and(|length| bytes.len() == LENGTH_BYTES + length) {
            break;
        }
    }
    let mut reader = Reader::new(&answer.as_slice()[LENGTH_BYTES + size_of::<i32>()..]);
    let response = ProduceResponse::read(&mut reader, PRODUCE_VERSION).unwrap();
    let topic = response.responses.iter().next().unwrap();
    let partition = topic.partition_responses.iter().next().unwrap();
    ErrorCode::from_i16(partition.error_code)
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let waited = timeout(PATIENCE, async {
        while !holds() {
            sleep(Duration::from_millis(1)).await;
        }
    });
    assert!(waited.await.is_ok(), "{what}");
}

/// A client with one record: it connects, produces it, and notes what it is answered.
async fn ask(address: SocketAddr, answers: Rc<RefCell<Vec<ErrorCode>>>) {
    let stream = Stream::connect(address).await.unwrap();
    let code = produced(&stream).await;
    answers.borrow_mut().push(code);
}

async fn full_and_without_space(disk: DiskFaults, address: SocketAddr) {
    let (broker, lane) = serving(address).await;
    disk.slow("/data", 10_000);
    let flooding = spawn(flood(address));
    until("a flood fills the lane", || !lane.line().is_empty()).await;
    assert!(!broker.in_flight.is_full(), "one request stands in line");
    let appended = lane.stats().appended_bytes;
    let answers: Rc<RefCell<Vec<ErrorCode>>> = Rc::default();
    for _ in 0..ASKERS {
        spawn(ask(address, Rc::clone(&answers))).detach();
    }
    until("requests in line are counted", || {
        broker.in_flight.is_full()
    })
    .await;
    drop(flooding);
    let now_appended = lane.stats().appended_bytes;
    assert_eq!(now_appended, appended, "all wait for the same room");
    disk.set_capacity("/data", Some(disk.used_bytes()));
    disk.slow("/data", 1);
    until("everybody is answered, and nobody is left in line", || {
        answers.borrow().len() == ASKERS && lane.line().is_empty()
    })
    .await;
    disk.set_capacity("/data", None);
    assert!(answers.borrow().contains(&ErrorCode::KafkaStorageError));
    let known = [ErrorCode::None, ErrorCode::KafkaStorageError];
    assert!(answers.borrow().iter().all(|code| known.contains(code)));
    answers.borrow_mut().clear();
    let trying = async {
        while !answers.borrow().contains(&ErrorCode::None) {
            ask(address, Rc::clone(&answers)).await;
            sleep(Duration::from_millis(10)).await;
        }
    };
    let taken = timeout(PATIENCE, trying).await;
    assert!(taken.is_ok(), "batches are taken again");
    assert!(
        !broker.in_flight.is_full(),
        "what was answered is given back"
    );
}

/// Runs `body` on a host whose disk and address it gets.
fn simulated<F: Future<Output = ()> + 'static>(body: fn(DiskFaults, SocketAddr) -> F) {
    for seed in 0..5 {
        let report = run(Simulation::new(seed), move |world| async move {
            let host = world.add_host(IpAddr::from([10, 0, 0, 1]));
            let address = SocketAddr::new(world.address(host), 9_092);
            let disk = world.disk(host);
            disk.create_dir_all("/data");
            world.boot(host);
            world.spawn_on(host, body(disk, address)).await;
        });
        if let Err(failure) = report.result {
            panic!("seed {seed}: {failure}\n{:#?}", report.notes);
        }
    }
}

#[test]
fn requests_in_line_for_a_full_lane_are_counted_and_are_answered_when_there_is_no_space() {
    // Proves that a request counts as in flight while its batch waits for a full lane, that on a full disk the
    // wait ends with KAFKA_STORAGE_ERROR, and that batches are taken again once there is space.
    simulated(full_and_without_space);
}

async fn without_a_file(disk: DiskFaults, address: SocketAddr) {
    let (broker, lane) = serving(address).await;
    let topic = broker.shard.image(|image| image.topic(TOPIC).unwrap().id);
    let rows = PartitionKey { topic, index: 0 };
    disk.set_capacity("/data", Some(disk.used_bytes()));
    let stream = Stream::connect(address).await.unwrap();
    let answer = || timeout(PATIENCE, produced(&stream));
    let mut taken = 0;
    loop {
        match answer().await.expect("each batch is answered") {
            ErrorCode::None => taken += 1,
            refused => break assert_eq!(refused, ErrorCode::KafkaStorageError),
        }
    }
    assert!(
        taken > 5,
        "{taken} batches of 20 KB fill the files there are"
    );
    assert!(lane.is_starved());
    let end = lane.log_end(rows).unwrap();
    assert_eq!(
        end,
        Offset(taken + 1),
        "the one that was refused is in the log"
    );
    assert_eq!(lane.durable_end(rows), Some(Offset(taken)));
    // The next one is answered too, in the log or not.
    let refused = answer().await.expect("each batch is answered");
    assert_eq!(refused, ErrorCode::KafkaStorageError);
    disk.set_capacity("/data", None);
    until(
        "what was in the log is committed when there is space",
        || lane.durable_end(rows) >= Some(end) && !lane.is_starved(),
    )
    .await;
    assert_eq!(answer().await.expect("an answer"), ErrorCode::None);
}

#[test]
fn a_batch_in_the_log_is_told_that_there_is_no_space_for_its_file() {
    // Proves that a batch which was taken into the log, and whose commit needs a log file that there is no space
    // for, is answered with KAFKA_STORAGE_ERROR and not left waiting, and is committed once there is space.
    simulated(without_a_file);
}

/// More than one core may have under way to another.
const UNANSWERED: usize = 600;

async fn for_another_core(_: DiskFaults, address: SocketAddr) {
    let mut config = config();
    let request_bytes = produce(0).len() - LENGTH_BYTES;
    config.limits.in_flight_bytes_per_core_max = 2 * UNANSWERED * request_bytes;
    config.limits.in_flight_bytes_per_connection_max = 2 * UNANSWERED * request_bytes;
    let opened = lane_of_topic(&config).await;
    let lane = Rc::clone(&opened.lane);
    let owner = usize::from(opened.number) % 2;
    let mut seeds = mesh_seeds(2);
    let (owner_seed, other_seed) = (seeds.remove(owner), seeds.remove(0));
    let owner = shard(owner_seed, vec![opened]);
    let other = shard(other_seed, Vec::new());
    let broker = accepting(Rc::clone(&other), config, address);
    // The owning core does not come to look at its mesh.
    let stream = Stream::connect(address).await.unwrap();
    for _ in 0..UNANSWERED {
        stream.write_all(&[Buf::from(produce(0))]).await.unwrap();
    }
    // Each with its topic and its partition.
    let memory = RequestMemory::new(ApiKey::Produce, request_bytes, usize::MAX).unwrap();
    let each = request_bytes + memory.cost_bytes(2);
    let all_count = || broker.in_flight.bytes() == UNANSWERED * each;
    until("all are counted", all_count).await;
    drop(stream);
    until("the connection is gone", || broker.open.get() == 0).await;
    assert!(all_count(), "they count all the same");
    for shard in [&owner, &other] {
        spawn(Rc::clone(shard).serve_mesh()).detach();
    }
    let topic = owner.image(|image| image.topic(TOPIC).unwrap().id);
    let end = || lane.log_end(PartitionKey { topic, index: 0 });
    until("every batch is in the log", || {
        end() == Some(Offset(UNANSWERED.try_into().unwrap()))
    })
    .await;
    until("nothing counts any more", || broker.in_flight.bytes() == 0).await;
}

#[test]
fn batches_for_another_core_that_nobody_waits_for_find_their_place_there() {
    // Proves that with acks=0 a batch for a core whose mesh is full counts as under way until it is there, and is
    // there in the end though its connection is gone.
    simulated(for_another_core);
}

async fn while_the_core_is_full(_: DiskFaults, address: SocketAddr) {
    let (broker, _) = serving(address).await;
    let limits = broker.limits_config();
    let slow = Duration::from_millis(limits.request_read_timeout_ms);
    let mut turn = broker.in_flight.charge(limits.in_flight_bytes_per_core_max);
    assert!(broker.in_flight.try_grow(&mut turn, 1), "the turn is free");
    // More than the first buffer holds, so it needs room.
    let stream = Stream::connect(address).await.unwrap();
    let request = Buf::from(produce_of(-1, 3 * READ_BYTES));
    let (first, rest) = (request.slice(0..READ_BYTES), READ_BYTES..request.len());
    stream.write_all(&[first]).await.unwrap();
    sleep(3 * slow).await;
    assert_eq!(
        broker.open.get(),
        1,
        "waiting for room is not the client's doing"
    );
    drop(turn);
    sleep(slow / 2).await;
    stream.write_all(&[request.slice(rest)]).await.unwrap();
    let answer = timeout(PATIENCE, answered(&stream)).await;
    assert!(answer.is_ok(), "the request is answered");
    // A client that does not send is still cut.
    stream.write_all(&[request.slice(0..10)]).await.unwrap();
    sleep(slow + Duration::from_secs(1)).await;
    assert_eq!(broker.open.get(), 0);
}

#[test]
fn a_full_core_does_not_count_against_who_sends() {
    // Proves that the deadline for a request stands still while the core has no room for it, and goes on
    // afterwards.
    simulated(while_the_core_is_full);
}

/// A fetch of the topic's partition that waits for minutes, with its length.
fn fetch() -> Vec<u8> {
    fetch_from(0)
}

fn fetch_from(fetch_offset: i64) -> Vec<u8> {
    let partition = FetchPartition {
        partition: 0,
        fetch_offset,
        partition_max_bytes: 1 << 20,
        ..FetchPartition::default()
    };
    let topic = FetchTopic {
        topic: TOPIC.into(),
        partitions: vec![partition].into(),
        ..FetchTopic::default()
    };
    let request = FetchRequest {
        replica_id: -1,
        max_wait_ms: 250_000,
        min_bytes: 1,
        max_bytes: 1 << 20,
        session_epoch: -1,
        topics: vec![topic].into(),
        ..FetchRequest::default()
    };
    encode(&request, 4, 1, "test").unwrap().bytes
}

/// Two cores of a node, of which the second has no lane and takes connections.
async fn two_cores(address: SocketAddr) -> (Rc<Shard>, Rc<Broker>) {
    let config = config();
    let opened = lane_of_topic(&config).await;
    let owner = usize::from(opened.number) % 2;
    let mut seeds = mesh_seeds(2);
    let (owner_seed, other_seed) = (seeds.remove(owner), seeds.remove(0));
    let owner = shard(owner_seed, vec![opened]);
    let other = shard(other_seed, Vec::new());
    for shard in [&owner, &other] {
        spawn(Rc::clone(shard).serve_mesh()).detach();
    }
    (owner, accepting(other, config, address))
}

async fn parked_elsewhere(_: DiskFaults, address: SocketAddr) {
    let (owner, broker) = two_cores(address).await;
    let soon = Duration::from_secs(1);
    let parked = async |stream: &Stream| {
        stream.write_all(&[Buf::from(fetch())]).await.unwrap();
        until("the fetch is parked", || owner.guests() == 1).await;
    };
    let stream = Stream::connect(address).await.unwrap();
    parked(&stream).await;
    let began = now();
    drop(stream);
    until("the park is cancelled", || owner.guests() == 0).await;
    assert!(began.elapsed() < soon, "{:?}", began.elapsed());
    // One that waits for longer than any park lasted before is woken by its record.
    let stream = Stream::connect(address).await.unwrap();
    parked(&stream).await;
    sleep(Duration::from_mins(1)).await;
    assert_eq!(owner.guests(), 1);
    let producer = Stream::connect(address).await.unwrap();
    assert_eq!(produced(&producer).await, ErrorCode::None);
    let (count, _) = stream.read(BufMut::with_capacity(64 << 10)).await;
    assert!(count.unwrap() > 0, "an answer");
    assert_eq!(owner.guests(), 0);
    // A stop wakes what waits, and what is parked elsewhere is cancelled.
    drop((stream, producer));
    let stream = Stream::connect(address).await.unwrap();
    let quiet = Buf::from(fetch_from(1));
    stream.write_all(&[quiet]).await.unwrap();
    until("the fetch is parked", || owner.guests() == 1).await;
    let began = now();
    broker.drain();
    timeout(PATIENCE, broker.all_closed())
        .await
        .expect("all connections end");
    until("the park is cancelled", || owner.guests() == 0).await;
    assert!(began.elapsed() < soon, "{:?}", began.elapsed());
}

#[test]
fn a_fetch_that_is_over_is_forgotten_where_it_was_parked() {
    // Proves that the core which keeps a park for another forgets it at once when the client goes, when the fetch is
    // answered and when the node stops, and keeps it for as long as the fetch waits.
    simulated(parked_elsewhere);
}

async fn owner_that_ends(_: DiskFaults, address: SocketAddr) {
    let (owner, broker) = two_cores(address).await;
    let stream = Stream::connect(address).await.unwrap();
    assert_eq!(produced(&stream).await, ErrorCode::None);
    owner.close().await;
    let refused = timeout(PATIENCE, produced(&stream)).await;
    assert_eq!(refused.ok(), Some(ErrorCode::NotLeaderOrFollower));
    assert_eq!(broker.open.get(), 1);
}

#[test]
fn a_batch_for_a_core_that_has_ended_is_refused() {
    // Proves that a request to a core that has ended is answered, with a code that has clients look for the leader.
    simulated(owner_that_ends);
}
