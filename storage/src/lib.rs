//! How a lane keeps record batches on disk: WAL, memtable, sorted tables, manifest, recovery.
#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]
#![cfg_attr(test, allow(clippy::indexing_slicing, reason = "tests may fail by panic"))]

mod batch;
mod codec;
mod config;
mod error;
mod key;
mod lane;
mod manifest;
mod memtable;
mod names;
mod observer;
mod partition;
mod read_ahead;
mod retention;
mod stats;
mod table;
mod wal;

pub use batch::{BATCH_HEADER_BYTES, BatchInfo};
pub use config::{LaneConfig, SyncMode};
pub use error::{AppendError, StorageError};
pub use key::PartitionKey;
pub use lane::{
    Appended, Batches, ColdRead, Lane, ReadPlan, RecoveredPartition, Recovery, TimestampHit,
};
pub use observer::{CommitMeasured, LaneObserver};
pub use stats::LaneStats;
