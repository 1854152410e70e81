//! Produce requests that wait for their commit: which of them a partition's high watermark has reached.
//!
//! Each partition has its own, ordered by the offset that they wait for. So a commit wakes those that it answers and
//! looks at no others, however many wait.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use streambus_proto::ids::Offset;

/// Those that wait for one partition.
#[derive(Debug, Default)]
pub(crate) struct CommitWaiters {
    /// By the offset and the order in which they came.
    waiting: RefCell<BTreeMap<(Offset, u64), Waker>>,
    next_id: Cell<u64>,
}

impl CommitWaiters {
    /// Resolves once the high watermark has reached `end` or all were woken: look again.
    pub(crate) fn wait(self: &Rc<Self>, end: Offset) -> CommitWait {
        CommitWait {
            waiters: Rc::clone(self),
            end,
            id: None,
        }
    }

    /// Wakes those that the high watermark has reached.
    pub(crate) fn reached(&self, high_watermark: Offset) {
        loop {
            let waker = match self.waiting.borrow_mut().first_entry() {
                Some(first) if first.key().0 <= high_watermark => first.remove(),
                _ => return,
            };
            waker.wake();
        }
    }

    /// Wakes all: the partition is gone, or its lane takes or writes nothing any more.
    pub(crate) fn wake_all(&self) {
        for waker in self.waiting.take().into_values() {
            waker.wake();
        }
    }
}

/// See [`CommitWaiters::wait`]. Dropped, it waits no more.
#[derive(Debug)]
pub(crate) struct CommitWait {
    waiters: Rc<CommitWaiters>,
    end: Offset,
    /// Set once it waits.
    id: Option<u64>,
}

impl Future for CommitWait {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let waiters = Rc::clone(&self.waiters);
        let mut waiting = waiters.waiting.borrow_mut();
        if let Some(id) = self.id {
            let Some(waker) = waiting.get_mut(&(self.end, id)) else {
                return Poll::Ready(());
            };
            waker.clone_from(cx.waker());
        } else {
            let id = waiters.next_id.get();
            waiters.next_id.set(id + 1);
            waiting.insert((self.end, id), cx.waker().clone());
            self.id = Some(id);
        }
        Poll::Pending
    }
}

impl Drop for CommitWait {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.waiters.waiting.borrow_mut().remove(&(self.end, id));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Counted(AtomicUsize);

    impl Wake for Counted {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_commit_wakes_those_that_it_reaches_and_no_others() {
        // Proves who is woken by high watermarks 5, 6 and 9, that two may wait for one offset, that one who leaves is not
        // woken, and that all are once nothing is written any more.
        let waiters = Rc::new(CommitWaiters::default());
        let woken = Arc::new(Counted::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut cx = Context::from_waker(&waker);
        let ends = [9, 3, 5, 5, 7, 20];
        let mut waits: Vec<CommitWait> = ends.map(|end| waiters.wait(Offset(end))).into();
        for wait in &mut waits {
            assert!(Pin::new(wait).poll(&mut cx).is_pending());
        }
        let mut ready = |waits: &mut Vec<CommitWait>| {
            waits.retain_mut(|wait| Pin::new(wait).poll(&mut cx).is_pending());
            waits.len()
        };
        waiters.reached(Offset(5));
        assert_eq!((woken.0.load(Ordering::Relaxed), ready(&mut waits)), (3, 3));
        waiters.reached(Offset(6));
        assert_eq!((woken.0.load(Ordering::Relaxed), ready(&mut waits)), (3, 3));
        waits.remove(1);
        waiters.reached(Offset(9));
        assert_eq!((woken.0.load(Ordering::Relaxed), ready(&mut waits)), (4, 1));
        waiters.wake_all();
        assert_eq!((woken.0.load(Ordering::Relaxed), ready(&mut waits)), (5, 0));
        assert!(waiters.waiting.borrow().is_empty());
    }
}
