//! Reads the WAL as a start would, and goes on behind damage to say what a cut drops.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::PathBuf;

use streambus_proto::ids::Offset;
use streambus_shards::{Buf, File, OpenOptions, yield_if_needed};

use super::files::{FileRole, FoundFile};
use super::holes::{self, WalFirsts};
use super::reading::{self, Unreadable, read_around, twice};
use super::{Examined, Finding, Lost, Remedy, Seen};
use crate::batch::BatchInfo;
use crate::error::StorageError;
use crate::key::PartitionKey;
use crate::manifest::Manifest;
use crate::names;
use crate::wal::missing_file;
use crate::wal::record::{
    BLOCK_BYTES, CommitHeader, FIRST_COMMIT_POSITION, FileHeader, FileHeaderRead, Nonce, RecordAt,
    RecordKind, WAL_VERSION, read_commit,
};
use crate::wal::replay::{Fed, Need, Replay};

/// Blocks that are searched at once for commits behind damage.
const SEARCH_BYTES: u64 = 1 << 20;

/// The lane's WAL files from the manifest's floor on.
struct WalLog {
    nonce: Nonce,
    files: BTreeMap<u64, WalFile>,
    /// What the medium does not give, by epoch. It is read as zeros: as a commit that does not verify.
    unreadable: RefCell<BTreeMap<u64, Unreadable>>,
}

struct WalFile {
    path: PathBuf,
    file: File,
    bytes: u64,
}

pub(super) async fn examine(
    examined: &mut Examined,
    manifest: &Manifest,
    found: &[FoundFile],
    see: &mut dyn FnMut(Seen),
) -> WalFirsts {
    let mut firsts = WalFirsts::new();
    let read = async {
        let log = WalLog::open(manifest, found).await?;
        log.examine(examined, manifest, &mut firsts, see).await
    };
    if let Err(error) = read.await {
        let finding = reading::finding(&examined.dir, error, Remedy::Unread);
        examined.findings.push(finding);
    }
    firsts
}

fn cut(epoch: u64, position: u64) -> Remedy {
    Remedy::CutWal { epoch, position }
}

fn tell(need: Need, bytes: &Buf, records: &[RecordAt], see: &mut dyn FnMut(Seen)) {
    see(Seen::Read {
        bytes: bytes.len() as u64,
    });
    see(Seen::Commit {
        id: records.first().map_or(0, |record| record.header.commit_id),
        epoch: need.epoch,
        position: need.position,
        bytes: bytes.len() as u64,
        records: u32::try_from(records.len()).unwrap_or(u32::MAX),
    });
    for record in records {
        let kind = match record.header.kind {
            RecordKind::Batch => "batch",
            RecordKind::LogStart => "log start",
            RecordKind::DropPartition => "drop",
        };
        see(Seen::Record {
            sequence: record.header.sequence,
            kind,
            key: record.header.key,
            offsets: offsets(bytes, record),
            bytes: u64::from(record.header.payload_bytes),
        });
    }
}

fn offsets(bytes: &[u8], record: &RecordAt) -> Option<(Offset, Offset)> {
    let payload = bytes.get(record.payload.clone())?;
    match record.header.kind {
        RecordKind::Batch => {
            let info = BatchInfo::read(payload)?;
            Some((info.base_offset, info.next_offset()))
        }
        RecordKind::LogStart => {
            let start = Offset(i64::from_le_bytes(*payload.first_chunk()?));
            Some((start, start))
        }
        RecordKind::DropPartition => None,
    }
}

/// Where the next commit stands, as far as the files are known.
struct Ends {
    /// The last file with a commit, or the one that the WAL begins in.
    last_epoch: u64,
    /// Behind the last commit of each file that has one.
    by_epoch: BTreeMap<u64, u64>,
}

impl WalLog {
    /// Opens the files, whose headers tell which version wrote them.
    async fn open(manifest: &Manifest, found: &[FoundFile]) -> Result<WalLog, StorageError> {
        let mut log = WalLog {
            nonce: Nonce(manifest.nonce),
            files: BTreeMap::new(),
            unreadable: RefCell::default(),
        };
        for one in found {
            let FileRole::Wal { epoch } = one.kind else {
                continue;
            };
            if epoch < manifest.floor.epoch {
                continue;
            }
            let path = one.path.clone();
            let failed = |source| StorageError::disk(&path, source);
            let opened = twice(|| File::open(&path, OpenOptions::default())).await;
            let file = opened.map_err(failed)?;
            let bytes = file.len().map_err(failed)?;
            log.files.insert(epoch, WalFile { path, file, bytes });
            if bytes >= BLOCK_BYTES as u64 {
                let block = log.read_at(epoch, 0, BLOCK_BYTES).await?;
                if let FileHeaderRead::OtherVersion(found) = FileHeader::decode(&block, log.nonce) {
                    return Err(StorageError::OtherVersion {
                        file: one.path.clone(),
                        found,
                        supported: WAL_VERSION,
                    });
                }
            }
        }
        Ok(log)
    }

    /// Reads the WAL from the manifest's floor to its end.
    async fn examine(
        &self,
        examined: &mut Examined,
        manifest: &Manifest,
        firsts: &mut WalFirsts,
        see: &mut dyn FnMut(Seen),
    ) -> Result<(), StorageError> {
        let floor = manifest.floor;
        let missing = missing_file(&self.files, floor.epoch, manifest.generation > 1);
        let there = self.files.range(..missing.unwrap_or(u64::MAX));
        let lengths = there.map(|(epoch, file)| (*epoch, file.bytes));
        let mut replay = Replay::new(self.nonce, lengths.collect(), floor);
        let mut ends = Ends {
            last_epoch: floor.epoch,
            by_epoch: BTreeMap::from([(floor.epoch, floor.position)]),
        };
        while let Some(need) = replay.need() {
            let bytes = self.read(need).await?;
            match replay.feed(&bytes) {
                Fed::Nothing => {}
                Fed::Commit { records, .. } => {
                    ends.last_epoch = need.epoch;
                    let end = need.position + bytes.len() as u64;
                    ends.by_epoch.insert(need.epoch, end);
                    examined.totals.commits += 1;
                    examined.totals.records += records.len() as u64;
                    tell(need, &bytes, &records, see);
                    for record in &records {
                        let start = offsets(&bytes, record).map(|(start, _)| start);
                        holes::note(firsts, record.header.key, record.header.kind, start);
                    }
                }
                Fed::Corrupt { epoch, position } => {
                    let next = replay.end().place;
                    let lost = self.lost_after(epoch, position, next.commit_id).await?;
                    self.tell_corrupt(examined, epoch, position, lost);
                    self.tell_unreadable(examined, &ends, epoch);
                    return Ok(());
                }
            }
            yield_if_needed().await;
        }
        let Some(epoch) = missing else {
            examined.totals.torn_bytes = replay.end().cut_bytes;
            self.tell_unreadable(examined, &ends, u64::MAX);
            return Ok(());
        };
        let is_floor = epoch == floor.epoch;
        let begin = if is_floor {
            floor.position
        } else {
            FIRST_COMMIT_POSITION
        };
        let next = replay.end().place;
        let lost = self.lost_after(epoch, begin, next.commit_id).await?;
        examined.findings.push(Finding {
            file: examined.dir.join(names::wal(epoch)),
            position: begin,
            what: "the WAL file is missing".to_owned(),
            remedy: cut(epoch, begin),
            lost,
        });
        self.tell_unreadable(examined, &ends, epoch);
        Ok(())
    }

    fn tell_corrupt(&self, examined: &mut Examined, epoch: u64, position: u64, lost: Vec<Lost>) {
        let unreadable = self.unreadable.borrow();
        let mut what = "a synced commit does not verify, though a later one does".to_owned();
        if let Some(unreadable) = unreadable.get(&epoch) {
            let said = reading::unreadable(&unreadable.error);
            what = format!("{what}; byte {}: {said}", unreadable.first);
        }
        examined.findings.push(Finding {
            file: examined.dir.join(names::wal(epoch)),
            position,
            what,
            remedy: cut(epoch, position),
            lost,
        });
    }

    /// Tells the files before the one of `end_epoch`, where the WAL is cut, that have blocks which can't be read. All
    /// commits that verify stand before those.
    fn tell_unreadable(&self, examined: &mut Examined, ends: &Ends, end_epoch: u64) {
        for (epoch, unreadable) in self.unreadable.borrow().range(..end_epoch) {
            let end = ends.by_epoch.get(epoch).copied();
            let position = end.unwrap_or(FIRST_COMMIT_POSITION);
            let said = reading::unreadable(&unreadable.error);
            // Ids of commits leave none out: none was here if a later file goes on.
            let is_passed = *epoch < ends.last_epoch || unreadable.last < position;
            let meaning = if is_passed {
                "no commit is missing there"
            } else {
                "a commit may have been there, and may have been acknowledged"
            };
            examined.findings.push(Finding {
                file: examined.dir.join(names::wal(*epoch)),
                position: unreadable.first,
                what: format!("{said}; {meaning}"),
                remedy: Remedy::BlankWal {
                    epoch: *epoch,
                    position,
                },
                lost: Vec::new(),
            });
        }
    }

    async fn read(&self, need: Need) -> Result<Buf, StorageError> {
        self.read_at(need.epoch, need.position, need.length).await
    }

    async fn read_at(&self, epoch: u64, position: u64, length: usize) -> Result<Buf, StorageError> {
        let file = self
            .files
            .get(&epoch)
            .expect("the replay asks for files that there are");
        let read = read_around(&file.file, position, length).await;
        let (bytes, unreadable) = read.map_err(|source| StorageError::disk(&file.path, source))?;
        if let Some(unreadable) = unreadable {
            match self.unreadable.borrow_mut().entry(epoch) {
                Entry::Vacant(none) => drop(none.insert(unreadable)),
                Entry::Occupied(mut known) => known.get_mut().extend(unreadable),
            }
        }
        Ok(bytes)
    }

    /// What sound commits from id `commit_id` on hold behind this place, by partition.
    async fn lost_after(
        &self,
        epoch: u64,
        position: u64,
        commit_id: u64,
    ) -> Result<Vec<Lost>, StorageError> {
        let mut lost = BTreeMap::new();
        for (file_epoch, file) in self.files.range(epoch..) {
            let mut at = if *file_epoch == epoch {
                position
            } else {
                FIRST_COMMIT_POSITION
            };
            while file.bytes.saturating_sub(at) >= BLOCK_BYTES as u64 {
                let blocks = (file.bytes - at).min(SEARCH_BYTES) / BLOCK_BYTES as u64;
                let length = usize::try_from(blocks).expect("a search") * BLOCK_BYTES;
                let need = Need {
                    epoch: *file_epoch,
                    position: at,
                    length,
                };
                let window = self.read(need).await?;
                at = self
                    .search(file, *file_epoch, at, &window, commit_id, &mut lost)
                    .await?;
                yield_if_needed().await;
            }
        }
        let ranges = lost
            .into_iter()
            .map(|(key, (start, end))| Lost { key, start, end });
        Ok(ranges.collect())
    }

    /// Notes the commits that begin in `window`; returns where to go on.
    async fn search(
        &self,
        file: &WalFile,
        epoch: u64,
        from: u64,
        window: &Buf,
        commit_id: u64,
        lost: &mut BTreeMap<PartitionKey, (Offset, Offset)>,
    ) -> Result<u64, StorageError> {
        let end = from + window.len() as u64;
        let mut at = from;
        while at < end {
            let start = usize::try_from(at - from).expect("within the window");
            let block = window.get(start..).unwrap_or_default();
            let header = CommitHeader::decode(block, self.nonce, epoch, at)
                .filter(|header| header.commit_id >= commit_id)
                .filter(|header| at + u64::from(header.length) <= file.bytes);
            let Some(header) = header else {
                at += BLOCK_BYTES as u64;
                continue;
            };
            let need = Need {
                epoch,
                position: at,
                length: header.length as usize,
            };
            let commit = self.read(need).await?;
            for record in read_commit(&commit, &header, self.nonce).unwrap_or_default() {
                let Some((start, end)) = offsets(&commit, &record) else {
                    continue;
                };
                let range = lost.entry(record.header.key).or_insert((start, end));
                *range = (range.0.min(start), range.1.max(end));
            }
            at += u64::from(header.length);
        }
        Ok(at)
    }
}
