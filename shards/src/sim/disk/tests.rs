//! The model of a disk, by tables and by random operations against a simple reference.

use std::path::Path;

use super::file_system::FileSystem;
use super::names::NodeId;
use crate::OpenOptions;
use crate::sim::stream::{Stream, Streams};

mod model;
mod random;
mod world;

const CREATE: OpenOptions = OpenOptions {
    write: true,
    create: true,
    create_new: false,
    direct: false,
    dsync: false,
};

/// Draws from a seed.
fn draws(seed: u64) -> impl FnMut(u64) -> u64 {
    let streams = Streams::new(seed);
    move |end| streams.below(Stream::Disk, end)
}

/// A file that is made or was there, and stays open.
fn file(disk: &mut FileSystem, path: &str) -> NodeId {
    let descriptor = disk.open(Path::new(path), CREATE).unwrap();
    disk.opened(descriptor).unwrap().node
}

fn sync(disk: &mut FileSystem, node: NodeId) {
    let covers = disk.begin_sync(node).unwrap();
    disk.content_mut(node).unwrap().complete_sync(&covers);
}

fn sync_dir(disk: &mut FileSystem, path: &str) {
    let covers = disk.begin_sync_dir(Path::new(path)).unwrap();
    disk.complete_sync_dir(&covers);
}

/// What the file at a path holds; `None` without one.
fn held(disk: &FileSystem, path: &str) -> Option<Vec<u8>> {
    let node = disk.find(Path::new(path)).ok()?;
    let len = usize::try_from(disk.len(node).ok()?).ok()?;
    disk.read(node, 0, len).ok()
}
