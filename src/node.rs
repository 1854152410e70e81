//! A node: from settings to a serving broker, and back down.
//!
//! The order matters. What can be refused without a trace comes first: the kernel, the ports, another process
//! in the directory. Then each core reads the metadata and opens its lanes; only when all have is anybody
//! served.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use streambus_ops::logs::Dropped;
use streambus_ops::{CoreMetrics, Handles, Health, OpsConfig, OpsThread, Registry, State};
use streambus_shards::{
    BoundAddress, CoreContext, DirLock, Instant, LockError, NodePlan, abort_on_panic,
    catch_stop_signals, check_free, disk, keep_large_allocations, now, online_cpus, probe, rng_u64,
    run_alone, run_node, sleep, spawn, spawn_in, stop_requested, timeout,
};
use streambus_storage::{Lane, LaneConfig, Recovery};

use crate::config::{Advertise, Config, ListenerConfig, SyncMode};
use crate::kafka::{Broker, ConnectionLimits, ListenerPlan, accept};
use crate::metadata::broker_config::statics;
use crate::metadata::log::{LogError, MetadataLog, Opened};
use crate::metadata::{Controller, Identity, Limits, NodeId};
use crate::shard::op::{Op, Reply};
use crate::shard::{OpenedLane, Shard};

/// In core mode, core i of a listener listens this far above the listener's port, unless said otherwise.
const CORE_PORTS_ABOVE: u16 = 1_000;
/// Lane directories are `lane-0`, `lane-1`, and so on.
const LANE_PREFIX: &str = "lane-";

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

/// One listener with its addresses taken, for all cores.
struct TakenListener {
    config: ListenerConfig,
    name: String,
    /// One socket a core, all at the same address.
    shared: Vec<BoundAddress>,
    /// One socket a core, each at its own port; none in node mode.
    own: Vec<BoundAddress>,
    address: SocketAddr,
    core_ports: Vec<u16>,
}

/// What the cores start from.
struct Start {
    config: Arc<Config>,
    identity: Identity,
    connections: Arc<ConnectionLimits>,
    listeners: Vec<TakenListener>,
    cores: usize,
    registry: Registry,
    health: Arc<Health>,
    admin: Option<SocketAddr>,
    began: Instant,
    ready: Box<dyn Fn(Ready) + Send + Sync>,
}

/// Runs a node until it is asked to stop. `dropped` counts the log lines that were dropped, where there
/// is a log; `ready` is called once, on a core, when the node serves.
///
/// # Errors
/// [`NodeError`]. Nothing was written if it is of the machine or an address.
pub fn run(
    config: Config,
    dropped: Option<Dropped>,
    ready: impl Fn(Ready) + Send + Sync + 'static,
) -> Result<(), NodeError> {
    let began = now();
    abort_on_panic();
    keep_large_allocations();
    probe::io_uring().map_err(|refused| NodeError::Machine(refused.to_string()))?;
    catch_stop_signals().map_err(|failed| NodeError::Machine(failed.to_string()))?;
    let cores = if config.node.cores == 0 {
        online_cpus().len()
    } else {
        config.node.cores
    };
    let listeners = config
        .listeners
        .iter()
        .map(|(name, listener)| take_addresses(name, listener, cores))
        .collect::<Result<Vec<TakenListener>, NodeError>>()?;
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
    let directory = PathBuf::from(&config.data.dir);
    let _lock = lock(&directory)?;
    let identity = identify(&directory, &config, cores)?;
    let limits = &config.limits;
    let per_address = u32::try_from(limits.connections_per_ip_max).unwrap_or(u32::MAX);
    let start = Arc::new(Start {
        connections: ConnectionLimits::new(limits.connections_max, per_address),
        config: Arc::new(config),
        identity,
        listeners,
        cores,
        registry,
        health,
        admin: ops.admin_address(),
        began,
        ready: Box::new(ready),
    });
    let plan = NodePlan {
        cores,
        pin: start.config.node.pin,
    };
    let ended = run_node(&plan, move |context| run_core(Arc::clone(&start), context));
    let ended = ended.map_err(|failed| NodeError::Machine(failed.to_string()))?;
    ops.stop();
    ended.into_iter().collect()
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

/// Takes the addresses of a listener, or says why it can't.
fn take_addresses(
    name: &str,
    config: &ListenerConfig,
    cores: usize,
) -> Result<TakenListener, NodeError> {
    let failed = |address: String, reason: String| NodeError::Address {
        listener: name.to_owned(),
        address,
        reason,
    };
    let address = resolve(&config.host, config.port)
        .map_err(|reason| failed(format!("{}:{}", config.host, config.port), reason))?;
    let take = |address: SocketAddr, shared: bool| {
        let taken = if shared {
            BoundAddress::take(address, true)
        } else {
            check_free(address).and_then(|()| BoundAddress::take(address, false))
        };
        taken.map_err(|error| failed(address.to_string(), busy(&error)))
    };
    if address.port() != 0 {
        // Sharing would let a second broker listen at the same port, each with half the clients.
        check_free(address).map_err(|error| failed(address.to_string(), busy(&error)))?;
    }
    let first = take(address, true)?;
    let address = first
        .local_addr()
        .map_err(|error| failed(address.to_string(), error.to_string()))?;
    let mut shared = vec![first];
    for _ in 1..cores {
        shared.push(take(address, true)?);
    }
    let mut own = Vec::new();
    if config.advertise == Advertise::Core {
        for core in 0..cores {
            let port =
                core_port(config, core).map_err(|reason| failed(address.to_string(), reason))?;
            own.push(take(SocketAddr::new(address.ip(), port), false)?);
        }
    }
    let core_ports = own
        .iter()
        .filter_map(|socket| Some(socket.local_addr().ok()?.port()))
        .collect();
    Ok(TakenListener {
        config: config.clone(),
        name: name.to_owned(),
        shared,
        own,
        address,
        core_ports,
    })
}

fn busy(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            "another process listens there; stop it, or choose another port in the settings"
                .to_owned()
        }
        _ => error.to_string(),
    }
}

fn resolve(host: &str, port: u16) -> Result<SocketAddr, String> {
    use std::net::ToSocketAddrs;
    let found = (host, port)
        .to_socket_addrs()
        .map_err(|error| error.to_string())?
        .next();
    found.ok_or_else(|| "the host has no address".to_owned())
}

/// The port of a core's own; 0 for one that the kernel chooses.
fn core_port(config: &ListenerConfig, core: usize) -> Result<u16, String> {
    let first = match (config.core_port_first, config.port) {
        (0, 0) => return Ok(0),
        (0, port) => u32::from(port) + u32::from(CORE_PORTS_ABOVE),
        (first, _) => u32::from(first),
    };
    let port = first + u32::try_from(core).unwrap_or(u32::MAX);
    u16::try_from(port).map_err(|_| {
        format!("core {core} would listen on port {port}, above 65535; set core_port_first lower")
    })
}

fn lock(directory: &Path) -> Result<DirLock, NodeError> {
    let failed = |reason: String| NodeError::Directory {
        path: directory.display().to_string(),
        reason,
    };
    disk::create_dir_all(directory).map_err(|error| {
        failed(format!(
            "{error}; choose another with --data-dir or make it writable"
        ))
    })?;
    DirLock::acquire(directory).map_err(|error| match error {
        LockError::Held { holder, .. } => failed(format!(
            "another broker (process {holder}) uses it; stop that one or choose another directory"
        )),
        LockError::Io { error, .. } => failed(format!("{error}; make it writable for this user")),
    })
}

/// Opens the metadata once before the cores do, which makes it in a new directory, and checks that the
/// directory is this node's.
fn identify(directory: &Path, config: &Config, cores: usize) -> Result<Identity, NodeError> {
    let failed = |reason: String| NodeError::Directory {
        path: directory.display().to_string(),
        reason,
    };
    let lanes = if config.data.lanes == 0 {
        cores
    } else {
        config.data.lanes
    };
    let new = Identity {
        cluster_id: config
            .node
            .cluster_id
            .clone()
            .unwrap_or_else(new_cluster_id),
        node: NodeId(u16::try_from(config.node.id).expect("bounded by the settings")),
        lanes: u16::try_from(lanes).expect("bounded by the settings"),
    };
    let opened = run_alone(open_metadata(directory, new.clone(), config))
        .map_err(|error| NodeError::Machine(error.to_string()))?
        .map_err(|error| failed(error.to_string()))?;
    let found = opened.image.identity().clone();
    if found.node != new.node {
        let (found, new) = (found.node.0, new.node.0);
        return Err(failed(format!(
            "it belongs to node {found}, and this is node {new}; set node.id={found} or choose another directory"
        )));
    }
    if let Some(configured) = config
        .node
        .cluster_id
        .as_ref()
        .filter(|id| **id != found.cluster_id)
    {
        return Err(failed(format!(
            "it belongs to cluster {}, and node.cluster_id is {configured}; choose another directory",
            found.cluster_id
        )));
    }
    if opened.cut_bytes > 0 {
        tracing::info!(
            bytes = opened.cut_bytes,
            "cut a metadata write that was never acknowledged"
        );
    }
    Ok(found)
}

fn new_cluster_id() -> String {
    let bits = u128::from(rng_u64()) << 64 | u128::from(rng_u64());
    streambus_proto::ids::TopicId(bits.to_be_bytes()).to_string()
}

async fn open_metadata(
    directory: &Path,
    identity: Identity,
    config: &Config,
) -> Result<Opened, LogError> {
    MetadataLog::open(
        &directory.join("metadata"),
        identity,
        Arc::new(statics(config)),
    )
    .await
}

/// A core's whole life.
async fn run_core(start: Arc<Start>, context: CoreContext<Op, Reply>) -> Result<(), NodeError> {
    let core = usize::from(context.core.0);
    let directory = PathBuf::from(&start.config.data.dir);
    start.health.set(State::Recovering);
    let opened = open_metadata(&directory, start.identity.clone(), &start.config).await;
    let Opened { image, log, .. } = or_exit(opened.map_err(|error| error.to_string()));
    let lanes = or_exit(open_lanes(&start, core).await);
    let leads = core == 0;
    let controller = leads.then(|| Rc::new(Controller::new(Limits::from(&start.config.limits))));
    let controller_image = leads.then(|| image.clone());
    let metrics = Rc::new(CoreMetrics::new(&start.registry, core));
    let shard = Shard::new(context.mesh, image, lanes, controller.clone(), metrics);
    spawn(Rc::clone(&shard).serve_mesh()).detach();
    spawn_in(
        streambus_shards::Queue::Background,
        Rc::clone(&shard).keep_retention(),
    )
    .detach();
    let min_free_bytes = start.config.storage.min_free_bytes;
    spawn(shard.watch_space(directory, min_free_bytes)).detach();
    spawn(stop_on_failure(Rc::clone(&shard))).detach();
    spawn(report(Rc::clone(&shard), Arc::clone(&start.health))).detach();
    if let (Some(controller), Some(image)) = (controller, controller_image) {
        // The others read the metadata's files too: nothing is written there before they have.
        shard.await_others().await;
        let publisher = Rc::clone(&shard);
        spawn(async move {
            let Err(failed) = controller.run(image, log, &publisher).await else {
                return;
            };
            or_exit::<()>(Err(failed.to_string()));
        })
        .detach();
    }
    let broker = Broker::new(
        Rc::clone(&shard),
        Arc::clone(&start.config),
        Arc::clone(&start.connections),
    );
    let accepting = or_exit(listen(&start, core, &broker));
    if leads {
        start.health.set(State::Ready);
        (start.ready)(start.ready());
        spawn(stop_when_asked(Rc::clone(&shard))).detach();
    }
    shard.drain_requested().await;
    drop(accepting);
    start.health.set(State::Draining);
    broker.drain();
    let limit = Duration::from_millis(start.config.shutdown.drain_timeout_ms);
    if timeout(limit, broker.all_closed()).await.is_err() {
        tracing::warn!(
            core,
            open = broker.open_connections(),
            "connections were cut when the time to drain was up"
        );
    }
    shard.close().await;
    Ok(())
}

/// Ends the process with a message: a node of which a part did not start must not serve.
fn or_exit<T>(result: Result<T, String>) -> T {
    match result {
        Ok(value) => value,
        Err(reason) => {
            eprintln!("streambus: {reason}");
            std::process::exit(1);
        }
    }
}

/// How often a core says that it lives and what it holds.
const REPORT_EVERY: Duration = Duration::from_millis(500);

/// Says that this core lives, and what it holds, for ever.
async fn report(shard: Rc<Shard>, health: Arc<Health>) {
    let core = usize::from(shard.core().0);
    loop {
        health.beat(core);
        shard.report();
        sleep(REPORT_EVERY).await;
    }
}

async fn stop_on_failure(shard: Rc<Shard>) {
    let reason = shard.stopped_by().await;
    or_exit::<()>(Err(format!(
        "storage failed and nothing is acknowledged any more: {reason}; what was acknowledged is on disk and is verified at the next start"
    )));
}

async fn stop_when_asked(shard: Rc<Shard>) {
    match stop_requested().await {
        Ok(()) => tracing::info!("stopping: finishing what is begun"),
        Err(failed) => tracing::error!(error = %failed, "signals can't be waited for"),
    }
    shard.drain_all().await;
}

async fn open_lanes(start: &Start, core: usize) -> Result<Vec<OpenedLane>, String> {
    let mut opened = Vec::new();
    for number in (0..start.identity.lanes).filter(|lane| usize::from(*lane) % start.cores == core)
    {
        let directory = Path::new(&start.config.data.dir).join(format!("{LANE_PREFIX}{number}"));
        let began = now();
        let (lane, recovery) = Lane::open(&directory, lane_config(&start.config))
            .await
            .map_err(|error| format!("lane {number} can't be opened: {error}"))?;
        let Recovery {
            partitions,
            tables,
            replayed_commits,
            replayed_bytes,
            cut_bytes,
            quarantined,
        } = recovery;
        tracing::info!(
            lane = number,
            partitions = partitions.len(),
            tables,
            replayed_commits,
            replayed_bytes,
            cut_bytes,
            elapsed_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
            "a lane is open"
        );
        for file in &quarantined {
            tracing::warn!(
                lane = number,
                file,
                "a file that the lane does not know was moved to quarantine/"
            );
        }
        opened.push(OpenedLane {
            number,
            lane,
            partitions,
        });
    }
    Ok(opened)
}

fn lane_config(config: &Config) -> LaneConfig {
    let storage = &config.storage;
    LaneConfig {
        wal_file_bytes: storage.wal_file_bytes,
        wal_files_max: storage.wal_files_max as u64,
        memtable_bytes: storage.memtable_bytes,
        memtables_frozen_max: storage.memtables_frozen_max,
        block_bytes: storage.block_bytes,
        cache_bytes: storage.cache_bytes,
        commit_bytes_max: storage.commit_bytes_max,
        sync: match storage.sync {
            // Measured on virtio and NVMe: one durable write beats a write and a sync.
            SyncMode::Auto | SyncMode::Dsync => streambus_storage::SyncMode::Dsync,
            SyncMode::Fdatasync => streambus_storage::SyncMode::WriteThenSync,
        },
        ..LaneConfig::default()
    }
}

/// Starts to accept on a core; dropping what is returned stops it.
fn listen(
    start: &Start,
    core: usize,
    broker: &Rc<Broker>,
) -> Result<Vec<streambus_shards::Task<()>>, String> {
    let mut accepting = Vec::new();
    for taken in &start.listeners {
        let plan = Rc::new(taken.plan(start));
        for socket in [taken.shared.get(core), taken.own.get(core)]
            .into_iter()
            .flatten()
        {
            let listener = socket.listen().map_err(|error| {
                format!("listener {} at {}: {error}", taken.name, taken.address)
            })?;
            accepting.push(spawn(accept(Rc::clone(broker), listener, Rc::clone(&plan))));
        }
    }
    Ok(accepting)
}

impl TakenListener {
    fn plan(&self, start: &Start) -> ListenerPlan {
        // A proxy in front maps ports its own way: it has the node's port and, above it, the cores'.
        let told = self.config.advertised_port;
        let core_ports = match told {
            Some(port) => (0_u16..)
                .take(self.own.len())
                .map(|core| port.saturating_add(CORE_PORTS_ABOVE).saturating_add(core))
                .collect(),
            None => self.core_ports.clone(),
        };
        ListenerPlan {
            name: self.name.clone(),
            advertise: self.config.advertise,
            advertised_host: self.config.advertised_host.clone(),
            node_port: told.unwrap_or(self.address.port()),
            core_ports,
            node: start.identity.node,
            cores: u16::try_from(start.cores).expect("bounded by the settings"),
            lanes: start.identity.lanes,
            rack: start.config.node.rack.clone(),
        }
    }
}

impl Start {
    fn ready(&self) -> Ready {
        Ready {
            cluster_id: self.identity.cluster_id.clone(),
            cores: self.cores,
            lanes: self.identity.lanes,
            data_dir: PathBuf::from(&self.config.data.dir),
            listeners: self
                .listeners
                .iter()
                .map(|taken| ReadyListener {
                    name: taken.name.clone(),
                    address: taken.address,
                    advertise: taken.config.advertise,
                    core_ports: taken.core_ports.clone(),
                })
                .collect(),
            admin: self.admin,
            started_in: self.began.elapsed(),
        }
    }
}
