//! One node and one client, for tests of one fault at a time.

use std::future::Future;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use streambus::config::Config;
use streambus_client::consumer::Start;
use streambus_client::partition::TopicPartition;
use streambus_client::producer::ProducerConfig;
use streambus_shards::sim::{HostId, Report, Simulation, World, run};
use streambus_shards::{now, sleep, timeout};
use streambus_tests::checkers::{Breach, check};
use streambus_tests::client::{Client, ClientConfig, ProducerPlan, ProducerTask, Reader};
use streambus_tests::cluster::{CORE_PORT, Node, small_config};
use streambus_tests::history::{Acks, End, Pass, Recorder};

pub(crate) const TOPIC: &str = "rows";
const PARTITIONS: i32 = 3;

const START_LIMIT: Duration = Duration::from_secs(30);
const FLUSH_LIMIT: Duration = Duration::from_mins(1);
/// How long the reading of everything may take.
const READ_LIMIT: Duration = Duration::from_mins(1);

pub(crate) struct Rig {
    pub(crate) world: World,
    pub(crate) node: Node,
    pub(crate) recorder: Recorder,
    host: HostId,
    client: Rc<Client>,
    producers: std::cell::Cell<u32>,
}

/// One core and one lane, so that a fault of that lane meets every record.
fn one_lane(address: IpAddr, id: u32) -> Config {
    let mut config = small_config(address, id);
    config.node.cores = 1;
    config.data.lanes = 1;
    config.storage.min_free_bytes = 1 << 20;
    config
}

/// Runs a test's body for a seed, with a node that serves a topic; returns what the body did.
pub(crate) fn rigged<T, F>(seed: u64, body: impl FnOnce(Rc<Rig>) -> F + 'static) -> T
where
    T: 'static,
    F: Future<Output = T> + 'static,
{
    rigged_with(seed, Vec::new(), body)
}

/// As [`rigged`], with settings of the topic.
pub(crate) fn rigged_with<T, F>(
    seed: u64,
    configs: Vec<(&'static str, String)>,
    body: impl FnOnce(Rc<Rig>) -> F + 'static,
) -> T
where
    T: 'static,
    F: Future<Output = T> + 'static,
{
    let report: Report<T> = run(Simulation::new(seed), |world| async move {
        let node = Node::new(&world, one_lane, 0);
        let host = world.add_host(IpAddr::from([10, 0, 1, 1]));
        world.boot(host);
        node.start();
        assert_eq!(node.ready().await, Ok(()), "an empty disk opens");
        let client = Client::new(vec![node.bootstrap(CORE_PORT)], ClientConfig::default());
        let rig = Rc::new(Rig {
            world,
            node,
            recorder: Recorder::new(),
            host,
            client,
            producers: std::cell::Cell::new(0),
        });
        let (maker, recorder) = (Rc::clone(&rig.client), rig.recorder.clone());
        let made = async move {
            maker
                .create_topic(TOPIC, PARTITIONS, &configs, 50, &recorder)
                .await
        };
        assert!(rig.on_client(made).await.is_some(), "a topic is made");
        body(rig).await
    });
    match report.result {
        Ok(value) => value,
        Err(failure) => panic!("seed {seed}: {failure}\n{:#?}", report.notes),
    }
}

impl Rig {
    /// Runs a future on the client's host.
    pub(crate) async fn on_client<T: 'static>(
        &self,
        future: impl Future<Output = T> + 'static,
    ) -> T {
        self.world.spawn_on(self.host, future).await
    }

    /// Produces so many records, idempotent, and waits for their ends; returns how many are acknowledged.
    pub(crate) async fn produce(&self, count: u32, timeout_ms: u64) -> usize {
        let number = self.producers.get() + 1;
        self.producers.set(number);
        let config = ProducerConfig {
            batch_bytes_max: 4 << 10,
            linger_ms: 1,
            delivery_timeout_ms: timeout_ms,
            ..ProducerConfig::default()
        };
        let plan = ProducerPlan {
            number,
            acks: Acks::All,
            config,
        };
        let (client, recorder) = (Rc::clone(&self.client), self.recorder.clone());
        let work = async move {
            let names: Vec<_> = (0..PARTITIONS)
                .map(|index| TopicPartition::new(TOPIC, index))
                .collect();
            client.find_leaders(&names).await;
            let producer = ProducerTask::new(client, plan, recorder);
            for name in names.iter().cycle().take(count as usize) {
                producer.send(name, 1_000);
                sleep(Duration::from_micros(300)).await;
            }
            assert!(
                producer.flush(FLUSH_LIMIT).await,
                "every send comes to an end"
            );
        };
        self.on_client(work).await;
        self.acknowledged(number)
    }

    fn acknowledged(&self, producer: u32) -> usize {
        let stored = |end: &Option<(Duration, End)>| matches!(end, Some((_, End::Stored(_))));
        self.recorder.with(|history| {
            let own = history
                .sends
                .iter()
                .filter(|send| send.value.producer == producer);
            own.filter(|send| stored(&send.end)).count()
        })
    }

    /// Starts the node again.
    ///
    /// # Errors
    /// What it said instead of coming to serve.
    pub(crate) async fn restart(&self) -> Result<(), String> {
        self.node.start();
        let ready = timeout(START_LIMIT, self.node.ready()).await;
        ready.unwrap_or_else(|_| Err("it runs and does not serve".to_owned()))
    }

    /// Whether the node's process is there.
    pub(crate) fn is_alive(&self) -> bool {
        self.world.is_alive(self.node.host())
    }

    /// Waits for the node's process to end by itself, and returns what it said.
    pub(crate) async fn halted(&self) -> Option<String> {
        let end = now() + START_LIMIT;
        while self.is_alive() && now() < end {
            sleep(Duration::from_millis(10)).await;
        }
        self.world.halted(self.node.host())
    }

    /// Reads every partition from its beginning to its end; `None` if that takes too long.
    pub(crate) async fn read_all(&self, first_reader: u32) -> Option<Vec<Pass>> {
        let (client, recorder) = (Rc::clone(&self.client), self.recorder.clone());
        let reading = async move {
            let mut passes = Vec::new();
            for (number, index) in (first_reader..).zip(0..PARTITIONS) {
                let partition = TopicPartition::new(TOPIC, index);
                let mut reader = Reader::new(Rc::clone(&client), number, 0, recorder.clone());
                reader.assign(partition.clone(), Start::Earliest);
                let end = now() + READ_LIMIT;
                while !reader.at_end() {
                    if now() >= end {
                        return None;
                    }
                    reader.poll().await;
                }
                let high_watermark = reader.position(&partition)?;
                let first = recorder.with(|history| {
                    let mut reads = history.reads.iter();
                    reads
                        .find(|read| read.reader == number)
                        .map(|read| read.offset)
                });
                passes.push(Pass {
                    log: client.log_of(&partition)?,
                    reader: number,
                    log_start: first.unwrap_or(high_watermark),
                    high_watermark,
                });
            }
            Some(passes)
        };
        self.on_client(reading).await
    }

    /// How many records the partitions hold together, as their bounds tell.
    pub(crate) async fn held(&self) -> i64 {
        let (client, recorder) = (Rc::clone(&self.client), self.recorder.clone());
        let looking = async move {
            let reader = Reader::new(Rc::clone(&client), 800, 0, recorder);
            let mut held = 0;
            for index in 0..PARTITIONS {
                let partition = TopicPartition::new(TOPIC, index);
                let leader = client.leader(&partition).expect("it has one");
                for (timestamp, sign) in [(-1, 1), (-2, -1)] {
                    let bound = reader.look_up(leader, &partition, timestamp).await;
                    held += sign * bound.expect("it answers").expect("it has bounds").0;
                }
            }
            held
        };
        self.on_client(looking).await
    }

    /// What the history breaks, after everything was read.
    pub(crate) fn breaches(&self) -> Vec<Breach> {
        self.recorder.with(|history| check(history))
    }

    /// Reads everything, for the last time, and has it checked.
    pub(crate) async fn verify(&self) {
        let passes = self
            .read_all(900)
            .await
            .expect("every partition is read to its end");
        self.recorder.with(|history| history.passes.extend(passes));
        assert_eq!(self.breaches(), []);
    }
}
