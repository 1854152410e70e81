//! A lane that no broker has open: what lies in it, whether it is sound, and what a repair would cost.
//!
//! [`examine`] reads and changes nothing; [`repair`] does what the findings say, and moves aside what it
//! replaces: nothing is ever deleted. Of a WAL file a copy goes aside, in which blocks that the medium does not
//! give are zeros. Lost offsets are filled with empty batches, so that offsets stay dense. Memory: 1 MiB of data
//! at a time, one table's footer, 48 bytes for each part of each table, and the findings.
//!
//! The caller holds the directory's lock: under a running lane the WAL's end moves, and looks torn.

mod files;
mod holes;
mod reading;
mod repair;
mod tables;
mod wal;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use streambus_proto::ids::Offset;

pub use self::files::is_empty;
use self::files::read_manifest;
pub use self::repair::{begin, repair};
use self::tables::Bad;
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
    /// The WAL file is written again up to this byte, behind which it has no commit. Those after it stay.
    BlankWal {
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
    /// None, and no damage that is known: it could not be looked at. Nothing in the lane is repaired before it can.
    Unread,
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
    /// Bytes of a torn commit at the WAL's end, as a crash leaves it: no damage.
    pub torn_bytes: u64,
}

/// A lane, looked at.
#[derive(Debug)]
pub struct Examined {
    /// Its directory.
    pub dir: PathBuf,
    /// How closely it was looked at.
    pub depth: Depth,
    /// How much there was.
    pub totals: Totals,
    /// What is wrong with it; nothing if it is sound.
    pub findings: Vec<Finding>,
    /// Files of names that no lane has: no damage. The next start moves them to `quarantine/`.
    pub unknown: Vec<PathBuf>,
    manifest: Option<Manifest>,
    /// What does not verify in tables, by id: what a repair leaves out is what was told, and nothing else.
    bad: BTreeMap<u64, Vec<Bad>>,
}

impl Examined {
    /// Whether something is known to be damaged or lost.
    pub fn is_damaged(&self) -> bool {
        self.findings
            .iter()
            .any(|finding| finding.remedy != Remedy::Unread)
    }

    /// Whether something could not be looked at.
    pub fn is_unread(&self) -> bool {
        self.findings
            .iter()
            .any(|finding| finding.remedy == Remedy::Unread)
    }
}

/// Bytes that [`examine`] will read of the lane in `dir`, about: what can't be read counts as none.
pub async fn bytes_to_read(dir: &Path, depth: Depth) -> u64 {
    let mut bytes = 0;
    for file in files::list(dir).unwrap_or_default() {
        let is_read = match file.kind {
            files::FileRole::Wal { .. } => true,
            files::FileRole::Table { .. } => depth == Depth::Everything,
            _ => false,
        };
        if is_read {
            bytes += files::length(&file.path).await.unwrap_or(0);
        }
    }
    bytes
}

/// Looks at the lane in `dir` and changes nothing. `see` is told what is found on the way. What can't be read is a
/// finding like what is damaged, and everything else is looked at all the same.
pub async fn examine(dir: &Path, depth: Depth, see: &mut dyn FnMut(Seen)) -> Examined {
    let mut examined = Examined {
        dir: dir.to_owned(),
        depth,
        totals: Totals::default(),
        findings: Vec::new(),
        unknown: Vec::new(),
        manifest: None,
        bad: BTreeMap::new(),
    };
    let found = match files::list(dir) {
        Ok(found) => found,
        Err(error) => {
            let finding = reading::finding(dir, error, Remedy::Unread);
            examined.findings.push(finding);
            return examined;
        }
    };
    let Some(manifest) = read_manifest(dir, &found, &mut examined.findings).await else {
        return examined;
    };
    see(Seen::Manifest {
        generation: manifest.generation,
        wal_from: (manifest.floor.epoch, manifest.floor.position),
        tables: manifest.tables.len(),
        partitions: manifest.partitions.len(),
    });
    files::find_strangers(&found, &manifest, &mut examined);
    let spans = tables::examine(&mut examined, &manifest, depth, see).await;
    let firsts = wal::examine(&mut examined, &manifest, &found, see).await;
    // What could not be looked at may hold what a dropped table held.
    if !examined.is_unread() {
        holes::tell_dropped(&mut examined, &manifest, &spans, &firsts);
    }
    examined.manifest = Some(manifest);
    examined
}
