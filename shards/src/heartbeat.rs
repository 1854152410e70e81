//! Wakes executors that may sleep over ready tasks, from a thread of its own.
//!
//! glommio 0.12 goes to sleep over ready tasks when its preemption timer has run out before the first of
//! them ran (`run_task_queues` then says that there were none), which happens when the thread is descheduled in
//! between. Only an event wakes it then. Timers of its own can't be that event: after the thread was away for
//! long enough all of them have fired, and the tasks that would set them again are among those it sleeps over.
//! So the event comes from outside: a wake-up that another thread sends counts, whatever it is for.
//!
//! A core needs no beat while its thread has not left its sleep since the last one was served: the kernel counts how often
//! a thread was put on a CPU (`schedstat`), and the task that serves a beat records the count. Whether a task ran says
//! nothing: the executor that needs the beat is the one of which none did. The count misses one way of being away, a
//! hypervisor that takes the CPU from under a running thread; [`EXCUSED_MAX`] bounds the sleep after that.
//!
//! How long an executor sleeps over ready tasks at most: [`PERIOD`] on a node that works, [`PERIOD_MAX`] on a quiet one,
//! [`EXCUSED_MAX`] after a hypervisor's pause.

use std::cell::RefCell;
use std::fs::File;
use std::future::poll_fn;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::task::{Poll, Waker};
use std::thread;
use std::time::Duration;

use crate::task::{Queue, spawn_in};
use crate::time::{Instant, now};

/// Between two looks at the cores while one of them works.
const PERIOD: Duration = Duration::from_millis(5);
/// The period doubles up to this while none does.
const PERIOD_MAX: Duration = Duration::from_millis(100);
/// A core that has not left its sleep is woken this often.
const EXCUSED_MAX: Duration = Duration::from_secs(1);
/// A core that was put on its CPU more often than this between two looks works. A timer takes one or two.
const QUIET_RUNS: u64 = 3;

/// How long the time that a thread waits for its CPU is added up before it is judged.
const WAIT_WINDOW: Duration = Duration::from_millis(50);
/// A thread that waits for its CPU for more than this part of the time shares it.
const SHARED_PART: u32 = 16;

/// The cores to look at. The lock is never held by an executor that serves.
static CORES: Mutex<Vec<Watched>> = Mutex::new(Vec::new());
static STARTED: Once = Once::new();

thread_local! {
    static OWN: RefCell<Option<Arc<Core>>> = const { RefCell::new(None) };
}

/// What a core and the thread share.
struct Core {
    /// The kernel's counts for the core's thread; none where it keeps none.
    counts: Option<File>,
    /// [`Counts::runs`] when the last beat was served; 0 before the first.
    served: AtomicU64,
    /// Whether other threads want the core's CPU.
    shares_cpu: AtomicBool,
}

impl Core {
    fn counts(&self) -> Option<Counts> {
        let mut line = [0; 80];
        let count = self.counts.as_ref()?.read_at(&mut line, 0).ok()?;
        Counts::parse(std::str::from_utf8(&line[..count]).ok()?)
    }
}

/// What the kernel counts for a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Counts {
    /// How long it waited for a CPU, since its start.
    waited: Duration,
    /// How often it was put on one.
    runs: u64,
}

impl Counts {
    /// From a line of `schedstat`: nanoseconds on a CPU, nanoseconds of waiting for one, runs.
    fn parse(line: &str) -> Option<Counts> {
        let mut fields = line.split_whitespace().skip(1);
        let waited_ns = fields.next()?.parse().ok()?;
        // A thread that exists was put on a CPU. A kernel that has the file and does not count says 0.
        let runs = fields.next()?.parse().ok().filter(|runs| *runs > 0)?;
        Some(Counts {
            waited: Duration::from_nanos(waited_ns),
            runs,
        })
    }
}

/// A core as the thread sees it.
struct Watched {
    core: Arc<Core>,
    waker: Waker,
    pulse: Pulse,
    wait: WaitForCpu,
}

/// What a look at a core decides.
#[derive(Debug, PartialEq, Eq)]
struct Look {
    /// Wake it.
    beat: bool,
    /// It works, so look again soon.
    works: bool,
}

/// When a core is woken.
struct Pulse {
    runs: u64,
    beaten: Instant,
}

impl Pulse {
    fn look(&mut self, runs: Option<u64>, served: u64, now: Instant) -> Look {
        let Some(runs) = runs else {
            // A kernel that does not count excuses nobody.
            return Look {
                beat: true,
                works: true,
            };
        };
        let ran = runs.saturating_sub(self.runs);
        self.runs = runs;
        let beat = runs != served || now.since(self.beaten) >= EXCUSED_MAX;
        if beat {
            self.beaten = now;
        }
        Look {
            beat,
            works: ran > QUIET_RUNS,
        }
    }
}

/// How much of the time a thread waits for its CPU.
struct WaitForCpu {
    since: Instant,
    waited: Duration,
}

impl WaitForCpu {
    /// Whether the thread shares its CPU, at the end of a window.
    fn look(&mut self, waited: Duration, now: Instant) -> Option<bool> {
        let passed = now.since(self.since);
        if passed < WAIT_WINDOW {
            return None;
        }
        let share = waited.saturating_sub(self.waited);
        self.since = now;
        self.waited = waited;
        Some(share > passed / SHARED_PART)
    }
}

/// The time to the next look.
fn next_period(period: Duration, works: bool) -> Duration {
    if works {
        PERIOD
    } else {
        (period * 2).min(PERIOD_MAX)
    }
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
    let mut period = PERIOD;
    loop {
        thread::sleep(period);
        let mut works = false;
        let mut cores = CORES.lock().unwrap_or_else(PoisonError::into_inner);
        for watched in cores.iter_mut() {
            works |= watched.look(now());
        }
        drop(cores);
        period = next_period(period, works);
    }
}

impl Watched {
    /// Wakes the core if it may need it; returns whether it works.
    fn look(&mut self, now: Instant) -> bool {
        let counts = self.core.counts();
        let served = self.core.served.load(Ordering::Relaxed);
        let look = self
            .pulse
            .look(counts.map(|counts| counts.runs), served, now);
        if look.beat {
            self.waker.wake_by_ref();
        }
        let shares = counts.and_then(|counts| self.wait.look(counts.waited, now));
        if let Some(shares) = shares {
            self.core.shares_cpu.store(shares, Ordering::Relaxed);
        }
        look.works
    }
}

/// Has the executor of this thread watched from now on. Awaited once, by its first task.
pub(crate) async fn join() {
    let core = Arc::new(Core {
        counts: File::open("/proc/thread-self/schedstat").ok(),
        served: AtomicU64::new(0),
        shares_cpu: AtomicBool::new(false),
    });
    OWN.set(Some(Arc::clone(&core)));
    // The caller stands in for the task until that has run.
    register(&core).await;
    let serve = async move {
        register(&core).await;
        poll_fn(|_| {
            if let Some(counts) = core.counts() {
                core.served.store(counts.runs, Ordering::Relaxed);
            }
            Poll::<()>::Pending
        })
        .await;
    };
    spawn_in(Queue::Foreground, serve).detach();
}

/// Makes the calling task the one that is woken.
async fn register(core: &Arc<Core>) {
    poll_fn(|cx| {
        let waker = cx.waker().clone();
        let mut cores = CORES.lock().unwrap_or_else(PoisonError::into_inner);
        match cores
            .iter_mut()
            .find(|other| Arc::ptr_eq(&other.core, core))
        {
            Some(watched) => watched.waker = waker,
            None => cores.push(Watched {
                core: Arc::clone(core),
                waker,
                pulse: Pulse {
                    runs: 0,
                    beaten: now(),
                },
                wait: WaitForCpu {
                    since: now(),
                    waited: Duration::ZERO,
                },
            }),
        }
        Poll::Ready(())
    })
    .await;
}

/// Whether other threads want the CPU of this core, as far as the kernel says.
pub(crate) fn shares_cpu() -> bool {
    OWN.with_borrow(|own| {
        own.as_ref()
            .is_some_and(|core| core.shares_cpu.load(Ordering::Relaxed))
    })
}

/// The executor of this thread is about to end.
pub(crate) fn leave() {
    let Some(own) = OWN.take() else { return };
    let mut cores = CORES.lock().unwrap_or_else(PoisonError::into_inner);
    cores.retain(|watched| !Arc::ptr_eq(&watched.core, &own));
}

#[cfg(test)]
mod tests;
