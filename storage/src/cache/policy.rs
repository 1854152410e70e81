//! What stays in a cache: S3-FIFO, which one long scan cannot flush.
//!
//! What is new waits in a small queue. If it was used again by the time it comes to the front it
//! moves to the main queue, else it goes and only its name is remembered for a while: if it comes
//! back soon, it was missed and goes to the main queue at once. What a scan reads once passes
//! through the small queue and nothing else.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Share of the bytes that the small queue may have while the main queue wants the rest: a
/// quarter, and not the usual tenth, so that what was read ahead of several readers lasts until
/// they come.
const SMALL_SHARE: usize = 4;
/// Uses beyond this are not told apart: an entry is passed over at most this often.
const USES_MAX: u8 = 3;
/// An entry of the small queue is worth keeping from this many uses on.
const USES_TO_STAY: u8 = 2;
/// Names of evicted entries that are remembered: at a megabyte each, those of a gigabyte.
const GHOSTS_MAX: usize = 1_024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Small,
    Main,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    bytes: usize,
    uses: u8,
    place: Place,
    /// It came to the front before anybody had used it, and was let wait once more.
    waited: bool,
}

/// Which keys stay within `bytes_max`. Every key in `entries` is in the queue of its place once;
/// keys in a queue that are not in `entries` were removed, and are passed over.
#[derive(Debug)]
pub(super) struct Policy<K> {
    bytes_max: usize,
    small_bytes: usize,
    main_bytes: usize,
    entries: BTreeMap<K, Entry>,
    small: VecDeque<K>,
    main: VecDeque<K>,
    ghosts: VecDeque<K>,
    ghost_keys: BTreeSet<K>,
}

impl<K: Ord + Copy> Policy<K> {
    pub(super) fn new(bytes_max: usize) -> Policy<K> {
        Policy {
            bytes_max,
            small_bytes: 0,
            main_bytes: 0,
            entries: BTreeMap::new(),
            small: VecDeque::new(),
            main: VecDeque::new(),
            ghosts: VecDeque::new(),
            ghost_keys: BTreeSet::new(),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.small_bytes + self.main_bytes
    }

    /// Takes a new key in, with no use yet; returns the keys that go for it.
    ///
    /// # Panics
    /// If the key is there, or is larger than the cache.
    pub(super) fn insert(&mut self, key: K, bytes: usize) -> Vec<K> {
        assert!(bytes <= self.bytes_max, "an entry larger than the cache");
        let missed = self.ghost_keys.remove(&key);
        let place = if missed { Place::Main } else { Place::Small };
        // Before it is in a queue: it must not be what goes for itself.
        let mut evicted = Vec::new();
        while self.bytes() + bytes > self.bytes_max {
            evicted.extend(self.evict());
        }
        let entry = Entry {
            bytes,
            uses: 0,
            place,
            waited: false,
        };
        let before = self.entries.insert(key, entry);
        assert!(before.is_none(), "a key is cached once");
        self.enqueue(key, place, bytes);
        evicted
    }

    #[cfg(test)]
    pub(super) fn holds(&self, key: &K) -> bool {
        self.entries.contains_key(key)
    }

    /// Notes a use.
    pub(super) fn used(&mut self, key: &K) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.uses = (entry.uses + 1).min(USES_MAX);
        }
    }

    /// Lets go of a key whose bytes are worth nothing any more.
    pub(super) fn remove(&mut self, key: &K) {
        if let Some(entry) = self.entries.remove(key) {
            // A queue must not name the key when it comes again.
            let queue = match entry.place {
                Place::Small => &mut self.small,
                Place::Main => &mut self.main,
            };
            queue.retain(|known| known != key);
            self.count_out(entry);
        }
    }

    fn enqueue(&mut self, key: K, place: Place, bytes: usize) {
        match place {
            Place::Small => {
                self.small.push_back(key);
                self.small_bytes += bytes;
            }
            Place::Main => {
                self.main.push_back(key);
                self.main_bytes += bytes;
            }
        }
    }

    fn count_out(&mut self, entry: Entry) {
        match entry.place {
            Place::Small => self.small_bytes -= entry.bytes,
            Place::Main => self.main_bytes -= entry.bytes,
        }
    }

    /// Looks at one entry; returns its key if it goes. Each look uses up a use, the one wait or
    /// the entry, so that finitely many lead to an eviction.
    fn evict(&mut self) -> Option<K> {
        let from_small = self.small_bytes > self.bytes_max / SMALL_SHARE || self.main.is_empty();
        let queue = if from_small {
            &mut self.small
        } else {
            &mut self.main
        };
        let key = queue.pop_front().expect("bytes without an entry");
        let entry = self.entries.get_mut(&key).expect("queues name entries");
        let old = *entry;
        match old.place {
            Place::Small if old.uses >= USES_TO_STAY => {
                entry.place = Place::Main;
                entry.uses = 0;
            }
            Place::Small if old.uses == 0 && !old.waited => entry.waited = true,
            Place::Main if old.uses > 0 => entry.uses -= 1,
            Place::Small | Place::Main => {
                self.entries.remove(&key);
                self.count_out(old);
                if old.place == Place::Small {
                    self.remember(key);
                }
                return Some(key);
            }
        }
        let place = entry.place;
        self.count_out(old);
        self.enqueue(key, place, old.bytes);
        None
    }

    fn remember(&mut self, key: K) {
        if self.ghosts.len() == GHOSTS_MAX
            && let Some(oldest) = self.ghosts.pop_front()
        {
            self.ghost_keys.remove(&oldest);
        }
        self.ghosts.push_back(key);
        self.ghost_keys.insert(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal::tests::Chance;

    /// A cache in front of a disk: reads a key, returns whether it was a hit.
    fn read(policy: &mut Policy<u64>, key: u64) -> bool {
        let hit = policy.entries.contains_key(&key);
        if !hit {
            policy.insert(key, 1);
        }
        policy.used(&key);
        hit
    }

    /// Hits of a set of 60 keys, read at random, in a cache of 100 while one scan reads through
    /// ten times its size in between: `scans` keys for each read of the set.
    fn hits_beside_a_scan(seed: u64, scans: u64) -> u64 {
        let mut policy = Policy::new(100);
        let mut chance = Chance(seed);
        for _ in 0..1_000 {
            read(&mut policy, chance.below(60));
        }
        let (mut hits, mut scanned) = (0, 1_000);
        for _ in 0..1_000 {
            for _ in 0..scans {
                assert!(!read(&mut policy, scanned), "a scan reads what is new");
                scanned += 1;
            }
            hits += u64::from(read(&mut policy, chance.below(60)));
            assert!(policy.bytes() <= 100);
        }
        hits
    }

    #[test]
    fn a_scan_does_not_evict_what_is_read_again_and_again() {
        // Proves scan resistance: with one and with ten scanned entries for each read of a set
        // that fits, at least 95 of 100 reads of the set hit, where a FIFO or an LRU of the same
        // size falls to the share of the set that survives between two reads.
        for seed in 0..20 {
            for scans in [1, 10] {
                let hits = hits_beside_a_scan(seed, scans);
                assert!(hits >= 950, "seed {seed}, {scans} scanned: {hits} hits");
            }
        }
    }

    #[test]
    fn what_is_wanted_after_a_change_of_heart_is_taken_in() {
        // Proves that the main queue does not keep yesterday's set for ever.
        let mut policy = Policy::new(100);
        for round in 0..20 {
            for key in 0..60 {
                read(&mut policy, key + round % 2);
            }
        }
        let mut hits = 0;
        for _ in 0..20 {
            hits = (1_000..1_060).filter(|key| read(&mut policy, *key)).count();
        }
        assert!(hits >= 50, "{hits} of 60");
    }

    #[test]
    fn what_was_read_ahead_waits_for_its_reader() {
        // Proves that entries without a use outlive others that had theirs and came later.
        let mut policy = Policy::new(10);
        policy.insert(1, 1);
        for key in 10..22 {
            read(&mut policy, key);
        }
        assert!(policy.entries.contains_key(&1));
    }

    #[test]
    fn what_comes_in_does_not_go_for_itself() {
        // Proves that a key which was missed stays when everything else in the cache is in use.
        let mut policy = Policy::new(8);
        let insert = |policy: &mut Policy<u64>, key| policy.insert(key, 1);
        for key in 1..=8 {
            insert(&mut policy, key);
            policy.used(&key);
            policy.used(&key);
        }
        // Until 9 is forgotten: two or three come after it.
        for key in 9..13 {
            if !policy.ghost_keys.contains(&9) {
                insert(&mut policy, key);
                (2..=7).for_each(|key| policy.used(&key));
            }
        }
        assert!(policy.ghost_keys.contains(&9), "the history leads to it");
        let evicted = insert(&mut policy, 9);
        assert!(!evicted.contains(&9) && policy.entries.contains_key(&9));
    }

    #[test]
    fn bytes_add_up_whatever_happens() {
        // Proves the accounting and the bound against a recount, over random operations, and that
        // what is taken in is there.
        for seed in 0..50 {
            let mut policy = Policy::new(1_000);
            let mut chance = Chance(seed);
            for _ in 0..2_000 {
                let key = chance.below(80);
                match chance.below(10) {
                    0 => policy.remove(&key),
                    1..4 => policy.used(&key),
                    _ if policy.entries.contains_key(&key) => {}
                    _ => {
                        let bytes = 1 + chance.below(120) as usize;
                        for evicted in policy.insert(key, bytes) {
                            assert!(!policy.entries.contains_key(&evicted), "seed {seed}");
                        }
                        assert!(policy.entries.contains_key(&key), "seed {seed}");
                    }
                }
                let counted: usize = policy.entries.values().map(|entry| entry.bytes).sum();
                assert!(policy.bytes() == counted && counted <= 1_000, "seed {seed}");
                let queued = policy.small.len() + policy.main.len();
                assert_eq!(queued, policy.entries.len(), "seed {seed}");
                assert!(policy.ghosts.len() <= GHOSTS_MAX);
            }
        }
    }
}
