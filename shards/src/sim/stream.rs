//! Random numbers of the simulated world: a stream for each part, all from one seed.
//!
//! Each part draws from its own stream, so that one more draw of the network does not shift which
//! sectors a crash tears or what the workload does next.

use std::cell::Cell;

/// The part of the world that draws.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Which ready task runs, and how late timers are.
    Schedule,
    /// Latencies, chunks, losses.
    Network,
    /// Latencies, and what a crash keeps.
    Disk,
    /// What clients do.
    Workload,
    /// When which fault happens.
    Faults,
    /// What the code under test asks for with [`rng_u64`](crate::rng_u64).
    Code,
}

const STREAMS: [Stream; 6] = [
    Stream::Schedule,
    Stream::Network,
    Stream::Disk,
    Stream::Workload,
    Stream::Faults,
    Stream::Code,
];

/// The streams of one world.
pub(crate) struct Streams([Cell<u64>; STREAMS.len()]);

/// `SplitMix64` (Steele, Lea, Flood 2014): the state's increment and its output function.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

pub(crate) fn mix(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

impl Streams {
    pub(crate) fn new(seed: u64) -> Streams {
        Streams(STREAMS.map(|stream| {
            let name = (stream as u64 + 1).wrapping_mul(GOLDEN);
            Cell::new(mix(mix(seed).wrapping_add(name)))
        }))
    }

    /// The next number of a stream.
    pub(crate) fn next(&self, stream: Stream) -> u64 {
        let state = &self.0[stream as usize];
        state.set(state.get().wrapping_add(GOLDEN));
        mix(state.get())
    }

    /// A number below `end`.
    ///
    /// # Panics
    /// If `end` is 0.
    pub(crate) fn below(&self, stream: Stream, end: u64) -> u64 {
        assert!(end > 0, "there is no number below 0");
        // The high half of the product is uniform but for a bias of end / 2^64.
        let wide = u128::from(self.next(stream)) * u128::from(end);
        u64::try_from(wide >> 64).expect("the high half of a product of two u64")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draw_of_one_stream_does_not_shift_another() {
        // Proves that streams are apart, and that the seed decides them.
        let (one, other) = (Streams::new(7), Streams::new(7));
        for _ in 0..5 {
            one.next(Stream::Network);
        }
        assert_eq!(one.next(Stream::Disk), other.next(Stream::Disk));
        assert_ne!(one.next(Stream::Network), other.next(Stream::Network));
        assert_ne!(
            Streams::new(8).next(Stream::Disk),
            Streams::new(7).next(Stream::Disk)
        );
    }

    #[test]
    fn numbers_below_a_bound_reach_all_of_it() {
        // Proves the bound, and that both ends are drawn.
        let streams = Streams::new(1);
        let mut seen = [0_u32; 3];
        for _ in 0..3_000 {
            let drawn = usize::try_from(streams.below(Stream::Schedule, 3)).unwrap();
            seen[drawn] += 1;
        }
        assert!(
            seen.iter().all(|count| (900..1_100).contains(count)),
            "{seen:?}"
        );
    }
}
