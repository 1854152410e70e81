//! A Rust client for the Kafka protocol: sans-IO cores and a blocking transport.

#![forbid(unsafe_code)]
