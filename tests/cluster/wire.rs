//! Requests as they lie on the wire, one connection, any version: for what no client library sends.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use streambus_client::request::{Request, encode};
use streambus_proto::messages::Message;
use streambus_proto::wire::Reader;

/// More than enough for an answer on a busy machine; a broker that hangs fails the test.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A connection.
pub(crate) struct Wire {
    stream: TcpStream,
}

impl Wire {
    pub(crate) fn connect(address: SocketAddr) -> Wire {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Wire { stream }
    }

    /// Sends bytes as they are.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends a request. One that the broker does not take is an error.
    pub(crate) fn send<R: Request>(&mut self, request: &R, version: i16) -> std::io::Result<()> {
        let frame = encode(request, version, 1, "test").unwrap();
        assert!(frame.splices.is_empty(), "records go into the request");
        self.stream.write_all(&frame.bytes)
    }

    /// Reads an answer frame, without its length. `None` once the broker has closed.
    pub(crate) fn receive(&mut self) -> Option<Vec<u8>> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length).ok()?;
        let mut frame = vec![0; usize::try_from(i32::from_be_bytes(length)).unwrap()];
        self.stream.read_exact(&mut frame).ok()?;
        Some(frame)
    }

    /// Reads an answer frame as [`Wire::receive`] does, so many bytes a second.
    pub(crate) fn receive_slowly(&mut self, bytes_per_second: usize) -> Option<Vec<u8>> {
        const PIECE_BYTES: usize = 64 << 10;
        let mut length = [0; 4];
        self.stream.read_exact(&mut length).ok()?;
        let mut frame = vec![0; usize::try_from(i32::from_be_bytes(length)).unwrap()];
        let began = Instant::now();
        let mut read = 0;
        for piece in frame.chunks_mut(PIECE_BYTES) {
            self.stream.read_exact(piece).ok()?;
            read += piece.len();
            let due = Duration::from_millis((read * 1_000 / bytes_per_second) as u64);
            std::thread::sleep(due.saturating_sub(began.elapsed()));
        }
        Some(frame)
    }

    /// This end's address.
    pub(crate) fn local_address(&self) -> SocketAddr {
        self.stream.local_addr().unwrap()
    }

    /// Sends a request and hands its answer to `look`.
    pub(crate) fn ask<R: Request, T>(
        &mut self,
        request: &R,
        version: i16,
        look: impl FnOnce(R::Response<'_>) -> T,
    ) -> T {
        self.send(request, version).unwrap();
        self.answer::<R, T>(version, look)
    }

    /// Reads the answer to a request that was sent and hands it to `look`.
    pub(crate) fn answer<R: Request, T>(
        &mut self,
        version: i16,
        look: impl FnOnce(R::Response<'_>) -> T,
    ) -> T {
        let frame = self.receive().expect("the broker closed the connection");
        let mut reader = Reader::new(&frame);
        reader.i32().unwrap();
        if R::KEY.response_is_flexible(version) {
            reader.set_flexible(true);
            reader.tagged(|_, _| Ok(false)).unwrap();
        }
        look(Message::read(&mut reader, version).unwrap())
    }
}
