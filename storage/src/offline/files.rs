//! Which files a lane's directory has, and what the manifest makes of them.

use std::path::{Path, PathBuf};

use streambus_shards::{DiskError, File, OpenOptions, disk};

use super::reading::{self, twice};
use super::{Examined, Finding, Remedy};
use crate::error::StorageError;
use crate::manifest::{MANIFEST_VERSION, Manifest, ManifestError};
use crate::names::{self, FileKind};

/// What a file is, as far as its name tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileRole {
    Wal {
        epoch: u64,
    },
    Table {
        id: u64,
    },
    Manifest,
    /// Not finished when its process ended, or space kept: nothing refers to it.
    Idle,
    Unknown,
}

/// A file in the lane's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FoundFile {
    pub(super) path: PathBuf,
    pub(super) kind: FileRole,
}

/// The lane's files, sorted by name; `quarantine/` and what is the file system's are left out.
pub(super) fn list(dir: &Path) -> Result<Vec<FoundFile>, StorageError> {
    let names = disk::list(dir).map_err(|source| StorageError::disk(dir, source))?;
    let files = names.iter().filter_map(|name| {
        let kind = match FileKind::of(name) {
            FileKind::Manifest => FileRole::Manifest,
            FileKind::Wal { epoch } => FileRole::Wal { epoch },
            FileKind::Table { id } => FileRole::Table { id },
            FileKind::Incomplete | FileKind::Reserve => FileRole::Idle,
            FileKind::Quarantine | FileKind::LostAndFound => return None,
            FileKind::Unknown => FileRole::Unknown,
        };
        let path = dir.join(name);
        Some(FoundFile { path, kind })
    });
    Ok(files.collect())
}

/// Whether there is nothing of a lane in `dir`, if there is a `dir` at all.
pub fn is_empty(dir: &Path) -> bool {
    let is_idle = |file: &FoundFile| matches!(file.kind, FileRole::Idle | FileRole::Unknown);
    !disk::exists(dir) || list(dir).is_ok_and(|found| found.iter().all(is_idle))
}

pub(super) async fn length(path: &Path) -> Result<u64, StorageError> {
    let failed = |source| StorageError::disk(path, source);
    let file = File::open(path, OpenOptions::default()).await;
    file.and_then(|file| file.len()).map_err(failed)
}

/// The manifest; `None` when it is lost, which is a finding unless the lane was never begun.
pub(super) async fn read_manifest(
    dir: &Path,
    found: &[FoundFile],
    findings: &mut Vec<Finding>,
) -> Option<Manifest> {
    let path = dir.join(names::MANIFEST);
    let holds_data =
        |file: &FoundFile| matches!(file.kind, FileRole::Wal { .. } | FileRole::Table { .. });
    let error = match twice(|| disk::read_file(&path)).await {
        Ok(bytes) => match Manifest::decode(&bytes) {
            Ok(manifest) => return Some(manifest),
            Err(ManifestError::OtherVersion(found)) => StorageError::OtherVersion {
                file: path.clone(),
                found,
                supported: MANIFEST_VERSION,
            },
            Err(ManifestError::Damaged) => StorageError::corrupt(
                &path,
                0,
                "the manifest does not verify; without it nothing in the lane can be read: restore it from a backup if there is one",
            ),
        },
        Err(DiskError::NotFound { .. }) if found.iter().any(holds_data) => StorageError::corrupt(
            &path,
            0,
            "the manifest is missing, and there are tables or WAL files: restore it from a backup if there is one",
        ),
        Err(DiskError::NotFound { .. }) => return None,
        Err(source) => StorageError::disk(&path, source),
    };
    findings.push(reading::finding(&path, error, Remedy::EmptyLane));
    None
}

/// Files that the manifest does not know.
pub(super) fn find_strangers(found: &[FoundFile], manifest: &Manifest, examined: &mut Examined) {
    let known = |id| manifest.tables.iter().any(|table| table.id == id);
    for file in found {
        match file.kind {
            FileRole::Unknown => examined.unknown.push(file.path.clone()),
            FileRole::Table { id } if !known(id) && !manifest.obsolete.contains(&id) => {
                let what = "the manifest does not know this table";
                let error = StorageError::corrupt(&file.path, 0, what);
                let finding = reading::finding(&file.path, error, Remedy::Quarantine);
                examined.findings.push(finding);
            }
            _ => {}
        }
    }
}
