//! One process for each data directory.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

#[cfg(any(test, feature = "sim"))]
use crate::sim::{disk as simulated, world};

/// The file that is locked; it holds the process id of who has it.
const FILE_NAME: &str = "lock";

/// Holds a directory until dropped, or until the process ends however it ends.
#[derive(Debug)]
pub struct DirLock {
    _held: Held,
}

/// What holds the lock in either world.
#[derive(Debug)]
enum Held {
    Real {
        _file: File,
    },
    #[cfg(any(test, feature = "sim"))]
    Sim {
        _lock: simulated::SimLock,
    },
}

/// Why the directory was not locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error("{path} is in use by process {holder}")]
    Held {
        /// The directory.
        path: PathBuf,
        /// The other's process id, or `unknown`.
        holder: String,
    },
    /// The lock file can't be made or locked.
    #[error("{path} can't be locked: {error}")]
    Io {
        /// The directory.
        path: PathBuf,
        /// What the kernel said.
        error: io::Error,
    },
}

impl DirLock {
    /// Locks an existing directory.
    ///
    /// # Errors
    /// [`LockError`]; nothing is left behind that was not there.
    pub fn acquire(directory: &Path) -> Result<DirLock, LockError> {
        let failed = |error| LockError::Io {
            path: directory.to_path_buf(),
            error,
        };
        #[cfg(any(test, feature = "sim"))]
        if let Some(world) = world::current() {
            let locked = simulated::lock(&world, directory, FILE_NAME).map_err(failed)?;
            return match locked {
                Ok(lock) => Ok(DirLock {
                    _held: Held::Sim { _lock: lock },
                }),
                Err(life) => Err(LockError::Held {
                    path: directory.to_path_buf(),
                    holder: life.to_string(),
                }),
            };
        }
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(directory.join(FILE_NAME))
            .map_err(failed)?;
        // SAFETY: plain call on an open descriptor.
        if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::WouldBlock {
                return Err(failed(error));
            }
            let mut holder = String::new();
            let read = file.read_to_string(&mut holder);
            let known = read.is_ok() && !holder.trim().is_empty();
            let holder = if known {
                holder.trim().to_owned()
            } else {
                "unknown".to_owned()
            };
            return Err(LockError::Held {
                path: directory.to_path_buf(),
                holder,
            });
        }
        file.set_len(0).map_err(failed)?;
        file.rewind().map_err(failed)?;
        write!(file, "{}", std::process::id()).map_err(failed)?;
        Ok(DirLock {
            _held: Held::Real { _file: file },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_holder_is_refused_by_name_and_admitted_after() {
        // Proves that a directory has one holder, and that the refusal says who it is.
        let directory = tempfile::tempdir().unwrap();
        let first = DirLock::acquire(directory.path()).unwrap();
        let refused = DirLock::acquire(directory.path()).unwrap_err();
        assert!(
            refused
                .to_string()
                .contains(&format!("process {}", std::process::id()))
        );
        drop(first);
        DirLock::acquire(directory.path()).unwrap();
    }
}
