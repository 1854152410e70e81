//! Connections through storms of faults: two hundred seeds.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use super::tests::{pattern, server_address, two_hosts};
use crate::sim::{HostId, Kill, Report, Simulation, Stream as Draws, World, run};
use crate::{Buf, BufMut, Listener, Stream, now, sleep, spawn};

/// What became of one connection of a storm.
#[derive(Debug, Default)]
struct Carried {
    written: usize,
    read: Vec<u8>,
    /// How the reader's stream ended; `None` while it goes on, or if the reader was killed.
    end: Option<io::Result<()>>,
}

type Ledger = Rc<RefCell<Vec<Carried>>>;

const CONNECTIONS: usize = 4;
/// How long faults go on. What is under way when they end needs at most another time-out of as much.
const STORM: Duration = Duration::from_secs(40);

/// The bytes of a connection: its number, and then its own pattern.
fn message(number: usize, count: usize) -> Vec<u8> {
    let mut bytes = vec![u8::try_from(number).unwrap()];
    bytes.extend(pattern(number * 7_919, count));
    bytes
}

async fn write_numbered(world: World, number: usize, ledger: Ledger) {
    let Ok(stream) = Stream::connect(server_address()).await else {
        return;
    };
    let all = Buf::from(message(number, 300_000));
    while ledger.borrow()[number].written < all.len() {
        let start = ledger.borrow()[number].written;
        let drawn = world.below(Draws::Workload, 60_000) + 1;
        let end = all.len().min(start + usize::try_from(drawn).unwrap());
        // Counted before: of a write that fails, any part may arrive.
        ledger.borrow_mut()[number].written = end;
        let middle = start + (end - start) / 2;
        let slices = [all.slice(start..middle), all.slice(middle..end)];
        if stream.write_all(&slices).await.is_err() {
            return;
        }
        sleep(Duration::from_millis(world.below(Draws::Workload, 5_000))).await;
    }
}

async fn read_numbered(stream: Stream, ledger: Ledger) {
    let mut number = None;
    loop {
        let (count, buf) = stream.read(BufMut::with_capacity(16 << 10)).await;
        if count.is_ok() && !buf.is_empty() {
            let number = *number.get_or_insert(usize::from(buf.as_slice()[0]));
            ledger.borrow_mut()[number]
                .read
                .extend_from_slice(buf.as_slice());
        }
        if !matches!(count, Ok(1..)) {
            if let Some(number) = number {
                ledger.borrow_mut()[number].end = Some(count.map(drop));
            }
            return;
        }
    }
}

/// Breaks something that heals by itself or with all. Which kinds there are is the seed's.
fn bend(world: &World, kinds: u64, (one, other): (HostId, HostId)) {
    let (network, kind) = (world.network(), world.below(Draws::Faults, 10));
    let some = world.below(Draws::Faults, 1_000);
    match kind {
        _ if kinds & (1 << kind) == 0 => network.heal(one, other),
        0 => network.block(one, other),
        1 => network.block(other, one),
        2 => network.partition(one, other),
        3 => network.flap(one, other, Duration::from_millis(1 + some), STORM / 4),
        4 => network.black_hole(one, some < 500),
        5 => network.slow(one, other, 1 + u32::try_from(some).unwrap()),
        6 => network.lose(one, other, 500 * u32::try_from(some).unwrap()),
        7 => network.slow_reader(one, 1_000 * some),
        8 => network.tiny_chunks(other, some < 500),
        _ => network.heal_all(),
    }
}

/// Ends connections or lives.
fn tear(world: &World, (server, client): (HostId, HostId)) {
    let network = world.network();
    let host = if world.below(Draws::Faults, 2) == 0 {
        server
    } else {
        client
    };
    match world.below(Draws::Faults, 4) {
        0 => drop(network.reset_one(server, client)),
        1 => drop(network.half_open(server, client)),
        2 => world.kill(host, Kill::Process),
        _ => {
            world.kill(host, Kill::Power);
            world.boot(host);
        }
    }
}

/// Four connections through forty seconds of faults, and what each carried. In every second seed nothing
/// ends a connection.
fn storm(seed: u64) -> Report<Vec<Carried>> {
    run(Simulation::new(seed), move |world| async move {
        let hosts = two_hosts(&world);
        let ledger: Ledger = Rc::new(RefCell::new(
            (0..CONNECTIONS).map(|_| Carried::default()).collect(),
        ));
        let told = Rc::clone(&ledger);
        world
            .spawn_on(hosts.0, async move {
                let listener = Listener::bind(server_address(), false).unwrap();
                loop {
                    let stream = listener.accept().await.unwrap();
                    spawn(read_numbered(stream, Rc::clone(&told))).detach();
                }
            })
            .detach();
        sleep(Duration::from_millis(1)).await;
        for number in 0..CONNECTIONS {
            let writing = write_numbered(world.clone(), number, Rc::clone(&ledger));
            world.spawn_on(hosts.1, writing).detach();
        }
        let (kinds, start) = (world.draw(Draws::Faults), now());
        while start.elapsed() < STORM {
            sleep(Duration::from_millis(world.below(Draws::Faults, 3_000))).await;
            if seed % 2 == 1 && world.below(Draws::Faults, 8) == 0 {
                tear(&world, hosts);
            } else {
                bend(&world, kinds, hosts);
            }
        }
        world.network().heal_all();
        sleep(STORM * 5).await;
        for host in [hosts.0, hosts.1] {
            world.kill(host, Kill::Process);
            assert_eq!(world.network().connections(host), 0);
        }
        ledger.take()
    })
}

#[test]
fn whatever_the_faults_bytes_are_a_prefix_in_order_and_whole_after_healing() {
    // Proves what TCP promises under every fault: no byte lost in the middle, doubled or swapped; all of
    // them once the network has healed, where nothing ended the connection; and that a seed repeats.
    let (mut whole, mut cut) = (0, 0);
    for seed in 0..200 {
        let report = storm(seed);
        let carried = report.result.as_ref().unwrap_or_else(|failure| {
            panic!("seed {seed}: {failure}: {:#?}", report.notes);
        });
        for (number, carried) in carried.iter().enumerate() {
            let sent = message(number, 300_000);
            let context = || format!("seed {seed} connection {number}: {:#?}", report.notes);
            assert!(carried.read.len() <= carried.written, "{}", context());
            assert!(sent.starts_with(&carried.read), "{}", context());
            let ended = matches!(carried.end, Some(Ok(())));
            if seed % 2 == 0 {
                assert!(ended && carried.read == sent, "{}", context());
            }
            if carried.read == sent {
                whole += 1;
            } else {
                cut += 1;
            }
        }
        assert_eq!(report.trace_hash, storm(seed).trace_hash, "seed {seed}");
    }
    assert!(whole > 400 && cut > 40, "{whole} whole, {cut} cut");
}
