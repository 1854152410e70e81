//! Bytes as rot, a torn write or somebody's hand would change them: what decoders are tried with.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

/// How long each decoder is tried: `cargo test` stays fast, and CI or a night may take longer.
const SECONDS: &str = "STREAMBUS_FUZZ_SECONDS";
const SECONDS_BY_DEFAULT: f64 = 0.3;
/// Where the mutations begin; a failure names it.
const SEED: &str = "STREAMBUS_FUZZ_SEED";
/// At least so many, on a machine however slow.
const ROUNDS_MIN: u64 = 2_000;
/// Changes to one sample.
const CHANGES_MAX: usize = 4;
/// What is put in the place of lengths and counts.
const NUMBERS: [u64; 8] = [0, 1, 0x7f, 0xff, 0xffff, 0x7fff_ffff, 0xffff_ffff, u64::MAX];

/// Hands mutations of `samples` to `check`, the same ones on each machine: for a third of a second, or as
/// long as the environment says (`STREAMBUS_FUZZ_SECONDS`). The samples themselves come first.
///
/// # Panics
/// If `check` does, with what brings it about again.
pub fn mutated(samples: &[Vec<u8>], mut check: impl FnMut(&mut Vec<u8>)) {
    assert!(!samples.is_empty(), "there is nothing to mutate");
    let variable = |name| std::env::var(name).ok();
    let seconds = variable(SECONDS).and_then(|text| text.parse().ok());
    let time = Duration::from_secs_f64(seconds.unwrap_or(SECONDS_BY_DEFAULT));
    let seed: u64 = variable(SEED)
        .and_then(|text| text.parse().ok())
        .unwrap_or(1);
    let began = Instant::now();
    let mut chance = Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut round = 0;
    while round < ROUNDS_MIN || began.elapsed() < time {
        let mut bytes = match samples.get(usize::try_from(round).unwrap_or(usize::MAX)) {
            Some(sample) => sample.clone(),
            None => chance.mutation(samples),
        };
        let tried = catch_unwind(AssertUnwindSafe(|| check(&mut bytes)));
        if let Err(panic) = tried {
            eprintln!("round {round} of {SEED}={seed} failed, with {bytes:02x?}");
            resume_unwind(panic);
        }
        round += 1;
    }
}

struct Chance(u64);

impl Chance {
    /// Below `end`; 0 if that is 0.
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let end = u64::try_from(end).unwrap_or(u64::MAX).max(1);
        usize::try_from(self.0 % end).unwrap_or(0)
    }

    fn mutation(&mut self, samples: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = samples[self.below(samples.len())].clone();
        for _ in 0..=self.below(CHANGES_MAX) {
            let other = &samples[self.below(samples.len())];
            self.change(&mut bytes, other);
        }
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>, other: &[u8]) {
        let at = self.below(bytes.len());
        let length = 1 + self.below(64.min(bytes.len().saturating_sub(at)).max(1));
        let end = (at + length).min(bytes.len());
        match self.below(8) {
            0 => bytes.truncate(at),
            1 => {
                let more = self.below(64);
                bytes.resize(bytes.len() + more, 0);
            }
            2 => bytes[at..end].fill(0),
            3 | 4 => {
                let number = NUMBERS[self.below(NUMBERS.len())].to_le_bytes();
                let width = [1, 2, 4, 8][self.below(4)].min(bytes.len() - at);
                bytes[at..at + width].copy_from_slice(&number[..width]);
            }
            5 => {
                // What another sample has, at the same place or at any.
                let from = if self.below(2) == 0 {
                    at
                } else {
                    self.below(other.len())
                };
                let piece = other.get(from..).unwrap_or_default();
                let width = piece.len().min(end - at);
                bytes[at..at + width].copy_from_slice(&piece[..width]);
            }
            6 => {
                let piece = bytes[at..end].to_vec();
                let to = self.below(bytes.len());
                bytes.splice(to..to, piece);
            }
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << self.below(8);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mutations_repeat_and_reach_what_is_deep() {
        // Proves that two runs see the same bytes, that the samples come first, and that a decoder which fails
        // only behind a right magic and a large count is caught.
        let samples = [b"magic\x01\x00\x00\x00rest".to_vec(), Vec::new()];
        let seen = || {
            let mut seen = Vec::new();
            mutated(&samples, |bytes| {
                if seen.len() < 500 {
                    seen.push(bytes.clone());
                }
            });
            seen
        };
        let first = seen();
        assert_eq!(first[..2], samples);
        assert_eq!(first, seen());
        let fragile = |bytes: &mut Vec<u8>| {
            let count = bytes.get(5..9).filter(|_| bytes.starts_with(b"magic"));
            assert!(count != Some(&[0xff; 4]), "as planted");
        };
        let caught = catch_unwind(|| mutated(&samples, fragile));
        assert!(caught.is_err());
    }
}
