//! StreamBus: a durable, thread-per-core streaming broker that speaks the Kafka protocol.

pub mod config;
