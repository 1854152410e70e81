//! What the machine allows, asked before anything depends on it.

use std::io;
use std::path::Path;

use io_uring::IoUring;

/// Why `io_uring` can't be used.
#[derive(Debug, thiserror::Error)]
pub enum UringRefused {
    /// The kernel or a seccomp profile forbids it.
    #[error(
        "io_uring is forbidden here ({0}): allow the io_uring system calls in the container's seccomp profile, or set kernel.io_uring_disabled=0"
    )]
    Forbidden(io::Error),
    /// The kernel has none.
    #[error("this kernel has no io_uring ({0}): run Linux 5.15 or later")]
    Missing(io::Error),
    /// Locked memory is too little for the rings.
    #[error(
        "too little locked memory for io_uring ({0}; memlock limit {1} bytes): raise it with `ulimit -l unlimited` or LimitMEMLOCK=infinity, or serve with fewer cores (node.cores)"
    )]
    Memlock(io::Error, u64),
    /// Something else.
    #[error("io_uring can't be set up: {0}")]
    Other(io::Error),
}

/// Tries to make a small ring.
///
/// # Errors
/// [`UringRefused`], with the remedy.
pub fn io_uring() -> Result<(), UringRefused> {
    IoUring::new(8).map(drop).map_err(UringRefused::from)
}

impl From<io::Error> for UringRefused {
    fn from(error: io::Error) -> UringRefused {
        match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => UringRefused::Forbidden(error),
            Some(libc::ENOSYS) => UringRefused::Missing(error),
            Some(libc::ENOMEM) => UringRefused::Memlock(error, memlock_bytes()),
            _ => UringRefused::Other(error),
        }
    }
}

fn limits(resource: libc::__rlimit_resource_t) -> libc::rlimit {
    let mut limits = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limits` is valid to write to. It stays as it is if the call fails.
    unsafe { libc::getrlimit(resource, &raw mut limits) };
    limits
}

fn limit(resource: libc::__rlimit_resource_t) -> u64 {
    limits(resource).rlim_cur
}

/// Bytes this process may lock in memory; `u64::MAX` means no limit.
pub fn memlock_bytes() -> u64 {
    limit(libc::RLIMIT_MEMLOCK)
}

/// Descriptors this process may have open.
pub fn open_files() -> u64 {
    limit(libc::RLIMIT_NOFILE)
}

/// Raises the number of descriptors that this process may have open as far as it may itself; returns
/// what holds then.
pub fn raise_open_files() -> u64 {
    let mut wanted = limits(libc::RLIMIT_NOFILE);
    wanted.rlim_cur = wanted.rlim_max;
    // SAFETY: `wanted` is valid to read. If the call fails, the old limit holds, which is returned.
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const wanted) };
    open_files()
}

/// The CPU time that the calling thread has had.
#[cfg(any(test, feature = "sim"))]
pub(crate) fn thread_cpu_time() -> std::time::Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is valid to write to. It stays zero if the call fails.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    std::time::Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// The kernel's release, as `uname -r` prints it.
pub fn kernel_release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

/// The governor of the first CPU, if the kernel tells.
pub fn cpu_governor() -> Option<String> {
    let path = "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor";
    std::fs::read_to_string(path)
        .ok()
        .map(|text| text.trim().to_owned())
}

/// The type of the file system that holds `path`, as the kernel's magic number names it.
///
/// # Errors
/// What the kernel says.
pub fn file_system(path: &Path) -> io::Result<String> {
    use std::os::unix::ffi::OsStrExt;
    let name = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    let mut stat = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: `name` is a C string and `stat` is room for the answer.
    if unsafe { libc::statfs(name.as_ptr(), stat.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: statfs succeeded, so it is filled.
    let magic = unsafe { stat.assume_init() }.f_type;
    Ok(match magic {
        0xEF53 => "ext4".to_owned(),
        0x5846_5342 => "xfs".to_owned(),
        0x9123_683E => "btrfs".to_owned(),
        0x0102_1994 => "tmpfs".to_owned(),
        0x794C_7630 => "overlayfs".to_owned(),
        0x6969 => "nfs".to_owned(),
        0x2FC1_2FC1 => "zfs".to_owned(),
        other => format!("type {other:#x}"),
    })
}
