//! One simulated world: its clock, its events, its hosts. Everything in it happens on one thread.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use super::disk::Disks;
use super::executor::{Executor, TaskId};
use super::host::{Host, HostId, Kill};
use super::network::Network;
use super::stream::{Stream, Streams, mix};

/// Where a task runs: a core of a host, in one of the host's lives. The host that was killed and started
/// again is the same host in its next life; what an earlier life left behind must not act in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Place {
    pub(crate) host: HostId,
    pub(crate) core: u16,
    pub(crate) life: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place { host, core, life } = self;
        write!(f, "host {} core {core} (life {life})", host.0)
    }
}

/// Where the body of a simulation runs: a host of its own, that is never killed.
pub(crate) const CONTROL: Place = Place {
    host: HostId(0),
    core: 0,
    life: 0,
};

/// Virtual time starts here, in nanoseconds since 1970: 2026-01-01.
const WALL_START_NS: u64 = 1_767_225_600_000_000_000;
/// What running a task costs, at most; at least nothing.
const POLL_NS_MAX: u64 = 2_000;
/// How late a timer may be.
const TIMER_LATE_NS_MAX: u64 = 50_000;
/// Notes kept of what happened to the world: a fault schedule is read by a person.
const NOTES_MAX: usize = 2_000;

type Event = Box<dyn FnOnce(&Rc<World>)>;

/// A place in the order of events: when, and among those of one moment in the order they were made.
pub(crate) type EventKey = (u64, u64);

/// Why a simulation ended without its body's result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// A task panicked: an assertion of the code under test, or of a checker.
    #[error("a task on {place} panicked: {message}")]
    Panicked {
        /// Which host and core.
        place: String,
        /// What it said.
        message: String,
    },
    /// Nothing is ready and nothing will happen any more, and the body has not ended.
    #[error("nothing can happen any more and the body waits: a deadlock")]
    Deadlock,
    /// Tasks ran and ran and time stood still.
    #[error("{polls} polls without an event: a livelock, last on {place}")]
    Livelock {
        /// How many.
        polls: u64,
        /// Which host and core.
        place: String,
    },
    /// The virtual time that the simulation was given is used up.
    #[error("the body did not end within {0:?} of virtual time")]
    TimeUp(Duration),
}

/// Bounds of one simulation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget {
    pub(crate) virtual_time: Duration,
    pub(crate) polls_between_events: u64,
}

/// The world of this thread. Tests reach it through [`World`](super::World).
pub(crate) struct World {
    serial: u64,
    seed: u64,
    clock: Cell<u64>,
    streams: Streams,
    events: RefCell<BTreeMap<EventKey, Event>>,
    events_made: Cell<u64>,
    pub(crate) executor: Executor,
    pub(crate) hosts: RefCell<Vec<Host>>,
    pub(crate) disks: Disks,
    pub(crate) network: Network,
    place: Cell<Place>,
    trace: Cell<u64>,
    polls: Cell<u64>,
    notes: RefCell<Vec<(u64, String)>>,
    /// Asked for by the code of a host while it runs; carried out when it has yielded.
    kills: RefCell<Vec<(HostId, u32, Kill)>>,
    failure: RefCell<Option<Failure>>,
}

thread_local! {
    static WORLD: RefCell<Option<Rc<World>>> = const { RefCell::new(None) };
    static SERIAL: Cell<u64> = const { Cell::new(0) };
}

/// The simulated world that this thread stands in; `None` in the real one.
pub(crate) fn current() -> Option<Rc<World>> {
    WORLD
        .try_with(|world| world.borrow().clone())
        .ok()
        .flatten()
}

/// Puts a world in place for this thread until dropped.
pub(crate) struct Entered;

impl Entered {
    pub(crate) fn new(world: &Rc<World>) -> Entered {
        WORLD.with_borrow_mut(|current| {
            assert!(current.is_none(), "a simulation inside a simulation");
            *current = Some(Rc::clone(world));
        });
        Entered
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let world = WORLD.with_borrow_mut(Option::take);
        drop(world);
    }
}

impl World {
    pub(crate) fn new(seed: u64) -> Rc<World> {
        let serial = SERIAL.get() + 1;
        SERIAL.set(serial);
        Rc::new(World {
            serial,
            seed,
            clock: Cell::new(0),
            streams: Streams::new(seed),
            events: RefCell::default(),
            events_made: Cell::new(0),
            executor: Executor::default(),
            hosts: RefCell::new(vec![Host::control()]),
            disks: Disks::default(),
            network: Network::default(),
            place: Cell::new(CONTROL),
            trace: Cell::new(mix(seed)),
            polls: Cell::new(0),
            notes: RefCell::default(),
            kills: RefCell::default(),
            failure: RefCell::new(None),
        })
    }

    pub(crate) fn serial(&self) -> u64 {
        self.serial
    }

    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    /// Virtual nanoseconds since the world began. Hosts see it through their own clocks.
    pub(crate) fn now_ns(&self) -> u64 {
        self.clock.get()
    }

    pub(crate) fn wall_ns(&self) -> u64 {
        WALL_START_NS + self.clock.get()
    }

    /// Where the task that runs lives; [`CONTROL`] between tasks.
    pub(crate) fn place(&self) -> Place {
        self.place.get()
    }

    pub(crate) fn draw(&self, stream: Stream) -> u64 {
        self.streams.next(stream)
    }

    /// A number below `end`, which is not 0.
    pub(crate) fn below(&self, stream: Stream, end: u64) -> u64 {
        self.streams.below(stream, end)
    }

    /// True `per_million` times in a million. Draws nothing for 0, so that a fault which is off costs
    /// its stream nothing.
    pub(crate) fn chance(&self, stream: Stream, per_million: u32) -> bool {
        per_million > 0 && self.streams.below(stream, 1_000_000) < u64::from(per_million)
    }

    /// Has `event` happen at a moment, at the earliest now. Events of one moment happen in the order in
    /// which they were made.
    pub(crate) fn at(&self, when_ns: u64, event: impl FnOnce(&Rc<World>) + 'static) -> EventKey {
        let number = self.events_made.get();
        self.events_made.set(number + 1);
        let key = (when_ns.max(self.clock.get()), number);
        self.events.borrow_mut().insert(key, Box::new(event));
        key
    }

    /// Has `event` happen after some nanoseconds.
    pub(crate) fn after(&self, ns: u64, event: impl FnOnce(&Rc<World>) + 'static) -> EventKey {
        self.at(self.clock.get().saturating_add(ns), event)
    }

    /// Takes an event back, if it has not happened.
    pub(crate) fn forget(&self, key: EventKey) {
        let event = self.events.borrow_mut().remove(&key);
        drop(event);
    }

    /// When a timer that is due at a moment really fires.
    pub(crate) fn late(&self, due_ns: u64) -> u64 {
        due_ns.saturating_add(self.below(Stream::Schedule, TIMER_LATE_NS_MAX))
    }

    /// Makes `value` part of the trace hash: two runs of one seed must come to the same.
    pub(crate) fn trace(&self, value: u64) {
        self.trace.set(mix(self.trace.get().rotate_left(5) ^ value));
    }

    pub(crate) fn trace_hash(&self) -> u64 {
        self.trace.get()
    }

    pub(crate) fn polls(&self) -> u64 {
        self.polls.get()
    }

    /// Writes down what happened to the world, with the time.
    pub(crate) fn note(&self, what: String) {
        let mut notes = self.notes.borrow_mut();
        if notes.len() < NOTES_MAX {
            notes.push((self.clock.get(), what));
        }
    }

    pub(crate) fn notes(&self) -> Vec<(u64, String)> {
        self.notes.borrow().clone()
    }

    /// Whether a place's host still lives that life. A killed life's handles act no more.
    pub(crate) fn lives(&self, place: Place) -> bool {
        self.hosts
            .borrow()
            .get(place.host.index())
            .is_some_and(|host| host.alive && host.life == place.life)
    }

    fn may_run(&self, place: Place) -> bool {
        self.hosts
            .borrow()
            .get(place.host.index())
            .is_none_or(|host| host.stalled_until(place.core) <= self.clock.get())
    }

    /// Runs until `ended` says so.
    pub(crate) fn drive(
        self: &Rc<Self>,
        budget: Budget,
        ended: impl Fn() -> bool,
    ) -> Result<(), Failure> {
        let deadline = u64::try_from(budget.virtual_time.as_nanos()).unwrap_or(u64::MAX);
        let mut since_event = 0_u64;
        while !ended() {
            if self.clock.get() > deadline {
                return Err(Failure::TimeUp(budget.virtual_time));
            }
            if self.happen(self.clock.get()) {
                since_event = 0;
            }
            let taken = self
                .executor
                .take(&self.streams, |place| self.may_run(place));
            if let Some(taken) = taken {
                since_event += 1;
                if since_event > budget.polls_between_events {
                    return Err(Failure::Livelock {
                        polls: since_event,
                        place: taken.place.to_string(),
                    });
                }
                self.step(taken);
                self.carry_out_kills();
                if let Some(failure) = self.failure.borrow_mut().take() {
                    return Err(failure);
                }
            } else {
                // Nothing is ready: time jumps to the next event.
                let next = self.events.borrow().first_key_value().map(|(key, _)| key.0);
                let Some(next) = next else {
                    return Err(Failure::Deadlock);
                };
                self.clock.set(next.max(self.clock.get()));
            }
        }
        Ok(())
    }

    /// Lets everything happen that is due by `until`. Returns whether there was anything.
    fn happen(self: &Rc<Self>, until: u64) -> bool {
        let mut any = false;
        loop {
            let due = {
                let mut events = self.events.borrow_mut();
                match events.first_entry() {
                    Some(entry) if entry.key().0 <= until => Some(entry.remove_entry()),
                    _ => None,
                }
            };
            let Some((key, event)) = due else { break };
            self.trace(key.1);
            event(self);
            any = true;
        }
        any
    }

    fn step(&self, taken: super::executor::Taken) {
        let (id, place) = (taken.id, taken.place);
        self.trace(id);
        self.trace(self.clock.get());
        self.polls.set(self.polls.get() + 1);
        self.place.set(place);
        let polled = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            self.executor.poll(taken);
        }));
        if let Err(panic) = polled {
            self.panicked(id, place, panic.as_ref());
        }
        self.place.set(CONTROL);
        let cost = self.below(Stream::Schedule, POLL_NS_MAX);
        self.clock.set(self.clock.get() + cost);
    }

    fn panicked(&self, id: TaskId, place: Place, panic: &(dyn Any + Send)) {
        self.executor.forget(id);
        let message = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_else(|| "a panic without a message".to_owned());
        let survives = {
            let mut hosts = self.hosts.borrow_mut();
            let host = hosts.get_mut(place.host.index());
            host.is_some_and(|host| {
                host.panics.push(message.clone());
                host.panic_is_death
            })
        };
        if survives {
            // The process's policy is to abort on any panic.
            self.kills
                .borrow_mut()
                .push((place.host, place.life, Kill::Process));
            return;
        }
        *self.failure.borrow_mut() = Some(Failure::Panicked {
            place: place.to_string(),
            message,
        });
    }

    /// The process of the task that runs stops because it must, once the task has yielded.
    pub(crate) fn halt(&self, reason: &str) {
        let place = self.place();
        if let Some(host) = self.hosts.borrow_mut().get_mut(place.host.index()) {
            host.halted = Some(reason.to_owned());
        }
        self.end_process(&format!("it halted: {reason}"));
    }

    /// The process of the task that runs ends once the task has yielded.
    pub(crate) fn end_process(&self, why: &str) {
        let place = self.place();
        self.note(format!("host {} ends: {why}", place.host.0));
        self.kills
            .borrow_mut()
            .push((place.host, place.life, Kill::Process));
    }

    fn carry_out_kills(self: &Rc<Self>) {
        loop {
            let next = self.kills.borrow_mut().pop();
            let Some((host, life, how)) = next else {
                return;
            };
            let still = self.hosts.borrow()[host.index()].life == life;
            if still {
                self.kill(host, how);
            }
        }
    }

    /// Ends a host's life. Its handles are dead before its tasks are dropped, so that what their
    /// destructors do reaches neither disk nor network.
    pub(crate) fn kill(self: &Rc<Self>, id: HostId, how: Kill) {
        assert_ne!(id, CONTROL.host, "the body's own host can't be killed");
        let life = {
            let mut hosts = self.hosts.borrow_mut();
            let host = &mut hosts[id.index()];
            if !host.alive {
                return;
            }
            host.alive = false;
            host.life
        };
        self.note(format!("host {} killed: {how:?}", id.0));
        self.disks.killed(self, id, how);
        self.network.killed(self, id, how);
        let before = self.place.replace(Place {
            host: id,
            core: 0,
            life,
        });
        let bodies = self
            .executor
            .remove(|place| place.host == id && place.life == life);
        for body in bodies {
            drop(body);
        }
        self.place.set(before);
        let waiting = std::mem::take(&mut self.hosts.borrow_mut()[id.index()].death_wakers);
        for waker in waiting {
            waker.wake();
        }
    }

    /// Drops everything, in the order that destructors need.
    pub(crate) fn tear_down(&self) {
        for host in self.hosts.borrow_mut().iter_mut() {
            host.alive = false;
        }
        let bodies = self.executor.remove(|_| true);
        for body in bodies {
            drop(body);
        }
        let events = std::mem::take(&mut *self.events.borrow_mut());
        drop(events);
    }
}
