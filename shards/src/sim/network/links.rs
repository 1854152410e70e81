//! What lies between the hosts: which links are open, how long they take, what they lose.

use std::collections::{BTreeMap, BTreeSet};

use super::pipe::{Path, RTO_NS};
use crate::sim::host::HostId;
use crate::sim::stream::Stream;
use crate::sim::world::World;

/// From one host to another.
pub(crate) type Link = (HostId, HostId);

/// A link with something about it.
#[derive(Debug, Clone, Copy)]
struct Ailing {
    blocked: bool,
    /// How many times slower than usual.
    slower: u32,
    loss_per_million: u32,
}

impl Default for Ailing {
    fn default() -> Ailing {
        Ailing {
            blocked: false,
            slower: 1,
            loss_per_million: 0,
        }
    }
}

/// Losses of one segment in a row, at most: the sum of the time-outs stays below half a minute.
const LOSSES_MAX: u32 = 6;

/// The links between all hosts.
#[derive(Default)]
pub(crate) struct Links {
    ailing: BTreeMap<Link, Ailing>,
    /// Hosts that nothing reaches and nothing leaves.
    black_holes: BTreeSet<HostId>,
    /// Hosts whose power is on.
    powered: BTreeSet<HostId>,
}

impl Links {
    pub(crate) fn set_powered(&mut self, host: HostId, powered: bool) {
        if powered {
            self.powered.insert(host);
        } else {
            self.powered.remove(&host);
        }
    }

    pub(crate) fn set_black_hole(&mut self, host: HostId, black_hole: bool) {
        if black_hole {
            self.black_holes.insert(host);
        } else {
            self.black_holes.remove(&host);
        }
    }

    pub(crate) fn set_blocked(&mut self, link: Link, blocked: bool) {
        self.ailing.entry(link).or_default().blocked = blocked;
    }

    pub(crate) fn set_slower(&mut self, link: Link, times: u32) {
        self.ailing.entry(link).or_default().slower = times.max(1);
    }

    pub(crate) fn set_loss(&mut self, link: Link, per_million: u32) {
        self.ailing.entry(link).or_default().loss_per_million = per_million;
    }

    /// Forgets all that is wrong with a link.
    pub(crate) fn heal(&mut self, link: Link) {
        self.ailing.remove(&link);
    }

    /// Forgets all that is wrong with any link; hosts without power stay so.
    pub(crate) fn heal_all(&mut self) {
        self.ailing.clear();
        self.black_holes.clear();
    }

    fn ailing(&self, link: Link) -> Ailing {
        self.ailing.get(&link).copied().unwrap_or_default()
    }

    fn is_open(&self, link: Link) -> bool {
        let (from, to) = link;
        // A host reaches itself whatever the network does.
        let reached = from == to
            || !self.ailing(link).blocked
                && !self.black_holes.contains(&from)
                && !self.black_holes.contains(&to);
        reached && self.powered.contains(&to)
    }

    /// What passes between two hosts.
    pub(crate) fn path(&self, link: Link) -> Path {
        Path {
            forward: self.is_open(link),
            backward: self.is_open((link.1, link.0)),
        }
    }

    /// How long a packet takes: mostly 20 to 200 µs, with a tail of milliseconds.
    pub(crate) fn latency_ns(&self, world: &World, link: Link) -> u64 {
        let drawn = world.draw(Stream::Network);
        let (kind, rest) = (drawn % 1_000, drawn >> 32);
        let usual_ns = match kind {
            _ if link.0 == link.1 => 5_000 + rest % 45_000,
            0..5 => 2_000_000 + rest % 18_000_000,
            5..50 => 200_000 + rest % 1_800_000,
            _ => 20_000 + rest % 180_000,
        };
        usual_ns.saturating_mul(u64::from(self.ailing(link).slower))
    }

    /// Whether the link loses a packet.
    pub(crate) fn loses(&self, world: &World, link: Link) -> bool {
        link.0 != link.1 && world.chance(Stream::Network, self.ailing(link).loss_per_million)
    }

    /// How long a segment takes that is sent again for as long as it is lost.
    pub(crate) fn transit_ns(&self, world: &World, link: Link) -> u64 {
        let mut transit_ns = self.latency_ns(world, link);
        let mut losses = 0;
        while losses < LOSSES_MAX && self.loses(world, link) {
            transit_ns += RTO_NS << losses;
            losses += 1;
        }
        transit_ns
    }
}
