//! A lane that no broker has open: what lies in it, whether it is sound, and what a repair would cost.
//!
//! [`examine`] reads and changes nothing; [`repair`] does what the findings say, and moves aside what it
//! replaces: nothing is ever deleted. Lost offsets are filled with empty batches, so that offsets stay dense. Memory: 1 MiB of data at a time, one table's footer, and 48 bytes for
//! each part of each table.
//!
//! The caller holds the directory's lock: under a running lane the WAL's end moves, and looks torn.

mod files;
mod holes;
mod repair;
mod tables;
mod wal;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use streambus_proto::ids::Offset;

use self::files::read_manifest;
pub use self::repair::repair;
use crate::error::StorageError;
use crate::key::PartitionKey;
use crate::manifest::Manifest;

/// How closely a lane is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Manifest, WAL, and the footers of tables.
    Listing,
    /// Every block of every table besides.
    Everything,
}

/// Something that was seen on the way, in the order of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// The manifest.
    Manifest {
        /// Counts the lane's manifests.
        generation: u64,
        /// Where the WAL begins that is not in tables: the file's epoch and the byte in it.
        wal_from: (u64, u64),
        /// Tables that it names.
        tables: usize,
        /// Partitions that it knows.
        partitions: usize,
    },
    /// A table whose footer verifies.
    Table {
        /// Its id, which is in its name.
        id: u64,
        /// Bytes of the file.
        bytes: u64,
        /// Partitions in it.
        parts: usize,
    },
    /// A partition's part of the table before.
    Part {
        /// The partition.
        key: PartitionKey,
        /// Its offsets there, the last one excluded.
        offsets: (Offset, Offset),
        /// Bytes of its batches.
        bytes: u64,
    },
    /// A commit of the WAL that verifies.
    Commit {
        /// Its id; ids leave none out.
        id: u64,
        /// Its file.
        epoch: u64,
        /// Where in the file.
        position: u64,
        /// Bytes with padding.
        bytes: u64,
        /// Records in it.
        records: u32,
    },
    /// A record of the commit before.
    Record {
        /// Counts the lane's records.
        sequence: u64,
        /// `batch`, `log start` or `drop`.
        kind: &'static str,
        /// The partition.
        key: PartitionKey,
        /// A batch's offsets, the last one excluded; twice the new log start; `None` for a drop.
        offsets: Option<(Offset, Offset)>,
        /// Bytes of the payload.
        bytes: u64,
    },
    /// So many bytes more were read, of those that [`bytes_to_read`] told.
    Read {
        /// How many.
        bytes: u64,
    },
}

/// What a repair does about a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// The table is written again without what is damaged.
    RewriteTable {
        /// Its id.
        id: u64,
    },
    /// The table leaves the lane.
    DropTable {
        /// Its id.
        id: u64,
    },
    /// The WAL ends before this byte of this file.
    CutWal {
        /// The file's epoch.
        epoch: u64,
        /// The byte.
        position: u64,
    },
    /// The file is moved to `quarantine/`, as the next start would.
    Quarantine,
    /// All files of the lane are moved to `quarantine/`, and it begins anew, empty.
    EmptyLane,
    /// None: the data needs somebody who knows what happened.
    None,
}

/// Records of a partition that a repair drops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost {
    /// The partition.
    pub key: PartitionKey,
    /// The first offset that is lost.
    pub start: Offset,
    /// The first one after it that is not.
    pub end: Offset,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The file.
    pub file: PathBuf,
    /// The byte in it.
    pub position: u64,
    /// What is wrong.
    pub what: String,
    /// What a repair does about it.
    pub remedy: Remedy,
    /// What a repair drops, as far as the damage lets it be known.
    pub lost: Vec<Lost>,
}

/// How much there was.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Tables whose footer verifies.
    pub tables: u64,
    /// Bytes of them that verify.
    pub table_bytes: u64,
    /// Commits of the WAL that verify.
    pub commits: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes of a torn commit at the WAL's end, which was never acknowledged: no damage.
    pub torn_bytes: u64,
}

/// A lane, looked at.
#[derive(Debug)]
pub struct Examined {
    /// Its directory.
    pub dir: PathBuf,
    /// How much there was.
    pub totals: Totals,
    /// What is wrong with it; nothing if it is sound.
    pub findings: Vec<Finding>,
    manifest: Option<Manifest>,
}

/// Bytes that [`examine`] will read of the lane in `dir`, about.
///
/// # Errors
/// When the directory can't be read.
pub async fn bytes_to_read(dir: &Path, depth: Depth) -> Result<u64, StorageError> {
    let found = files::list(dir)?;
    let mut bytes = 0;
    for file in &found {
        bytes += match file.kind {
            files::FileRole::Wal { .. } => files::length(&file.path).await?,
            files::FileRole::Table { .. } if depth == Depth::Everything => {
                files::length(&file.path).await?
            }
            _ => 0,
        };
    }
    Ok(bytes)
}

/// Looks at the lane in `dir` and changes nothing. `see` is told what is found on the way.
///
/// # Errors
/// [`StorageError::OtherVersion`], and failures of the disk. Damage is no error: it is a finding.
pub async fn examine(
    dir: &Path,
    depth: Depth,
    see: &mut dyn FnMut(Seen),
) -> Result<Examined, StorageError> {
    let found = files::list(dir)?;
    let mut examined = Examined {
        dir: dir.to_owned(),
        totals: Totals::default(),
        findings: Vec::new(),
        manifest: None,
    };
    let Some(manifest) = read_manifest(dir, &found, &mut examined.findings).await? else {
        return Ok(examined);
    };
    see(Seen::Manifest {
        generation: manifest.generation,
        wal_from: (manifest.floor.epoch, manifest.floor.position),
        tables: manifest.tables.len(),
        partitions: manifest.partitions.len(),
    });
    files::find_strangers(&found, &manifest, &mut examined.findings);
    let spans = tables::examine(&mut examined, &manifest, depth, see).await?;
    let firsts = wal::examine(&mut examined, &manifest, &found, see).await?;
    holes::tell_dropped(&mut examined, &manifest, &spans, &firsts);
    examined.manifest = Some(manifest);
    Ok(examined)
}
