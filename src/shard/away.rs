//! Fetches of this core that wait for partitions of other cores, and the other way round.
//!
//! A core that parks a fetch for another answers at once, and calls back when a partition has moved. If it answered
//! only then, a few hundred waiting fetches would have all the places that the mesh has for requests, and
//! what is to be appended would wait behind them. A wait that ends, however it does, is cancelled where it is parked.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use streambus_shards::CoreId;
use streambus_shards::sync::Notify;

/// One fetch that waits.
#[derive(Debug, Default)]
struct Absent {
    woken: Notify,
    /// Cores that keep it parked.
    cores: RefCell<Vec<CoreId>>,
}

/// Those that wait, by the number that other cores know them by.
#[derive(Debug, Default)]
pub(super) struct Away {
    waiting: RefCell<HashMap<u64, Rc<Absent>>>,
    next_number: Cell<u64>,
}

impl Away {
    /// Begins a wait.
    pub(super) fn begin(&self) -> AwayWait<'_> {
        let number = self.next_number.replace(self.next_number.get() + 1);
        let absent = Rc::new(Absent::default());
        let entry = Rc::clone(&absent);
        self.waiting.borrow_mut().insert(number, entry);
        AwayWait {
            away: self,
            number,
            absent,
        }
    }

    /// Another core calls back, and has forgotten the wait. Whoever it was may be gone.
    pub(super) fn wake(&self, number: u64, from: CoreId) {
        if let Some(absent) = self.waiting.borrow().get(&number) {
            absent.cores.borrow_mut().retain(|core| *core != from);
            absent.woken.notify_one();
        }
    }

    /// Wakes all: the node stops.
    pub(super) fn wake_all(&self) {
        for absent in self.waiting.borrow().values() {
            absent.woken.notify_one();
        }
    }
}

/// A wait under way. Dropped, it is over.
#[derive(Debug)]
pub(super) struct AwayWait<'a> {
    away: &'a Away,
    number: u64,
    absent: Rc<Absent>,
}

impl AwayWait<'_> {
    /// What other cores call back with.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// A core is asked to park it.
    pub(super) fn add_core(&self, core: CoreId) {
        self.absent.cores.borrow_mut().push(core);
    }

    /// A core does not park it.
    pub(super) fn remove_core(&self, core: CoreId) {
        self.absent
            .cores
            .borrow_mut()
            .retain(|other| *other != core);
    }

    /// The cores that keep it parked, for the last time.
    pub(super) fn take_cores(&self) -> Vec<CoreId> {
        self.absent.cores.take()
    }

    /// Resolves once one has called back, also if that was before this call.
    pub(super) async fn woken(&self) {
        self.absent.woken.notified().await;
    }
}

impl Drop for AwayWait<'_> {
    fn drop(&mut self) {
        self.away.waiting.borrow_mut().remove(&self.number);
    }
}

/// Fetches of other cores that are parked on this one, by who asked and the number there.
#[derive(Debug, Default)]
pub(super) struct Guests {
    parked: RefCell<HashMap<(CoreId, u64), Rc<Notify>>>,
}

impl Guests {
    /// Takes one in.
    pub(super) fn admit(self: &Rc<Self>, asker: CoreId, number: u64) -> Guest {
        let cancelled = Rc::new(Notify::new());
        let entry = Rc::clone(&cancelled);
        self.parked.borrow_mut().insert((asker, number), entry);
        Guest {
            guests: Rc::clone(self),
            key: (asker, number),
            cancelled,
        }
    }

    /// Nobody waits for it any more. It may be gone already.
    pub(super) fn cancel(&self, asker: CoreId, number: u64) {
        if let Some(cancelled) = self.parked.borrow().get(&(asker, number)) {
            cancelled.notify_one();
        }
    }

    /// How many there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.parked.borrow().len()
    }
}

/// A fetch of another core, as long as it is parked here.
#[derive(Debug)]
pub(super) struct Guest {
    guests: Rc<Guests>,
    key: (CoreId, u64),
    cancelled: Rc<Notify>,
}

impl Guest {
    /// Resolves once nobody waits for it any more.
    pub(super) async fn cancelled(&self) {
        self.cancelled.notified().await;
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.guests.parked.borrow_mut().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    fn poll(future: impl Future<Output = ()>) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        pin!(future).poll(&mut cx).is_ready()
    }

    #[test]
    fn a_wait_hears_its_own_number_and_nobody_hears_one_that_is_over() {
        // Proves that a call that came before the wait was polled counts, that waits leave nothing behind, and which
        // cores still keep one.
        let away = Away::default();
        let (one, other) = (away.begin(), away.begin());
        for core in [1, 2, 3] {
            one.add_core(CoreId(core));
        }
        one.remove_core(CoreId(1));
        away.wake(one.number(), CoreId(2));
        assert!(poll(one.woken()));
        assert!(!poll(other.woken()));
        assert_eq!(one.take_cores(), [CoreId(3)]);
        let number = one.number();
        drop(one);
        away.wake(number, CoreId(3));
        assert!(!poll(other.woken()));
        away.wake_all();
        assert!(poll(other.woken()), "a stop wakes it");
        drop(other);
        assert!(away.waiting.borrow().is_empty());
    }

    #[test]
    fn a_guest_is_cancelled_by_its_asker_and_number() {
        // Proves that a cancellation reaches one guest only, also before that looks, and that guests leave nothing.
        let guests = Rc::new(Guests::default());
        let (one, other) = (guests.admit(CoreId(1), 7), guests.admit(CoreId(2), 7));
        guests.cancel(CoreId(1), 7);
        guests.cancel(CoreId(3), 7);
        assert!(poll(one.cancelled()) && !poll(other.cancelled()));
        drop((one, other));
        assert_eq!(guests.len(), 0);
        guests.cancel(CoreId(1), 7);
    }
}
