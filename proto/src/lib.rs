//! What the bytes of the Kafka protocol mean: messages, record batches, ids, error codes.
//!
//! No I/O, no clock. Decoding borrows from the frame and allocates nothing; what a count or a length
//! says is checked against the bytes that are there.

#![forbid(unsafe_code)]

pub mod api;
pub mod error_code;
pub mod frame;
pub mod ids;
pub mod messages;
pub mod records;
pub mod wire;
