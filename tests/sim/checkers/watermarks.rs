//! High watermark, first offset and leader epoch of a log only grow, also across restarts.
//!
//! What one answer says holds from its arrival on; so an answer to a later question says no less. A first offset
//! that retention moved is on the disk with the next commit only, and may go back with the power; one that somebody
//! asked for is there to stay.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Breach, Rule};
use crate::history::{Acks, End, History, Log, Sighting};

/// What an answer is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Says {
    /// It was so, and later answers may not say less.
    So,
    /// It was at least so: an acknowledged record is below the high watermark, however far that is.
    AtLeast,
    /// It was so, and may be less again.
    SoForNow,
}

/// Something that was known of a log.
#[derive(Clone, Copy)]
struct Known {
    invoked: Duration,
    completed: Duration,
    value: i64,
    says: Says,
}

/// Checks a history.
pub fn check(history: &History) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for sighting in &history.sightings {
        if let (Some(start), Some(end)) = (sighting.log_start, sighting.high_watermark)
            && start > end
        {
            let what = format!("{} starts at {start} and ends at {end}", sighting.log);
            breaches.push(Breach::new(Rule::Bounds, what));
        }
    }
    let mut high = gather(history, |sighting| {
        Some((sighting.high_watermark?.0, Says::So))
    });
    for send in &history.sends {
        if let Some((completed, End::Stored(Some(offset)))) = send.end
            && send.acks == Acks::All
        {
            high.entry(send.log).or_default().push(Known {
                invoked: send.invoked,
                completed,
                value: offset.next().0,
                says: Says::AtLeast,
            });
        }
    }
    let mut start = gather(history, |sighting| {
        let topic = history.topics.get(&sighting.log.topic)?;
        let says = if topic.retention {
            Says::SoForNow
        } else {
            Says::So
        };
        Some((sighting.log_start?.0, says))
    });
    for cut in &history.cuts {
        if let Some((completed, log_start)) = cut.done {
            start.entry(cut.log).or_default().push(Known {
                invoked: cut.invoked,
                completed,
                value: cut.before.min(log_start).0,
                says: Says::AtLeast,
            });
        }
    }
    let epoch = gather(history, |sighting| {
        Some((i64::from(sighting.leader_epoch?.0), Says::So))
    });
    for (rule, name, known) in [
        (Rule::HighWatermark, "high watermark", high),
        (Rule::LogStartBack, "first offset", start),
        (Rule::LeaderEpoch, "leader epoch", epoch),
    ] {
        for (log, known) in known {
            breaches.extend(only_grows(known).map(|(before, after)| {
                let what = format!(
                    "the {name} of {log} was {} at {:?}; asked at {:?} it was {}",
                    before.value, before.completed, after.invoked, after.value
                );
                Breach::new(rule, what)
            }));
        }
    }
    breaches.extend(batches_by_epoch(history));
    breaches
}

fn gather(
    history: &History,
    value: impl Fn(&Sighting) -> Option<(i64, Says)>,
) -> BTreeMap<Log, Vec<Known>> {
    let mut found: BTreeMap<Log, Vec<Known>> = BTreeMap::new();
    for sighting in &history.sightings {
        if let Some((value, says)) = value(sighting) {
            found.entry(sighting.log).or_default().push(Known {
                invoked: sighting.invoked,
                completed: sighting.completed,
                value,
                says,
            });
        }
    }
    found
}

/// The first pair where what was known when a question was asked is more than its answer.
fn only_grows(mut known: Vec<Known>) -> Option<(Known, Known)> {
    let mut by_completion = known.clone();
    by_completion.retain(|known| known.says != Says::SoForNow);
    by_completion.sort_by_key(|known| known.completed);
    known.sort_by_key(|known| known.invoked);
    let mut completed = by_completion.into_iter().peekable();
    let mut most: Option<Known> = None;
    known.retain(|known| known.says != Says::AtLeast);
    for asked in known {
        while let Some(before) = completed.next_if(|before| before.completed < asked.invoked) {
            if most.is_none_or(|most| most.value < before.value) {
                most = Some(before);
            }
        }
        if let Some(before) = most
            && asked.value < before.value
        {
            return Some((before, asked));
        }
    }
    None
}

/// The epochs of a log's batches do not fall with the offset.
fn batches_by_epoch(history: &History) -> Vec<Breach> {
    let mut by_log: BTreeMap<Log, Vec<(i64, i32)>> = BTreeMap::new();
    for read in &history.reads {
        let epochs = by_log.entry(read.log).or_default();
        epochs.push((read.offset.0, read.leader_epoch.0));
    }
    let mut breaches = Vec::new();
    for (log, mut epochs) in by_log {
        epochs.sort_unstable();
        if let Some(pair) = epochs.windows(2).find(|pair| pair[0].1 > pair[1].1) {
            let ((a, older), (b, newer)) = (pair[0], pair[1]);
            let what = format!("{log} has epoch {older} at {a} and {newer} at {b}");
            breaches.push(Breach::new(Rule::LeaderEpoch, what));
        }
    }
    breaches
}
