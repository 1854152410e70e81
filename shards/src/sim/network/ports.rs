//! The ports of all hosts: who has bound which, who listens, and who waits to be accepted.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::task::Waker;

use super::ConnectionId;
use crate::sim::host::HostId;
use crate::sim::world::Place;

/// Connections that a listener's kernel holds until they are accepted.
const BACKLOG: usize = 1_024;
/// Ports that are given out where none is asked for (Linux: `ip_local_port_range`).
const EPHEMERAL: std::ops::RangeInclusive<u16> = 32_768..=60_999;

/// A bound socket's number. Numbers are never given twice.
pub(crate) type SocketId = u64;

/// A bound socket.
pub(crate) struct Bound {
    place: Place,
    address: SocketAddr,
    /// Others may bind the same address, if they all say so.
    shared: bool,
    listening: bool,
    /// Handles of this socket. It is freed with the last.
    handles: usize,
    waiting: VecDeque<ConnectionId>,
    acceptors: Vec<Waker>,
}

/// The ports of all hosts.
#[derive(Default)]
pub(crate) struct Ports {
    sockets: BTreeMap<SocketId, Bound>,
    next: SocketId,
    ephemeral: BTreeMap<HostId, u16>,
}

fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let same_ip =
        one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified();
    same_ip && one.port() == other.port()
}

impl Ports {
    /// Whether somebody has the address.
    pub(crate) fn is_taken(&self, host: HostId, address: SocketAddr) -> bool {
        self.on(host)
            .any(|(_, bound)| overlap(bound.address, address))
    }

    /// Binds an address of a host, with one handle.
    pub(crate) fn bind(
        &mut self,
        place: Place,
        mut address: SocketAddr,
        shared: bool,
    ) -> io::Result<SocketId> {
        if address.port() == 0 {
            address.set_port(self.free_port(place.host, address)?);
        }
        let busy = self
            .on(place.host)
            .any(|(_, bound)| overlap(bound.address, address) && !(shared && bound.shared));
        if busy {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let id = self.next;
        self.next += 1;
        let bound = Bound {
            place,
            address,
            shared,
            listening: false,
            handles: 1,
            waiting: VecDeque::new(),
            acceptors: Vec::new(),
        };
        self.sockets.insert(id, bound);
        Ok(id)
    }

    /// The next port of a host that nobody has bound.
    pub(crate) fn free_port(&mut self, host: HostId, address: SocketAddr) -> io::Result<u16> {
        for _ in EPHEMERAL {
            let next = self.ephemeral.entry(host).or_insert(*EPHEMERAL.start());
            let port = *next;
            *next = if port == *EPHEMERAL.end() {
                *EPHEMERAL.start()
            } else {
                port + 1
            };
            if !self.is_taken(host, SocketAddr::new(address.ip(), port)) {
                return Ok(port);
            }
        }
        Err(io::ErrorKind::AddrInUse.into())
    }

    fn on(&self, host: HostId) -> impl Iterator<Item = (SocketId, &Bound)> {
        self.sockets
            .iter()
            .filter(move |(_, bound)| bound.place.host == host)
            .map(|(id, bound)| (*id, bound))
    }

    pub(crate) fn address(&self, id: SocketId) -> io::Result<SocketAddr> {
        let bound = self.sockets.get(&id);
        bound.map(|bound| bound.address).ok_or_else(gone)
    }

    /// Listens, with one more handle.
    pub(crate) fn listen(&mut self, id: SocketId) -> io::Result<()> {
        let bound = self.sockets.get_mut(&id).ok_or_else(gone)?;
        bound.listening = true;
        bound.handles += 1;
        Ok(())
    }

    /// Drops a handle. With the last, the connections that nobody accepted are returned.
    pub(crate) fn release(&mut self, id: SocketId) -> Vec<ConnectionId> {
        let Some(bound) = self.sockets.get_mut(&id) else {
            return Vec::new();
        };
        bound.handles -= 1;
        if bound.handles > 0 {
            return Vec::new();
        }
        let freed = self.sockets.remove(&id);
        freed.map_or_else(Vec::new, |bound| bound.waiting.into())
    }

    /// Frees everything that a host's process had bound. Dropping it is the caller's.
    pub(crate) fn free_all(&mut self, host: HostId) -> Vec<Bound> {
        let of_host = |_: &SocketId, bound: &mut Bound| bound.place.host == host;
        let freed = self.sockets.extract_if(.., of_host);
        freed.map(|(_, bound)| bound).collect()
    }

    /// Those who listen at an address of a host and have room for one more connection; `None` if nobody
    /// listens there.
    pub(crate) fn listeners(&self, host: HostId, address: SocketAddr) -> Option<Vec<SocketId>> {
        let mut listening = self
            .on(host)
            .filter(|(_, bound)| bound.listening && overlap(bound.address, address))
            .peekable();
        listening.peek()?;
        let with_room = listening.filter(|(_, bound)| bound.waiting.len() < BACKLOG);
        Some(with_room.map(|(id, _)| id).collect())
    }

    pub(crate) fn place(&self, id: SocketId) -> Option<Place> {
        self.sockets.get(&id).map(|bound| bound.place)
    }

    /// A connection waits to be accepted. Returns who is to be woken.
    pub(crate) fn arrive(&mut self, id: SocketId, connection: ConnectionId) -> Vec<Waker> {
        let bound = self.sockets.get_mut(&id).expect("it was just drawn");
        bound.waiting.push_back(connection);
        std::mem::take(&mut bound.acceptors)
    }

    /// The next connection, or `None` and `waker` is called when there may be one.
    pub(crate) fn accept(
        &mut self,
        id: SocketId,
        waker: &Waker,
    ) -> io::Result<Option<ConnectionId>> {
        let bound = self.sockets.get_mut(&id).ok_or_else(gone)?;
        let next = bound.waiting.pop_front();
        if next.is_none() && !bound.acceptors.iter().any(|other| other.will_wake(waker)) {
            bound.acceptors.push(waker.clone());
        }
        Ok(next)
    }

    /// Sockets that a host has bound.
    pub(crate) fn count(&self, host: HostId) -> usize {
        self.on(host).count()
    }
}

/// The host's process is gone, and its sockets with it.
fn gone() -> io::Error {
    io::ErrorKind::NotConnected.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place = Place {
        host: HostId(1),
        core: 0,
        life: 1,
    };

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_is_taken_once_unless_all_share_it() {
        // Proves who may bind beside whom: by address, by wildcard, by host, shared or not.
        for (first, second, both) in [
            (("10.0.0.1:1", true), ("10.0.0.1:1", true), true),
            (("10.0.0.1:1", true), ("10.0.0.1:1", false), false),
            (("10.0.0.1:1", false), ("10.0.0.1:1", true), false),
            (("10.0.0.1:1", false), ("0.0.0.0:1", false), false),
            (("10.0.0.1:1", false), ("127.0.0.1:1", false), true),
            (("10.0.0.1:1", false), ("10.0.0.1:2", false), true),
        ] {
            let mut ports = Ports::default();
            ports.bind(PLACE, at(first.0), first.1).unwrap();
            let outcome = ports.bind(PLACE, at(second.0), second.1);
            assert_eq!(outcome.is_ok(), both, "{first:?} {second:?}");
            let elsewhere = Place {
                host: HostId(2),
                ..PLACE
            };
            assert!(ports.bind(elsewhere, at(second.0), second.1).is_ok());
        }
    }

    #[test]
    fn a_socket_is_freed_with_its_last_handle_or_its_process() {
        // Proves both ends of an address, and that what was not accepted is handed back.
        let mut ports = Ports::default();
        let id = ports.bind(PLACE, at("0.0.0.0:0"), false).unwrap();
        let address = ports.address(id).unwrap();
        assert_eq!(address.port(), 32_768);
        assert!(ports.listeners(PLACE.host, address).is_none());
        ports.listen(id).unwrap();
        let reached = at("10.0.0.1:32768");
        assert_eq!(ports.listeners(PLACE.host, reached), Some(vec![id]));
        ports.arrive(id, 7);
        assert!(ports.release(id).is_empty() && ports.is_taken(PLACE.host, address));
        assert_eq!(ports.release(id), [7]);
        assert!(!ports.is_taken(PLACE.host, address));
        let again = ports.bind(PLACE, at("0.0.0.0:0"), false).unwrap();
        assert_eq!(ports.address(again).unwrap().port(), 32_769);
        assert_eq!(ports.free_all(PLACE.host).len(), 1);
        assert_eq!(ports.count(PLACE.host), 0);
        assert!(ports.address(again).is_err() && ports.release(again).is_empty());
    }

    #[test]
    fn a_full_backlog_takes_no_more() {
        // Proves the bound on connections that nobody accepts, and that they are accepted in order.
        let mut ports = Ports::default();
        let address = at("10.0.0.1:1");
        let id = ports.bind(PLACE, address, false).unwrap();
        ports.listen(id).unwrap();
        for connection in 0..BACKLOG as u64 {
            assert_eq!(ports.listeners(PLACE.host, address), Some(vec![id]));
            ports.arrive(id, connection);
        }
        assert_eq!(ports.listeners(PLACE.host, address), Some(Vec::new()));
        assert_eq!(ports.accept(id, Waker::noop()).unwrap(), Some(0));
        assert_eq!(ports.listeners(PLACE.host, address), Some(vec![id]));
    }
}
