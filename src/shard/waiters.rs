//! Fetches that wait for records: which of them a partition has to wake, and when.
//!
//! A parked fetch waits on all its partitions at once, for a number of bytes that they bring together. Each
//! partition counts what becomes readable in it, and the one that brings the last byte wakes the fetch. So a fetch with a
//! large `min_bytes` is not woken by each small commit, only to read again that there is too little. A parked fetch is
//! one small entry on each of its partitions: one of one partition costs well under 1 KiB.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use streambus_shards::sync::Notify;

/// What all partitions of a parked fetch share.
#[derive(Debug)]
struct ParkedFetch {
    wake: Notify,
    /// Bytes that must become readable before it is woken.
    missing: Cell<usize>,
}

/// One parked fetch, as its partitions know it.
#[derive(Debug)]
pub struct Waiter {
    id: u64,
    fetch: Rc<ParkedFetch>,
}

impl Waiter {
    /// A waiter that `missing` bytes wake; `id` is unique on this core.
    pub fn new(id: u64, missing: usize) -> Waiter {
        let wake = Notify::new();
        let missing = Cell::new(missing);
        Waiter {
            id,
            fetch: Rc::new(ParkedFetch { wake, missing }),
        }
    }

    /// Counts bytes that are readable already. Whether there is enough.
    pub fn count(&self, bytes: usize) -> bool {
        let missing = self.fetch.missing.get().saturating_sub(bytes);
        self.fetch.missing.set(missing);
        missing == 0
    }

    /// Resolves once a partition that it was parked on has woken it since the last call.
    pub async fn woken(&self) {
        self.fetch.wake.notified().await;
    }
}

/// A fetch that is parked on one partition.
#[derive(Debug)]
struct Parked {
    fetch: Rc<ParkedFetch>,
    /// How many bytes more of this partition count: its part of an answer has a limit.
    bytes_left: usize,
}

/// The fetches parked on one partition.
#[derive(Debug, Default)]
pub struct Waiters {
    /// By their ids, so in the order in which they came.
    parked: RefCell<BTreeMap<u64, Parked>>,
}

impl Waiters {
    /// Parks a fetch here until it is woken or leaves. `bytes_max` bytes of this partition count for it.
    pub fn park(&self, waiter: &Waiter, bytes_max: usize) {
        let parked = Parked {
            fetch: Rc::clone(&waiter.fetch),
            bytes_left: bytes_max,
        };
        self.parked.borrow_mut().insert(waiter.id, parked);
    }

    /// Takes a fetch away whose time is up or that has enough from elsewhere.
    pub fn leave(&self, waiter: &Waiter) {
        self.parked.borrow_mut().remove(&waiter.id);
    }

    /// More has become readable: wakes those that have enough with it and lets them go. `bytes` counts how much, which is
    /// asked only if somebody waits for more than a byte.
    pub fn grown(&self, bytes: impl FnOnce() -> usize) {
        let (mut count, mut grown) = (Some(bytes), 0);
        self.parked.borrow_mut().retain(|_, parked| {
            let missing = parked.fetch.missing.get();
            let useful = parked.bytes_left.min(missing);
            let counted = if useful > 1 {
                grown = count.take().map_or(grown, |count| count());
                grown.min(useful)
            } else {
                useful
            };
            parked.bytes_left -= counted;
            parked.fetch.missing.set(missing - counted);
            if missing == counted {
                parked.fetch.wake.notify_one();
            }
            missing > counted
        });
    }

    /// Wakes all and lets them go: who still wants to wait parks again.
    pub fn wake_all(&self) {
        for parked in self.parked.take().into_values() {
            parked.fetch.wake.notify_one();
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

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    fn is_woken(waiter: &Waiter) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        pin!(waiter.woken()).poll(&mut cx).is_ready()
    }

    #[test]
    fn a_fetch_is_woken_by_the_bytes_that_it_misses_and_no_sooner() {
        // Proves the count over two partitions: bytes missing, what of each partition counts, what grows in turn
        // (partition, bytes), and after how many of these the fetch is woken.
        let any = (1, [9, 9], &[(1, 1)][..], Some(1));
        let together = (10, [100, 100], &[(0, 4), (1, 5), (0, 1)][..], Some(3));
        let limited = (
            10,
            [4, 100],
            &[(0, 50), (1, 5), (0, 50), (1, 1)][..],
            Some(4),
        );
        let too_little = (10, [4, 5], &[(0, 50), (1, 50), (1, 50)][..], None);
        for (missing, bytes_max, growth, woken_after) in [any, together, limited, too_little] {
            let partitions = [Waiters::default(), Waiters::default()];
            let waiter = Waiter::new(7, missing);
            for (partition, bytes_max) in partitions.iter().zip(bytes_max) {
                partition.park(&waiter, bytes_max);
            }
            let mut woken = None;
            for (step, (partition, bytes)) in (1..).zip(growth) {
                partitions[*partition].grown(|| *bytes);
                if woken.is_none() && is_woken(&waiter) {
                    woken = Some(step);
                }
            }
            assert_eq!(woken, woken_after, "{missing} bytes of {growth:?}");
        }
    }

    #[test]
    fn what_grew_is_counted_only_for_those_that_wait_for_more_than_a_byte() {
        // Proves that the usual fetch, which any record wakes, costs no look at the batches, and that all who have
        // enough go.
        let partition = Waiters::default();
        partition.grown(|| unreachable!("nobody waits"));
        let (one, many) = (Waiter::new(1, 1), Waiter::new(2, 50));
        partition.park(&one, 10);
        partition.grown(|| unreachable!("one byte is enough"));
        assert!(is_woken(&one) && partition.is_empty());
        partition.park(&one, 10);
        partition.park(&many, 100);
        partition.grown(|| 20);
        assert_eq!((partition.len(), is_woken(&many)), (1, false));
        assert!(!many.count(29) && many.count(1));
        partition.wake_all();
        assert!(is_woken(&many) && partition.is_empty());
    }
}
