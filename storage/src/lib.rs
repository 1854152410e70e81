//! How a lane keeps record batches on disk: WAL, memtable, sorted tables, manifest, recovery.
//!
//! A [`Lane`] is one directory on one core. An append is copied once, into the WAL's buffer; the
//! memtable refers to that same memory; the lane's observer is told when the commit around it is
//! durable. A full memtable is frozen and flushed into tables sorted by (partition, offset), the
//! manifest is swapped, and only then are the WAL files below it used again.
//!
//! | To find out | Look in |
//! |---|---|
//! | what a caller can do | [`Lane`] |
//! | what is decided without I/O | `lane/state.rs`, `lane/tables.rs`, `wal/buffer.rs`, `wal/replay.rs`, `retention.rs`, `merge.rs`, `scrub.rs` |
//! | what moves bytes | `lane/commit.rs` (WAL), `lane/keep.rs` (`flush.rs`, `collect.rs`, `clean.rs`, `merge.rs`, `gather.rs`), `lane/scrub.rs`, `lane/read.rs` |
//! | what lies in a lane that no broker has open | [`offline`] |
//! | what a restart believes | `lane/open.rs`, `wal/replay.rs` |
//!
//! What holds it together is tested by random histories against a reference: `lane/tests/model.rs` on a real
//! disk, `lane/tests/power.rs` and `lane/tests/histories.rs` in the simulated world, the last with cleaning,
//! transactions and look-ups among its operations. They run a few dozen seeds in `cargo test`; more with
//! `STREAMBUS_HISTORIES=2000 cargo test -p streambus-storage histories`, which on 2026-11-25 met 4,143 merges,
//! 14,226 cleanings and 129,614 look-ups in 12,000 lives, and found nothing in the lane.
//!
//! All numbers on disk are little-endian, but for the batches, which are Kafka's. `golden/` holds
//! files of each format version, and tests that hold the code to them.
//!
//! # WAL file, version 1: `wal-<epoch>.log`
//!
//! ```text
//! file     0                4096
//!          | file header    | commit | commit | … | never written, or of an older epoch |
//!            magic "SBWF" u32, version u16, 0 u16, epoch u64, 0…, crc u32 at 60
//!
//! commit   begins at a multiple of 4096 and is as long as a multiple of 4096
//!          | header (64)    | record | record | … | zeros to 4096 |
//!            0 magic "SBWC" u32   4 version u16    6 0 u16
//!            8 file epoch u64    16 commit id u64 24 position in the file u64
//!           32 length u32        36 records u32   40 first record's sequence u64
//!           48 run u32           52 sealed u64    60 crc u32
//!
//! record   begins at a multiple of 8 in its commit
//!          | header (64)    | payload | zeros to 8 |
//!            0 kind u8 (1 batch, 2 log start, 3 drop)  1 0 u8  2 magic "WR" u16
//!            4 payload bytes u32  8 file epoch u64     16 commit id u64
//!           24 sequence u64      32 topic id 16 bytes  48 partition i32
//!           52 position in the commit u32  56 run u32  60 crc u32 (header and payload)
//! ```
//!
//! `sealed` is the wall clock's time in ms since 1970, 0 if it is not known. CRCs are CRC-32 (IEEE) that start from the
//! lane's nonce. A commit is written once, and never
//! touched again before its file is recycled under a new epoch; at most one is under way.
//!
//! # Table, version 2: `table-<id>.tbl`
//!
//! ```text
//! | batches by (partition, offset), then filters, nothing in between | zeros to 4096 |
//! | footer                                                           | zeros to 4096 |
//! | trailer (64)                                                     | zeros to 4096 |
//!
//! footer   id u64, block bytes u32, data bytes u64,
//!          blocks u32, then a crc u32 for each block of the batches and filters,
//!          partitions u32, then for each, sorted:
//!            topic id 16 bytes, partition i32, start offset i64, end offset i64,
//!            position u64, bytes u64, largest timestamp i64,
//!            index entries u32, then for each: offset i64, position u64, largest timestamp i64
//!            filters u32, then for each:
//!              first segment u32, segments u32, position u64, bytes u32, probes u32
//! filter    as few pages as 4096 bytes each allow, all of a multiple of 64 bytes; bit n is bit n % 8 of byte n / 8
//! trailer   0 magic "SBTB" u32   4 version u16   6 0 u16   8 id u64
//!          16 footer position u64  24 footer bytes u32  28 footer crc u32  32 0…  60 crc u32
//! ```
//!
//! CRCs cover the lane's nonce, the table's id, the position, the bytes and their length. Blocks
//! are of the batches and filters together.
//!
//! Filters are on the keys of compacted partitions. A segment is four index entries; a key goes in with
//! its segment's number, as `probes` bits of the page that the key's hash alone names, so that one page
//! tells which segments may hold it (`table/filter.rs` has the arithmetic, `wal/record.rs` the nonce that
//! keys the hash). Segments that no filter covers may hold any key. Version 1, which is read as well, has
//! no filters.
//!
//! # Manifest, version 3: `MANIFEST`
//!
//! ```text
//! header   magic "SBMF" u32, version u16, 0 u16, body bytes u64, crc u32 (length and body), 0 u32
//! body     nonce u64, generation u64,
//!          floor: file epoch u64, position u64, commit id u64, sequence u64
//!          next table id u64,
//!          tables u32, then for each: id u64, file bytes u64, sequence end u64,
//!            merges u32, replaced parts u32, then the number of each u32,
//!            time after which nothing in it was appended i64 (ms since 1970; -1: unknown)
//!          obsolete tables u32, then for each: id u64
//!          partitions u32, then for each:
//!            topic id 16 bytes, partition i32, log start i64, created at sequence u64,
//!            cleaned up to i64,
//!            leader epochs u32, then for each: epoch i32, start offset i64
//!            annotation offset i64 (-1: none), annotation bytes u32, the annotation
//! ```
//!
//! Version 2, which is read as well, lacks the times: a table without one gets the time at which it is first opened by
//! a build that knows of them. Version 1, which is read as well, also lacks merges, replaced parts and what is cleaned.
#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]
#![cfg_attr(
    test,
    allow(
        clippy::indexing_slicing,
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_sign_loss,
        reason = "tests may fail by panic, and their numbers are small"
    )
)]

mod batch;
mod cache;
mod clean;
mod codec;
mod config;
mod damage;
mod error;
mod key;
mod key_hash;
mod lane;
mod manifest;
mod memtable;
mod merge;
mod names;
mod observer;
pub mod offline;
mod partition;
mod retention;
mod scrub;
mod stats;
mod table;
mod wal;

pub use batch::{BATCH_HEADER_BYTES, BatchInfo};
pub use clean::CleanPolicy;
pub use config::{LaneConfig, SyncMode};
pub use damage::Damage;
pub use error::{AppendError, StorageError};
pub use key::PartitionKey;
pub use lane::{
    Appended, Batches, ColdRead, KeyHit, Lane, ReadPlan, RecoveredPartition, Recovery, TimestampHit,
};
pub use observer::{CommitMeasured, LaneObserver};
pub use stats::LaneStats;
