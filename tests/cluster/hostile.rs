//! Clients that mean harm, or are broken (fault rows 27 to 35): refused, and everybody else is served.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use streambus_client::blocking::{Client, ClientConfig};

use crate::process::{Broker, resident, resident_at_rest};
use crate::wire::PATIENCE;

/// Sends bytes and returns what comes back until the broker closes.
pub(crate) fn exchange(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // A broker that refuses may close before all is written.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    // A reset is a close, too.
    let _ = stream.read_to_end(&mut answer);
    answer
}

fn serves(address: SocketAddr) {
    let mut client = Client::connect(&address.to_string(), ClientConfig::default()).unwrap();
    client.metadata(None).unwrap();
}

fn frame(body: &[u8]) -> Vec<u8> {
    let mut frame = i32::try_from(body.len()).unwrap().to_be_bytes().to_vec();
    frame.extend_from_slice(body);
    frame
}

#[test]
fn frames_that_no_client_sends_close_the_connection() {
    // Proves rows 27 and 28: lengths, other protocols, unknown APIs and versions, counts of 2^31.
    let home = tempfile::tempdir().unwrap();
    let broker = Broker::start(home.path(), &[]);
    let before = resident_at_rest(broker.id());
    let metadata_with = |count: [u8; 4]| {
        let mut body = vec![0, 3, 0, 1, 0, 0, 0, 7, 0xff, 0xff];
        body.extend_from_slice(&count);
        frame(&body)
    };
    let cases: Vec<Vec<u8>> = vec![
        0_i32.to_be_bytes().to_vec(),
        (-1_i32).to_be_bytes().to_vec(),
        i32::MAX.to_be_bytes().to_vec(),
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        frame(&[0x7f, 0xff, 0, 0, 0, 0, 0, 1, 0xff, 0xff]),
        frame(&[0, 0, 0, 2, 0, 0, 0, 1, 0xff, 0xff]),
        metadata_with([0x7f, 0xff, 0xff, 0xff]),
        frame(&[
            0, 3, 0, 9, 0, 0, 0, 7, 0xff, 0xff, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        ]),
    ];
    for (number, bytes) in cases.iter().enumerate() {
        assert_eq!(
            exchange(broker.core, bytes),
            b"",
            "case {number} got an answer"
        );
    }
    serves(broker.core);
    let grown = resident(broker.id()).saturating_sub(before);
    // 64 KiB a connection, and what serving a client takes once.
    assert!(
        grown < 8 << 20,
        "{grown} bytes more after {} hostile clients",
        cases.len()
    );
}

#[test]
fn another_protocol_is_named_in_the_log() {
    // Proves that a TLS client and a browser are logged as what they are, with the remedy.
    let home = tempfile::tempdir().unwrap();
    let log = home.path().join("log");
    let broker = Broker::start_logged(&home.path().join("data"), &[], &log);
    for (bytes, expected) in [
        (
            &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
            "this looks like TLS, and the listener is plain text: use a plain-text client or \
             security.protocol=PLAINTEXT",
        ),
        (
            b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
            "this looks like HTTP, and the listener speaks the Kafka protocol",
        ),
    ] {
        assert_eq!(exchange(broker.core, bytes), b"", "it got an answer");
        let deadline = std::time::Instant::now() + PATIENCE;
        while !std::fs::read_to_string(&log).unwrap().contains(expected) {
            assert!(
                std::time::Instant::now() < deadline,
                "not logged: {expected}"
            );
            std::thread::yield_now();
        }
    }
}

#[test]
fn version_that_is_too_new_is_answered_with_those_there_are() {
    // Proves KIP-511: ApiVersions 99 gets a version 0 answer with error 35 and the list.
    let home = tempfile::tempdir().unwrap();
    let broker = Broker::start(home.path(), &[]);
    let mut stream = TcpStream::connect(broker.core).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
        .write_all(&frame(&[0, 18, 0, 99, 0, 0, 0, 5, 0xff, 0xff, 0]))
        .unwrap();
    let mut head = [0; 14];
    stream.read_exact(&mut head).unwrap();
    assert_eq!(head[4..8], [0, 0, 0, 5], "correlation id");
    assert_eq!(head[8..10], [0, 35], "UNSUPPORTED_VERSION");
    assert!(
        i32::from_be_bytes(head[10..14].try_into().unwrap()) > 10,
        "the list of APIs"
    );
}

#[test]
fn slow_and_silent_clients_are_closed_and_limits_hold() {
    // Proves rows 30 and 31: deadlines for idle connections and unfinished requests, and the limit
    // for one address; a place comes back when a connection ends.
    let home = tempfile::tempdir().unwrap();
    let settings = [
        ("STREAMBUS_LIMITS__IDLE_TIMEOUT_MS", "1500"),
        ("STREAMBUS_LIMITS__REQUEST_READ_TIMEOUT_MS", "500"),
        ("STREAMBUS_LIMITS__CONNECTIONS_PER_IP_MAX", "20"),
    ];
    let broker = Broker::start(home.path(), &settings);
    assert_eq!(exchange(broker.core, &[]), b"", "idle");
    assert_eq!(exchange(broker.core, &[0, 0, 1]), b"", "half a length");
    assert_eq!(
        exchange(broker.core, &[0, 0, 1, 0, 0, 3]),
        b"",
        "half a request"
    );
    let held: Vec<TcpStream> = (0..20)
        .map(|_| TcpStream::connect(broker.core).unwrap())
        .collect();
    assert_eq!(
        exchange(broker.core, &[]),
        b"",
        "the 21st is closed at once"
    );
    drop(held);
    // The broker sees the closes in its own time: ask until there is room, within the deadline.
    let deadline = std::time::Instant::now() + PATIENCE;
    while Client::connect(&broker.core.to_string(), ClientConfig::default())
        .and_then(|mut client| client.metadata(None))
        .is_err()
    {
        assert!(std::time::Instant::now() < deadline, "no place came back");
    }
}
