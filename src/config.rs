//! The settings: `streambus.toml`, then `STREAMBUS_SECTION__KEY` variables, then flags, the later
//! ones above the earlier ones. Each value remembers where it came from.
//!
//! A key is added by a line in one of the `section!` tables; reading, bounding, showing and
//! suggesting follow from it.

use std::collections::BTreeMap;

mod limits;
mod section;
mod sections;
mod topics;
mod value;

pub use limits::LimitsConfig;
pub use sections::{
    AdminConfig, Advertise, DataConfig, ListenerConfig, LogConfig, LogFormat, NodeConfig,
    ShutdownConfig, StorageConfig, SyncMode,
};
pub use topics::{CleanupPolicy, Compression, TimestampType, TopicsConfig};

/// The listener that exists when no source names one.
pub const DEFAULT_LISTENER: &str = "main";

/// Every setting of one node, checked against its bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Who this node is and on which cores it runs.
    pub node: NodeConfig,
    /// Where the data is.
    pub data: DataConfig,
    /// The addresses that clients connect to, by name; at least one.
    pub listeners: BTreeMap<String, ListenerConfig>,
    /// How lanes keep batches on disk.
    pub storage: StorageConfig,
    /// What clients may take.
    pub limits: LimitsConfig,
    /// Defaults of new topics.
    pub topics: TopicsConfig,
    /// The admin HTTP address.
    pub admin: AdminConfig,
    /// What is logged.
    pub log: LogConfig,
    /// How the node stops.
    pub shutdown: ShutdownConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            node: NodeConfig::default(),
            data: DataConfig::default(),
            listeners: BTreeMap::from([(DEFAULT_LISTENER.to_owned(), ListenerConfig::default())]),
            storage: StorageConfig::default(),
            limits: LimitsConfig::default(),
            topics: TopicsConfig::default(),
            admin: AdminConfig::default(),
            log: LogConfig::default(),
            shutdown: ShutdownConfig::default(),
        }
    }
}
