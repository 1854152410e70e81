//! The end of a process that is asked to stop: SIGINT or SIGTERM.
//!
//! A thread of its own takes the signal, tells the core that waits for it, and then watches over the stop. A core could
//! not: the one that is stuck may be the one that would look.

use std::future::poll_fn;
use std::io;
use std::process;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::thread;
use std::time::Duration;

use atomic_waker::AtomicWaker;

/// How often the watch looks at a stop under way.
const LOOK_EVERY: Duration = Duration::from_millis(500);

static REQUESTED: AtomicBool = AtomicBool::new(false);
/// Of the task in [`stop_requested`].
static WAITING: AtomicWaker = AtomicWaker::new();
static SIGNALS: OnceLock<Signals> = OnceLock::new();

/// The signals that ask for a stop.
struct Signals(libc::sigset_t);

// SAFETY: a signal set is a plain value.
unsafe impl Send for Signals {}
// SAFETY: as above; nothing writes to it once it is made.
unsafe impl Sync for Signals {}

/// Resolves when the process is asked to stop: SIGINT or SIGTERM. One task of the process may wait, and
/// [`watch_stop`] must run.
pub async fn stop_requested() {
    #[cfg(any(test, feature = "sim"))]
    if let Some(world) = crate::sim::world::current() {
        world.stop_requested().await;
        return;
    }
    poll_fn(|cx| {
        WAITING.register(cx.waker());
        if REQUESTED.load(Ordering::Acquire) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
}

/// Keeps SIGINT and SIGTERM from ending the process, so that [`watch_stop`] takes them. Call before any thread
/// is started, since threads inherit which signals are blocked: one that does not have them blocked
/// would let them end the process at once. Calling it again changes nothing.
///
/// # Errors
/// What the kernel says.
pub fn catch_stop_signals() -> io::Result<()> {
    // SAFETY: an all-zero set is valid, and is initialised properly on the next line.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is ours.
    unsafe { libc::sigemptyset(&raw mut set) };
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: the set is ours and the signals exist.
        unsafe { libc::sigaddset(&raw mut set, signal) };
    }
    // SAFETY: the set is initialised.
    if unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) } != 0
    {
        return Err(io::Error::last_os_error());
    }
    SIGNALS.get_or_init(|| Signals(set));
    Ok(())
}

/// Starts the thread that takes the signal. From the signal on it calls `look` every half second with the time
/// since then; once that gives a reason, the process ends with it and exit code 1.
///
/// # Errors
/// If [`catch_stop_signals`] was not called, or there can be no further thread.
pub fn watch_stop(
    mut look: impl FnMut(Duration) -> Option<String> + Send + 'static,
) -> io::Result<()> {
    let signals = SIGNALS
        .get()
        .ok_or_else(|| io::Error::other("signals are not blocked yet"))?;
    let watch = move || {
        wait_for(signals);
        let asked = crate::now();
        REQUESTED.store(true, Ordering::Release);
        WAITING.wake();
        loop {
            thread::sleep(LOOK_EVERY);
            if let Some(reason) = look(asked.elapsed()) {
                eprintln!("streambus: {reason}");
                process::exit(1);
            }
        }
    };
    let thread = thread::Builder::new().name("stop".to_owned());
    thread.spawn(watch).map(drop)
}

fn wait_for(signals: &Signals) {
    let mut signal = 0;
    // SAFETY: the set is initialised, and `signal` is ours to write to.
    while unsafe { libc::sigwait(&raw const signals.0, &raw mut signal) } != 0 {}
}
