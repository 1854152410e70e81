//! Bugs planted on purpose, by which the simulator proves that its checkers see what they are there for.
//!
//! A bug is one line of code behind [`on`], which says no unless the feature `planted` is there *and* the
//! thread runs with that bug. Only the proof of the checkers turns the feature on: `tests/README.md` names
//! each bug. In any other build [`on`] is a constant, and the bug is not there.

#[cfg(feature = "planted")]
use std::cell::Cell;

#[cfg(feature = "planted")]
thread_local! {
    static PLANTED: Cell<Option<&'static str>> = const { Cell::new(None) };
}

/// Has this thread run with a bug from now on, or with none.
#[cfg(feature = "planted")]
pub fn plant(bug: Option<&'static str>) {
    PLANTED.set(bug);
}

/// Whether this thread runs with the bug of that name.
#[cfg(feature = "planted")]
pub fn on(bug: &str) -> bool {
    PLANTED.get() == Some(bug)
}

/// Whether this thread runs with the bug of that name: no.
#[cfg(not(feature = "planted"))]
#[inline]
#[must_use]
pub const fn on(_bug: &str) -> bool {
    false
}
