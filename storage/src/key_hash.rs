//! A 128-bit hash of record keys: `SipHash-1-3`, keyed with the lane's nonce.
//!
//! Two keys that hash alike would count as one, so it must be wide, and it must not be known to
//! clients, who choose the keys: with 128 bits and a secret, two of 2^40 keys collide with a
//! chance of 2^-49. Written out here because the standard library does not promise to keep its own.

use crate::wal::record::Nonce;

/// Hashes keys for one lane.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KeyHash {
    secret: (u64, u64),
}

/// The four words of its state.
struct Words(u64, u64, u64, u64);

impl Words {
    fn round(&mut self) {
        self.0 = self.0.wrapping_add(self.1);
        self.1 = self.1.rotate_left(13) ^ self.0;
        self.0 = self.0.rotate_left(32);
        self.2 = self.2.wrapping_add(self.3);
        self.3 = self.3.rotate_left(16) ^ self.2;
        self.0 = self.0.wrapping_add(self.3);
        self.3 = self.3.rotate_left(21) ^ self.0;
        self.2 = self.2.wrapping_add(self.1);
        self.1 = self.1.rotate_left(17) ^ self.2;
        self.2 = self.2.rotate_left(32);
    }

    fn take(&mut self, word: u64) {
        self.3 ^= word;
        self.round();
        self.0 ^= word;
    }

    fn finish(&mut self) -> u64 {
        self.round();
        self.round();
        self.round();
        self.0 ^ self.1 ^ self.2 ^ self.3
    }
}

impl KeyHash {
    pub(crate) fn new(nonce: Nonce) -> KeyHash {
        // The second half only tells this use of the nonce from others.
        KeyHash {
            secret: (nonce.0, u64::from_le_bytes(*b"key hash")),
        }
    }

    pub(crate) fn of(self, key: &[u8]) -> u128 {
        let (k0, k1) = self.secret;
        let mut words = Words(
            k0 ^ 0x736f_6d65_7073_6575,
            k1 ^ 0x646f_7261_6e64_6f6d ^ 0xee,
            k0 ^ 0x6c79_6765_6e65_7261,
            k1 ^ 0x7465_6462_7974_6573,
        );
        let (chunks, rest) = key.as_chunks::<8>();
        for chunk in chunks {
            words.take(u64::from_le_bytes(*chunk));
        }
        // The last word has what is left, and the length in its highest byte.
        let mut last = (key.len() as u64) << 56;
        for (at, byte) in rest.iter().enumerate() {
            last |= u64::from(*byte) << (8 * at);
        }
        words.take(last);
        words.2 ^= 0xee;
        let low = words.finish();
        words.1 ^= 0xdd;
        let high = words.finish();
        u128::from(high) << 64 | u128::from(low)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_spread_and_the_secret_counts() {
        // Proves that near keys, prefixes and trailing zeros hash differently in all bytes of the
        // result, alike in one lane, and differently in another.
        let hash = KeyHash::new(Nonce(7));
        let mut keys: Vec<Vec<u8>> = (0..40).map(|length| vec![0; length]).collect();
        keys.extend((0..2_000_u32).map(|nth| nth.to_be_bytes().to_vec()));
        keys.push(b"a longer key of more than one word".to_vec());
        keys.sort();
        keys.dedup();
        let low: std::collections::BTreeSet<u64> =
            keys.iter().map(|key| hash.of(key) as u64).collect();
        let high: std::collections::BTreeSet<u64> =
            keys.iter().map(|key| (hash.of(key) >> 64) as u64).collect();
        assert_eq!((low.len(), high.len()), (keys.len(), keys.len()));
        assert_eq!(hash.of(b"k"), KeyHash::new(Nonce(7)).of(b"k"));
        assert_ne!(hash.of(b"k"), KeyHash::new(Nonce(8)).of(b"k"));
    }
}
