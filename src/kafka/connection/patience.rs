//! Deadlines on progress: how long a client may take over bytes that it sends or is sent.
//!
//! A deadline on the whole would cut a client on a slow line, which gets on, and would allow one that does nothing to
//! hold memory as long as it. So the deadline begins anew with each step of some bytes that have moved.

use std::time::Duration;

use streambus_shards::Instant;

/// What a client has to take of an answer within the limit, if that much is left: 35 KB/s with the default of 30 s. A
/// byte now and then is no progress: a client would hold 55 MiB for years with it. With this it is half an hour.
pub(super) const WRITE_STEP_BYTES: usize = 1 << 20;
/// What a client has to send of a request. More than of an answer, because a core that is full of unfinished requests
/// reads no other large one.
pub(super) const READ_STEP_BYTES: usize = 4 << 20;

/// A deadline that begins anew with each step. Decides only; the caller measures and waits.
#[derive(Debug)]
pub(super) struct Patience {
    limit: Duration,
    step_bytes: usize,
    /// When the step that is under way began.
    since: Instant,
    /// Bytes that had moved then.
    moved: usize,
}

impl Patience {
    /// The first step begins now, with `moved` bytes behind it.
    pub(super) fn new(limit: Duration, step_bytes: usize, moved: usize, now: Instant) -> Patience {
        Patience {
            limit,
            step_bytes,
            since: now,
            moved,
        }
    }

    /// How long the client has for the rest of its step, now that `moved` bytes have moved; zero if its time is up.
    pub(super) fn left(&mut self, moved: usize, now: Instant) -> Duration {
        if moved >= self.moved + self.step_bytes {
            (self.moved, self.since) = (moved, now);
        }
        self.limit.saturating_sub(now.since(self.since))
    }

    /// Time that passed because this side made the client wait does not count.
    pub(super) fn excuse(&mut self, waited: Duration) {
        self.since = self.since + waited;
    }
}

#[cfg(test)]
mod tests {
    use streambus_shards::now;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    #[test]
    fn a_step_moves_the_deadline_and_less_does_not() {
        // Proves what is left at moments of a transfer: bytes moved, seconds since the start, seconds left.
        let step = 1_000;
        let steady = [(step, 20, 30), (2 * step, 40, 30), (2 * step + 1, 69, 1)];
        let in_one_go = [(40 * step, 29, 30), (40 * step, 58, 1)];
        let drips = [(1, 1, 29), (20, 20, 10), (step - 1, 30, 0)];
        let nothing = [(0, 29, 1), (0, 30, 0), (0, 31, 0)];
        let late = [(step, 31, 30)];
        for moments in [&steady[..], &in_one_go, &drips, &nothing, &late] {
            let start = now();
            let mut patience = Patience::new(LIMIT, step, 0, start);
            for (moved, at, left) in moments {
                let at = start + Duration::from_secs(*at);
                let left = Duration::from_secs(*left);
                assert_eq!(patience.left(*moved, at), left, "{moments:?}");
            }
        }
    }

    #[test]
    fn a_wait_that_is_not_the_clients_does_not_count() {
        let start = now();
        let mut patience = Patience::new(LIMIT, 1_000, 7, start);
        patience.excuse(Duration::from_secs(100));
        let at = start + Duration::from_secs(110);
        assert_eq!(patience.left(7, at), Duration::from_secs(20));
    }
}
