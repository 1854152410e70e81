//! Every setting of the broker but the limits and the topic defaults, with its default and its bound.

use super::{
    section::section,
    value::{Closed, IfSet, TextLength, choice},
};

/// The longest path Linux takes.
const PATH_BYTES_MAX: usize = 4096;
/// The longest host name DNS takes.
const HOST_BYTES_MAX: usize = 253;
/// Labels appear in metadata answers and in metrics: short.
const LABEL_BYTES_MAX: usize = 128;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

section! {
    /// Who this node is and on which cores it runs.
    pub struct NodeConfig {
        /// This node's number in its cluster. Its cores are the Kafka brokers id x 1000 + core.
        id: u32 = 0, in 0..=999;
        /// The cluster's name. When unset, one is made at the first start and kept in the data directory.
        cluster_id: Option<String> = None, in TextLength(LABEL_BYTES_MAX);
        /// How many cores serve data; 0 takes all CPUs the process may use.
        cores: usize = 0, in 0..=256;
        /// Whether each core's thread stays on one CPU. Ignored where there are fewer CPUs than cores.
        pin: bool = true, in Closed;
        /// How long a core looks for more work before it sleeps, for waking it takes tens of microseconds. It looks after
        /// work that came from a client, another core or the disk, as long as that has paid lately and no other thread
        /// waits for its CPU. 0 sleeps at once. Ignored without `pin`, and where there are fewer CPUs than cores.
        spin_us: u64 = 200, in 0..=10_000;
        /// The failure domain that replicas of one partition never share. When unset, racks are unknown to clients.
        rack: Option<String> = None, in TextLength(LABEL_BYTES_MAX);
    }
}

section! {
    /// Where the data is.
    pub struct DataConfig {
        /// The directory that holds everything this node keeps. It is made at the first start.
        dir: String = "./streambus-data".to_owned(), in TextLength(PATH_BYTES_MAX);
        /// How many lanes (one log and its tables each) the data directory has. 0 takes one a core for a
        /// new directory, and what is there for an existing one. Lanes can be added, never taken away.
        lanes: usize = 0, in 0..=256;
        /// The size of a metadata log file, which is the most that one change of the metadata may take. Another
        /// size is that of the next file. What that file and a snapshot of all metadata take is kept in reserve,
        /// so that topics can be deleted on a full disk.
        metadata_log_bytes: usize = 16 << 20, in 256 << 10..=1 << 30;
    }
}

choice! {
    /// What a listener shows its clients as brokers.
    pub enum Advertise {
        /// Each core is a broker with its own port, so a client reaches the owning core directly.
        Core = "core",
        /// The node is one broker: for load balancers and clients that dislike many connections.
        Node = "node",
    }
}

section! {
    /// One address that clients connect to.
    pub struct ListenerConfig {
        /// The address to listen on.
        host: String = "127.0.0.1".to_owned(), in TextLength(HOST_BYTES_MAX);
        /// The bootstrap port, shared by all cores; 0 lets the system choose one.
        port: u16 = 9092, in 0..=65535;
        /// What clients see as brokers: "core" (each core) or "node" (the node as one).
        advertise: Advertise = Advertise::Core, in Closed;
        /// The host that clients are told. When unset, the address they connected to.
        advertised_host: Option<String> = None, in TextLength(HOST_BYTES_MAX);
        /// The bootstrap port that clients are told (in core mode core i is told this + 1000 + i).
        /// When unset, the ports that are listened on.
        advertised_port: Option<u16> = None, in IfSet(1..=65535);
        /// In core mode core i listens on this port + i; 0 takes port + 1000, or ports the system
        /// chooses where port is 0.
        core_port_first: u16 = 0, in 0..=65535;
    }
}

choice! {
    /// How a commit is made durable.
    pub enum SyncMode {
        /// One write with `O_DSYNC`: the faster one on each disk that was measured (`perf/README.md`).
        Dsync = "dsync",
        /// A write, and `fdatasync` linked behind it.
        Fdatasync = "fdatasync",
    }
}

section! {
    /// How a lane keeps batches on disk. All sizes are for each lane.
    pub struct StorageConfig {
        /// The size of one write-ahead log file. Files are written once when made, then recycled.
        wal_file_bytes: u64 = 64 * MIB, in 4 * MIB..=4 * GIB;
        /// How many write-ahead log files may wait for their data to reach tables.
        wal_files_max: usize = 8, in 3..=1024;
        /// The size at which the in-memory table is frozen and flushed.
        memtable_bytes: usize = 64 << 20, in 1 << 20..=4 << 30;
        /// How many frozen in-memory tables may wait for their flush before produce requests wait.
        memtables_frozen_max: usize = 2, in 1..=64;
        /// Memory for in-memory tables that were flushed: consumers that are a little behind read it and not
        /// the disk. When unset, this node's lanes share an eighth of the memory there is, each at most 4 GiB.
        memtables_kept_bytes: Option<usize> = None, in IfSet(0..=1 << 40);
        /// Files of tables that each lane has open at a time. When unset, this node's lanes share an eighth of the
        /// descriptors that the process may have, each at least 2 and at most 4,096.
        table_files_max: Option<usize> = None, in IfSet(2..=1 << 20);
        /// The most bytes one commit (one sync) carries; a larger batch has a commit of its own.
        commit_bytes_max: usize = 4 << 20, in 128 << 10..=256 << 20;
        /// The size of one block of a table: the unit of its index and of its checksums.
        block_bytes: usize = 64 << 10, in 4 << 10..=1 << 20;
        /// Memory for table data that was read lately or is read ahead; 0 for none.
        cache_bytes: usize = 64 << 20, in 0..=1 << 40;
        /// How a commit is made durable: "dsync" (one write) or "fdatasync" (a write and a sync behind it).
        sync: SyncMode = SyncMode::Dsync, in Closed;
        /// Tables are verified in the background no faster than this many bytes a second; 0 for never.
        scrub_bytes_per_second: u64 = 8 * MIB, in 0..=16 * GIB;
        /// From the start of one pass over all tables to the start of the next, if a pass takes less.
        scrub_interval_ms: u64 = 86_400_000, in 1_000..=2_678_400_000;
        /// Produce requests are refused when the disk has less free space than this.
        min_free_bytes: u64 = 512 * MIB, in 16 * MIB..=1024 * GIB;
    }
}

section! {
    /// The admin HTTP address: metrics and health.
    pub struct AdminConfig {
        /// Whether it listens at all.
        enabled: bool = true, in Closed;
        /// Where it listens, as ADDRESS:PORT; port 0 lets the system choose one.
        address: String = "127.0.0.1:9644".to_owned(), in TextLength(HOST_BYTES_MAX + 6);
    }
}

section! {
    /// What `/metrics` shows.
    pub struct MetricsConfig {
        /// How many topics have series of their own, five each. The others are shown together, as topic "(other)".
        topics_max: usize = 1_000, in 0..=10_000;
    }
}

choice! {
    /// How log lines look.
    pub enum LogFormat {
        /// Text on a terminal, JSON otherwise.
        Auto = "auto",
        /// One readable line an event.
        Text = "text",
        /// One JSON object an event.
        Json = "json",
    }
}

section! {
    /// What is logged, to standard error.
    pub struct LogConfig {
        /// The least severity, "error", "warn", "info", "debug" or "trace", or a list such as
        /// `info,streambus_storage=debug`.
        level: String = "info".to_owned(), in TextLength(1024);
        /// How lines look: "auto" (text on a terminal, JSON otherwise), "text" or "json".
        format: LogFormat = LogFormat::Auto, in Closed;
    }
}

section! {
    /// How the node stops.
    pub struct ShutdownConfig {
        /// How long requests under way may take to finish after the first signal.
        drain_timeout_ms: u64 = 10_000, in 0..=600_000;
    }
}
