//! TCP through the kernel: sockets that are polled, and called when they are ready.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::time::Duration;

use glommio::io::PollableFd;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::buffer::{Buf, BufMut};
use crate::spin;

/// Connections the kernel holds for a listener until they are accepted.
const BACKLOG: i32 = 1_024;
/// Slices in one `sendmsg`: Linux takes 1,024 (`UIO_MAXIOV`).
const SLICES_MAX: usize = 1_024;

fn pollable(socket: Socket) -> io::Result<PollableFd<Socket>> {
    socket.set_nonblocking(true)?;
    PollableFd::new(socket).map_err(io::Error::other)
}

fn waits(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

#[derive(Debug)]
pub(crate) struct RealListener {
    socket: PollableFd<Socket>,
}

impl RealListener {
    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        address(self.socket.get_ref().local_addr())
    }

    pub(crate) async fn accept(&self) -> io::Result<RealStream> {
        loop {
            match self.socket.get_ref().accept() {
                Ok((socket, _)) => return RealStream::new(socket),
                Err(error) if waits(&error) || error.kind() == io::ErrorKind::ConnectionAborted => {
                    self.socket.readable().await.map_err(io::Error::other)?;
                    spin::work_came();
                }
                Err(error) => return Err(error),
            }
        }
    }
}

fn address(found: io::Result<SockAddr>) -> io::Result<SocketAddr> {
    found?
        .as_socket()
        .ok_or_else(|| io::Error::other("not an internet address"))
}

#[derive(Debug, Clone)]
pub(crate) struct RealStream {
    socket: Rc<PollableFd<Socket>>,
}

impl RealStream {
    fn new(socket: Socket) -> io::Result<RealStream> {
        socket.set_tcp_nodelay(true)?;
        Ok(RealStream {
            socket: Rc::new(pollable(socket)?),
        })
    }

    pub(crate) async fn connect(to: SocketAddr) -> io::Result<RealStream> {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
        let stream = RealStream::new(socket)?;
        match stream.socket.get_ref().connect(&SockAddr::from(to)) {
            Ok(()) => return Ok(stream),
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) || waits(&error) => {}
            Err(error) => return Err(error),
        }
        stream.socket.writable().await.map_err(io::Error::other)?;
        match stream.socket.get_ref().take_error()? {
            Some(error) => Err(error),
            None => Ok(stream),
        }
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        address(self.socket.get_ref().local_addr())
    }

    pub(crate) fn peer_addr(&self) -> io::Result<SocketAddr> {
        address(self.socket.get_ref().peer_addr())
    }

    pub(crate) async fn read(&self, mut buf: BufMut) -> (io::Result<usize>, BufMut) {
        loop {
            let spare = buf.spare_mut();
            // SAFETY: `u8` and `MaybeUninit<u8>` have one layout, and recv only writes bytes there.
            let room = unsafe {
                std::slice::from_raw_parts_mut(
                    spare.as_mut_ptr().cast::<MaybeUninit<u8>>(),
                    spare.len(),
                )
            };
            match self.socket.get_ref().recv(room) {
                Ok(count) => {
                    buf.advance(count);
                    return (Ok(count), buf);
                }
                Err(error) if waits(&error) => {}
                Err(error) => return (Err(error), buf),
            }
            if let Err(error) = self.socket.readable().await {
                return (Err(io::Error::other(error)), buf);
            }
            spin::work_came();
        }
    }

    /// Writes some of the slices, of whose first `skip` bytes are written already.
    pub(crate) async fn write(&self, slices: &[Buf], skip: usize) -> io::Result<usize> {
        let pieces: Vec<IoSlice<'_>> = slices
            .iter()
            .take(SLICES_MAX)
            .enumerate()
            .map(|(index, slice)| IoSlice::new(if index == 0 { &slice[skip..] } else { slice }))
            .collect();
        loop {
            match self
                .socket
                .get_ref()
                .send_vectored_with_flags(&pieces, libc::MSG_NOSIGNAL)
            {
                Ok(count) => return Ok(count),
                Err(error) if waits(&error) => {
                    self.socket.writable().await.map_err(io::Error::other)?;
                    spin::work_came();
                }
                Err(error) => return Err(error),
            }
        }
    }

    pub(crate) fn unacknowledged(&self) -> io::Result<usize> {
        let mut bytes: libc::c_int = 0;
        // SAFETY: TIOCOUTQ (SIOCOUTQ of sockets) writes one int, and the descriptor is open.
        let failed = unsafe { libc::ioctl(self.id(), libc::TIOCOUTQ, &raw mut bytes) };
        if failed != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(usize::try_from(bytes).unwrap_or(0))
    }

    pub(crate) fn shutdown(&self) {
        // It fails only if the other end is gone, which is what is wanted.
        let _ = self.socket.get_ref().shutdown(std::net::Shutdown::Both);
    }

    pub(crate) fn id(&self) -> i32 {
        self.socket.get_ref().as_raw_fd()
    }
}

/// How long an address may stay taken after the process that had it was killed: the kernel ends the
/// accepts that its `io_uring` had under way in its own time, and they hold the socket.
const RELEASE_WAIT: Duration = Duration::from_secs(3);
/// How long to wait between two looks.
const RELEASE_LOOK: Duration = Duration::from_millis(20);

/// Waits up to [`RELEASE_WAIT`] for the address.
pub(crate) fn check_free(address: SocketAddr) -> io::Result<()> {
    let began = crate::now();
    loop {
        match listen_once(address) {
            Err(error)
                if error.kind() == io::ErrorKind::AddrInUse && began.elapsed() < RELEASE_WAIT =>
            {
                std::thread::sleep(RELEASE_LOOK);
            }
            outcome => return outcome,
        }
    }
}

fn listen_once(address: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.bind(&SockAddr::from(address))?;
    socket.listen(1)
}

#[derive(Debug)]
pub(crate) struct RealBound {
    socket: Socket,
}

impl RealBound {
    pub(crate) fn take(address: SocketAddr, shared: bool) -> io::Result<RealBound> {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(shared)?;
        socket.bind(&SockAddr::from(address))?;
        Ok(RealBound { socket })
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        address(self.socket.local_addr())
    }

    pub(crate) fn listen(&self) -> io::Result<RealListener> {
        let socket = self.socket.try_clone()?;
        socket.listen(BACKLOG)?;
        Ok(RealListener {
            socket: pollable(socket)?,
        })
    }
}
