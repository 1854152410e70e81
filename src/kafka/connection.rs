//! One connection: frames in, answers out, in the order of the requests.
//!
//! Two tasks. The reader takes frames off the socket and begins them; what it begins goes into a queue. The writer
//! awaits the queue in order and sends what is ready with one call. So many produce requests of one
//! client share a sync, and a client that does not read is not read either once its queue is full.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use streambus_proto::frame::{LENGTH_BYTES, frame_length};
use streambus_shards::sync::Notify;
use streambus_shards::{Buf, BufMut, Stream, spawn, timeout};

use super::broker::Broker;
use super::dispatch::{Answer, Later, Refused, dispatch};
use super::listener::View;
use super::response::Slices;

/// What a connection reads into while no large request is on its way. The memory is pooled.
const READ_BYTES: usize = 64 << 10;
/// Responses sent with one call at most.
const COALESCED_MAX: usize = 64;

/// An answer in the queue, and how many bytes its request had.
enum Queued {
    Now(Slices),
    Later(Later),
}

/// What reader and writer share.
struct Shared {
    queue: RefCell<VecDeque<Queued>>,
    /// Rung when something is queued, or the reader has ended.
    queued: Notify,
    /// Rung when something was sent.
    sent: Notify,
    reader_ended: Cell<bool>,
    writer_ended: Cell<bool>,
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
    #[error("a request was not complete after {0:?}")]
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
        queued: Notify::new(),
        sent: Notify::new(),
        reader_ended: Cell::new(false),
        writer_ended: Cell::new(false),
    });
    let writer = spawn(write(
        Rc::clone(&broker),
        stream.clone(),
        Rc::clone(&shared),
    ));
    let mut reader = FrameReader {
        stream: stream.clone(),
        buf: BufMut::with_capacity(READ_BYTES),
    };
    let ended = read(&broker, &mut reader, &view, &shared).await;
    shared.reader_ended.set(true);
    shared.queued.notify_one();
    match ended {
        // The client sent rubbish: what it is owed goes out, then nothing more.
        Ended::Closed | Ended::Draining | Ended::Frame(_) | Ended::Refused(_) => writer.await,
        Ended::Idle(_) | Ended::SlowRequest(_) | Ended::Socket(_) => drop(writer),
    }
    stream.shutdown();
    ended
}

async fn read(
    broker: &Rc<Broker>,
    reader: &mut FrameReader,
    view: &View,
    shared: &Shared,
) -> Ended {
    let limit = broker.limits_config().in_flight_requests_per_connection_max;
    loop {
        if let Err(ended) = has_room(shared, limit).await {
            return ended;
        }
        let frame = match reader.next(broker).await {
            Ok(frame) => frame,
            Err(ended) => return ended,
        };
        let queued = match dispatch(broker, view, frame).await {
            Ok(Answer::Nothing) => continue,
            Ok(Answer::Now(slices)) => Queued::Now(slices),
            Ok(Answer::Later(later)) => Queued::Later(later),
            Err(refused) => return refused.into(),
        };
        shared.queue.borrow_mut().push_back(queued);
        shared.queued.notify_one();
    }
}

/// Waits until fewer than `limit` answers are queued.
async fn has_room(shared: &Shared, limit: usize) -> Result<(), Ended> {
    loop {
        if shared.writer_ended.get() {
            return Err(Ended::Closed);
        }
        if shared.queue.borrow().len() < limit {
            return Ok(());
        }
        shared.sent.notified().await;
    }
}

/// Cuts what comes in into frames.
struct FrameReader {
    stream: Stream,
    /// What has come of the next frame, or of several.
    buf: BufMut,
}

impl FrameReader {
    /// The next frame, without its length.
    async fn next(&mut self, broker: &Broker) -> Result<Buf, Ended> {
        let limits = broker.limits_config();
        loop {
            let length = frame_length(self.buf.as_slice(), limits.request_bytes_max)?;
            if let Some(length) = length {
                if self.buf.len() >= LENGTH_BYTES + length {
                    return Ok(self.cut(length));
                }
                self.make_room(LENGTH_BYTES + length);
            } else if self.buf.remaining() == 0 {
                self.make_room(READ_BYTES);
            }
            if self.buf.is_empty() {
                let idle = Duration::from_millis(limits.idle_timeout_ms);
                self.fill(broker, idle).await?.ok_or(Ended::Idle(idle))?;
            } else {
                let slow = Duration::from_millis(limits.request_read_timeout_ms);
                self.fill(broker, slow)
                    .await?
                    .ok_or(Ended::SlowRequest(slow))?;
            }
        }
    }

    /// Takes a whole frame off the front.
    fn cut(&mut self, length: usize) -> Buf {
        let all = self.buf.split();
        let end = LENGTH_BYTES + length;
        let rest = all.slice(end..all.len());
        // What came of the next frame moves to the front of fresh memory: the old is the frame's now.
        if !rest.is_empty() || self.buf.remaining() < READ_BYTES / 2 {
            self.buf = BufMut::with_capacity(READ_BYTES.max(rest.len()));
            self.buf.extend_from_slice(&rest);
        }
        all.slice(LENGTH_BYTES..end)
    }

    /// Makes room for a frame of `bytes` in all.
    fn make_room(&mut self, bytes: usize) {
        if self.buf.capacity() < bytes || self.buf.remaining() == 0 {
            let mut larger = BufMut::with_capacity(bytes);
            larger.extend_from_slice(self.buf.as_slice());
            self.buf = larger;
        }
    }

    /// Reads what there is. `None` after `limit`.
    async fn fill(&mut self, broker: &Broker, limit: Duration) -> Result<Option<()>, Ended> {
        if broker.draining.get() && self.buf.is_empty() {
            return Err(Ended::Draining);
        }
        let buf = std::mem::replace(&mut self.buf, BufMut::with_capacity(0));
        let mut read = Box::pin(self.stream.read(buf));
        let mut drained = Box::pin(broker.drained.notified());
        let both = poll_fn(|cx| {
            if let Poll::Ready(done) = read.as_mut().poll(cx) {
                return Poll::Ready(Ok(done));
            }
            drained.as_mut().poll(cx).map(|()| Err(Ended::Draining))
        });
        let Ok(done) = timeout(limit, both).await else {
            return Ok(None);
        };
        let (count, buf) = done?;
        self.buf = buf;
        match count? {
            0 => Err(Ended::Closed),
            _ => Ok(Some(())),
        }
    }
}

/// Sends answers in order until the reader has ended and all is sent.
async fn write(broker: Rc<Broker>, stream: Stream, shared: Rc<Shared>) {
    let limit = Duration::from_millis(broker.limits_config().write_timeout_ms);
    loop {
        let next = shared.queue.borrow_mut().pop_front();
        let Some(next) = next else {
            if shared.reader_ended.get() {
                break;
            }
            shared.queued.notified().await;
            continue;
        };
        let mut slices = match settle(next).await {
            Ok(slices) => slices,
            Err(refused) => {
                tracing::warn!(error = %refused, "an answer could not be given");
                break;
            }
        };
        if !gather(&shared, &mut slices).await {
            break;
        }
        let bytes: usize = slices.iter().map(|slice| slice.len()).sum();
        broker.fetch_bytes.set(broker.fetch_bytes.get() + bytes);
        let sent = timeout(limit, stream.write_all(&slices)).await;
        broker.fetch_bytes.set(broker.fetch_bytes.get() - bytes);
        shared.sent.notify_one();
        if !matches!(sent, Ok(Ok(()))) {
            break;
        }
    }
    shared.writer_ended.set(true);
    shared.sent.notify_one();
    // A reader that waits for bytes from a client that takes none ends with this.
    stream.shutdown();
}

async fn settle(queued: Queued) -> Result<Slices, Refused> {
    match queued {
        Queued::Now(slices) => Ok(slices),
        Queued::Later(later) => later.await,
    }
}

/// Adds the answers behind that are ready now; `false` if one could not be given.
async fn gather(shared: &Shared, slices: &mut Slices) -> bool {
    for _ in 1..COALESCED_MAX {
        let next = shared.queue.borrow_mut().pop_front();
        let mut later = match next {
            None => return true,
            Some(Queued::Now(more)) => {
                slices.extend(more);
                continue;
            }
            Some(Queued::Later(later)) => later,
        };
        match poll_fn(|cx| Poll::Ready(later.as_mut().poll(cx))).await {
            Poll::Ready(Ok(more)) => slices.extend(more),
            Poll::Ready(Err(_)) => return false,
            Poll::Pending => {
                shared.queue.borrow_mut().push_front(Queued::Later(later));
                return true;
            }
        }
    }
    true
}
