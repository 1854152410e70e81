//! Timers of the simulated world.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::world::{EventKey, World, current};

/// Resolves at a moment of virtual time, or a little later.
pub(crate) struct SimTimer {
    due_ns: u64,
    event: EventKey,
    waiter: Rc<RefCell<Option<Waker>>>,
}

impl SimTimer {
    pub(crate) fn new(world: &Rc<World>, duration: Duration) -> SimTimer {
        let length = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 2);
        let due_ns = world.now_ns().saturating_add(length);
        let waiter: Rc<RefCell<Option<Waker>>> = Rc::default();
        let wake = Rc::clone(&waiter);
        let event = world.at(world.late(due_ns), move |_| {
            let waker = wake.borrow_mut().take();
            if let Some(waker) = waker {
                waker.wake();
            }
        });
        SimTimer {
            due_ns,
            event,
            waiter,
        }
    }
}

impl Future for SimTimer {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let now_ns = current().map_or(u64::MAX, |world| world.now_ns());
        // The event may fire late; whoever is polled for another reason meanwhile sees the time itself.
        if now_ns >= self.due_ns {
            return Poll::Ready(());
        }
        *self.waiter.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for SimTimer {
    fn drop(&mut self) {
        if let Some(world) = current() {
            world.forget(self.event);
        }
    }
}
