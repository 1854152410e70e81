//! A simulated machine: an address, a disk, cores, a clock that may be wrong, and the process that runs on it.

use std::cell::RefCell;
use std::future::Future;
use std::net::IpAddr;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use super::executor::SimTask;
use super::stream::Stream;
use super::world::{Place, World};
use crate::mesh::mesh_seeds;
use crate::node::CoreContext;
use crate::task::Queue;

/// A host's number: 0 is the host of the simulation's own body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(pub u16);

impl HostId {
    pub(crate) fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// How a host's life ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kill {
    /// The process ends, as by `kill -9`: the kernel closes its connections, and keeps what was written.
    Process,
    /// The power fails: peers hear nothing, and of what was not synced an arbitrary part is on the disk.
    Power,
}

pub(crate) struct Host {
    pub(crate) address: IpAddr,
    pub(crate) life: u32,
    pub(crate) alive: bool,
    /// Added to virtual time by this host's monotonic clock.
    pub(crate) monotonic_start_ns: u64,
    /// Added to virtual time by this host's wall clock.
    pub(crate) wall_skew_ms: i64,
    /// By core: no task of it runs before this moment.
    stalls: Vec<u64>,
    /// Whether a panic ends the host's process, as the broker's policy is, instead of the simulation.
    pub(crate) panic_is_death: bool,
    pub(crate) panics: Vec<String>,
    /// Why the process ended itself, in its latest life.
    pub(crate) halted: Option<String>,
    pub(crate) death_wakers: Vec<Waker>,
    /// Whether the process is asked to stop, as by SIGTERM, and who waits for that.
    stop_asked: bool,
    stop_wakers: Vec<Waker>,
}

impl Host {
    pub(crate) fn new(address: IpAddr, monotonic_start_ns: u64) -> Host {
        Host {
            address,
            life: 0,
            alive: false,
            monotonic_start_ns,
            wall_skew_ms: 0,
            stalls: Vec::new(),
            panic_is_death: false,
            panics: Vec::new(),
            halted: None,
            death_wakers: Vec::new(),
            stop_asked: false,
            stop_wakers: Vec::new(),
        }
    }

    pub(crate) fn control() -> Host {
        let mut host = Host::new(IpAddr::from([10, 255, 255, 1]), 0);
        host.alive = true;
        host
    }

    pub(crate) fn stalled_until(&self, core: u16) -> u64 {
        self.stalls.get(usize::from(core)).copied().unwrap_or(0)
    }

    pub(crate) fn stall(&mut self, core: u16, until_ns: u64) {
        let index = usize::from(core);
        if self.stalls.len() <= index {
            self.stalls.resize(index + 1, 0);
        }
        self.stalls[index] = self.stalls[index].max(until_ns);
    }
}

/// A process on a host: what its cores returned, once all have.
pub struct Running<T> {
    results: Rc<RefCell<Vec<Option<T>>>>,
    place: Place,
}

impl<T> Running<T> {
    /// What each core returned, when all have ended; `None` if the host was killed before.
    pub async fn ended(&self) -> Option<Vec<T>> {
        std::future::poll_fn(|cx| {
            let world = super::world::current().expect("a process runs in a world");
            let mut results = self.results.borrow_mut();
            if results.iter().all(Option::is_some) {
                return Poll::Ready(Some(results.iter_mut().filter_map(Option::take).collect()));
            }
            if !world.lives(self.place) {
                return Poll::Ready(None);
            }
            world.hosts.borrow_mut()[self.place.host.index()]
                .death_wakers
                .push(cx.waker().clone());
            Poll::Pending
        })
        .await
    }
}

/// Begins a host's next life with a body on each core, as [`run_node`](crate::run_node) does.
pub(crate) fn start<Q, R, T, F>(
    world: &Rc<World>,
    id: HostId,
    cores: usize,
    body: impl Fn(CoreContext<Q, R>) -> F + Clone + 'static,
) -> Running<T>
where
    Q: Send + 'static,
    R: Send + 'static,
    T: 'static,
    F: Future<Output = T> + 'static,
{
    let life = begin_life(world, id);
    let place = |core: u16| Place {
        host: id,
        core,
        life,
    };
    let results = Rc::new(RefCell::new(
        (0..cores).map(|_| None).collect::<Vec<Option<T>>>(),
    ));
    for (core, seed) in mesh_seeds::<Q, R>(cores).into_iter().enumerate() {
        let core_number = u16::try_from(core).expect("fewer than 65,536 cores");
        let (body, results) = (body.clone(), Rc::clone(&results));
        let run = async move {
            let mesh = seed.grow();
            let end = mesh.clone();
            let context = CoreContext {
                core: mesh.core(),
                cores,
                mesh,
            };
            let result = body(context).await;
            end.stop();
            results.borrow_mut()[core] = Some(result);
            let last = results.borrow().iter().all(Option::is_some);
            if let Some(world) = super::world::current().filter(|_| last) {
                world.end_process("all its cores ended");
            }
        };
        SimTask::spawn(world, place(core_number), Queue::Foreground, run).detach();
    }
    Running {
        results,
        place: place(0),
    }
}

/// Begins a host's next life; it has no tasks yet.
pub(crate) fn begin_life(world: &Rc<World>, id: HostId) -> u32 {
    let life = {
        let mut hosts = world.hosts.borrow_mut();
        let host = &mut hosts[id.index()];
        assert!(!host.alive, "host {} runs already", id.0);
        host.alive = true;
        host.life += 1;
        host.stalls.clear();
        host.halted = None;
        host.stop_asked = false;
        host.stop_wakers.clear();
        host.life
    };
    world.note(format!("host {} started, life {life}", id.0));
    world.network.started(world, id);
    life
}

impl World {
    /// A new host; it does not run yet.
    pub(crate) fn add_host(&self, address: IpAddr) -> HostId {
        // A machine has been up for a while when its broker starts.
        let up_ns = self.below(Stream::Schedule, 1_000_000) * 1_000_000;
        let mut hosts = self.hosts.borrow_mut();
        let id = HostId(u16::try_from(hosts.len()).expect("a few hosts"));
        hosts.push(Host::new(address, up_ns));
        id
    }

    pub(crate) fn ask_to_stop(&self, id: HostId) {
        self.note(format!("host {} asked to stop", id.0));
        let waiting = {
            let host = &mut self.hosts.borrow_mut()[id.index()];
            host.stop_asked = true;
            std::mem::take(&mut host.stop_wakers)
        };
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Resolves when the process of the task that waits is asked to stop.
    pub(crate) async fn stop_requested(&self) {
        let index = self.place().host.index();
        std::future::poll_fn(|cx| {
            let host = &mut self.hosts.borrow_mut()[index];
            if host.stop_asked {
                return Poll::Ready(());
            }
            host.stop_wakers.push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    pub(crate) fn stall(self: &Rc<Self>, id: HostId, core: u16, length: Duration) {
        let length_ns = u64::try_from(length.as_nanos()).unwrap_or(u64::MAX / 2);
        let until = self.now_ns().saturating_add(length_ns);
        self.note(format!("host {} core {core} stalls for {length:?}", id.0));
        self.hosts.borrow_mut()[id.index()].stall(core, until);
        // Time must not stop while everything that is ready waits for the stall to end.
        self.after(length_ns, |_| {});
    }

    pub(crate) fn end_stalls(&self, id: HostId) {
        self.note(format!("no core of host {} stalls", id.0));
        self.hosts.borrow_mut()[id.index()].stalls.clear();
    }
}
