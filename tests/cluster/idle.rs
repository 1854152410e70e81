//! A broker with nothing to do: what it costs the machine.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use streambus_client::blocking::{Client, ClientConfig};

use crate::process::{Broker, resident};
use crate::wire::PATIENCE;

/// As many as the harness starts a broker with.
const CORES: f64 = 2.0;
const WINDOW: Duration = Duration::from_secs(5);
/// Of all threads, a second and core.
const WAKE_UPS_MAX: f64 = 20.0;
/// Of one core.
const CPU_PERCENT_MAX: f64 = 1.0;
const CONNECTIONS: usize = 500;
/// An idle broker's. Code without optimisation takes more than what ships, and is within the bound, too.
const RESIDENT_BYTES_MAX: u64 = 60 << 20;

/// What a process has taken so far.
struct Taken {
    at: Instant,
    cpu_ticks: u64,
    wake_ups: u64,
}

impl Taken {
    fn of(process: u32) -> Taken {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
        let (_, fields) = stat.rsplit_once(") ").unwrap();
        let ticks = fields.split_whitespace().skip(11).take(2);
        let cpu_ticks = ticks.map(|field| field.parse::<u64>().unwrap()).sum();
        let tasks = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
        // Workers of the kernel's come and go.
        let wake_ups = tasks
            .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("status")).ok())
            .map(|status| {
                let count = status
                    .lines()
                    .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
                count.unwrap().trim().parse::<u64>().unwrap()
            })
            .sum();
        Taken {
            at: Instant::now(),
            cpu_ticks,
            wake_ups,
        }
    }

    /// Wake-ups a second and core, and CPU time in percent of one core, since then.
    fn rates(&self, process: u32) -> (f64, f64) {
        let now = Taken::of(process);
        let seconds = (now.at - self.at).as_secs_f64();
        let wake_ups = now.wake_ups.saturating_sub(self.wake_ups);
        let ticks = now.cpu_ticks - self.cpu_ticks;
        #[allow(clippy::cast_precision_loss, reason = "small counts")]
        let rates = (
            wake_ups as f64 / seconds / CORES,
            // A tick is a hundredth of a second wherever Linux shows one.
            ticks as f64 / seconds,
        );
        rates
    }
}

/// Waits until the broker has been within the bounds for a window; before that it may still finish what it was asked.
fn settles(process: u32) {
    let began = Instant::now();
    loop {
        let before = Taken::of(process);
        std::thread::sleep(WINDOW);
        let (wake_ups, cpu_percent) = before.rates(process);
        if wake_ups < WAKE_UPS_MAX && cpu_percent < CPU_PERCENT_MAX {
            return;
        }
        assert!(
            began.elapsed() < PATIENCE,
            "{wake_ups:.1} wake-ups a second and core, {cpu_percent:.1} % of a core"
        );
    }
}

#[test]
fn an_idle_broker_hardly_wakes() {
    // Proves the bounds on wake-ups, CPU time and memory of a broker with 100 partitions and default settings, without
    // clients and with clients that are silent.
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path(), &[]);
    let address = broker.node.to_string();
    let mut client = Client::connect(&address, ClientConfig::default()).unwrap();
    client.create_topic("quiet", 100, 1).unwrap();
    drop(client);
    settles(broker.id());
    let bytes = resident(broker.id());
    assert!(bytes <= RESIDENT_BYTES_MAX, "{bytes} bytes resident");
    let connections: Vec<TcpStream> = (0..CONNECTIONS)
        .map(|_| TcpStream::connect(broker.core).unwrap())
        .collect();
    settles(broker.id());
    drop(connections);
}
