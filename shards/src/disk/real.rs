//! The kernel's files: one operation each, as it answers, through the core's ring.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;

use io_uring::{opcode, types};

use super::OpenOptions;
use crate::buffer::{Buf, BufMut};
use crate::uring::Uring;

const HERE: types::Fd = types::Fd(libc::AT_FDCWD);

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

fn uring() -> io::Result<Rc<Uring>> {
    let no_ring = |error| io::Error::other(format!("io_uring_setup: {error}"));
    Uring::current().map_err(no_ring)
}

fn fd(file: &OwnedFd) -> types::Fd {
    types::Fd(file.as_raw_fd())
}

pub(super) async fn open(path: &Path, options: OpenOptions) -> io::Result<OwnedFd> {
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
    let entry = opcode::OpenAt::new(HERE, name.as_ptr())
        .flags(flags)
        .mode(0o644)
        .build();
    // SAFETY: the entry points into the CString's heap memory, which the ring keeps.
    let (opened, _) = unsafe { uring()?.run(entry, name).await };
    let opened = RawFd::try_from(opened?).expect("descriptors are small");
    // SAFETY: the kernel just gave us this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(opened) })
}

/// Reads up to `want` bytes into the free space of `buf`, which has that much.
pub(super) async fn read(
    file: &OwnedFd,
    position: u64,
    want: usize,
    mut buf: BufMut,
) -> (io::Result<usize>, BufMut) {
    let start = buf.spare_mut().as_mut_ptr();
    let len = u32::try_from(want).expect("a piece");
    let entry = opcode::Read::new(fd(file), start, len)
        .offset(position)
        .build();
    let ring = match uring() {
        Ok(ring) => ring,
        Err(error) => return (Err(error), buf),
    };
    // SAFETY: the entry points into the buffer's memory, which the ring keeps with it.
    unsafe { ring.run(entry, buf).await }
}

pub(super) async fn write(file: &OwnedFd, position: u64, bytes: Buf) -> io::Result<usize> {
    let len = u32::try_from(bytes.len()).expect("a write is below 4 GiB");
    let entry = opcode::Write::new(fd(file), bytes.as_ptr(), len)
        .offset(position)
        .build();
    // SAFETY: the entry points into the shared memory, which the ring keeps with the Buf.
    let (result, _) = unsafe { uring()?.run(entry, bytes).await };
    result
}

/// Writes, and syncs with the same call if all was written; how both went.
pub(super) async fn write_and_sync(
    file: &OwnedFd,
    position: u64,
    bytes: Buf,
) -> (io::Result<usize>, io::Result<()>) {
    let len = u32::try_from(bytes.len()).expect("a write is below 4 GiB");
    let write = opcode::Write::new(fd(file), bytes.as_ptr(), len)
        .offset(position)
        .build();
    let sync = opcode::Fsync::new(fd(file))
        .flags(types::FsyncFlags::DATASYNC)
        .build();
    let ring = match uring() {
        Ok(ring) => ring,
        Err(error) => return (Err(error), Ok(())),
    };
    // SAFETY: the write points into the shared memory, which the ring keeps with the Buf; the sync to nothing.
    let (written, synced, _) = unsafe { ring.run_linked(write, sync, bytes).await };
    (written, synced.map(drop))
}

pub(super) async fn datasync(file: &OwnedFd) -> io::Result<()> {
    let entry = opcode::Fsync::new(fd(file))
        .flags(types::FsyncFlags::DATASYNC)
        .build();
    // SAFETY: the entry points to nothing.
    let (result, ()) = unsafe { uring()?.run(entry, ()).await };
    result.map(drop)
}

pub(super) async fn sync_dir(path: &Path) -> io::Result<()> {
    let directory = open(path, OpenOptions::default()).await?;
    let entry = opcode::Fsync::new(fd(&directory)).build();
    // SAFETY: the entry points to nothing.
    let (result, ()) = unsafe { uring()?.run(entry, ()).await };
    result.map(drop)
}

pub(super) async fn allocate(file: &OwnedFd, len: u64) -> io::Result<()> {
    let entry = opcode::Fallocate::new(fd(file), len).build();
    // SAFETY: the entry points to nothing.
    let (result, ()) = unsafe { uring()?.run(entry, ()).await };
    result.map(drop)
}

pub(super) fn len(file: &OwnedFd) -> io::Result<u64> {
    // fstat of an open file reads memory only.
    let mut stat = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: the descriptor is open and `stat` is room for the answer.
    if unsafe { libc::fstat(file.as_raw_fd(), stat.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: fstat succeeded, so it is filled.
    let stat = unsafe { stat.assume_init() };
    Ok(u64::try_from(stat.st_size).unwrap_or(0))
}

pub(super) fn set_len(file: &OwnedFd, len: u64) -> io::Result<()> {
    let len = libc::off_t::try_from(len).expect("file sizes fit off_t");
    // SAFETY: plain call on an open descriptor.
    if unsafe { libc::ftruncate(file.as_raw_fd(), len) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

pub(super) async fn remove_file(path: &Path) -> io::Result<()> {
    let name = c_path(path)?;
    let entry = opcode::UnlinkAt::new(HERE, name.as_ptr()).build();
    // SAFETY: the entry points into the CString's heap memory, which the ring keeps.
    let (result, _) = unsafe { uring()?.run(entry, name).await };
    result.map(drop)
}

pub(super) async fn rename(from: &Path, to: &Path) -> io::Result<()> {
    let names = (c_path(from)?, c_path(to)?);
    let entry = opcode::RenameAt::new(HERE, names.0.as_ptr(), HERE, names.1.as_ptr()).build();
    // SAFETY: the entry points into the CStrings' heap memory, which the ring keeps.
    let (result, _) = unsafe { uring()?.run(entry, names).await };
    result.map(drop)
}

pub(super) fn list(path: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

pub(super) fn space(path: &Path) -> io::Result<(u64, u64)> {
    let name = c_path(path)?;
    let mut stat = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: `name` is a C string and `stat` is room for the answer.
    if unsafe { libc::statvfs(name.as_ptr(), stat.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: statvfs succeeded, so it is filled.
    let stat = unsafe { stat.assume_init() };
    Ok((stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize))
}
