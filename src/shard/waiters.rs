//! Fetches that wait for records: which of them a partition has to wake.
//!
//! A parked fetch waits on all its partitions at once and is woken by the first that moves. It is
//! a place in a slab and one small entry on each of its partitions, so a parked fetch of one
//! partition costs well under 1 KiB.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use streambus_shards::sync::Notify;

/// One parked fetch, as its partitions know it.
#[derive(Debug)]
pub struct Waiter {
    id: u64,
    wake: Rc<Notify>,
}

impl Waiter {
    /// A waiter that nothing wakes yet; `id` is unique on this core.
    pub fn new(id: u64) -> Waiter {
        Waiter {
            id,
            wake: Rc::new(Notify::new()),
        }
    }

    /// Resolves once a partition that it was parked on has moved since the last call.
    pub async fn woken(&self) {
        self.wake.notified().await;
    }
}

/// The fetches parked on one partition.
#[derive(Debug, Default)]
pub struct Waiters {
    /// By their ids, so in the order in which they came.
    parked: RefCell<BTreeMap<u64, Rc<Notify>>>,
}

impl Waiters {
    /// Parks a fetch here until it is woken or leaves.
    pub fn park(&self, waiter: &Waiter) {
        let wake = Rc::clone(&waiter.wake);
        self.parked.borrow_mut().insert(waiter.id, wake);
    }

    /// Takes a fetch away whose time is up or that has enough from elsewhere.
    pub fn leave(&self, waiter: &Waiter) {
        self.parked.borrow_mut().remove(&waiter.id);
    }

    /// Wakes all and lets them go: who still wants to wait parks again.
    pub fn wake_all(&self) {
        for wake in self.parked.take().into_values() {
            wake.notify_one();
        }
    }

    /// How many are parked.
    pub fn len(&self) -> usize {
        self.parked.borrow().len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.parked.borrow().is_empty()
    }
}
