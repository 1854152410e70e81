//! The timers of one core, and the one glommio timer that stands for all of them.
//!
//! glommio 0.12 keeps a timer once for each time it was polled, all but the last of them until they would have fired,
//! and looks through all timers at each turn of its loop. A broker has several timers for each of thousands of
//! connections, most of which never fire.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::sync::Notify;
use crate::task::{Queue, Task, spawn_in};
use crate::time::{Instant, now};

thread_local! {
    static TIMERS: RefCell<Option<Rc<Timers>>> = const { RefCell::new(None) };
    static DRIVER: Cell<Option<Task<()>>> = const { Cell::new(None) };
}

/// What waits for the time on this core.
#[derive(Default)]
struct Timers {
    waiting: RefCell<BTreeMap<(Instant, u64), Waker>>,
    next_id: Cell<u64>,
    /// What the driver waits for.
    armed: Cell<Option<Instant>>,
    /// Rung when something is due before that.
    earlier: Notify,
}

impl Timers {
    fn insert(&self, deadline: Instant, waker: &Waker) -> (Instant, u64) {
        let key = (deadline, self.next_id.replace(self.next_id.get() + 1));
        self.waiting.borrow_mut().insert(key, waker.clone());
        if self.armed.get().is_none_or(|armed| deadline < armed) {
            self.armed.set(Some(deadline));
            self.earlier.notify_one();
        }
        key
    }

    /// Sees that this waker is the one that is woken; `false` if it has been already.
    fn renew(&self, key: (Instant, u64), waker: &Waker) -> bool {
        let mut waiting = self.waiting.borrow_mut();
        let Some(known) = waiting.get_mut(&key) else {
            return false;
        };
        known.clone_from(waker);
        true
    }

    fn remove(&self, key: (Instant, u64)) {
        self.waiting.borrow_mut().remove(&key);
    }

    /// Wakes all that are due; returns when the next one is.
    fn wake_due(&self, now: Instant) -> Option<Instant> {
        loop {
            let mut waiting = self.waiting.borrow_mut();
            let first = waiting.first_entry()?;
            let (deadline, _) = *first.key();
            if deadline > now {
                return Some(deadline);
            }
            let waker = first.remove();
            // Whoever is woken may look at the timers at once.
            drop(waiting);
            waker.wake();
        }
    }
}

/// Gives this thread's executor its timers. Called once, before its first task.
pub(crate) fn start() {
    let timers = Rc::new(Timers::default());
    TIMERS.set(Some(Rc::clone(&timers)));
    DRIVER.set(Some(spawn_in(Queue::Foreground, drive(timers))));
}

/// The executor of this thread is about to end.
pub(crate) async fn end() {
    TIMERS.set(None);
    if let Some(driver) = DRIVER.take() {
        driver.cancel().await;
    }
}

async fn drive(timers: Rc<Timers>) {
    loop {
        let next = timers.wake_due(now());
        timers.armed.set(next);
        let mut earlier = pin!(timers.earlier.notified());
        let mut timer = None;
        poll_fn(|cx| {
            if earlier.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            let Some(deadline) = next else {
                return Poll::Pending;
            };
            // A new one for each poll: none is polled twice.
            let timer = timer.insert(glommio::timer::Timer::new(deadline - now()));
            Pin::new(timer).poll(cx).map(drop)
        })
        .await;
    }
}

/// Resolves at a time.
pub(crate) struct CoreTimer {
    timers: Rc<Timers>,
    deadline: Instant,
    key: Option<(Instant, u64)>,
}

impl CoreTimer {
    /// One that resolves after `duration`.
    ///
    /// # Panics
    /// Outside of an executor.
    pub(crate) fn new(duration: Duration) -> CoreTimer {
        let timers = TIMERS.with_borrow(Clone::clone);
        CoreTimer {
            timers: timers.expect("timers are used on a core"),
            deadline: now() + duration,
            key: None,
        }
    }
}

impl Future for CoreTimer {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if now() >= self.deadline {
            return Poll::Ready(());
        }
        match self.key {
            Some(key) if self.timers.renew(key, cx.waker()) => {}
            _ => self.key = Some(self.timers.insert(self.deadline, cx.waker())),
        }
        Poll::Pending
    }
}

impl Drop for CoreTimer {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.timers.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{run_alone, sleep, spawn, timeout};

    fn waiting() -> usize {
        TIMERS.with_borrow(|timers| {
            let timers = timers.as_ref().expect("on a core");
            timers.waiting.borrow().len()
        })
    }

    #[test]
    fn a_timer_is_kept_once_and_no_longer_than_it_lives() {
        // Proves that neither polls nor timers that are given up leave anything behind.
        run_alone(async {
            let bell = Rc::new(Notify::new());
            let mut tasks = Vec::new();
            for _ in 0..100 {
                let bell = Rc::clone(&bell);
                tasks.push(spawn(async move {
                    let mut timer = CoreTimer::new(Duration::from_mins(5));
                    for _ in 0..10 {
                        let polled = poll_fn(|cx| Poll::Ready(Pin::new(&mut timer).poll(cx))).await;
                        assert!(polled.is_pending());
                    }
                    let rung = timeout(Duration::from_mins(5), bell.notified()).await;
                    assert_eq!(rung, Ok(()));
                }));
            }
            assert_eq!(waiting(), 200);
            bell.notify_all();
            for task in tasks {
                task.await;
            }
            assert_eq!(waiting(), 0);
        })
        .expect("an executor");
    }

    #[test]
    fn timers_fire_in_the_order_of_their_times_and_not_early() {
        // Proves that one that is due before those already waited for is not late, and none is early.
        run_alone(async {
            let fired = Rc::new(RefCell::new(Vec::new()));
            let begun = now();
            let tasks: Vec<_> = [60, 20, 40, 1, 0]
                .into_iter()
                .map(|ms| {
                    let fired = Rc::clone(&fired);
                    spawn(async move {
                        sleep(Duration::from_millis(ms)).await;
                        assert!(begun.elapsed() >= Duration::from_millis(ms));
                        fired.borrow_mut().push(ms);
                    })
                })
                .collect();
            for task in tasks {
                task.await;
            }
            assert_eq!(*fired.borrow(), [0, 1, 20, 40, 60]);
            assert_eq!(waiting(), 0);
        })
        .expect("an executor");
    }
}
