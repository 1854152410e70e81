//! Does what the findings say. A crash on the way leaves a lane that can be examined and repaired again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use streambus_shards::{Buf, DiskError, File, OpenOptions, disk, rng_u64};

use super::holes::fill;
use super::reading::read_around;
use super::tables::{self, Bad, Step, Walk};
use super::{Examined, Finding, Lost, Remedy, files};
use crate::config::LaneConfig;
use crate::error::StorageError;
use crate::key::PartitionKey;
use crate::lane::{free_name, write_manifest};
use crate::manifest::{Manifest, TableEntry};
use crate::memtable::MemBatch;
use crate::names;
use crate::table::reader::Table;
use crate::table::writer::TableWriter;
use crate::wal::WalPlace;
use crate::wal::record::{FIRST_COMMIT_POSITION, Nonce};

/// Bytes that are copied at once.
const COPY_BYTES: u64 = 1 << 20;

/// Repairs what [`super::examine`] found with [`super::Depth::Everything`]. Returns the findings that have
/// no remedy here: all of them, if something could not be looked at, for it may hold what seems to be lost.
///
/// # Errors
/// Failures of the disk. Repeat the examination then: what is done is done.
pub async fn repair(examined: Examined) -> Result<Vec<Finding>, StorageError> {
    if examined.is_unread() {
        return Ok(examined.findings);
    }
    let Examined {
        dir,
        findings,
        manifest,
        bad,
        ..
    } = examined;
    let Some(manifest) = manifest else {
        if findings
            .iter()
            .any(|finding| finding.remedy == Remedy::EmptyLane)
        {
            empty_lane(&dir).await?;
        }
        return Ok(Vec::new());
    };
    let floor = manifest.floor;
    mend_tables(&dir, manifest, &findings, &bad).await?;
    for finding in &findings {
        match finding.remedy {
            Remedy::CutWal { epoch, position } => cut_wal(&dir, epoch, position, floor).await?,
            Remedy::BlankWal { epoch, position } => {
                blank_wal(&dir, epoch, position, floor).await?;
            }
            Remedy::Quarantine => quarantine(&dir, &finding.file).await?,
            _ => {}
        }
    }
    let mut left = findings;
    left.retain(|finding| finding.remedy == Remedy::None);
    Ok(left)
}

/// Writes damaged tables again and lets the manifest name those instead; then the old ones go aside.
async fn mend_tables(
    dir: &Path,
    mut manifest: Manifest,
    findings: &[Finding],
    bad: &BTreeMap<u64, Vec<Bad>>,
) -> Result<(), StorageError> {
    let mut rewritten = BTreeSet::new();
    let mut gone = BTreeSet::new();
    for finding in findings {
        match finding.remedy {
            Remedy::RewriteTable { id } => rewritten.insert(id),
            Remedy::DropTable { id } => gone.insert(id),
            _ => false,
        };
    }
    if rewritten.is_empty() && gone.is_empty() {
        return Ok(());
    }
    let mut tables = BTreeMap::new();
    for entry in std::mem::take(&mut manifest.tables) {
        if gone.contains(&entry.id) {
            continue;
        }
        let kept = match bad.get(&entry.id) {
            Some(bad) if rewritten.contains(&entry.id) => {
                rewrite(dir, &mut manifest, entry, bad).await?
            }
            _ => Some(entry),
        };
        tables.extend(kept.map(|entry| (entry.id, entry)));
    }
    for lost in disjoint(findings) {
        let entry = fill_table(dir, &mut manifest, &lost).await?;
        tables.insert(entry.id, entry);
    }
    let new: Vec<u64> = tables
        .keys()
        .copied()
        .filter(|id| !disk::exists(&dir.join(names::table(*id))))
        .collect();
    manifest.tables = tables.into_values().collect();
    manifest.generation += 1;
    write_manifest(dir, &manifest).await?;
    for id in new {
        let path = dir.join(names::table(id));
        let renamed = disk::rename(&dir.join(names::table_new(id)), &path).await;
        renamed.map_err(|source| StorageError::disk(&path, source))?;
    }
    for id in rewritten.into_iter().chain(gone) {
        let path = dir.join(names::table(id));
        if disk::exists(&path) {
            quarantine(dir, &path).await?;
        }
    }
    disk::sync_dir(dir)
        .await
        .map_err(|source| StorageError::disk(dir, source))
}

/// What dropped tables held, in groups that have one range of a partition each, sorted by partition: a
/// table has one part for each partition, and no other table may lie within it.
fn disjoint(findings: &[Finding]) -> Vec<Vec<Lost>> {
    let mut groups: Vec<BTreeMap<PartitionKey, Lost>> = Vec::new();
    let dropped = findings
        .iter()
        .filter(|finding| matches!(finding.remedy, Remedy::DropTable { .. }));
    for lost in dropped.flat_map(|finding| &finding.lost) {
        match groups
            .iter_mut()
            .find(|group| !group.contains_key(&lost.key))
        {
            Some(group) => drop(group.insert(lost.key, *lost)),
            None => groups.push(BTreeMap::from([(lost.key, *lost)])),
        }
    }
    let in_order = groups
        .into_iter()
        .map(|group| group.into_values().collect());
    in_order.collect()
}

/// When the newest of the tables was written, as far as is known.
fn written_ms(manifest: &Manifest) -> Option<i64> {
    let times = manifest.tables.iter().map(|table| table.written_ms);
    times.max().flatten()
}

/// Writes a table of batches without records.
async fn fill_table(
    dir: &Path,
    manifest: &mut Manifest,
    lost: &[Lost],
) -> Result<TableEntry, StorageError> {
    let id = manifest.next_table_id;
    manifest.next_table_id += 1;
    let (nonce, config) = (Nonce(manifest.nonce), LaneConfig::default());
    let mut writer = TableWriter::create(dir, nonce, id, 1, &config).await?;
    for one in lost {
        for batch in fill(*one, manifest) {
            writer.push(one.key, &batch, false).await?;
        }
    }
    Ok(TableEntry {
        id,
        file_bytes: writer.finish().await?,
        // All that tables hold lies before the floor.
        sequence_end: manifest.floor.sequence,
        merges: 0,
        replaced_parts: Vec::new(),
        // Batches without records: they go with what the other tables hold.
        written_ms: written_ms(manifest),
    })
}

/// Writes a table, as far as it still counts, into a new one without what is bad; `None` if nothing is left.
async fn rewrite(
    dir: &Path,
    manifest: &mut Manifest,
    entry: TableEntry,
    bad: &[Bad],
) -> Result<Option<TableEntry>, StorageError> {
    let table = tables::open(dir, entry.id, manifest, entry.file_bytes).await?;
    let id = manifest.next_table_id;
    let config = LaneConfig {
        block_bytes: table.footer.block_bytes,
        ..LaneConfig::default()
    };
    let mut writer = None;
    for part in tables::live_parts(&table, &entry) {
        let keyed = !part.filters.is_empty();
        let mut walk = Walk::new(&table, part, bad);
        while let Some(step) = walk.next().await? {
            if writer.is_none() {
                let nonce = Nonce(manifest.nonce);
                let bytes = table.footer.data_bytes;
                writer = Some(TableWriter::create(dir, nonce, id, bytes, &config).await?);
            }
            let batches = match step {
                Step::Kept { info, at } => vec![MemBatch {
                    base_offset: info.base_offset,
                    last_offset: info.last_offset,
                    max_timestamp: info.max_timestamp,
                    bytes: read(&table, at).await?,
                }],
                Step::Lost { from, to, .. } => {
                    let (key, start, end) = (part.key, from, to);
                    fill(Lost { key, start, end }, manifest)
                }
            };
            let writer = writer.as_mut().expect("made for the first batch");
            for batch in &batches {
                writer.push(part.key, batch, keyed).await?;
            }
        }
    }
    let Some(writer) = writer else {
        return Ok(None);
    };
    manifest.next_table_id += 1;
    let file_bytes = writer.finish().await?;
    Ok(Some(TableEntry {
        id,
        file_bytes,
        sequence_end: entry.sequence_end,
        merges: entry.merges,
        replaced_parts: Vec::new(),
        written_ms: entry.written_ms,
    }))
}

async fn read(table: &Table, range: std::ops::Range<u64>) -> Result<Buf, StorageError> {
    let blocks = table.blocks_of(&range);
    let start = usize::try_from(range.start - blocks.start).expect("within a block");
    let length = usize::try_from(range.end - range.start).expect("a batch fits memory");
    let bytes = table.read_blocks(blocks).await?;
    Ok(bytes.slice(start..start + length))
}

/// Ends the WAL before `position` of the file of `epoch`: blanks what follows there, and then moves the files after it
/// aside. They go last, for they show that the commit at `position` was synced: without them it would be a torn tail.
async fn cut_wal(
    dir: &Path,
    epoch: u64,
    position: u64,
    floor: WalPlace,
) -> Result<(), StorageError> {
    blank_wal(dir, epoch, position, floor).await?;
    for later in files::list(dir)?.iter().rev() {
        if matches!(later.kind, files::FileRole::Wal { epoch: other } if other > epoch) {
            quarantine(dir, &later.path).await?;
        }
    }
    Ok(())
}

/// Leaves nothing at or behind `position` of the file of `epoch`, which is copied aside; a new one takes its name.
async fn blank_wal(
    dir: &Path,
    epoch: u64,
    position: u64,
    floor: WalPlace,
) -> Result<(), StorageError> {
    let path = dir.join(names::wal(epoch));
    let failed = |source| StorageError::disk(&path, source);
    let bytes = if disk::exists(&path) {
        let bytes = files::length(&path).await?;
        let aside = free_name(&quarantine_of(dir).await?, &names::wal(epoch));
        let piece = Copied {
            bytes,
            length: bytes,
            needed_from: bytes,
        };
        copy(&path, &aside, piece).await.map_err(failed)?;
        bytes
    } else {
        position.max(FIRST_COMMIT_POSITION)
    };
    let new = dir.join(names::wal_new(epoch));
    let begins_at = if epoch == floor.epoch {
        floor.position
    } else {
        FIRST_COMMIT_POSITION
    };
    let piece = Copied {
        bytes: position,
        length: bytes,
        needed_from: begins_at,
    };
    copy(&path, &new, piece).await.map_err(failed)?;
    disk::rename(&new, &path).await.map_err(failed)?;
    disk::sync_dir(dir).await.map_err(failed)
}

/// What of a file is copied.
struct Copied {
    bytes: u64,
    /// Of the copy, which is filled up with zeros.
    length: u64,
    /// Blocks before this that can't be read are zeros in the copy.
    needed_from: u64,
}

/// Copies a file, and syncs the copy.
async fn copy(from: &Path, to: &Path, what: Copied) -> Result<(), DiskError> {
    let Copied {
        bytes,
        length,
        needed_from,
    } = what;
    let options = OpenOptions {
        write: true,
        create: true,
        ..OpenOptions::default()
    };
    let target = File::open(to, options).await?;
    target.set_len(0)?;
    if disk::exists(from) {
        let source = File::open(from, OpenOptions::default()).await?;
        let mut position = 0;
        while position < bytes {
            let take = usize::try_from((bytes - position).min(COPY_BYTES)).expect("a piece");
            let (piece, unreadable) = read_around(&source, position, take).await?;
            if let Some(unreadable) = unreadable.filter(|found| found.last >= needed_from) {
                return Err(unreadable.error);
            }
            target.write_at(position, &piece).await?;
            position += take as u64;
        }
    }
    // Written, not left as a hole: the lane takes space in its WAL for granted.
    let zeros = Buf::from(vec![0; usize::try_from(COPY_BYTES).expect("a piece")]);
    let mut position = bytes;
    while position < length {
        let take = usize::try_from((length - position).min(COPY_BYTES)).expect("a piece");
        target.write_at(position, &zeros.slice(0..take)).await?;
        position += take as u64;
    }
    target.datasync().await?;
    match to.parent() {
        Some(parent) => disk::sync_dir(parent).await,
        None => Ok(()),
    }
}

async fn quarantine_of(dir: &Path) -> Result<PathBuf, StorageError> {
    let quarantine = dir.join(names::QUARANTINE);
    let failed = |source| StorageError::disk(&quarantine, source);
    disk::create_dir_all(&quarantine).map_err(failed)?;
    disk::sync_dir(dir).await.map_err(failed)?;
    Ok(quarantine)
}

async fn quarantine(dir: &Path, file: &Path) -> Result<(), StorageError> {
    let quarantine = quarantine_of(dir).await?;
    let failed = |source| StorageError::disk(file, source);
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let to = free_name(&quarantine, &name);
    disk::rename(file, &to).await.map_err(failed)?;
    disk::sync_dir(&quarantine).await.map_err(failed)?;
    disk::sync_dir(dir).await.map_err(failed)
}

/// Moves all of the lane's files aside, the manifest last: until then the lane does not open.
async fn empty_lane(dir: &Path) -> Result<(), StorageError> {
    let mut found = files::list(dir)?;
    found.sort_by_key(|file| file.kind == files::FileRole::Manifest);
    for file in found {
        quarantine(dir, &file.path).await?;
    }
    begin(dir).await
}

/// Makes an empty lane in `dir`, which a start takes for the one that was there.
///
/// # Errors
/// Failures of the disk.
pub async fn begin(dir: &Path) -> Result<(), StorageError> {
    let failed = |source| StorageError::disk(dir, source);
    disk::make_dir_all(dir).await.map_err(failed)?;
    write_manifest(dir, &Manifest::new(rng_u64()))
        .await
        .map(drop)
}
