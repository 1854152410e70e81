//! Sorted tables: what memtables become on disk.
//!
//! `footer` says what the bytes mean, `layout` works out blocks and index while batches are added,
//! `writer` moves them to disk, `reader` finds and verifies them, `cursor`
//! reads on from one to the next.

pub(crate) mod cursor;
pub(crate) mod footer;
pub(crate) mod layout;
pub(crate) mod reader;
pub(crate) mod writer;

#[cfg(test)]
mod tests;
