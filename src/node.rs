//! A node: from settings to a serving broker, and back down.
//!
//! The order matters. What can be refused without a trace comes first: the kernel, the ports, another process
//! in the directory. Then each core reads the metadata and opens its lanes; only when all have is anybody
//! served.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use streambus_ops::logs::Dropped;
use streambus_ops::{Handles, Health, OpsConfig, OpsThread, Registry};
use streambus_shards::{
    NodePlan, abort_on_panic, catch_stop_signals, keep_large_allocations, now, probe, run_alone,
    run_node, try_ring_memory, watch_stop,
};

mod core;
mod listeners;
mod prepare;

pub use self::core::run_core;
pub use self::listeners::{TakenListener, take_listeners};
use self::prepare::refuse_in_use;
pub use self::prepare::{LANE_PREFIX, METADATA_DIR, Prepared, Start, Surroundings, prepare};
use crate::config::{Advertise, Config, LimitsConfig};

/// Why the node did not start, or stopped by itself. One line: what, with which value, why, the remedy.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The machine does not allow it.
    #[error("{0}")]
    Machine(String),
    /// An address can't be listened on.
    #[error("listener {listener} can't listen on {address}: {reason}")]
    Address {
        /// The listener's name.
        listener: String,
        /// The address.
        address: String,
        /// Why, and what to do.
        reason: String,
    },
    /// The data directory can't be used.
    #[error("data directory {path}: {reason}")]
    Directory {
        /// The directory.
        path: String,
        /// Why, and what to do.
        reason: String,
    },
    /// The node ran and had to stop.
    #[error("the node stopped: {0}")]
    Stopped(String),
}

/// What a node that serves says of itself.
#[derive(Debug, Clone)]
pub struct Ready {
    /// The cluster's name.
    pub cluster_id: String,
    /// Cores that serve.
    pub cores: usize,
    /// Lanes in the data directory.
    pub lanes: u16,
    /// What all lanes hold of written and read records at most.
    pub memory_bytes: usize,
    /// What of it stays for consumers once tables have it: `storage.memtables_kept_bytes` of each lane.
    pub memtables_kept_bytes: usize,
    /// The data directory.
    pub data_dir: PathBuf,
    /// Each listener: its name, its address, what it shows, and the ports of its cores in core mode.
    pub listeners: Vec<ReadyListener>,
    /// The admin HTTP address, if it is on.
    pub admin: Option<SocketAddr>,
    /// From the start to the first request.
    pub started_in: Duration,
}

/// A listener that accepts.
#[derive(Debug, Clone)]
pub struct ReadyListener {
    /// Its name.
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// What it shows as brokers.
    pub advertise: Advertise,
    /// Where the cores listen, in core mode.
    pub core_ports: Vec<u16>,
}

/// Runs a node until it is asked to stop. `dropped` counts the log lines that were dropped, where there
/// is a log; `ready` is called once, on a core, when the node serves.
///
/// # Errors
/// [`NodeError`]. Nothing was written if it is of the machine or an address.
pub fn run(
    mut config: Config,
    dropped: Option<Dropped>,
    ready: impl Fn(Ready) + Send + Sync + 'static,
) -> Result<(), NodeError> {
    let began = now();
    abort_on_panic();
    keep_large_allocations();
    probe::io_uring().map_err(|refused| NodeError::Machine(refused.to_string()))?;
    config.limits.connections_max = connections_within(probe::raise_open_files(), &config.limits)?;
    catch_stop_signals().map_err(|failed| NodeError::Machine(failed.to_string()))?;
    let cores = config.node.core_count();
    try_ring_memory(cores).map_err(|refused| NodeError::Machine(refused.to_string()))?;
    // A second start with the same settings finds its ports taken too: the directory is what is wrong.
    refuse_in_use(&PathBuf::from(&config.data.dir))?;
    let listeners = take_listeners(&config, cores)?;
    let registry = Registry::new();
    let health = Arc::new(Health::new(cores));
    let ops = start_ops(
        &config,
        Handles {
            registry: registry.clone(),
            health: Arc::clone(&health),
            log_lines_dropped: dropped,
        },
    )?;
    let drain_timeout = Duration::from_millis(config.shutdown.drain_timeout_ms);
    end_if_stuck(Arc::clone(&health), drain_timeout)?;
    let around = Surroundings {
        registry,
        health,
        admin: ops.admin_address(),
        began,
        ready: Box::new(ready),
    };
    let plan = NodePlan {
        cores,
        pin: config.node.pin,
        spin: Duration::from_micros(config.node.spin_us),
    };
    let prepared = run_alone(prepare(config, cores, listeners, around))
        .map_err(|failed| NodeError::Machine(failed.to_string()))??;
    let start = prepared.start();
    let ended = run_node(&plan, move |context| run_core(Arc::clone(&start), context));
    let ended = ended.map_err(|failed| NodeError::Machine(failed.to_string()))?;
    ops.stop();
    ended.into_iter().collect()
}

/// Looks in a row, half a second apart, that find a core stuck before the process ends. At the first look after a
/// process was frozen all its cores seem to be stuck.
const STUCK_LOOKS: u32 = 5;

/// Ends the process if it was asked to stop, the time to drain is over and a core is stuck: such a core never ends,
/// and the others would wait for it.
fn end_if_stuck(health: Arc<Health>, drain_timeout: Duration) -> Result<(), NodeError> {
    let mut looks = 0;
    let look = move |since: Duration| {
        let stuck = health.stalled();
        looks = if stuck.is_empty() { 0 } else { looks + 1 };
        (since >= drain_timeout && looks >= STUCK_LOOKS).then(|| {
            format!(
                "cores {stuck:?} are stuck and the time to stop of shutdown.drain_timeout_ms={} is over: the process ends without them; what was acknowledged is on disk and is verified at the next start",
                drain_timeout.as_millis()
            )
        })
    };
    watch_stop(look).map_err(|failed| NodeError::Machine(failed.to_string()))
}

/// The fewest descriptors that a node starts with: files, rings and listeners of a few cores, and some
/// clients.
const OPEN_FILES_MIN: u64 = 256;

/// How many connections there may be at a time: a quarter of the descriptors is left to files, so that no
/// flood of clients keeps a lane from opening its own.
fn connections_within(open_files: u64, limits: &LimitsConfig) -> Result<usize, NodeError> {
    if open_files < OPEN_FILES_MIN {
        return Err(NodeError::Machine(format!(
            "this process may have only {open_files} files open, and a node needs at least {OPEN_FILES_MIN}: raise it with `ulimit -n 65536` or LimitNOFILE=65536"
        )));
    }
    let room = usize::try_from(open_files - open_files / 4).unwrap_or(usize::MAX);
    if room < limits.connections_max {
        tracing::warn!(
            open_files,
            connections_max = room,
            "fewer connections than limits.connections_max={} are taken, for that many files can't be open: raise it with `ulimit -n` or LimitNOFILE",
            limits.connections_max
        );
    }
    Ok(limits.connections_max.min(room))
}

/// Starts the admin HTTP, which says from now on how far the node is.
fn start_ops(config: &Config, handles: Handles) -> Result<OpsThread, NodeError> {
    let failed = |reason: String| NodeError::Address {
        listener: "admin".to_owned(),
        address: config.admin.address.clone(),
        reason,
    };
    let address = config.admin.address.parse().map_err(|_| {
        failed("it is not ADDRESS:PORT; set admin.address to one such as 127.0.0.1:9644".to_owned())
    })?;
    let admin_address = config.admin.enabled.then_some(address);
    // The error names the address and the remedy itself.
    streambus_ops::start(&OpsConfig { admin_address }, handles)
        .map_err(|error| NodeError::Machine(error.to_string()))
}
