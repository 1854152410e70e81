//! Looking for work before a core sleeps.
//!
//! Waking a sleeping core takes tens of microseconds, so a core that has nothing to do looks for work for a while first. That
//! takes CPU from whoever else could use it, so it is done only
//!
//! * after work that came from outside (another core, a socket, the disk), not after a timer or a heartbeat,
//! * as long as it has paid lately: enough of the last waits for such work were shorter than the look,
//! * while no other thread waits for the CPU, and no background task has just run.
//!
//! glommio looks too (`spin_before_park`), but after every wake-up, so that is off. The task here runs when no other task
//! of its queue is ready. It looks at the mesh and at the ring for files directly, and lets glommio look at its rings,
//! which sockets are polled through, every few microseconds.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::hint::spin_loop;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use crate::heartbeat;
use crate::task::{Queue, Task, spawn_in};
use crate::time::{Instant, now};
use crate::uring::Uring;

/// How long to look before glommio is let look, which takes about as long.
const SLICE: Duration = Duration::from_micros(4);
/// The first time: another core answers within this time, a client does not.
const FIRST_SLICE: Duration = Duration::from_micros(16);
/// Two cores that answer each other never run out of tasks for longer than a look: this often glommio looks all the same,
/// so that their sockets are seen to.
const GLOMMIO_LOOKS_EVERY: Duration = Duration::from_micros(25);
/// How long glommio's timer is set for: long enough not to be over when it is first polled, and over when it is next looked at.
const PASS: Duration = Duration::from_nanos(150);
/// After a background task ran the core sleeps instead for this long: a task of another queue may be ready while
/// this one looks, and would wait for it.
const BACKGROUND_PAUSE: Duration = Duration::from_millis(10);

thread_local! {
    static SPIN: RefCell<Option<Rc<Spin>>> = const { RefCell::new(None) };
    static LOOKER: Cell<Option<Task<()>>> = const { Cell::new(None) };
    /// Polls of tasks on this thread.
    static POLLS: Cell<u64> = const { Cell::new(0) };
    /// Whether the task that is polled is a background one.
    static IN_BACKGROUND: Cell<bool> = const { Cell::new(false) };
    static BACKGROUND_RAN: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Whether looking has paid lately: a bit for each of the last waits for work, the newest lowest.
#[derive(Debug, Clone, Copy)]
struct Payoff(u16);

impl Payoff {
    /// Of so many waits.
    const OF: u32 = u16::BITS;
    /// So many at least were short. One in four: a request that waits for the disk and then is the client's last for
    /// a while is one in two.
    const AT_LEAST: u32 = Payoff::OF / 4;

    /// Trusted until it is known better.
    fn new() -> Payoff {
        Payoff(u16::MAX)
    }

    fn record(&mut self, paid: bool) {
        self.0 = (self.0 << 1) | u16::from(paid);
    }

    fn pays(self) -> bool {
        self.0.count_ones() >= Payoff::AT_LEAST
    }
}

/// What one core knows for it.
struct Spin {
    /// How long to look.
    limit: Duration,
    payoff: Cell<Payoff>,
    /// Since when nothing has come from outside, if the core has nothing to do.
    idle_since: Cell<Option<Instant>>,
    /// Work came from outside since the core was last without any.
    came: Cell<bool>,
    glommio_looked: Cell<Instant>,
    waker: Cell<Option<Waker>>,
    /// Looks at what is not the ring for files, and wakes who waits for it.
    looks: RefCell<Vec<Box<dyn Fn() -> bool>>>,
}

/// Has this thread's executor look for work for up to `limit` before it sleeps.
pub(crate) fn start(limit: Duration) {
    if limit.is_zero() {
        return;
    }
    let spin = Rc::new(Spin {
        limit,
        payoff: Cell::new(Payoff::new()),
        idle_since: Cell::new(None),
        came: Cell::new(false),
        glommio_looked: Cell::new(now()),
        waker: Cell::new(None),
        looks: RefCell::default(),
    });
    SPIN.set(Some(Rc::clone(&spin)));
    LOOKER.set(Some(spawn_in(Queue::Foreground, spin.run())));
}

/// The executor of this thread is about to end.
pub(crate) async fn end() {
    SPIN.set(None);
    if let Some(looker) = LOOKER.take() {
        looker.cancel().await;
    }
}

/// Adds a place to look at: `look` returns whether there is work, and wakes who waits for it.
pub(crate) fn look_at(look: impl Fn() -> bool + 'static) {
    SPIN.with_borrow(|spin| {
        if let Some(spin) = spin {
            spin.looks.borrow_mut().push(Box::new(look));
        }
    });
}

/// Work came from outside of this core.
pub(crate) fn work_came() {
    SPIN.with_borrow(|spin| {
        if let Some(spin) = spin {
            spin.work_came();
        }
    });
}

/// Whether the task that is polled is a background one.
pub(crate) fn in_background() -> bool {
    IN_BACKGROUND.get()
}

/// A poll of a task of this thread.
pub(crate) struct Turn;

impl Turn {
    pub(crate) fn begin(background: bool) -> Turn {
        POLLS.set(POLLS.get().wrapping_add(1));
        if background {
            IN_BACKGROUND.set(true);
            BACKGROUND_RAN.set(Some(now()));
        }
        Turn
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        IN_BACKGROUND.set(false);
    }
}

impl Spin {
    fn work_came(&self) {
        if let Some(since) = self.idle_since.take() {
            let mut payoff = self.payoff.get();
            payoff.record(since.elapsed() <= self.limit);
            self.payoff.set(payoff);
        }
        if !self.came.replace(true)
            && let Some(waker) = self.waker.take()
        {
            waker.wake();
        }
    }

    async fn run(self: Rc<Self>) {
        loop {
            poll_fn(|cx| {
                if self.came.get() {
                    return Poll::Ready(());
                }
                self.waker.set(Some(cx.waker().clone()));
                Poll::Pending
            })
            .await;
            while others_ran().await {}
            self.came.set(false);
            self.idle_since.set(Some(now()));
            if self.may_look() {
                self.look().await;
            }
        }
    }

    fn may_look(&self) -> bool {
        let ran = BACKGROUND_RAN.get();
        self.payoff.get().pays()
            && ran.is_none_or(|ran| ran.elapsed() >= BACKGROUND_PAUSE)
            && !heartbeat::shares_cpu()
    }

    /// Looks until there is something to do or the time is up.
    async fn look(&self) {
        let began = now();
        let mut slice = FIRST_SLICE;
        while began.elapsed() < self.limit {
            let is_due = self.glommio_looked.get().elapsed() >= GLOMMIO_LOOKS_EVERY;
            if !is_due && self.look_for(slice) {
                return;
            }
            glommio_looks().await;
            self.glommio_looked.set(now());
            while others_ran().await {}
            if self.came.get() {
                return;
            }
            slice = SLICE;
        }
    }

    /// Looks for so long at what is not glommio's; returns whether there is something.
    fn look_for(&self, time: Duration) -> bool {
        let began = now();
        loop {
            if Uring::reap_own() || self.looks.borrow().iter().any(|look| look()) {
                return true;
            }
            if began.elapsed() >= time {
                return false;
            }
            spin_loop();
        }
    }
}

/// Lets glommio look at its rings once: a timer keeps it from sleeping then.
async fn glommio_looks() {
    let mut timer = None;
    poll_fn(|cx| {
        if timer.is_some() {
            return Poll::Ready(());
        }
        let timer = timer.insert(glommio::timer::Timer::new(PASS));
        if Pin::new(timer).poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    })
    .await;
}

/// Lets every ready task of this queue run once; returns whether there was one.
async fn others_ran() -> bool {
    let before = POLLS.get();
    let mut yielded = false;
    poll_fn(|cx| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
    // One poll is this task's own.
    POLLS.get() != before.wrapping_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looking_stops_when_it_does_not_pay_and_begins_again_when_it_would() {
        // Proves that a run of long waits ends it, that short ones bring it back, and that one short wait in two keeps it.
        let mut payoff = Payoff::new();
        let mut lasted = 0;
        while payoff.pays() {
            payoff.record(false);
            lasted += 1;
            assert!(lasted <= Payoff::OF, "it ends");
        }
        assert_eq!(lasted, Payoff::OF - Payoff::AT_LEAST + 1);
        for _ in 0..Payoff::AT_LEAST {
            payoff.record(true);
        }
        assert!(payoff.pays());
        for round in 0..100 {
            payoff.record(round % 2 == 0);
            assert!(payoff.pays(), "round {round}");
        }
    }
}
