//! What must hold of any history. Each checker is a pure function of it, in O(n log n), and knows nothing of the
//! workload or the faults that made the history.

mod compacted;
pub mod disk;
pub mod liveness;
pub mod log_model;
pub mod order;
pub mod watermarks;

use crate::history::History;

/// A promise to clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// What was acknowledged is there at the end, unless somebody asked for it to go.
    LostWrite,
    /// What a reader saw is there at the end, unless somebody asked for it to go.
    Vanished,
    /// What was deleted by its key does not come back.
    Resurrected,
    /// A record stands at one offset.
    Duplicate,
    /// An offset holds one record.
    TwoValues,
    /// What was refused is nowhere.
    AbortedRead,
    /// What is read was sent, to that log.
    Phantom,
    /// What is read is what was sent, byte for byte.
    Garbage,
    /// Between a log's first offset and its end none is missing.
    Hole,
    /// A log's first offset moves only to where somebody asked.
    LogStart,
    /// What was acknowledged before another was begun stands before it.
    RealTimeOrder,
    /// A producer's records stand in the order of its sends.
    ProducerOrder,
    /// A retry is known as one, and what follows is expected.
    Sequence,
    /// A reader that reads on skips nothing and goes back to nothing.
    ReadOn,
    /// The high watermark does not go back.
    HighWatermark,
    /// The first offset does not go back.
    LogStartBack,
    /// The leader epoch does not go back.
    LeaderEpoch,
    /// The first offset is not behind the high watermark.
    Bounds,
    /// When all faults are over, everything works again within a time.
    Liveness,
    /// The disk holds what the node knows of, and deleted data leaves it.
    Disk,
}

/// A promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breach {
    /// Which.
    pub rule: Rule,
    /// By what.
    pub what: String,
}

impl std::fmt::Display for Breach {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}: {}", self.rule, self.what)
    }
}

impl Breach {
    fn new(rule: Rule, what: String) -> Breach {
        Breach { rule, what }
    }
}

/// Everything that can be said of a history alone.
pub fn check(history: &History) -> Vec<Breach> {
    let mut breaches = log_model::check(history);
    breaches.extend(order::check(history));
    breaches.extend(watermarks::check(history));
    breaches.extend(liveness::check(history, liveness::LIMIT));
    breaches
}
