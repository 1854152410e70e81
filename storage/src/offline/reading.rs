//! Reads that fail. Each is tried once more: a failure that passes is none of the data. What stays is a finding, and
//! who failed says what a repair may do: bytes that the medium does not give are lost like damaged ones; what this
//! process may not read, or does not understand, is left as it is.

use std::future::Future;
use std::path::Path;

use streambus_shards::{Buf, BufMut, DiskError, File};

use super::{Finding, Remedy};
use crate::error::StorageError;
use crate::wal::record::BLOCK_BYTES;

/// Reads again what could not be read.
pub(super) async fn twice<T, E, F>(read: impl Fn() -> F) -> Result<T, E>
where
    F: Future<Output = Result<T, E>>,
{
    match read().await {
        Err(_) => read().await,
        done => done,
    }
}

/// What failed, as a finding. `remedy` is for what is damaged or lost, not for what could not be looked at.
pub(super) fn finding(path: &Path, error: StorageError, remedy: Remedy) -> Finding {
    let (file, position, what, remedy) = match error {
        StorageError::Corrupt {
            file,
            position,
            what,
        } => (file, position, what.to_owned(), remedy),
        StorageError::Disk { file, source } => {
            let of_medium = source.is_of_medium();
            let remedy = if of_medium { remedy } else { Remedy::Unread };
            (file, 0, unreadable(&source), remedy)
        }
        StorageError::OtherVersion {
            file,
            found,
            supported,
        } => {
            let what =
                format!("it has format version {found}, this build reads version {supported}");
            (file, 0, what, Remedy::Unread)
        }
        other => (path.to_owned(), 0, other.to_string(), Remedy::Unread),
    };
    Finding {
        file,
        position,
        what,
        remedy,
        lost: Vec::new(),
    }
}

/// What is said of bytes that nobody can read.
pub(super) fn unreadable(error: &DiskError) -> String {
    format!("it can't be read: {error}")
}

/// Blocks of a file that the medium does not give.
#[derive(Debug)]
pub(super) struct Unreadable {
    pub(super) first: u64,
    pub(super) last: u64,
    /// What was said of the first.
    pub(super) error: DiskError,
}

impl Unreadable {
    /// Takes in one that was found later, in the same file.
    pub(super) fn extend(&mut self, other: Unreadable) {
        self.last = self.last.max(other.last);
        if other.first < self.first {
            (self.first, self.error) = (other.first, other.error);
        }
    }
}

/// Bytes of a file. Where the medium gives none they are zeros, and told.
pub(super) async fn read_around(
    file: &File,
    position: u64,
    length: usize,
) -> Result<(Buf, Option<Unreadable>), DiskError> {
    match twice(|| file.read_at(position, length)).await {
        Err(error) if error.is_of_medium() => {}
        done => return done.map(|bytes| (bytes, None)),
    }
    let mut bytes = BufMut::with_capacity(length);
    let mut found: Option<Unreadable> = None;
    while bytes.len() < length {
        let take = (length - bytes.len()).min(BLOCK_BYTES);
        let at = position + bytes.len() as u64;
        match twice(|| file.read_at(at, take)).await {
            Ok(block) => bytes.extend_from_slice(&block),
            Err(error) if error.is_of_medium() => {
                bytes.put_zeros(take);
                let (first, last) = (at, at);
                let one = Unreadable { first, last, error };
                match &mut found {
                    Some(found) => found.extend(one),
                    None => found = Some(one),
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok((bytes.freeze(), found))
}
