//! Record batches (format 2): what producers write, the log keeps and consumers read.
//!
//! A batch is looked at through [`BatchView`], which borrows the bytes and copies nothing.
//! [`Batches`] walks a run of them, [`BatchView::produced`] is the gate that a batch from a client
//! passes before it is appended, and `patch` overwrites the few fields that belong to the broker.
//! Only what must look inside asks for the records, within [`DecompressLimits`]: brokers for a [`RecordScan`],
//! which works in steps and keeps none of them, clients and the cleaner for [`BatchView::records`], which
//! decompresses all. [`BatchBuilder`] is the other direction, and [`BatchRewrite`] changes the codec.
//!
//! Nothing here allocates by a number that came off the wire, and nothing panics on any input.
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]
#![cfg_attr(
    test,
    allow(clippy::indexing_slicing, reason = "tests damage bytes by position")
)]

mod batch;
mod batches;
mod builder;
mod compression;
mod control;
mod cursor;
mod decompress;
mod encoder;
mod error;
mod patch;
mod record;
mod rewrite;
mod scan;
mod snappy;
mod timestamps;
mod validate;

pub use batch::{Attributes, BATCH_BYTES_MIN, BatchView, TimestampType};
pub use batches::Batches;
pub use builder::{BatchBuild, BatchBuilder, NewRecord};
pub use compression::{Codec, DecompressLimits};
pub use control::{ControlKind, EndTransactionMarker};
pub use decompress::{Decompressor, Progress, STEP_BYTES};
pub use error::RecordsError;
pub use patch::{
    set_base_offset, set_log_append_time, set_max_timestamp, set_partition_leader_epoch,
    set_producer,
};
pub use record::{Header, Headers, Record, Records};
pub use rewrite::BatchRewrite;
pub use scan::{RecordScan, ScannedRecord};
pub use timestamps::{OffsetAndTimestamp, TimestampRange, TimestampSearch};

#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod oracle_tests;
