//! The settings: `streambus.toml`, then `STREAMBUS_SECTION__KEY` variables, then flags, the later
//! ones above the earlier ones. Each value remembers where it came from.
//!
//! A key is added by a line in one of the `section!` tables; reading, bounding, showing and
//! suggesting follow from it.

use std::collections::BTreeMap;

mod check;
mod derived;
mod limits;
mod load;
mod section;
mod sections;
mod show;
mod source;
#[cfg(test)]
mod tests;
mod topics;
mod value;

pub use limits::LimitsConfig;
pub use load::Loaded;
pub use sections::{
    AdminConfig, Advertise, DataConfig, ListenerConfig, LogConfig, LogFormat, MetricsConfig,
    NodeConfig, ShutdownConfig, StorageConfig, SyncMode,
};
pub use show::Shown;
pub use source::{FlagSetting, Origin, SettingsFile, Sources};
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
    /// What `/metrics` shows.
    pub metrics: MetricsConfig,
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
            metrics: MetricsConfig::default(),
            log: LogConfig::default(),
            shutdown: ShutdownConfig::default(),
        }
    }
}

/// What is wrong with the settings; its text is one line that says what, where and the remedy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The settings file is not TOML.
    #[error("settings at {origin} are not TOML: {reason}")]
    Syntax {
        /// Where the reader stopped.
        origin: Origin,
        /// What it stopped at.
        reason: String,
    },
    /// A source names a setting that there is not.
    #[error("unknown setting {path} ({origin}): {}", suggestion_words(suggestion.as_deref()))]
    Unknown {
        /// The name as given.
        path: String,
        /// Who named it.
        origin: Origin,
        /// The setting that was probably meant.
        suggestion: Option<String>,
    },
    /// A value that isn't of its setting's type or is outside its bound.
    #[error("{path} = {value} ({origin}) is refused: it must be {wants}")]
    Value {
        /// The setting.
        path: String,
        /// The value as given.
        value: String,
        /// Who gave it.
        origin: Origin,
        /// What would be taken.
        wants: String,
    },
    /// Settings that exclude one another.
    #[error("{reason}")]
    Conflict {
        /// Which, and why.
        reason: String,
    },
}

fn suggestion_words(suggestion: Option<&str>) -> String {
    match suggestion {
        Some(path) => format!("did you mean {path}?"),
        None => "`streambus config show` lists all settings".to_owned(),
    }
}
