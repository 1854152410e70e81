//! Clocks and timers.

use std::future::Future;
use std::ops::{Add, Sub};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

#[cfg(any(test, feature = "sim"))]
use crate::sim::{timer::SimTimer, world};
use crate::timers::CoreTimer;

/// A moment of the monotonic clock, in nanoseconds since an arbitrary start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(u64);

impl Instant {
    /// Nanoseconds since the clock's start.
    pub fn as_nanos(self) -> u64 {
        self.0
    }

    /// Time since `earlier`, zero if it is later.
    pub fn since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// Time since this moment.
    pub fn elapsed(self) -> Duration {
        now().since(self)
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;

    fn add(self, after: Duration) -> Instant {
        Instant(
            self.0
                .saturating_add(u64::try_from(after.as_nanos()).unwrap_or(u64::MAX)),
        )
    }
}

impl Sub for Instant {
    type Output = Duration;

    fn sub(self, earlier: Instant) -> Duration {
        self.since(earlier)
    }
}

/// The monotonic clock.
pub fn now() -> Instant {
    #[cfg(any(test, feature = "sim"))]
    if let Some(world) = world::current() {
        let place = world.place();
        let start_ns = world.hosts.borrow()[place.host.index()].monotonic_start_ns;
        return Instant(start_ns + world.now_ns());
    }
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid timespec to write to; CLOCK_MONOTONIC always exists.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    assert_eq!(failed, 0, "the monotonic clock answers");
    let seconds = u64::try_from(time.tv_sec).expect("monotonic time is positive");
    let nanos = u64::try_from(time.tv_nsec).expect("nanoseconds are positive");
    Instant(seconds * 1_000_000_000 + nanos)
}

/// The wall clock in milliseconds since 1970. It may jump; never used for order or deadlines.
pub fn wall_ms() -> i64 {
    #[cfg(any(test, feature = "sim"))]
    if let Some(world) = world::current() {
        let place = world.place();
        let skew_ms = world.hosts.borrow()[place.host.index()].wall_skew_ms;
        let ms = i64::try_from(world.wall_ns() / 1_000_000).unwrap_or(i64::MAX);
        return ms.saturating_add(skew_ms);
    }
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Resolves after `duration`.
pub async fn sleep(duration: Duration) {
    Timer::new(duration).await;
}

/// A timer of either world.
enum Timer {
    Real(CoreTimer),
    #[cfg(any(test, feature = "sim"))]
    Sim(SimTimer),
}

impl Timer {
    fn new(duration: Duration) -> Timer {
        #[cfg(any(test, feature = "sim"))]
        if let Some(world) = world::current() {
            return Timer::Sim(SimTimer::new(&world, duration));
        }
        Timer::Real(CoreTimer::new(duration))
    }
}

impl Future for Timer {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match self.get_mut() {
            Timer::Real(timer) => Pin::new(timer).poll(cx),
            #[cfg(any(test, feature = "sim"))]
            Timer::Sim(timer) => Pin::new(timer).poll(cx),
        }
    }
}

/// The time was up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the time was up")]
pub struct Elapsed;

/// Waits for `future`, but not longer than `limit`. The future wins a tie.
///
/// # Errors
/// [`Elapsed`]; the future is dropped then.
pub async fn timeout<T>(limit: Duration, future: impl Future<Output = T>) -> Result<T, Elapsed> {
    let mut future = pin!(future);
    // The timer is only made once the future has to wait.
    let mut timer = None;
    std::future::poll_fn(|cx| {
        if let Poll::Ready(value) = future.as_mut().poll(cx) {
            return Poll::Ready(Ok(value));
        }
        if timer.is_none() {
            timer = Some(Timer::new(limit));
        }
        match &mut timer {
            Some(timer) => Pin::new(timer).poll(cx).map(|()| Err(Elapsed)),
            None => Poll::Pending,
        }
    })
    .await
}
