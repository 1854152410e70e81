//! The admin port's own limits: how many connections, and how long one may stay silent.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::serve::Listener;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep, sleep},
};

/// More than scrapers, probes and people need at once; a further one waits in the backlog.
const CONNECTIONS_MAX: usize = 64;
/// A connection without a byte in either direction for this long is closed.
const SILENCE_MAX: Duration = Duration::from_mins(1);
/// A connection that has lived this long is closed, so that one that trickles bytes can't stay.
const LIFE_MAX: Duration = Duration::from_mins(10);
/// A pause after an accept that failed for want of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A listener that admits a bounded number of connections.
pub(crate) struct Admission {
    listener: TcpListener,
    places: Arc<Semaphore>,
}

impl Admission {
    pub(crate) fn new(listener: TcpListener) -> Self {
        Self {
            listener,
            places: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
        }
    }
}

impl Listener for Admission {
    type Io = Admitted;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Admitted, SocketAddr) {
        loop {
            // Never closed, so a place always comes.
            let Ok(place) = self.places.clone().acquire_owned().await else {
                continue;
            };
            match self.listener.accept().await {
                Ok((stream, address)) => return (Admitted::new(stream, place), address),
                Err(error) => {
                    tracing::warn!(%error, "admin connection not accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that holds a place and watches the clock.
pub(crate) struct Admitted {
    stream: TcpStream,
    deadline: Pin<Box<Sleep>>,
    born: Instant,
    _place: OwnedSemaphorePermit,
}

impl Admitted {
    fn new(stream: TcpStream, place: OwnedSemaphorePermit) -> Self {
        let born = Instant::now();
        Self {
            stream,
            deadline: Box::pin(sleep(SILENCE_MAX)),
            born,
            _place: place,
        }
    }

    fn check_deadline(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.deadline.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(()),
        }
    }

    fn moved(&mut self) {
        let until = (Instant::now() + SILENCE_MAX).min(self.born + LIFE_MAX);
        self.deadline.as_mut().reset(until);
    }
}

impl AsyncRead for Admitted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check_deadline(context)?;
        let outcome = ready!(Pin::new(&mut self.stream).poll_read(context, buffer));
        self.moved();
        Poll::Ready(outcome)
    }
}

impl AsyncWrite for Admitted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check_deadline(context)?;
        let outcome = ready!(Pin::new(&mut self.stream).poll_write(context, bytes));
        self.moved();
        Poll::Ready(outcome)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
