//! The disks of the hosts.
//!
//! The model is pure: [`pages`] and [`content`] say what a file holds now and after a power failure,
//! [`names`] which name leads to it, [`file_system`] is what the kernel offers over both, [`faults`] decide
//! what goes wrong, and [`operation`] carries one operation out. Here is what waits: an operation takes
//! virtual time, acts when that is over, and whether or not anyone still waits for it.
//!
//! What it is stricter in than a real file system: a file that is synced, but whose directory is not, may be
//! gone. What it is kinder in: sectors never tear, and operations on one name keep their order.

mod atlas;
mod content;
mod faults;
mod file_system;
mod handle;
mod names;
mod operation;
mod pages;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

pub use atlas::Atlas;
pub use handle::DiskFaults;

use super::host::{HostId, Kill};
use super::stream::Stream;
use super::world::{EventKey, Place, World, current};
use crate::buffer::{Buf, BufMut};
use crate::disk::OpenOptions;
use file_system::{Descriptor, errno};
use operation::{Disk, Operation, Outcome};

/// Draws a number below its argument, which is not 0.
type Draw<'a> = &'a mut dyn FnMut(u64) -> u64;

/// An operation that has not happened yet.
struct UnderWay {
    event: EventKey,
    operation: Operation,
}

#[derive(Default)]
struct HostDisk {
    disk: Disk,
    /// By number. Bounded by the tasks of the host.
    under_way: BTreeMap<u64, UnderWay>,
    operations: u64,
}

/// The disks of all hosts.
#[derive(Default)]
pub(crate) struct Disks(RefCell<BTreeMap<HostId, HostDisk>>);

impl Disks {
    /// Calls `act` with a host's disk. It must not call back into the world, but for draws.
    fn with<T>(
        &self,
        world: &World,
        host: HostId,
        act: impl FnOnce(&mut Disk, Draw<'_>) -> T,
    ) -> T {
        let (result, notes) = {
            let mut disks = self.0.borrow_mut();
            let disk = &mut disks.entry(host).or_default().disk;
            let result = act(disk, &mut |end| world.below(Stream::Disk, end));
            (result, std::mem::take(&mut disk.notes))
        };
        for note in notes {
            world.note(format!("host {} disk: {note}", host.0));
        }
        result
    }

    /// The host's life ended: operations under way happen or not.
    pub(crate) fn killed(&self, world: &Rc<World>, host: HostId, how: Kill) {
        let under_way = {
            let mut disks = self.0.borrow_mut();
            std::mem::take(&mut disks.entry(host).or_default().under_way)
        };
        let mut operations = Vec::with_capacity(under_way.len());
        for (_, UnderWay { event, operation }) in under_way {
            world.forget(event);
            operations.push(operation);
        }
        self.with(world, host, |disk, draw| {
            disk.end_life(operations, how == Kill::Power, draw);
        });
    }

    /// Begins an operation; it happens later.
    fn begin(&self, world: &Rc<World>, place: Place, operation: Operation) -> Waiting {
        let waiter: Rc<RefCell<Waiter>> = Rc::default();
        let kind = operation.kind();
        let (shortest, longer) = operation.length_ns();
        let slowness = self.with(world, place.host, |disk, _| {
            if disk.faults.is_empty() {
                return 1;
            }
            disk.faults.slowness(&disk.path_of(&operation))
        });
        let length = (shortest + world.below(Stream::Disk, longer)).saturating_mul(slowness);
        let number = {
            let mut disks = self.0.borrow_mut();
            let disk = disks.entry(place.host).or_default();
            disk.operations += 1;
            disk.operations
        };
        let told = Rc::clone(&waiter);
        let event = world.after(length, move |world| {
            world.disks.happen(world, place, number, kind, &told);
        });
        let mut disks = self.0.borrow_mut();
        let disk = disks.entry(place.host).or_default();
        disk.under_way.insert(number, UnderWay { event, operation });
        Waiting { waiter, place }
    }

    fn happen(
        &self,
        world: &Rc<World>,
        place: Place,
        number: u64,
        kind: u64,
        waiter: &RefCell<Waiter>,
    ) {
        let operation = {
            let mut disks = self.0.borrow_mut();
            let disk = disks.entry(place.host).or_default();
            disk.under_way.remove(&number)
        };
        let Some(UnderWay { operation, .. }) = operation else {
            return;
        };
        let outcome = self.with(world, place.host, |disk, draw| {
            let outcome = disk.perform(operation, draw);
            if let (Ok(Outcome::Opened(descriptor)), true) = (&outcome, waiter.borrow().gone) {
                disk.files.close(*descriptor);
            }
            outcome
        });
        world.trace(kind << 32 | u64::from(outcome.is_err()));
        let waker = {
            let mut waiter = waiter.borrow_mut();
            waiter.outcome = Some(outcome);
            waiter.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Who waits for an operation.
#[derive(Default)]
struct Waiter {
    outcome: Option<io::Result<Outcome>>,
    waker: Option<Waker>,
    gone: bool,
}

/// Resolves when the operation has happened; never, if the host was killed before.
struct Waiting {
    waiter: Rc<RefCell<Waiter>>,
    place: Place,
}

impl Future for Waiting {
    type Output = io::Result<Outcome>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut waiter = self.waiter.borrow_mut();
        if let Some(outcome) = waiter.outcome.take() {
            return Poll::Ready(outcome);
        }
        waiter.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let outcome = {
            let mut waiter = self.waiter.borrow_mut();
            waiter.gone = true;
            waiter.outcome.take()
        };
        if let Some(Ok(Outcome::Opened(descriptor))) = outcome {
            close(self.place, descriptor);
        }
    }
}

fn close(place: Place, descriptor: Descriptor) {
    if let Some(world) = current().filter(|world| world.lives(place)) {
        world.disks.with(&world, place.host, |disk, _| {
            disk.files.close(descriptor);
        });
    }
}

/// Calls `act` with the disk of the host whose task runs; refuses if its life is over.
fn here<T>(world: &World, act: impl FnOnce(&mut Disk, Place) -> io::Result<T>) -> io::Result<T> {
    let place = world.place();
    if !world.lives(place) {
        return Err(errno(libc::EIO));
    }
    world
        .disks
        .with(world, place.host, |disk, _| act(disk, place))
}

/// Carries out an operation of the task that runs. A life that is over waits for ever.
async fn run(world: Rc<World>, operation: Operation) -> io::Result<Outcome> {
    let place = world.place();
    run_at(world, place, operation).await
}

async fn run_at(world: Rc<World>, place: Place, operation: Operation) -> io::Result<Outcome> {
    if !world.lives(place) {
        return std::future::pending().await;
    }
    let waiting = world.disks.begin(&world, place, operation);
    drop(world);
    waiting.await
}

/// An open file of the simulated world. Dropping it closes it, unless its host's life is over.
#[derive(Debug)]
pub(crate) struct SimFile {
    place: Place,
    descriptor: Descriptor,
}

impl Drop for SimFile {
    fn drop(&mut self) {
        close(self.place, self.descriptor);
    }
}

impl SimFile {
    pub(crate) async fn open(
        world: Rc<World>,
        path: &Path,
        options: OpenOptions,
    ) -> io::Result<SimFile> {
        let place = world.place();
        let path = path.to_path_buf();
        match run(world, Operation::Open { path, options }).await? {
            Outcome::Opened(descriptor) => Ok(SimFile { place, descriptor }),
            other => unreachable!("opening gave {other:?}"),
        }
    }

    /// Calls `act` with the disk and the open file; refuses if the life that opened it is over.
    fn with<T>(
        &self,
        act: impl FnOnce(&mut Disk, file_system::Open) -> io::Result<T>,
    ) -> io::Result<T> {
        let world = current().filter(|world| world.lives(self.place));
        let world = world.ok_or_else(|| errno(libc::EBADF))?;
        world.disks.with(&world, self.place.host, |disk, _| {
            let open = disk.files.opened(self.descriptor)?.clone();
            act(disk, open)
        })
    }

    async fn run(
        &self,
        operation: impl FnOnce(&mut Disk, file_system::Open) -> io::Result<Operation>,
    ) -> io::Result<Outcome> {
        let operation = self.with(operation)?;
        let world = current().expect("it was there just now");
        run_at(world, self.place, operation).await
    }

    pub(crate) async fn read(
        &self,
        position: u64,
        len: usize,
        mut buf: BufMut,
    ) -> (io::Result<usize>, BufMut) {
        let read = self.run(|_, open| {
            Ok(Operation::Read {
                open,
                position,
                len,
            })
        });
        match read.await {
            Ok(Outcome::Read(bytes)) => {
                buf.spare_mut()[..bytes.len()].copy_from_slice(&bytes);
                (Ok(bytes.len()), buf)
            }
            Ok(other) => unreachable!("reading gave {other:?}"),
            Err(error) => (Err(error), buf),
        }
    }

    pub(crate) async fn write(&self, position: u64, bytes: Buf) -> io::Result<usize> {
        let write = self.run(|_, open| {
            Ok(Operation::Write {
                open,
                position,
                bytes,
            })
        });
        match write.await? {
            Outcome::Written(count) => Ok(count),
            other => unreachable!("writing gave {other:?}"),
        }
    }

    pub(crate) async fn datasync(&self) -> io::Result<()> {
        let sync = self.run(|disk, open| {
            let covers = disk.files.begin_sync(open.node)?;
            Ok(Operation::Sync { open, covers })
        });
        sync.await.map(drop)
    }

    pub(crate) async fn allocate(&self, len: u64) -> io::Result<()> {
        let allocate = self.run(|_, open| Ok(Operation::Allocate { open, len }));
        allocate.await.map(drop)
    }

    pub(crate) fn len(&self) -> io::Result<u64> {
        self.with(|disk, open| disk.files.len(open.node))
    }

    pub(crate) fn set_len(&self, len: u64) -> io::Result<()> {
        self.with(|disk, open| disk.files.set_len(open.node, len))
    }
}

pub(crate) async fn remove_file(world: Rc<World>, path: &Path) -> io::Result<()> {
    let path = path.to_path_buf();
    run(world, Operation::Remove { path }).await.map(drop)
}

pub(crate) async fn rename(world: Rc<World>, from: &Path, to: &Path) -> io::Result<()> {
    let (from, to) = (from.to_path_buf(), to.to_path_buf());
    run(world, Operation::Rename { from, to }).await.map(drop)
}

pub(crate) async fn sync_dir(world: Rc<World>, path: &Path) -> io::Result<()> {
    let covers = here(&world, |disk, _| disk.files.begin_sync_dir(path))?;
    let path = path.to_path_buf();
    let sync = Operation::SyncDir { path, covers };
    run(world, sync).await.map(drop)
}

pub(crate) fn create_dir_all(world: &World, path: &Path) -> io::Result<()> {
    here(world, |disk, _| disk.files.create_dir_all(path))
}

pub(crate) fn list(world: &World, path: &Path) -> io::Result<Vec<String>> {
    here(world, |disk, _| disk.files.list(path))
}

pub(crate) fn exists(world: &World, path: &Path) -> bool {
    here(world, |disk, _| disk.files.find(path)).is_ok()
}

pub(crate) fn space(world: &World, path: &Path) -> io::Result<(u64, u64)> {
    here(world, |disk, _| disk.files.space(path))
}

/// A locked directory. It is free again when this is dropped, or its host's life ends.
#[derive(Debug)]
pub(crate) struct SimLock {
    place: Place,
    directory: names::NodeId,
}

/// Locks a directory through the file `name` in it, which is made if it is not there.
/// The inner result is the life of the host that has it already.
pub(crate) fn lock(
    world: &World,
    directory: &Path,
    name: &str,
) -> io::Result<Result<SimLock, u32>> {
    here(world, |disk, place| {
        let options = OpenOptions {
            write: true,
            create: true,
            ..OpenOptions::default()
        };
        let descriptor = disk.files.open(&directory.join(name), options)?;
        disk.files.close(descriptor);
        let directory = disk.files.find(directory)?;
        if let Some(life) = disk.locks.get(&directory) {
            return Ok(Err(*life));
        }
        disk.locks.insert(directory, place.life);
        Ok(Ok(SimLock { place, directory }))
    })
}

impl Drop for SimLock {
    fn drop(&mut self) {
        if let Some(world) = current().filter(|world| world.lives(self.place)) {
            world.disks.with(&world, self.place.host, |disk, _| {
                disk.locks.remove(&self.directory);
            });
        }
    }
}
