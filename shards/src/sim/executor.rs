//! The tasks of all cores of all hosts, in one thread. Which ready task runs next is drawn from the seed.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use super::stream::{Stream, Streams};
use super::world::{Place, current};
use crate::task::Queue;

/// Out of a thousand, how often a ready task of each queue is taken when it is drawn: the shares that
/// the real executor gives the queues.
const SHARES: [(Queue, u64); 4] = [
    (Queue::Foreground, 1_000),
    (Queue::ColdRead, 200),
    (Queue::Background, 100),
    (Queue::Scrub, 20),
];
/// Draws before a ready task is taken whatever its queue: the background is slow and not starved.
const DRAWS_MAX: usize = 6;

type Body = Pin<Box<dyn Future<Output = ()>>>;

struct Slot {
    place: Place,
    queue: Queue,
    /// `None` while it is polled.
    body: Option<Body>,
    ready: bool,
    cancelled: bool,
    waker: Waker,
}

/// A task's number. Numbers are never given twice.
pub(crate) type TaskId = u64;

#[derive(Default)]
pub(crate) struct Executor {
    slots: RefCell<BTreeMap<TaskId, Slot>>,
    ready: RefCell<Vec<TaskId>>,
    next: Cell<TaskId>,
    running: Cell<Option<(TaskId, Queue)>>,
}

/// What a task needs to be polled, taken out of its slot.
pub(crate) struct Taken {
    pub(crate) id: TaskId,
    pub(crate) place: Place,
    queue: Queue,
    body: Body,
    waker: Waker,
    cancelled: bool,
}

struct Bell {
    world: u64,
    task: TaskId,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // A waker may outlive its world, or be dropped with it.
        if let Some(world) = current().filter(|world| world.serial() == self.world) {
            world.executor.wake(self.task);
        }
    }
}

impl Executor {
    /// The queue of the task that runs.
    pub(crate) fn queue(&self) -> Queue {
        self.running
            .get()
            .map_or(Queue::Foreground, |(_, queue)| queue)
    }

    pub(crate) fn spawn(&self, world: u64, place: Place, queue: Queue, body: Body) -> TaskId {
        let id = self.next.get();
        self.next.set(id + 1);
        let slot = Slot {
            place,
            queue,
            body: Some(body),
            ready: true,
            cancelled: false,
            waker: Waker::from(Arc::new(Bell { world, task: id })),
        };
        self.slots.borrow_mut().insert(id, slot);
        self.ready.borrow_mut().push(id);
        id
    }

    pub(crate) fn wake(&self, id: TaskId) {
        let mut slots = self.slots.borrow_mut();
        let Some(slot) = slots.get_mut(&id).filter(|slot| !slot.ready) else {
            return;
        };
        slot.ready = true;
        self.ready.borrow_mut().push(id);
    }

    /// Has the task dropped when it is next drawn, as the real executor does.
    pub(crate) fn cancel(&self, id: TaskId) {
        if let Some(slot) = self.slots.borrow_mut().get_mut(&id) {
            slot.cancelled = true;
        }
        self.wake(id);
    }

    /// Draws a ready task; those that `may_run` refuses stay ready.
    pub(crate) fn take(&self, streams: &Streams, may_run: impl Fn(Place) -> bool) -> Option<Taken> {
        let mut ready = self.ready.borrow_mut();
        let mut slots = self.slots.borrow_mut();
        let mut drawn = None;
        for draw in 0..DRAWS_MAX {
            if ready.is_empty() {
                return None;
            }
            let index = below(streams, ready.len());
            let Some(slot) = slots.get(&ready[index]) else {
                // Its host was killed.
                ready.swap_remove(index);
                continue;
            };
            if !may_run(slot.place) {
                continue;
            }
            drawn = Some(index);
            let share = SHARES.iter().find(|(queue, _)| *queue == slot.queue);
            let share = share.map_or(1_000, |(_, share)| *share);
            if draw + 1 == DRAWS_MAX || streams.below(Stream::Schedule, 1_000) < share {
                break;
            }
        }
        let index = drawn.or_else(|| {
            ready
                .iter()
                .position(|id| slots.get(id).is_some_and(|slot| may_run(slot.place)))
        })?;
        let id = ready.swap_remove(index);
        let slot = slots.get_mut(&id)?;
        slot.ready = false;
        let taken = Taken {
            id,
            place: slot.place,
            queue: slot.queue,
            body: slot.body.take()?,
            waker: slot.waker.clone(),
            cancelled: slot.cancelled,
        };
        Some(taken)
    }

    /// Polls a task once, or drops it if it was cancelled. Nothing of the executor is borrowed meanwhile.
    pub(crate) fn poll(&self, taken: Taken) {
        let Taken {
            id,
            queue,
            mut body,
            waker,
            cancelled,
            ..
        } = taken;
        self.running.set(Some((id, queue)));
        let ended = cancelled
            || body
                .as_mut()
                .poll(&mut Context::from_waker(&waker))
                .is_ready();
        let kept = {
            let mut slots = self.slots.borrow_mut();
            match slots.get_mut(&id) {
                Some(slot) if !ended => {
                    slot.body = Some(body);
                    None
                }
                // It ended, or its host was killed by itself while it ran.
                _ => Some((slots.remove(&id), body)),
            }
        };
        drop(kept);
        self.running.set(None);
    }

    /// Forgets a task that panicked while it was polled.
    pub(crate) fn forget(&self, id: TaskId) {
        let slot = self.slots.borrow_mut().remove(&id);
        drop(slot);
        self.running.set(None);
    }

    /// Takes out every task of the places that `of` names, in the order they were made. Dropping them is
    /// the caller's: their destructors may call anything.
    pub(crate) fn remove(&self, of: impl Fn(Place) -> bool) -> Vec<Body> {
        let mut slots = self.slots.borrow_mut();
        let ids: Vec<TaskId> = slots
            .iter()
            .filter(|(_, slot)| of(slot.place))
            .map(|(id, _)| *id)
            .collect();
        ids.iter().filter_map(|id| slots.remove(id)?.body).collect()
    }

    /// Tasks that live at a place.
    pub(crate) fn count(&self, of: impl Fn(Place) -> bool) -> usize {
        self.slots
            .borrow()
            .values()
            .filter(|slot| of(slot.place))
            .count()
    }
}

fn below(streams: &Streams, end: usize) -> usize {
    let drawn = streams.below(Stream::Schedule, end as u64);
    usize::try_from(drawn).expect("below a length")
}

/// A task's end as others see it.
struct Ending<T> {
    value: RefCell<Option<T>>,
    gone: Cell<bool>,
    waiter: RefCell<Option<Waker>>,
}

/// Tells the waiter when the task's future is gone, by its end or dropped.
struct Gone<T>(Rc<Ending<T>>);

impl<T> Drop for Gone<T> {
    fn drop(&mut self) {
        self.0.gone.set(true);
        let waiter = self.0.waiter.borrow_mut().take();
        if let Some(waiter) = waiter {
            waiter.wake();
        }
    }
}

/// The handle of a task in the simulated world.
pub(crate) struct SimTask<T> {
    id: TaskId,
    world: u64,
    ending: Rc<Ending<T>>,
    detached: bool,
}

impl<T: 'static> SimTask<T> {
    /// Starts `future` at a place. In a life that is over nothing starts: the task is gone at once.
    pub(crate) fn spawn(
        world: &super::world::World,
        place: Place,
        queue: Queue,
        future: impl Future<Output = T> + 'static,
    ) -> SimTask<T> {
        let ending = Rc::new(Ending {
            value: RefCell::new(None),
            gone: Cell::new(false),
            waiter: RefCell::new(None),
        });
        let gone = Gone(Rc::clone(&ending));
        if !world.lives(place) {
            drop(gone);
            return SimTask {
                id: TaskId::MAX,
                world: world.serial(),
                ending,
                detached: true,
            };
        }
        let body = Box::pin(async move {
            let value = future.await;
            *gone.0.value.borrow_mut() = Some(value);
        });
        SimTask {
            id: world.executor.spawn(world.serial(), place, queue, body),
            world: world.serial(),
            ending,
            detached: false,
        }
    }

    pub(crate) fn detach(mut self) {
        self.detached = true;
    }

    pub(crate) async fn cancel(mut self) -> Option<T> {
        self.stop();
        self.detached = true;
        std::future::poll_fn(|cx| self.poll_gone(cx)).await;
        self.ending.value.borrow_mut().take()
    }
}

impl<T> SimTask<T> {
    fn stop(&self) {
        if self.ending.gone.get() {
            return;
        }
        if let Some(world) = current().filter(|world| world.serial() == self.world) {
            world.executor.cancel(self.id);
        }
    }

    fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.ending.gone.get() {
            return Poll::Ready(());
        }
        *self.ending.waiter.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl<T> Future for SimTask<T> {
    type Output = T;

    /// Resolves when the task has ended; never, if its host was killed.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let value = self.ending.value.borrow_mut().take();
        if let Some(value) = value {
            return Poll::Ready(value);
        }
        *self.ending.waiter.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl<T> Drop for SimTask<T> {
    fn drop(&mut self) {
        if !self.detached {
            self.stop();
        }
    }
}

impl<T> std::fmt::Debug for SimTask<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SimTask({})", self.id)
    }
}
