//! What a lane tells its owner.

use std::time::Duration;

use streambus_proto::ids::Offset;

use crate::error::StorageError;
use crate::key::PartitionKey;

/// One commit, as it was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommitMeasured {
    /// Bytes on disk, padding included.
    pub bytes: usize,
    /// Records in it.
    pub records: u32,
    /// From the start of the write to the return of the sync.
    pub sync: Duration,
}

/// The lane's owner. Called on the lane's core, from the lane's tasks and never from within a
/// call into the lane; must not block.
pub trait LaneObserver {
    /// These partitions are durable up to these offsets (exclusive). Once for each commit.
    fn durable(&self, ends: &[(PartitionKey, Offset)]);

    /// The owner's state of the partition as of its log end (producer windows and the like), to
    /// be handed back at recovery; empty for none. Asked when a memtable freezes.
    fn annotation(&self, key: PartitionKey) -> Vec<u8>;

    /// The lane has stopped: a write or a sync failed, and no retry can be trusted.
    fn failed(&self, error: &StorageError);

    /// Commits wait for a log file that there is no space for: see [`Lane::is_starved`](crate::Lane::is_starved).
    fn starved(&self) {}

    /// A commit was synced.
    fn measured(&self, commit: CommitMeasured) {
        let _ = commit;
    }
}
