//! The files of a lane's tables: at most so many of them are open, those that were used last.
//!
//! A table that is read keeps its file; one that is not may be closed and is opened again by its path. Whoever finds
//! all files in use waits: reads hold a file for as long as they take and wait for nothing meanwhile, so a file
//! comes free. The name of a table leaves the disk while somebody may still read it: its file is held until then.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

use streambus_shards::sync::Notify;
use streambus_shards::{DiskError, File, OpenOptions};

/// The open files of a lane's tables. Lives on the lane's core.
#[derive(Debug)]
pub(crate) struct TableFiles {
    files: RefCell<Files>,
    /// Wakes those who wait for a file: one came free, or was closed.
    released: Notify,
    /// Wakes whoever removes the names of tables: a table is read no more.
    closed: Rc<Notify>,
}

/// Order: a file is in `idle` under the number of its last use exactly while nobody uses it; `open` and what is being
/// opened are never more than `open_max`.
#[derive(Debug)]
struct Files {
    open_max: usize,
    /// By the number of the table.
    open: BTreeMap<u64, OpenedFile>,
    /// Numbers of tables by their last use, the oldest first.
    idle: BTreeMap<u64, u64>,
    uses: u64,
    opening: usize,
    held: usize,
    /// Counts opens, for tests.
    opened: u64,
}

#[derive(Debug)]
struct OpenedFile {
    file: Rc<File>,
    users: usize,
    last_use: u64,
    /// Nobody will ask for it again: it is closed by its last user.
    closing: bool,
}

/// A file that is open as long as this is there.
#[derive(Debug)]
pub(crate) struct TableFile {
    file: Rc<File>,
    id: u64,
    files: Rc<TableFiles>,
    hold: Option<Held>,
}

/// Counts a file among those that are held for tables whose names are gone.
#[derive(Debug)]
struct Held(Rc<TableFiles>);

/// Room for a file that is being opened.
struct Room<'a>(&'a TableFiles);

enum Found {
    Open(Rc<File>),
    Room,
    /// All are in use.
    Full,
}

impl TableFiles {
    /// `closed` rings when a table is read no more.
    ///
    /// # Panics
    /// If not even one may be open.
    pub(crate) fn new(open_max: usize, closed: Rc<Notify>) -> TableFiles {
        assert!(open_max > 0, "tables without files");
        TableFiles {
            files: RefCell::new(Files {
                open_max,
                open: BTreeMap::new(),
                idle: BTreeMap::new(),
                uses: 0,
                opening: 0,
                held: 0,
                opened: 0,
            }),
            released: Notify::new(),
            closed,
        }
    }

    /// The file of a table, opened if it is not. Waits while as many as may be open are in use.
    ///
    /// # Errors
    /// When it can't be opened. If the process has no descriptor left, only when no table's file could give up its own.
    pub(crate) async fn get(self: &Rc<Self>, id: u64, path: &Path) -> Result<TableFile, DiskError> {
        loop {
            let released = self.released.notified();
            let found = self.files.borrow_mut().find(id);
            let _room = match found {
                Found::Open(file) => return Ok(self.guard(id, file)),
                Found::Room => Room(self),
                Found::Full => {
                    released.await;
                    continue;
                }
            };
            let options = OpenOptions {
                direct: true,
                ..OpenOptions::default()
            };
            let opened = File::open(path, options).await;
            let mut files = self.files.borrow_mut();
            match opened {
                Ok(file) => {
                    let file = files.insert(id, file);
                    drop(files);
                    return Ok(self.guard(id, file));
                }
                // Sockets took the descriptors.
                Err(error) if error.is_out_of_descriptors() && files.close_idle() => {}
                Err(error) => {
                    // Its name may have left the disk meanwhile: then its file is held.
                    let known = files.known(id);
                    drop(files);
                    return known.map(|file| self.guard(id, file)).ok_or(error);
                }
            }
        }
    }

    /// The file of a table whose name is about to leave the disk, to be held for its readers; `None` when too many are
    /// held already: the name has to stay.
    ///
    /// # Errors
    /// As [`TableFiles::get`].
    pub(crate) async fn hold(
        self: &Rc<Self>,
        id: u64,
        path: &Path,
    ) -> Result<Option<TableFile>, DiskError> {
        {
            // Half of them stay for those who come and go.
            let mut files = self.files.borrow_mut();
            if files.held >= files.open_max / 2 {
                return Ok(None);
            }
            files.held += 1;
        }
        let held = Held(Rc::clone(self));
        let mut file = self.get(id, path).await?;
        file.hold = Some(held);
        Ok(Some(file))
    }

    /// Nobody will ask for the file of this table again.
    pub(crate) fn close(&self, id: u64) {
        self.files.borrow_mut().close(id);
        self.released.notify_all();
        self.closed.notify_one();
    }

    /// How many files are open now.
    #[cfg(test)]
    pub(crate) fn open_count(&self) -> usize {
        self.files.borrow().open.len()
    }

    /// How often a file was opened.
    #[cfg(test)]
    pub(crate) fn opened(&self) -> u64 {
        self.files.borrow().opened
    }

    fn guard(self: &Rc<Self>, id: u64, file: Rc<File>) -> TableFile {
        TableFile {
            file,
            id,
            files: Rc::clone(self),
            hold: None,
        }
    }
}

impl Files {
    /// The open file, or room for one.
    fn find(&mut self, id: u64) -> Found {
        if let Some(known) = self.known(id) {
            return Found::Open(known);
        }
        if self.open.len() + self.opening >= self.open_max && !self.close_idle() {
            return Found::Full;
        }
        self.opening += 1;
        Found::Room
    }

    /// Takes in what was opened, or gives back what somebody else opened meanwhile.
    fn insert(&mut self, id: u64, file: File) -> Rc<File> {
        self.opened += 1;
        if let Some(known) = self.known(id) {
            return known;
        }
        let file = Rc::new(file);
        let opened = OpenedFile {
            file: Rc::clone(&file),
            users: 1,
            last_use: 0,
            closing: false,
        };
        let before = self.open.insert(id, opened);
        assert!(before.is_none(), "the file of table {id} is open twice");
        file
    }

    /// The open file, for one more user.
    fn known(&mut self, id: u64) -> Option<Rc<File>> {
        let known = self.open.get_mut(&id)?;
        if known.users == 0 {
            self.idle.remove(&known.last_use);
        }
        known.users += 1;
        known.closing = false;
        Some(Rc::clone(&known.file))
    }

    /// Closes the file that nobody uses and that was used the longest time ago; says whether there was one.
    fn close_idle(&mut self) -> bool {
        let Some((_, id)) = self.idle.pop_first() else {
            return false;
        };
        let closed = self.open.remove(&id).expect("an idle file is open");
        assert!(closed.users == 0, "closing a file in use");
        true
    }

    fn close(&mut self, id: u64) {
        let Some(known) = self.open.get_mut(&id) else {
            return;
        };
        if known.users > 0 {
            known.closing = true;
            return;
        }
        self.idle.remove(&known.last_use);
        self.open.remove(&id);
    }

    fn release(&mut self, id: u64) {
        self.uses += 1;
        let uses = self.uses;
        let known = self.open.get_mut(&id).expect("a file in use is open");
        assert!(known.users > 0, "a file is released that nobody uses");
        known.users -= 1;
        if known.users > 0 {
            return;
        }
        if known.closing {
            self.open.remove(&id);
            return;
        }
        known.last_use = uses;
        let before = self.idle.insert(uses, id);
        assert!(before.is_none(), "two files released at once");
    }
}

impl std::ops::Deref for TableFile {
    type Target = File;

    fn deref(&self) -> &File {
        &self.file
    }
}

impl Drop for TableFile {
    fn drop(&mut self) {
        drop(self.hold.take());
        let mut files = self.files.files.borrow_mut();
        files.release(self.id);
        drop(files);
        self.files.released.notify_all();
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.files.borrow_mut().held -= 1;
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        let mut files = self.0.files.borrow_mut();
        files.opening -= 1;
        assert!(
            files.open.len() + files.opening <= files.open_max,
            "more tables open than may be"
        );
        drop(files);
        self.0.released.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use streambus_shards::{run_alone, spawn, yield_now};

    use super::*;

    fn made(dir: &Path, count: u64) -> Vec<PathBuf> {
        let path = |id| dir.join(format!("{id}"));
        let paths: Vec<_> = (0..count).map(path).collect();
        for path in &paths {
            std::fs::write(path, [0; 4096]).unwrap();
        }
        paths
    }

    #[test]
    fn the_file_that_was_used_the_longest_time_ago_is_closed() {
        // Proves the bound and the order in which files are closed, and that one in use is not.
        let dir = tempfile::tempdir().unwrap();
        run_alone(async {
            let paths = made(dir.path(), 5);
            let files = Rc::new(TableFiles::new(3, Rc::default()));
            let get = async |id: usize| files.get(id as u64, &paths[id]).await.unwrap();
            let kept = get(0).await;
            for id in [1, 2, 1] {
                drop(get(id).await);
            }
            assert_eq!((files.open_count(), files.opened()), (3, 3));
            drop(get(3).await); // In the place of 2.
            drop(get(1).await);
            assert_eq!((files.open_count(), files.opened()), (3, 4));
            drop(get(2).await); // In the place of 3: 0 is in use, 1 was used later.
            drop(get(1).await);
            drop(get(0).await);
            assert_eq!((files.open_count(), files.opened()), (3, 5));
            drop(kept);
            files.close(0);
            files.close(4);
            assert_eq!(files.open_count(), 2);
        })
        .unwrap();
    }

    #[test]
    fn whoever_finds_all_files_in_use_waits() {
        // Proves that a read waits for a file that comes free and does not fail, also behind one that is given up while
        // it waits; and that files of tables whose names are gone leave room for others.
        let dir = tempfile::tempdir().unwrap();
        run_alone(async {
            let paths = made(dir.path(), 4);
            let files = Rc::new(TableFiles::new(2, Rc::default()));
            let held = files.hold(0, &paths[0]).await.unwrap();
            assert!(held.is_some());
            assert!(files.hold(1, &paths[1]).await.unwrap().is_none());
            let used = files.get(1, &paths[1]).await.unwrap();
            let waits = |id: usize| {
                let (files, path) = (Rc::clone(&files), paths[id].clone());
                spawn(async move { drop(files.get(id as u64, &path).await.unwrap()) })
            };
            let given_up = waits(2);
            let waiting = waits(3);
            for _ in 0..10 {
                yield_now().await;
            }
            assert_eq!(files.opened(), 2);
            assert!(given_up.cancel().await.is_none());
            drop(used);
            waiting.await;
            assert_eq!(files.open_count(), 2);
            std::fs::remove_file(&paths[0]).unwrap();
            held.unwrap().read_at(0, 4096).await.unwrap();
            assert!(files.hold(1, &paths[1]).await.unwrap().is_some());
        })
        .unwrap();
    }

    #[test]
    fn a_file_that_cant_be_opened_takes_no_room() {
        // Proves that an error gives the room back.
        let dir = tempfile::tempdir().unwrap();
        run_alone(async {
            let paths = made(dir.path(), 1);
            let files = Rc::new(TableFiles::new(1, Rc::default()));
            for _ in 0..3 {
                let missing = files.get(7, &dir.path().join("none")).await;
                assert!(matches!(missing, Err(DiskError::NotFound { .. })));
            }
            drop(files.get(0, &paths[0]).await.unwrap());
        })
        .unwrap();
    }
}
