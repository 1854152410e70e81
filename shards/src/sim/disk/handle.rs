//! The hand that a test has on a host's disk.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::faults::{Fault, Often};
use super::operation::Disk;
use super::pages::SECTOR_BYTES;
use crate::sim::host::HostId;
use crate::sim::stream::Stream;
use crate::sim::world::World;

/// A host's disk: what goes wrong with it, and what it holds. Every fault is for what lies below a path,
/// so that one lane fails or, with `/`, all of them do. Each time one strikes, the world's notes say so.
#[derive(Clone)]
pub struct DiskFaults {
    world: Rc<World>,
    host: HostId,
}

impl DiskFaults {
    pub(crate) fn new(world: Rc<World>, host: HostId) -> DiskFaults {
        DiskFaults { world, host }
    }

    fn with<T>(&self, act: impl FnOnce(&mut Disk) -> T) -> T {
        self.world
            .disks
            .with(&self.world, self.host, |disk, _| act(disk))
    }

    fn set(&self, under: impl AsRef<Path>, fault: Fault, often: Often) {
        self.with(|disk| disk.faults.set(under.as_ref(), fault, often));
    }

    /// Has the next `count` syncs below `under` fail: `datasync`, durable writes and `sync_dir`. What they
    /// covered stays readable until the power fails, is not durable, and no later sync says so.
    /// Directory operations stay pending instead.
    pub fn fail_syncs(&self, under: impl AsRef<Path>, count: u64) {
        self.set(under, Fault::FailSync, Often::Next(count));
    }

    /// As [`fail_syncs`](Self::fail_syncs), but with `ENOSPC`: a file system that gives space only when it writes, as
    /// over a network or within a quota. Not for writes that are durable by themselves.
    pub fn refuse_syncs(&self, under: impl AsRef<Path>, count: u64) {
        self.set(under, Fault::SyncNoSpace, Often::Next(count));
    }

    /// Has files not be opened, removed, renamed or made longer, but end with `EIO`, so many of a million.
    pub fn fail_names(&self, under: impl AsRef<Path>, per_million: u32) {
        self.set(under, Fault::FailName, Often::PerMillion(per_million));
    }

    /// Has reads of the sector at `position` of a file fail with `EIO`, until it is written over or
    /// [mended](Self::mend). Returns whether the file is that long.
    pub fn lose_sector(&self, path: impl AsRef<Path>, position: u64) -> bool {
        let path = path.as_ref();
        let lost = self.with(|disk| disk.lose_sector(path, position));
        let lost = lost.unwrap_or(false);
        if lost {
            let at = position - position % SECTOR_BYTES as u64;
            self.note(&format!(
                "the sector at {at} of {} can't be read",
                path.display()
            ));
        }
        lost
    }

    /// Has writes fail with `EIO`, so many of a million. A front of the bytes may be written all the same.
    pub fn fail_writes(&self, under: impl AsRef<Path>, per_million: u32) {
        self.set(under, Fault::FailWrite, Often::PerMillion(per_million));
    }

    /// Has reads fail with `EIO`, so many of a million.
    pub fn fail_reads(&self, under: impl AsRef<Path>, per_million: u32) {
        self.set(under, Fault::FailRead, Often::PerMillion(per_million));
    }

    /// Has writes end early, so many of a million; direct ones after a whole block. It is no error, and no
    /// note is made.
    pub fn shorten_writes(&self, under: impl AsRef<Path>, per_million: u32) {
        self.set(under, Fault::ShortWrite, Often::PerMillion(per_million));
    }

    /// Has reads end early, so many of a million; direct ones after a whole block. It is no error, and no
    /// note is made.
    pub fn shorten_reads(&self, under: impl AsRef<Path>, per_million: u32) {
        self.set(under, Fault::ShortRead, Often::PerMillion(per_million));
    }

    /// Has reads and writes end with `EINTR` or `EAGAIN`, so many of a million. No note is made.
    pub fn interrupt(&self, under: impl AsRef<Path>, per_million: u32) {
        self.set(under, Fault::Interrupt, Often::PerMillion(per_million));
    }

    /// Has the next `count` writes below `under` land at another place of their file, or in a file beside
    /// it, and report success. [`Atlas`](super::Atlas) knows whether a good copy is left elsewhere.
    pub fn misdirect_writes(&self, under: impl AsRef<Path>, count: u64) {
        self.set(under, Fault::Misdirect, Often::Next(count));
    }

    /// Sets how many bytes fit below `under`; `None` is no limit. Files count with their lengths, in whole
    /// pages. A limit below what is used refuses growth and takes nothing away.
    pub fn set_capacity(&self, under: impl AsRef<Path>, bytes: Option<u64>) {
        let under = under.as_ref();
        let what = bytes.map_or("no limit".to_owned(), |bytes| {
            format!("room for {bytes} bytes")
        });
        self.note(&format!("{what} below {}", under.display()));
        self.with(|disk| disk.files.set_capacity(under, bytes));
    }

    /// Makes operations below `under` so many times slower; 1 is as usual. What is under way stays as it is.
    pub fn slow(&self, under: impl AsRef<Path>, times: u64) {
        let under = under.as_ref();
        self.note(&format!("{times} times slower below {}", under.display()));
        self.with(|disk| disk.faults.slow(under, times));
    }

    /// Turns one bit around in the byte at `position` of a file, on the medium. Returns whether the file
    /// is that long. [`Atlas`](super::Atlas) knows whether a good copy is left elsewhere.
    pub fn rot(&self, path: impl AsRef<Path>, position: u64) -> bool {
        let path = path.as_ref();
        let bit = u8::try_from(self.world.below(Stream::Faults, 8)).expect("below 8");
        let at = usize::try_from(position % SECTOR_BYTES as u64).expect("below a sector");
        let rotten = self.with(|disk| disk.damage(path, position, |sector| sector[at] ^= 1 << bit));
        let rotten = rotten.unwrap_or(false);
        if rotten {
            self.note(&format!(
                "bit {bit} at {position} of {} rots",
                path.display()
            ));
        }
        rotten
    }

    /// Has a sector of one file lie where one of another file, or of the same, should be: a write that went
    /// astray, and whose own place got what it should have. Returns whether both are there.
    pub fn misplace(&self, from: (&Path, u64), to: (&Path, u64)) -> bool {
        let mut bytes = [0; SECTOR_BYTES];
        let misplaced = self.with(|disk| {
            let node = disk.files.find(from.0).ok()?;
            let found = disk.files.read(node, from.1, SECTOR_BYTES).ok()?;
            bytes.get_mut(..found.len())?.copy_from_slice(&found);
            disk.damage(to.0, to.1, |sector| *sector = bytes).ok()
        });
        let misplaced = misplaced.unwrap_or(false);
        if misplaced {
            let ((from, at), (to, over)) = (from, to);
            let (from, to) = (from.display(), to.display());
            self.note(&format!(
                "the sector at {at} of {from} lies over {over} of {to}"
            ));
        }
        misplaced
    }

    /// Puts back what [`rot`](Self::rot), [`misplace`](Self::misplace) and [`lose_sector`](Self::lose_sector) damaged and nobody has written over
    /// since, as an operator would from a good copy. Returns how many sectors.
    pub fn mend(&self) -> usize {
        let mended = self.with(Disk::mend);
        if mended > 0 {
            self.note(&format!("{mended} sectors were mended from a good copy"));
        }
        mended
    }

    /// Where the latest durable write of a file began, 0 if there was none. Whoever appends and waits for each
    /// write has everything before it on the disk, and something after it too.
    pub fn latest_durable_write(&self, path: impl AsRef<Path>) -> u64 {
        let found = self.with(|disk| {
            let node = disk.files.find(path.as_ref()).ok()?;
            let content = disk.files.content_mut(node).ok()?;
            Some(content.durable_write())
        });
        found.unwrap_or(0)
    }

    /// Has a bit rot in a random sector of a random file below `under`, drawn from the stream of faults.
    /// Returns where; `None` if there is no file with bytes.
    pub fn rot_somewhere(&self, under: impl AsRef<Path>) -> Option<(PathBuf, u64)> {
        let mut files = self.files();
        files.retain(|(path, len)| path.starts_with(under.as_ref()) && *len > 0);
        let count = files.len() as u64;
        let index = (count > 0).then(|| self.world.below(Stream::Faults, count))?;
        let (path, len) = files.swap_remove(usize::try_from(index).ok()?);
        let sector = SECTOR_BYTES as u64;
        let start = self.world.below(Stream::Faults, len.div_ceil(sector)) * sector;
        let position = start + self.world.below(Stream::Faults, sector.min(len - start));
        self.rot(&path, position).then_some((path, position))
    }

    /// Ends every fault. What is damaged stays so, and limits of room stay.
    pub fn heal(&self) {
        self.note("no faults any more");
        self.with(|disk| disk.faults.heal());
    }

    /// Makes a directory and those above it, and all names so far durable: a machine as its operator set it up.
    ///
    /// # Panics
    /// If a file is in the way.
    pub fn create_dir_all(&self, path: impl AsRef<Path>) {
        self.with(|disk| {
            let made = disk.files.create_dir_all(path.as_ref());
            made.expect("nothing but directories is in the way");
            disk.files.settle_names();
        });
    }

    /// Takes the files below `under` away for good, as when another disk, or none, is mounted there. Returns how many.
    ///
    /// # Panics
    /// If one is open.
    pub fn lose_files(&self, under: impl AsRef<Path>) -> usize {
        let under = under.as_ref();
        self.note(&format!("the files below {} are gone", under.display()));
        let mut files = self.files();
        files.retain(|(path, _)| path.starts_with(under));
        self.with(|disk| {
            for (path, _) in &files {
                let is_open = disk.files.all_opened().any(|open| open.path == *path);
                assert!(!is_open, "{} is open", path.display());
                disk.files.remove(path).expect("just listed");
            }
            disk.files.settle_names();
        });
        files.len()
    }

    /// Bytes that files use, in whole pages, those without a name too as long as they are open.
    pub fn used_bytes(&self) -> u64 {
        self.with(|disk| disk.files.used(Path::new("/")))
    }

    /// The files with their lengths, by path, those without a name too as long as they are open.
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        let files = self.with(|disk| disk.files.files());
        files
            .into_iter()
            .map(|(path, _, len)| (path, len))
            .collect()
    }

    /// What a file holds, as readers see it, without faults; `None` if there is none.
    pub fn read(&self, path: impl AsRef<Path>) -> Option<Vec<u8>> {
        self.with(|disk| {
            let node = disk.files.find(path.as_ref()).ok()?;
            let len = usize::try_from(disk.files.len(node).ok()?).ok()?;
            disk.files.read(node, 0, len).ok()
        })
    }

    /// Under which paths files are open, one for each descriptor. A list that grows is a leak.
    pub fn open_files(&self) -> Vec<PathBuf> {
        self.with(|disk| {
            disk.files
                .all_opened()
                .map(|open| open.path.clone())
                .collect()
        })
    }

    fn note(&self, what: &str) {
        self.world
            .note(format!("host {} disk: {what}", self.host.0));
    }
}
