//! Files and directories, without blocking the core.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use io_uring::{opcode, types};

use crate::buffer::{BLOCK_BYTES, Buf, BufMut};
use crate::uring::Uring;

/// Largest piece of one read: devices split at their own limit anyway, and pieces of this size travel
/// side by side.
const READ_PIECE_BYTES: usize = 512 << 10;

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
    fd: OwnedFd,
    path: PathBuf,
    direct: bool,
}

fn c_path(path: &Path) -> Result<CString, DiskError> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| failure(path, "open", io::Error::from_raw_os_error(libc::EINVAL)))
}

fn uring(path: &Path) -> Result<std::rc::Rc<Uring>, DiskError> {
    Uring::current().map_err(|error| failure(path, "io_uring_setup", error))
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
        let mut flags = libc::O_CLOEXEC;
        flags |= if options.write {
            libc::O_RDWR
        } else {
            libc::O_RDONLY
        };
        flags |= if options.create || options.create_new {
            libc::O_CREAT
        } else {
            0
        };
        flags |= if options.create_new { libc::O_EXCL } else { 0 };
        flags |= if options.direct { libc::O_DIRECT } else { 0 };
        flags |= if options.dsync { libc::O_DSYNC } else { 0 };
        let name = c_path(path)?;
        let entry = opcode::OpenAt::new(types::Fd(libc::AT_FDCWD), name.as_ptr())
            .flags(flags)
            .mode(0o644)
            .build();
        // SAFETY: the entry points into the CString's heap memory, which the ring keeps.
        let (opened, _) = unsafe { uring(path)?.run(entry, name).await };
        let fd = opened.map_err(|error| failure(path, "open", error))?;
        let fd = RawFd::try_from(fd).expect("descriptors are small");
        // SAFETY: the kernel just gave us this descriptor, and nobody else knows it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(File {
            fd,
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
        let (buf, got) = self.read_up_to(position, len).await?;
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
        let mut buf = BufMut::with_capacity(len);
        let mut filled = 0;
        while filled < len {
            let want = (len - filled).min(READ_PIECE_BYTES);
            let start = buf.spare_mut().as_mut_ptr();
            self.check(position + filled as u64, want, start);
            let entry = opcode::Read::new(
                types::Fd(self.fd.as_raw_fd()),
                start,
                u32::try_from(want).expect("a piece"),
            )
            .offset(position + filled as u64)
            .build();
            // SAFETY: the entry points into the buffer's memory, which the ring keeps with it.
            let (result, back) = unsafe { uring(&self.path)?.run(entry, buf).await };
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
            let len = u32::try_from(rest.len()).expect("a write is below 4 GiB");
            let fd = types::Fd(self.fd.as_raw_fd());
            let entry = opcode::Write::new(fd, rest.as_ptr(), len)
                .offset(at)
                .build();
            // SAFETY: the entry points into the shared memory, which the ring keeps with the Buf.
            let (result, _) = unsafe { uring(&self.path)?.run(entry, rest).await };
            match result {
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

    /// Makes everything written durable (`fdatasync`).
    ///
    /// # Errors
    /// [`DiskError`]. Never try again: the kernel may have dropped what it could not write.
    pub async fn datasync(&self) -> Result<(), DiskError> {
        let entry = opcode::Fsync::new(types::Fd(self.fd.as_raw_fd()))
            .flags(types::FsyncFlags::DATASYNC)
            .build();
        // SAFETY: the entry points to nothing.
        let (result, ()) = unsafe { uring(&self.path)?.run(entry, ()).await };
        result
            .map(drop)
            .map_err(|error| failure(&self.path, "fdatasync", error))
    }

    /// Reserves room for `len` bytes from the start, and makes the file that long.
    ///
    /// # Errors
    /// [`DiskError::NoSpace`] if there is not enough.
    pub async fn allocate(&self, len: u64) -> Result<(), DiskError> {
        let entry = opcode::Fallocate::new(types::Fd(self.fd.as_raw_fd()), len).build();
        // SAFETY: the entry points to nothing.
        let (result, ()) = unsafe { uring(&self.path)?.run(entry, ()).await };
        result
            .map(drop)
            .map_err(|error| failure(&self.path, "fallocate", error))
    }

    /// How long the file is, in bytes.
    ///
    /// # Errors
    /// [`DiskError::Io`].
    pub fn len(&self) -> Result<u64, DiskError> {
        // fstat of an open file reads memory only.
        let mut stat = std::mem::MaybeUninit::<libc::stat>::uninit();
        // SAFETY: the descriptor is open and `stat` is room for the answer.
        let failed = unsafe { libc::fstat(self.fd.as_raw_fd(), stat.as_mut_ptr()) } != 0;
        if failed {
            return Err(failure(&self.path, "fstat", io::Error::last_os_error()));
        }
        // SAFETY: fstat succeeded, so it is filled.
        let stat = unsafe { stat.assume_init() };
        Ok(u64::try_from(stat.st_size).unwrap_or(0))
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
        let len = libc::off_t::try_from(len).expect("file sizes fit off_t");
        // SAFETY: plain call on an open descriptor.
        if unsafe { libc::ftruncate(self.fd.as_raw_fd(), len) } != 0 {
            return Err(failure(&self.path, "ftruncate", io::Error::last_os_error()));
        }
        Ok(())
    }
}

/// Removes a file.
///
/// # Errors
/// [`DiskError`]. Durable only after [`sync_dir`].
pub async fn remove_file(path: &Path) -> Result<(), DiskError> {
    let name = c_path(path)?;
    let entry = opcode::UnlinkAt::new(types::Fd(libc::AT_FDCWD), name.as_ptr()).build();
    // SAFETY: the entry points into the CString's heap memory, which the ring keeps.
    let (result, _) = unsafe { uring(path)?.run(entry, name).await };
    result
        .map(drop)
        .map_err(|error| failure(path, "unlink", error))
}

/// Renames a file, replacing what has the new name.
///
/// # Errors
/// [`DiskError`]. Durable only after [`sync_dir`].
pub async fn rename(from: &Path, to: &Path) -> Result<(), DiskError> {
    let names = (c_path(from)?, c_path(to)?);
    let here = types::Fd(libc::AT_FDCWD);
    let entry = opcode::RenameAt::new(here, names.0.as_ptr(), here, names.1.as_ptr()).build();
    // SAFETY: the entry points into the CStrings' heap memory, which the ring keeps.
    let (result, _) = unsafe { uring(from)?.run(entry, names).await };
    result
        .map(drop)
        .map_err(|error| failure(from, "rename", error))
}

/// Makes the entries of a directory durable.
///
/// # Errors
/// [`DiskError`].
pub async fn sync_dir(path: &Path) -> Result<(), DiskError> {
    let directory = File::open(path, OpenOptions::default()).await?;
    let entry = opcode::Fsync::new(types::Fd(directory.fd.as_raw_fd())).build();
    // SAFETY: the entry points to nothing.
    let (result, ()) = unsafe { uring(path)?.run(entry, ()).await };
    result
        .map(drop)
        .map_err(|error| failure(path, "fsync", error))
}

/// Makes a directory and those above it. Blocks: for start-up only.
///
/// # Errors
/// [`DiskError`]. Durable only after [`sync_dir`] of the parent.
pub fn create_dir_all(path: &Path) -> Result<(), DiskError> {
    std::fs::create_dir_all(path).map_err(|error| failure(path, "mkdir", error))
}

/// The names in a directory, sorted. Blocks: for start-up only.
///
/// # Errors
/// [`DiskError`].
pub fn list(path: &Path) -> Result<Vec<String>, DiskError> {
    let read = |error| failure(path, "readdir", error);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path).map_err(read)? {
        names.push(
            entry
                .map_err(read)?
                .file_name()
                .to_string_lossy()
                .into_owned(),
        );
    }
    names.sort();
    Ok(names)
}

/// Whether there is something at the path. Blocks for the length of a `stat`.
pub fn exists(path: &Path) -> bool {
    path.exists()
}

/// A whole small file.
///
/// # Errors
/// [`DiskError`].
pub async fn read_file(path: &Path) -> Result<Vec<u8>, DiskError> {
    let file = File::open(path, OpenOptions::default()).await?;
    let len = usize::try_from(file.len()?).expect("a file fits memory");
    Ok(file.read_at(0, len).await?.to_vec())
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
    let name = c_path(path)?;
    let mut stat = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: `name` is a C string and `stat` is room for the answer.
    if unsafe { libc::statvfs(name.as_ptr(), stat.as_mut_ptr()) } != 0 {
        return Err(failure(path, "statvfs", io::Error::last_os_error()));
    }
    // SAFETY: statvfs succeeded, so it is filled.
    let stat = unsafe { stat.assume_init() };
    Ok((stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize))
}
