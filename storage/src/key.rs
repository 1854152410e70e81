//! Which partition a batch belongs to, and a hasher for maps of partitions.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use streambus_proto::ids::TopicId;

/// One partition of one topic. Ordered by topic, then by index: the order of tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PartitionKey {
    /// The topic's id: a topic that is deleted and created again has another one.
    pub topic: TopicId,
    /// Index of the partition in its topic, from 0.
    pub index: i32,
}

impl std::fmt::Display for PartitionKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for byte in self.topic.0 {
            write!(formatter, "{byte:02x}")?;
        }
        write!(formatter, "-{}", self.index)
    }
}

/// A map by partition. Its order depends on the hasher: look up in it, never walk through it.
pub(crate) type PartitionMap<V> = HashMap<PartitionKey, V, BuildHasherDefault<KeyHasher>>;

/// Multiplies and folds: topic ids are random already, so nothing stronger is needed, and the
/// same keys hash alike in every run (a seeded hasher would not repeat in simulation).
#[derive(Debug, Default)]
pub(crate) struct KeyHasher {
    state: u64,
}

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.state
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            for (to, from) in word.iter_mut().zip(chunk) {
                *to = *from;
            }
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, word: u64) {
        // 2^64 divided by the golden ratio, the usual odd constant of multiplicative hashing.
        let mixed = (self.state.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.state = mixed ^ (mixed >> 32);
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }

    fn write_i32(&mut self, word: i32) {
        self.write_u64(u64::from(word.cast_unsigned()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_partitions_spread() {
        // Proves that the partitions of one topic do not share their hash's low bits.
        let mut buckets = std::collections::BTreeSet::new();
        for index in 0..1024 {
            let key = PartitionKey {
                topic: TopicId([7; 16]),
                index,
            };
            let mut hasher = KeyHasher::default();
            std::hash::Hash::hash(&key, &mut hasher);
            buckets.insert(hasher.finish() % 4096);
        }
        assert!(
            buckets.len() > 800,
            "1024 keys fell into {} of 4096 buckets",
            buckets.len()
        );
    }
}
