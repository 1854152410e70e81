//! The core's own `io_uring` for files.
//!
//! glommio's files write only glommio's own buffers, but the log must write the front of a buffer
//! whose rest still fills. So each core drives files through a ring of its own, and lets glommio watch that
//! ring's descriptor: it turns readable when completions are waiting.
//!
//! Whatever an operation points to is kept in its place here until the kernel is done with it, even
//! if the task that asked was dropped.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use glommio::io::PollableFd;
use io_uring::{IoUring, squeue};

use crate::ring_memory::patiently;
use crate::spin;
use crate::sync::{Line, Notify};
use crate::task::{Queue, Task, spawn_in};

/// Operations a core may have under way. What comes on top waits its turn.
const OPERATIONS_MAX: usize = 256;

/// How often the kernel may refuse to take what is queued: some milliseconds.
const SUBMITS_MAX: usize = 10_000;

/// An operation's place: what it keeps alive, and how it went.
struct Operation {
    keep: Option<Box<dyn Any>>,
    result: Option<i32>,
    waker: Option<Waker>,
    /// The future that asked is gone: free the place at completion.
    orphaned: bool,
}

struct Inner {
    ring: IoUring,
    operations: Vec<Option<Operation>>,
    free: Vec<usize>,
}

/// The ring of one core.
pub(crate) struct Uring {
    inner: RefCell<Inner>,
    /// Operations that found no room, in order.
    line: Rc<Line>,
    /// Rung for the first of them.
    freed: Notify,
}

thread_local! {
    static URING: RefCell<Option<Rc<Uring>>> = const { RefCell::new(None) };
    /// Reaps while the executor waits.
    static REAPER: Cell<Option<Task<()>>> = const { Cell::new(None) };
}

struct RingFd(RawFd);

impl AsRawFd for RingFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}

impl Uring {
    /// This core's ring, made at first use.
    pub(crate) fn current() -> io::Result<Rc<Uring>> {
        if let Some(uring) = URING.with_borrow(Clone::clone) {
            return Ok(uring);
        }
        let entries = u32::try_from(OPERATIONS_MAX).expect("a small number");
        let ring = patiently(|| IoUring::new(entries))?;
        let fd = ring.as_raw_fd();
        let uring = Rc::new(Uring {
            inner: RefCell::new(Inner {
                ring,
                operations: (0..OPERATIONS_MAX).map(|_| None).collect(),
                free: (0..OPERATIONS_MAX).rev().collect(),
            }),
            line: Rc::default(),
            freed: Notify::new(),
        });
        let watched = Rc::clone(&uring);
        let readable = PollableFd::new(RingFd(fd)).map_err(io::Error::other)?;
        let reaper = spawn_in(Queue::Foreground, async move {
            while readable.readable().await.is_ok() {
                watched.reap();
            }
        });
        REAPER.set(Some(reaper));
        URING.set(Some(Rc::clone(&uring)));
        Ok(uring)
    }

    /// Gives up this thread's ring; its executor is about to end. A task that stayed would keep the executor's rings too.
    pub(crate) async fn give_up() {
        URING.set(None);
        if let Some(reaper) = REAPER.take() {
            reaper.cancel().await;
        }
    }

    /// Hands completions of this core's ring to whoever waits for them, if it has one; returns whether there were any.
    pub(crate) fn reap_own() -> bool {
        URING.with_borrow(|uring| uring.as_ref().is_some_and(|uring| uring.reap()))
    }

    /// Hands completions to whoever waits for them, and returns whether there were any. Cheap when there are none.
    pub(crate) fn reap(&self) -> bool {
        let mut wakers = Vec::new();
        let mut came = false;
        {
            let mut inner = self.inner.borrow_mut();
            let Inner {
                ring,
                operations,
                free,
            } = &mut *inner;
            for completion in ring.completion() {
                came = true;
                let place = usize::try_from(completion.user_data()).expect("our own number");
                let operation = operations[place]
                    .as_mut()
                    .expect("a completion has its operation");
                operation.result = Some(completion.result());
                wakers.extend(operation.waker.take());
                if operation.orphaned {
                    operations[place] = None;
                    free.push(place);
                    self.freed.notify_one();
                }
            }
        }
        if came {
            spin::work_came();
        }
        wakers.into_iter().for_each(Waker::wake);
        came
    }

    /// Runs one operation and returns its result with what it kept.
    ///
    /// # Safety
    /// Whatever `entry` points to is owned by `keep`, at an address that does not change when `keep`
    /// moves, and nobody touches it until this returns.
    pub(crate) async unsafe fn run<K: 'static>(
        self: &Rc<Self>,
        entry: squeue::Entry,
        keep: K,
    ) -> (io::Result<usize>, K) {
        self.room_for(1).await;
        // SAFETY: the caller's promise.
        let waiting = unsafe { self.push(entry, Box::new(keep)) };
        self.submit();
        let (result, keep) = waiting.await;
        (in_words(result), unbox(keep))
    }

    /// Runs two operations with one call, the second only if all of the first was done; returns how both went, with
    /// what the first kept. One that was not begun gives `ECANCELED`.
    ///
    /// # Safety
    /// As [`Uring::run`] for the first; the second points to nothing.
    pub(crate) async unsafe fn run_linked<K: 'static>(
        self: &Rc<Self>,
        first: squeue::Entry,
        second: squeue::Entry,
        keep: K,
    ) -> (io::Result<usize>, io::Result<usize>, K) {
        self.room_for(2).await;
        let first = first.flags(squeue::Flags::IO_LINK);
        // SAFETY: the caller's promise.
        let first = unsafe { self.push(first, Box::new(keep)) };
        // SAFETY: it points to nothing.
        let second = unsafe { self.push(second, Box::new(())) };
        self.submit();
        let (first, keep) = first.await;
        let (second, _) = second.await;
        (in_words(first), in_words(second), unbox(keep))
    }

    /// Waits until there is room for so many, behind those that waited before.
    async fn room_for(&self, operations: usize) {
        let has_room = || self.inner.borrow().free.len() >= operations;
        if self.line.is_empty() && has_room() {
            return;
        }
        let place = self.line.join();
        place.first().await;
        while !has_room() {
            self.freed.notified().await;
        }
    }

    /// Queues one operation for the next submission.
    ///
    /// # Safety
    /// As [`Uring::run`].
    unsafe fn push(self: &Rc<Self>, entry: squeue::Entry, keep: Box<dyn Any>) -> Waiting {
        let mut inner = self.inner.borrow_mut();
        let place = inner
            .free
            .pop()
            .expect("room was just seen, and nothing awaited since");
        inner.operations[place] = Some(Operation {
            keep: Some(keep),
            result: None,
            waker: None,
            orphaned: false,
        });
        let entry = entry.user_data(place as u64);
        // SAFETY: the caller's promise, and `keep` is now owned by the operation's place. There are
        // as many entries as places, so the queue has room.
        let pushed = unsafe { inner.ring.submission().push(&entry) };
        assert!(pushed.is_ok(), "as many entries as places");
        Waiting {
            uring: Rc::clone(self),
            place,
            done: false,
        }
    }

    /// Hands the kernel what is queued, all of it: of a linked pair it must not take the half.
    fn submit(&self) {
        let mut refused = 0;
        loop {
            let mut inner = self.inner.borrow_mut();
            let queued = inner.ring.submission().len();
            match inner.ring.submit() {
                Ok(taken) => {
                    assert!(taken == queued, "io_uring took {taken} of {queued} entries");
                    break;
                }
                Err(failed) if failed.kind() == io::ErrorKind::Interrupted => {}
                // Short of memory. Nobody would submit for those who wait: it is tried again, and then given up.
                Err(failed) => {
                    refused += 1;
                    assert!(refused < SUBMITS_MAX, "io_uring_enter failed: {failed}");
                    drop(inner);
                    self.reap();
                    std::thread::yield_now();
                }
            }
        }
        // What the kernel finished at once need not wait for the watcher.
        self.reap();
    }
}

fn in_words(result: i32) -> io::Result<usize> {
    match result {
        negative if negative < 0 => Err(io::Error::from_raw_os_error(-negative)),
        count => Ok(usize::try_from(count).expect("not negative")),
    }
}

fn unbox<K: 'static>(keep: Box<dyn Any>) -> K {
    *keep.downcast().expect("the type it was stored with")
}

struct Waiting {
    uring: Rc<Uring>,
    place: usize,
    done: bool,
}

impl Future for Waiting {
    type Output = (i32, Box<dyn Any>);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let uring = Rc::clone(&self.uring);
        let mut inner = uring.inner.borrow_mut();
        let operation = inner.operations[self.place]
            .as_mut()
            .expect("held until taken below");
        let Some(result) = operation.result else {
            operation.waker = Some(cx.waker().clone());
            return Poll::Pending;
        };
        let keep = operation.keep.take().expect("taken once");
        inner.operations[self.place] = None;
        let place = self.place;
        inner.free.push(place);
        self.done = true;
        drop(inner);
        uring.freed.notify_one();
        Poll::Ready((result, keep))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let mut inner = self.uring.inner.borrow_mut();
        let operation = inner.operations[self.place]
            .as_mut()
            .expect("not taken yet");
        if operation.result.is_none() {
            operation.orphaned = true;
            return;
        }
        inner.operations[self.place] = None;
        let place = self.place;
        inner.free.push(place);
        drop(inner);
        self.uring.freed.notify_one();
    }
}
