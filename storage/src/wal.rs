//! The write-ahead log: what a lane acknowledges lies here first.
//!
//! `record` says what the bytes mean, `buffer` frames appends into commits in memory, `replay`
//! decides what a restart may believe, `files` keeps the preallocated files. `lane::commit` moves
//! commits to disk.

use std::collections::BTreeMap;

pub(crate) mod buffer;
pub(crate) mod files;
pub(crate) mod record;
pub(crate) mod replay;

#[cfg(test)]
pub(crate) mod tests;

/// A point in the WAL, between two commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WalPlace {
    /// Epoch of the file.
    pub(crate) epoch: u64,
    /// Byte in the file, a multiple of the block size.
    pub(crate) position: u64,
    /// Id of the commit that begins here.
    pub(crate) commit_id: u64,
    /// Sequence number of that commit's first record.
    pub(crate) sequence: u64,
}

impl WalPlace {
    /// Where the WAL of a lane begins that was never written.
    pub(crate) const START: WalPlace = WalPlace {
        epoch: 1,
        position: record::FIRST_COMMIT_POSITION,
        commit_id: 1,
        sequence: 1,
    };
}

/// The first file that is missing of those from the floor's on. They are made one after the other, each name
/// durable before the next file is begun, so that a gap is a loss. `begun`: the floor's was made.
pub(crate) fn missing_file<T>(files: &BTreeMap<u64, T>, floor: u64, begun: bool) -> Option<u64> {
    let there = files.range(floor..).map(|(epoch, _)| *epoch);
    let gap = (floor..).zip(there).find(|(due, found)| due != found);
    let none = begun && !files.contains_key(&floor);
    none.then_some(floor).or(gap.map(|(due, _)| due))
}
