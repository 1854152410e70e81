//! What the requests of one core share.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use streambus_shards::{give_memory_back, rng_u64, sleep, spawn};

use super::admin::Host;
use super::connection_limits::ConnectionLimits;
use super::coordinators::ProducerIds;
use super::fetch_session::FetchSessions;
use super::in_flight::InFlight;
use crate::config::{Config, LimitsConfig};
use crate::metadata::{Command, Decision, Image, Limits, Submit};
use crate::shard::Shard;

/// So many connections of a core are a crowd: some 10 MB for each thousand.
const CROWD: usize = 1_000;
/// How long after most of a crowd has gone the memory is given back.
const CROWD_LEAVES: Duration = Duration::from_secs(8);

/// A request whose entries cost so much is large: what it took goes back to the kernel afterwards.
const LARGE_REQUEST_BYTES: usize = 8 << 20;
/// How long after a large request.
const LARGE_REQUEST_ENDS: Duration = Duration::from_secs(8);

/// One core's side of the protocol.
pub struct Broker {
    pub(super) shard: Rc<Shard>,
    pub(super) config: Arc<Config>,
    pub(super) connections: Arc<ConnectionLimits>,
    pub(super) sessions: RefCell<FetchSessions>,
    pub(super) producer_ids: ProducerIds,
    /// Partitions that fetches of this core wait on, one at least for each fetch.
    pub(super) parked: Cell<usize>,
    /// Requests of this core that are read and not answered.
    pub(super) in_flight: Rc<InFlight>,
    /// Record bytes that fetch answers of this core hold.
    pub(super) fetch_bytes: Cell<usize>,
    /// Set when the node stops: connections finish what they have and close.
    pub(super) draining: Cell<bool>,
    pub(super) drained: streambus_shards::sync::Notify,
    pub(super) open: Cell<usize>,
    /// The most connections that were open since memory was last given back.
    open_peak: Cell<usize>,
    /// Whether memory of large requests is to be given back soon.
    gives_back: Cell<bool>,
    /// Rung when a connection closed.
    pub(super) closed: streambus_shards::sync::Notify,
}

impl Broker {
    /// The protocol side of a shard.
    pub fn new(
        shard: Rc<Shard>,
        config: Arc<Config>,
        connections: Arc<ConnectionLimits>,
    ) -> Rc<Broker> {
        let limits = &config.limits;
        // Each core's sessions have numbers of their own, so that a session that is presented to
        // another core is not found there instead of being another's.
        let first_id = 1 + i32::from(shard.core().0) * 8_000_000;
        let sessions = FetchSessions::new(
            limits.fetch_sessions_max,
            limits.fetch_session_partitions_max,
            first_id,
        );
        Rc::new(Broker {
            shard,
            connections,
            sessions: RefCell::new(sessions),
            producer_ids: ProducerIds::default(),
            parked: Cell::new(0),
            in_flight: InFlight::new(limits.in_flight_bytes_per_core_max),
            fetch_bytes: Cell::new(0),
            draining: Cell::new(false),
            drained: streambus_shards::sync::Notify::new(),
            open: Cell::new(0),
            open_peak: Cell::new(0),
            gives_back: Cell::new(false),
            closed: streambus_shards::sync::Notify::new(),
            config,
        })
    }

    pub(super) fn limits_config(&self) -> &LimitsConfig {
        &self.config.limits
    }

    /// Counts a connection in.
    pub(super) fn opened(&self) {
        self.open.set(self.open.get() + 1);
        self.open_peak
            .set(self.open_peak.get().max(self.open.get()));
    }

    /// Counts a connection out. What a crowd took goes back to the kernel once the crowd is gone.
    pub(super) fn closed(&self) {
        self.open.set(self.open.get() - 1);
        let (open, peak) = (self.open.get(), self.open_peak.get());
        if peak >= CROWD && open <= peak / 4 {
            self.open_peak.set(open);
            // The last of the crowd, and what it asked of other cores, goes within this time.
            spawn(async {
                sleep(CROWD_LEAVES).await;
                give_memory_back();
            })
            .detach();
        }
        self.closed.notify_one();
    }

    /// A request's entries cost so many bytes. What was large goes back to the kernel a while later, once for all
    /// that come meanwhile.
    pub(super) fn uses_memory(self: &Rc<Self>, bytes: usize) {
        if bytes < LARGE_REQUEST_BYTES || self.gives_back.replace(true) {
            return;
        }
        let broker = Rc::clone(self);
        spawn(async move {
            sleep(LARGE_REQUEST_ENDS).await;
            broker.gives_back.set(false);
            give_memory_back();
        })
        .detach();
    }

    /// Has every connection finish what it has begun and close.
    pub fn drain(&self) {
        self.draining.set(true);
        self.drained.notify_all();
        self.shard.wake_parked();
    }

    /// Resolves when no connection is open on this core.
    pub async fn all_closed(&self) {
        while self.open.get() > 0 {
            self.closed.notified().await;
        }
    }

    /// Connections open on this core.
    pub fn open_connections(&self) -> usize {
        self.open.get()
    }
}

impl Submit for Broker {
    async fn submit(&self, command: Command) -> Decision {
        self.shard.submit(command).await
    }
}

impl Host for Broker {
    fn image<T>(&self, look: impl FnOnce(&Image) -> T) -> T {
        self.shard.image(look)
    }

    fn limits(&self) -> Limits {
        Limits::from(&*self.config)
    }

    fn random(&self) -> u64 {
        rng_u64()
    }

    fn log_level(&self) -> String {
        self.config.log.level.clone()
    }
}
