//! A core that has nothing to do: it sleeps, and it never sleeps over ready tasks.
#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

use std::fs;
use std::future::poll_fn;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use streambus_shards::{CoreContext, NodePlan, run_node, sleep};

/// How long a signal holds a core: longer than its preemption timer (5 ms).
const HOLD: Duration = Duration::from_millis(7);
/// How often a core has to be found asleep over a ready task: about one signal in some hundred hits the moment.
const HELD_AT_LEAST: usize = 1;
const PATIENCE: Duration = Duration::from_secs(150);

fn cpu_time_of_thread() -> Duration {
    clock(libc::CLOCK_THREAD_CPUTIME_ID)
}

fn clock(id: libc::clockid_t) -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is room for the answer, and the clock exists.
    let failed = unsafe { libc::clock_gettime(id, &raw mut time) };
    assert_eq!(failed, 0);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap(),
        u32::try_from(time.tv_nsec).unwrap(),
    )
}

#[test]
fn a_core_does_not_look_for_work_after_a_timer_or_a_heartbeat() {
    // Proves that only work from outside makes a core look for more before it sleeps: this one would look for two seconds.
    let spin = Duration::from_millis(20);
    let wakes = 100;
    let plan = NodePlan {
        cores: 1,
        pin: true,
        spin,
    };
    let taken = run_node(&plan, move |_: CoreContext<(), ()>| async move {
        let before = cpu_time_of_thread();
        for _ in 0..wakes {
            sleep(Duration::from_millis(1)).await;
        }
        cpu_time_of_thread().saturating_sub(before)
    })
    .unwrap();
    let looking = spin * wakes;
    assert!(taken[0] < looking / 4, "{:?} of CPU", taken[0]);
}

/// What the core and the test share.
#[derive(Default)]
struct Exchange {
    thread: AtomicI32,
    asked: AtomicU64,
    answered: AtomicU64,
    waker: Mutex<Option<Waker>>,
}

impl Exchange {
    fn wake(&self) {
        if let Some(waker) = self.waker.lock().unwrap().as_ref() {
            waker.wake_by_ref();
        }
    }

    fn is_answered(&self) -> bool {
        self.asked.load(Ordering::SeqCst) == self.answered.load(Ordering::SeqCst)
    }

    /// Whether the core's thread sleeps, and how often it was put on a CPU.
    fn asleep_since_run(&self) -> Option<u64> {
        let thread = self.thread.load(Ordering::SeqCst);
        let read = |file: &str| fs::read_to_string(format!("/proc/self/task/{thread}/{file}"));
        let stat = read("stat").unwrap();
        let (_, state) = stat.rsplit_once(") ").unwrap();
        let runs = read("schedstat").unwrap();
        let runs = runs.split_whitespace().nth(2).unwrap().parse().unwrap();
        state.starts_with('S').then_some(runs)
    }
}

/// Holds the thread that it comes to, wherever it is.
extern "C" fn hold(_: libc::c_int) {
    let until = clock(libc::CLOCK_MONOTONIC) + HOLD;
    while clock(libc::CLOCK_MONOTONIC) < until {}
}

/// Answers each question of the other thread; ends with the last one.
async fn answer(exchange: Arc<Exchange>, last: u64) {
    // SAFETY: no arguments and no failure.
    exchange
        .thread
        .store(unsafe { libc::gettid() }, Ordering::SeqCst);
    poll_fn(|cx| {
        *exchange.waker.lock().unwrap() = Some(cx.waker().clone());
        let asked = exchange.asked.load(Ordering::SeqCst);
        exchange.answered.store(asked, Ordering::SeqCst);
        if asked == last {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
}

/// The question that ends the core.
const LAST: u64 = u64::MAX;

#[test]
fn a_core_that_is_held_between_its_wake_up_and_its_first_task_goes_on() {
    // Proves the heartbeat: a signal holds the core for longer than its preemption timer, at another time after each
    // wake-up. Where it falls between the wake-up and the first task, the core sleeps over that task, with
    // nothing else to wake it, and is seen to; each time it goes on.
    // SAFETY: the handler only reads a clock.
    let before = unsafe { libc::signal(libc::SIGUSR1, hold as *const () as libc::sighandler_t) };
    assert_ne!(before, libc::SIG_ERR);
    let exchange = Arc::new(Exchange::default());
    let (other, (ended, has_ended)) = (Arc::clone(&exchange), mpsc::channel());
    thread::spawn(move || {
        let plan = NodePlan {
            cores: 1,
            pin: false,
            spin: Duration::ZERO,
        };
        let body = move |_: CoreContext<(), ()>| answer(Arc::clone(&other), LAST);
        run_node(&plan, body).unwrap();
        ended.send(()).unwrap();
    });
    let began = Instant::now();
    while exchange.waker.lock().unwrap().is_none() {
        assert!(began.elapsed() < PATIENCE, "the core starts");
        thread::yield_now();
    }
    let (mut held, mut longest) = (0, Duration::ZERO);
    let mut round = 0;
    while held < HELD_AT_LEAST {
        assert!(
            began.elapsed() < PATIENCE,
            "held {held} times in {round} rounds"
        );
        round += 1;
        exchange.asked.store(round, Ordering::SeqCst);
        exchange.wake();
        // Wherever the core is then.
        let signalled = Instant::now() + Duration::from_micros(round * 3 % 150);
        while Instant::now() < signalled {}
        let thread = exchange.thread.load(Ordering::SeqCst);
        // SAFETY: the thread lives, and has a handler for the signal.
        unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, libc::SIGUSR1) };
        let asked = Instant::now();
        let mut seen = None;
        let mut was_asleep = false;
        while !exchange.is_answered() {
            assert!(asked.elapsed() < PATIENCE, "the core sleeps over its task");
            let asleep = exchange.asleep_since_run();
            // Twice in one sleep: it was not about to wake.
            was_asleep |= asleep.is_some() && asleep == seen && !exchange.is_answered();
            seen = asleep;
            thread::sleep(Duration::from_millis(1));
        }
        if was_asleep {
            held += 1;
            longest = longest.max(asked.elapsed());
        }
    }
    println!("held {held} times in {round} rounds, for {longest:?} at most");
    exchange.asked.store(LAST, Ordering::SeqCst);
    exchange.wake();
    has_ended.recv_timeout(PATIENCE).expect("the core ends");
}
