//! StreamBus: a durable, thread-per-core streaming broker that speaks the Kafka protocol.

#![forbid(unsafe_code)]

pub mod config;
pub mod kafka;
pub mod metadata;
