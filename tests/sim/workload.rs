//! One seed's work from beginning to end: nodes and clients, a time of work and faults, settled, a last
//! reading of everything, and deletion of everything.

mod bounds;
mod decay;
mod delete_records;
mod faults;
mod fetch;
mod finale;
mod produce;
mod topics;

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use streambus_client::partition::TopicPartition;
use streambus_proto::ids::TopicId;
use streambus_shards::sim::{HostId, World};
use streambus_shards::{Task, sleep, timeout};

use crate::checkers::{Breach, Rule, check};
use crate::client::{Client, ClientConfig};
use crate::cluster::{CORE_PORT, NODE_PORT, Node, small_config};
use crate::dice::Dice;
use crate::history::Recorder;
use crate::swarm::{FaultKind, Mix};

pub(crate) use faults::PANIC;

/// How long a node may take to serve when nothing is wrong: recovery reads a few megabytes.
const START_LIMIT: Duration = Duration::from_secs(30);
/// How often a topic is asked for before the seed begins.
const CREATE_TRIES: u32 = 200;

/// What the tasks of one seed share.
pub(crate) struct Scene {
    pub(crate) world: World,
    pub(crate) mix: Mix,
    pub(crate) node: Node,
    pub(crate) recorder: Recorder,
    /// What clients do.
    pub(crate) work: Dice,
    /// What goes wrong.
    pub(crate) trouble: Dice,
    /// Partitions that producers and readers choose from.
    pub(crate) partitions: RefCell<Vec<TopicPartition>>,
    /// Topics that are there, with their ids.
    pub(crate) topics: RefCell<Vec<(String, TopicId)>>,
    /// No more work is begun.
    pub(crate) over: Cell<bool>,
    /// No more faults are begun.
    pub(crate) healed: Cell<bool>,
    /// No fault has anything left to do: whatever ends the node's process from now on is a breach.
    pub(crate) settled: Cell<bool>,
    hosts: Cell<u8>,
}

impl Scene {
    /// A host for one client, and the client.
    pub(crate) fn client(&self) -> (HostId, Rc<Client>) {
        let number = self.hosts.get() + 1;
        self.hosts.set(number);
        let host = self.world.add_host(IpAddr::from([10, 0, 1, number]));
        self.world.boot(host);
        let port = if self.mix.node.shows_cores {
            CORE_PORT
        } else {
            NODE_PORT
        };
        let client = Client::new(vec![self.node.bootstrap(port)], ClientConfig::default());
        (host, client)
    }

    /// Hosts of clients so far.
    pub(crate) fn client_hosts(&self) -> impl Iterator<Item = HostId> + use<> {
        // Hosts are numbered as they are made: the body's, the node's, then the clients'.
        let first = self.node.host().0 + 1;
        (first..first + u16::from(self.hosts.get())).map(HostId)
    }

    /// Waits until the node serves.
    pub(crate) async fn serves(&self) -> Result<(), Breach> {
        match timeout(START_LIMIT, self.node.ready()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(why)) => Err(Breach::liveness(format!("the node does not start: {why}"))),
            Err(_) => Err(Breach::liveness(
                "the node runs and does not serve".to_owned(),
            )),
        }
    }

    /// One of the partitions.
    pub(crate) fn any_partition(&self) -> Option<TopicPartition> {
        let partitions = self.partitions.borrow();
        (!partitions.is_empty()).then(|| self.work.one_of(&partitions).clone())
    }

    /// Whether the power may fail now: in seeds that drew it, until all faults end.
    pub(crate) fn may_lose_power(&self) -> bool {
        self.mix.faults.kinds.contains(&FaultKind::KillPower) && !self.healed.get()
    }

    /// A pause of up to so long.
    pub(crate) async fn pause(&self, longest: Duration) {
        let longest_us = u64::try_from(longest.as_micros()).unwrap_or(u64::MAX);
        sleep(Duration::from_micros(
            self.work.between(1, longest_us.max(1)),
        ))
        .await;
    }
}

/// Runs one seed's work in its world. Returns every promise that was broken.
pub(crate) async fn run(world: World) -> Vec<Breach> {
    let (work, trouble) = (Dice::of_workload(&world), Dice::of_faults(&world));
    let mix = Mix::draw(world.seed(), &work, &trouble);
    world.note(format!("{mix:?}"));
    let node = Node::new(&world, small_config, 0);
    world.panic_is_death(node.host());
    node.configure(|config| mix.node.configure(config));
    let scene = Rc::new(Scene {
        world,
        mix,
        node,
        recorder: Recorder::new(),
        work,
        trouble,
        partitions: RefCell::default(),
        topics: RefCell::default(),
        over: Cell::new(false),
        healed: Cell::new(false),
        settled: Cell::new(false),
        hosts: Cell::new(0),
    });
    let mut breaches: Vec<Breach> = act(&scene).await.err().into_iter().collect();
    breaches.extend(scene.recorder.with(|history| check(history)));
    if breaches.is_empty() {
        breaches.extend(finale::delete_everything(&scene).await);
    }
    for panic in scene.world.panics(scene.node.host()) {
        if panic != faults::PANIC {
            breaches.push(Breach::liveness(format!("the broker panicked: {panic}")));
        }
    }
    breaches
}

async fn act(scene: &Rc<Scene>) -> Result<(), Breach> {
    scene.node.start();
    scene.serves().await?;
    if !topics::create_lasting(scene).await {
        return Err(Breach::liveness("topics could not be made".to_owned()));
    }
    let tasks = begin(scene);
    faults::run(scene).await;
    finale::read_everything(scene, tasks).await
}

/// Begins all the work.
fn begin(scene: &Rc<Scene>) -> Vec<Task<()>> {
    let mut tasks = Vec::new();
    let mut spawn = |host, task: std::pin::Pin<Box<dyn Future<Output = ()>>>| {
        tasks.push(scene.world.spawn_on(host, task));
    };
    for (number, mix) in (1_u32..).zip(scene.mix.producers.clone()) {
        let (host, client) = scene.client();
        spawn(
            host,
            Box::pin(produce::run(Rc::clone(scene), client, number, mix)),
        );
    }
    for number in (1_u32..).take(scene.mix.readers) {
        let (host, client) = scene.client();
        spawn(host, Box::pin(fetch::run(Rc::clone(scene), client, number)));
    }
    if let Some(pause) = scene.mix.offsets_pause_max {
        let (host, client) = scene.client();
        spawn(host, Box::pin(bounds::run(Rc::clone(scene), client, pause)));
    }
    if let Some(pause) = scene.mix.delete_records_pause_max {
        let (host, client) = scene.client();
        spawn(
            host,
            Box::pin(delete_records::run(Rc::clone(scene), client, pause)),
        );
    }
    if let Some(pause) = scene.mix.topics_pause_max {
        let (host, client) = scene.client();
        spawn(host, Box::pin(topics::run(Rc::clone(scene), client, pause)));
    }
    tasks
}

impl Breach {
    fn liveness(what: String) -> Breach {
        Breach {
            rule: Rule::Liveness,
            what,
        }
    }
}
