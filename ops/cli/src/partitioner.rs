//! Which partition a record goes to: by its key as the Java client does, so that both agree on where
//! a key lives; without a key to each partition in turn.

/// Chooses partitions of one topic.
#[derive(Debug)]
pub(crate) struct Partitioner {
    partitions: usize,
    next: usize,
}

impl Partitioner {
    /// For a topic with this many partitions, at least one.
    pub(crate) fn new(partitions: usize) -> Self {
        assert!(partitions > 0, "a topic has partitions");
        Self {
            partitions,
            next: 0,
        }
    }

    pub(crate) fn choose(&mut self, key: Option<&[u8]>) -> usize {
        if let Some(key) = key {
            // The Java client drops the sign bit instead of negating, for there is no +2^31.
            return (murmur2(key) & 0x7fff_ffff) as usize % self.partitions;
        }
        let chosen = self.next;
        self.next = (chosen + 1) % self.partitions;
        chosen
    }
}

/// `MurmurHash2` with the seed of Kafka's clients.
fn murmur2(data: &[u8]) -> u32 {
    const MULTIPLIER: u32 = 0x5bd1_e995;
    const SEED: u32 = 0x9747_b28c;
    // Keys are shorter than 2^31: records are.
    let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
    let mut hash = SEED ^ length;
    let (words, rest) = data.as_chunks::<4>();
    for word in words {
        let mut word = u32::from_le_bytes(*word).wrapping_mul(MULTIPLIER);
        word = (word ^ (word >> 24)).wrapping_mul(MULTIPLIER);
        hash = hash.wrapping_mul(MULTIPLIER) ^ word;
    }
    if !rest.is_empty() {
        for (index, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * index);
        }
        hash = hash.wrapping_mul(MULTIPLIER);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(MULTIPLIER);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_hash_as_in_the_java_client() {
        // Proves: a key that a Java producer wrote lives in the partition we would choose. The
        // figures are those of Kafka's own `UtilsTest.testMurmur2`.
        for (key, wanted) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            (
                "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8",
                -58_897_971,
            ),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()).cast_signed(), wanted, "{key}");
        }
    }

    #[test]
    fn records_without_a_key_go_round() {
        // Proves: each partition gets its share, whatever the keyed ones do between.
        let mut partitioner = Partitioner::new(3);
        let chosen: Vec<_> = (0..7).map(|_| partitioner.choose(None)).collect();
        assert_eq!(chosen, [0, 1, 2, 0, 1, 2, 0]);
        // The hash of "21" without its sign bit.
        assert_eq!(partitioner.choose(Some(b"21")), 1_173_551_340 % 3);
    }
}
