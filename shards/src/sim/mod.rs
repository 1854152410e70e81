//! The simulated world: whole nodes in one thread, from a seed.
//!
//! [`run`] makes a world and runs a body in it. Whatever stands on the facade (tasks, clocks, files, sockets,
//! the mesh) acts in that world as long as it is called from that thread. The next ready task is drawn
//! from the seed, time is virtual and jumps when nothing is ready, and the same seed gives the same
//! [trace hash](Report::trace_hash).
//!
//! What it cannot see: the kernel, glommio, data races between real threads, and how long anything takes.

mod both;
pub(crate) mod disk;
pub(crate) mod executor;
mod host;
mod mutations;
pub(crate) mod network;
mod stream;
pub(crate) mod timer;
pub(crate) mod world;

use std::cell::RefCell;
use std::future::Future;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

pub use both::in_both_worlds;
pub use disk::{Atlas, DiskFaults};
pub use host::{HostId, Kill, Running};
pub use mutations::mutated;
pub use network::NetworkFaults;
pub use stream::Stream;
pub use world::Failure;

use crate::node::CoreContext;
use crate::task::{Queue, Task};
use executor::SimTask;
use world::{Budget, CONTROL, Entered, Place};

/// What a simulation starts from.
#[derive(Debug, Clone, Copy)]
pub struct Simulation {
    /// Decides everything.
    pub seed: u64,
    /// Virtual time after which the body should long have ended.
    pub virtual_time_max: Duration,
    /// Polls in a row without any event: more is a livelock.
    pub polls_between_events_max: u64,
}

impl Simulation {
    /// A simulation of at most an hour of virtual time.
    pub fn new(seed: u64) -> Simulation {
        Simulation {
            seed,
            virtual_time_max: Duration::from_hours(1),
            polls_between_events_max: 2_000_000,
        }
    }
}

/// How a simulation went.
#[derive(Debug)]
pub struct Report<T> {
    /// What the body returned, or why it did not.
    pub result: Result<T, Failure>,
    /// The seed it ran from.
    pub seed: u64,
    /// The same for every run of one seed and one program.
    pub trace_hash: u64,
    /// How long it took in virtual time.
    pub virtual_time: Duration,
    /// Tasks polled.
    pub polls: u64,
    /// What happened to the world, with the virtual time: kills, restarts, faults.
    pub notes: Vec<(Duration, String)>,
}

/// Runs `body` in a world of its own, on a host that has no faults.
pub fn run<T, F>(simulation: Simulation, body: impl FnOnce(World) -> F) -> Report<T>
where
    T: 'static,
    F: Future<Output = T> + 'static,
{
    let inner = world::World::new(simulation.seed);
    let entered = Entered::new(&inner);
    let result = Rc::new(RefCell::new(None));
    let fill = Rc::clone(&result);
    let future = body(World(Rc::clone(&inner)));
    let root = SimTask::spawn(&inner, CONTROL, Queue::Foreground, async move {
        let value = future.await;
        *fill.borrow_mut() = Some(value);
    });
    let budget = Budget {
        virtual_time: simulation.virtual_time_max,
        polls_between_events: simulation.polls_between_events_max,
    };
    let driven = inner.drive(budget, || result.borrow().is_some());
    root.detach();
    let (trace_hash, polls, now_ns) = (inner.trace_hash(), inner.polls(), inner.now_ns());
    let notes = inner.notes();
    inner.tear_down();
    drop(entered);
    let value = result.borrow_mut().take();
    Report {
        result: driven.map(|()| value.expect("driven until it was there")),
        seed: simulation.seed,
        trace_hash,
        virtual_time: Duration::from_nanos(now_ns),
        polls,
        notes: notes
            .into_iter()
            .map(|(at, what)| (Duration::from_nanos(at), what))
            .collect(),
    }
}

/// The hand that a test has on its world. A clone is the same hand.
#[derive(Clone)]
pub struct World(Rc<world::World>);

impl World {
    /// The world that the calling task stands in; `None` in the real one.
    pub fn current() -> Option<World> {
        world::current().map(World)
    }

    /// The seed.
    pub fn seed(&self) -> u64 {
        self.0.seed()
    }

    /// Virtual time since the world began.
    pub fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.0.now_ns())
    }

    /// A new host with its address and an empty disk. It runs nothing yet.
    pub fn add_host(&self, address: IpAddr) -> HostId {
        self.0.add_host(address)
    }

    /// Begins the host's next life with `body` on each of its cores, as [`run_node`](crate::run_node) does.
    ///
    /// # Panics
    /// If the host runs already.
    pub fn start<Q, R, T, F>(
        &self,
        host: HostId,
        cores: usize,
        body: impl Fn(CoreContext<Q, R>) -> F + Clone + 'static,
    ) -> Running<T>
    where
        Q: Send + 'static,
        R: Send + 'static,
        T: 'static,
        F: Future<Output = T> + 'static,
    {
        host::start(&self.0, host, cores, body)
    }

    /// Begins the host's next life without anything to do; give it tasks with [`World::spawn_on`].
    pub fn boot(&self, host: HostId) {
        host::begin_life(&self.0, host);
    }

    /// Runs a future on a host, on its first core, in its present life.
    ///
    /// # Panics
    /// If the host does not run.
    pub fn spawn_on<T: 'static>(
        &self,
        host: HostId,
        future: impl Future<Output = T> + 'static,
    ) -> Task<T> {
        let life = {
            let hosts = self.0.hosts.borrow();
            assert!(hosts[host.index()].alive, "host {} does not run", host.0);
            hosts[host.index()].life
        };
        let place = Place {
            host,
            core: 0,
            life,
        };
        Task::simulated(SimTask::spawn(&self.0, place, Queue::Foreground, future))
    }

    /// Ends the host's life at once; nothing if it does not run.
    pub fn kill(&self, host: HostId, how: Kill) {
        self.0.kill(host, how);
    }

    /// The host's disk: its faults, and what it holds.
    pub fn disk(&self, host: HostId) -> DiskFaults {
        DiskFaults::new(Rc::clone(&self.0), host)
    }

    /// The host's address.
    pub fn address(&self, host: HostId) -> IpAddr {
        self.0.hosts.borrow()[host.index()].address
    }

    /// Asks the host's process to stop in good order, as SIGTERM does.
    pub fn ask_to_stop(&self, host: HostId) {
        self.0.ask_to_stop(host);
    }

    /// Whether the host runs.
    pub fn is_alive(&self, host: HostId) -> bool {
        self.0.hosts.borrow()[host.index()].alive
    }

    /// Why the host's process ended itself, if it did in its latest life.
    pub fn halted(&self, host: HostId) -> Option<String> {
        self.0.hosts.borrow()[host.index()].halted.clone()
    }

    /// What tasks of the host panicked with, where a panic ends its process.
    pub fn panics(&self, host: HostId) -> Vec<String> {
        self.0.hosts.borrow()[host.index()].panics.clone()
    }

    /// Has a panic end the host's process, as the broker's policy is, instead of the simulation.
    pub fn panic_is_death(&self, host: HostId) {
        self.0.hosts.borrow_mut()[host.index()].panic_is_death = true;
    }

    /// Lets no task of a core run for a while, as if its thread were stopped.
    pub fn stall(&self, host: HostId, core: u16, length: Duration) {
        self.0.stall(host, core, length);
    }

    /// Lets every core of the host go on.
    pub fn end_stalls(&self, host: HostId) {
        self.0.end_stalls(host);
    }

    /// Sets how far the host's wall clock is off, in milliseconds.
    pub fn skew_wall_clock(&self, host: HostId, ms: i64) {
        self.0
            .note(format!("host {} has its wall clock {ms} ms off", host.0));
        self.0.hosts.borrow_mut()[host.index()].wall_skew_ms = ms;
    }

    /// Tasks that the host has.
    pub fn task_count(&self, host: HostId) -> usize {
        self.0.executor.count(|place| place.host == host)
    }

    /// The network, to break and heal it.
    pub fn network(&self) -> NetworkFaults {
        NetworkFaults::new(&self.0)
    }

    /// The next number of a stream.
    pub fn draw(&self, stream: Stream) -> u64 {
        self.0.draw(stream)
    }

    /// A number below `end`, which is not 0.
    pub fn below(&self, stream: Stream, end: u64) -> u64 {
        self.0.below(stream, end)
    }

    /// True `per_million` times in a million.
    pub fn chance(&self, stream: Stream, per_million: u32) -> bool {
        self.0.chance(stream, per_million)
    }

    /// Writes a line into the record of what happened to the world.
    pub fn note(&self, what: impl Into<String>) {
        self.0.note(what.into());
    }
}

#[cfg(test)]
mod tests;
