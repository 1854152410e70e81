//! A TCP stream with a deadline on everything, and the clock that deadlines are read from.

use std::io::{ErrorKind, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

/// Milliseconds since the client began: what the sans-IO cores call now.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    begun: Instant,
}

impl Clock {
    pub(super) fn start() -> Self {
        Clock {
            begun: Instant::now(),
        }
    }

    pub(super) fn now_ms(self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// Why bytes could not be moved.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The name has no address.
    #[error("{host} does not resolve: {cause}")]
    Resolve {
        /// The name.
        host: String,
        /// What the resolver says.
        cause: String,
    },
    /// Nobody answered at any of its addresses.
    #[error("cannot connect to {address}: {cause}")]
    Connect {
        /// Host and port.
        address: String,
        /// The last address's error.
        cause: std::io::Error,
    },
    /// The deadline passed.
    #[error("no answer in time")]
    TimedOut,
    /// The other side closed.
    #[error("the broker closed the connection")]
    Closed,
    /// Something else of the socket.
    #[error("connection failed: {0}")]
    Io(std::io::Error),
}

/// A connected stream.
#[derive(Debug)]
pub(super) struct Transport {
    stream: TcpStream,
}

/// The kernel takes no zero timeout: this is the shortest.
const TIMEOUT_MIN: Duration = Duration::from_millis(1);
/// The kernel takes 1,024 parts in one call.
const PARTS_MAX: usize = 1_024;

impl Transport {
    /// Connects to the first of the host's addresses that answers, each within `timeout`.
    pub(super) fn connect(
        host: &str,
        port: u16,
        timeout: Duration,
    ) -> Result<Self, TransportError> {
        let resolve = |cause: String| TransportError::Resolve {
            host: host.to_owned(),
            cause,
        };
        let addresses = (host, port)
            .to_socket_addrs()
            .map_err(|e| resolve(e.to_string()))?;
        let mut last = None;
        for address in addresses {
            match TcpStream::connect_timeout(&address, timeout.max(TIMEOUT_MIN)) {
                Ok(stream) => {
                    stream.set_nodelay(true).map_err(TransportError::Io)?;
                    stream
                        .set_write_timeout(Some(timeout.max(TIMEOUT_MIN)))
                        .map_err(TransportError::Io)?;
                    return Ok(Transport { stream });
                }
                Err(cause) => last = Some(cause),
            }
        }
        match last {
            Some(cause) => Err(TransportError::Connect {
                address: format!("{host}:{port}"),
                cause,
            }),
            None => Err(resolve("no addresses".to_owned())),
        }
    }

    /// Writes all of it. Each part that the kernel takes has the connect timeout to be taken.
    pub(super) fn write(&mut self, parts: &[&[u8]]) -> Result<(), TransportError> {
        let mut slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
        let mut left = slices.as_mut_slice();
        // Empty parts at the front would make a complete write look like one of nothing.
        IoSlice::advance_slices(&mut left, 0);
        while !left.is_empty() {
            let batch = left.len().min(PARTS_MAX);
            match self
                .stream
                .write_vectored(left.get(..batch).unwrap_or_default())
            {
                Ok(0) => return Err(TransportError::Closed),
                Ok(count) => IoSlice::advance_slices(&mut left, count),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(moved(error)),
            }
        }
        Ok(())
    }

    /// Reads what there is, waiting for `wait` at most. Never returns 0.
    pub(super) fn read(
        &mut self,
        space: &mut [u8],
        wait: Duration,
    ) -> Result<usize, TransportError> {
        self.stream
            .set_read_timeout(Some(wait.max(TIMEOUT_MIN)))
            .map_err(TransportError::Io)?;
        loop {
            match self.stream.read(space) {
                Ok(0) => return Err(TransportError::Closed),
                Ok(count) => return Ok(count),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(moved(error)),
            }
        }
    }

    /// Reads what has come already; `None` if nothing has.
    pub(super) fn read_arrived(
        &mut self,
        space: &mut [u8],
    ) -> Result<Option<usize>, TransportError> {
        self.stream
            .set_nonblocking(true)
            .map_err(TransportError::Io)?;
        let read = self.stream.read(space);
        self.stream
            .set_nonblocking(false)
            .map_err(TransportError::Io)?;
        match read {
            Ok(0) => Err(TransportError::Closed),
            Ok(count) => Ok(Some(count)),
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                Ok(None)
            }
            Err(error) => Err(moved(error)),
        }
    }
}

impl Drop for Transport {
    fn drop(&mut self) {
        // Best effort: the other side may be gone already.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

fn moved(error: std::io::Error) -> TransportError {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => TransportError::TimedOut,
        ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {
            TransportError::Closed
        }
        _ => TransportError::Io(error),
    }
}
