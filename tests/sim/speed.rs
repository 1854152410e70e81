//! How fast virtual time passes: three nodes, each with a little work, without faults.

use std::cell::Cell;
use std::fmt;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use streambus_client::consumer::Start;
use streambus_client::partition::TopicPartition;
use streambus_client::producer::ProducerConfig;
use streambus_shards::sim::{Simulation, World, run};
use streambus_shards::{now, sleep};

use crate::client::{Client, ClientConfig, ProducerPlan, ProducerTask, Reader};
use crate::cluster::{CORE_PORT, Node, small_config};
use crate::history::{Acks, Recorder};

/// Nodes of the world.
const NODES: u8 = 3;
/// Partitions of the one topic that each node has.
const PARTITIONS: i32 = 3;
/// Between two records of a producer.
const PAUSE: Duration = Duration::from_millis(100);
/// Bytes of a record.
const RECORD_BYTES: usize = 100;
/// How long a fetch waits for records, as clients do by default.
const FETCH_WAIT_MS: i32 = 500;
/// How often a topic is asked for.
const CREATE_TRIES: u32 = 100;
/// How long a producer may take to end.
const FLUSH_LIMIT: Duration = Duration::from_secs(10);

/// What was measured.
#[derive(Debug)]
pub struct Speed {
    /// Virtual time of the world.
    pub virtual_time: Duration,
    /// Time it took.
    pub wall_time: Duration,
    /// Tasks polled.
    pub polls: u64,
    /// Records that were sent, acknowledged and read.
    pub records: usize,
}

impl fmt::Display for Speed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (simulated, wall) = (
            self.virtual_time.as_secs_f64(),
            self.wall_time.as_secs_f64(),
        );
        write!(
            f,
            "{NODES} nodes, {} records, {} polls; {simulated:.0} simulated seconds in {wall:.2} s: {:.0} a second",
            self.records,
            self.polls,
            simulated / wall.max(0.001)
        )
    }
}

/// Runs the nodes for so long in virtual time.
///
/// # Panics
/// If a record is not acknowledged or not read.
pub fn measure(length: Duration) -> Speed {
    let simulation = Simulation {
        virtual_time_max: length + Duration::from_mins(10),
        ..Simulation::new(1)
    };
    let began = Instant::now();
    let report = run(simulation, |world| work(world, length));
    Speed {
        virtual_time: report.virtual_time,
        wall_time: began.elapsed(),
        polls: report.polls,
        records: report.result.expect("nothing goes wrong in this world"),
    }
}

async fn work(world: World, length: Duration) -> usize {
    let mut clients = Vec::new();
    for number in 0..NODES {
        let node = Node::new(&world, small_config, number);
        node.start();
        node.ready().await.expect("an empty disk opens");
        let host = world.add_host(IpAddr::from([10, 0, 1, number + 1]));
        world.boot(host);
        let client = Client::new(vec![node.bootstrap(CORE_PORT)], ClientConfig::default());
        clients.push((node, world.spawn_on(host, use_node(client, length))));
    }
    let mut records = 0;
    for (node, client) in clients {
        records += client.await;
        assert!(node.stop().await, "it stops in good order");
    }
    records
}

/// One client's work; returns how many records came back.
async fn use_node(client: Rc<Client>, length: Duration) -> usize {
    let recorder = Recorder::new();
    let topic = client
        .create_topic("light", PARTITIONS, &[], CREATE_TRIES, &recorder)
        .await;
    assert!(topic.is_some(), "nothing is in the way of a topic");
    let partitions: Vec<_> = (0..PARTITIONS)
        .map(|index| TopicPartition::new("light", index))
        .collect();
    client.find_leaders(&partitions).await;
    let plan = ProducerPlan {
        number: 1,
        acks: Acks::All,
        config: ProducerConfig::default(),
    };
    let producer = ProducerTask::new(Rc::clone(&client), plan, recorder.clone());
    let mut reader = Reader::new(client, 2, FETCH_WAIT_MS, recorder.clone());
    for partition in &partitions {
        reader.assign(partition.clone(), Start::Earliest);
    }
    let end = now() + length;
    let (flushed, seen) = (Rc::new(Cell::new(false)), recorder.clone());
    let all_sent = Rc::clone(&flushed);
    let reading = streambus_shards::spawn(async move {
        let all_read = || seen.with(|history| history.reads.len() >= history.sends.len());
        while !all_sent.get() || !all_read() {
            reader.poll().await;
        }
    });
    let mut turns = partitions.iter().cycle();
    while now() < end {
        let partition = turns.next().expect("it goes round and round");
        assert!(producer.send(partition, RECORD_BYTES), "there is room");
        sleep(PAUSE).await;
    }
    assert!(producer.flush(FLUSH_LIMIT).await, "all is acknowledged");
    flushed.set(true);
    reading.await;
    recorder.with(|history| history.sends.len())
}
