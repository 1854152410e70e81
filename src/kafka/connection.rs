//! One connection: frames in, answers out, in the order of the requests.
//!
//! Two tasks. The reader takes frames off the socket and begins them; what it begins goes into a queue. The writer
//! awaits the queue in order and sends what is ready with one call. So many produce requests of one
//! client share a sync, and a client that does not read is not read either once its queue is full.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::mem::size_of_val;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use streambus_ops::RefusalReason;
use streambus_proto::frame::{LENGTH_BYTES, frame_length};
use streambus_shards::sync::{Notify, either};
use streambus_shards::{Buf, BufMut, Stream, now, spawn, timeout, yield_now};

use super::broker::Broker;
use super::dispatch::{Answer, Later, Refused, dispatch};
use super::in_flight::Charge;
use super::listener::View;
use super::response::Slices;
use patience::{Patience, READ_STEP_BYTES, WRITE_STEP_BYTES};
use sending::{Answers, SendError, send};

/// What a connection waits for its next request with: all that an idle one has.
const IDLE_BYTES: usize = 4 << 10;
/// What a connection reads into while no large request is on its way. The memory is pooled.
const READ_BYTES: usize = 64 << 10;
/// A request that does not fit gets the next larger pooled memory, then this many times what has come of
/// it, again and again: never much more than has come, whatever its length says.
const GROWTH: usize = 4;
/// Where less than this many times what has come is wanted, all of it is taken: what is copied then is small
/// beside the request.
const LAST_GROWTH: usize = 2 * GROWTH;
/// Bytes that are copied from smaller memory before other tasks get their turn.
const COPIED_PER_STEP: usize = 256 << 10;
const POOLED_BYTES: [usize; 3] = [READ_BYTES, 256 << 10, 1 << 20];
/// How long a connection that sent much keeps its memory after it went quiet.
const KEEP_MEMORY: Duration = Duration::from_secs(1);
/// Responses sent with one call at most.
const COALESCED_MAX: usize = 64;
/// Bytes of responses from which on no further one is taken along.
const COALESCED_BYTES_MAX: usize = 1 << 20;

enum Queued {
    Now(Slices),
    Later(Later),
}

/// An answer in the queue, and what it holds until it is sent.
struct Owed {
    answer: Queued,
    charge: Charge,
}

/// What reader and writer share.
struct Shared {
    queue: RefCell<VecDeque<Owed>>,
    /// Bytes of requests, and of answers being sent, that the client has not had its answers to.
    in_flight: Cell<usize>,
    /// Rung when something is queued, or the reader has ended.
    queued: Notify,
    /// Rung when something was sent.
    sent: Notify,
    reader_ended: Cell<bool>,
    writer_ended: Cell<bool>,
    /// Why a request that wants no answer, and went on by itself, ends the connection.
    refused: RefCell<Option<Refused>>,
}

impl Shared {
    /// Counts bytes, here and in all of the core.
    fn charge(&self, broker: &Broker, bytes: usize) -> Charge {
        self.in_flight.set(self.in_flight.get() + bytes);
        broker.in_flight.charge(bytes)
    }

    /// Counts bytes that were added to a charge.
    fn count(&self, bytes: usize) {
        self.in_flight.set(self.in_flight.get() + bytes);
    }

    /// What [`Shared::charge`] counted counts no more.
    fn give_back(&self, charge: Charge) {
        self.in_flight.set(self.in_flight.get() - charge.bytes());
        drop(charge);
    }
}

/// Why a connection ended, for the log.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    #[error("the client closed it")]
    Closed,
    #[error("the node stops")]
    Draining,
    #[error("no request for {0:?}")]
    Idle(Duration),
    #[error(
        "a request was not complete, and less than {READ_STEP_BYTES} bytes of it came within {0:?}"
    )]
    SlowRequest(Duration),
    #[error("{0}")]
    Frame(#[from] streambus_proto::frame::FrameError),
    #[error("{0}")]
    Refused(#[from] Refused),
    #[error("{0}")]
    Socket(#[from] std::io::Error),
}

/// Serves a connection until it ends.
pub(super) async fn serve(broker: Rc<Broker>, stream: Stream, view: View) -> Ended {
    let shared = Rc::new(Shared {
        queue: RefCell::new(VecDeque::new()),
        in_flight: Cell::new(0),
        queued: Notify::new(),
        sent: Notify::new(),
        reader_ended: Cell::new(false),
        writer_ended: Cell::new(false),
        refused: RefCell::new(None),
    });
    let writer = spawn(write(
        Rc::clone(&broker),
        stream.clone(),
        Rc::clone(&shared),
    ));
    let mut reader = FrameReader {
        stream: stream.clone(),
        buf: None,
        grown: None,
        patience: None,
        sends_much: false,
    };
    let ended = read(&broker, &mut reader, &view, &shared).await;
    shared.reader_ended.set(true);
    shared.queued.notify_one();
    match ended {
        // The client sent rubbish: what it is owed goes out, then nothing more.
        Ended::Draining | Ended::Frame(_) | Ended::Refused(_) => writer.await,
        // It is gone: nobody waits for what is owed, a parked fetch of minutes least of all.
        Ended::Closed | Ended::Idle(_) | Ended::SlowRequest(_) | Ended::Socket(_) => drop(writer),
    }
    stream.shutdown();
    let refused = shared.refused.take();
    refused.map_or(ended, Ended::from)
}

async fn read(
    broker: &Rc<Broker>,
    reader: &mut FrameReader,
    view: &View,
    shared: &Rc<Shared>,
) -> Ended {
    loop {
        if let Err(ended) = has_room(broker, shared).await {
            return ended;
        }
        let frame = match reader.next(broker, shared).await {
            Ok(frame) => frame,
            Err(ended) => return ended,
        };
        // Before it begins: a batch may stand in line for a full lane, and its request is here all the while.
        let mut charge = shared.charge(broker, frame.len());
        let frame_bytes = charge.bytes();
        let begun = dispatch(broker, view, frame, &mut charge).await;
        shared.count(charge.bytes() - frame_bytes);
        let (answer, answer_bytes) = match begun {
            Ok(Answer::Nothing) => {
                shared.give_back(charge);
                continue;
            }
            Ok(Answer::Quiet(rest)) => {
                // A task of its own: it goes on without the connection, and counts until it is done.
                let (shared, stream) = (Rc::clone(shared), reader.stream.clone());
                let counted = async move {
                    if let Err(refused) = rest.await {
                        shared.refused.replace(Some(refused));
                        // The reader ends with it.
                        stream.shutdown();
                    }
                    shared.give_back(charge);
                    shared.sent.notify_one();
                };
                spawn(counted).detach();
                continue;
            }
            Ok(Answer::Now(slices)) => {
                let bytes = bytes_of(&slices);
                (Queued::Now(slices), bytes)
            }
            Ok(Answer::Later(later)) => {
                let bytes = size_of_val(&*later);
                (Queued::Later(later), bytes)
            }
            Err(refused) => {
                shared.give_back(charge);
                return refused.into();
            }
        };
        charge.merge(shared.charge(broker, answer_bytes));
        shared.queue.borrow_mut().push_back(Owed { answer, charge });
        shared.queued.notify_one();
    }
}

/// Waits until the connection may be read: it has not too much under way, nor have all of the core
/// while it has anything.
async fn has_room(broker: &Broker, shared: &Shared) -> Result<(), Ended> {
    let limits = broker.limits_config();
    loop {
        let sent = shared.sent.notified();
        let freed = broker.in_flight.freed();
        if shared.writer_ended.get() {
            return Err(Ended::Closed);
        }
        let own_room = shared.queue.borrow().len() < limits.in_flight_requests_per_connection_max
            && shared.in_flight.get() < limits.in_flight_bytes_per_connection_max;
        if own_room && (shared.in_flight.get() == 0 || !broker.in_flight.is_full()) {
            return Ok(());
        }
        either(sent, freed).await;
    }
}

/// The memory for a request of `wanted` bytes of which `came` are here.
fn grown_bytes(came: usize, wanted: usize) -> usize {
    if wanted < came * LAST_GROWTH {
        wanted
    } else {
        came * GROWTH
    }
}

/// Cuts what comes in into frames.
struct FrameReader {
    stream: Stream,
    /// What has come of the next frame, or of several. None while nothing has.
    buf: Option<BufMut>,
    /// What `buf` has beyond [`READ_BYTES`].
    grown: Option<Charge>,
    /// How long the client has to send more of the next frame, from its first byte on.
    patience: Option<Patience>,
    /// Whether the client sends more at once than an idle connection has memory for.
    sends_much: bool,
}

impl FrameReader {
    /// The next frame, without its length.
    async fn next(&mut self, broker: &Rc<Broker>, shared: &Shared) -> Result<Buf, Ended> {
        let limits = broker.limits_config();
        let idle = Duration::from_millis(limits.idle_timeout_ms);
        let slow = Duration::from_millis(limits.request_read_timeout_ms);
        loop {
            let filled = self.buf.as_ref().map(BufMut::as_slice).unwrap_or_default();
            if filled.is_empty() {
                self.patience = None;
                let came = self.first(broker, idle).await?;
                // A client that waits for an answer is not idle, but one that takes none is:
                // the deadline for writing finds that out.
                if came.is_none() && shared.in_flight.get() == 0 {
                    return Err(Ended::Idle(idle));
                }
                continue;
            }
            let length = frame_length(filled, limits.request_bytes_max)?;
            if let Some(length) = length.filter(|length| filled.len() >= LENGTH_BYTES + length) {
                return Ok(self.cut(length));
            }
            let wanted = LENGTH_BYTES + length.unwrap_or_default();
            let came = filled.len();
            let began = now();
            self.make_room(broker, wanted).await;
            let roomy = now();
            let patience = self
                .patience
                .get_or_insert_with(|| Patience::new(slow, READ_STEP_BYTES, came, began));
            // The core was full: that is not the client's doing.
            patience.excuse(roomy.since(began));
            let left = patience.left(came, roomy);
            if left.is_zero() {
                return Err(Ended::SlowRequest(slow));
            }
            timeout(left, self.fill(broker))
                .await
                .map_err(|_| Ended::SlowRequest(slow))??;
            // What a fast client has sent is read without a wait.
            if wanted > COPIED_PER_STEP {
                yield_now().await;
            }
        }
    }

    /// Takes a whole frame off the front.
    fn cut(&mut self, length: usize) -> Buf {
        let buf = self.buf.as_mut().expect("the frame is in it");
        let frame = buf.split_to(LENGTH_BYTES + length);
        self.patience = None;
        // The frame has the memory now, and is counted as a request's from here on.
        self.grown = None;
        if buf.is_empty() {
            self.buf = None;
        }
        frame.slice(LENGTH_BYTES..frame.len())
    }

    /// Sees that something fits behind what has come, of a request of `wanted` bytes as it says itself.
    async fn make_room(&mut self, broker: &Rc<Broker>, wanted: usize) {
        let Some(buf) = self.buf.as_mut().filter(|buf| buf.remaining() == 0) else {
            return;
        };
        // In memory of its own: what stood before it is other frames'.
        let came = buf.len();
        let pooled = POOLED_BYTES.iter().find(|bytes| **bytes > came);
        let bytes = pooled.map_or_else(|| grown_bytes(came, wanted), |bytes| *bytes);
        assert!(bytes > came, "room for {bytes} where {came} have come");
        if bytes > READ_BYTES {
            let mut charge = self
                .grown
                .take()
                .unwrap_or_else(|| broker.in_flight.charge(0));
            let more = bytes.saturating_sub(charge.bytes());
            broker.in_flight.grow(&mut charge, more).await;
            self.grown = Some(charge);
        }
        let mut larger = BufMut::with_capacity(bytes);
        for part in buf.as_slice().chunks(COPIED_PER_STEP) {
            larger.extend_from_slice(part);
            if came > COPIED_PER_STEP {
                yield_now().await;
            }
        }
        *buf = larger;
    }

    /// Waits for a request to begin. `None` after `limit`.
    async fn first(&mut self, broker: &Broker, limit: Duration) -> Result<Option<()>, Ended> {
        if self.sends_much {
            self.buf = Some(BufMut::with_capacity(READ_BYTES));
            if let Ok(done) = timeout(KEEP_MEMORY, self.fill(broker)).await {
                return done.map(Some);
            }
            self.sends_much = false;
        }
        self.buf = Some(BufMut::with_capacity(IDLE_BYTES));
        match timeout(limit, self.fill(broker)).await {
            Ok(done) => {
                done?;
                self.sends_much = self.buf.as_ref().is_some_and(|buf| buf.remaining() == 0);
                Ok(Some(()))
            }
            Err(_) => Ok(None),
        }
    }

    /// Reads what there is into `buf`, which is gone if the wait for it is given up.
    async fn fill(&mut self, broker: &Broker) -> Result<(), Ended> {
        let buf = self.buf.take().expect("room was made");
        if broker.draining.get() && buf.is_empty() {
            return Err(Ended::Draining);
        }
        let mut read = pin!(self.stream.read(buf));
        let mut drained = pin!(broker.drained.notified());
        let (count, buf) = poll_fn(|cx| {
            if let Poll::Ready(done) = read.as_mut().poll(cx) {
                return Poll::Ready(Ok(done));
            }
            drained.as_mut().poll(cx).map(|()| Err(Ended::Draining))
        })
        .await?;
        self.buf = Some(buf);
        match count? {
            0 => Err(Ended::Closed),
            _ => Ok(()),
        }
    }
}

/// Sends answers in order until the reader has ended and all is sent.
async fn write(broker: Rc<Broker>, stream: Stream, shared: Rc<Shared>) {
    let limit = Duration::from_millis(broker.limits_config().write_timeout_ms);
    loop {
        let next = shared.queue.borrow_mut().pop_front();
        let Some(Owed { answer, mut charge }) = next else {
            if shared.reader_ended.get() {
                break;
            }
            shared.queued.notified().await;
            continue;
        };
        let mut slices = match settle(answer).await {
            Ok(slices) => slices,
            Err(refused) => {
                tracing::warn!(error = %refused, "an answer could not be given");
                break;
            }
        };
        if !gather(&shared, &mut slices, &mut charge).await {
            break;
        }
        let bytes = bytes_of(&slices);
        let mut answers = Answers::new(&broker, &shared, bytes);
        let outcome = send(&stream, slices, limit, &mut answers).await;
        drop(answers);
        shared.give_back(charge);
        shared.sent.notify_one();
        if let Err(SendError::Slow { sent }) = outcome {
            let figures = &broker.shard.metrics().connections;
            figures.refused(RefusalReason::SlowReader);
            let peer = stream.peer_addr().ok();
            tracing::warn!(
                peer = peer.map(tracing::field::display),
                taken_bytes = sent,
                answer_bytes = bytes,
                "a client that did not take its answers was cut: it took less than {WRITE_STEP_BYTES} bytes within limits.write_timeout_ms={}",
                limit.as_millis()
            );
        }
        if outcome.is_err() {
            break;
        }
    }
    shared.writer_ended.set(true);
    shared.sent.notify_one();
    // A reader that waits for bytes from a client that takes none ends with this.
    stream.shutdown();
}

fn bytes_of(slices: &Slices) -> usize {
    slices.iter().map(|slice| slice.len()).sum()
}

async fn settle(queued: Queued) -> Result<Slices, Refused> {
    match queued {
        Queued::Now(slices) => Ok(slices),
        Queued::Later(later) => later.await,
    }
}

/// Adds the answers behind that are ready now; `false` if one could not be given.
async fn gather(shared: &Shared, slices: &mut Slices, charge: &mut Charge) -> bool {
    let mut bytes = bytes_of(slices);
    for _ in 1..COALESCED_MAX {
        if bytes >= COALESCED_BYTES_MAX {
            return true;
        }
        let next = shared.queue.borrow_mut().pop_front();
        let Some(Owed {
            answer,
            charge: more_charge,
        }) = next
        else {
            return true;
        };
        let more = match answer {
            Queued::Now(more) => more,
            Queued::Later(mut later) => {
                match poll_fn(|cx| Poll::Ready(later.as_mut().poll(cx))).await {
                    Poll::Ready(Ok(more)) => more,
                    Poll::Ready(Err(_)) => return false,
                    Poll::Pending => {
                        shared.queue.borrow_mut().push_front(Owed {
                            answer: Queued::Later(later),
                            charge: more_charge,
                        });
                        return true;
                    }
                }
            }
        };
        bytes += bytes_of(&more);
        slices.extend(more);
        charge.merge(more_charge);
    }
    true
}

mod patience;
mod sending;

#[cfg(test)]
mod tests;
