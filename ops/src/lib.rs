//! What operators see and touch: logs, metrics, health, admin HTTP.
//!
//! Two ordinary threads live here, both off the data path: `ops` runs tokio for everything HTTP,
//! `log` writes log lines. A data core touches atomics ([`CoreMetrics`], [`Health`]) or a bounded queue
//! it never waits for ([`logs`]). It takes a lock where it makes a series that is new to it, and twice a
//! second while it has something wrong to tell.
#![forbid(unsafe_code)]

mod admission;
mod core_metrics;
mod error;
mod families;
pub mod health;
mod histogram;
mod http;
pub mod logs;
mod registry;
mod thread;
mod topic_metrics;

pub use core_metrics::{
    ConnectionMetrics, CoreMetrics, FetchMetrics, MeshMetrics, ProduceMetrics, RefusalReason,
    StorageMetrics, WalMetrics, WrittenMetrics,
};
pub use error::OpsError;
pub use health::{DamageReport, Health, LowSpace, State, Troubles};
pub use histogram::Histogram;
pub use registry::Registry;
pub use thread::{Handles, OpsConfig, OpsThread, start};
pub use topic_metrics::{CoreTopics, TopicMetrics};
