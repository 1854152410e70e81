//! How many connections a node takes, together and from one address.
//!
//! All cores accept, so the counts are shared: atomics, touched once when a connection opens and once when
//! it closes, never on the path of a request.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

/// Counters for addresses. Addresses that hash alike share one, so one may be refused for the
/// other's connections: with 1,000 busy addresses, one in 65 shares its counter. 256 KiB.
const SLOTS: usize = 1 << 16;

/// Why a connection is turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The node has `limits.connections_max`.
    Node,
    /// The address has `limits.connections_per_ip_max`.
    Address,
}

/// The node's counts. One, shared by all cores.
#[derive(Debug)]
pub struct ConnectionLimits {
    open: AtomicUsize,
    by_address: Box<[AtomicU32]>,
    connections_max: usize,
    per_address_max: u32,
}

impl ConnectionLimits {
    /// Limits for a node: together, and from one address.
    pub fn new(connections_max: usize, per_address_max: u32) -> Arc<ConnectionLimits> {
        Arc::new(ConnectionLimits {
            open: AtomicUsize::new(0),
            by_address: (0..SLOTS).map(|_| AtomicU32::new(0)).collect(),
            connections_max,
            per_address_max,
        })
    }

    /// Counts a new connection in.
    ///
    /// # Errors
    /// [`Refused`]: close it at once.
    pub fn admit(self: &Arc<Self>, address: IpAddr) -> Result<Admitted, Refused> {
        // Relaxed: the counts order nothing else. A count is taken first and given back on
        // refusal, so two cores can never both take the last place.
        if self.open.fetch_add(1, Ordering::Relaxed) >= self.connections_max {
            self.open.fetch_sub(1, Ordering::Relaxed);
            return Err(Refused::Node);
        }
        let slot = slot_of(address);
        if self.by_address[slot].fetch_add(1, Ordering::Relaxed) >= self.per_address_max {
            self.by_address[slot].fetch_sub(1, Ordering::Relaxed);
            self.open.fetch_sub(1, Ordering::Relaxed);
            return Err(Refused::Address);
        }
        Ok(Admitted {
            limits: Arc::clone(self),
            slot,
        })
    }

    /// How many connections are open.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }
}

/// A counted connection; counts itself out when dropped.
#[derive(Debug)]
pub struct Admitted {
    limits: Arc<ConnectionLimits>,
    slot: usize,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let before = self.limits.by_address[self.slot].fetch_sub(1, Ordering::Relaxed);
        assert!(
            before > 0,
            "an address closed more connections than it opened"
        );
        let before = self.limits.open.fetch_sub(1, Ordering::Relaxed);
        assert!(before > 0, "more connections closed than opened");
    }
}

/// FNV-1a over the address, folded to the number of slots: the same on every core and in every run.
fn slot_of(address: IpAddr) -> usize {
    let octets = match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    let hash = octets
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, octet| {
            (hash ^ u64::from(*octet)).wrapping_mul(0x0100_0000_01b3)
        });
    usize::try_from((hash >> 32) % SLOTS as u64).expect("below SLOTS")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_limits_hold_and_places_come_back() {
        // Proves the refusals in their order, and that closing makes room again.
        let limits = ConnectionLimits::new(3, 2);
        let (one, two): (IpAddr, IpAddr) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let first = limits.admit(one).expect("room");
        let _second = limits.admit(one).expect("room");
        assert_eq!(
            limits.admit(one).expect_err("third of one address"),
            Refused::Address
        );
        let _third = limits.admit(two).expect("room");
        assert_eq!(
            limits.admit(two).expect_err("fourth of the node"),
            Refused::Node
        );
        assert_eq!(limits.open(), 3);
        drop(first);
        limits.admit(one).expect("a place came back");
    }
}
