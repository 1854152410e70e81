//! Sending answers: how long a client may take over them, and what they hold meanwhile.

use std::io;
use std::time::Duration;

use streambus_shards::{Buf, Stream, Written, now, timeout, yield_if_needed};

use super::super::broker::Broker;
use super::super::response::pinned_bytes_max;
use super::patience::{Patience, WRITE_STEP_BYTES};
use super::{Shared, Slices};

/// How long an answer may wait for its client as it was read: slices of memory that holds more. After that, small ones
/// are copied, so that a slow client does not keep a whole piece of log memory for each of them.
const SLOW_AFTER: Duration = Duration::from_secs(1);

/// More than the kernel ever holds of a connection (`tcp_wmem`).
const KERNEL_BYTES_MAX: usize = 1 << 30;

/// Why an answer was not sent whole.
#[derive(Debug)]
pub(super) enum SendError {
    /// The connection is gone.
    Socket,
    /// The client takes nothing, or next to nothing.
    Slow {
        /// Bytes of the answers that the client, or the kernel on the way to it, has.
        sent: usize,
    },
}

impl From<io::Error> for SendError {
    fn from(_: io::Error) -> SendError {
        SendError::Socket
    }
}

/// Counts answers while they are sent, and no longer, even if the connection ends meanwhile.
pub(super) struct Answers<'a> {
    broker: &'a Broker,
    shared: &'a Shared,
    bytes: usize,
}

impl<'a> Answers<'a> {
    pub(super) fn new(broker: &'a Broker, shared: &'a Shared, bytes: usize) -> Answers<'a> {
        let all = &broker.fetch_bytes;
        all.set(all.get() + pinned_bytes_max(bytes));
        shared.in_flight.set(shared.in_flight.get() + bytes);
        Answers {
            broker,
            shared,
            bytes,
        }
    }

    /// Some of them are sent and freed.
    fn shrink(&mut self, bytes: usize) {
        assert!(bytes <= self.bytes, "more is freed than was counted");
        let before = pinned_bytes_max(self.bytes);
        self.bytes -= bytes;
        let all = &self.broker.fetch_bytes;
        all.set(all.get() - (before - pinned_bytes_max(self.bytes)));
        let own = &self.shared.in_flight;
        own.set(own.get() - bytes);
    }
}

impl Drop for Answers<'_> {
    fn drop(&mut self) {
        self.shrink(self.bytes);
    }
}

/// Sends slices as fast as the client takes them. `limit` is the time for each step of progress.
///
/// # Errors
/// [`SendError`]: the connection is of no use any more.
pub(super) async fn send(
    stream: &Stream,
    mut slices: Slices,
    limit: Duration,
    answers: &mut Answers<'_>,
) -> Result<(), SendError> {
    let mut written = Written::default();
    let mut sent = 0;
    let mut patience: Option<Patience> = None;
    // The first look comes while there is time left.
    let (began, mut left) = (now(), limit / 2);
    let (mut waited, mut compact) = (Duration::ZERO, false);
    while !written.all(&slices) {
        let wait = if compact { left } else { left.min(SLOW_AFTER) };
        match timeout(wait, stream.write(&slices, &mut written)).await {
            Ok(count) => sent += count?,
            Err(_) => waited += wait,
        }
        if written.all(&slices) {
            break;
        }
        if waited >= SLOW_AFTER && !compact {
            copy_small(&mut slices[written.slices()..]).await;
            compact = true;
        }
        answers.shrink(free_written(&mut slices, &mut written));
        // What the kernel holds counts as the client's only once the client has acknowledged it: room in the
        // kernel's buffers shows in steps of a third of them. Of earlier answers it may hold more than was sent of these.
        let held = stream.unacknowledged()?;
        let moved = (KERNEL_BYTES_MAX + sent).saturating_sub(held);
        let patience =
            patience.get_or_insert_with(|| Patience::new(limit, WRITE_STEP_BYTES, moved, began));
        left = patience.left(moved, now());
        if left.is_zero() {
            let sent = sent.saturating_sub(held);
            return Err(SendError::Slow { sent });
        }
    }
    Ok(())
}

/// Frees the slices that are written whole, once they are half of all; says how many bytes that were.
fn free_written(slices: &mut Slices, written: &mut Written) -> usize {
    let whole = written.slices();
    if whole == 0 || whole < slices.len() / 2 {
        return 0;
    }
    written.forget_whole();
    slices.drain(..whole).map(|slice| slice.len()).sum()
}

/// Copies slices that are less than half of what they keep in memory.
async fn copy_small(slices: &mut [Buf]) {
    for slice in slices {
        if slice.len() * 2 <= slice.backing_capacity() {
            *slice = Buf::from(slice.to_vec());
            yield_if_needed().await;
        }
    }
}
