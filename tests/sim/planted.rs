//! Bugs planted on purpose, each of which a checker must see. What does not turn red proves nothing.

use streambus_shards::planted;

use crate::run::{Outcome, run_seed};
use crate::swarm::decays;

/// A bug in the broker's code, behind [`planted::on`].
#[derive(Debug, Clone, Copy)]
pub struct Bug {
    /// Its name there.
    pub name: &'static str,
    /// How many seeds may pass before it is caught: several times what it took when this was written.
    pub within: u64,
    /// It can be seen only where the disk decays, so that only such seeds are run.
    pub needs_decay: bool,
}

const fn bug(name: &'static str, within: u64) -> Bug {
    Bug {
        name,
        within,
        needs_decay: false,
    }
}

const fn bug_of_decay(name: &'static str, within: u64) -> Bug {
    Bug {
        needs_decay: true,
        ..bug(name, within)
    }
}

/// Every bug there is.
pub const BUGS: [Bug; 13] = [
    bug("acknowledge-before-sync", 20),
    bug("skip-wal-crc", 400),
    bug_of_decay("skip-table-crc", 40),
    bug("dedup-window-of-one", 300),
    bug("no-directory-sync", 40),
    bug("recycle-too-early", 40),
    bug_of_decay("cut-corrupt-middle", 300),
    bug("show-before-durable", 100),
    bug("retry-with-wrong-offset", 40),
    bug("overtake-the-line", 200),
    bug("log-start-before-durable", 100),
    bug("keep-dead-tables", 20),
    bug("wake-nobody-after-space", 300),
];

/// Runs seeds from `first` on with a bug until one fails, at most `seeds` of those that may show it; the one that
/// failed, or `None`.
pub fn until_caught(bug: &Bug, first: u64, seeds: u64) -> Option<Outcome> {
    planted::plant(Some(bug.name));
    let caught = (first..=u64::MAX)
        .filter(|seed| !bug.needs_decay || decays(*seed))
        .take(usize::try_from(seeds).unwrap_or(usize::MAX))
        .map(run_seed)
        .find(|outcome| !outcome.is_sound());
    planted::plant(None);
    caught
}
