//! How the cores of a node talk: a ring from each core to each other, requests and replies.
//!
//! A request takes a place of a bounded count before it is sent and gives it back with its reply, so
//! replies always find room and two cores whose requests fill each other's rings still finish. Who finds no
//! place waits in turn.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Poll, Waker};

use atomic_waker::AtomicWaker;

use crate::ring::{Consumer, Producer, ring};
use crate::spin;
use crate::sync::{Line, Notify, Slot};
use crate::task::spawn_begun;

/// Requests a core may have under way to one other core.
const REQUESTS_MAX: usize = 512;
/// Places of a ring: this side's requests, and replies to as many of the other side's.
const RING_PLACES: usize = 2 * REQUESTS_MAX;
/// Messages handled before other tasks of the core get their turn.
const DRAIN_BATCH: usize = 64;

/// A core of this node, numbered from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CoreId(pub u16);

impl fmt::Display for CoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

enum Message<Q, R> {
    Request { id: u32, request: Q },
    Reply { id: u32, reply: R },
}

/// The other core has stopped; the request may or may not have been carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("core {0} has stopped")]
pub struct Stopped(pub CoreId);

/// Where the task that asked finds its reply.
type ReplySlot<R> = Rc<Slot<Result<R, Stopped>>>;

struct Peer<Q, R> {
    send: RefCell<Producer<Message<Q, R>>>,
    receive: RefCell<Consumer<Message<Q, R>>>,
    /// Wakes the task on the other core that drains what we send.
    wake: Arc<AtomicWaker>,
    in_flight: Cell<usize>,
    /// Requests that found no place, in order.
    line: Rc<Line>,
    /// Rung for the first of them.
    freed: Notify,
    /// By the request's id.
    waiting: RefCell<Vec<Option<ReplySlot<R>>>>,
    free_ids: RefCell<Vec<u32>>,
    /// Whether the other core serves no more. Set before it wakes this one.
    stopped: Arc<AtomicBool>,
}

impl<Q, R> Peer<Q, R> {
    fn has_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }
}

struct Inner<Q, R> {
    core: CoreId,
    /// By core number; `None` for this core itself.
    peers: Vec<Option<Peer<Q, R>>>,
    own_wake: Arc<AtomicWaker>,
    own_stopped: Arc<AtomicBool>,
    /// The same task's waker, for this core itself.
    serving: RefCell<Option<Waker>>,
    hops: Cell<u64>,
    full: Cell<u64>,
}

impl<Q, R> Inner<Q, R> {
    /// From here on nothing leaves this core, and the others learn of it.
    fn stop(&self) {
        // Release: replies that were sent before are seen before this is.
        self.own_stopped.store(true, Ordering::Release);
        for peer in self.peers.iter().flatten() {
            peer.wake.wake();
        }
    }
}

impl<Q, R> Drop for Inner<Q, R> {
    fn drop(&mut self) {
        self.stop();
    }
}

impl<Q: Send, R: Send> Inner<Q, R> {
    /// Has the calling task woken when another core has sent something.
    fn register(&self, waker: &Waker) {
        self.own_wake.register(waker);
        let mut serving = self.serving.borrow_mut();
        if !serving.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *serving = Some(waker.clone());
        }
    }

    /// Whether another core has sent something. Wakes the task that drains.
    fn look(&self) -> bool {
        let mut peers = self.peers.iter().flatten();
        let came = peers.any(|peer| !peer.receive.borrow().is_empty());
        if let Some(waker) = self.serving.borrow().as_ref().filter(|_| came) {
            // The sender's wake-up may be on its way; it takes the executor longer to see that.
            waker.wake_by_ref();
        }
        came
    }
}

/// One core's end of the mesh. A clone is the same end.
pub struct Mesh<Q, R> {
    inner: Rc<Inner<Q, R>>,
}

impl<Q, R> Clone for Mesh<Q, R> {
    fn clone(&self) -> Self {
        Mesh {
            inner: Rc::clone(&self.inner),
        }
    }
}

/// What one core needs to become an end of the mesh; made before the cores start.
pub struct MeshSeed<Q, R> {
    core: CoreId,
    ends: Vec<Option<SeedEnd<Q, R>>>,
    wakes: Vec<Arc<AtomicWaker>>,
    stopped: Vec<Arc<AtomicBool>>,
}

struct SeedEnd<Q, R> {
    send: Producer<Message<Q, R>>,
    receive: Consumer<Message<Q, R>>,
}

/// Seeds for a mesh of `cores` cores, in their order.
pub fn mesh_seeds<Q: Send, R: Send>(cores: usize) -> Vec<MeshSeed<Q, R>> {
    let wakes: Vec<_> = (0..cores).map(|_| Arc::new(AtomicWaker::new())).collect();
    let stopped: Vec<_> = (0..cores).map(|_| Arc::default()).collect();
    let mut seeds: Vec<MeshSeed<Q, R>> = (0..cores)
        .map(|core| MeshSeed {
            core: CoreId(u16::try_from(core).expect("fewer than 65,536 cores")),
            ends: (0..cores).map(|_| None).collect(),
            wakes: wakes.clone(),
            stopped: stopped.clone(),
        })
        .collect();
    for low in 0..cores {
        for high in low + 1..cores {
            let (up, up_out) = ring(RING_PLACES);
            let (down, down_out) = ring(RING_PLACES);
            seeds[low].ends[high] = Some(SeedEnd {
                send: up,
                receive: down_out,
            });
            seeds[high].ends[low] = Some(SeedEnd {
                send: down,
                receive: up_out,
            });
        }
    }
    seeds
}

impl<Q: Send + 'static, R: Send + 'static> MeshSeed<Q, R> {
    /// This core's end. Call on the core itself.
    pub fn grow(self) -> Mesh<Q, R> {
        let shared = self.wakes.iter().zip(&self.stopped);
        let peers = self
            .ends
            .into_iter()
            .zip(shared)
            .map(|(end, (wake, stopped))| {
                end.map(|end| Peer {
                    send: RefCell::new(end.send),
                    receive: RefCell::new(end.receive),
                    wake: Arc::clone(wake),
                    in_flight: Cell::new(0),
                    line: Rc::default(),
                    freed: Notify::new(),
                    waiting: RefCell::new((0..REQUESTS_MAX).map(|_| None).collect()),
                    free_ids: RefCell::new(
                        (0..u32::try_from(REQUESTS_MAX).expect("small")).collect(),
                    ),
                    stopped: Arc::clone(stopped),
                })
            });
        Mesh {
            inner: Rc::new(Inner {
                core: self.core,
                peers: peers.collect(),
                own_wake: Arc::clone(&self.wakes[usize::from(self.core.0)]),
                own_stopped: Arc::clone(&self.stopped[usize::from(self.core.0)]),
                serving: RefCell::new(None),
                hops: Cell::new(0),
                full: Cell::new(0),
            }),
        }
    }
}

impl<Q: Send + 'static, R: Send + 'static> Mesh<Q, R> {
    /// The core at this end.
    pub fn core(&self) -> CoreId {
        self.inner.core
    }

    /// How many cores there are.
    pub fn cores(&self) -> usize {
        self.inner.peers.len()
    }

    /// Requests sent to other cores so far.
    pub fn hops(&self) -> u64 {
        self.inner.hops.get()
    }

    /// Requests to other cores that found no place and waited for one, so far.
    pub fn full(&self) -> u64 {
        self.inner.full.get()
    }

    /// Asks another core and waits for its answer. Requests to one core are handed over in the order in
    /// which they were first polled.
    ///
    /// # Errors
    /// [`Stopped`] if the other core has ended or ends before it answers.
    ///
    /// # Panics
    /// If asked to call its own core: the caller serves that itself.
    pub async fn call(&self, to: CoreId, request: Q) -> Result<R, Stopped> {
        let peer = self.peer(to);
        self.take_place(peer).await;
        if peer.has_stopped() {
            Self::give_place_back(peer);
            return Err(Stopped(to));
        }
        let id = peer
            .free_ids
            .borrow_mut()
            .pop()
            .expect("as many ids as places");
        let slot = Rc::new(Slot::new());
        peer.waiting.borrow_mut()[id as usize] = Some(Rc::clone(&slot));
        let pushed = peer
            .send
            .borrow_mut()
            .push(Message::Request { id, request });
        assert!(pushed.is_ok(), "a request with a place always finds room");
        peer.wake.wake();
        self.inner.hops.set(self.inner.hops.get() + 1);
        // Should this future be dropped, the reply still comes and frees the place.
        slot.take().await
    }

    fn peer(&self, to: CoreId) -> &Peer<Q, R> {
        self.inner.peers[usize::from(to.0)]
            .as_ref()
            .expect("a core does not call itself")
    }

    async fn take_place(&self, peer: &Peer<Q, R>) {
        if peer.in_flight.get() == REQUESTS_MAX || !peer.line.is_empty() {
            self.inner.full.set(self.inner.full.get() + 1);
            let place = peer.line.join();
            place.first().await;
            while peer.in_flight.get() == REQUESTS_MAX && !peer.has_stopped() {
                peer.freed.notified().await;
            }
        }
        peer.in_flight.set(peer.in_flight.get() + 1);
    }

    fn give_place_back(peer: &Peer<Q, R>) {
        peer.in_flight.set(peer.in_flight.get() - 1);
        peer.freed.notify_one();
    }

    /// Serves no more: what others have asked and this core has not answered fails, and what they ask from now on.
    pub fn stop(&self) {
        self.inner.stop();
    }

    /// Serves what other cores ask, each request in a task of its own. Requests of one core
    /// are begun in order: what the handler does before it first waits is done in that order. Runs until
    /// the core stops.
    pub async fn serve<F>(&self, handler: impl Fn(CoreId, Q) -> F + 'static)
    where
        F: Future<Output = R> + 'static,
    {
        let handler = Rc::new(handler);
        let inner = Rc::downgrade(&self.inner);
        spin::look_at(move || inner.upgrade().is_some_and(|inner| inner.look()));
        loop {
            let batch = std::future::poll_fn(|cx| {
                self.inner.register(cx.waker());
                let (batch, more) = self.drain();
                if more {
                    // Come back after the other tasks had their turn.
                    cx.waker().wake_by_ref();
                }
                if batch.is_empty() {
                    Poll::Pending
                } else {
                    Poll::Ready(batch)
                }
            })
            .await;
            for (from, id, request) in batch {
                let mesh = self.clone();
                let answer = handler(from, request);
                spawn_begun(async move {
                    let reply = answer.await;
                    mesh.reply(from, id, reply);
                })
                .detach();
            }
        }
    }

    /// Takes up to a batch of messages from each core: replies go to their slots, requests are
    /// returned, and whether there may be more.
    fn drain(&self) -> (Vec<(CoreId, u32, Q)>, bool) {
        let (mut requests, mut more, mut came) = (Vec::new(), false, false);
        for (core, peer) in self.inner.peers.iter().enumerate() {
            let Some(peer) = peer else { continue };
            let from = CoreId(u16::try_from(core).expect("as numbered"));
            // Looked at before the ring: what the other core sent before it stopped is in the ring then.
            let stopped = peer.has_stopped();
            let mut taken = 0;
            while taken < DRAIN_BATCH {
                let message = peer.receive.borrow_mut().pop();
                match message {
                    Some(Message::Request { id, request }) => requests.push((from, id, request)),
                    Some(Message::Reply { id, reply }) => Self::settle(peer, id, reply),
                    None => break,
                }
                taken += 1;
            }
            more |= taken == DRAIN_BATCH;
            if stopped && taken < DRAIN_BATCH {
                Self::give_up(peer, from);
            }
            came |= taken > 0;
        }
        if came {
            spin::work_came();
        }
        (requests, more)
    }

    fn settle(peer: &Peer<Q, R>, id: u32, reply: R) {
        let slot = peer.waiting.borrow_mut()[id as usize]
            .take()
            .expect("a reply has its request");
        peer.free_ids.borrow_mut().push(id);
        slot.fill(Ok(reply));
        Self::give_place_back(peer);
    }

    /// Fails every request that the other core will not answer any more.
    fn give_up(peer: &Peer<Q, R>, core: CoreId) {
        let mut waiting = peer.waiting.borrow_mut();
        for (id, slot) in (0..).zip(waiting.iter_mut()) {
            if let Some(slot) = slot.take() {
                peer.free_ids.borrow_mut().push(id);
                slot.fill(Err(Stopped(core)));
                Self::give_place_back(peer);
            }
        }
    }

    fn reply(&self, to: CoreId, id: u32, reply: R) {
        if self.inner.own_stopped.load(Ordering::Relaxed) {
            // The other core has been told that there is none.
            return;
        }
        let peer = self.peer(to);
        let pushed = peer.send.borrow_mut().push(Message::Reply { id, reply });
        assert!(pushed.is_ok(), "replies have places of their own");
        peer.wake.wake();
    }
}
