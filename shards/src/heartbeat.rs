//! Wakes every executor again and again, from a thread of its own.
//!
//! glommio 0.12 goes to sleep over ready tasks when its preemption timer has run out before the first of
//! them ran (`run_task_queues` then says that there were none), which happens when the thread is descheduled in
//! between. Only an event wakes it then. Timers of its own can't be that event: after the thread was away for
//! long enough all of them have fired, and the tasks that would set them again are among those it sleeps over.
//! So the event comes from outside: a wake-up that another thread sends counts, whatever it is for.

use std::cell::Cell;
use std::future::{pending, poll_fn};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, Once, PoisonError};
use std::task::{Poll, Waker};
use std::thread;
use std::time::Duration;

use crate::task::{Queue, spawn_in};

/// How long an executor may sleep over ready tasks.
const PERIOD: Duration = Duration::from_millis(5);

/// A task of each executor, to be woken. The lock is never held by an executor that serves.
static WAKERS: Mutex<Vec<(u64, Waker)>> = Mutex::new(Vec::new());
static NEXT: AtomicU64 = AtomicU64::new(1);
static STARTED: Once = Once::new();

thread_local! {
    static OWN: Cell<u64> = const { Cell::new(0) };
}

/// Starts the thread, once for the process. Called by a thread that is not pinned, since the new one may
/// run where its parent may.
pub(crate) fn start() {
    STARTED.call_once(|| {
        let beating = thread::Builder::new()
            .name("heartbeat".to_owned())
            .spawn(beat);
        // Without threads there are no executors either.
        drop(beating.expect("the system has room for a thread"));
    });
}

fn beat() {
    loop {
        thread::sleep(PERIOD);
        let wakers = WAKERS.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, waker) in wakers.iter() {
            waker.wake_by_ref();
        }
    }
}

/// Has the executor of this thread woken from now on. Awaited once, by its first task.
pub(crate) async fn join() {
    let own = NEXT.fetch_add(1, Ordering::Relaxed);
    OWN.set(own);
    // The caller stands in for the task until that has run.
    register(own).await;
    let woken = async move {
        register(own).await;
        pending::<()>().await;
    };
    spawn_in(Queue::Foreground, woken).detach();
}

/// Makes the calling task the one that is woken.
async fn register(own: u64) {
    poll_fn(|cx| {
        let waker = cx.waker().clone();
        let mut wakers = WAKERS.lock().unwrap_or_else(PoisonError::into_inner);
        match wakers.iter_mut().find(|(other, _)| *other == own) {
            Some((_, before)) => *before = waker,
            None => wakers.push((own, waker)),
        }
        Poll::Ready(())
    })
    .await;
}

/// The executor of this thread is about to end.
pub(crate) fn leave() {
    let own = OWN.replace(0);
    let mut wakers = WAKERS.lock().unwrap_or_else(PoisonError::into_inner);
    wakers.retain(|(other, _)| *other != own);
}
