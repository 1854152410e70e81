//! Record batches (format 2): what producers write, the log keeps and consumers read.
//!
//! A batch is looked at through [`BatchView`], which borrows the bytes and copies nothing.
//! [`Batches`] walks a run of them, [`BatchView::produced`] is the gate that a batch from a client
//! passes before it is appended, and `patch` overwrites the few fields that belong to the broker.
//! Only what must look inside (compaction, lookups by time, validation on request, clients) asks
//! for [`BatchView::records`], which decompresses within [`DecompressLimits`].
//! [`BatchBuilder`] is the other direction.
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
mod error;
mod patch;
mod record;
mod snappy;
mod timestamps;
mod validate;

pub use batch::{Attributes, BATCH_BYTES_MIN, BatchView, TimestampType};
pub use batches::Batches;
pub use builder::{BatchBuilder, NewRecord};
pub use compression::{Codec, DecompressLimits};
pub use control::{ControlKind, EndTransactionMarker};
pub use error::RecordsError;
pub use patch::{set_base_offset, set_log_append_time, set_partition_leader_epoch, set_producer};
pub use record::{Header, Headers, Record, Records};
pub use timestamps::OffsetAndTimestamp;
pub use validate::{KEYLESS_SHOWN_MAX, Keyless};

#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod oracle_tests;
