//! TCP, without blocking the core: real sockets, or those of the simulated world.

mod real;

use std::io;
use std::net::SocketAddr;

use crate::buffer::{Buf, BufMut};
#[cfg(any(test, feature = "sim"))]
use crate::sim::network::socket::{self, SimBound, SimListener, SimStream};
use real::{RealBound, RealListener, RealStream};

/// Accepts connections.
#[derive(Debug)]
pub struct Listener(Accepts);

#[derive(Debug)]
enum Accepts {
    Real(RealListener),
    #[cfg(any(test, feature = "sim"))]
    Sim(SimListener),
}

impl Listener {
    /// Listens at an address. With `shared`, other cores of this process may listen at the same one and
    /// the kernel spreads connections over them.
    ///
    /// # Errors
    /// What the kernel says, above all `AddrInUse`.
    pub fn bind(address: SocketAddr, shared: bool) -> io::Result<Listener> {
        BoundAddress::take(address, shared)?.listen()
    }

    /// Where it listens: the port the kernel chose, if it was asked for port 0.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match &self.0 {
            Accepts::Real(listener) => listener.local_addr(),
            #[cfg(any(test, feature = "sim"))]
            Accepts::Sim(listener) => listener.local_addr(),
        }
    }

    /// The next connection.
    ///
    /// # Errors
    /// What the kernel says; out of descriptors (`EMFILE`) passes, so wait and go on.
    pub async fn accept(&self) -> io::Result<Stream> {
        match &self.0 {
            Accepts::Real(listener) => listener.accept().await.map(Ends::Real).map(Stream),
            #[cfg(any(test, feature = "sim"))]
            Accepts::Sim(listener) => listener.accept().await.map(Ends::Sim).map(Stream),
        }
    }
}

/// A connection. A clone is the same connection, so that one task may read while another writes.
#[derive(Debug, Clone)]
pub struct Stream(Ends);

#[derive(Debug, Clone)]
enum Ends {
    Real(RealStream),
    #[cfg(any(test, feature = "sim"))]
    Sim(SimStream),
}

impl Stream {
    /// Opens a connection.
    ///
    /// # Errors
    /// What the kernel says. It may take minutes: put a [`timeout`](crate::timeout) around it.
    pub async fn connect(to: SocketAddr) -> io::Result<Stream> {
        #[cfg(any(test, feature = "sim"))]
        if let Some(world) = crate::sim::world::current() {
            let stream = socket::connect(&world, to).await;
            return stream.map(Ends::Sim).map(Stream);
        }
        RealStream::connect(to).await.map(Ends::Real).map(Stream)
    }

    /// This end's address.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match &self.0 {
            Ends::Real(stream) => stream.local_addr(),
            #[cfg(any(test, feature = "sim"))]
            Ends::Sim(stream) => stream.local_addr(),
        }
    }

    /// The other end's address.
    ///
    /// # Errors
    /// What the kernel says, if the other end is gone already.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        match &self.0 {
            Ends::Real(stream) => stream.peer_addr(),
            #[cfg(any(test, feature = "sim"))]
            Ends::Sim(stream) => stream.peer_addr(),
        }
    }

    /// Reads into the free space of `buf`; returns how much, 0 once the other end has closed.
    ///
    /// The buffer travels in and out, so that a world that completes reads later can own it meanwhile.
    pub async fn read(&self, buf: BufMut) -> (io::Result<usize>, BufMut) {
        assert!(
            buf.remaining() > 0,
            "a read into no space looks like the end"
        );
        match &self.0 {
            Ends::Real(stream) => stream.read(buf).await,
            #[cfg(any(test, feature = "sim"))]
            Ends::Sim(stream) => stream.read(buf).await,
        }
    }

    /// Writes all the slices in order, with as few calls as the kernel takes.
    ///
    /// # Errors
    /// What the kernel says; how much went out is unknown then.
    pub async fn write_all(&self, slices: &[Buf]) -> io::Result<()> {
        let mut written = Written::default();
        while !written.all(slices) {
            self.write(slices, &mut written).await?;
        }
        Ok(())
    }

    /// Waits until the kernel takes some of what is not written yet, moves `written` past it, and says how many bytes
    /// that were. Dropped while it waits, it has written nothing.
    ///
    /// # Errors
    /// What the kernel says; `written` stays where it was.
    pub async fn write(&self, slices: &[Buf], written: &mut Written) -> io::Result<usize> {
        assert!(!written.all(slices), "a write of nothing would never end");
        let count = match &self.0 {
            Ends::Real(stream) => stream.write(&slices[written.slices..], written.skip).await,
            #[cfg(any(test, feature = "sim"))]
            Ends::Sim(stream) => stream.write(&slices[written.slices..], written.skip).await,
        }?;
        written.advance(slices, count);
        Ok(count)
    }

    /// Bytes that the kernel has taken from this end and the other end has not acknowledged: a smaller number than
    /// before, without a write in between, means that the other end takes some.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn unacknowledged(&self) -> io::Result<usize> {
        match &self.0 {
            Ends::Real(stream) => stream.unacknowledged(),
            #[cfg(any(test, feature = "sim"))]
            Ends::Sim(stream) => stream.unacknowledged(),
        }
    }

    /// Ends both directions: a pending read returns 0, a pending write fails.
    pub fn shutdown(&self) {
        match &self.0 {
            Ends::Real(stream) => stream.shutdown(),
            #[cfg(any(test, feature = "sim"))]
            Ends::Sim(stream) => stream.shutdown(),
        }
    }

    /// The descriptor's number, to tell connections apart in logs.
    pub fn id(&self) -> i32 {
        match &self.0 {
            Ends::Real(stream) => stream.id(),
            #[cfg(any(test, feature = "sim"))]
            Ends::Sim(stream) => stream.id(),
        }
    }
}

/// How far slices that are written in order have been written.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Slices that are written whole.
    slices: usize,
    /// Bytes of the next slice that are written.
    skip: usize,
}

impl Written {
    /// Whether nothing is left of the slices. Empty ones at the end count as written.
    pub fn all(&self, slices: &[Buf]) -> bool {
        let left = &slices[self.slices..];
        left.iter().all(|slice| slice.is_empty())
    }

    /// Slices that are written whole.
    pub fn slices(&self) -> usize {
        self.slices
    }

    /// Forgets the slices that are written whole, which the caller has taken off the front.
    pub fn forget_whole(&mut self) {
        self.slices = 0;
    }

    fn advance(&mut self, slices: &[Buf], mut count: usize) {
        while let Some(slice) = slices.get(self.slices)
            && count >= slice.len() - self.skip
        {
            count -= slice.len() - self.skip;
            self.skip = 0;
            self.slices += 1;
        }
        self.skip += count;
        assert!(
            self.skip == 0 || self.slices < slices.len(),
            "more was written than there is"
        );
    }
}

/// Fails if somebody listens at this address, even one who would share it. Blocks for a few seconds
/// while it is taken, as it may be by a process just killed: for start-up only.
///
/// # Errors
/// What the kernel says, above all `AddrInUse`.
pub fn check_free(address: SocketAddr) -> io::Result<()> {
    #[cfg(any(test, feature = "sim"))]
    if let Some(world) = crate::sim::world::current() {
        return socket::check_free(&world, address);
    }
    real::check_free(address)
}

/// An address that is taken but not listened on yet, by whichever core will.
///
/// All are taken before anything is written or any core starts, so that a busy port is found first.
#[derive(Debug)]
pub struct BoundAddress(Taken);

#[derive(Debug)]
enum Taken {
    Real(RealBound),
    #[cfg(any(test, feature = "sim"))]
    Sim(SimBound),
}

impl BoundAddress {
    /// Takes an address. With `shared`, other cores of this process may take the same one and the
    /// kernel spreads connections over them.
    ///
    /// # Errors
    /// What the kernel says, above all `AddrInUse`.
    pub fn take(address: SocketAddr, shared: bool) -> io::Result<BoundAddress> {
        #[cfg(any(test, feature = "sim"))]
        if let Some(world) = crate::sim::world::current() {
            let bound = SimBound::take(&world, address, shared);
            return bound.map(Taken::Sim).map(BoundAddress);
        }
        RealBound::take(address, shared)
            .map(Taken::Real)
            .map(BoundAddress)
    }

    /// The address, with the port the kernel chose if it was asked for port 0.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match &self.0 {
            Taken::Real(bound) => bound.local_addr(),
            #[cfg(any(test, feature = "sim"))]
            Taken::Sim(bound) => bound.local_addr(),
        }
    }

    /// Starts listening, on the core that calls.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn listen(&self) -> io::Result<Listener> {
        match &self.0 {
            Taken::Real(bound) => bound.listen().map(Accepts::Real).map(Listener),
            #[cfg(any(test, feature = "sim"))]
            Taken::Sim(bound) => bound.listen().map(Accepts::Sim).map(Listener),
        }
    }
}

#[cfg(test)]
mod tests;
