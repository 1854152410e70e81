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
use super::snapshot;

/// How large the files are.
#[derive(Copy, Clone, Debug)]
pub(super) struct Sizes {
    /// A log file: a delta that is larger is refused.
    pub(super) file_bytes: usize,
    /// The reserve: what a roll needs on a full disk, the next log file and a snapshot.
    pub(super) reserve_bytes: usize,
}

impl Sizes {
    /// The reserve has room for the next file and for a snapshot of the same size. With the default of
    /// 16 MiB that is some 1.4 million partitions; a topic with a million of them takes 11 MB of a log
    /// file, and replaying all of it takes some tens of milliseconds.
    fn of(file_bytes: usize) -> Sizes {
        Sizes {
            file_bytes,
            reserve_bytes: 2 * file_bytes,
        }
    }
}

/// Zeros are written in pieces of this size.
const ZEROS_BYTES: usize = 1 << 20;

const RESERVE: &str = "reserve";

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
    sizes: Sizes,
    file: File,
    /// The index in the file's header.
    first: MetadataIndex,
    /// Where the next frame goes.
    position: usize,
    staged: Option<FrameWriter>,
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
    /// are `file_bytes` long; those that are there stay as they are.
    ///
    /// # Errors
    /// If what is there can't be used. Nothing is changed then.
    pub async fn open(
        dir: &Path,
        identity: Identity,
        statics: Arc<ConfigMap>,
        file_bytes: usize,
    ) -> Result<Opened, LogError> {
        MetadataLog::open_sized(dir, identity, statics, Sizes::of(file_bytes)).await
    }

    pub(super) async fn open_sized(
        dir: &Path,
        identity: Identity,
        statics: Arc<ConfigMap>,
        sizes: Sizes,
    ) -> Result<Opened, LogError> {
        disk::make_dir_all(dir).await?;
        let files = Files::list(dir)?;
        if files.is_empty() {
            let image = Image::empty(identity, statics);
            let log = MetadataLog::create(dir, &image, sizes).await?;
            keep_reserve(dir, sizes.reserve_bytes).await?;
            return Ok(Opened {
                image,
                log,
                replayed: 0,
                cut_bytes: 0,
            });
        }
        let mut start = Start::snapshot(dir, &files, statics).await?;
        for first in &files.logs {
            start.log(dir, *first).await?;
        }
        let Start {
            image,
            replayed,
            last,
            ..
        } = start;
        let image = image.expect("a snapshot or the first log makes an image");
        let (log, cut_bytes) = match last {
            Some((first, end, torn_bytes)) => {
                let log = MetadataLog::reopen(dir, sizes, first, (end, torn_bytes)).await?;
                (log, torn_bytes)
            }
            None => (MetadataLog::create(dir, &image, sizes).await?, 0),
        };
        keep_reserve(dir, sizes.reserve_bytes).await?;
        Ok(Opened {
            image,
            log,
            replayed,
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
        let mut start = Start::snapshot(&dir, &files, statics).await?;
        for first in &files.logs {
            start.log(&dir, *first).await?;
        }
        Ok(start.image)
    }

    /// Makes a new, empty log file for what follows `image`.
    async fn create(dir: &Path, image: &Image, sizes: Sizes) -> Result<MetadataLog, LogError> {
        let first = image.index().next();
        let path = dir.join(log_name(first));
        let making = dir.join("log.tmp");
        let header = Header {
            index: first,
            identity: image.identity().clone(),
        };
        let file = write_new(
            &making,
            frame::encode_header(FileKind::Log, &header),
            sizes.file_bytes,
        )
        .await?;
        disk::rename(&making, &path).await?;
        disk::sync_dir(dir).await?;
        let dir = dir.to_owned();
        Ok(MetadataLog {
            dir,
            sizes,
            file,
            first,
            position: HEADER_BYTES,
            staged: None,
        })
    }

    /// Opens the last log file and clears the rest of a torn write, so that no later frame can be
    /// taken for its end. What is kept is written again: the process before may have ended for a failed
    /// sync, after which the kernel shows what is not on the disk, and no sync covers it unless it is.
    async fn reopen(
        dir: &Path,
        sizes: Sizes,
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
        Ok(MetadataLog {
            dir: dir.to_owned(),
            sizes,
            file,
            first,
            position,
            staged: None,
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
        let room = self.sizes.file_bytes.saturating_sub(self.position);
        let staged = self
            .staged
            .get_or_insert_with(|| FrameWriter::begin(delta.index));
        let fits = staged.push(&delta.changes, room);
        if staged.is_empty() {
            self.staged = None;
        }
        fits
    }

    /// Whether nothing was ever written to the file: what does not fit now never will.
    pub(super) fn is_fresh(&self) -> bool {
        self.position == HEADER_BYTES && self.staged.is_none()
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
            end <= self.sizes.file_bytes,
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
    /// [`DiskError::NoSpace`] leaves everything as it was. After another error the node must stop.
    pub(super) async fn roll(&mut self, image: &Image) -> Result<(), LogError> {
        assert!(
            self.staged.is_none(),
            "only what is durable goes into a snapshot"
        );
        match self.try_roll(image).await {
            Err(LogError::Disk(DiskError::NoSpace { .. })) => {
                give_reserve(&self.dir).await?;
                self.try_roll(image).await?;
            }
            done => done?,
        }
        keep_reserve(&self.dir, self.sizes.reserve_bytes).await
    }

    async fn try_roll(&mut self, image: &Image) -> Result<(), LogError> {
        let index = image.index();
        let path = self.dir.join(snapshot_name(index));
        let making = self.dir.join("snapshot.tmp");
        write_new(&making, snapshot::encode(image), 0).await?;
        disk::rename(&making, &path).await?;
        // From here on start-up begins with the snapshot; the old log's deltas are skipped.
        *self = MetadataLog::create(&self.dir, image, self.sizes).await?;
        let files = Files::list(&self.dir)?;
        let old_logs = files.logs.iter().filter(|first| **first < self.first);
        let old_snapshots = files.snapshots.iter().filter(|snapshot| **snapshot < index);
        let old = old_logs.map(|first| log_name(*first));
        for name in old.chain(old_snapshots.map(|index| snapshot_name(*index))) {
            let path = self.dir.join(name);
            disk::remove_file(&path).await?;
        }
        disk::sync_dir(&self.dir).await?;
        Ok(())
    }
}

/// Start-up under way: the image as far as it is known.
struct Start {
    image: Option<Image>,
    statics: Arc<ConfigMap>,
    replayed: u64,
    /// The last log: its first index, its end, and what was torn there.
    last: Option<(MetadataIndex, usize, usize)>,
}

impl Start {
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
        };
        let Some(index) = files.snapshots.last() else {
            return Ok(start);
        };
        let path = dir.join(snapshot_name(*index));
        let (header, bytes) = read(FileKind::Snapshot, *index, &path).await?;
        let mut image = Image::empty(header.identity.clone(), Arc::clone(&start.statics));
        snapshot::decode(&mut image, &header, &bytes).map_err(|error| unreadable(&path, error))?;
        start.image = Some(image);
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
) -> Result<(Header, Vec<u8>), LogError> {
    let bytes = disk::read_file(path).await?;
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
    if disk::exists(path) {
        // Left by an attempt that never got its name.
        disk::remove_file(path).await?;
    }
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

/// Makes the reserve if it is missing and there is space for it.
async fn keep_reserve(dir: &Path, bytes: usize) -> Result<(), LogError> {
    let path = dir.join(RESERVE);
    if disk::exists(&path) {
        return Ok(());
    }
    let making = dir.join("reserve.tmp");
    if disk::exists(&making) {
        disk::remove_file(&making).await?;
    }
    let options = OpenOptions {
        write: true,
        create_new: true,
        ..OpenOptions::default()
    };
    let file = File::open(&making, options).await?;
    // Nobody ever writes into it, so it need not be filled as a log is.
    match file.allocate(bytes as u64).await {
        Ok(()) => disk::rename(&making, &path).await?,
        Err(DiskError::NoSpace { .. }) => {
            tracing::warn!(path = %path.display(), bytes, "no space for the metadata log's reserve");
            // A part of it would only take space from what matters more.
            disk::remove_file(&making).await?;
        }
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// Frees the reserve's space, if it is there.
async fn give_reserve(dir: &Path) -> Result<(), LogError> {
    let path = dir.join(RESERVE);
    if disk::exists(&path) {
        disk::remove_file(&path).await?;
    }
    Ok(())
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
