//! What the bytes of the Kafka protocol mean: messages, record batches, ids, error codes.

#![forbid(unsafe_code)]
