//! Tasks on the core that spawns them.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use glommio::{Latency, Shares, TaskQueueHandle};

/// Which work a task is, so that the one a client waits for comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queue {
    /// Connections, appends, reads of the tail.
    Foreground,
    /// Copying to and from other nodes.
    Replication,
    /// Flush, merge, retention, cold reads.
    Background,
}

#[derive(Clone, Copy)]
struct Queues {
    foreground: TaskQueueHandle,
    replication: TaskQueueHandle,
    background: TaskQueueHandle,
}

thread_local! {
    static QUEUES: Cell<Option<Queues>> = const { Cell::new(None) };
}

/// How soon a running foreground task should offer to yield.
const FOREGROUND_LATENCY: Duration = Duration::from_millis(5);

/// Periods of the heartbeats, without a common divisor so that they seldom coincide.
///
/// glommio 0.12 goes to sleep over ready tasks when its preemption timer has run out before the
/// first of them ran (`run_task_queues` then says that there were none), which happens when the
/// thread is descheduled in between. Nothing but an event wakes it then, so there is one soon. A
/// heartbeat may itself be what was not run; three in a row will not be.
const HEARTBEATS: [Duration; 3] = [
    Duration::from_millis(5),
    Duration::from_millis(7),
    Duration::from_millis(11),
];

/// Makes this executor's queues. Called once, before its first task.
pub(crate) fn create_queues() {
    let executor = glommio::executor();
    let queues = Queues {
        foreground: executor.create_task_queue(
            Shares::Static(1_000),
            Latency::Matters(FOREGROUND_LATENCY),
            "foreground",
        ),
        replication: executor.create_task_queue(
            Shares::Static(300),
            Latency::NotImportant,
            "replication",
        ),
        background: executor.create_task_queue(
            Shares::Static(100),
            Latency::NotImportant,
            "background",
        ),
    };
    QUEUES.set(Some(queues));
    for period in HEARTBEATS {
        let beat = async move {
            loop {
                crate::time::sleep(period).await;
            }
        };
        spawn_in(Queue::Foreground, beat).detach();
    }
}

/// A running task. Dropping it cancels it; [`Task::detach`] lets it run to its end.
#[must_use = "a dropped task is cancelled: keep it, await it or detach it"]
#[derive(Debug)]
pub struct Task<T>(glommio::Task<T>);

impl<T: 'static> Task<T> {
    /// Lets the task run to its end by itself.
    pub fn detach(self) {
        self.0.detach();
    }

    /// Stops the task at its next await and waits until it is gone.
    pub async fn cancel(self) -> Option<T> {
        self.0.cancel().await
    }
}

impl<T> Future for Task<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        Pin::new(&mut self.0).poll(cx)
    }
}

/// Runs a future on this core, in the queue of the task that calls.
pub fn spawn<T: 'static>(future: impl Future<Output = T> + 'static) -> Task<T> {
    Task(glommio::spawn_local(future))
}

/// Runs a future on this core, in the given queue.
pub fn spawn_in<T: 'static>(queue: Queue, future: impl Future<Output = T> + 'static) -> Task<T> {
    let Some(queues) = QUEUES.get() else {
        return spawn(future);
    };
    let handle = match queue {
        Queue::Foreground => queues.foreground,
        Queue::Replication => queues.replication,
        Queue::Background => queues.background,
    };
    Task(glommio::spawn_local_into(future, handle).expect("the queue was made with this executor"))
}

/// Lets other tasks run if this one has had its time.
pub async fn yield_if_needed() {
    glommio::yield_if_needed().await;
}

/// Lets every other ready task run once.
pub async fn yield_now() {
    glommio::executor().yield_now().await;
}
