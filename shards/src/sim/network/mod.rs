//! The network between the hosts: TCP as the code above the facade sees it.
//!
//! | File | What it decides |
//! |---|---|
//! | `pipe` | one direction of a connection: room, order, sending again, giving up |
//! | `connection` | both ends of one: closing, resetting, half-open |
//! | `ports` | who has bound which address, and who waits to be accepted |
//! | `links` | what passes between two hosts, how fast |
//! | `faults` | the hand of a test on all of it |
//! | `socket` | the sockets that the facade hands out |
//!
//! Those are told what happens and say what follows. This file gives them the world: it draws, has things
//! happen later, and wakes who waits. All it draws comes from [`Stream::Network`].

mod connection;
mod faults;
mod links;
mod pipe;
mod ports;
pub(crate) mod socket;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::Waker;

pub use faults::NetworkFaults;

use super::host::{HostId, Kill};
use super::stream::Stream;
use super::world::{CONTROL, Place, World};
use connection::{Connection, Effects, End, Serving, Side};
use links::Links;
use ports::{Ports, SocketId};

/// A connection's number. Numbers are never given twice.
pub(crate) type ConnectionId = u64;

/// Bytes that a connection holds each way, in flight and unread: between these, drawn.
const CAPACITY_MIN: u64 = 4 << 10;
const CAPACITY_MAX: u64 = 256 << 10;
/// The most of a write that travels as one.
const SEGMENT_BYTES_MAX: u64 = 64 << 10;
/// Between these, where chunks are tiny.
const TINY_BYTES_MAX: u64 = 16;
/// Attempts to connect before it fails (Linux: `tcp_syn_retries`), and the wait after the first.
const SYN_RETRIES: u32 = 6;
const SYN_WAIT_NS: u64 = 1_000_000_000;

/// A call to connect that is under way.
struct Attempt {
    place: Place,
    to: SocketAddr,
    retries: u32,
    outcome: Option<io::Result<ConnectionId>>,
    waker: Option<Waker>,
}

#[derive(Default)]
struct State {
    connections: BTreeMap<ConnectionId, Connection>,
    attempts: BTreeMap<u64, Attempt>,
    next: u64,
    ports: Ports,
    links: Links,
    /// Hosts that read slowly: nanoseconds for each byte.
    slow_readers: BTreeMap<HostId, u64>,
    /// Hosts that send and read a few bytes at a time.
    tiny_chunks: BTreeSet<HostId>,
    /// Links that are cut and healed by turns, each with the number of who does so.
    flapping: BTreeMap<links::Link, u64>,
}

/// The network.
pub(crate) struct Network {
    state: RefCell<State>,
}

impl Default for Network {
    fn default() -> Network {
        let mut state = State::default();
        state.links.set_powered(CONTROL.host, true);
        Network {
            state: RefCell::new(state),
        }
    }
}

fn wake(wakers: impl IntoIterator<Item = Waker>) {
    for waker in wakers {
        waker.wake();
    }
}

impl State {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn link(&self, id: ConnectionId, from: Side) -> Option<links::Link> {
        let ends = &self.connections.get(&id)?.ends;
        Some((ends[from].place.host, ends[1 - from].place.host))
    }

    /// How much of a write travels as one.
    fn segment_bytes(&self, world: &World, host: HostId) -> usize {
        let count = if self.tiny_chunks.contains(&host) {
            1 + world.below(Stream::Network, TINY_BYTES_MAX)
        } else if world.below(Stream::Network, 4) == 0 {
            1 + world.below(Stream::Network, SEGMENT_BYTES_MAX)
        } else {
            SEGMENT_BYTES_MAX
        };
        usize::try_from(count).expect("a few KiB")
    }

    /// How a read of at most `available` bytes is served.
    fn serving(&self, world: &World, host: HostId, available: usize) -> Serving {
        let end = available as u64;
        let ns_per_byte = self.slow_readers.get(&host).copied().unwrap_or(0);
        // A slow reader takes pieces of at most 10 ms each, or one byte.
        let end = match 10_000_000_u64.checked_div(ns_per_byte) {
            Some(piece) => end.min(piece.max(1)),
            None => end,
        };
        let count = if self.tiny_chunks.contains(&host) {
            1 + world.below(Stream::Network, end.min(TINY_BYTES_MAX))
        } else if world.below(Stream::Network, 2) == 0 {
            1 + world.below(Stream::Network, end)
        } else {
            end
        };
        Serving {
            count_max: usize::try_from(count).expect("at most what there is"),
            ns_per_byte,
        }
    }
}

impl Network {
    /// The host's life ended.
    pub(crate) fn killed(&self, world: &Rc<World>, host: HostId, how: Kill) {
        // They have wakers, which must not be dropped while the state is borrowed.
        let (ids, freed) = {
            let mut state = self.state.borrow_mut();
            let attempts = state
                .attempts
                .extract_if(.., |_, attempt| attempt.place.host == host);
            let freed = (attempts.collect::<Vec<_>>(), state.ports.free_all(host));
            if how == Kill::Power {
                state.links.set_powered(host, false);
            }
            let connections = state
                .connections
                .iter()
                .filter(|(_, connection)| connection.ends.iter().any(|end| end.place.host == host));
            let ids: Vec<ConnectionId> = connections.map(|(id, _)| *id).collect();
            (ids, freed)
        };
        drop(freed);
        for id in ids {
            for side in [0, 1] {
                self.step(world, id, |state, connection, effects| {
                    let end = &mut connection.ends[side];
                    if end.place.host != host {
                        return;
                    }
                    match how {
                        Kill::Power => {
                            end.held = false;
                            connection.forget(side, None, effects);
                        }
                        Kill::Process if !end.held => {}
                        // What the kernel sends depends on what was unread, and on how the process
                        // set its sockets; either comes.
                        Kill::Process if world.below(Stream::Network, 2) == 0 => {
                            end.held = false;
                            connection.abort(side, effects);
                        }
                        Kill::Process => {
                            let to = connection.ends[1 - side].place.host;
                            let due_ns = world.now_ns() + state.links.transit_ns(world, (host, to));
                            connection.close(side, due_ns, effects);
                        }
                    }
                });
            }
        }
    }

    /// The host began another life.
    pub(crate) fn started(&self, _world: &Rc<World>, host: HostId) {
        self.state.borrow_mut().links.set_powered(host, true);
    }

    /// Takes a step of one connection and has happen what follows. `None` if it is over.
    fn step<T>(
        &self,
        world: &Rc<World>,
        id: ConnectionId,
        step: impl FnOnce(&State, &mut Connection, &mut Effects) -> T,
    ) -> Option<T> {
        let mut effects = Effects::default();
        // It has wakers, which must not be dropped while the state is borrowed.
        let mut over = None;
        let result = {
            let mut state = self.state.borrow_mut();
            // Out of its place, so that the step may look at the rest of the state.
            let mut connection = state.connections.remove(&id)?;
            let result = step(&state, &mut connection, &mut effects);
            if connection.is_over() {
                over = Some(connection);
            } else {
                state.connections.insert(id, connection);
            }
            for (side, at_ns) in effects.pumps {
                world.at(at_ns, move |world| world.network.pump(world, id, side));
            }
            for side in effects.resets {
                if let Some(link) = state.link(id, 1 - side) {
                    let latency_ns = state.links.latency_ns(world, link);
                    world.after(latency_ns, move |world| {
                        world.network.reset(world, id, side);
                    });
                }
            }
            result
        };
        drop(over);
        wake(effects.wake);
        Some(result)
    }

    fn pump(&self, world: &Rc<World>, id: ConnectionId, side: Side) {
        self.step(world, id, |state, connection, effects| {
            let link = (
                connection.ends[side].place.host,
                connection.ends[1 - side].place.host,
            );
            connection.pump(side, world.now_ns(), state.links.path(link), effects);
        });
    }

    /// A reset arrives at an end, if anything passes. It is not sent again.
    fn reset(&self, world: &Rc<World>, id: ConnectionId, side: Side) {
        self.step(world, id, |state, connection, effects| {
            let link = (
                connection.ends[1 - side].place.host,
                connection.ends[side].place.host,
            );
            if state.links.path(link).forward && !state.links.loses(world, link) {
                connection.reset(side, effects);
            }
        });
    }

    /// The host that an address leads to from another.
    fn host_at(world: &World, from: HostId, address: SocketAddr) -> Option<HostId> {
        if address.ip().is_loopback() || address.ip().is_unspecified() {
            return Some(from);
        }
        let hosts = world.hosts.borrow();
        let found = hosts.iter().position(|host| host.address == address.ip())?;
        Some(HostId(u16::try_from(found).expect("a few hosts")))
    }

    /// Begins to connect. The attempt's number is to be given back to [`Network::forget_attempt`].
    fn begin_connect(&self, world: &Rc<World>, to: SocketAddr) -> u64 {
        let mut state = self.state.borrow_mut();
        let number = state.number();
        let place = world.place();
        let attempt = Attempt {
            place,
            to,
            retries: 0,
            outcome: None,
            waker: None,
        };
        state.attempts.insert(number, attempt);
        let target = Network::host_at(world, place.host, to);
        let link = (place.host, target.unwrap_or(place.host));
        let latency_ns = state.links.latency_ns(world, link);
        world.after(latency_ns, move |world| world.network.syn(world, number));
        number
    }

    /// An attempt's packet reaches the other host, or does not.
    fn syn(&self, world: &Rc<World>, number: u64) {
        let mut woken = Vec::new();
        {
            let mut state = self.state.borrow_mut();
            let Some(attempt) = state.attempts.get(&number) else {
                return;
            };
            let (place, to) = (attempt.place, attempt.to);
            let target = Network::host_at(world, place.host, to);
            let link = (place.host, target.unwrap_or(place.host));
            let path = state.links.path(link);
            let arrives = target.is_some()
                && path.forward
                && path.backward
                && !state.links.loses(world, link);
            let listeners = arrives.then(|| state.ports.listeners(link.1, to));
            let answer = match listeners {
                Some(None) => Some(Err(io::ErrorKind::ConnectionRefused.into())),
                Some(Some(listeners)) if !listeners.is_empty() => {
                    let drawn = match listeners.len() as u64 {
                        1 => 0,
                        several => world.below(Stream::Network, several),
                    };
                    let drawn = listeners[usize::try_from(drawn).expect("an index")];
                    Some(state.establish(world, place, to, drawn, &mut woken))
                }
                _ => None,
            };
            match answer {
                Some(answer) => {
                    let latency_ns = state.links.latency_ns(world, (link.1, link.0));
                    world.after(latency_ns, move |world| {
                        world.network.answered(world, number, answer);
                    });
                }
                None => state.retry_syn(world, number),
            }
        }
        wake(woken);
    }

    /// An attempt has its answer.
    fn answered(&self, world: &Rc<World>, number: u64, answer: io::Result<ConnectionId>) {
        let connected = answer.as_ref().ok().copied();
        let known = {
            let mut state = self.state.borrow_mut();
            state.attempts.get_mut(&number).map(|attempt| {
                attempt.outcome = Some(answer);
                attempt.waker.take()
            })
        };
        match known {
            Some(waker) => wake(waker),
            // Nobody waits for it any more.
            None => {
                if let Some(id) = connected {
                    self.close(world, id, 0);
                }
            }
        }
    }

    /// The attempt's future is gone; a connection that it got and nobody took is closed.
    fn forget_attempt(&self, world: &Rc<World>, number: u64) {
        let attempt = self.state.borrow_mut().attempts.remove(&number);
        if let Some(Ok(id)) = attempt.and_then(|attempt| attempt.outcome) {
            self.close(world, id, 0);
        }
    }

    /// The socket is closed.
    fn close(&self, world: &Rc<World>, id: ConnectionId, side: Side) {
        self.step(world, id, |state, connection, effects| {
            let due_ns = state.due_ns(world, connection, side);
            connection.close(side, due_ns, effects);
        });
    }

    /// A handle of a bound socket is dropped.
    fn release(&self, world: &Rc<World>, socket: SocketId) {
        let unaccepted = self.state.borrow_mut().ports.release(socket);
        for id in unaccepted {
            self.step(world, id, |_, connection, effects| {
                connection.ends[1].held = false;
                connection.abort(1, effects);
            });
        }
    }
}

impl State {
    fn due_ns(&self, world: &World, connection: &Connection, from: Side) -> u64 {
        let ends = &connection.ends;
        let link = (ends[from].place.host, ends[1 - from].place.host);
        world.now_ns() + self.links.transit_ns(world, link)
    }

    fn establish(
        &mut self,
        world: &World,
        place: Place,
        to: SocketAddr,
        listener: SocketId,
        woken: &mut Vec<Waker>,
    ) -> io::Result<ConnectionId> {
        let own_ip = if to.ip().is_loopback() || to.ip().is_unspecified() {
            to.ip()
        } else {
            world.hosts.borrow()[place.host.index()].address
        };
        let port = self
            .ports
            .free_port(place.host, SocketAddr::new(own_ip, 0))?;
        let accepting = self.ports.place(listener).expect("it listens");
        let id = self.number();
        let capacity = || {
            let drawn = world.below(Stream::Network, CAPACITY_MAX - CAPACITY_MIN + 1);
            usize::try_from(CAPACITY_MIN + drawn).expect("a few KiB")
        };
        let ends = [
            End::new(place, SocketAddr::new(own_ip, port)),
            End::new(accepting, to),
        ];
        self.connections
            .insert(id, Connection::new(ends, [capacity(), capacity()]));
        world.trace(id);
        woken.append(&mut self.ports.arrive(listener, id));
        Ok(id)
    }

    fn retry_syn(&mut self, world: &World, number: u64) {
        let attempt = self.attempts.get_mut(&number).expect("it was just found");
        let wait_ns = SYN_WAIT_NS << attempt.retries;
        if attempt.retries == SYN_RETRIES {
            world.after(wait_ns, move |world| {
                let failed = Err(io::ErrorKind::TimedOut.into());
                world.network.answered(world, number, failed);
            });
        } else {
            attempt.retries += 1;
            world.after(wait_ns, move |world| world.network.syn(world, number));
        }
    }
}

#[cfg(test)]
mod storm;
#[cfg(test)]
mod tests;
