//! StreamBus: a durable, thread-per-core streaming broker that speaks the Kafka protocol.
//!
//! The broker itself: what each core does with a request. ARCHITECTURE.md is the map.

#![forbid(unsafe_code)]

pub mod check;
pub mod config;
pub mod error;
pub mod kafka;
pub mod metadata;
pub mod node;
pub mod partition;
pub mod shard;
