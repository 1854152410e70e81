//! The hand of a test on the network: what breaks, and when it heals. Each call is noted.

use std::collections::BTreeSet;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use super::connection::{Connection, Effects};
use super::links::Link;
use super::{ConnectionId, State};
use crate::sim::host::HostId;
use crate::sim::stream::Stream;
use crate::sim::world::World;

/// Breaks and heals the network of a simulated world. What is drawn comes from [`Stream::Faults`].
///
/// A link that is cut holds what is under way: the senders' kernels send it again, at longer and longer
/// intervals of up to two minutes, so that it may arrive that much after the link has healed.
#[derive(Clone)]
pub struct NetworkFaults(Rc<World>);

impl fmt::Debug for NetworkFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("NetworkFaults").finish()
    }
}

impl NetworkFaults {
    pub(crate) fn new(world: &Rc<World>) -> NetworkFaults {
        NetworkFaults(Rc::clone(world))
    }

    fn note(&self, what: impl FnOnce() -> String) {
        self.0.note(format!("network: {}", what()));
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.0.network.state.borrow_mut())
    }

    /// Cuts the way from one host to another; the way back stays open.
    pub fn block(&self, from: HostId, to: HostId) {
        self.note(|| format!("{} does not reach {}", from.0, to.0));
        self.change(|state| state.links.set_blocked((from, to), true));
    }

    /// Cuts both ways between two hosts.
    pub fn partition(&self, one: HostId, other: HostId) {
        self.note(|| format!("{} and {} do not reach each other", one.0, other.0));
        self.change(|state| {
            state.links.set_blocked((one, other), true);
            state.links.set_blocked((other, one), true);
        });
    }

    /// Undoes all that is wrong between two hosts. A host that is a black hole stays one.
    pub fn heal(&self, one: HostId, other: HostId) {
        self.note(|| format!("{} and {} are healed", one.0, other.0));
        self.change(|state| {
            for link in [(one, other), (other, one)] {
                state.flapping.remove(&link);
                state.links.heal(link);
            }
        });
    }

    /// Undoes all that is wrong with any link or host. Connections that were reset stay so.
    pub fn heal_all(&self) {
        self.note(|| "all is healed".to_owned());
        self.change(|state| {
            state.flapping.clear();
            state.links.heal_all();
            state.slow_readers.clear();
            state.tiny_chunks.clear();
        });
    }

    /// Has both ways between two hosts, each for itself, cut and healed again and again for a while, about
    /// every `period`. They are open at the end.
    pub fn flap(&self, one: HostId, other: HostId, period: Duration, length: Duration) {
        self.note(|| format!("{} and {} flap for {length:?}", one.0, other.0));
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX / 4);
        let flapping = Flapping {
            period_ns: nanos(period).max(1),
            until_ns: self.0.now_ns().saturating_add(nanos(length)),
        };
        for link in [(one, other), (other, one)] {
            let number = self.change(|state| {
                let number = state.number();
                state.flapping.insert(link, number);
                number
            });
            flapping.turn(&self.0, link, number, true);
        }
    }

    /// Has nothing reach or leave a host, or ends that.
    pub fn black_hole(&self, host: HostId, on: bool) {
        self.note(|| format!("{} is a black hole: {on}", host.0));
        self.change(|state| state.links.set_black_hole(host, on));
    }

    /// Makes both ways between two hosts so many times slower than usual; 1 is usual.
    pub fn slow(&self, one: HostId, other: HostId, times: u32) {
        self.note(|| format!("{} and {} are {times} times slower", one.0, other.0));
        self.change(|state| {
            state.links.set_slower((one, other), times);
            state.links.set_slower((other, one), times);
        });
    }

    /// Has both ways between two hosts lose so many of a million packets. They are sent again: it shows
    /// as delay.
    pub fn lose(&self, one: HostId, other: HostId, per_million: u32) {
        self.note(|| format!("{} and {} lose {per_million} ppm", one.0, other.0));
        self.change(|state| {
            state.links.set_loss((one, other), per_million);
            state.links.set_loss((other, one), per_million);
        });
    }

    /// Has a host read its sockets slowly, all of them together not considered: each so many bytes a
    /// second; 0 ends that.
    pub fn slow_reader(&self, host: HostId, bytes_per_second: u64) {
        self.note(|| format!("{} reads {bytes_per_second} bytes a second", host.0));
        self.change(
            |state| match 1_000_000_000_u64.checked_div(bytes_per_second) {
                Some(ns_per_byte) => drop(state.slow_readers.insert(host, ns_per_byte)),
                None => drop(state.slow_readers.remove(&host)),
            },
        );
    }

    /// Has a host send and read at most 16 bytes at a time, or ends that.
    pub fn tiny_chunks(&self, host: HostId, on: bool) {
        self.note(|| format!("{} has tiny chunks: {on}", host.0));
        self.change(|state| {
            if on {
                state.tiny_chunks.insert(host);
            } else {
                state.tiny_chunks.remove(&host);
            }
        });
    }

    /// Resets a connection between two hosts, as a firewall between them does: both ends are told at
    /// once. Returns whether there was one.
    pub fn reset_one(&self, one: HostId, other: HostId) -> bool {
        self.break_one(one, other, "is reset", |connection, effects| {
            connection.reset(0, effects);
            connection.reset(1, effects);
        })
    }

    /// Has one host forget a connection to another, which is not told until it sends something. Returns
    /// whether there was one.
    pub fn half_open(&self, forgets: HostId, other: HostId) -> bool {
        let what = format!("is forgotten by {}", forgets.0);
        self.break_one(forgets, other, &what, move |connection, effects| {
            let side = usize::from(connection.ends[0].place.host != forgets);
            connection.reset(side, effects);
        })
    }

    fn break_one(
        &self,
        one: HostId,
        other: HostId,
        what: &str,
        how: impl FnOnce(&mut Connection, &mut Effects),
    ) -> bool {
        let between = BTreeSet::from([one, other]);
        let ids: Vec<ConnectionId> = self.change(|state| {
            let connections = state.connections.iter();
            let open = connections.filter(|(_, connection)| {
                let ends = &connection.ends;
                ends.iter().all(|end| end.held && end.known)
                    && between == ends.iter().map(|end| end.place.host).collect()
            });
            open.map(|(id, _)| *id).collect()
        });
        if ids.is_empty() {
            return false;
        }
        let drawn = self.0.below(Stream::Faults, ids.len() as u64);
        let id = ids[usize::try_from(drawn).expect("an index")];
        self.note(|| format!("connection {id} of {} and {} {what}", one.0, other.0));
        let step = |_: &State, connection: &mut Connection, effects: &mut Effects| {
            how(connection, effects);
        };
        self.0.network.step(&self.0, id, step).is_some()
    }

    /// Connections that the process of a host has open, those that wait to be accepted included.
    pub fn connections(&self, host: HostId) -> usize {
        self.change(|state| {
            let ends = state
                .connections
                .values()
                .flat_map(|connection| &connection.ends);
            ends.filter(|end| end.held && end.place.host == host)
                .count()
        })
    }

    /// Addresses that the process of a host has bound.
    pub fn bound(&self, host: HostId) -> usize {
        self.change(|state| state.ports.count(host))
    }
}

/// A link that is cut and healed by turns.
#[derive(Clone, Copy)]
struct Flapping {
    period_ns: u64,
    until_ns: u64,
}

impl Flapping {
    /// Cuts or heals the link now, and turns it again later.
    fn turn(self, world: &Rc<World>, link: Link, number: u64, cut: bool) {
        let ends = world.now_ns() >= self.until_ns;
        {
            let mut state = world.network.state.borrow_mut();
            // Healed meanwhile, or flapping to another beat.
            if state.flapping.get(&link) != Some(&number) {
                return;
            }
            state.links.set_blocked(link, cut && !ends);
            if ends {
                state.flapping.remove(&link);
            }
        }
        let (from, to) = (link.0.0, link.1.0);
        world.note(format!("network: {from} reaches {to}: {}", !cut || ends));
        if ends {
            return;
        }
        let wait_ns = self.period_ns / 2 + world.below(Stream::Faults, self.period_ns);
        let next_ns = world.now_ns().saturating_add(wait_ns).min(self.until_ns);
        world.at(next_ns, move |world| self.turn(world, link, number, !cut));
    }
}
