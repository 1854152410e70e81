//! Draws for the workload and for the faults, each from its own stream of the world.

use std::time::Duration;

use streambus_shards::sim::{Stream, World};

/// Draws from one stream.
#[derive(Clone)]
pub(crate) struct Dice {
    world: World,
    stream: Stream,
}

impl Dice {
    /// What clients do.
    pub(crate) fn of_workload(world: &World) -> Dice {
        Dice {
            world: world.clone(),
            stream: Stream::Workload,
        }
    }

    /// What goes wrong.
    pub(crate) fn of_faults(world: &World) -> Dice {
        Dice {
            world: world.clone(),
            stream: Stream::Faults,
        }
    }

    /// A number from `low` to `high`, both of them too.
    pub(crate) fn between(&self, low: u64, high: u64) -> u64 {
        assert!(low <= high, "{low} to {high} is empty");
        low + self.world.below(self.stream, high - low + 1)
    }

    /// As [`Dice::between`], for counts.
    pub(crate) fn count(&self, low: usize, high: usize) -> usize {
        usize::try_from(self.between(low as u64, high as u64)).expect("between two usizes")
    }

    /// A time between two, in whole milliseconds.
    pub(crate) fn time(&self, low_ms: u64, high_ms: u64) -> Duration {
        Duration::from_millis(self.between(low_ms, high_ms))
    }

    /// True so many times of a hundred.
    pub(crate) fn percent(&self, of_hundred: u64) -> bool {
        self.between(1, 100) <= of_hundred
    }

    /// One of several.
    ///
    /// # Panics
    /// If there is none.
    pub(crate) fn one_of<'a, T>(&self, several: &'a [T]) -> &'a T {
        assert!(!several.is_empty(), "one of nothing");
        &several[self.count(0, several.len() - 1)]
    }
}
