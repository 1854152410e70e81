//! A connection: two ends, a [`Pipe`] each way, and what TCP does about what one end does.
//!
//! Everything here is decided at once, in the kernels of both hosts. What follows later (a pump, a reset
//! that travels) and who is to be woken comes back as [`Effects`].

use std::io;
use std::net::SocketAddr;
use std::task::Waker;

use super::pipe::{Path, Pipe};
use crate::buffer::{Buf, BufMut};
use crate::sim::world::Place;

/// An end of a connection: 0 is who connected, 1 who accepted.
pub(crate) type Side = usize;

/// What is to happen after a step.
#[derive(Default)]
pub(crate) struct Effects {
    /// Woken once nothing is borrowed.
    pub(crate) wake: Vec<Waker>,
    /// The pipe that starts at this end is to be pumped at this moment.
    pub(crate) pumps: Vec<(Side, u64)>,
    /// A reset travels to this end.
    pub(crate) resets: Vec<Side>,
}

/// One end.
#[derive(Debug)]
pub(crate) struct End {
    /// Whose socket it is.
    pub(crate) place: Place,
    pub(crate) address: SocketAddr,
    /// Somebody has the socket, or it waits to be accepted.
    pub(crate) held: bool,
    /// The kernel knows the connection: not since it was reset, given up, or the power failed.
    pub(crate) known: bool,
    /// The socket reads no more: it was shut down.
    deaf: bool,
    /// What the next call is told, once.
    error: Option<io::ErrorKind>,
    /// A slow reader gets nothing before this moment.
    reads_from_ns: u64,
    readers: Vec<Waker>,
    writers: Vec<Waker>,
}

impl End {
    pub(crate) fn new(place: Place, address: SocketAddr) -> End {
        End {
            place,
            address,
            held: true,
            known: true,
            deaf: false,
            error: None,
            reads_from_ns: 0,
            readers: Vec::new(),
            writers: Vec::new(),
        }
    }
}

/// How a reader is served: drawn for each read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Serving {
    /// Bytes, at most.
    pub(crate) count_max: usize,
    /// How long until the next read is served, for each byte of this one, in nanoseconds.
    pub(crate) ns_per_byte: u64,
}

/// What a call on a socket comes to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It is done, with so many bytes.
    Done(usize),
    /// It failed.
    Failed(io::ErrorKind),
    /// It waits until its waker is called.
    Waits,
    /// It waits until this moment; nobody will call.
    WaitsUntil(u64),
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) ends: [End; 2],
    /// By the end where it starts.
    pipes: [Pipe; 2],
}

impl Connection {
    pub(crate) fn new(ends: [End; 2], capacities: [usize; 2]) -> Connection {
        Connection {
            ends,
            pipes: capacities.map(Pipe::new),
        }
    }

    /// Nobody can learn anything more about it.
    pub(crate) fn is_over(&self) -> bool {
        self.ends.iter().all(|end| !end.held)
    }

    /// The socket's next bytes, in `buf`.
    pub(crate) fn read(
        &mut self,
        side: Side,
        buf: &mut BufMut,
        now_ns: u64,
        serving: impl FnOnce(usize) -> Serving,
        effects: &mut Effects,
    ) -> Outcome {
        let (end, pipe) = (&mut self.ends[side], &mut self.pipes[1 - side]);
        if pipe.unread() == 0 {
            if let Some(error) = end.error.take() {
                return Outcome::Failed(error);
            }
            if pipe.end_arrived() || end.deaf || !end.known {
                return Outcome::Done(0);
            }
            return Outcome::Waits;
        }
        if now_ns < end.reads_from_ns {
            return Outcome::WaitsUntil(end.reads_from_ns);
        }
        let serving = serving(pipe.unread().min(buf.remaining()));
        assert!(
            serving.count_max > 0,
            "a read of nothing looks like the end"
        );
        let mut count = 0;
        while count < serving.count_max
            && let Some(bytes) = pipe.take(serving.count_max - count)
        {
            buf.extend_from_slice(&bytes);
            count += bytes.len();
        }
        end.reads_from_ns = now_ns.saturating_add(serving.ns_per_byte.saturating_mul(count as u64));
        if pipe.room() > 0 {
            effects.wake.append(&mut self.ends[1 - side].writers);
        }
        Outcome::Done(count)
    }

    /// Sends the front of `bytes`: as much as there is room for, at most `count_max`.
    pub(crate) fn write(
        &mut self,
        side: Side,
        bytes: &Buf,
        count_max: usize,
        due_ns: u64,
        effects: &mut Effects,
    ) -> Outcome {
        let (end, pipe) = (&mut self.ends[side], &mut self.pipes[side]);
        if let Some(error) = end.error.take() {
            return Outcome::Failed(error);
        }
        if pipe.end_sent() || !end.known {
            return Outcome::Failed(io::ErrorKind::BrokenPipe);
        }
        let count = bytes.len().min(pipe.room()).min(count_max);
        if count == 0 {
            return Outcome::Waits;
        }
        if let Some(at_ns) = pipe.push(bytes.slice(0..count), due_ns) {
            effects.pumps.push((side, at_ns));
        }
        Outcome::Done(count)
    }

    /// Bytes that one side has sent and the other has not read.
    pub(crate) fn unread_by_other(&self, side: Side) -> usize {
        self.pipes[side].held()
    }

    /// Has `waker` called when a read, or else a write, may get further.
    pub(crate) fn wait(&mut self, side: Side, reads: bool, waker: &Waker) {
        let end = &mut self.ends[side];
        let waiting = if reads {
            &mut end.readers
        } else {
            &mut end.writers
        };
        if !waiting.iter().any(|other| other.will_wake(waker)) {
            waiting.push(waker.clone());
        }
    }

    /// Ends both directions of a socket; what was written still goes out, then the end.
    pub(crate) fn shut_down(&mut self, side: Side, due_ns: u64, effects: &mut Effects) {
        self.ends[side].deaf = true;
        self.end_writing(side, due_ns, effects);
        self.wake(side, effects);
    }

    fn end_writing(&mut self, side: Side, due_ns: u64, effects: &mut Effects) {
        let pipe = &mut self.pipes[side];
        if self.ends[side].known
            && !pipe.end_sent()
            && let Some(at_ns) = pipe.push_end(due_ns)
        {
            effects.pumps.push((side, at_ns));
        }
    }

    /// The socket is closed. With bytes that nobody read this resets the connection, as Linux does.
    pub(crate) fn close(&mut self, side: Side, due_ns: u64, effects: &mut Effects) {
        self.ends[side].held = false;
        if self.pipes[1 - side].unread() > 0 {
            self.abort(side, effects);
        } else {
            self.ends[side].deaf = true;
            self.end_writing(side, due_ns, effects);
        }
    }

    /// The kernel of one end drops the connection and tells the other end, if that is reached.
    pub(crate) fn abort(&mut self, side: Side, effects: &mut Effects) {
        if self.ends[side].known {
            self.forget(side, None, effects);
            effects.resets.push(1 - side);
        }
    }

    /// A reset arrives.
    pub(crate) fn reset(&mut self, side: Side, effects: &mut Effects) {
        let error = if self.pipes[1 - side].end_arrived() {
            io::ErrorKind::BrokenPipe
        } else {
            io::ErrorKind::ConnectionReset
        };
        self.forget(side, Some(error), effects);
    }

    /// The kernel of one end knows the connection no more. Nothing travels.
    pub(crate) fn forget(
        &mut self,
        side: Side,
        error: Option<io::ErrorKind>,
        effects: &mut Effects,
    ) {
        let end = &mut self.ends[side];
        if end.known {
            end.known = false;
            end.error = error;
            self.pipes[side].forget_flight();
            self.wake(side, effects);
        }
    }

    fn wake(&mut self, side: Side, effects: &mut Effects) {
        let end = &mut self.ends[side];
        effects.wake.append(&mut end.readers);
        effects.wake.append(&mut end.writers);
    }

    /// Moves what an end has sent.
    pub(crate) fn pump(&mut self, side: Side, now_ns: u64, path: Path, effects: &mut Effects) {
        if !self.ends[side].known {
            return;
        }
        let peer = &self.ends[1 - side];
        // Bytes for a socket that will not read them are answered with a reset, and so is anything for
        // a connection that the kernel does not know.
        if path.forward && !peer.known {
            effects.resets.push(side);
        } else if path.forward && peer.deaf && self.pipes[side].bytes_due(now_ns) {
            self.abort(1 - side, effects);
        }
        let known = self.ends[1 - side].known;
        let path = Path {
            forward: path.forward && known,
            backward: path.backward && known,
        };
        let pumped = self.pipes[side].pump(now_ns, path);
        if pumped.arrived {
            effects.wake.append(&mut self.ends[1 - side].readers);
        }
        if pumped.acknowledged && self.pipes[side].room() > 0 {
            effects.wake.append(&mut self.ends[side].writers);
        }
        if let Some(at_ns) = pumped.next_ns {
            effects.pumps.push((side, at_ns));
        }
        if pumped.gave_up {
            self.forget(side, Some(io::ErrorKind::TimedOut), effects);
        }
    }
}
