//! Tasks on the core that spawns them.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use glommio::{Latency, Shares, TaskQueueHandle};

use crate::real_task::RealTask;
use crate::spin;

#[cfg(any(test, feature = "sim"))]
use crate::sim::{Stream, executor::SimTask, world};

/// Which work a task is, so that the one a client waits for comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queue {
    /// Connections, appends, reads of the tail.
    Foreground,
    /// Reads of what is not in memory any more: behind what is live, ahead of what nobody waits for.
    ColdRead,
    /// Flush, merge, retention.
    Background,
    /// Verifying what lies on disk, behind all else.
    Scrub,
}

#[derive(Clone, Copy)]
struct Queues {
    foreground: TaskQueueHandle,
    cold_read: TaskQueueHandle,
    background: TaskQueueHandle,
    scrub: TaskQueueHandle,
}

thread_local! {
    static QUEUES: Cell<Option<Queues>> = const { Cell::new(None) };
}

/// Makes this executor's queues. Called once, before its first task.
pub(crate) fn create_queues() {
    let executor = glommio::executor();
    let queues = Queues {
        // The one that an executor has from the start, with 1,000 shares: its first task is in it, and what
        // that one spawns.
        foreground: TaskQueueHandle::default(),
        cold_read: executor.create_task_queue(
            Shares::Static(200),
            Latency::NotImportant,
            "cold-read",
        ),
        background: executor.create_task_queue(
            Shares::Static(100),
            Latency::NotImportant,
            "background",
        ),
        scrub: executor.create_task_queue(Shares::Static(20), Latency::NotImportant, "scrub"),
    };
    QUEUES.set(Some(queues));
}

/// A running task. Dropping it cancels it; [`Task::detach`] lets it run to its end.
#[must_use = "a dropped task is cancelled: keep it, await it or detach it"]
#[derive(Debug)]
pub struct Task<T>(Handle<T>);

#[derive(Debug)]
enum Handle<T> {
    Real(RealTask<T>),
    #[cfg(any(test, feature = "sim"))]
    Sim(SimTask<T>),
}

impl<T: 'static> Task<T> {
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn simulated(task: SimTask<T>) -> Task<T> {
        Task(Handle::Sim(task))
    }

    /// Lets the task run to its end by itself.
    pub fn detach(self) {
        match self.0 {
            Handle::Real(task) => task.detach(),
            #[cfg(any(test, feature = "sim"))]
            Handle::Sim(task) => task.detach(),
        }
    }

    /// Stops the task at its next await and waits until it is gone.
    pub async fn cancel(self) -> Option<T> {
        match self.0 {
            Handle::Real(task) => task.cancel().await,
            #[cfg(any(test, feature = "sim"))]
            Handle::Sim(task) => task.cancel().await,
        }
    }
}

impl<T> Future for Task<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        match &mut self.0 {
            Handle::Real(task) => Pin::new(task).poll(cx),
            #[cfg(any(test, feature = "sim"))]
            Handle::Sim(task) => Pin::new(task).poll(cx),
        }
    }
}

/// Runs a future on this core, in the queue of the task that calls.
pub fn spawn<T: 'static>(future: impl Future<Output = T> + 'static) -> Task<T> {
    #[cfg(any(test, feature = "sim"))]
    if let Some(world) = world::current() {
        let queue = world.executor.queue();
        return Task::simulated(SimTask::spawn(&world, world.place(), queue, future));
    }
    Task(Handle::Real(RealTask::new(
        spin::in_background(),
        future,
        glommio::spawn_local,
    )))
}

/// Begins a future at once and runs the rest of it in a task, as [`spawn`] does. What it does before it first
/// waits is done when this returns, so that it happens in the order of the calls: tasks that are ready
/// run in any order.
pub fn spawn_begun<T: 'static>(future: impl Future<Output = T> + 'static) -> Task<T> {
    let mut future = Box::pin(future);
    // The task polls it again and leaves its own waker.
    let mut begun = Some(
        future
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop())),
    );
    spawn(std::future::poll_fn(move |cx| match begun.take() {
        Some(Poll::Ready(value)) => Poll::Ready(value),
        _ => future.as_mut().poll(cx),
    }))
}

/// Runs a future on this core, in the given queue.
pub fn spawn_in<T: 'static>(queue: Queue, future: impl Future<Output = T> + 'static) -> Task<T> {
    #[cfg(any(test, feature = "sim"))]
    if let Some(world) = world::current() {
        return Task::simulated(SimTask::spawn(&world, world.place(), queue, future));
    }
    let Some(queues) = QUEUES.get() else {
        return spawn(future);
    };
    let handle = match queue {
        Queue::Foreground => queues.foreground,
        Queue::ColdRead => queues.cold_read,
        Queue::Background => queues.background,
        Queue::Scrub => queues.scrub,
    };
    let background = queue != Queue::Foreground;
    Task(Handle::Real(RealTask::new(background, future, |future| {
        glommio::spawn_local_into(future, handle).expect("the queue was made with this executor")
    })))
}

/// Lets other tasks run if this one has had its time.
pub async fn yield_if_needed() {
    #[cfg(any(test, feature = "sim"))]
    if let Some(world) = world::current() {
        if world.below(Stream::Schedule, YIELDS_ONE_IN) == 0 {
            yield_once().await;
        }
        return;
    }
    glommio::yield_if_needed().await;
}

/// Lets every other ready task run once.
pub async fn yield_now() {
    #[cfg(any(test, feature = "sim"))]
    if world::current().is_some() {
        return yield_once().await;
    }
    glommio::executor().yield_now().await;
}

/// How often a task in the simulated world finds that its time is up.
#[cfg(any(test, feature = "sim"))]
const YIELDS_ONE_IN: u64 = 4;

#[cfg(any(test, feature = "sim"))]
async fn yield_once() {
    let mut yielded = false;
    std::future::poll_fn(|cx| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
