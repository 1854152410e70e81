//! A Rust client for the Kafka protocol: sans-IO cores and a blocking transport.
//!
//! The cores ([`connection`], [`router`], [`producer`], [`consumer`]) are state machines without a
//! socket or a clock; [`blocking`] drives them over `std::net`.

#![forbid(unsafe_code)]

pub mod blocking;
pub mod connection;
pub mod consumer;
pub mod error;
pub mod inbound;
pub mod partition;
pub mod produce;
pub mod producer;
pub mod reaction;
pub mod request;
pub mod router;
pub mod versions;

/// The guide's example is compiled with the tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Guide;
