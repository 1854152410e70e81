//! Space kept for the one write that gives space back: on a disk that somebody else has filled to the last
//! byte, dead tables can only go when a manifest without them is written.

use std::cell::Cell;

use streambus_shards::{DiskError, File, OpenOptions, disk};

use super::Lane;
use crate::error::StorageError;
use crate::names;

/// The reserve of a lane with few partitions: the manifests of some thousands.
const BYTES_MIN: u64 = 1 << 20;

/// What is known of the reserve file.
#[derive(Debug, Default)]
pub(super) struct Reserve {
    /// Its size; 0 while there is none.
    bytes: Cell<u64>,
    /// The size of the last manifest: what the reserve must have room for.
    manifest_bytes: Cell<u64>,
}

impl Reserve {
    pub(super) fn note_manifest(&self, bytes: u64) {
        self.manifest_bytes.set(bytes);
    }

    pub(super) fn manifest_bytes(&self) -> u64 {
        self.manifest_bytes.get()
    }

    /// The size that it should have, if it has less.
    fn wanted(&self) -> Option<u64> {
        let manifest = self.manifest_bytes.get();
        // One more manifest may have grown meanwhile; half as much again grows with it.
        let enough = manifest + manifest / 2;
        let wanted = (manifest * 2).max(BYTES_MIN);
        (self.bytes.get() < enough.max(BYTES_MIN)).then_some(wanted)
    }
}

impl Lane {
    /// Makes or enlarges the reserve, if it is needed and there is space.
    pub(super) async fn keep_reserve(&self) {
        let Some(bytes) = self.reserve.wanted() else {
            return;
        };
        match self.make_reserve(bytes).await {
            Ok(()) => self.reserve.bytes.set(bytes),
            Err(error) => {
                tracing::warn!(dir = %self.dir.display(), bytes, %error, "no reserve for the next manifest");
                // A part of it would only take space from what matters more.
                self.give_reserve().await;
            }
        }
    }

    async fn make_reserve(&self, bytes: u64) -> Result<(), DiskError> {
        let options = OpenOptions {
            write: true,
            create: true,
            ..OpenOptions::default()
        };
        let file = File::open(&self.dir.join(names::RESERVE), options).await?;
        file.allocate(bytes).await
    }

    /// Frees the reserve's space; says whether there was any.
    pub(super) async fn give_reserve(&self) -> bool {
        self.reserve.bytes.set(0);
        let removed = disk::remove_file(&self.dir.join(names::RESERVE)).await;
        if let Err(error) = &removed
            && !matches!(error, DiskError::NotFound { .. })
        {
            tracing::warn!(dir = %self.dir.display(), %error, "the reserve was not removed");
        }
        removed.is_ok()
    }

    /// Does `drop_dead`, with the reserve's space if there is no other.
    pub(super) async fn with_reserve<F>(
        &self,
        drop_dead: impl Fn() -> F,
    ) -> Result<(), StorageError>
    where
        F: Future<Output = Result<(), StorageError>>,
    {
        match drop_dead().await {
            Err(error) if error.is_no_space() && self.give_reserve().await => drop_dead().await?,
            done => done?,
        }
        self.keep_reserve().await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_grows_with_the_manifest() {
        // Proves when it is made, when it suffices, and when it is made anew.
        let reserve = Reserve::default();
        assert_eq!(reserve.wanted(), Some(BYTES_MIN), "none yet");
        reserve.bytes.set(BYTES_MIN);
        let cases = [
            (0, None),
            (BYTES_MIN / 2, None),
            (BYTES_MIN, Some(2 * BYTES_MIN)),
        ];
        for (manifest, wanted) in cases {
            reserve.note_manifest(manifest);
            assert_eq!(reserve.wanted(), wanted, "a manifest of {manifest} bytes");
        }
        reserve.bytes.set(2 * BYTES_MIN);
        assert_eq!(reserve.wanted(), None);
    }
}
