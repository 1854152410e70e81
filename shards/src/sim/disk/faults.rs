//! Which faults a host's disk has, and whether one of them strikes an operation. Pure: it draws and decides.

use std::path::{Path, PathBuf};

use super::Draw;

/// What may go wrong with an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A sync reports an error, and what it covered is not durable.
    FailSync,
    /// A sync finds no space for what it covers, which is not durable.
    SyncNoSpace,
    /// Opening, removing, renaming or reserving reports an error and does nothing.
    FailName,
    /// A write reports an error; a part of it may have happened.
    FailWrite,
    /// A read reports an error.
    FailRead,
    /// Less is written than was asked for.
    ShortWrite,
    /// Less is read than was asked for.
    ShortRead,
    /// A signal interrupts, or the kernel asks to try again.
    Interrupt,
    /// A write lands elsewhere.
    Misdirect,
}

/// How often a fault strikes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Often {
    /// The next so many times.
    Next(u64),
    /// Of a million.
    PerMillion(u32),
}

#[derive(Debug)]
struct Rule {
    under: PathBuf,
    fault: Fault,
    often: Often,
}

/// The faults of one disk, each for what lies below a path.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    rules: Vec<Rule>,
    slow: Vec<(PathBuf, u64)>,
}

impl Faults {
    /// Sets how often a fault strikes below a path, in place of what was said before.
    pub(crate) fn set(&mut self, under: &Path, fault: Fault, often: Often) {
        self.rules
            .retain(|rule| rule.under != under || rule.fault != fault);
        if !matches!(often, Often::Next(0) | Often::PerMillion(0)) {
            self.rules.push(Rule {
                under: under.to_path_buf(),
                fault,
                often,
            });
        }
    }

    /// Whether there is any rule: if not, nobody needs to know an operation's path.
    pub(crate) fn is_empty(&self) -> bool {
        self.rules.is_empty() && self.slow.is_empty()
    }

    /// Whether a fault strikes an operation on a path.
    pub(crate) fn strikes(&mut self, fault: Fault, path: &Path, draw: Draw<'_>) -> bool {
        let mut rules = self.rules.iter_mut();
        let rule = rules.find(|rule| rule.fault == fault && path.starts_with(&rule.under));
        match rule.map(|rule| &mut rule.often) {
            None => false,
            Some(Often::PerMillion(of)) => draw(1_000_000) < u64::from(*of),
            Some(Often::Next(left)) => {
                let strikes = *left > 0;
                *left = left.saturating_sub(1);
                strikes
            }
        }
    }

    /// Makes operations below a path so many times slower.
    pub(crate) fn slow(&mut self, under: &Path, times: u64) {
        self.slow.retain(|(of, _)| of != under);
        if times > 1 {
            self.slow.push((under.to_path_buf(), times));
        }
    }

    /// How many times slower than usual an operation on a path is.
    pub(crate) fn slowness(&self, path: &Path) -> u64 {
        let rules = self
            .slow
            .iter()
            .filter(|(under, _)| path.starts_with(under));
        rules.map(|(_, times)| *times).max().unwrap_or(1)
    }

    /// No faults any more.
    pub(crate) fn heal(&mut self) {
        *self = Faults::default();
    }
}
