//! The sockets that the facade hands out in the simulated world. They are numbers: everything that they
//! stand for lies in the world's network, and dies there with the host's life.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll};

use super::connection::{Outcome, Side};
use super::ports::SocketId;
use super::{ConnectionId, Network};
use crate::buffer::{Buf, BufMut};
use crate::sim::world::{Place, World, current};

/// What a socket says whose process is gone.
fn gone() -> io::Error {
    io::ErrorKind::NotConnected.into()
}

/// The world, if it is still the one of this number and the place still lives.
fn living(world: u64, place: Place) -> Option<Rc<World>> {
    current().filter(|current| current.serial() == world && current.lives(place))
}

/// A handle of a bound socket.
#[derive(Debug)]
struct Handle {
    world: u64,
    place: Place,
    socket: SocketId,
}

impl Handle {
    fn world(&self) -> io::Result<Rc<World>> {
        living(self.world, self.place).ok_or_else(gone)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        let world = self.world()?;
        world.network.state.borrow().ports.address(self.socket)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if let Ok(world) = self.world() {
            world.network.release(&world, self.socket);
        }
    }
}

/// Fails if somebody of the host has the address.
pub(crate) fn check_free(world: &Rc<World>, address: SocketAddr) -> io::Result<()> {
    check_own(world, address)?;
    let state = world.network.state.borrow();
    if address.port() != 0 && state.ports.is_taken(world.place().host, address) {
        return Err(io::ErrorKind::AddrInUse.into());
    }
    Ok(())
}

/// Fails if the address is not one of the host that calls.
fn check_own(world: &Rc<World>, address: SocketAddr) -> io::Result<()> {
    let host = world.place().host;
    if !world.lives(world.place()) {
        return Err(gone());
    }
    if Network::host_at(world, host, address) != Some(host) {
        return Err(io::ErrorKind::AddrNotAvailable.into());
    }
    Ok(())
}

/// A bound address.
#[derive(Debug)]
pub(crate) struct SimBound(Handle);

impl SimBound {
    pub(crate) fn take(
        world: &Rc<World>,
        address: SocketAddr,
        shared: bool,
    ) -> io::Result<SimBound> {
        check_own(world, address)?;
        let place = world.place();
        let mut state = world.network.state.borrow_mut();
        Ok(SimBound(Handle {
            world: world.serial(),
            place,
            socket: state.ports.bind(place, address, shared)?,
        }))
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    pub(crate) fn listen(&self) -> io::Result<SimListener> {
        let world = self.0.world()?;
        world
            .network
            .state
            .borrow_mut()
            .ports
            .listen(self.0.socket)?;
        Ok(SimListener(Handle { ..self.0 }))
    }
}

/// A listening socket.
#[derive(Debug)]
pub(crate) struct SimListener(Handle);

impl SimListener {
    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    pub(crate) async fn accept(&self) -> io::Result<SimStream> {
        let world = self.0.world()?;
        let id = poll_fn(|cx| {
            let mut state = world.network.state.borrow_mut();
            match state.ports.accept(self.0.socket, cx.waker()) {
                Ok(None) => Poll::Pending,
                Ok(Some(id)) => Poll::Ready(Ok(id)),
                Err(error) => Poll::Ready(Err(error)),
            }
        })
        .await?;
        Ok(SimStream::new(&world, self.0.place, id, 1))
    }
}

/// An attempt to connect, until it is answered or nobody waits any more.
struct Connecting {
    world: Rc<World>,
    place: Place,
    attempt: u64,
}

impl Drop for Connecting {
    fn drop(&mut self) {
        if let Some(world) = living(self.world.serial(), self.place) {
            world.network.forget_attempt(&world, self.attempt);
        }
    }
}

/// Opens a connection from the place that calls.
pub(crate) async fn connect(world: &Rc<World>, to: SocketAddr) -> io::Result<SimStream> {
    let place = world.place();
    if !world.lives(place) {
        return Err(gone());
    }
    let connecting = Connecting {
        world: Rc::clone(world),
        place,
        attempt: world.network.begin_connect(world, to),
    };
    let id = poll_fn(|cx| {
        let mut state = world.network.state.borrow_mut();
        let Some(attempt) = state.attempts.get_mut(&connecting.attempt) else {
            return Poll::Ready(Err(gone()));
        };
        if let Some(outcome) = attempt.outcome.take() {
            return Poll::Ready(outcome);
        }
        attempt.waker = Some(cx.waker().clone());
        Poll::Pending
    })
    .await?;
    Ok(SimStream::new(world, place, id, 0))
}

#[derive(Debug)]
struct Socket {
    world: u64,
    place: Place,
    id: ConnectionId,
    side: Side,
    addresses: [SocketAddr; 2],
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Some(world) = living(self.world, self.place) {
            world.network.close(&world, self.id, self.side);
        }
    }
}

/// An end of a connection. A clone is the same end.
#[derive(Debug, Clone)]
pub(crate) struct SimStream(Rc<Socket>);

impl SimStream {
    fn new(world: &Rc<World>, place: Place, id: ConnectionId, side: Side) -> SimStream {
        let state = world.network.state.borrow();
        let connection = state.connections.get(&id).expect("an end of it is held");
        let addresses = [0, 1].map(|side: Side| connection.ends[side].address);
        SimStream(Rc::new(Socket {
            world: world.serial(),
            place,
            id,
            side,
            addresses,
        }))
    }

    fn world(&self) -> io::Result<Rc<World>> {
        living(self.0.world, self.0.place).ok_or_else(gone)
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.world()?;
        Ok(self.0.addresses[self.0.side])
    }

    pub(crate) fn peer_addr(&self) -> io::Result<SocketAddr> {
        let world = self.world()?;
        let state = world.network.state.borrow();
        let connection = state.connections.get(&self.0.id).ok_or_else(gone)?;
        if !connection.ends[self.0.side].known {
            return Err(gone());
        }
        Ok(self.0.addresses[1 - self.0.side])
    }

    pub(crate) fn id(&self) -> i32 {
        let number = self.0.id * 2 + self.0.side as u64;
        i32::try_from(number).unwrap_or(i32::MAX)
    }

    pub(crate) async fn read(&self, mut buf: BufMut) -> (io::Result<usize>, BufMut) {
        let outcome = poll_fn(|cx| self.poll_read(cx, &mut buf)).await;
        (outcome, buf)
    }

    fn poll_read(&self, cx: &mut Context<'_>, buf: &mut BufMut) -> Poll<io::Result<usize>> {
        let world = self.world()?;
        let (id, side) = (self.0.id, self.0.side);
        let outcome = world
            .network
            .step(&world, id, |state, connection, effects| {
                let host = connection.ends[side].place.host;
                let serving = |available| state.serving(&world, host, available);
                let outcome = connection.read(side, buf, world.now_ns(), serving, effects);
                if outcome == Outcome::Waits {
                    connection.wait(side, true, cx.waker());
                }
                outcome
            });
        match outcome.ok_or_else(gone)? {
            Outcome::Done(count) => {
                world.trace(count as u64);
                Poll::Ready(Ok(count))
            }
            Outcome::Failed(error) => Poll::Ready(Err(error.into())),
            Outcome::Waits => Poll::Pending,
            Outcome::WaitsUntil(at_ns) => {
                let waker = cx.waker().clone();
                world.at(at_ns, move |_| waker.wake());
                Poll::Pending
            }
        }
    }

    /// Writes some of the first slice that has bytes; `skip` bytes of the very first are written already.
    pub(crate) async fn write(&self, slices: &[Buf], mut skip: usize) -> io::Result<usize> {
        for slice in slices {
            let left = slice.slice(skip..slice.len());
            if !left.is_empty() {
                return poll_fn(|cx| self.poll_write(cx, &left)).await;
            }
            skip = 0;
        }
        Ok(0)
    }

    /// Bytes that this end has sent and the other end has not read.
    pub(crate) fn unacknowledged(&self) -> io::Result<usize> {
        let world = self.world()?;
        let state = world.network.state.borrow();
        let connection = state.connections.get(&self.0.id).ok_or_else(gone)?;
        Ok(connection.unread_by_other(self.0.side))
    }

    fn poll_write(&self, cx: &mut Context<'_>, bytes: &Buf) -> Poll<io::Result<usize>> {
        let world = self.world()?;
        let (id, side) = (self.0.id, self.0.side);
        let outcome = world
            .network
            .step(&world, id, |state, connection, effects| {
                let host = connection.ends[side].place.host;
                let count_max = state.segment_bytes(&world, host);
                let due_ns = state.due_ns(&world, connection, side);
                let outcome = connection.write(side, bytes, count_max, due_ns, effects);
                if outcome == Outcome::Waits {
                    connection.wait(side, false, cx.waker());
                }
                outcome
            });
        match outcome.ok_or_else(gone)? {
            Outcome::Done(count) => Poll::Ready(Ok(count)),
            Outcome::Failed(error) => Poll::Ready(Err(error.into())),
            Outcome::Waits | Outcome::WaitsUntil(_) => Poll::Pending,
        }
    }

    pub(crate) fn shutdown(&self) {
        let Ok(world) = self.world() else { return };
        let (id, side) = (self.0.id, self.0.side);
        world
            .network
            .step(&world, id, |state, connection, effects| {
                let due_ns = state.due_ns(&world, connection, side);
                connection.shut_down(side, due_ns, effects);
            });
    }
}
