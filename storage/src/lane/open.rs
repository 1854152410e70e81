//! Opens a lane: manifest, then tables, then the WAL from the manifest's floor to its end.
//!
//! The time it takes is bounded by the WAL that is not flushed, not by the data: of tables only
//! trailers and footers are read.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use streambus_proto::ids::{LeaderEpoch, Offset};
use streambus_shards::{Buf, DiskError, File, disk, now, rng_u64, wall_ms};

use super::flush::write_manifest;
use super::reserve::Reserve;
use super::state::State;
use super::tables::LiveTable;
use super::{Lane, Notify};
use crate::batch::BatchInfo;
use crate::cache::BlockCache;
use crate::config::LaneConfig;
use crate::error::StorageError;
use crate::key::PartitionKey;
use crate::manifest::{MANIFEST_VERSION, Manifest, ManifestError, PartitionEntry};
use crate::names::{self, FileKind};
use crate::partition::{Partition, TableRange};
use crate::table::files::TableFiles;
use crate::table::reader::Table;
use crate::wal::buffer::{FramedBatch, WalBounds, WalBuffer};
use crate::wal::files::WalFiles;
use crate::wal::record::{
    BLOCK_BYTES, FIRST_COMMIT_POSITION, FileHeader, FileHeaderRead, Nonce, RecordAt, RecordKind,
    WAL_VERSION,
};
use crate::wal::replay::{Fed, Need, Replay, WalEnd};
use crate::wal::{WalPlace, missing_file};

/// How much of the WAL is read at once: more than the largest commit, by default, or each would be read
/// twice, once to its header and once from there.
const WINDOW_BYTES: u64 = 8 << 20;

/// What a lane found when it was opened.
#[derive(Debug, Clone, Default)]
pub struct Recovery {
    /// Its partitions, sorted.
    pub partitions: Vec<RecoveredPartition>,
    /// Tables opened.
    pub tables: usize,
    /// Commits read from the WAL.
    pub replayed_commits: u64,
    /// Bytes of them.
    pub replayed_bytes: u64,
    /// Bytes of WAL read for it: behind the last commit too, to know that it is the last.
    pub scanned_bytes: u64,
    /// How long reading and applying took.
    pub replayed_in: Duration,
    /// Bytes of a commit at the end of the WAL that is not whole, and was cut: a crash came before its sync returned,
    /// unless synced bytes have rotted since, which nothing behind it tells.
    pub cut_bytes: u64,
    /// Files that the lane did not know and moved to `quarantine/`.
    pub quarantined: Vec<String>,
}

/// A partition as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoveredPartition {
    /// Which one.
    pub key: PartitionKey,
    /// First offset.
    pub log_start: Offset,
    /// Offset after the last batch.
    pub log_end: Offset,
    /// The owner's state as of an offset, as it gave it at the last flush.
    pub annotation: Option<(Offset, Vec<u8>)>,
    /// The batches after the annotation: what the owner's state lacks.
    pub tail: Vec<BatchInfo>,
    /// Bytes of its batches.
    pub size_bytes: u64,
    /// Leader epochs with the offsets at which they began.
    pub epochs: Vec<(LeaderEpoch, Offset)>,
}

/// The lane's directory, sorted by what its files are.
#[derive(Debug, Default)]
struct Listing {
    manifest: bool,
    wal: Vec<u64>,
    tables: Vec<u64>,
    incomplete: Vec<String>,
    unknown: Vec<String>,
}

impl Lane {
    /// Whether there is a lane in `dir`: one that was opened has its manifest from then on.
    pub fn is_in(dir: &Path) -> bool {
        disk::exists(&dir.join(names::MANIFEST))
    }

    /// Opens the lane in `dir`, which is created if it is not there.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] when synced bytes are lost or changed, and
    /// [`StorageError::OtherVersion`]: nothing was changed on disk then. Others as they say.
    pub async fn open(
        dir: &Path,
        config: LaneConfig,
    ) -> Result<(Rc<Lane>, Recovery), StorageError> {
        config.validate()?;
        let mut listing = list(dir).await?;
        let manifest = read_manifest(dir, &listing).await?;
        name_tables(dir, &mut listing, &manifest).await?;
        let nonce = Nonce(manifest.nonce);
        let files = WalFiles::new(dir, nonce, &config);
        let (wal, lengths) = open_wal(&files, &listing, &manifest).await?;
        let keeper_wake = Rc::new(Notify::new());
        let table_files = TableFiles::new(config.table_files_max, Rc::clone(&keeper_wake));
        let mut opening = Opening {
            state: State::new(
                config.clone(),
                &manifest,
                buffer(&config, nonce, manifest.floor),
            ),
            recovery: Recovery::default(),
            touched: Vec::new(),
            nonce,
            files,
            table_files: Rc::new(table_files),
            keeper_wake,
            now_ms: wall_ms(),
            commit_ms: 0,
        };
        opening.tables(dir, &manifest).await?;
        let began = now();
        let (end, last) = opening.replay(&wal, &lengths, manifest.floor).await?;
        opening.recovery.replayed_in = began.elapsed();
        opening.settle(end.cut_bytes);
        // Everything that had to be found was found: only now is anything on disk changed.
        opening.recovery.quarantined = clean(dir, &listing, &manifest).await?;
        if let Some(last) = last {
            opening.write_again(&wal, &last).await?;
        }
        opening.resume(wal, lengths, end).await?;
        let lane = opening.finish(dir, &manifest).await?;
        Ok(lane)
    }
}

fn buffer(config: &LaneConfig, nonce: Nonce, place: WalPlace) -> WalBuffer {
    let bounds = WalBounds {
        file_bytes: config.wal_file_bytes,
        commit_bytes_max: config.commit_bytes_max,
    };
    let run = u32::try_from(rng_u64() >> 32).expect("32 bits are left");
    WalBuffer::new(nonce, run, bounds, place)
}

async fn list(dir: &Path) -> Result<Listing, StorageError> {
    let failed = |source| StorageError::disk(dir, source);
    disk::make_dir_all(dir).await.map_err(failed)?;
    // The process before may have died between giving a file its name and making the name durable.
    disk::sync_dir(dir).await.map_err(failed)?;
    let mut listing = Listing::default();
    for name in disk::list(dir).map_err(failed)? {
        match FileKind::of(&name) {
            FileKind::Manifest => listing.manifest = true,
            FileKind::Wal { epoch } => listing.wal.push(epoch),
            FileKind::Table { id } => listing.tables.push(id),
            FileKind::Incomplete => listing.incomplete.push(name),
            FileKind::Quarantine | FileKind::Reserve | FileKind::LostAndFound => {}
            FileKind::Unknown => listing.unknown.push(name),
        }
    }
    listing.wal.sort_unstable();
    Ok(listing)
}

/// Reads the manifest; a directory without one and without data gets its first.
async fn read_manifest(dir: &Path, listing: &Listing) -> Result<Manifest, StorageError> {
    let path = dir.join(names::MANIFEST);
    if !listing.manifest {
        if !listing.tables.is_empty() || !listing.wal.is_empty() {
            let what = "there are tables or WAL files, but the manifest is missing";
            return Err(StorageError::corrupt(&path, 0, what));
        }
        let manifest = Manifest::new(rng_u64());
        write_manifest(dir, &manifest).await?;
        return Ok(manifest);
    }
    let bytes = disk::read_file(&path)
        .await
        .map_err(|error| StorageError::disk(&path, error))?;
    Manifest::decode(&bytes).map_err(|error| match error {
        ManifestError::OtherVersion(found) => StorageError::OtherVersion {
            file: path,
            found,
            supported: MANIFEST_VERSION,
        },
        ManifestError::Damaged => StorageError::corrupt(&path, 0, "the manifest does not verify"),
    })
}

/// Gives tables that the manifest names their names: a crash came in between.
async fn name_tables(
    dir: &Path,
    listing: &mut Listing,
    manifest: &Manifest,
) -> Result<(), StorageError> {
    for entry in &manifest.tables {
        let unnamed = names::table_new(entry.id);
        let named = listing.tables.contains(&entry.id);
        if let Some(at) = listing
            .incomplete
            .iter()
            .position(|name| !named && *name == unnamed)
        {
            let path = dir.join(names::table(entry.id));
            let renamed = disk::rename(&dir.join(&unnamed), &path).await;
            renamed.map_err(|source| StorageError::disk(&path, source))?;
            listing.incomplete.swap_remove(at);
            listing.tables.push(entry.id);
        }
    }
    Ok(())
}

type WalOpened = (BTreeMap<u64, Rc<File>>, BTreeMap<u64, u64>);

/// Opens the WAL files; refuses those of another version and a missing one.
async fn open_wal(
    files: &WalFiles,
    listing: &Listing,
    manifest: &Manifest,
) -> Result<WalOpened, StorageError> {
    let mut wal = BTreeMap::new();
    let mut lengths = BTreeMap::new();
    for epoch in &listing.wal {
        let path = files.path(*epoch);
        let failed = |source| StorageError::disk(&path, source);
        let file = files.open(*epoch).await?;
        let length = file.len().map_err(failed)?;
        if length >= BLOCK_BYTES as u64 {
            let block = file.read_at(0, BLOCK_BYTES).await.map_err(failed)?;
            let header = FileHeader::decode(&block, Nonce(manifest.nonce));
            if let FileHeaderRead::OtherVersion(found) = header {
                return Err(StorageError::OtherVersion {
                    file: path,
                    found,
                    supported: WAL_VERSION,
                });
            }
        }
        lengths.insert(*epoch, length);
        wal.insert(*epoch, Rc::new(file));
    }
    // The first manifest is written before the first WAL file, the second after it.
    let begun = manifest.generation > 1;
    if let Some(epoch) = missing_file(&wal, manifest.floor.epoch, begun) {
        let path = files.path(epoch);
        return Err(StorageError::corrupt(&path, 0, "the WAL file is missing"));
    }
    Ok((wal, lengths))
}

/// A lane that is being opened.
struct Opening {
    state: State,
    recovery: Recovery,
    /// What each recovered partition had in the WAL.
    touched: Vec<BatchInfoOf>,
    nonce: Nonce,
    files: WalFiles,
    table_files: Rc<TableFiles>,
    keeper_wake: Rc<Notify>,
    /// By the wall clock: the age of what has none.
    now_ms: i64,
    /// When the commit that is applied was sealed.
    commit_ms: i64,
}

struct BatchInfoOf {
    slot: usize,
    info: BatchInfo,
}

impl Opening {
    /// Opens the tables and hands their ranges to the manifest's partitions.
    async fn tables(&mut self, dir: &Path, manifest: &Manifest) -> Result<(), StorageError> {
        // Those that begin behind the floor are in the WAL, or nowhere; manifests told of them once.
        let in_tables = |entry: &&PartitionEntry| entry.created_sequence < manifest.floor.sequence;
        for entry in manifest.partitions.iter().filter(in_tables) {
            if self.state.slot_of(entry.key).is_some() {
                let path = dir.join(names::MANIFEST);
                return Err(StorageError::corrupt(
                    &path,
                    0,
                    "a partition is listed twice",
                ));
            }
            self.state.insert(Partition::from_entry(entry.clone()));
        }
        let mut ranges = Vec::new();
        for entry in &manifest.tables {
            let table = Table::open(&self.table_files, dir, self.nonce, entry, self.now_ms).await?;
            let table = Rc::new(table);
            let mut live = LiveTable::new(Rc::clone(&table), entry.sequence_end, entry.merges);
            live.replaced_parts.extend(&entry.replaced_parts);
            for at in 0..table.footer.parts.len() {
                let replaced = u32::try_from(at).map(|at| live.replaced_parts.contains(&at));
                if replaced != Ok(true) {
                    ranges.push((entry.sequence_end, TableRange::new(&table, at)));
                }
            }
            self.state.tables.insert(live);
        }
        self.recovery.tables = manifest.tables.len();
        ranges.sort_by_key(|(_, range)| (range.part().key, range.start));
        for (sequence_end, range) in ranges {
            self.take_range(sequence_end, range)?;
        }
        Ok(())
    }

    /// A range belongs to its partition unless that was dropped, or begun anew, or starts later.
    fn take_range(&mut self, sequence_end: u64, range: TableRange) -> Result<(), StorageError> {
        let Some(partition) = self.state.partition_mut(range.part().key) else {
            return Ok(());
        };
        if partition.created_sequence >= sequence_end || range.end <= partition.log_start {
            return Ok(());
        }
        if partition
            .ranges
            .last()
            .is_some_and(|last| last.end > range.start)
        {
            let position = range.part().position;
            let what = "two tables hold the same offsets";
            return Err(StorageError::corrupt(range.table.path(), position, what));
        }
        partition.log_end = range.end;
        partition.keyed |= !range.part().filters.is_empty();
        let (id, bytes) = (range.table.id(), range.part().bytes);
        partition.ranges.push(range);
        self.state.tables.count_in(id, bytes);
        Ok(())
    }

    /// Reads the WAL to its end and applies what is in it. Returns the last commit besides.
    async fn replay(
        &mut self,
        wal: &BTreeMap<u64, Rc<File>>,
        lengths: &BTreeMap<u64, u64>,
        floor: WalPlace,
    ) -> Result<(WalEnd, Option<LastCommit>), StorageError> {
        let files = lengths
            .range(floor.epoch..)
            .map(|(epoch, length)| (*epoch, *length));
        let mut replay = Replay::new(self.nonce, files.collect(), floor);
        let mut window = Window::default();
        let mut last = None;
        while let Some(need) = replay.need() {
            let file = wal
                .get(&need.epoch)
                .expect("the replay asks for files that there are");
            let length = lengths.get(&need.epoch).copied().unwrap_or(0);
            let (bytes, fresh) = window
                .read(file, need, length)
                .await
                .map_err(|source| StorageError::disk(&self.files.path(need.epoch), source))?;
            self.state.active.held_bytes += fresh;
            self.recovery.scanned_bytes += fresh as u64;
            match replay.feed(&bytes) {
                Fed::Nothing => {}
                Fed::Commit { records, sealed_ms } => {
                    self.note_time(sealed_ms);
                    self.apply_commit(need, &bytes, &records)?;
                    last = Some(LastCommit { need, bytes });
                }
                Fed::Corrupt { epoch, position } => {
                    let what = "a synced commit does not verify, though a later one does";
                    return Err(StorageError::corrupt(
                        &self.files.path(epoch),
                        position,
                        what,
                    ));
                }
            }
        }
        Ok((replay.end(), last))
    }

    /// Makes the last commit durable. The process before may have ended for its failed sync, after which
    /// what is read is not what is on the disk, and no later sync covers it. Those before it
    /// were synced: it was not issued earlier.
    async fn write_again(
        &self,
        wal: &BTreeMap<u64, Rc<File>>,
        last: &LastCommit,
    ) -> Result<(), StorageError> {
        let LastCommit { need, bytes } = last;
        let file = wal.get(&need.epoch).expect("it was just read from there");
        let written = async {
            file.write_at(need.position, bytes).await?;
            file.datasync().await
        };
        let failed = |source| StorageError::disk(&self.files.path(need.epoch), source);
        written.await.map_err(failed)
    }

    /// What is applied from here on was appended at this time.
    fn note_time(&mut self, sealed_ms: u64) {
        let known = i64::try_from(sealed_ms).ok().filter(|time| *time > 0);
        self.commit_ms = known.unwrap_or(self.now_ms);
        self.state.active.note_time(self.commit_ms);
    }

    fn apply_commit(
        &mut self,
        need: Need,
        bytes: &Buf,
        records: &[RecordAt],
    ) -> Result<(), StorageError> {
        self.recovery.replayed_commits += 1;
        self.recovery.replayed_bytes += bytes.len() as u64;
        for record in records {
            self.apply_record(bytes, record).map_err(|what| {
                let position = need.position + record.payload.start as u64;
                StorageError::corrupt(&self.files.path(need.epoch), position, what)
            })?;
        }
        Ok(())
    }

    fn apply_record(&mut self, bytes: &Buf, record: &RecordAt) -> Result<(), &'static str> {
        let header = record.header;
        let known = self.state.partition(header.key);
        if known.is_some_and(|partition| header.sequence < partition.created_sequence) {
            return Ok(()); // An earlier incarnation's, dropped since.
        }
        match header.kind {
            RecordKind::Batch => {
                let batch = bytes.slice(record.payload.clone());
                self.apply_batch(header.key, header.sequence, batch)
            }
            RecordKind::LogStart => {
                let field = bytes
                    .get(record.payload.clone())
                    .and_then(<[u8]>::first_chunk);
                let offset = field
                    .map(|field| i64::from_le_bytes(*field))
                    .filter(|at| *at >= 0);
                let offset = Offset(offset.ok_or("a log start record without an offset")?);
                self.state
                    .apply_log_start(header.key, offset, header.sequence);
                Ok(())
            }
            RecordKind::DropPartition => {
                self.state.remove(header.key);
                Ok(())
            }
        }
    }

    fn apply_batch(
        &mut self,
        key: PartitionKey,
        sequence: u64,
        bytes: Buf,
    ) -> Result<(), &'static str> {
        let info = BatchInfo::read(&bytes).filter(|info| info.bytes == bytes.len());
        let info = info.ok_or("a batch record without a batch")?;
        let slot = match self.state.slot_of(key) {
            Some(slot) => slot,
            None => self.state.insert(Partition::new(key, sequence)),
        };
        let floor = self.state.floor.sequence;
        let State {
            partitions, active, ..
        } = &mut self.state;
        let partition = partitions
            .get_mut(slot)
            .and_then(Option::as_mut)
            .expect("known slot");
        // Dense, but for what lies before a log start that moved past the end meanwhile, and but
        // for a partition whose drop follows: the manifest does not know it any more.
        let empty = partition.ranges.is_empty() && partition.mem.is_empty();
        let follows = info.base_offset == partition.log_end;
        let below_start = info.base_offset > partition.log_end
            && info.base_offset <= partition.log_start.max(partition.log_end);
        let unknown = empty && partition.created_sequence >= floor;
        if !follows && !below_start && !unknown {
            return Err("a batch's offset does not follow the one before");
        }
        partition.note_epoch(info.leader_epoch, info.base_offset);
        partition.log_end = info.next_offset();
        let batch = FramedBatch {
            slot,
            base_offset: info.base_offset,
            last_offset: info.last_offset,
            max_timestamp: info.max_timestamp,
            bytes,
        };
        let range = partition.memtable.map(|(_, at)| at);
        partition.memtable = Some((active.id, active.add(range, &batch)));
        partition.note_time(self.commit_ms);
        partition.mem.push(active.id, batch);
        self.touched.push(BatchInfoOf { slot, info });
        Ok(())
    }

    /// The partitions stand as they were found; reports them.
    fn settle(&mut self, cut_bytes: u64) {
        self.recovery.cut_bytes = cut_bytes;
        let mut tails: BTreeMap<usize, Vec<BatchInfo>> = BTreeMap::new();
        for BatchInfoOf { slot, info } in self.touched.drain(..) {
            tails.entry(slot).or_default().push(info);
        }
        for (slot, place) in self.state.partitions.iter_mut().enumerate() {
            let Some(partition) = place else { continue };
            partition.log_end = partition.log_end.max(partition.log_start);
            partition.durable_end = partition.log_end;
            let (start, end) = (partition.log_start, partition.log_end);
            partition.mem.take_below(start);
            // An epoch that was noted for batches which were not durable wrote nothing.
            partition.epochs.retain(|(_, begun)| *begun < end);
            let annotated = partition
                .annotation
                .as_ref()
                .map_or(Offset(0), |known| known.offset);
            let mut tail = tails.remove(&slot).unwrap_or_default();
            tail.retain(|info| info.base_offset >= annotated.max(Offset(0)));
            let annotation = partition.annotation.clone();
            self.recovery.partitions.push(RecoveredPartition {
                key: partition.key,
                log_start: start,
                log_end: end,
                annotation: annotation.map(|known| (known.offset, known.bytes)),
                tail,
                size_bytes: partition.bytes(),
                epochs: partition.epochs.clone(),
            });
        }
        self.recovery
            .partitions
            .sort_unstable_by_key(|partition| partition.key);
    }

    /// Takes up the WAL where it ended: in the same file, if it has the right length.
    async fn resume(
        &mut self,
        mut wal: BTreeMap<u64, Rc<File>>,
        lengths: BTreeMap<u64, u64>,
        end: WalEnd,
    ) -> Result<(), StorageError> {
        let WalEnd { mut place, .. } = end;
        let file_bytes = self.state.config.wal_file_bytes;
        let right = |epoch: &u64| lengths.get(epoch) == Some(&file_bytes);
        // A file of another length (the setting changed) is read, but not written to.
        if wal.contains_key(&place.epoch) && !right(&place.epoch) {
            place.epoch += 1;
            place.position = FIRST_COMMIT_POSITION;
        }
        let floor = self.state.floor.epoch;
        let keep = |epoch: &u64| right(epoch) || (floor..place.epoch).contains(epoch);
        let remove: Vec<u64> = wal.keys().copied().filter(|epoch| !keep(epoch)).collect();
        for epoch in remove {
            // Nothing in it is needed: it lies before the floor, or the replay found it empty.
            wal.remove(&epoch);
            let path = self.files.path(epoch);
            let failed = |source| StorageError::disk(&path, source);
            disk::remove_file(&path).await.map_err(failed)?;
        }
        for (epoch, file) in wal.range(place.epoch..) {
            // A crash may have come between a file's new name and its new header. A header that
            // stands in front of commits is not touched: the place is in the file then.
            if *epoch > place.epoch || place.position == FIRST_COMMIT_POSITION {
                self.files.stamp(file, *epoch).await?;
            }
        }
        if let Entry::Vacant(missing) = wal.entry(place.epoch) {
            missing.insert(self.files.create(place.epoch).await?);
        }
        self.state.wal = wal;
        self.state.buffer = buffer(&self.state.config, self.nonce, place);
        self.state.durable = place;
        Ok(())
    }

    async fn finish(
        self,
        dir: &Path,
        manifest: &Manifest,
    ) -> Result<(Rc<Lane>, Recovery), StorageError> {
        let Opening {
            state,
            recovery,
            nonce,
            files,
            table_files,
            keeper_wake,
            ..
        } = self;
        let cache = Rc::new(BlockCache::new(state.config.cache_bytes));
        let lane = Lane {
            dir: dir.to_owned(),
            nonce,
            wal_files: files,
            state: std::cell::RefCell::new(state),
            observer: std::cell::RefCell::default(),
            wal_wake: Notify::new(),
            wal_ready: Notify::new(),
            prepare_wake: Notify::new(),
            memory_wake: Notify::new(),
            keeper_wake,
            scrub_wake: Notify::new(),
            durable_wake: Notify::new(),
            commit_under_way: std::cell::Cell::default(),
            writable_wake: Notify::new(),
            line: Rc::default(),
            decompressions: Rc::default(),
            tasks: std::cell::RefCell::default(),
            cache,
            table_files,
            reserve: Reserve::default(),
        };
        // Without it, what has no age would begin anew at each start.
        let ageless = manifest
            .tables
            .iter()
            .any(|entry| entry.written_ms.is_none());
        if manifest.generation == 1 || ageless {
            let second = lane.state.borrow().manifest(manifest.floor, &[]);
            lane.write_manifest(&second).await?;
        }
        lane.keep_reserve().await;
        Ok((Rc::new(lane), recovery))
    }
}

/// The last commit that the replay found, and where it stands.
struct LastCommit {
    need: Need,
    bytes: Buf,
}

/// Part of a WAL file, read ahead of the replay.
#[derive(Default)]
struct Window {
    epoch: u64,
    position: u64,
    bytes: Option<Buf>,
}

impl Window {
    /// The bytes of `need`, and how much memory was newly taken for them.
    async fn read(
        &mut self,
        file: &File,
        need: Need,
        file_bytes: u64,
    ) -> Result<(Buf, usize), DiskError> {
        if let Some(bytes) = self.inside(need) {
            return Ok((bytes, 0));
        }
        let left = (file_bytes - need.position) / BLOCK_BYTES as u64 * BLOCK_BYTES as u64;
        let length = WINDOW_BYTES.max(need.length as u64).min(left);
        let length = usize::try_from(length).expect("windows fit memory");
        assert!(
            length >= need.length,
            "the replay asks for what the file has"
        );
        let read = file.read_at(need.position, length).await?;
        let fresh = read.len();
        let bytes = read.slice(0..need.length);
        *self = Window {
            epoch: need.epoch,
            position: need.position,
            bytes: Some(read),
        };
        Ok((bytes, fresh))
    }

    fn inside(&self, need: Need) -> Option<Buf> {
        let bytes = self.bytes.as_ref().filter(|_| self.epoch == need.epoch)?;
        let start = usize::try_from(need.position.checked_sub(self.position)?).ok()?;
        let end = start
            .checked_add(need.length)
            .filter(|end| *end <= bytes.len())?;
        Some(bytes.slice(start..end))
    }
}

/// Removes what is incomplete by its name or named obsolete; moves what is unknown aside.
async fn clean(
    dir: &Path,
    listing: &Listing,
    manifest: &Manifest,
) -> Result<Vec<String>, StorageError> {
    let failed = |source| StorageError::disk(dir, source);
    let wanted = |id: &u64| manifest.tables.iter().any(|table| table.id == *id);
    let mut quarantined = listing.unknown.clone();
    let mut removed = listing.incomplete.clone();
    for id in listing.tables.iter().filter(|id| !wanted(id)) {
        let obsolete = manifest.obsolete.contains(id);
        let list = if obsolete {
            &mut removed
        } else {
            &mut quarantined
        };
        list.push(names::table(*id));
    }
    for name in &removed {
        disk::remove_file(&dir.join(name)).await.map_err(failed)?;
    }
    if !quarantined.is_empty() {
        let quarantine = dir.join(names::QUARANTINE);
        disk::create_dir_all(&quarantine).map_err(failed)?;
        for name in &quarantined {
            tracing::warn!(dir = %dir.display(), file = %name, "unknown file moved to quarantine");
            let to = free_name(&quarantine, name);
            disk::rename(&dir.join(name), &to).await.map_err(failed)?;
        }
        disk::sync_dir(&quarantine).await.map_err(failed)?;
    }
    if !quarantined.is_empty() || !removed.is_empty() {
        disk::sync_dir(dir).await.map_err(failed)?;
    }
    Ok(quarantined)
}

/// A name in the quarantine that nothing has yet: what lies there is never written over.
pub(crate) fn free_name(quarantine: &Path, name: &str) -> std::path::PathBuf {
    let plain = quarantine.join(name);
    let numbered = (1_u32..).map(|nth| quarantine.join(format!("{name}.{nth}")));
    let mut names = std::iter::once(plain).chain(numbered);
    names
        .find(|path| !disk::exists(path))
        .expect("fewer than 2^32 files of one name")
}
