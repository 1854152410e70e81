//! What can go wrong with a lane, a variant for each different reaction.

use std::path::{Path, PathBuf};

use streambus_proto::ids::Offset;
use streambus_proto::records::RecordsError;
use streambus_shards::DiskError;
use thiserror::Error;

use crate::key::PartitionKey;

/// A failure of the lane or of one of its calls.
#[derive(Debug, Error)]
pub enum StorageError {
    /// Bytes on disk are not what was written and synced there. Do not serve from this lane
    /// before it is repaired: from a replica, or offline.
    #[error(
        "{} is damaged at byte {position}: {what}; refetch it from a replica or run `storage repair`",
        file.display()
    )]
    Corrupt {
        /// The damaged file.
        file: PathBuf,
        /// Where in it.
        position: u64,
        /// What does not hold.
        what: &'static str,
    },
    /// The directory was written by another version. Run the build that knows it.
    #[error("{} has format version {found}, this build reads version {supported}", file.display())]
    OtherVersion {
        /// The file that says so.
        file: PathBuf,
        /// The version it names.
        found: u16,
        /// The version that this build reads and writes.
        supported: u16,
    },
    /// The file system is full. Free space; the lane goes on by itself.
    #[error("no space left for {}", file.display())]
    NoSpace {
        /// What could not be written.
        file: PathBuf,
    },
    /// The disk or the file system failed. After a failed write the lane stops: the process must
    /// end and read again from the disk what is really there.
    #[error("{}: {source}", file.display())]
    Disk {
        /// The file concerned.
        file: PathBuf,
        /// What the system said.
        source: DiskError,
    },
    /// The lane has stopped, after a failed write or by being closed.
    #[error("the lane has stopped: {reason}")]
    Stopped {
        /// Why.
        reason: String,
    },
    /// The lane has no such partition.
    #[error("the lane has no partition {0}")]
    UnknownPartition(PartitionKey),
    /// The offset is not between the log's start and its end.
    #[error("offset {offset:?} is outside of {log_start:?}..={log_end:?}")]
    OffsetOutOfRange {
        /// The offset asked for.
        offset: Offset,
        /// First offset there is.
        log_start: Offset,
        /// Offset after the last one.
        log_end: Offset,
    },
    /// A stored batch cannot be unfolded: it is larger than is allowed, or was never a sound one. What
    /// keys it holds is not known; it is returned to readers as it is.
    #[error("the batch at offset {offset:?} of {partition} cannot be unfolded: {source}")]
    Undecodable {
        /// Whose batch.
        partition: PartitionKey,
        /// Its base offset.
        offset: Offset,
        /// What is wrong with it.
        source: RecordsError,
    },
    /// A setting is out of its bounds.
    #[error("{setting} = {value}: it must be {wants}")]
    Config {
        /// Name of the setting.
        setting: &'static str,
        /// What it is.
        value: u64,
        /// What it would have to be.
        wants: String,
    },
}

impl StorageError {
    pub(crate) fn disk(file: &Path, source: DiskError) -> StorageError {
        match source {
            DiskError::NoSpace { .. } => StorageError::NoSpace {
                file: file.to_owned(),
            },
            source => StorageError::Disk {
                file: file.to_owned(),
                source,
            },
        }
    }

    pub(crate) fn corrupt(file: &Path, position: u64, what: &'static str) -> StorageError {
        StorageError::Corrupt {
            file: file.to_owned(),
            position,
            what,
        }
    }

    /// Whether waiting for space can mend it.
    pub fn is_no_space(&self) -> bool {
        matches!(self, StorageError::NoSpace { .. })
    }

    /// Whether a file could not be opened because no descriptor was left. That says nothing of the file.
    pub(crate) fn is_out_of_descriptors(&self) -> bool {
        matches!(self, StorageError::Disk { source, .. } if source.is_out_of_descriptors())
    }
}

/// Why a batch was not appended. Nothing of it was kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum AppendError {
    /// Memory or WAL files are used up until the flusher catches up: wait for `Lane::writable`.
    #[error("the lane takes no more until it has flushed")]
    Full,
    /// The file system is full: refuse the producer; the lane takes batches again by itself.
    #[error("the lane's file system is full")]
    NoSpace,
    /// The lane has stopped after a failed write or is closed.
    #[error("the lane has stopped")]
    Failed,
    /// The batch can never fit: refuse it.
    #[error("a batch of {bytes} bytes does not fit a WAL file")]
    TooLarge {
        /// Bytes of the batch.
        bytes: usize,
    },
}
