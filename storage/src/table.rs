//! Sorted tables: what memtables become on disk.
//!
//! `footer` says what the bytes mean, `layout` works out blocks, index and filters while batches are
//! added, `filter` says which segments may hold a key, `writer` moves bytes to disk, `reader` finds
//! and verifies them, `files` bounds how many files are open, `cursor` reads on from one batch to the next.

pub(crate) mod cursor;
pub(crate) mod files;
pub(crate) mod filter;
pub(crate) mod footer;
pub(crate) mod layout;
pub(crate) mod reader;
pub(crate) mod writer;

#[cfg(test)]
mod tests;
