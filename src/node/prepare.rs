//! From settings to what the cores start from: the directory locked, its identity checked.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use streambus_ops::{Health, Registry};
use streambus_shards::{DirLock, Instant, LockError, disk, memory_bytes, probe, rng_u64};
use streambus_storage::Lane;

use super::listeners::TakenListener;
use super::{NodeError, Ready, ReadyListener};
use crate::config::Config;
use crate::kafka::ConnectionLimits;
use crate::metadata::broker_config::statics;
use crate::metadata::log::{LogError, MetadataLog, Opened};
use crate::metadata::{Identity, Image, NodeId};

/// Lane directories are `lane-0`, `lane-1`, and so on.
pub const LANE_PREFIX: &str = "lane-";
/// The metadata's directory.
pub const METADATA_DIR: &str = "metadata";

/// What a node tells about itself, and to whom.
pub struct Surroundings {
    /// Where its cores make their metrics.
    pub registry: Registry,
    /// Where its cores say that they live.
    pub health: Arc<Health>,
    /// The admin HTTP address, if it is on.
    pub admin: Option<SocketAddr>,
    /// When the start began.
    pub began: Instant,
    /// Called once, on a core, when the node serves.
    pub ready: Box<dyn Fn(Ready) + Send + Sync>,
}

/// What the cores start from.
pub struct Start {
    pub(super) config: Arc<Config>,
    pub(super) identity: Identity,
    pub(super) connections: Arc<ConnectionLimits>,
    pub(super) listeners: Vec<TakenListener>,
    pub(super) cores: usize,
    pub(super) around: Surroundings,
}

/// A node that may start: its directory is locked for as long as this lives.
pub struct Prepared {
    start: Arc<Start>,
    _lock: DirLock,
}

impl Prepared {
    /// What each core starts from.
    pub fn start(&self) -> Arc<Start> {
        Arc::clone(&self.start)
    }
}

/// Locks the data directory and makes sure that it is this node's; makes it, if there is none.
///
/// # Errors
/// [`NodeError::Directory`].
pub async fn prepare(
    mut config: Config,
    cores: usize,
    listeners: Vec<TakenListener>,
    around: Surroundings,
) -> Result<Prepared, NodeError> {
    let directory = PathBuf::from(&config.data.dir);
    let lock = lock(&directory)?;
    let identity = identify(&directory, &config, cores).await?;
    config
        .storage
        .settle(identity.lanes, memory_bytes, probe::open_files);
    let limits = &config.limits;
    let per_address = u32::try_from(limits.connections_per_ip_max).unwrap_or(u32::MAX);
    let start = Start {
        connections: ConnectionLimits::new(limits.connections_max, per_address),
        config: Arc::new(config),
        identity,
        listeners,
        cores,
        around,
    };
    Ok(Prepared {
        start: Arc::new(start),
        _lock: lock,
    })
}

/// Refuses a directory that another process has, and writes nothing into one that nobody has.
pub(super) fn refuse_in_use(directory: &Path) -> Result<(), NodeError> {
    // Nobody has a directory that is not there, or was never locked.
    let names = disk::list(directory).unwrap_or_default();
    if !names.iter().any(|name| name == DirLock::FILE_NAME) {
        return Ok(());
    }
    match DirLock::acquire_to_look(directory) {
        Err(LockError::Held { holder, .. }) => Err(in_use(directory, &holder)),
        // What else is wrong is found when it is locked for good.
        Ok(_) | Err(LockError::Io { .. }) => Ok(()),
    }
}

fn in_use(directory: &Path, holder: &str) -> NodeError {
    let holder = if holder.parse::<u32>().is_ok() {
        format!("another broker (process {holder}) uses it")
    } else {
        "another broker uses it".to_owned()
    };
    NodeError::Directory {
        path: directory.display().to_string(),
        reason: format!("{holder}; stop that one or choose another directory"),
    }
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
        LockError::Held { holder, .. } => in_use(directory, &holder),
        LockError::Io { error, .. } => failed(format!("{error}; make it writable for this user")),
    })
}

/// Opens the metadata once before the cores do, which makes it in a new directory, and checks that the
/// directory is this node's.
async fn identify(directory: &Path, config: &Config, cores: usize) -> Result<Identity, NodeError> {
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
    refuse_lanes_alone(directory).map_err(failed)?;
    let mut opened = open_metadata(directory, new.clone(), config)
        .await
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
    match u16::try_from(config.data.lanes).expect("bounded by the settings") {
        fewer @ 1.. if fewer < found.lanes => {
            let lanes = found.lanes;
            return Err(failed(format!(
                "it has {lanes} lanes, and data.lanes is {fewer}; lanes can be added, and not taken away, for partitions live in them: set data.lanes={lanes}, or 0 for what is there"
            )));
        }
        more if more > found.lanes => {
            let added = opened.log.add_lanes(&mut opened.image, more).await;
            added.map_err(|error| failed(error.to_string()))?;
            tracing::info!(lanes = more, before = found.lanes, "lanes were added");
        }
        _ => {}
    }
    if opened.cut_bytes > 0 {
        tracing::info!(
            bytes = opened.cut_bytes,
            "cut a metadata write that was never acknowledged"
        );
    }
    Ok(opened.image.identity().clone())
}

/// Refuses a directory with lanes and without metadata: the topics in them would be unknown ever after.
fn refuse_lanes_alone(directory: &Path) -> Result<(), String> {
    let metadata = directory.join(METADATA_DIR);
    if MetadataLog::is_in(&metadata).map_err(|error| error.to_string())? {
        return Ok(());
    }
    let names = disk::list(directory).map_err(|error| error.to_string())?;
    let is_lane =
        |name: &&String| name.starts_with(LANE_PREFIX) && Lane::is_in(&directory.join(name));
    match names.iter().find(is_lane) {
        Some(lane) => Err(format!(
            "it has {lane}, and no metadata in {}, which says what the lanes hold: mount or restore it, or choose another directory",
            metadata.display()
        )),
        None => Ok(()),
    }
}

fn new_cluster_id() -> String {
    let bits = u128::from(rng_u64()) << 64 | u128::from(rng_u64());
    streambus_proto::ids::TopicId(bits.to_be_bytes()).to_string()
}

/// Opens the metadata, which writes: for one at a time.
pub(super) async fn open_metadata(
    directory: &Path,
    identity: Identity,
    config: &Config,
) -> Result<Opened, LogError> {
    MetadataLog::open(
        &directory.join(METADATA_DIR),
        identity,
        Arc::new(statics(config)),
        config.data.metadata_log_bytes,
    )
    .await
}

/// Reads the metadata, if there is any.
pub(super) async fn read_metadata(
    directory: &Path,
    config: &Config,
) -> Result<Option<Image>, LogError> {
    MetadataLog::verify(directory.join(METADATA_DIR), Arc::new(statics(config))).await
}

impl Start {
    /// What the node says of itself once it serves.
    pub(super) fn ready(&self) -> Ready {
        let lanes = usize::from(self.identity.lanes);
        let storage = &self.config.storage;
        let kept = storage.memtables_kept_bytes.unwrap_or(0);
        Ready {
            memory_bytes: storage.lane_memory_bytes().saturating_mul(lanes),
            memtables_kept_bytes: kept.saturating_mul(lanes),
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
            admin: self.around.admin,
            started_in: self.around.began.elapsed(),
        }
    }
}
