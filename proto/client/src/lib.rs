//! A Rust client for the Kafka protocol: sans-IO cores and a blocking transport.

#![forbid(unsafe_code)]

pub mod connection;
pub mod consumer;
pub mod inbound;
pub mod partition;
pub mod producer;
pub mod reaction;
pub mod router;
pub mod versions;
