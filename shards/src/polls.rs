//! How long the tasks of this process run without a yield, for tests of that.
//!
//! A poll is measured by the CPU time of its thread: on a machine that does other work, too, the time that a core
//! was not given is left out.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::probe::thread_cpu_time;

static MEASURED: AtomicBool = AtomicBool::new(false);
static LONGEST_NS: AtomicU64 = AtomicU64::new(0);

/// The longest poll of any task of the real world since the last call. Polls are measured from the first call on.
pub fn take_longest_poll() -> Duration {
    MEASURED.store(true, Ordering::Relaxed);
    Duration::from_nanos(LONGEST_NS.swap(0, Ordering::Relaxed))
}

/// A poll that is being measured.
pub(crate) struct Measured(Option<Duration>);

impl Measured {
    pub(crate) fn begin() -> Measured {
        Measured(MEASURED.load(Ordering::Relaxed).then(thread_cpu_time))
    }
}

impl Drop for Measured {
    fn drop(&mut self) {
        if let Some(began) = self.0 {
            let took = thread_cpu_time().saturating_sub(began);
            let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
            LONGEST_NS.fetch_max(took, Ordering::Relaxed);
        }
    }
}
