//! Files and directories, without blocking the core.

mod real;

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use crate::buffer::{BLOCK_BYTES, Buf, BufMut};
#[cfg(any(test, feature = "sim"))]
use crate::sim::{disk as simulated, world};

/// Largest piece of one read, unless its caller wants smaller ones: it stands in the disk's queue before a commit.
pub const READ_PIECE_BYTES: usize = 512 << 10;

/// Why a file operation failed, by what the caller does about it.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The file system is full. Stop writing; it may have room later.
    #[error("no space left for {path}")]
    NoSpace {
        /// Which file.
        path: PathBuf,
    },
    /// There is no such file.
    #[error("{path} does not exist")]
    NotFound {
        /// Which file.
        path: PathBuf,
    },
    /// Less was there than asked for.
    #[error("{path} ends {got} bytes after position {position}, {wanted} were wanted")]
    Short {
        /// Which file.
        path: PathBuf,
        /// Where the read began.
        position: u64,
        /// How much was wanted.
        wanted: usize,
        /// How much was there.
        got: usize,
    },
    /// The device or the kernel refused. After a failed sync nothing is known of what was written.
    #[error("{operation} of {path} failed: {error}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What was tried.
        operation: &'static str,
        /// What the kernel said.
        error: io::Error,
    },
}

impl DiskError {
    /// Whether the medium, or the file system on it, does not give the bytes, to nobody. Otherwise it is this
    /// process that may not or can't.
    pub fn is_of_medium(&self) -> bool {
        let DiskError::Io { error, .. } = self else {
            return false;
        };
        // The block layer tells a bad sector as ENODATA and a bad checksum of the device as EILSEQ; file systems
        // tell damage of their own as EUCLEAN or EBADMSG.
        matches!(
            error.raw_os_error(),
            Some(libc::EIO | libc::ENODATA | libc::EILSEQ | libc::EUCLEAN | libc::EBADMSG)
        )
    }
}

impl DiskError {
    /// Whether this process, or the machine, has no descriptor left.
    pub fn is_out_of_descriptors(&self) -> bool {
        let DiskError::Io { error, .. } = self else {
            return false;
        };
        matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
    }
}

fn failure(path: &Path, operation: &'static str, error: io::Error) -> DiskError {
    match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => DiskError::NoSpace {
            path: path.to_path_buf(),
        },
        Some(libc::ENOENT) => DiskError::NotFound {
            path: path.to_path_buf(),
        },
        _ => DiskError::Io {
            path: path.to_path_buf(),
            operation,
            error,
        },
    }
}

/// How to open a file.
#[derive(Debug, Clone, Copy, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "open(2) has exactly these independent flags"
)]
pub struct OpenOptions {
    /// For writing too, not only for reading.
    pub write: bool,
    /// Make it if it is not there.
    pub create: bool,
    /// Fail if it is there.
    pub create_new: bool,
    /// Past the page cache; positions, lengths and memory are whole blocks.
    pub direct: bool,
    /// Each write returns when it is durable.
    pub dsync: bool,
}

/// An open file. Dropping it closes it; nothing is synced then.
#[derive(Debug)]
pub struct File {
    handle: Handle,
    path: PathBuf,
    direct: bool,
}

/// A file of either world.
#[derive(Debug)]
enum Handle {
    Real(OwnedFd),
    #[cfg(any(test, feature = "sim"))]
    Sim(simulated::SimFile),
}

impl Handle {
    async fn open(path: &Path, options: OpenOptions) -> io::Result<Handle> {
        #[cfg(any(test, feature = "sim"))]
        if let Some(world) = world::current() {
            let opened = simulated::SimFile::open(world, path, options).await;
            return opened.map(Handle::Sim);
        }
        real::open(path, options).await.map(Handle::Real)
    }

    /// Reads once, up to `want` bytes, into the free space of `buf`.
    async fn read_piece(
        &self,
        position: u64,
        want: usize,
        buf: BufMut,
    ) -> (io::Result<usize>, BufMut) {
        match self {
            Handle::Real(file) => real::read(file, position, want, buf).await,
            #[cfg(any(test, feature = "sim"))]
            Handle::Sim(file) => file.read(position, want, buf).await,
        }
    }

    /// Writes once; how much of `bytes`.
    async fn write_piece(&self, position: u64, bytes: Buf) -> io::Result<usize> {
        match self {
            Handle::Real(file) => real::write(file, position, bytes).await,
            #[cfg(any(test, feature = "sim"))]
            Handle::Sim(file) => file.write(position, bytes).await,
        }
    }
}

impl Handle {
    /// Writes once, and syncs if that was all of `bytes`; how both went.
    async fn write_and_sync(
        &self,
        position: u64,
        bytes: Buf,
    ) -> (io::Result<usize>, io::Result<()>) {
        match self {
            Handle::Real(file) => real::write_and_sync(file, position, bytes).await,
            #[cfg(any(test, feature = "sim"))]
            Handle::Sim(file) => {
                let len = bytes.len();
                let written = file.write(position, bytes).await;
                let all = written.as_ref().is_ok_and(|count| *count == len);
                let synced = if all { file.datasync().await } else { Ok(()) };
                (written, synced)
            }
        }
    }
}

fn again(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN))
}

impl File {
    /// Opens a file.
    ///
    /// # Errors
    /// [`DiskError`], also if the file system does not take the options.
    pub async fn open(path: &Path, options: OpenOptions) -> Result<File, DiskError> {
        let handle = Handle::open(path, options).await;
        Ok(File {
            handle: handle.map_err(|error| failure(path, "open", error))?,
            path: path.to_path_buf(),
            direct: options.direct,
        })
    }

    /// Where it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn check(&self, position: u64, len: usize, memory: *const u8) {
        if self.direct {
            let block = BLOCK_BYTES as u64;
            assert_eq!(position % block, 0, "direct I/O at position {position}");
            assert_eq!(len % BLOCK_BYTES, 0, "direct I/O of {len} bytes");
            assert_eq!(
                memory.align_offset(BLOCK_BYTES),
                0,
                "direct I/O from unaligned memory"
            );
        }
    }

    /// Reads exactly `len` bytes at `position`.
    ///
    /// # Errors
    /// [`DiskError::Short`] if the file ends before.
    pub async fn read_at(&self, position: u64, len: usize) -> Result<Buf, DiskError> {
        self.read_behind(BufMut::with_capacity(len), position, len, READ_PIECE_BYTES)
            .await
    }

    /// The same, behind what is in `front`, which has room for it: both, as one. The disk is asked for `piece_bytes` at a
    /// time, [`READ_PIECE_BYTES`] at most.
    ///
    /// # Errors
    /// [`DiskError::Short`] if the file ends before.
    pub async fn read_behind(
        &self,
        front: BufMut,
        position: u64,
        len: usize,
        piece_bytes: usize,
    ) -> Result<Buf, DiskError> {
        let (buf, got) = self.fill(front, position, len, piece_bytes).await?;
        if got < len {
            return Err(DiskError::Short {
                path: self.path.clone(),
                position,
                wanted: len,
                got,
            });
        }
        Ok(buf)
    }

    /// Reads up to `len` bytes at `position`: fewer only at the end of the file.
    ///
    /// # Errors
    /// [`DiskError::Io`].
    pub async fn read_up_to(&self, position: u64, len: usize) -> Result<(Buf, usize), DiskError> {
        self.fill(BufMut::with_capacity(len), position, len, READ_PIECE_BYTES)
            .await
    }

    async fn fill(
        &self,
        mut buf: BufMut,
        position: u64,
        len: usize,
        piece_bytes: usize,
    ) -> Result<(Buf, usize), DiskError> {
        let piece_bytes = piece_bytes.clamp(BLOCK_BYTES, READ_PIECE_BYTES);
        let mut filled = 0;
        while filled < len {
            let want = (len - filled).min(piece_bytes);
            let start = buf.spare_mut().as_mut_ptr();
            self.check(position + filled as u64, want, start);
            let at = position + filled as u64;
            let (result, back) = self.handle.read_piece(at, want, buf).await;
            buf = back;
            match result {
                Ok(0) => break,
                Ok(count) => {
                    buf.advance(count);
                    filled += count;
                    // A short direct read ends at the end of the file.
                    if self.direct && count % BLOCK_BYTES != 0 {
                        break;
                    }
                }
                Err(error) if again(&error) => {}
                Err(error) => return Err(failure(&self.path, "read", error)),
            }
        }
        Ok((buf.freeze(), filled))
    }

    /// Writes all of `bytes` at `position`. Durable on return only if opened with `dsync`.
    ///
    /// # Errors
    /// [`DiskError`]; how much was written is unknown then.
    pub async fn write_at(&self, position: u64, bytes: &Buf) -> Result<(), DiskError> {
        let mut written = 0;
        while written < bytes.len() {
            let rest = bytes.slice(written..bytes.len());
            let at = position + written as u64;
            self.check(at, rest.len(), rest.as_ptr());
            match self.handle.write_piece(at, rest).await {
                Ok(0) => {
                    let error = io::Error::from_raw_os_error(libc::EIO);
                    return Err(failure(&self.path, "write", error));
                }
                Ok(count) => written += count,
                Err(error) if again(&error) => {}
                Err(error) => return Err(failure(&self.path, "write", error)),
            }
        }
        Ok(())
    }

    /// Writes all of `bytes` at `position` and then makes everything written durable, with one call to the kernel
    /// unless it writes less at first.
    ///
    /// # Errors
    /// As [`File::write_at`] and [`File::datasync`].
    pub async fn write_synced(&self, position: u64, bytes: &Buf) -> Result<(), DiskError> {
        self.check(position, bytes.len(), bytes.as_ptr());
        let (written, synced) = self.handle.write_and_sync(position, bytes.clone()).await;
        let written = match written {
            Ok(count) if count == bytes.len() => {
                return synced.map_err(|error| failure(&self.path, "fdatasync", error));
            }
            Ok(count) => count,
            Err(error) if again(&error) => 0,
            Err(error) => return Err(failure(&self.path, "write", error)),
        };
        // The sync was given up with the write.
        let rest = bytes.slice(written..bytes.len());
        self.write_at(position + written as u64, &rest).await?;
        self.datasync().await
    }

    /// Makes everything written durable (`fdatasync`).
    ///
    /// # Errors
    /// [`DiskError`]. Never try again: the kernel may have dropped what it could not write.
    pub async fn datasync(&self) -> Result<(), DiskError> {
        let synced = match &self.handle {
            Handle::Real(file) => real::datasync(file).await,
            #[cfg(any(test, feature = "sim"))]
            Handle::Sim(file) => file.datasync().await,
        };
        synced.map_err(|error| failure(&self.path, "fdatasync", error))
    }

    /// Reserves room for `len` bytes from the start, and makes the file that long.
    ///
    /// # Errors
    /// [`DiskError::NoSpace`] if there is not enough.
    pub async fn allocate(&self, len: u64) -> Result<(), DiskError> {
        let allocated = match &self.handle {
            Handle::Real(file) => real::allocate(file, len).await,
            #[cfg(any(test, feature = "sim"))]
            Handle::Sim(file) => file.allocate(len).await,
        };
        allocated.map_err(|error| failure(&self.path, "fallocate", error))
    }

    /// How long the file is, in bytes.
    ///
    /// # Errors
    /// [`DiskError::Io`].
    pub fn len(&self) -> Result<u64, DiskError> {
        let len = match &self.handle {
            Handle::Real(file) => real::len(file),
            #[cfg(any(test, feature = "sim"))]
            Handle::Sim(file) => file.len(),
        };
        len.map_err(|error| failure(&self.path, "fstat", error))
    }

    /// Whether the file has no bytes.
    ///
    /// # Errors
    /// As [`File::len`].
    pub fn is_empty(&self) -> Result<bool, DiskError> {
        Ok(self.len()? == 0)
    }

    /// Cuts or extends the file to `len` bytes.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn set_len(&self, len: u64) -> Result<(), DiskError> {
        let cut = match &self.handle {
            Handle::Real(file) => real::set_len(file, len),
            #[cfg(any(test, feature = "sim"))]
            Handle::Sim(file) => file.set_len(len),
        };
        cut.map_err(|error| failure(&self.path, "ftruncate", error))
    }
}

/// Removes a file.
///
/// # Errors
/// [`DiskError`]. Durable only after [`sync_dir`].
pub async fn remove_file(path: &Path) -> Result<(), DiskError> {
    let removed = async {
        #[cfg(any(test, feature = "sim"))]
        if let Some(world) = world::current() {
            return simulated::remove_file(world, path).await;
        }
        real::remove_file(path).await
    };
    let removed = removed.await;
    removed.map_err(|error| failure(path, "unlink", error))
}

/// Renames a file, replacing what has the new name.
///
/// # Errors
/// [`DiskError`]. Durable only after [`sync_dir`].
pub async fn rename(from: &Path, to: &Path) -> Result<(), DiskError> {
    let renamed = async {
        #[cfg(any(test, feature = "sim"))]
        if let Some(world) = world::current() {
            return simulated::rename(world, from, to).await;
        }
        real::rename(from, to).await
    };
    let renamed = renamed.await;
    renamed.map_err(|error| failure(from, "rename", error))
}

/// Makes the entries of a directory durable.
///
/// # Errors
/// [`DiskError`].
pub async fn sync_dir(path: &Path) -> Result<(), DiskError> {
    let synced = async {
        #[cfg(any(test, feature = "sim"))]
        if let Some(world) = world::current() {
            return simulated::sync_dir(world, path).await;
        }
        real::sync_dir(path).await
    };
    let synced = synced.await;
    synced.map_err(|error| failure(path, "fsync", error))
}

/// Makes a directory and those above it. Blocks: for start-up only.
///
/// # Errors
/// [`DiskError`]. Durable only after [`sync_dir`] of the parent.
pub fn create_dir_all(path: &Path) -> Result<(), DiskError> {
    #[cfg(any(test, feature = "sim"))]
    if let Some(world) = world::current() {
        let made = simulated::create_dir_all(&world, path);
        return made.map_err(|error| failure(path, "mkdir", error));
    }
    std::fs::create_dir_all(path).map_err(|error| failure(path, "mkdir", error))
}

/// Makes a directory and those above it, durably: a file that was synced is lost all the same if its directory
/// has no durable entry in the one above. Syncs those above even if all were there, for the process that
/// made them may have died before it did.
///
/// # Errors
/// [`DiskError`].
pub async fn make_dir_all(path: &Path) -> Result<(), DiskError> {
    create_dir_all(path)?;
    let above = path.ancestors().skip(1);
    for (steps, directory) in above.enumerate() {
        let is_here = directory.as_os_str().is_empty();
        let directory = if is_here { Path::new(".") } else { directory };
        let synced = sync_dir(directory).await;
        match synced {
            // A directory further up that we may not open, or that can't be synced, is not one that we made.
            Err(DiskError::Io { error, .. })
                if steps > 0 && error.raw_os_error() != Some(libc::EIO) => {}
            synced => synced?,
        }
    }
    Ok(())
}

/// The names in a directory, sorted. Blocks: for start-up only.
///
/// # Errors
/// [`DiskError`].
pub fn list(path: &Path) -> Result<Vec<String>, DiskError> {
    #[cfg(any(test, feature = "sim"))]
    if let Some(world) = world::current() {
        let names = simulated::list(&world, path);
        return names.map_err(|error| failure(path, "readdir", error));
    }
    real::list(path).map_err(|error| failure(path, "readdir", error))
}

/// Whether there is something at the path. Blocks for the length of a `stat`.
pub fn exists(path: &Path) -> bool {
    #[cfg(any(test, feature = "sim"))]
    if let Some(world) = world::current() {
        return simulated::exists(&world, path);
    }
    path.exists()
}

/// A whole small file.
///
/// # Errors
/// [`DiskError`].
pub async fn read_file(path: &Path) -> Result<Vec<u8>, DiskError> {
    Ok(read_whole(path).await?.to_vec())
}

/// A whole file, in the memory that it was read into.
///
/// # Errors
/// [`DiskError`].
pub async fn read_whole(path: &Path) -> Result<Buf, DiskError> {
    let file = File::open(path, OpenOptions::default()).await?;
    let len = usize::try_from(file.len()?).expect("a file fits memory");
    file.read_at(0, len).await
}

/// Puts a whole small file in place of whatever has its name: after a crash it is the old one or the
/// new one, and on return it is the new one.
///
/// # Errors
/// [`DiskError`].
pub async fn replace_file(path: &Path, bytes: Vec<u8>) -> Result<(), DiskError> {
    let new = path.with_extension("new");
    let file = File::open(
        &new,
        OpenOptions {
            write: true,
            create: true,
            ..OpenOptions::default()
        },
    )
    .await?;
    file.set_len(0)?;
    file.write_at(0, &Buf::from(bytes)).await?;
    file.datasync().await?;
    rename(&new, path).await?;
    sync_dir(path.parent().unwrap_or(Path::new("."))).await
}

/// Bytes that an ordinary user may still write to the file system of `path`.
///
/// # Errors
/// [`DiskError`].
pub fn free_bytes(path: &Path) -> Result<u64, DiskError> {
    space(path).map(|(_, free)| free)
}

/// Bytes of the file system of `path`: all, and those that an ordinary user may still write.
///
/// # Errors
/// [`DiskError`].
pub fn space(path: &Path) -> Result<(u64, u64), DiskError> {
    #[cfg(any(test, feature = "sim"))]
    if let Some(world) = world::current() {
        let space = simulated::space(&world, path);
        return space.map_err(|error| failure(path, "statvfs", error));
    }
    real::space(path).map_err(|error| failure(path, "statvfs", error))
}

#[cfg(test)]
mod tests;
