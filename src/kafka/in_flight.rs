//! How many bytes of requests the connections of one core have under way, and who has to wait.
//!
//! A connection that owes nothing is always read: others that have filled the core cannot keep it from a
//! request of an ordinary size. A request that outgrows the first buffer needs room; while there is
//! none, one connection at a time may finish its request beyond the bound, so that half-read
//! requests never wait for each other.

use std::cell::Cell;
use std::rc::Rc;

use streambus_shards::sync::Notify;

/// The count of one core.
#[derive(Debug)]
pub(super) struct InFlight {
    bytes: Cell<usize>,
    bytes_max: usize,
    /// Whether a connection grows beyond the bound.
    turn_taken: Cell<bool>,
    /// Rung when bytes or the turn come back.
    freed: Notify,
    /// Rung when the turn is taken: what holds room and only waits is to end.
    crowded: Notify,
}

impl InFlight {
    /// Nothing under way, `bytes_max` at most.
    pub(super) fn new(bytes_max: usize) -> Rc<InFlight> {
        Rc::new(InFlight {
            bytes: Cell::new(0),
            bytes_max,
            turn_taken: Cell::new(false),
            freed: Notify::new(),
            crowded: Notify::new(),
        })
    }

    /// Whether the bound is reached.
    pub(super) fn is_full(&self) -> bool {
        self.bytes.get() >= self.bytes_max
    }

    /// Whether a connection goes on beyond the bound, so that others wait for room.
    pub(super) fn is_crowded(&self) -> bool {
        self.turn_taken.get()
    }

    /// Resolves when the turn beyond the bound has been taken since the call.
    pub(super) fn crowded(&self) -> impl Future<Output = ()> {
        self.crowded.notified()
    }

    /// How many are counted.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.bytes.get()
    }

    /// Resolves when something has come back since the call.
    pub(super) fn freed(&self) -> impl Future<Output = ()> {
        self.freed.notified()
    }

    /// Counts bytes that are here already.
    pub(super) fn charge(self: &Rc<Self>, bytes: usize) -> Charge {
        self.bytes.set(self.bytes.get() + bytes);
        Charge {
            owner: Rc::clone(self),
            bytes,
            has_turn: false,
        }
    }

    /// Makes a charge larger, as soon as there is room or the turn beyond the bound is free.
    pub(super) async fn grow(&self, charge: &mut Charge, bytes: usize) {
        loop {
            let freed = self.freed.notified();
            if self.try_grow(charge, bytes) {
                return;
            }
            freed.await;
        }
    }

    /// Makes a charge larger, if there is room or the turn beyond the bound is free or its own.
    pub(super) fn try_grow(&self, charge: &mut Charge, bytes: usize) -> bool {
        if self.is_full() && !charge.has_turn {
            if self.turn_taken.get() {
                return false;
            }
            self.turn_taken.set(true);
            self.crowded.notify_all();
            charge.has_turn = true;
        }
        self.bytes.set(self.bytes.get() + bytes);
        charge.bytes += bytes;
        true
    }
}

/// Bytes that are counted as long as this lives.
#[derive(Debug)]
pub(super) struct Charge {
    owner: Rc<InFlight>,
    bytes: usize,
    has_turn: bool,
}

impl Charge {
    /// How many bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes another charge in.
    pub(super) fn merge(&mut self, mut other: Charge) {
        self.bytes += std::mem::take(&mut other.bytes);
        self.has_turn |= std::mem::take(&mut other.has_turn);
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let left = self.owner.bytes.get().checked_sub(self.bytes);
        self.owner
            .bytes
            .set(left.expect("no more bytes come back than were counted"));
        if self.has_turn {
            self.owner.turn_taken.set(false);
        }
        if self.bytes > 0 || self.has_turn {
            self.owner.freed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_holds_but_for_one_turn() {
        // Proves that growth stops at the bound, that exactly one goes on beyond it, and that the turn
        // and the bytes come back.
        let all = InFlight::new(100);
        let (mut first, mut second) = (all.charge(60), all.charge(40));
        assert!(all.is_full());
        assert!(!all.is_crowded());
        let crowded = all.crowded();
        assert!(all.try_grow(&mut first, 50), "the turn was free");
        assert!(all.is_crowded());
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(std::pin::pin!(crowded).poll(&mut cx).is_ready());
        assert!(all.try_grow(&mut first, 50), "and is its own");
        assert!(!all.try_grow(&mut second, 1), "only one has it");
        assert_eq!((first.bytes(), second.bytes()), (160, 40));
        drop(first);
        assert!(!all.is_full());
        assert!(all.try_grow(&mut second, 70));
        assert!(all.is_full());
        drop(second);
        assert_eq!(all.bytes.get(), 0);
        let mut one = all.charge(1);
        one.merge(all.charge(2));
        assert_eq!((one.bytes(), all.bytes.get()), (3, 3));
        drop(one);
        assert_eq!(all.bytes.get(), 0);
    }
}
