//! Brokers in the simulated world: each node a host with a disk, running the code that ships.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use streambus::config::{Advertise, Config, ListenerConfig};
use streambus::node::{Prepared, Start, Surroundings, prepare, run_core, take_listeners};
use streambus::shard::op::{Op, Reply};
use streambus_ops::{Health, Registry, State};
use streambus_shards::sim::{HostId, Kill, Running, World};
use streambus_shards::sync::Notify;
use streambus_shards::{CoreContext, halt, now, sleep};

use crate::checkers::disk::FileOnDisk;

/// Where every node keeps its data.
pub const DATA_DIR: &str = "/data";
/// The bootstrap port of the listener that shows cores.
pub const CORE_PORT: u16 = 9_092;
/// The bootstrap port of the listener that shows the node.
pub const NODE_PORT: u16 = 9_192;

/// How often a starting node is looked at.
const READY_LOOK: Duration = Duration::from_millis(5);

/// One broker's host. Started and killed as often as a test likes.
pub struct Node {
    world: World,
    host: HostId,
    config: RefCell<Config>,
    /// The latest life's process, and how far it came.
    life: RefCell<Option<Life>>,
}

struct Life {
    running: Running<()>,
    health: Arc<Health>,
}

/// Small files, so that a few seconds of work see rolls, flushes, merges and recycling.
pub fn small_config(address: IpAddr, id: u32) -> Config {
    let mut config = Config::default();
    let listener = |port, advertise| ListenerConfig {
        host: address.to_string(),
        port,
        advertise,
        ..ListenerConfig::default()
    };
    config.listeners = BTreeMap::from([
        ("core".to_owned(), listener(CORE_PORT, Advertise::Core)),
        ("node".to_owned(), listener(NODE_PORT, Advertise::Node)),
    ]);
    DATA_DIR.clone_into(&mut config.data.dir);
    config.data.metadata_log_bytes = 256 << 10;
    config.node.id = id;
    config.node.cores = 2;
    config.node.cluster_id = Some("simulated".to_owned());
    config.admin.enabled = false;
    config.storage.wal_file_bytes = 256 << 10;
    config.storage.wal_files_max = 6;
    config.storage.memtable_bytes = 256 << 10;
    config.storage.commit_bytes_max = 128 << 10;
    config.storage.block_bytes = 8 << 10;
    config.storage.min_free_bytes = 16 << 20;
    config.storage.cache_bytes = 1 << 20;
    config.storage.memtables_kept_bytes = Some(512 << 10);
    config.storage.table_files_max = Some(3);
    config.topics.retention_check_interval_ms = 10_000;
    config
}

/// What the cores of one life share before they run: the first prepares, the others wait for it.
#[derive(Default)]
struct Beginning {
    start: RefCell<Option<Arc<Start>>>,
    /// Holds the directory's lock for as long as the process lives.
    prepared: RefCell<Option<Prepared>>,
    there: Notify,
}

impl Node {
    /// A node on a new host; it does not run yet.
    pub fn new(world: &World, config: impl FnOnce(IpAddr, u32) -> Config, id: u8) -> Node {
        let address = IpAddr::from([10, 0, 0, id + 1]);
        Node {
            host: world.add_host(address),
            world: world.clone(),
            config: RefCell::new(config(address, u32::from(id))),
            life: RefCell::default(),
        }
    }

    /// Its host.
    pub fn host(&self) -> HostId {
        self.host
    }

    /// The bootstrap address of a listener's port.
    pub fn bootstrap(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.world.address(self.host), port)
    }

    /// Changes a setting for the next start.
    pub fn configure(&self, change: impl FnOnce(&mut Config)) {
        change(&mut self.config.borrow_mut());
    }

    /// Starts the broker's process.
    ///
    /// # Panics
    /// If it runs.
    pub fn start(&self) {
        let config = self.config.borrow().clone();
        let cores = config.node.cores;
        let health = Arc::new(Health::new(cores));
        let beginning = Rc::new(Beginning::default());
        let told = Arc::clone(&health);
        let body = move |context: CoreContext<Op, Reply>| {
            let (config, beginning) = (config.clone(), Rc::clone(&beginning));
            let health = Arc::clone(&told);
            async move {
                if context.core.0 == 0 {
                    begin(config, cores, health, &beginning).await;
                }
                let start = await_start(&beginning).await;
                if let Err(failed) = run_core(start, context).await {
                    halt::<()>(&failed.to_string()).await;
                }
            }
        };
        let running = self.world.start(self.host, cores, body);
        *self.life.borrow_mut() = Some(Life { running, health });
    }

    /// Resolves when the node serves.
    ///
    /// # Errors
    /// Why its process ended instead.
    ///
    /// # Panics
    /// If it was never started.
    pub async fn ready(&self) -> Result<(), String> {
        let health = {
            let life = self.life.borrow();
            Arc::clone(&life.as_ref().expect("a node that was started").health)
        };
        while health.state() != State::Ready {
            if !self.world.is_alive(self.host) {
                let halted = self.world.halted(self.host);
                return Err(halted.unwrap_or_else(|| "it was killed".to_owned()));
            }
            sleep(READY_LOOK).await;
        }
        Ok(())
    }

    /// Whether its process is there.
    pub fn is_alive(&self) -> bool {
        self.world.is_alive(self.host)
    }

    /// How many cores it has, or will have at its next start.
    pub fn cores(&self) -> usize {
        self.config.borrow().node.cores
    }

    /// The files below its data directory.
    pub fn files(&self) -> Vec<FileOnDisk> {
        let files = self.world.disk(self.host).files();
        let below = files.into_iter().filter_map(|(path, bytes)| {
            let path = path.strip_prefix(DATA_DIR).ok()?;
            Some(FileOnDisk {
                path: path.to_string_lossy().into_owned(),
                bytes,
            })
        });
        below.collect()
    }

    /// The directory of one of its lanes.
    pub fn lane_dir(lane: usize) -> PathBuf {
        Path::new(DATA_DIR).join(format!("lane-{lane}"))
    }

    /// Ends the process or the power at once.
    pub fn kill(&self, how: Kill) {
        self.world.kill(self.host, how);
    }

    /// Asks the process to stop and waits until it has; whether it ended in good order.
    pub async fn stop(&self) -> bool {
        self.world.ask_to_stop(self.host);
        let life = self.life.borrow_mut().take();
        match life {
            Some(life) => life.running.ended().await.is_some(),
            None => false,
        }
    }
}

async fn begin(config: Config, cores: usize, health: Arc<Health>, beginning: &Beginning) {
    let around = Surroundings {
        registry: Registry::new(),
        health,
        admin: None,
        began: now(),
        ready: Box::new(|_| {}),
    };
    let prepared = match take_listeners(&config, cores) {
        Ok(listeners) => prepare(config, cores, listeners, around).await,
        Err(failed) => Err(failed),
    };
    match prepared {
        Ok(prepared) => {
            *beginning.start.borrow_mut() = Some(prepared.start());
            *beginning.prepared.borrow_mut() = Some(prepared);
            beginning.there.notify_all();
        }
        Err(failed) => halt(&failed.to_string()).await,
    }
}

async fn await_start(beginning: &Beginning) -> Arc<Start> {
    loop {
        let there = beginning.there.notified();
        if let Some(start) = &*beginning.start.borrow() {
            return Arc::clone(start);
        }
        there.await;
    }
}
