//! What a process may have under way on its host's disk, and what each comes to, faults included. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use super::Draw;
use super::content::{Damage, Snapshot};
use super::faults::{Fault, Faults};
use super::file_system::{Descriptor, FileSystem, Open, errno};
use super::names::NodeId;
use super::pages::{PAGE_BYTES, SECTOR_BYTES};
use crate::buffer::{BLOCK_BYTES, Buf};
use crate::disk::OpenOptions;

/// What takes time.
#[derive(Debug)]
pub(crate) enum Operation {
    Open {
        path: PathBuf,
        options: OpenOptions,
    },
    Read {
        open: Open,
        position: u64,
        len: usize,
    },
    Write {
        open: Open,
        position: u64,
        bytes: Buf,
    },
    Sync {
        open: Open,
        covers: Snapshot,
    },
    Allocate {
        open: Open,
        len: u64,
    },
    Remove {
        path: PathBuf,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    SyncDir {
        path: PathBuf,
        covers: Vec<u64>,
    },
}

/// What an operation gave.
#[derive(Debug)]
pub(crate) enum Outcome {
    Opened(Descriptor),
    Read(Vec<u8>),
    Written(usize),
    Done,
}

/// Nanoseconds that each kind of operation takes: the shortest, and how much longer it may be.
const READ_NS: (u64, u64) = (40_000, 110_000);
const WRITE_NS: (u64, u64) = (50_000, 150_000);
const SYNC_NS: (u64, u64) = (100_000, 300_000);
const NAMES_NS: (u64, u64) = (20_000, 80_000);

impl Operation {
    /// How long it takes on a disk at its best.
    pub(crate) fn length_ns(&self) -> (u64, u64) {
        match self {
            Operation::Read { .. } => READ_NS,
            Operation::Write { .. } => WRITE_NS,
            Operation::Sync { .. } | Operation::SyncDir { .. } => SYNC_NS,
            _ => NAMES_NS,
        }
    }

    /// A number for the trace.
    pub(crate) fn kind(&self) -> u64 {
        match self {
            Operation::Open { .. } => 1,
            Operation::Read { .. } => 2,
            Operation::Write { .. } => 3,
            Operation::Sync { .. } => 4,
            Operation::Allocate { .. } => 5,
            Operation::Remove { .. } => 6,
            Operation::Rename { .. } => 7,
            Operation::SyncDir { .. } => 8,
        }
    }
}

/// A host's disk: its files, what may go wrong with them, and which directories are locked by whom.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    pub(crate) files: FileSystem,
    pub(crate) faults: Faults,
    /// By directory, the life of the host that has it.
    pub(crate) locks: BTreeMap<NodeId, u32>,
    /// Sectors that were damaged: which file, where, and what puts them back.
    pub(crate) damaged: Vec<(NodeId, u64, [Damage; 2])>,
    /// Sectors that can't be read: which file, and where.
    unreadable: BTreeSet<(NodeId, u64)>,
    /// Faults that struck and are not in the world's record yet.
    pub(crate) notes: Vec<String>,
}

impl Disk {
    /// Changes the sector at `position` of a file on the medium; it is remembered until mended. Returns whether
    /// the file is that long.
    pub(crate) fn damage(
        &mut self,
        path: &Path,
        position: u64,
        change: impl Fn(&mut [u8; SECTOR_BYTES]),
    ) -> io::Result<bool> {
        let node = self.files.find(path)?;
        let content = self.files.content_mut(node)?;
        let there = position < content.len();
        if there {
            let sector = position - position % SECTOR_BYTES as u64;
            let damage = content.damage(sector, change);
            self.damaged.push((node, sector, damage));
        }
        Ok(there)
    }

    /// Has the sector at `position` of a file not be readable until it is written over, or mended. Returns whether the
    /// file is that long.
    pub(crate) fn lose_sector(&mut self, path: &Path, position: u64) -> io::Result<bool> {
        let node = self.files.find(path)?;
        let there = position < self.files.len(node)?;
        if there {
            let sector = position - position % SECTOR_BYTES as u64;
            self.unreadable.insert((node, sector));
        }
        Ok(there)
    }

    /// Puts damaged sectors back that nothing was written over since, the latest first. Returns how many.
    pub(crate) fn mend(&mut self) -> usize {
        let lost = std::mem::take(&mut self.unreadable).len();
        let damaged = std::mem::take(&mut self.damaged).into_iter().rev();
        let mended = damaged.filter(|(node, position, damage)| {
            let content = self.files.content_mut(*node);
            content.is_ok_and(|content| content.mend(*position, damage))
        });
        lost + mended.count()
    }

    /// The path by which faults know an operation.
    pub(crate) fn path_of(&self, operation: &Operation) -> PathBuf {
        match operation {
            Operation::Open { path, .. }
            | Operation::Remove { path }
            | Operation::Rename { from: path, .. }
            | Operation::SyncDir { path, .. } => path.clone(),
            Operation::Read { open, .. }
            | Operation::Write { open, .. }
            | Operation::Sync { open, .. }
            | Operation::Allocate { open, .. } => {
                let path = self.files.path_of(open.node);
                path.unwrap_or_else(|| open.path.clone())
            }
        }
    }

    /// Whether a fault strikes; it goes into the notes.
    fn strikes(&mut self, fault: Fault, path: &Path, draw: Draw<'_>) -> bool {
        let strikes = self.faults.strikes(fault, path, draw);
        if strikes {
            self.notes.push(format!("{fault:?} of {}", path.display()));
        }
        strikes
    }

    /// Whether a name operation fails.
    fn fails_name(&mut self, path: &Path, draw: Draw<'_>) -> io::Result<()> {
        if self.strikes(Fault::FailName, path, draw) {
            return Err(errno(libc::EIO));
        }
        Ok(())
    }

    /// What a sync that fails says.
    fn fails_sync(&mut self, path: &Path, draw: Draw<'_>) -> Option<io::Error> {
        if self.strikes(Fault::FailSync, path, draw) {
            return Some(errno(libc::EIO));
        }
        let refused = self.strikes(Fault::SyncNoSpace, path, draw);
        refused.then(|| errno(libc::ENOSPC))
    }

    /// Carries an operation out.
    pub(crate) fn perform(&mut self, operation: Operation, draw: Draw<'_>) -> io::Result<Outcome> {
        let path = if self.faults.is_empty() {
            PathBuf::new()
        } else {
            self.path_of(&operation)
        };
        match operation {
            Operation::Open { path, options } => {
                self.fails_name(&path, draw)?;
                self.files.open(&path, options).map(Outcome::Opened)
            }
            Operation::Read {
                open,
                position,
                len,
            } => self.read(&path, &open, position, len, draw),
            Operation::Write {
                open,
                position,
                bytes,
            } => self.write(&path, &open, position, &bytes, draw),
            Operation::Sync { open, covers } => {
                let failed = self.fails_sync(&path, draw);
                let content = self.files.content_mut(open.node)?;
                if let Some(error) = failed {
                    content.fail_sync(&covers);
                    return Err(error);
                }
                content.complete_sync(&covers);
                Ok(Outcome::Done)
            }
            Operation::Allocate { open, len } => {
                self.fails_name(&path, draw)?;
                self.files.allocate(open.node, len).map(|()| Outcome::Done)
            }
            Operation::Remove { path } => {
                self.fails_name(&path, draw)?;
                self.files.remove(&path).map(|()| Outcome::Done)
            }
            Operation::Rename { from, to } => {
                self.fails_name(&from, draw)?;
                self.files.rename(&from, &to).map(|()| Outcome::Done)
            }
            Operation::SyncDir { covers, .. } => {
                if let Some(error) = self.fails_sync(&path, draw) {
                    return Err(error);
                }
                self.files.complete_sync_dir(&covers);
                Ok(Outcome::Done)
            }
        }
    }

    fn read(
        &mut self,
        path: &Path,
        open: &Open,
        position: u64,
        len: usize,
        draw: Draw<'_>,
    ) -> io::Result<Outcome> {
        self.interrupted(path, draw)?;
        if self.strikes(Fault::FailRead, path, draw) {
            return Err(errno(libc::EIO));
        }
        let mut bytes = self.files.read(open.node, position, len)?;
        if self.meets_unreadable(open.node, position, bytes.len()) {
            return Err(errno(libc::EIO));
        }
        if self.faults.strikes(Fault::ShortRead, path, draw) {
            bytes.truncate(shorter(bytes.len(), open, draw));
        }
        Ok(Outcome::Read(bytes))
    }

    /// Whether a sector that can't be read lies in a range of a file.
    fn meets_unreadable(&self, node: NodeId, position: u64, len: usize) -> bool {
        let sector = position - position % SECTOR_BYTES as u64;
        let range = (node, sector)..(node, position + len as u64);
        len > 0 && self.unreadable.range(range).next().is_some()
    }

    /// Sectors that are written over as wholes can be read again.
    fn written_over(&mut self, node: NodeId, position: u64, len: usize) {
        let end = position + len as u64;
        self.unreadable.retain(|(of, sector)| {
            *of != node || *sector < position || sector + SECTOR_BYTES as u64 > end
        });
    }

    fn interrupted(&mut self, path: &Path, draw: Draw<'_>) -> io::Result<()> {
        if self.faults.strikes(Fault::Interrupt, path, draw) {
            let codes = [libc::EINTR, libc::EAGAIN];
            return Err(errno(codes[usize::from(draw(2) == 0)]));
        }
        Ok(())
    }

    fn write(
        &mut self,
        path: &Path,
        open: &Open,
        position: u64,
        bytes: &[u8],
        draw: Draw<'_>,
    ) -> io::Result<Outcome> {
        if !open.options.write {
            return Err(errno(libc::EBADF));
        }
        self.interrupted(path, draw)?;
        if self.strikes(Fault::FailWrite, path, draw) {
            let whole_sectors = bytes.len() / SECTOR_BYTES;
            let sectors = usize::try_from(draw(whole_sectors as u64 + 1)).unwrap_or(0);
            self.files
                .write(open.node, position, &bytes[..sectors * SECTOR_BYTES])?;
            return Err(errno(libc::EIO));
        }
        if self.strikes(Fault::Misdirect, path, draw)
            && let Some(target) = self.elsewhere(path, open.node, position, bytes.len(), draw)
        {
            return self.misdirect(open, position, bytes, target);
        }
        let mut len = bytes.len();
        if self.faults.strikes(Fault::ShortWrite, path, draw) {
            len = shorter(len, open, draw);
        }
        let count = self.files.write(open.node, position, &bytes[..len])?;
        self.written_over(open.node, position, count);
        if open.options.dsync {
            let failed = self.strikes(Fault::FailSync, path, draw);
            let content = self.files.content_mut(open.node)?;
            if failed {
                content.fail_range(position, count);
                return Err(errno(libc::EIO));
            }
            content.sync_range(position, count);
        }
        Ok(Outcome::Written(count))
    }

    /// Another place of the same size: in the same file, or in one beside it. Whole blocks, as a
    /// controller that mixes up addresses would have it.
    fn elsewhere(
        &self,
        path: &Path,
        node: NodeId,
        position: u64,
        len: usize,
        draw: Draw<'_>,
    ) -> Option<(NodeId, u64)> {
        let beside = path.parent()?;
        let files = self.files.files();
        let long = |bytes: u64| bytes.checked_sub(len as u64);
        let places: Vec<(NodeId, u64)> = files
            .iter()
            .filter(|(other, ..)| other.parent() == Some(beside))
            .filter_map(|(_, other, bytes)| Some((*other, long(*bytes)? / PAGE_BYTES as u64)))
            .filter(|(other, last)| *other != node || *last > 0)
            .collect();
        let index = usize::try_from(draw((places.len() as u64).max(1))).ok()?;
        let (other, last) = *places.get(index)?;
        let place = draw(last + 1) * PAGE_BYTES as u64;
        if (other, place) == (node, position) {
            return Some((other, if place == 0 { PAGE_BYTES as u64 } else { 0 }));
        }
        Some((other, place))
    }

    fn misdirect(
        &mut self,
        open: &Open,
        position: u64,
        bytes: &[u8],
        (node, place): (NodeId, u64),
    ) -> io::Result<Outcome> {
        let to = self.files.path_of(node).unwrap_or_default();
        self.notes.push(format!(
            "a write of {} bytes at {position} of {} went to {place} of {}",
            bytes.len(),
            open.path.display(),
            to.display()
        ));
        // The file system believes that it wrote: the length is what it would be.
        let end = position + bytes.len() as u64;
        if self.files.len(open.node)? < end {
            self.files.allocate(open.node, end)?;
        }
        self.files.write(node, place, bytes)?;
        if open.options.dsync {
            self.files.content_mut(node)?.sync_range(place, bytes.len());
            let content = self.files.content_mut(open.node)?;
            content.sync_range(position, bytes.len());
        }
        Ok(Outcome::Written(bytes.len()))
    }

    /// The host's life ended with these operations under way: each happened or not.
    pub(crate) fn end_life(&mut self, under_way: Vec<Operation>, power: bool, draw: Draw<'_>) {
        for operation in under_way {
            if draw(2) == 0 {
                continue;
            }
            let operation = match operation {
                // Nobody was told that it is durable, so that any part of it may be.
                Operation::Write {
                    mut open,
                    position,
                    bytes,
                } if power => {
                    open.options.dsync = false;
                    Operation::Write {
                        open,
                        position,
                        bytes,
                    }
                }
                other => other,
            };
            // Whoever asked is gone; an error concerns nobody.
            drop(self.perform(operation, draw));
        }
        self.locks.clear();
        if power {
            self.files.power_loss(draw);
        } else {
            self.files.close_all();
        }
    }
}

/// A shorter length for a transfer, but not nothing; a direct one is cut at a whole block.
fn shorter(len: usize, open: &Open, draw: Draw<'_>) -> usize {
    let unit = if open.options.direct { BLOCK_BYTES } else { 1 };
    let units = (len.saturating_sub(1) / unit) as u64;
    if units == 0 {
        return len;
    }
    (usize::try_from(draw(units)).unwrap_or(0) + 1) * unit
}
