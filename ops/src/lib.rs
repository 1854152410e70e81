//! What operators see and touch: logs, metrics, health, admin HTTP.
//!
//! Two ordinary threads live here, both off the data path: `ops` runs tokio for everything HTTP,
//! `log` writes log lines. A data core only ever touches atomics ([`CoreMetrics`], [`Health`]) or a
//! bounded queue it never waits for ([`logs`]).
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

pub use core_metrics::{
    ConnectionMetrics, CoreMetrics, FetchMetrics, MeshMetrics, ProduceMetrics, RefusalReason,
    StorageMetrics, WalMetrics, WrittenMetrics,
};
pub use error::OpsError;
pub use health::{DamageReport, Health, State};
pub use histogram::Histogram;
pub use registry::Registry;
pub use thread::{Handles, OpsConfig, OpsThread, start};
