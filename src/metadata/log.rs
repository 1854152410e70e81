//! The metadata log on disk: one directory with the newest snapshot and the log after it.
//!
//! A log file is written full of zeros before it is used, so appending needs no space: topics can be
//! deleted on a full disk. When it is full, the image goes into a snapshot and a new file starts; a
//! reserve file gives its space for that on a full disk. Nothing is removed before what replaces it
//! is on disk under its name.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use streambus_shards::{Buf, DiskError, File, OpenOptions, disk};

use super::delta::{Change, Delta, MetadataIndex};
use super::frame::{self, FileKind, FrameError, FrameWriter, HEADER_BYTES, Header};
use super::image::{ConfigMap, Identity, Image};
use super::record::RecordError;
use super::snapshot;

/// Zeros are written in pieces of this size.
const ZEROS_BYTES: usize = 1 << 20;

const RESERVE: &str = "reserve";

/// What files take beyond their lengths: the rest of a block, for the directory too.
const BLOCKS_REST_BYTES: usize = 16 << 10;

/// Why the metadata can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// What is on disk is not what was written, or not for this version: start-up is refused.
    #[error("metadata file {path}: {error}")]
    Unreadable {
        /// The file.
        path: String,
        /// What and where.
        error: FrameError,
    },
    /// The files do not belong together.
    #[error("metadata file {path}: {what}")]
    Inconsistent {
        /// The file.
        path: String,
        /// What does not fit.
        what: String,
    },
    /// The disk refuses. Only where a function says so may the node go on.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

impl LogError {
    /// Whether something is damaged or lost. Otherwise it is this program that may not read it, or does not
    /// understand it.
    pub fn is_damage(&self) -> bool {
        match self {
            LogError::Unreadable { error, .. } => !matches!(
                error,
                FrameError::FutureVersion(_)
                    | FrameError::Record {
                        record: RecordError::UnknownType(_),
                        ..
                    }
            ),
            LogError::Inconsistent { .. } => true,
            LogError::Disk(error) => error.is_of_medium(),
        }
    }
}

/// What start-up found.
#[derive(Debug)]
pub struct Opened {
    /// The metadata.
    pub image: Image,
    /// The log, ready for the next delta.
    pub log: MetadataLog,
    /// How many deltas came from the log.
    pub replayed: u64,
    /// How many bytes of a write that was never acknowledged were cut off.
    pub cut_bytes: usize,
}

/// The log's end. Lives on the control core; the controller alone writes.
#[derive(Debug)]
pub struct MetadataLog {
    dir: PathBuf,
    /// How long the next file is made: a delta that is larger is refused. The default of 16 MiB takes some 1.4
    /// million partitions, and replaying it some tens of milliseconds.
    new_file_bytes: usize,
    file: File,
    /// How long the file is. It may be from before the setting was changed; what goes beyond its end needs space.
    file_bytes: usize,
    /// The index in the file's header.
    first: MetadataIndex,
    /// Where the next frame goes.
    position: usize,
    staged: Option<FrameWriter>,
    /// The logs and snapshots that are there, which a roll replaces. Listing them blocks, so only start-up does.
    files: Vec<PathBuf>,
    /// The size of the newest snapshot; 0 while there is none.
    snapshot_bytes: usize,
}

impl MetadataLog {
    /// Whether there is a log in `dir`.
    ///
    /// # Errors
    /// If it can't be listed.
    pub fn is_in(dir: &Path) -> Result<bool, LogError> {
        Ok(disk::exists(dir) && !Files::list(dir)?.is_empty())
    }

    /// Opens the log in `dir`, or makes it with `identity` if there is none. The directory belongs
    /// to whoever is in it: compare [`Image::identity`] with what is configured. Files that are made
    /// are `file_bytes` long; those that are there stay as they are, but for the reserve. Nobody else may open it
    /// meanwhile; reading it with [`MetadataLog::verify`] does no harm.
    ///
    /// # Errors
    /// If what is there can't be used. Nothing is changed then.
    pub async fn open(
        dir: &Path,
        identity: Identity,
        statics: Arc<ConfigMap>,
        file_bytes: usize,
    ) -> Result<Opened, LogError> {
        disk::make_dir_all(dir).await?;
        let files = Files::list(dir)?;
        let start = Start::read(dir, &files, Arc::clone(&statics)).await?;
        let image = start
            .image
            .unwrap_or_else(|| Image::empty(identity, statics));
        let (mut log, cut_bytes) = match start.last {
            Some((first, end, torn_bytes)) => {
                let log = MetadataLog::reopen(dir, file_bytes, first, (end, torn_bytes)).await?;
                (log, torn_bytes)
            }
            None => (MetadataLog::create(dir, &image, file_bytes).await?, 0),
        };
        log.files.extend(files.paths(dir));
        log.snapshot_bytes = start.snapshot_bytes;
        log.keep_reserve().await?;
        Ok(Opened {
            image,
            log,
            replayed: start.replayed,
            cut_bytes,
        })
    }

    /// Reads all that is in `dir` and changes nothing: the metadata, if there is any.
    ///
    /// # Errors
    /// If what is there can't be used.
    pub async fn verify(dir: PathBuf, statics: Arc<ConfigMap>) -> Result<Option<Image>, LogError> {
        if !disk::exists(&dir) {
            return Ok(None);
        }
        let files = Files::list(&dir)?;
        Ok(Start::read(&dir, &files, statics).await?.image)
    }

    /// Makes a new, empty log file for what follows `image`.
    async fn create(dir: &Path, image: &Image, file_bytes: usize) -> Result<MetadataLog, LogError> {
        let first = image.index().next();
        let path = dir.join(log_name(first));
        let making = dir.join("log.tmp");
        let header = Header {
            index: first,
            identity: image.identity().clone(),
        };
        let header = frame::encode_header(FileKind::Log, &header);
        let file = write_new(&making, header, file_bytes).await?;
        disk::rename(&making, &path).await?;
        disk::sync_dir(dir).await?;
        Ok(MetadataLog {
            dir: dir.to_owned(),
            new_file_bytes: file_bytes,
            file,
            file_bytes,
            first,
            position: HEADER_BYTES,
            staged: None,
            files: vec![path],
            snapshot_bytes: 0,
        })
    }

    /// Opens the last log file and clears the rest of a torn write, so that no later frame can be
    /// taken for its end. What is kept is written again: the process before may have ended for a failed
    /// sync, after which the kernel shows what is not on the disk, and no sync covers it unless it is.
    async fn reopen(
        dir: &Path,
        new_file_bytes: usize,
        first: MetadataIndex,
        (position, torn_bytes): (usize, usize),
    ) -> Result<MetadataLog, LogError> {
        let path = dir.join(log_name(first));
        let options = OpenOptions {
            write: true,
            ..OpenOptions::default()
        };
        let file = File::open(&path, options).await?;
        let kept = file.read_at(0, position).await?;
        file.write_at(0, &kept).await?;
        put_zeros(&file, position, position + torn_bytes).await?;
        file.datasync().await?;
        disk::sync_dir(dir).await?;
        let file_bytes = usize::try_from(file.len()?).expect("it was read into memory");
        Ok(MetadataLog {
            dir: dir.to_owned(),
            new_file_bytes,
            file,
            file_bytes,
            first,
            position,
            staged: None,
            files: vec![path],
            snapshot_bytes: 0,
        })
    }

    /// Gives this node more lanes, durably, before it serves. `image` is what the log holds.
    ///
    /// # Errors
    /// The node must not start.
    pub async fn add_lanes(&mut self, image: &mut Image, lanes: u16) -> Result<(), LogError> {
        let node = image.node();
        let delta = Delta {
            index: image.index().next(),
            changes: vec![Change::LanesAdded { node, lanes }],
        };
        if !self.stage(&delta) {
            self.roll(image).await?;
            let fits = self.stage(&delta);
            assert!(fits, "a new file has room for some bytes");
        }
        self.commit().await?;
        image.absorb(&delta);
        Ok(())
    }

    /// Adds a delta to the next write. `false`, and nothing happens, if the file has no room.
    pub(super) fn stage(&mut self, delta: &Delta) -> bool {
        let room = self.file_bytes.saturating_sub(self.position);
        let staged = self
            .staged
            .get_or_insert_with(|| FrameWriter::begin(delta.index));
        let fits = staged.push(&delta.changes, room);
        if staged.is_empty() {
            self.staged = None;
        }
        fits
    }

    /// Whether a new file has more room than this one. If not, what does not fit now never will.
    pub(super) fn roll_makes_room(&self) -> bool {
        let written = self.position > HEADER_BYTES || self.staged.is_some();
        written || self.file_bytes < self.new_file_bytes
    }

    /// Makes the staged deltas durable.
    ///
    /// # Errors
    /// The node must stop: a failed sync is never retried, for the kernel may have dropped the data.
    pub(super) async fn commit(&mut self) -> Result<(), LogError> {
        let Some(staged) = self.staged.take() else {
            return Ok(());
        };
        let frame = staged.finish(self.first);
        let end = self.position + frame.len();
        assert!(
            end <= self.file_bytes,
            "the frame was staged into the room there is"
        );
        let written = self
            .file
            .write_at(self.position as u64, &Buf::from(frame))
            .await;
        written?;
        self.file.datasync().await?;
        self.position = end;
        Ok(())
    }

    /// Writes a snapshot of `image`, which is all that the log holds, and starts a new file.
    ///
    /// # Errors
    /// [`DiskError::NoSpace`] leaves all but the reserve as it was. After another error the node must stop.
    pub(super) async fn roll(&mut self, image: &Image) -> Result<(), LogError> {
        assert!(
            self.staged.is_none(),
            "only what is durable goes into a snapshot"
        );
        match self.try_roll(image).await {
            Err(LogError::Disk(DiskError::NoSpace { .. })) => {
                remove_if_there(&self.dir.join(RESERVE)).await?;
                self.try_roll(image).await?;
            }
            done => done?,
        }
        self.keep_reserve().await
    }

    async fn try_roll(&mut self, image: &Image) -> Result<(), LogError> {
        let path = self.dir.join(snapshot_name(image.index()));
        let making = self.dir.join("snapshot.tmp");
        let snapshot = snapshot::encode(image);
        let snapshot_bytes = snapshot.len();
        write_new(&making, snapshot, 0).await?;
        let next = match MetadataLog::create(&self.dir, image, self.new_file_bytes).await {
            Ok(next) => next,
            Err(error) => {
                // It would take space that is short; that it could not go is the lesser news.
                let _ = disk::remove_file(&making).await;
                return Err(error);
            }
        };
        let full = std::mem::replace(self, next);
        self.files.extend(full.files);
        disk::rename(&making, &path).await?;
        disk::sync_dir(&self.dir).await?;
        // From here on start-up begins with the snapshot; the old log's deltas are in it.
        self.snapshot_bytes = snapshot_bytes;
        let kept = vec![self.dir.join(log_name(self.first)), path];
        for old in std::mem::replace(&mut self.files, kept.clone()) {
            if !kept.contains(&old) {
                remove_if_there(&old).await?;
            }
        }
        disk::sync_dir(&self.dir).await?;
        Ok(())
    }

    /// What a roll takes: the next file, and a snapshot, which has grown since the last one by no more than the
    /// log holds and the headers of its frames, which are shorter than a log's may be.
    fn reserve_bytes(&self) -> usize {
        let grown = self.file_bytes + self.file_bytes / 1_024;
        self.new_file_bytes + self.snapshot_bytes + grown + BLOCKS_REST_BYTES
    }

    /// Makes the reserve, or gives it another size, if there is space for that.
    async fn keep_reserve(&self) -> Result<(), LogError> {
        let bytes = self.reserve_bytes();
        match size_reserve(&self.dir.join(RESERVE), bytes as u64).await {
            Err(DiskError::NoSpace { path }) => {
                tracing::warn!(path = %path.display(), bytes, "no space for the metadata log's reserve");
                Ok(())
            }
            done => Ok(done?),
        }
    }
}

/// Start-up under way: the image as far as it is known.
struct Start {
    image: Option<Image>,
    statics: Arc<ConfigMap>,
    replayed: u64,
    /// The last log: its first index, its end, and what was torn there.
    last: Option<(MetadataIndex, usize, usize)>,
    snapshot_bytes: usize,
}

impl Start {
    /// Reads all of them; the image stays unknown if there are none.
    async fn read(dir: &Path, files: &Files, statics: Arc<ConfigMap>) -> Result<Start, LogError> {
        let mut start = Start::snapshot(dir, files, statics).await?;
        for first in &files.logs {
            start.log(dir, *first).await?;
        }
        Ok(start)
    }

    /// Begins with the newest snapshot, if there is one.
    async fn snapshot(
        dir: &Path,
        files: &Files,
        statics: Arc<ConfigMap>,
    ) -> Result<Start, LogError> {
        let mut start = Start {
            image: None,
            statics,
            replayed: 0,
            last: None,
            snapshot_bytes: 0,
        };
        let Some(index) = files.snapshots.last() else {
            return Ok(start);
        };
        let path = dir.join(snapshot_name(*index));
        let (header, bytes) = read(FileKind::Snapshot, *index, &path).await?;
        let mut image = Image::empty(header.identity.clone(), Arc::clone(&start.statics));
        snapshot::decode(&mut image, &header, &bytes).map_err(|error| unreadable(&path, error))?;
        start.image = Some(image);
        start.snapshot_bytes = bytes.len();
        Ok(start)
    }

    /// Goes on with a log.
    async fn log(&mut self, dir: &Path, first: MetadataIndex) -> Result<(), LogError> {
        let path = dir.join(log_name(first));
        let (header, bytes) = read(FileKind::Log, first, &path).await?;
        let statics = &self.statics;
        let image = self
            .image
            .get_or_insert_with(|| Image::empty(header.identity.clone(), Arc::clone(statics)));
        // The header says how many lanes there were when the file was begun.
        let (other, this) = (image.identity(), &header.identity);
        let same = other.cluster_id == this.cluster_id && other.node == this.node;
        if !same || this.lanes > other.lanes {
            return Err(inconsistent(
                &path,
                format!("it is of {this:?}, the others are of {other:?}"),
            ));
        }
        if first > image.index().next() {
            let last = image.index().0;
            return Err(inconsistent(
                &path,
                format!("deltas are missing between {last} and {}", first.0),
            ));
        }
        let replayed =
            frame::replay(image, first, &bytes).map_err(|error| unreadable(&path, error))?;
        self.replayed += replayed.deltas;
        self.last = Some((first, replayed.end, replayed.torn_bytes));
        Ok(())
    }
}

/// The files of a metadata directory, each kind by rising index. Others are left alone.
struct Files {
    logs: Vec<MetadataIndex>,
    snapshots: Vec<MetadataIndex>,
}

impl Files {
    fn list(dir: &Path) -> Result<Files, LogError> {
        let names = disk::list(dir)?;
        let of = |suffix: &str| {
            let stems = names.iter().filter_map(|name| name.strip_suffix(suffix));
            let mut indexes: Vec<MetadataIndex> = stems
                .filter_map(|stem| stem.parse().ok().map(MetadataIndex))
                .collect();
            indexes.sort_unstable();
            indexes
        };
        Ok(Files {
            logs: of(".log"),
            snapshots: of(".snapshot"),
        })
    }

    fn is_empty(&self) -> bool {
        self.logs.is_empty() && self.snapshots.is_empty()
    }

    fn paths(&self, dir: &Path) -> impl Iterator<Item = PathBuf> {
        let logs = self.logs.iter().map(|first| log_name(*first));
        let snapshots = self.snapshots.iter().map(|index| snapshot_name(*index));
        logs.chain(snapshots).map(|name| dir.join(name))
    }
}

fn log_name(first: MetadataIndex) -> String {
    format!("{:020}.log", first.0)
}

fn snapshot_name(index: MetadataIndex) -> String {
    format!("{:020}.snapshot", index.0)
}

/// Reads a file whose name says its index.
async fn read(
    kind: FileKind,
    index: MetadataIndex,
    path: &Path,
) -> Result<(Header, Buf), LogError> {
    // Not copied: with the copy each core would keep twice the size of the log resident.
    let bytes = disk::read_whole(path).await?;
    let header = frame::decode_header(kind, &bytes).map_err(|error| unreadable(path, error))?;
    if header.index != index {
        let what = format!(
            "its header says index {}, its name says {}",
            header.index.0, index.0
        );
        return Err(inconsistent(path, what));
    }
    Ok((header, bytes))
}

/// Writes a new file, filled up with zeros to `bytes_min`, and syncs it.
async fn write_new(path: &Path, content: Vec<u8>, bytes_min: usize) -> Result<File, LogError> {
    // Left by an attempt that never got its name.
    remove_if_there(path).await?;
    let options = OpenOptions {
        write: true,
        create_new: true,
        ..OpenOptions::default()
    };
    let file = File::open(path, options).await?;
    let filled = content.len();
    let written = async {
        file.write_at(0, &Buf::from(content)).await?;
        put_zeros(&file, filled, bytes_min).await?;
        file.datasync().await
    };
    if let Err(error) = written.await {
        // A part of it would take space that is short; that it could not go is the lesser news.
        let _ = disk::remove_file(path).await;
        return Err(error.into());
    }
    Ok(file)
}

async fn put_zeros(file: &File, from: usize, to: usize) -> Result<(), DiskError> {
    let zeros = Buf::from(vec![0; ZEROS_BYTES]);
    let mut position = from;
    while position < to {
        let len = ZEROS_BYTES.min(to - position);
        let written = file.write_at(position as u64, &zeros.slice(0..len)).await;
        written?;
        position += len;
    }
    Ok(())
}

/// Gives the reserve a size. It stays as it was if there is no space for more.
async fn size_reserve(path: &Path, bytes: u64) -> Result<(), DiskError> {
    let options = OpenOptions {
        write: true,
        create: true,
        ..OpenOptions::default()
    };
    let file = File::open(path, options).await?;
    let before = file.len()?;
    if before > bytes {
        return file.set_len(bytes);
    }
    // Nobody ever writes into it, so it need not be filled as a log is.
    let allocated = file.allocate(bytes).await;
    if allocated.is_err() {
        // A part of the rest would only take space from what matters more.
        file.set_len(before)?;
    }
    allocated
}

async fn remove_if_there(path: &Path) -> Result<(), DiskError> {
    match disk::remove_file(path).await {
        Err(DiskError::NotFound { .. }) => Ok(()),
        done => done,
    }
}

fn unreadable(path: &Path, error: FrameError) -> LogError {
    LogError::Unreadable {
        path: path.display().to_string(),
        error,
    }
}

fn inconsistent(path: &Path, what: String) -> LogError {
    LogError::Inconsistent {
        path: path.display().to_string(),
        what,
    }
}

#[cfg(test)]
mod tests;
