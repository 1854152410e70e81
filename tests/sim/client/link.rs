//! One connection to one broker: a task that reads, a task that writes, and who waits for which answer.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use streambus_client::connection::{Answer, Connection, ConnectionConfig};
use streambus_client::request::{Reply, Request, encode};
use streambus_client::versions::Versions;
use streambus_proto::messages::api_versions_request::ApiVersionsRequest;
use streambus_shards::sync::{Notify, Slot};
use streambus_shards::{Buf, BufMut, Stream, Task, spawn, timeout};

use super::{CallError, clock_ms};

const CLIENT_ID: &str = "streambus-sim";
/// Known to brokers since 2.4, and the first version that says who asks.
const API_VERSIONS: i16 = 3;
/// Read at once.
const READ_BYTES: usize = 32 << 10;

type Outcome = Result<Answer, CallError>;

/// A connection. Dropped, it closes.
pub(super) struct Link {
    shared: Rc<Shared>,
    versions: RefCell<Versions>,
    request_timeout: Duration,
    _tasks: [Task<()>; 2],
}

struct Shared {
    stream: Stream,
    connection: RefCell<Connection>,
    /// Frames that wait for the writer, in order. Bounded by the requests that may be under way, and by
    /// producers that wait for their answers.
    outgoing: RefCell<VecDeque<Buf>>,
    queued: Notify,
    waiting: RefCell<BTreeMap<i32, Rc<Slot<Outcome>>>>,
    dead: Cell<bool>,
}

impl Shared {
    /// Whoever waits learns that no answer will come.
    fn die(&self, why: &str) {
        if self.dead.replace(true) {
            return;
        }
        self.stream.shutdown();
        let waiting = self.waiting.take();
        for slot in waiting.into_values() {
            slot.fill(Err(CallError::Lost(why.to_owned())));
        }
    }

    async fn read(self: Rc<Self>) {
        loop {
            let (count, bytes) = self.stream.read(BufMut::with_capacity(READ_BYTES)).await;
            match count {
                Ok(0) => return self.die("closed by the broker"),
                Err(error) => return self.die(&error.to_string()),
                Ok(_) => {}
            }
            if let Err(error) = self.take_in(bytes.as_slice()) {
                return self.die(&error.to_string());
            }
        }
    }

    fn take_in(&self, mut bytes: &[u8]) -> Result<(), CallError> {
        while !bytes.is_empty() {
            let mut connection = self.connection.borrow_mut();
            let space = connection.space();
            let count = space.len().min(bytes.len());
            space[..count].copy_from_slice(&bytes[..count]);
            connection.arrived(count);
            bytes = &bytes[count..];
            while let Some(answer) = connection.take_answer()? {
                let id = answer.request.correlation_id;
                let slot = self.waiting.borrow_mut().remove(&id);
                if let Some(slot) = slot {
                    slot.fill(Ok(answer));
                }
            }
        }
        Ok(())
    }

    async fn write(self: Rc<Self>) {
        loop {
            let queued = self.queued.notified();
            let frames: Vec<Buf> = self.outgoing.borrow_mut().drain(..).collect();
            if frames.is_empty() {
                queued.await;
            } else if let Err(error) = self.stream.write_all(&frames).await {
                return self.die(&error.to_string());
            }
        }
    }
}

/// A request under way.
pub struct Awaited {
    shared: Rc<Shared>,
    slot: Rc<Slot<Outcome>>,
    limit: Duration,
}

impl Awaited {
    /// Waits for the answer. One that is late ends the connection: what comes after it could not be told
    /// from it.
    ///
    /// # Errors
    /// [`CallError::Lost`].
    pub async fn answer(self) -> Result<Answer, CallError> {
        let Ok(outcome) = timeout(self.limit, self.slot.take()).await else {
            self.shared.die("an answer was late");
            return Err(CallError::Lost("no answer in time".to_owned()));
        };
        outcome
    }
}

impl Link {
    /// Connects and learns what the broker serves.
    pub(super) async fn open(
        address: SocketAddr,
        config: ConnectionConfig,
        request_timeout: Duration,
    ) -> Result<Link, CallError> {
        let stream = Stream::connect(address).await;
        let shared = Rc::new(Shared {
            stream: stream.map_err(|error| CallError::Lost(error.to_string()))?,
            connection: RefCell::new(Connection::new(config)),
            outgoing: RefCell::default(),
            queued: Notify::new(),
            waiting: RefCell::default(),
            dead: Cell::new(false),
        });
        let tasks = [
            spawn(Rc::clone(&shared).read()),
            spawn(Rc::clone(&shared).write()),
        ];
        let link = Link {
            shared,
            versions: RefCell::default(),
            request_timeout,
            _tasks: tasks,
        };
        link.ask_versions().await?;
        Ok(link)
    }

    async fn ask_versions(&self) -> Result<(), CallError> {
        let request = ApiVersionsRequest {
            client_software_name: "streambus-sim".into(),
            client_software_version: env!("CARGO_PKG_VERSION").into(),
        };
        let awaited = self.send_in(&request, API_VERSIONS, &[])?;
        let reply: Reply<ApiVersionsRequest<'_>> = Reply::new(awaited.answer().await?);
        let answer = reply.read()?;
        CallError::check(answer.error_code)?;
        let ranges = answer.api_keys.iter();
        *self.versions.borrow_mut() = Versions::new(
            ranges.map(|range| (range.api_key, range.min_version, range.max_version)),
        );
        Ok(())
    }

    pub(super) fn is_dead(&self) -> bool {
        self.shared.dead.get()
    }

    pub(super) fn close(&self) {
        self.shared.die("given up");
    }

    /// Queues a request at once, so that requests go out in the order of the calls. `spliced` are the bytes
    /// of its `Records::Splice`, in order.
    pub(super) fn send<R: Request>(
        &self,
        request: &R,
        spliced: &[&[u8]],
    ) -> Result<Awaited, CallError> {
        let version = self.version::<R>()?;
        self.send_in(request, version, spliced)
    }

    /// As [`Link::send`], for what gets no answer.
    pub(super) fn send_unanswered<R: Request>(
        &self,
        request: &R,
        spliced: &[&[u8]],
    ) -> Result<(), CallError> {
        let version = self.version::<R>()?;
        let id = self.shared.connection.borrow_mut().begin_unanswered();
        self.queue(request, version, id, spliced)
    }

    fn version<R: Request>(&self) -> Result<i16, CallError> {
        let ours = R::KEY.info();
        let versions = self.versions.borrow();
        Ok(versions.choose(R::KEY as i16, (ours.first, ours.last))?)
    }

    fn send_in<R: Request>(
        &self,
        request: &R,
        version: i16,
        spliced: &[&[u8]],
    ) -> Result<Awaited, CallError> {
        let id = {
            let mut connection = self.shared.connection.borrow_mut();
            connection.begin(R::KEY as i16, version, clock_ms())?
        };
        let slot = Rc::new(Slot::new());
        self.shared
            .waiting
            .borrow_mut()
            .insert(id, Rc::clone(&slot));
        self.queue(request, version, id, spliced)?;
        Ok(Awaited {
            shared: Rc::clone(&self.shared),
            slot,
            limit: self.request_timeout,
        })
    }

    fn queue<R: Request>(
        &self,
        request: &R,
        version: i16,
        correlation_id: i32,
        spliced: &[&[u8]],
    ) -> Result<(), CallError> {
        if self.is_dead() {
            return Err(CallError::Lost("closed before".to_owned()));
        }
        let outgoing = encode(request, version, correlation_id, CLIENT_ID)?;
        assert_eq!(outgoing.splices.len(), spliced.len(), "each has its bytes");
        let (mut rest, mut position) = (outgoing.bytes.as_slice(), 0);
        let mut frame = Vec::new();
        for (splice, bytes) in outgoing.splices.iter().zip(spliced) {
            assert_eq!(splice.len, bytes.len(), "the length was announced");
            let (before, after) = rest.split_at(splice.position - position);
            frame.extend_from_slice(before);
            frame.extend_from_slice(bytes);
            (position, rest) = (splice.position, after);
        }
        frame.extend_from_slice(rest);
        self.shared
            .outgoing
            .borrow_mut()
            .push_back(Buf::from(frame));
        self.shared.queued.notify_one();
        Ok(())
    }
}
