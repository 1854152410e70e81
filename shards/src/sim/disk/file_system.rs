//! The file system of one host, without faults: files, names and open descriptors. Pure: every operation acts at once.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Component, Path, PathBuf};

use super::Draw;
use super::content::{Content, Snapshot};
use super::names::{Entry, Names, NodeId, ROOT};
use super::pages::PAGE_BYTES;
use crate::OpenOptions;

/// An open file's number in its process.
pub(crate) type Descriptor = u64;

#[derive(Debug)]
enum Node {
    File(Box<Content>),
    Directory,
}

/// An open file.
#[derive(Debug, Clone)]
pub(crate) struct Open {
    pub(crate) node: NodeId,
    pub(crate) path: PathBuf,
    pub(crate) options: OpenOptions,
}

/// A host's disk.
#[derive(Debug)]
pub(crate) struct FileSystem {
    nodes: BTreeMap<NodeId, Node>,
    nodes_made: NodeId,
    names: Names,
    open: BTreeMap<Descriptor, Open>,
    opened: Descriptor,
    /// How many bytes fit below a path.
    capacities: BTreeMap<PathBuf, u64>,
}

/// What the kernel would answer.
pub(crate) fn errno(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

fn room_of(len: u64) -> u64 {
    len.next_multiple_of(PAGE_BYTES as u64)
}

/// How large a disk is that nobody made smaller.
const CAPACITY_BYTES: u64 = 1 << 40;

impl Default for FileSystem {
    fn default() -> FileSystem {
        FileSystem {
            nodes: BTreeMap::from([(ROOT, Node::Directory)]),
            nodes_made: ROOT,
            names: Names::default(),
            open: BTreeMap::new(),
            opened: 0,
            capacities: BTreeMap::new(),
        }
    }
}

impl FileSystem {
    fn add(&mut self, node: Node) -> NodeId {
        self.nodes_made += 1;
        self.nodes.insert(self.nodes_made, node);
        self.nodes_made
    }

    fn is_directory(&self, node: NodeId) -> bool {
        matches!(self.nodes.get(&node), Some(Node::Directory))
    }

    fn walk(&self, names: &[String]) -> io::Result<NodeId> {
        names.iter().try_fold(ROOT, |dir, name| {
            if !self.is_directory(dir) {
                return Err(errno(libc::ENOTDIR));
            }
            let node = self.names.get(&(dir, name.clone()));
            node.ok_or_else(|| errno(libc::ENOENT))
        })
    }

    /// What has the path.
    pub(crate) fn find(&self, path: &Path) -> io::Result<NodeId> {
        self.walk(&names_of(path))
    }

    /// The directory entry that a path names, whether or not something is there.
    fn entry(&self, path: &Path) -> io::Result<Entry> {
        let mut names = names_of(path);
        let name = names.pop().ok_or_else(|| errno(libc::EISDIR))?;
        let dir = self.walk(&names)?;
        if !self.is_directory(dir) {
            return Err(errno(libc::ENOTDIR));
        }
        Ok((dir, name))
    }

    fn content(&self, node: NodeId) -> io::Result<&Content> {
        match self.nodes.get(&node) {
            Some(Node::File(content)) => Ok(content),
            Some(Node::Directory) => Err(errno(libc::EISDIR)),
            None => Err(errno(libc::EBADF)),
        }
    }

    /// A file's bytes, to be changed.
    pub(crate) fn content_mut(&mut self, node: NodeId) -> io::Result<&mut Content> {
        match self.nodes.get_mut(&node) {
            Some(Node::File(content)) => Ok(content),
            Some(Node::Directory) => Err(errno(libc::EISDIR)),
            None => Err(errno(libc::EBADF)),
        }
    }

    /// As `open(2)`.
    pub(crate) fn open(&mut self, path: &Path, options: OpenOptions) -> io::Result<Descriptor> {
        let create = options.create || options.create_new;
        let node = match self.find(path) {
            Ok(_) if options.create_new => return Err(errno(libc::EEXIST)),
            Ok(node) if self.is_directory(node) && (options.write || create) => {
                return Err(errno(libc::EISDIR));
            }
            Ok(node) => node,
            Err(error) if create && error.raw_os_error() == Some(libc::ENOENT) => {
                let entry = self.entry(path)?;
                let node = self.add(Node::File(Box::default()));
                self.names.change(vec![(entry, Some(node))]);
                node
            }
            Err(error) => return Err(error),
        };
        self.opened += 1;
        let open = Open {
            node,
            path: path.to_path_buf(),
            options,
        };
        self.open.insert(self.opened, open);
        Ok(self.opened)
    }

    /// Closes a descriptor; a file without a name is gone with its last one.
    pub(crate) fn close(&mut self, descriptor: Descriptor) {
        if let Some(open) = self.open.remove(&descriptor)
            && self.names.entry_of(open.node).is_none()
        {
            self.collect();
        }
    }

    /// An open file.
    pub(crate) fn opened(&self, descriptor: Descriptor) -> io::Result<&Open> {
        self.open.get(&descriptor).ok_or_else(|| errno(libc::EBADF))
    }

    /// Every open file.
    pub(crate) fn all_opened(&self) -> impl Iterator<Item = &Open> {
        self.open.values()
    }

    /// As `pread(2)`.
    pub(crate) fn read(&self, node: NodeId, position: u64, len: usize) -> io::Result<Vec<u8>> {
        Ok(self.content(node)?.read(position, len))
    }

    /// As `pwrite(2)`: how much of it was written, which is less than all where room ends.
    pub(crate) fn write(&mut self, node: NodeId, position: u64, bytes: &[u8]) -> io::Result<usize> {
        let end = position + bytes.len() as u64;
        let fits = self.fit(node, end)?;
        let count = bytes.len() - usize::try_from(end - fits.max(position)).expect("a part of it");
        if count == 0 && !bytes.is_empty() {
            return Err(errno(libc::ENOSPC));
        }
        self.content_mut(node)?.write(position, &bytes[..count]);
        Ok(count)
    }

    /// As `fallocate(2)`.
    pub(crate) fn allocate(&mut self, node: NodeId, len: u64) -> io::Result<()> {
        let len = len.max(self.content(node)?.len());
        if self.fit(node, len)? < len {
            return Err(errno(libc::ENOSPC));
        }
        self.content_mut(node)?.set_len(len);
        Ok(())
    }

    /// As `ftruncate(2)`. Room is counted by length here, so that growing needs some.
    pub(crate) fn set_len(&mut self, node: NodeId, len: u64) -> io::Result<()> {
        if self.fit(node, len)? < len {
            return Err(errno(libc::ENOSPC));
        }
        self.content_mut(node)?.set_len(len);
        Ok(())
    }

    /// How long a file is.
    pub(crate) fn len(&self, node: NodeId) -> io::Result<u64> {
        match self.nodes.get(&node) {
            Some(Node::Directory) => Ok(PAGE_BYTES as u64),
            _ => Ok(self.content(node)?.len()),
        }
    }

    /// How long the file may become on its way to `len`.
    fn fit(&self, node: NodeId, len: u64) -> io::Result<u64> {
        let now = self.content(node)?.len();
        if len <= now || self.capacities.is_empty() {
            return Ok(len);
        }
        let path = self.path_of(node).unwrap_or_default();
        let mut fits = len;
        for (under, capacity) in &self.capacities {
            if path.starts_with(under) {
                let others = self.used(under) - room_of(now);
                fits = fits
                    .min(capacity.saturating_sub(others) / PAGE_BYTES as u64 * PAGE_BYTES as u64);
            }
        }
        Ok(fits.max(now).min(len))
    }

    /// What a sync that begins now covers.
    pub(crate) fn begin_sync(&self, node: NodeId) -> io::Result<Snapshot> {
        Ok(self.content(node)?.begin_sync())
    }

    /// As `unlink(2)`.
    pub(crate) fn remove(&mut self, path: &Path) -> io::Result<()> {
        let node = self.find(path)?;
        if self.is_directory(node) {
            return Err(errno(libc::EISDIR));
        }
        let entry = self.entry(path)?;
        self.names.change(vec![(entry, None)]);
        Ok(())
    }

    /// As `rename(2)`, of files.
    pub(crate) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let node = self.find(from)?;
        let (from, to) = (self.entry(from)?, self.entry(to)?);
        if self.is_directory(node) || self.names.get(&to).is_some_and(|it| self.is_directory(it)) {
            return Err(errno(libc::EISDIR));
        }
        if from != to {
            self.names.change(vec![(from, None), (to, Some(node))]);
        }
        Ok(())
    }

    /// What a sync of a directory that begins now covers.
    pub(crate) fn begin_sync_dir(&self, path: &Path) -> io::Result<Vec<u64>> {
        Ok(self.names.begin_sync(self.find(path)?))
    }

    /// Makes the changes that a sync covers durable.
    pub(crate) fn complete_sync_dir(&mut self, changes: &[u64]) {
        self.names.complete_sync(changes);
        self.collect();
    }

    /// As `mkdir -p`.
    pub(crate) fn create_dir_all(&mut self, path: &Path) -> io::Result<()> {
        let mut dir = ROOT;
        for name in names_of(path) {
            let entry = (dir, name);
            dir = match self.names.get(&entry) {
                Some(node) if self.is_directory(node) => node,
                Some(_) => return Err(errno(libc::ENOTDIR)),
                None => {
                    let node = self.add(Node::Directory);
                    self.names.change(vec![(entry, Some(node))]);
                    node
                }
            };
        }
        Ok(())
    }

    /// The names in a directory.
    pub(crate) fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let dir = self.find(path)?;
        if !self.is_directory(dir) {
            return Err(errno(libc::ENOTDIR));
        }
        let entries = self.names.entries(dir);
        Ok(entries.map(|(name, _)| name.to_owned()).collect())
    }

    /// Makes all names durable, as on a machine that was set up long ago.
    pub(crate) fn settle_names(&mut self) {
        self.names.settle();
        self.collect();
    }

    /// A node's path, or for a file without a name the one it was opened under.
    pub(crate) fn path_of(&self, node: NodeId) -> Option<PathBuf> {
        if node == ROOT {
            return Some(PathBuf::from("/"));
        }
        if let Some((dir, name)) = self.names.entry_of(node) {
            return self.path_of(*dir).map(|above| above.join(name));
        }
        let mut open = self.open.values();
        open.find(|open| open.node == node)
            .map(|open| open.path.clone())
    }

    /// The files that have a name or are open, with their lengths, by path.
    pub(crate) fn files(&self) -> Vec<(PathBuf, NodeId, u64)> {
        let mut files = Vec::new();
        for (number, node) in &self.nodes {
            if let (Node::File(content), Some(path)) = (node, self.path_of(*number)) {
                files.push((path, *number, content.len()));
            }
        }
        files.sort();
        files
    }

    /// Bytes that the files below a path use, counted in whole pages.
    pub(crate) fn used(&self, under: &Path) -> u64 {
        let files = self.files();
        let below = files.iter().filter(|(path, ..)| path.starts_with(under));
        below.map(|(_, _, len)| room_of(*len)).sum()
    }

    /// Sets how much fits below a path; `None` is no limit.
    pub(crate) fn set_capacity(&mut self, under: &Path, bytes: Option<u64>) {
        match bytes {
            Some(bytes) => drop(self.capacities.insert(under.to_path_buf(), bytes)),
            None => drop(self.capacities.remove(under)),
        }
    }

    /// Bytes of the file system at a path, all and free, by the narrowest limit set above it.
    pub(crate) fn space(&self, path: &Path) -> io::Result<(u64, u64)> {
        self.find(path)?;
        let mut limits = self.capacities.iter();
        let limit = limits.rfind(|(under, _)| path.starts_with(under));
        let (under, all) = limit.map_or((Path::new("/"), CAPACITY_BYTES), |(under, bytes)| {
            (under.as_path(), *bytes)
        });
        Ok((all, all.saturating_sub(self.used(under))))
    }

    /// The process ended: nothing is open any more.
    pub(crate) fn close_all(&mut self) {
        self.open.clear();
        self.collect();
    }

    /// The power fails.
    pub(crate) fn power_loss(&mut self, draw: Draw<'_>) {
        self.open.clear();
        for node in self.nodes.values_mut() {
            if let Node::File(content) = node {
                content.power_loss(draw);
            }
        }
        self.names.power_loss(draw);
        self.collect();
    }

    /// Forgets nodes that nothing leads to, and what is in them.
    fn collect(&mut self) {
        let open: BTreeSet<NodeId> = self.open.values().map(|open| open.node).collect();
        loop {
            let named = self.names.nodes();
            let gone: BTreeSet<NodeId> = self
                .nodes
                .keys()
                .copied()
                .filter(|node| *node != ROOT && !named.contains(node) && !open.contains(node))
                .collect();
            if gone.is_empty() {
                return;
            }
            self.nodes.retain(|node, _| !gone.contains(node));
            self.names.forget_in(&gone);
        }
    }
}

/// The names of a path from the root on. A relative path starts there too.
fn names_of(path: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(name.to_string_lossy().into_owned()),
            Component::ParentDir => drop(names.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    names
}
