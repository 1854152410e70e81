//! Sockets of the simulated world, through the facade: what TCP promises, and what each fault does to it.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;
use std::{future, io};

use crate::sim::{HostId, Kill, Report, Simulation, Stream as Draws, World, run};
use crate::{
    BoundAddress, Buf, BufMut, Listener, Stream, Task, check_free, now, sleep, spawn, timeout,
};

const PORT: u16 = 9_000;

fn address(last: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, last])
}

pub(super) fn server_address() -> SocketAddr {
    SocketAddr::new(address(1), PORT)
}

/// Two hosts that run: the first to listen, the second to connect.
pub(super) fn two_hosts(world: &World) -> (HostId, HostId) {
    let hosts = (world.add_host(address(1)), world.add_host(address(2)));
    world.boot(hosts.0);
    world.boot(hosts.1);
    hosts
}

/// A connection between two hosts: the end that connected, the end that accepted.
async fn connected(world: &World, hosts: (HostId, HostId)) -> (Stream, Stream) {
    let accepting = world.spawn_on(hosts.0, async {
        let listener = Listener::bind(server_address(), false)?;
        listener.accept().await
    });
    let connecting = world.spawn_on(hosts.1, async {
        loop {
            match Stream::connect(server_address()).await {
                // It does not listen yet.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    sleep(Duration::from_millis(1)).await;
                }
                outcome => return outcome,
            }
        }
    });
    let accepted = accepting.await.unwrap();
    (connecting.await.unwrap(), accepted)
}

/// Numbered bytes, so that a lost, doubled or swapped one shows.
pub(super) fn pattern(start: usize, count: usize) -> Vec<u8> {
    let numbered = (start..start + count).map(|at| (at ^ (at >> 8) ^ (at >> 16)) & 0xff);
    numbered.map(|byte| u8::try_from(byte).unwrap()).collect()
}

/// Reads to the end of the stream or its failure.
async fn read_all(stream: &Stream) -> (Vec<u8>, io::Result<()>) {
    let mut all = Vec::new();
    loop {
        let (count, buf) = stream.read(BufMut::with_capacity(16 << 10)).await;
        match count {
            Ok(0) => return (all, Ok(())),
            Ok(_) => all.extend_from_slice(buf.as_slice()),
            Err(error) => return (all, Err(error)),
        }
    }
}

async fn read_some(stream: &Stream) -> io::Result<Vec<u8>> {
    let (count, buf) = stream.read(BufMut::with_capacity(4 << 10)).await;
    count.map(|_| buf.as_slice().to_vec())
}

fn kind<T: std::fmt::Debug>(outcome: io::Result<T>) -> io::ErrorKind {
    outcome.unwrap_err().kind()
}

async fn write(stream: &Stream, bytes: Vec<u8>) -> io::Result<()> {
    stream.write_all(&[Buf::from(bytes)]).await
}

fn passes<F: Future<Output = ()> + 'static>(seed: u64, body: impl FnOnce(World) -> F) {
    let report = run(Simulation::new(seed), body);
    assert_eq!(report.result, Ok(()), "seed {seed}: {:?}", report.notes);
}

#[test]
fn sockets_carry_many_slices_and_the_end() {
    // Proves that what is written arrives whole and in order, then the end, that a host reaches itself,
    // that nothing stays open, and that a seed repeats.
    let carried = |seed: u64| -> Report<usize> {
        run(Simulation::new(seed), |world| async move {
            let listener = Listener::bind("127.0.0.1:0".parse().unwrap(), false).unwrap();
            let address = listener.local_addr().unwrap();
            assert!(check_free(address).is_err());
            let server = spawn(async move {
                let stream = listener.accept().await.unwrap();
                assert_eq!(stream.local_addr().unwrap(), address);
                let slices: Vec<Buf> = (0..1_000)
                    .map(|n| Buf::from(pattern(n * 1_000, 1_000)))
                    .collect();
                stream.write_all(&slices).await.unwrap();
                stream.shutdown();
                stream.peer_addr().unwrap()
            });
            let stream = Stream::connect(address).await.unwrap();
            let (got, end) = read_all(&stream).await;
            end.unwrap();
            assert!(got == pattern(0, 1_000_000), "{} bytes", got.len());
            assert_eq!(server.await, stream.local_addr().unwrap());
            assert_eq!(world.network().connections(HostId(0)), 1);
            drop(stream);
            assert_eq!(world.network().connections(HostId(0)), 0);
            assert_eq!(world.network().bound(HostId(0)), 0);
            got.len()
        })
    };
    for seed in 0..20 {
        let (first, second) = (carried(seed), carried(seed));
        assert_eq!(first.result, Ok(1_000_000), "seed {seed}");
        assert_eq!(first.trace_hash, second.trace_hash, "seed {seed}");
    }
}

#[test]
fn connecting_is_refused_waits_or_times_out() {
    // Proves each answer to a connect: nobody listens, no power, no such host, a path cut one way, and
    // that it succeeds once the path has healed.
    passes(1, |world| async move {
        let (server, client) = two_hosts(&world);
        let connect = |world: &World, to: SocketAddr| {
            world.spawn_on(client, async move {
                let start = now();
                (Stream::connect(to).await.map(drop), start.elapsed())
            })
        };
        let (outcome, took) = connect(&world, server_address()).await;
        assert_eq!(kind(outcome), io::ErrorKind::ConnectionRefused);
        assert!(took < Duration::from_millis(50), "{took:?}");
        let dark = world.add_host(address(3));
        for to in [world.address(dark), address(99)] {
            let (outcome, took) = connect(&world, SocketAddr::new(to, PORT)).await;
            assert_eq!(kind(outcome), io::ErrorKind::TimedOut);
            assert_eq!(took.as_secs(), 127);
        }
        let listening = world.spawn_on(server, async {
            let listener = Listener::bind(server_address(), false).unwrap();
            listener.accept().await.map(drop)
        });
        sleep(Duration::from_millis(1)).await;
        for (from, to) in [(client, server), (server, client)] {
            world.network().block(from, to);
            let (outcome, _) = connect(&world, server_address()).await;
            assert_eq!(kind(outcome), io::ErrorKind::TimedOut);
            world.network().heal(from, to);
        }
        world.network().partition(client, server);
        let connecting = connect(&world, server_address());
        sleep(Duration::from_secs(4)).await;
        world.network().heal(client, server);
        let (outcome, took) = connecting.await;
        outcome.unwrap();
        // The attempts are 0, 1, 3, 7 seconds after the first.
        assert_eq!(took.as_secs(), 7);
        listening.await.unwrap();
    });
}

#[test]
fn listeners_share_an_address_or_find_it_taken() {
    // Proves that shared listeners each get connections, that others are refused, that only own addresses
    // are bound, and that a killed process leaves its address free.
    passes(2, |world| async move {
        let (server, client) = two_hosts(&world);
        let counts = Rc::new(RefCell::new([0_u32; 3]));
        let told = Rc::clone(&counts);
        world
            .spawn_on(server, async move {
                let bound = BoundAddress::take(server_address(), true).unwrap();
                assert_eq!(
                    kind(Listener::bind(server_address(), false)),
                    io::ErrorKind::AddrInUse
                );
                assert_eq!(kind(check_free(server_address())), io::ErrorKind::AddrInUse);
                let elsewhere = SocketAddr::new(address(2), PORT);
                assert_eq!(
                    kind(BoundAddress::take(elsewhere, true)),
                    io::ErrorKind::AddrNotAvailable
                );
                for listener in 0..3 {
                    let accepting = BoundAddress::take(server_address(), true).unwrap();
                    let told = Rc::clone(&told);
                    spawn(async move {
                        let accepting = accepting.listen().unwrap();
                        loop {
                            drop(accepting.accept().await.unwrap());
                            told.borrow_mut()[listener] += 1;
                        }
                    })
                    .detach();
                }
                // It is bound and does not listen: nothing goes there.
                spawn(async move {
                    let _bound = bound;
                    future::pending::<()>().await;
                })
                .detach();
            })
            .await;
        sleep(Duration::from_millis(1)).await;
        world
            .spawn_on(client, async {
                for _ in 0..90 {
                    drop(Stream::connect(server_address()).await.unwrap());
                }
            })
            .await;
        let spread = *counts.borrow();
        assert_eq!(spread.iter().sum::<u32>(), 90);
        assert!(spread.iter().all(|count| *count > 10), "{spread:?}");
        assert_eq!(world.network().bound(server), 4);
        world.kill(server, Kill::Process);
        assert_eq!(world.network().bound(server), 0);
        world.boot(server);
        let again = world.spawn_on(server, async { Listener::bind(server_address(), false) });
        drop(again.await.unwrap());
    });
}

#[test]
fn both_ends_learn_how_the_other_closed() {
    // Proves the end after the last byte, the reset for who writes to a closed socket, the reset for
    // bytes that nobody read, and that a shutdown ends what is pending.
    for seed in 0..20 {
        passes(seed, |world| async move {
            let hosts = two_hosts(&world);
            let (client, server) = connected(&world, hosts).await;
            write(&client, pattern(0, 9)).await.unwrap();
            drop(client);
            let (got, end) = read_all(&server).await;
            end.unwrap();
            assert_eq!(got, pattern(0, 9));
            // The first write is answered with a reset; who had read the end is told of a broken pipe.
            write(&server, vec![1]).await.unwrap();
            sleep(Duration::from_secs(1)).await;
            assert_eq!(
                kind(write(&server, vec![1]).await),
                io::ErrorKind::BrokenPipe
            );
            assert!(server.peer_addr().is_err());

            let (client, server) = connected(&world, hosts).await;
            write(&server, vec![1; 9]).await.unwrap();
            sleep(Duration::from_secs(1)).await;
            drop(client);
            let (got, end) = read_all(&server).await;
            assert_eq!((got.len(), kind(end)), (0, io::ErrorKind::ConnectionReset));
            assert_eq!(read_some(&server).await.unwrap(), []);

            let (client, server) = connected(&world, hosts).await;
            let (reads, writes) = (client.clone(), client.clone());
            let reading = world.spawn_on(hosts.1, async move { read_some(&reads).await });
            let writing = world.spawn_on(
                hosts.1,
                async move { write(&writes, vec![7; 1 << 20]).await },
            );
            sleep(Duration::from_secs(1)).await;
            client.shutdown();
            assert_eq!(reading.await.unwrap(), []);
            assert_eq!(kind(writing.await), io::ErrorKind::BrokenPipe);
            let (got, end) = read_all(&server).await;
            end.unwrap();
            assert!((4 << 10..=256 << 10).contains(&got.len()), "{}", got.len());
        });
    }
}

#[test]
fn a_killed_process_leaves_an_end_or_a_reset() {
    // Proves that the peer of a killed process reads a prefix of what was written, and then either its
    // end or a reset, over seeds both.
    let (ends, resets) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    for seed in 0..40 {
        let (ends, resets) = (Rc::clone(&ends), Rc::clone(&resets));
        passes(seed, |world| async move {
            let hosts = two_hosts(&world);
            let (client, server) = connected(&world, hosts).await;
            let writing =
                world.spawn_on(
                    hosts.0,
                    async move { write(&server, pattern(0, 1 << 20)).await },
                );
            let reading = world.spawn_on(hosts.1, async move { read_all(&client).await });
            sleep(Duration::from_micros(world.below(Draws::Workload, 2_000))).await;
            world.kill(hosts.0, Kill::Process);
            assert_eq!(world.network().connections(hosts.0), 0);
            let (got, end) = reading.await;
            assert!(got == pattern(0, got.len()), "{} bytes", got.len());
            match end {
                Ok(()) => ends.set(ends.get() + 1),
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
                    resets.set(resets.get() + 1);
                }
            }
            drop(writing);
            assert_eq!(world.network().connections(hosts.1), 0);
        });
    }
    assert!(ends.get() > 5 && resets.get() > 5, "{ends:?} {resets:?}");
}

#[test]
fn a_host_without_power_is_silent() {
    // Proves that the peer of a host that lost its power waits, is reset by the next life once it sends
    // something, and gives up after 15 minutes if there is none.
    for again in [true, false] {
        passes(3, move |world| async move {
            let hosts = two_hosts(&world);
            let (client, server) = connected(&world, hosts).await;
            world.kill(hosts.0, Kill::Power);
            drop(server);
            let waited = timeout(Duration::from_mins(20), read_some(&client)).await;
            assert!(waited.is_err());
            if again {
                world.boot(hosts.0);
                let waited = timeout(Duration::from_mins(1), read_some(&client)).await;
                assert!(waited.is_err(), "nobody told it");
            }
            let start = now();
            write(&client, vec![1; 9]).await.unwrap();
            let outcome = kind(read_some(&client).await);
            if again {
                assert_eq!(outcome, io::ErrorKind::ConnectionReset);
                assert!(start.elapsed() < Duration::from_secs(1));
            } else {
                assert_eq!(outcome, io::ErrorKind::TimedOut);
                assert_eq!(start.elapsed().as_secs() / 60, 15);
            }
        });
    }
}

/// Sends `count` bytes from the first host to the second; returns how long until all were read.
async fn transfer(world: &World, hosts: (HostId, HostId), count: usize) -> Duration {
    let (client, server) = connected(world, hosts).await;
    let start = now();
    let writing = world.spawn_on(hosts.0, async move {
        write(&server, pattern(0, count)).await.unwrap();
    });
    let reading: Task<_> = world.spawn_on(hosts.1, async move { read_all(&client).await });
    writing.await;
    let (got, end) = reading.await;
    end.unwrap();
    assert!(got == pattern(0, count), "{} bytes", got.len());
    start.elapsed()
}

#[test]
fn slow_links_losses_and_readers_show_as_delay() {
    // Proves that none of these loses a byte, and that each takes its time.
    passes(4, |world| async move {
        let hosts = two_hosts(&world);
        let network = world.network();
        let usual = transfer(&world, hosts, 100_000).await;
        assert!(usual < Duration::from_millis(200), "{usual:?}");
        network.slow(hosts.0, hosts.1, 1_000);
        let slow = transfer(&world, hosts, 100_000).await;
        assert!(slow > usual * 10, "{slow:?} {usual:?}");
        network.heal(hosts.0, hosts.1);
        network.lose(hosts.0, hosts.1, 500_000);
        let lossy = transfer(&world, hosts, 1_000_000).await;
        assert!(lossy > Duration::from_millis(200), "{lossy:?}");
        network.heal_all();
        network.slow_reader(hosts.1, 100_000);
        let read_slowly = transfer(&world, hosts, 100_000).await;
        assert!(
            (950..1_100).contains(&read_slowly.as_millis()),
            "{read_slowly:?}"
        );
        network.slow_reader(hosts.1, 0);
        network.tiny_chunks(hosts.0, true);
        network.tiny_chunks(hosts.1, true);
        transfer(&world, hosts, 5_000).await;
        network.heal_all();
        let healed = transfer(&world, hosts, 100_000).await;
        assert!(healed < Duration::from_millis(200), "{healed:?}");
    });
}

#[test]
fn a_writer_waits_for_a_reader_that_does_not_read() {
    // Proves the bound on what a connection holds.
    for seed in 0..20 {
        passes(seed, |world| async move {
            let hosts = two_hosts(&world);
            let (client, server) = connected(&world, hosts).await;
            let sent = Rc::new(Cell::new(0));
            let count = Rc::clone(&sent);
            let writing = world.spawn_on(hosts.0, async move {
                loop {
                    write(&server, vec![1; 1_000]).await.unwrap();
                    count.set(count.get() + 1_000);
                }
            });
            sleep(Duration::from_mins(1)).await;
            let held = sent.get();
            assert!((3_000..=256 << 10).contains(&held), "{held}");
            read_some(&client).await.unwrap();
            sleep(Duration::from_mins(1)).await;
            assert!(sent.get() < held + 6_000, "{} {held}", sent.get());
            drop(writing);
        });
    }
}

#[test]
fn connections_are_reset_or_forgotten_by_one_end() {
    // Proves that a reset reaches both ends, that a half-open connection shows only to who sends, and
    // that neither touches the connections of other hosts.
    passes(5, |world| async move {
        let hosts = two_hosts(&world);
        let network = world.network();
        let (client, server) = connected(&world, hosts).await;
        assert!(!network.reset_one(hosts.0, HostId(0)));
        assert!(network.reset_one(hosts.0, hosts.1));
        for end in [&client, &server] {
            assert_eq!(kind(read_some(end).await), io::ErrorKind::ConnectionReset);
        }
        assert!(!network.reset_one(hosts.0, hosts.1), "it is gone");
        let (client, server) = connected(&world, hosts).await;
        assert!(network.half_open(hosts.0, hosts.1));
        assert_eq!(
            kind(read_some(&server).await),
            io::ErrorKind::ConnectionReset
        );
        let waited = timeout(Duration::from_mins(5), read_some(&client)).await;
        assert!(waited.is_err(), "nobody told it");
        write(&client, vec![1]).await.unwrap();
        assert_eq!(
            kind(read_some(&client).await),
            io::ErrorKind::ConnectionReset
        );
    });
}

#[test]
fn a_dropped_connect_leaves_nothing_open() {
    // Proves that who gives up connecting, at any moment, leaves no connection behind.
    for seed in 0..50 {
        passes(seed, |world| async move {
            let (server, client) = two_hosts(&world);
            let accepting = world.spawn_on(server, async {
                let listener = Listener::bind(server_address(), false).unwrap();
                loop {
                    drop(listener.accept().await.unwrap());
                }
            });
            sleep(Duration::from_millis(1)).await;
            let limit = Duration::from_micros(world.below(Draws::Workload, 400));
            world
                .spawn_on(client, async move {
                    let _ = timeout(limit, Stream::connect(server_address())).await;
                })
                .await;
            sleep(Duration::from_secs(1)).await;
            assert_eq!(world.network().connections(client), 0);
            assert_eq!(world.network().connections(server), 0);
            drop(accepting);
        });
    }
}

#[test]
fn flapping_links_delay_until_they_are_healed() {
    // Proves that a flapping link delivers late and whole, that it is open when its time is over, and that
    // healing ends it at once.
    passes(6, |world| async move {
        let hosts = two_hosts(&world);
        let network = world.network();
        let period = Duration::from_secs(10);
        let (client, server) = connected(&world, hosts).await;
        network.flap(hosts.0, hosts.1, period, Duration::from_mins(2));
        let mut longest = Duration::ZERO;
        for piece in 0..10 {
            let start = now();
            write(&server, pattern(piece * 100, 100)).await.unwrap();
            let mut got = Vec::new();
            while got.len() < 100 {
                got.extend(read_some(&client).await.unwrap());
            }
            assert_eq!(got, pattern(piece * 100, 100));
            longest = longest.max(start.elapsed());
            sleep(period / 2).await;
        }
        assert!(longest > Duration::from_secs(1), "{longest:?}");
        sleep(Duration::from_mins(2)).await;
        let over = transfer(&world, hosts, 100_000).await;
        assert!(over < Duration::from_millis(200), "{over:?}");
        network.flap(hosts.0, hosts.1, period, Duration::from_mins(20));
        network.heal(hosts.0, hosts.1);
        for _ in 0..10 {
            let healed = transfer(&world, hosts, 100_000).await;
            assert!(healed < Duration::from_millis(200), "{healed:?}");
            sleep(period).await;
        }
    });
}
