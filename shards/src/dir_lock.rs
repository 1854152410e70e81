//! One process for each data directory.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

#[cfg(any(test, feature = "sim"))]
use crate::sim::{disk as simulated, world};

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
    /// The file that is locked; it holds the process id of who has it.
    pub const FILE_NAME: &str = "lock";

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
            let locked = simulated::lock(&world, directory, DirLock::FILE_NAME).map_err(failed)?;
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
            .open(directory.join(DirLock::FILE_NAME))
            .map_err(failed)?;
        flock(&mut file, libc::LOCK_EX, directory)?;
        file.set_len(0).map_err(failed)?;
        file.rewind().map_err(failed)?;
        write!(file, "{}", std::process::id()).map_err(failed)?;
        Ok(DirLock {
            _held: Held::Real { _file: file },
        })
    }

    /// Locks an existing directory to look into it. Where the lock file can only be read, it is held all the
    /// same, and says nothing of this process. `None` where nobody can hold it: it is not there, and the
    /// file system takes no writes.
    ///
    /// # Errors
    /// [`LockError`]; nothing is left behind that was not there.
    pub fn acquire_to_look(directory: &Path) -> Result<Option<DirLock>, LockError> {
        match DirLock::acquire(directory) {
            Err(LockError::Io { error, .. }) => lock_as_reader(directory, error),
            locked => locked.map(Some),
        }
    }
}

/// Holds a lock file that can't be written, for `refused`. Shared: an exclusive lock needs a descriptor for
/// writing on network file systems, and those who look do not disturb each other.
fn lock_as_reader(directory: &Path, refused: io::Error) -> Result<Option<DirLock>, LockError> {
    let mut file = match File::open(directory.join(DirLock::FILE_NAME)) {
        Ok(file) => file,
        Err(error)
            if error.kind() == io::ErrorKind::NotFound
                && refused.kind() == io::ErrorKind::ReadOnlyFilesystem =>
        {
            return Ok(None);
        }
        Err(_) => {
            return Err(LockError::Io {
                path: directory.to_path_buf(),
                error: refused,
            });
        }
    };
    flock(&mut file, libc::LOCK_SH, directory)?;
    Ok(Some(DirLock {
        _held: Held::Real { _file: file },
    }))
}

/// Locks the open lock file of a directory, or tells who has it.
fn flock(file: &mut File, how: libc::c_int, directory: &Path) -> Result<(), LockError> {
    let path = directory.to_path_buf();
    // SAFETY: plain call on an open descriptor.
    if unsafe { libc::flock(file.as_raw_fd(), how | libc::LOCK_NB) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    if error.kind() != io::ErrorKind::WouldBlock {
        return Err(LockError::Io { path, error });
    }
    let mut holder = String::new();
    let read = file.read_to_string(&mut holder);
    let known = read.is_ok() && !holder.trim().is_empty();
    let holder = if known {
        holder.trim().to_owned()
    } else {
        "unknown".to_owned()
    };
    Err(LockError::Held { path, holder })
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

    /// Calls `act` as a user who may read what everybody may, and write nothing that the lock file's mode forbids.
    fn as_reader<T: Send>(act: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let other = scope.spawn(|| {
                // SAFETY: plain call; it changes the access of this thread alone. Refused to those who are not root,
                // who have no need of it.
                unsafe { libc::setfsuid(65_534) };
                act()
            });
            other.join().unwrap()
        })
    }

    #[test]
    fn a_lock_that_can_only_be_read_is_held_all_the_same() {
        // Proves: whoever may not write the lock file is refused while somebody holds it, and holds it against
        // others after; and goes without a lock only where nobody can have it.
        use std::fs::{Permissions, set_permissions};
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        set_permissions(path, Permissions::from_mode(0o755)).unwrap();
        let holder = DirLock::acquire(path).unwrap();
        let file = path.join(DirLock::FILE_NAME);
        set_permissions(&file, Permissions::from_mode(0o444)).unwrap();
        let look = || as_reader(|| DirLock::acquire_to_look(path));
        let refused = look().unwrap_err();
        assert!(
            matches!(&refused, LockError::Held { holder, .. }
            if *holder == std::process::id().to_string()),
            "{refused}"
        );
        drop(holder);
        let looking = look().unwrap();
        assert!(looking.is_some(), "free, and held now");
        let second = look().unwrap();
        assert!(second.is_some(), "two may look at once");
        set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
        let owner = DirLock::acquire(path).unwrap_err();
        assert!(matches!(owner, LockError::Held { .. }), "{owner}");
        drop((looking, second));
        std::fs::remove_file(&file).unwrap();
        set_permissions(path, Permissions::from_mode(0o555)).unwrap();
        assert!(
            matches!(look(), Err(LockError::Io { .. })),
            "a broker can make the file"
        );
        let error = |code| io::Error::from_raw_os_error(code);
        assert!(matches!(lock_as_reader(path, error(libc::EROFS)), Ok(None)));
        assert!(matches!(
            lock_as_reader(path, error(libc::EACCES)),
            Err(LockError::Io { .. })
        ));
    }
}
