//! Random operations against a simple reference: what was synced survives a power failure byte for byte;
//! what was not is old or new in each sector.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::*;
use crate::sim::disk::content::Snapshot;
use crate::sim::disk::pages::SECTOR_BYTES;

const SECTOR: u64 = SECTOR_BYTES as u64;
const SECTORS_MAX: u64 = 40;
const NAMES: [&str; 6] = ["/a", "/b", "/c", "/d/a", "/d/b", "/d/c"];

/// A value over time: each change with its number, and the number up to which it is durable.
#[derive(Debug, Clone)]
struct History<T> {
    changes: Vec<(u64, T)>,
    durable: u64,
}

impl<T: Copy + Ord> History<T> {
    fn new(value: T) -> History<T> {
        History {
            changes: vec![(0, value)],
            durable: 0,
        }
    }

    fn set(&mut self, number: u64, value: T) {
        self.changes.push((number, value));
    }

    fn now(&self) -> T {
        self.changes.last().unwrap().1
    }

    fn synced(&mut self, upto: u64) {
        self.durable = self.durable.max(upto);
    }

    /// What is durable, and what may have become it by chance.
    fn allowed(&self) -> BTreeSet<T> {
        let old = self
            .changes
            .iter()
            .rev()
            .find(|(at, _)| *at <= self.durable);
        let newer = self.changes.iter().filter(|(at, _)| *at > self.durable);
        old.into_iter()
            .chain(newer)
            .map(|(_, value)| *value)
            .collect()
    }
}

/// A file: the fill byte of each sector, and the length.
#[derive(Debug)]
struct File {
    sectors: Vec<History<u8>>,
    len: History<u64>,
}

impl File {
    fn new() -> File {
        File {
            sectors: (0..SECTORS_MAX).map(|_| History::new(0)).collect(),
            len: History::new(0),
        }
    }

    fn sectors(&mut self, from: u64, to: u64) -> &mut [History<u8>] {
        &mut self.sectors[usize::try_from(from).unwrap()..usize::try_from(to).unwrap()]
    }
}

struct Reference {
    changes: u64,
    files: BTreeMap<NodeId, File>,
    names: BTreeMap<&'static str, History<Option<NodeId>>>,
    /// Syncs that began: of which file, with which change as the last, and what the model covers.
    syncs: Vec<(NodeId, u64, Snapshot)>,
}

impl Reference {
    fn new() -> Reference {
        Reference {
            changes: 0,
            files: BTreeMap::new(),
            names: NAMES.map(|name| (name, History::new(None))).into(),
            syncs: Vec::new(),
        }
    }

    fn next(&mut self) -> u64 {
        self.changes += 1;
        self.changes
    }

    fn name(&mut self, name: &'static str) -> &mut History<Option<NodeId>> {
        self.names.get_mut(name).unwrap()
    }

    /// A file for a name: the one it has, or a new one.
    fn open(&mut self, disk: &mut FileSystem, name: &'static str) -> NodeId {
        let node = file(disk, name);
        let number = self.next();
        if self.name(name).now() != Some(node) {
            assert!(self.files.insert(node, File::new()).is_none(), "a new file");
            self.name(name).set(number, Some(node));
        }
        node
    }

    fn write(&mut self, disk: &mut FileSystem, node: NodeId, draw: &mut dyn FnMut(u64) -> u64) {
        let from = draw(SECTORS_MAX);
        let to = from + 1 + draw((SECTORS_MAX - from).min(12));
        let fill = u8::try_from(draw(4)).unwrap();
        let bytes = vec![fill; usize::try_from((to - from) * SECTOR).unwrap()];
        assert_eq!(
            disk.write(node, from * SECTOR, &bytes).unwrap(),
            bytes.len()
        );
        let number = self.next();
        let of = self.files.get_mut(&node).unwrap();
        let dsync = draw(4) == 0;
        if dsync {
            let content = disk.content_mut(node).unwrap();
            content.sync_range(from * SECTOR, bytes.len());
        }
        for sector in of.sectors(from, to) {
            sector.set(number, fill);
            if dsync {
                sector.synced(number);
            }
        }
        if of.len.now() < to * SECTOR {
            of.len.set(number, to * SECTOR);
        }
    }

    fn set_len(&mut self, disk: &mut FileSystem, node: NodeId, sectors: u64) {
        disk.set_len(node, sectors * SECTOR).unwrap();
        let number = self.next();
        let of = self.files.get_mut(&node).unwrap();
        if sectors * SECTOR < of.len.now() {
            for sector in of.sectors(sectors, SECTORS_MAX) {
                sector.set(number, 0);
            }
        }
        of.len.set(number, sectors * SECTOR);
    }

    fn end_a_sync(&mut self, disk: &mut FileSystem, draw: &mut dyn FnMut(u64) -> u64) {
        if self.syncs.is_empty() {
            return;
        }
        let index = usize::try_from(draw(self.syncs.len() as u64)).unwrap();
        let (node, upto, covers) = self.syncs.swap_remove(index);
        let Ok(content) = disk.content_mut(node) else {
            return;
        };
        content.complete_sync(&covers);
        let of = self.files.get_mut(&node).unwrap();
        of.len.synced(upto);
        for sector in &mut of.sectors {
            sector.synced(upto);
        }
    }

    fn step(&mut self, disk: &mut FileSystem, draw: &mut dyn FnMut(u64) -> u64) {
        let mut pick = || NAMES[usize::try_from(draw(NAMES.len() as u64)).unwrap()];
        let (name, other) = (pick(), pick());
        match draw(12) {
            0..5 => {
                let node = self.open(disk, name);
                self.write(disk, node, draw);
            }
            5 => {
                let node = self.open(disk, name);
                self.set_len(disk, node, draw(SECTORS_MAX));
            }
            6..8 => {
                let node = self.open(disk, name);
                let covers = disk.begin_sync(node).unwrap();
                self.syncs.push((node, self.changes, covers));
            }
            8 => self.end_a_sync(disk, draw),
            9 => {
                let moved = self.name(name).now();
                let renamed = disk.rename(Path::new(name), Path::new(other));
                assert_eq!(renamed.is_ok(), moved.is_some());
                if moved.is_some() && name != other {
                    let number = self.next();
                    self.name(name).set(number, None);
                    self.name(other).set(number, moved);
                }
            }
            10 => {
                let there = self.name(name).now().is_some();
                assert_eq!(disk.remove(Path::new(name)).is_ok(), there);
                if there {
                    let number = self.next();
                    self.name(name).set(number, None);
                }
            }
            _ => {
                let (dir, below) = [("/", false), ("/d", true)][usize::try_from(draw(2)).unwrap()];
                sync_dir(disk, dir);
                let upto = self.changes;
                for (name, history) in &mut self.names {
                    if name.starts_with("/d/") == below {
                        history.synced(upto);
                    }
                }
            }
        }
    }

    /// Compares with what the disk shows; `after_power` allows what was not synced to be either way.
    fn check(&mut self, disk: &FileSystem, after_power: bool, what: &str) {
        let mut seen = BTreeSet::new();
        for (name, history) in &mut self.names {
            let found = disk.find(Path::new(name)).ok();
            let allowed = if after_power {
                history.allowed()
            } else {
                BTreeSet::from([history.now()])
            };
            assert!(
                allowed.contains(&found),
                "{what}: {name} is {found:?} of {history:?}"
            );
            *history = History::new(found);
            let Some(node) = found else { continue };
            assert!(seen.insert(node), "{what}: file {node} has two names");
            let of = self.files.get_mut(&node).unwrap();
            of.check(
                &held(disk, name).unwrap(),
                after_power,
                &format!("{what}: {name}"),
            );
        }
        self.files.retain(|node, _| seen.contains(node));
    }
}

impl File {
    fn check(&mut self, held: &[u8], after_power: bool, what: &str) {
        let len = held.len() as u64;
        let lens = self.len.allowed();
        if after_power {
            let (least, most) = (*lens.first().unwrap(), *lens.last().unwrap());
            assert!(
                (least..=most).contains(&len),
                "{what}: {len} bytes of {lens:?}"
            );
        } else {
            assert_eq!(len, self.len.now(), "{what}");
        }
        for (index, sector) in self.sectors.iter_mut().enumerate() {
            let start = (index * SECTOR_BYTES).min(held.len());
            let bytes = &held[start..(start + SECTOR_BYTES).min(held.len())];
            let fill = bytes.first().copied().unwrap_or(0);
            assert!(
                bytes.iter().all(|byte| *byte == fill),
                "{what}: sector {index} is torn"
            );
            if !bytes.is_empty() {
                let allowed = if after_power {
                    sector.allowed()
                } else {
                    BTreeSet::from([sector.now()])
                };
                assert!(
                    allowed.contains(&fill),
                    "{what}: sector {index} is {fill} of {sector:?}"
                );
            }
            *sector = History::new(fill);
        }
        self.len = History::new(len);
    }
}

#[test]
fn random_operations_lose_nothing_that_was_synced() {
    // Proves the crash model over 200 seeds of overlapping syncs, durable writes, cuts and renames: what
    // was synced is there, the rest is old or new by sector, a file never has two names.
    for seed in 0..200 {
        let mut draw = draws(seed);
        let mut disk = FileSystem::default();
        disk.create_dir_all(Path::new("/d")).unwrap();
        disk.settle_names();
        let mut reference = Reference::new();
        for life in 0..8 {
            for _ in 0..draw(60) {
                reference.step(&mut disk, &mut draw);
            }
            let what = format!("seed {seed} life {life}");
            let power = draw(3) > 0;
            if power {
                disk.power_loss(&mut draw);
                reference.syncs.clear();
                reference.check(&disk, true, &what);
            } else {
                let there: Vec<_> = NAMES.map(|name| held(&disk, name)).into();
                disk.close_all();
                assert_eq!(there, NAMES.map(|name| held(&disk, name)), "{what}");
            }
        }
    }
}
