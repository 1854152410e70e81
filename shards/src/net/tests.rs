//! Sockets through the facade, in both worlds: what the simulated one says, the kernel says too.

use std::io::ErrorKind;
use std::time::Duration;

use super::*;
use crate::sim::in_both_worlds;
use crate::{sleep, spawn, timeout};

const SEEDS: std::ops::Range<u64> = 0..10;

fn anywhere() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// A connection: the end that connected, the end that accepted.
async fn connected() -> (Stream, Stream) {
    let listener = Listener::bind(anywhere(), false).unwrap();
    let address = listener.local_addr().unwrap();
    let accepting = spawn(async move { listener.accept().await });
    let connected = Stream::connect(address).await.unwrap();
    (connected, accepting.await.unwrap())
}

async fn write(stream: &Stream, bytes: Vec<u8>) -> io::Result<()> {
    stream.write_all(&[Buf::from(bytes)]).await
}

/// What a read brings: how many bytes, or how it failed.
async fn read(stream: &Stream) -> Result<usize, ErrorKind> {
    let (count, _) = stream.read(BufMut::with_capacity(64 << 10)).await;
    count.map_err(|error| error.kind())
}

/// Reads to the end of the stream or its failure.
async fn read_all(stream: &Stream) -> Result<Vec<u8>, ErrorKind> {
    let mut all = Vec::new();
    loop {
        let (count, buf) = stream.read(BufMut::with_capacity(64 << 10)).await;
        match count {
            Ok(0) => return Ok(all),
            Ok(_) => all.extend_from_slice(buf.as_slice()),
            Err(error) => return Err(error.kind()),
        }
    }
}

/// Writes until that fails.
async fn write_until_it_fails(stream: &Stream) -> ErrorKind {
    let writing = async {
        loop {
            if let Err(error) = write(stream, vec![7; 10_000]).await {
                return error.kind();
            }
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(Duration::from_secs(30), writing).await.unwrap()
}

#[test]
fn sockets_carry_many_slices_and_the_end() {
    // Proves vectored writes larger than what the connection holds, and that closing is seen.
    in_both_worlds(0..3, |_| async {
        let (reader, writer) = connected().await;
        assert_eq!(reader.peer_addr().unwrap(), writer.local_addr().unwrap());
        assert_eq!(writer.peer_addr().unwrap(), reader.local_addr().unwrap());
        let writing = spawn(async move {
            let slices: Vec<Buf> = (0..3_000_u32)
                .map(|n| Buf::from(n.to_be_bytes().repeat(500)))
                .collect();
            writer.write_all(&slices).await.unwrap();
        });
        let got = read_all(&reader).await.unwrap();
        writing.await;
        assert_eq!(got.len(), 3_000 * 2_000);
        for (n, piece) in (0..3_000_u32).zip(got.chunks(2_000)) {
            assert!(piece.chunks(4).all(|word| word == n.to_be_bytes()), "{n}");
        }
    });
}

#[test]
fn an_address_is_taken_shared_and_free_again() {
    // Proves who may bind beside whom, that nobody is reached where nobody listens, and that an address is
    // free with its last socket.
    in_both_worlds(SEEDS, |_| async {
        let first = BoundAddress::take(anywhere(), true).unwrap();
        let address = first.local_addr().unwrap();
        let second = BoundAddress::take(address, true).unwrap();
        let refused = Stream::connect(address).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        let listener = second.listen().unwrap();
        assert_eq!(listener.local_addr().unwrap(), address);
        let busy = Listener::bind(address, false).unwrap_err();
        assert_eq!(busy.kind(), ErrorKind::AddrInUse);
        assert_eq!(
            check_free(address).unwrap_err().kind(),
            ErrorKind::AddrInUse
        );
        drop(Stream::connect(address).await.unwrap());
        drop((first, second, listener));
        check_free(address).unwrap();
        let refused = Stream::connect(address).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    });
}

#[test]
fn who_writes_to_a_closed_end_is_told() {
    // Proves that bytes which nobody will read come back as an error, after the end was read.
    in_both_worlds(SEEDS, |_| async {
        let (open, closed) = connected().await;
        write(&closed, vec![1; 9]).await.unwrap();
        drop(closed);
        assert_eq!(read_all(&open).await.unwrap(), [1; 9]);
        assert_eq!(write_until_it_fails(&open).await, ErrorKind::BrokenPipe);
        assert_eq!(read(&open).await, Ok(0));
    });
}

#[test]
fn closing_with_bytes_unread_resets() {
    // Proves that the other end is told that its bytes were not read, once.
    in_both_worlds(SEEDS, |_| async {
        let (open, closed) = connected().await;
        write(&open, vec![1; 9]).await.unwrap();
        // Until the bytes have arrived.
        sleep(Duration::from_millis(100)).await;
        drop(closed);
        assert_eq!(read(&open).await, Err(ErrorKind::ConnectionReset));
        assert_eq!(read(&open).await, Ok(0));
        let broken = write(&open, vec![1]).await.unwrap_err();
        assert_eq!(broken.kind(), ErrorKind::BrokenPipe);
    });
}

#[test]
fn a_shutdown_ends_what_is_pending() {
    // Proves that a task which reads and one which writes are both released by a third, and that what was
    // written before still arrives, then the end.
    in_both_worlds(SEEDS, |_| async {
        let (own, other) = connected().await;
        let reads = own.clone();
        let reading = spawn(async move { read(&reads).await });
        sleep(Duration::from_millis(10)).await;
        own.shutdown();
        assert_eq!(reading.await, Ok(0));
        let broken = write(&own, vec![1]).await.unwrap_err();
        assert_eq!(broken.kind(), ErrorKind::BrokenPipe);
        assert_eq!(read(&other).await, Ok(0));

        let (own, other) = connected().await;
        let writes = own.clone();
        let writing = spawn(async move { write_until_it_fails(&writes).await });
        // Nobody reads: it fills what the connection holds, and waits.
        sleep(Duration::from_millis(500)).await;
        own.shutdown();
        assert_eq!(writing.await, ErrorKind::BrokenPipe);
        let got = read_all(&other).await.unwrap();
        assert!(!got.is_empty() && got.iter().all(|byte| *byte == 7));
    });
}
