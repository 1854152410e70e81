//! Bugs planted on purpose, each of which a checker must see. What does not turn red proves nothing.

use streambus_shards::planted;

use crate::checkers::Rule;
use crate::run::{Outcome, run_seed};
use crate::swarm::{compacts, decays};

/// A bug in the broker's code, behind [`planted::on`].
#[derive(Debug, Clone, Copy)]
pub struct Bug {
    /// Its name there.
    pub name: &'static str,
    /// The rule that it breaks, by which it must be told.
    pub breaks: Rule,
    /// How many seeds may pass before it is caught: several times what it took when this was written.
    pub within: u64,
    /// Which seeds may show it: no others are run.
    pub seeds: fn(u64) -> bool,
}

const fn bug(name: &'static str, breaks: Rule, within: u64) -> Bug {
    Bug {
        name,
        breaks,
        within,
        seeds: |_| true,
    }
}

const fn bug_of_decay(name: &'static str, breaks: Rule, within: u64) -> Bug {
    Bug {
        seeds: decays,
        ..bug(name, breaks, within)
    }
}

const fn bug_of_compaction(name: &'static str, breaks: Rule, within: u64) -> Bug {
    Bug {
        seeds: compacts,
        ..bug(name, breaks, within)
    }
}

/// Every bug there is.
pub const BUGS: [Bug; 16] = [
    bug("acknowledge-before-sync", Rule::LostWrite, 100),
    bug("skip-wal-crc", Rule::Garbage, 400),
    bug_of_decay("skip-table-crc", Rule::Garbage, 40),
    bug("dedup-window-of-one", Rule::Sequence, 300),
    bug("no-directory-sync", Rule::LostWrite, 400),
    bug("recycle-too-early", Rule::Liveness, 40),
    bug_of_decay("cut-corrupt-middle", Rule::TwoValues, 300),
    bug("show-before-durable", Rule::HighWatermark, 400),
    bug("retry-at-zero", Rule::RealTimeOrder, 100),
    bug("overtake-the-line", Rule::ProducerOrder, 600),
    bug("log-start-before-durable", Rule::LogStartBack, 100),
    bug("read-from-the-next", Rule::ReadOn, 100),
    bug("keep-dead-tables", Rule::Disk, 20),
    bug("wake-nobody-after-space", Rule::Liveness, 300),
    bug_of_compaction("clean-the-newest", Rule::LostWrite, 100),
    bug_of_compaction("tombstones-replace-nothing", Rule::Resurrected, 200),
];

/// Runs seeds from `first` on with a bug until one tells that its rule is broken, at most `seeds` of those that may
/// show it; that one, or `None`.
pub fn until_caught(bug: &Bug, first: u64, seeds: u64) -> Option<Outcome> {
    planted::plant(Some(bug.name));
    let caught = (first..=u64::MAX)
        .filter(|seed| (bug.seeds)(*seed))
        .take(usize::try_from(seeds).unwrap_or(usize::MAX))
        .map(run_seed)
        .find(|outcome| outcome.breach_of(bug.breaks).is_some());
    planted::plant(None);
    caught
}
