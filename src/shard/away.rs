//! Fetches of this core that wait for partitions of other cores.
//!
//! A core that parks a fetch for another answers at once, and calls back when a partition has moved. If it answered
//! only then, a few hundred waiting fetches would have all the places that the mesh has for requests, and
//! what is to be appended would wait behind them.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use streambus_shards::sync::Notify;

/// Those that wait, by the number that other cores know them by.
#[derive(Debug, Default)]
pub(super) struct Away {
    waiting: RefCell<HashMap<u64, Rc<Notify>>>,
    next_number: Cell<u64>,
}

impl Away {
    /// Begins a wait.
    pub(super) fn begin(&self) -> AwayWait<'_> {
        let number = self.next_number.replace(self.next_number.get() + 1);
        let woken = Rc::new(Notify::new());
        let entry = Rc::clone(&woken);
        self.waiting.borrow_mut().insert(number, entry);
        AwayWait {
            away: self,
            number,
            woken,
        }
    }

    /// Another core calls back. Whoever it was may be gone.
    pub(super) fn wake(&self, number: u64) {
        if let Some(woken) = self.waiting.borrow().get(&number) {
            woken.notify_one();
        }
    }
}

/// A wait under way. Dropped, it is over.
#[derive(Debug)]
pub(super) struct AwayWait<'a> {
    away: &'a Away,
    number: u64,
    woken: Rc<Notify>,
}

impl AwayWait<'_> {
    /// What other cores call back with.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Resolves once one has, also if that was before this call.
    pub(super) async fn woken(&self) {
        self.woken.notified().await;
    }
}

impl Drop for AwayWait<'_> {
    fn drop(&mut self) {
        self.away.waiting.borrow_mut().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    #[test]
    fn a_wait_hears_its_own_number_and_nobody_hears_one_that_is_over() {
        // Proves that a call that came before the wait was polled counts, and that waits leave nothing behind.
        let away = Away::default();
        let (one, other) = (away.begin(), away.begin());
        away.wake(one.number());
        let mut cx = Context::from_waker(Waker::noop());
        assert!(pin!(one.woken()).poll(&mut cx).is_ready());
        assert!(pin!(other.woken()).poll(&mut cx).is_pending());
        let number = one.number();
        drop(one);
        away.wake(number);
        assert!(pin!(other.woken()).poll(&mut cx).is_pending());
        drop(other);
        assert!(away.waiting.borrow().is_empty());
    }
}
