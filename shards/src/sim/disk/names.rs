//! Which name leads to which file: as the processes of a host see it, and as it would be after a power failure.

use std::collections::{BTreeMap, BTreeSet};

use super::Draw;
use super::content::Keep;

/// A file or a directory, by a number that is never given twice.
pub(crate) type NodeId = u64;

/// The directory that is always there.
pub(crate) const ROOT: NodeId = 0;

/// A name in a directory.
pub(crate) type Entry = (NodeId, String);

/// One operation on names: all of it happens, or nothing. A rename has two parts.
#[derive(Debug)]
struct Change {
    number: u64,
    parts: Vec<(Entry, Option<NodeId>)>,
}

impl Change {
    fn touches(&self, entries: &BTreeSet<Entry>) -> bool {
        self.parts.iter().any(|(entry, _)| entries.contains(entry))
    }
}

/// The names of a host's disk.
#[derive(Debug, Default)]
pub(crate) struct Names {
    live: BTreeMap<Entry, NodeId>,
    durable: BTreeMap<Entry, NodeId>,
    /// In the order in which they were made. Bounded by what a process does between two syncs of a directory.
    pending: Vec<Change>,
    changes: u64,
}

impl Names {
    /// What has the name.
    pub(crate) fn get(&self, entry: &Entry) -> Option<NodeId> {
        self.live.get(entry).copied()
    }

    /// The entries of a directory, by name.
    pub(crate) fn entries(&self, dir: NodeId) -> impl Iterator<Item = (&str, NodeId)> {
        self.live
            .range((dir, String::new())..)
            .take_while(move |((of, _), _)| *of == dir)
            .map(|((_, name), node)| (name.as_str(), *node))
    }

    /// The names of a node that processes see: one, or none once it is removed.
    pub(crate) fn entry_of(&self, node: NodeId) -> Option<&Entry> {
        let mut all = self.live.iter();
        all.find(|(_, of)| **of == node).map(|(entry, _)| entry)
    }

    /// Every node that a name leads to, or may lead to after a power failure.
    pub(crate) fn nodes(&self) -> BTreeSet<NodeId> {
        let pending = self.pending.iter().flat_map(|change| &change.parts);
        self.live
            .values()
            .chain(self.durable.values())
            .copied()
            .chain(pending.filter_map(|(_, node)| *node))
            .collect()
    }

    /// Changes names, all at once; pending until the directory is synced.
    pub(crate) fn change(&mut self, parts: Vec<(Entry, Option<NodeId>)>) {
        self.changes += 1;
        apply(&mut self.live, &parts);
        self.pending.push(Change {
            number: self.changes,
            parts,
        });
    }

    /// What a sync of a directory that begins now covers: its changes, and the earlier ones they build on.
    pub(crate) fn begin_sync(&self, dir: NodeId) -> Vec<u64> {
        let is_in = |change: &Change| change.parts.iter().any(|((of, _), _)| *of == dir);
        self.with_earlier(is_in)
    }

    /// The numbers of the changes that `wanted` names and of those before them on the same names, in
    /// order. A file system keeps the changes of one name in order, even where it keeps no other.
    fn with_earlier(&self, mut wanted: impl FnMut(&Change) -> bool) -> Vec<u64> {
        let mut entries = BTreeSet::new();
        let mut numbers = Vec::new();
        for change in self.pending.iter().rev() {
            if wanted(change) || change.touches(&entries) {
                entries.extend(change.parts.iter().map(|(entry, _)| entry.clone()));
                numbers.push(change.number);
            }
        }
        numbers.reverse();
        numbers
    }

    /// Makes changes durable; those that are already do nothing.
    pub(crate) fn complete_sync(&mut self, numbers: &[u64]) {
        let durable = &mut self.durable;
        self.pending.retain(|change| {
            let covered = numbers.binary_search(&change.number).is_ok();
            if covered {
                apply(durable, &change.parts);
            }
            !covered
        });
    }

    /// The power fails: each pending change is kept or undone.
    pub(crate) fn power_loss(&mut self, draw: Draw<'_>) {
        if !self.pending.is_empty() {
            let keep = Keep::draw(self.pending.len(), draw);
            let last = self.pending.len() - 1;
            let mut index = 0;
            let kept = self.with_earlier(|_| {
                // They are asked from the last one on.
                index += 1;
                keep.keeps(last + 1 - index, draw)
            });
            self.complete_sync(&kept);
        }
        self.pending.clear();
        self.live = self.durable.clone();
    }

    /// Makes everything durable.
    pub(crate) fn settle(&mut self) {
        self.pending.clear();
        self.durable = self.live.clone();
    }

    /// Forgets the names in directories that nothing leads to any more.
    pub(crate) fn forget_in(&mut self, gone: &BTreeSet<NodeId>) {
        self.live.retain(|(dir, _), _| !gone.contains(dir));
        self.durable.retain(|(dir, _), _| !gone.contains(dir));
    }
}

fn apply(names: &mut BTreeMap<Entry, NodeId>, parts: &[(Entry, Option<NodeId>)]) {
    for (entry, node) in parts {
        match node {
            Some(node) => drop(names.insert(entry.clone(), *node)),
            None => drop(names.remove(entry)),
        }
    }
}
