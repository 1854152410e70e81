//! How a lane keeps record batches on disk: WAL, memtable, sorted tables, manifest, recovery.

#![forbid(unsafe_code)]
