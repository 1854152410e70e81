//! A task of the real world that can be given up.
//!
//! Of each task that waits when it is cancelled, glommio 0.12 keeps the allocation for good: `JoinHandle::cancel` counts
//! a reference that `schedule` counts too. So a task is never cancelled: it is asked to end, and then drops its future.

use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::spin::Turn;

/// What a task and its handle share.
#[derive(Default)]
struct Link {
    given_up: Cell<bool>,
    /// Of the task, while it waits.
    waker: Cell<Option<Waker>>,
}

impl Link {
    fn give_up(&self) {
        self.given_up.set(true);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// The handle of a task.
pub(crate) struct RealTask<T> {
    /// Gone once it was detached.
    task: Option<glommio::Task<Option<T>>>,
    link: Rc<Link>,
}

impl<T: 'static> RealTask<T> {
    /// Has glommio run a future, in the way that `spawn` says: in the queue of foreground tasks, or in one of those
    /// of `background` tasks.
    pub(crate) fn new<F: Future<Output = T> + 'static>(
        background: bool,
        future: F,
        spawn: impl FnOnce(Run<F>) -> glommio::Task<Option<T>>,
    ) -> RealTask<T> {
        let link = Rc::new(Link::default());
        let task = spawn(Run {
            link: Rc::clone(&link),
            background,
            future,
        });
        RealTask {
            task: Some(task),
            link,
        }
    }

    pub(crate) fn detach(mut self) {
        drop(self.task.take().map(glommio::Task::detach));
    }

    pub(crate) async fn cancel(mut self) -> Option<T> {
        self.link.give_up();
        match self.task.as_mut() {
            Some(task) => task.await,
            None => None,
        }
    }
}

impl<T> Future for RealTask<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let task = self.task.as_mut().expect("detaching takes the handle");
        Pin::new(task)
            .poll(cx)
            .map(|value| value.expect("giving up takes the handle"))
    }
}

impl<T> Drop for RealTask<T> {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            self.link.give_up();
            drop(task.detach());
        }
    }
}

impl<T> fmt::Debug for RealTask<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RealTask").finish_non_exhaustive()
    }
}

/// A future until it ends or is given up.
pub(crate) struct Run<F> {
    link: Rc<Link>,
    background: bool,
    future: F,
}

impl<F: Future> Future for Run<F> {
    type Output = Option<F::Output>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // SAFETY: nothing is moved out of it. Its future is reached only here, pinned, and is dropped in its place,
        // as `Run` has no `Drop` of its own; and `Run` is `Unpin` only where the future is.
        let Run {
            link,
            background,
            future,
        } = unsafe { self.get_unchecked_mut() };
        if link.given_up.get() {
            return Poll::Ready(None);
        }
        let _turn = Turn::begin(*background);
        // SAFETY: as above.
        let future = unsafe { Pin::new_unchecked(future) };
        #[cfg(any(test, feature = "sim"))]
        let _measured = crate::polls::Measured::begin();
        if let Poll::Ready(value) = future.poll(cx) {
            link.waker.take();
            return Poll::Ready(Some(value));
        }
        if link.given_up.get() {
            // By itself.
            return Poll::Ready(None);
        }
        let known = link.waker.take();
        let known = known.filter(|waker| waker.will_wake(cx.waker()));
        link.waker
            .set(Some(known.unwrap_or_else(|| cx.waker().clone())));
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Weak;

    use super::*;
    use crate::{run_alone, spawn, yield_now};

    /// A future that never ends, and whether it is still there.
    fn waiting() -> (impl Future<Output = ()>, Weak<()>) {
        let there = Rc::new(());
        let seen = Rc::downgrade(&there);
        let future = async move {
            std::future::pending::<()>().await;
            drop(there);
        };
        (future, seen)
    }

    #[test]
    fn a_task_that_is_given_up_drops_its_future() {
        // Proves both ways to give a task up, before its first poll and after it, and that one that has ended
        // gives its value all the same.
        run_alone(async {
            let (future, there) = waiting();
            let task = spawn(future);
            yield_now().await;
            drop(task);
            yield_now().await;
            assert!(there.upgrade().is_none());

            let (future, there) = waiting();
            drop(spawn(future));
            yield_now().await;
            assert!(there.upgrade().is_none());

            let (future, there) = waiting();
            assert_eq!(spawn(future).cancel().await, None);
            assert!(there.upgrade().is_none());

            let task = spawn(async { 7 });
            yield_now().await;
            assert_eq!(task.cancel().await, Some(7));
        })
        .expect("an executor");
    }

    #[test]
    fn a_task_may_give_itself_up_and_a_detached_one_goes_on() {
        // Proves that a handle within its own task ends it, and that detaching ends nothing.
        run_alone(async {
            let handle = Rc::new(Cell::new(None::<crate::Task<()>>));
            let (future, there) = waiting();
            let own = Rc::clone(&handle);
            let task = spawn(async move {
                yield_now().await;
                drop(own.take());
                future.await;
            });
            handle.set(Some(task));
            yield_now().await;
            yield_now().await;
            yield_now().await;
            assert!(there.upgrade().is_none());

            let done = Rc::new(Cell::new(false));
            let set = Rc::clone(&done);
            spawn(async move {
                yield_now().await;
                set.set(true);
            })
            .detach();
            yield_now().await;
            yield_now().await;
            assert!(done.get());
        })
        .expect("an executor");
    }
}
