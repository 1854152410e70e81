//! What a compacted log may lack: records that a newer one of their key replaced, and tombstones that have had their time.

use std::collections::{BTreeMap, BTreeSet};

use streambus_proto::ids::Offset;

use crate::history::{End, History, Log, Value, is_tombstone, key_of};

type Key = [u8; 1];

/// A compacted log as the last pass found it.
pub(super) struct Compacted {
    /// What is known to have been stored, found or not.
    known: BTreeMap<Offset, Value>,
    /// The newest record of each key that was found.
    newest_found: BTreeMap<Key, Offset>,
    /// The newest tombstone of each key, by what is known.
    deleted: BTreeMap<Key, Offset>,
    /// Keys with a tombstone of which nobody knows whether, or where, it was stored.
    perhaps_deleted: BTreeSet<Key>,
}

impl Compacted {
    /// Of everything `known` of the log, what the pass `found`.
    pub(super) fn new(
        history: &History,
        log: Log,
        known: BTreeMap<Offset, Value>,
        found: &BTreeSet<Offset>,
    ) -> Compacted {
        let (mut newest_found, mut deleted) = (BTreeMap::new(), BTreeMap::new());
        for (offset, value) in &known {
            if found.contains(offset) {
                newest_found.insert(key_of(*value), *offset);
            }
            if is_tombstone(*value) {
                deleted.insert(key_of(*value), *offset);
            }
        }
        let placed: BTreeSet<Value> = known.values().copied().collect();
        let unplaced = history.sends.iter().filter(|send| {
            let refused = matches!(send.end, Some((_, End::Refused(_))));
            send.log == log && is_tombstone(send.value) && !refused && !placed.contains(&send.value)
        });
        Compacted {
            perhaps_deleted: unplaced.map(|send| key_of(send.value)).collect(),
            known,
            newest_found,
            deleted,
        }
    }

    /// Whether the record at an offset may be gone.
    pub(super) fn may_lack(&self, offset: Offset) -> bool {
        let Some(value) = self.known.get(&offset) else {
            // It may have had any key.
            return true;
        };
        let key = key_of(*value);
        let later = |newest: Option<&Offset>| newest.is_some_and(|newest| *newest > offset);
        is_tombstone(*value)
            || later(self.newest_found.get(&key))
            || later(self.deleted.get(&key))
            || self.perhaps_deleted.contains(&key)
    }

    /// A record that was deleted and is the newest of its key again, for its tombstone went first; and that tombstone.
    pub(super) fn come_back(&self, log_start: Offset) -> Option<(Offset, Offset)> {
        let mut gone = self.deleted.iter().filter(|(_, at)| **at >= log_start);
        gone.find_map(|(key, tombstone)| {
            let newest = *self.newest_found.get(key)?;
            (newest < *tombstone).then_some((newest, *tombstone))
        })
    }
}
