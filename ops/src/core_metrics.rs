//! The figures one core keeps. Handles are made at start, and recording is a few relaxed atomic
//! additions on cache lines no other core writes. Only the series of an API and of an error code is made
//! when its number first appears, for there are many codes and most never do: once for each of them the
//! core takes the registry's lock.

use std::{cell::RefCell, collections::BTreeMap, sync::Arc};

use metrics::{Counter, Gauge};

use crate::{
    families::{self, Family},
    histogram::Histogram,
    registry::Registry,
    topic_metrics::CoreTopics,
};

/// Series beyond this many codes or APIs share one labelled "other": a bound on what a client can
/// make the node remember. Kafka has fewer than 150 codes and 100 APIs.
const SERIES_MAX: usize = 256;

/// Everything one core counts. Lives on that core.
pub struct CoreMetrics {
    /// Produce requests.
    pub produce: ProduceMetrics,
    /// Fetch requests.
    pub fetch: FetchMetrics,
    /// Client connections.
    pub connections: ConnectionMetrics,
    /// Hops to other cores.
    pub mesh: MeshMetrics,
    /// Commits of the core's lanes.
    pub wal: WalMetrics,
    /// What the core's lanes hold.
    pub storage: StorageMetrics,
    /// Topics.
    pub topics: CoreTopics,
    requests: ByName,
    errors: ByName,
}

/// Produce: stages of the requests of this core's connections in nanoseconds, and what was appended to
/// this core's lanes, whichever core the request came to.
pub struct ProduceMetrics {
    /// From the complete frame to the checked batches.
    pub parse_ns: Arc<Histogram>,
    /// From the append to the start of the commit that carries it.
    pub queue_ns: Arc<Histogram>,
    /// The commit that made it durable.
    pub sync_ns: Arc<Histogram>,
    /// From durable to the answer handed to the socket.
    pub respond_ns: Arc<Histogram>,
    /// From the complete frame to the answer handed to the socket.
    pub total_ns: Arc<Histogram>,
    /// Bytes of batches appended.
    pub bytes: Counter,
    /// Records appended.
    pub records: Counter,
    /// Batches appended.
    pub batches: Counter,
}

/// Fetch: stages in nanoseconds, and what was sent.
pub struct FetchMetrics {
    /// From the complete frame to the resolved partitions.
    pub parse_ns: Arc<Histogram>,
    /// Parked for data.
    pub wait_ns: Arc<Histogram>,
    /// Reading batches from memory and tables.
    pub read_ns: Arc<Histogram>,
    /// From the batches at hand to the answer handed to the socket.
    pub respond_ns: Arc<Histogram>,
    /// From the complete frame to the answer handed to the socket.
    pub total_ns: Arc<Histogram>,
    /// Bytes of batches sent.
    pub bytes: Counter,
}

/// Why a connection was refused or closed.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum RefusalReason {
    /// `limits.connections_max`.
    Total,
    /// `limits.connections_per_ip_max`.
    PerIp,
    /// `limits.idle_timeout_ms`.
    Idle,
    /// `limits.request_read_timeout_ms`.
    SlowRequest,
    /// `limits.write_timeout_ms`.
    SlowReader,
    /// Not the Kafka protocol, or a frame beyond its limit.
    BadFrame,
}

impl RefusalReason {
    const ALL: [Self; 6] = [
        Self::Total,
        Self::PerIp,
        Self::Idle,
        Self::SlowRequest,
        Self::SlowReader,
        Self::BadFrame,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Total => "total",
            Self::PerIp => "per_ip",
            Self::Idle => "idle",
            Self::SlowRequest => "slow_request",
            Self::SlowReader => "slow_reader",
            Self::BadFrame => "bad_frame",
        }
    }
}

/// Client connections of one core.
pub struct ConnectionMetrics {
    /// Open now.
    pub open: Gauge,
    /// Accepted since start.
    pub accepted: Counter,
    refused: [Counter; RefusalReason::ALL.len()],
}

impl ConnectionMetrics {
    /// Counts a connection that a limit refused or closed.
    pub fn refused(&self, reason: RefusalReason) {
        // The counters stand in the order of `ALL`, which is the order of the variants.
        self.refused[reason as usize].increment(1);
    }
}

/// Hops of one core to others.
pub struct MeshMetrics {
    /// Requests passed to the core that owns the partition.
    pub hops: Counter,
    /// Hops that had to wait for room.
    pub full: Counter,
}

/// Commits of one core's lanes.
pub struct WalMetrics {
    /// From the write to the end of its sync.
    pub sync_ns: Arc<Histogram>,
    /// Size of a commit.
    pub commit_bytes: Arc<Histogram>,
    /// Replayed at start.
    pub replayed_bytes: Gauge,
    /// Cut from a torn tail at start.
    pub cut_bytes: Gauge,
}

/// What one core's lanes hold.
pub struct StorageMetrics {
    /// In memory, waiting for a table.
    pub memtable_bytes: Gauge,
    /// Tables and write-ahead log.
    pub disk_bytes: Gauge,
    /// Free on the file system.
    pub disk_free_bytes: Gauge,
    /// 1 while produce is refused for want of space.
    pub low_space: Gauge,
    /// Cold reads served from the block cache.
    pub cache_hits: Counter,
    /// Cold reads that had to read the disk.
    pub cache_misses: Counter,
    /// Flushed memtables in memory.
    pub memtables_kept_bytes: Gauge,
    /// Table data in the block cache.
    pub cache_bytes: Gauge,
    /// Tables on disk.
    pub tables: Gauge,
    /// Merges carried out.
    pub merges: Counter,
    /// Bytes of tables verified in the background.
    pub scrubbed_bytes: Counter,
    /// Times that this went over all tables.
    pub scrub_passes: Counter,
    /// Places of tables that were found damaged.
    pub damage_found: Counter,
    /// Places that are known to be damaged now.
    pub damaged: Gauge,
    /// Partitions compacted by key.
    pub cleanings: Counter,
    /// Bytes of batches that compaction left out.
    pub cleaned_away_bytes: Counter,
    /// Bytes of batches taken: what is written is a multiple of it, the write amplification.
    pub appended_bytes: Counter,
    /// Bytes written, by stage.
    pub written_bytes: WrittenMetrics,
}

/// Bytes that one core's lanes wrote to disk.
pub struct WrittenMetrics {
    /// Commits, padding included.
    pub wal: Counter,
    /// Tables, by flushes.
    pub flush: Counter,
    /// Tables, by merges.
    pub merge: Counter,
    /// Tables, without their dead parts.
    pub rewrite: Counter,
    /// Tables, by key compaction.
    pub clean: Counter,
    /// Manifests.
    pub manifest: Counter,
}

impl StorageMetrics {
    fn new(registry: &Registry, core: &str) -> Self {
        let counter = |family| registry.counter(family, &[("core", core)]);
        let gauge = |family| registry.gauge(family, &[("core", core)]);
        let written = |stage| {
            let labels = [("core", core), ("stage", stage)];
            registry.counter(families::STORAGE_WRITTEN_BYTES, &labels)
        };
        Self {
            memtable_bytes: gauge(families::MEMTABLE_BYTES),
            disk_bytes: gauge(families::DISK_BYTES),
            disk_free_bytes: gauge(families::DISK_FREE_BYTES),
            low_space: gauge(families::LOW_SPACE),
            cache_hits: counter(families::CACHE_HITS),
            cache_misses: counter(families::CACHE_MISSES),
            memtables_kept_bytes: gauge(families::MEMTABLES_KEPT_BYTES),
            cache_bytes: gauge(families::CACHE_BYTES),
            tables: gauge(families::TABLES),
            merges: counter(families::MERGES),
            scrubbed_bytes: counter(families::SCRUBBED_BYTES),
            scrub_passes: counter(families::SCRUB_PASSES),
            damage_found: counter(families::DAMAGE_FOUND),
            damaged: gauge(families::DAMAGED_PLACES),
            cleanings: counter(families::CLEANINGS),
            cleaned_away_bytes: counter(families::CLEANED_AWAY_BYTES),
            appended_bytes: counter(families::STORAGE_APPENDED_BYTES),
            written_bytes: WrittenMetrics {
                wal: written("wal"),
                flush: written("flush"),
                merge: written("merge"),
                rewrite: written("rewrite"),
                clean: written("clean"),
                manifest: written("manifest"),
            },
        }
    }
}

impl CoreMetrics {
    /// Makes the handles of core `core`. At most `topics_max` topics have series of their own.
    pub fn new(registry: &Registry, core: usize, topics_max: usize) -> Self {
        let core = &core.to_string();
        let counter = |family| registry.counter(family, &[("core", core)]);
        let gauge = |family| registry.gauge(family, &[("core", core)]);
        let histogram = |family| registry.histogram(family, &[("core", core)]);
        let produce = |stage| {
            registry.histogram(families::PRODUCE_STAGE, &[("core", core), ("stage", stage)])
        };
        let fetch =
            |stage| registry.histogram(families::FETCH_STAGE, &[("core", core), ("stage", stage)]);
        Self {
            produce: ProduceMetrics {
                parse_ns: produce("parse"),
                queue_ns: produce("queue"),
                sync_ns: produce("sync"),
                respond_ns: produce("respond"),
                total_ns: produce("total"),
                bytes: counter(families::PRODUCE_BYTES),
                records: counter(families::PRODUCE_RECORDS),
                batches: counter(families::PRODUCE_BATCHES),
            },
            fetch: FetchMetrics {
                parse_ns: fetch("parse"),
                wait_ns: fetch("wait"),
                read_ns: fetch("read"),
                respond_ns: fetch("respond"),
                total_ns: fetch("total"),
                bytes: counter(families::FETCH_BYTES),
            },
            connections: ConnectionMetrics {
                open: gauge(families::CONNECTIONS_OPEN),
                accepted: counter(families::CONNECTIONS_ACCEPTED),
                refused: RefusalReason::ALL.map(|reason| {
                    let labels = [("core", core.as_str()), ("reason", reason.as_str())];
                    registry.counter(families::CONNECTIONS_REFUSED, &labels)
                }),
            },
            mesh: MeshMetrics {
                hops: counter(families::MESH_HOPS),
                full: counter(families::MESH_FULL),
            },
            wal: WalMetrics {
                sync_ns: histogram(families::WAL_SYNC),
                commit_bytes: histogram(families::WAL_COMMIT),
                replayed_bytes: gauge(families::WAL_REPLAYED),
                cut_bytes: gauge(families::WAL_CUT),
            },
            storage: StorageMetrics::new(registry, core),
            topics: CoreTopics::new(registry, topics_max),
            requests: ByName::new(registry, families::REQUESTS, "api", core),
            errors: ByName::new(registry, families::ERRORS, "code", core),
        }
    }

    /// Counts a request of the API with this key and name.
    pub fn request(&self, api_key: i16, name: &'static str) {
        self.requests.increment(api_key, name, 1);
    }

    /// Counts answers with this Kafka error code and name. Success (0) is not counted.
    pub fn errors(&self, code: i16, name: &'static str, count: u64) {
        if code != 0 {
            self.errors.increment(code, name, count);
        }
    }
}

/// Counters by number, each made when its number first appears, which takes the registry's lock.
struct ByName {
    registry: Registry,
    family: Family,
    label: &'static str,
    core: String,
    counters: RefCell<BTreeMap<i16, Counter>>,
    other: Counter,
}

impl ByName {
    fn new(registry: &Registry, family: Family, label: &'static str, core: &str) -> Self {
        Self {
            registry: registry.clone(),
            family,
            label,
            core: core.to_owned(),
            counters: RefCell::default(),
            other: registry.counter(family, &[("core", core), (label, "other")]),
        }
    }

    fn increment(&self, number: i16, name: &'static str, count: u64) {
        let mut counters = self.counters.borrow_mut();
        if let Some(counter) = counters.get(&number) {
            counter.increment(count);
        } else if counters.len() < SERIES_MAX {
            let labels = [("core", self.core.as_str()), (self.label, name)];
            let counter = self.registry.counter(self.family, &labels);
            counter.increment(count);
            counters.insert(number, counter);
        } else {
            self.other.increment(count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_appear_under_their_core() {
        // Proves: each handle leads to the series its name promises.
        let registry = Registry::new();
        let metrics = CoreMetrics::new(&registry, 3, 1);
        metrics.produce.bytes.increment(100);
        metrics.produce.sync_ns.record(80_000);
        metrics.connections.open.increment(1);
        for reason in RefusalReason::ALL {
            metrics.connections.refused(reason);
        }
        metrics.request(0, "Produce");
        metrics.errors(0, "NONE", 1);
        metrics.errors(3, "UNKNOWN_TOPIC_OR_PARTITION", 1);
        let text = registry.render();
        for line in [
            "streambus_produce_bytes_total{core=\"3\"} 100",
            "streambus_produce_stage_seconds_bucket{core=\"3\",stage=\"sync\",le=\"0.000096\"} 1",
            "streambus_produce_stage_seconds_bucket{core=\"3\",stage=\"sync\",le=\"0.000064\"} 0",
            "streambus_connections_open{core=\"3\"} 1",
            "streambus_connections_refused_total{core=\"3\",reason=\"slow_reader\"} 1",
            "streambus_requests_total{core=\"3\",api=\"Produce\"} 1",
            "streambus_errors_total{core=\"3\",code=\"UNKNOWN_TOPIC_OR_PARTITION\"} 1",
        ] {
            assert!(
                text.lines().any(|known| known == line),
                "{line} is missing in\n{text}"
            );
        }
        assert!(!text.contains("NONE"), "success is no error");
    }

    #[test]
    fn refusals_count_under_their_own_reason() {
        // Proves: the index into the counters is the reason's own.
        for reason in RefusalReason::ALL {
            let registry = Registry::new();
            CoreMetrics::new(&registry, 0, 1)
                .connections
                .refused(reason);
            let line = format!("reason=\"{}\"}} 1", reason.as_str());
            assert!(registry.render().contains(&line), "{line}");
        }
    }

    #[test]
    fn numbers_beyond_the_limit_share_one_series() {
        // Proves: a client that invents API keys can't grow the registry without end.
        let registry = Registry::new();
        let metrics = CoreMetrics::new(&registry, 0, 1);
        for key in 0..1_000 {
            metrics.request(key, "Invented");
        }
        let text = registry.render();
        assert!(
            text.contains("streambus_requests_total{core=\"0\",api=\"other\"} 744\n"),
            "{text}"
        );
    }
}
