//! When all faults are over, everything works again within a time.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{Breach, Rule};
use crate::history::{Acks, End, History, Log};

/// How long a send may take once everything is well. Clients pause up to some seconds after failures, and
/// give up a broken connection after their request timeout; three times what they add up to.
pub const LIMIT: Duration = Duration::from_mins(1);

/// Checks a history that has healed: what was sent since then was acknowledged within `limit`, and each log
/// that nobody deleted could be read to its end.
pub fn check(history: &History, limit: Duration) -> Vec<Breach> {
    let Some(healed) = history.healed else {
        return Vec::new();
    };
    let mut breaches = Vec::new();
    let deleted = |log: Log| {
        history
            .topics
            .get(&log.topic)
            .is_none_or(|topic| topic.delete_invoked.is_some())
    };
    for send in history
        .sends
        .iter()
        .filter(|send| send.invoked >= healed && send.acks != Acks::None && !deleted(send.log))
    {
        let stored = match send.end {
            Some((at, End::Stored(_))) => at.saturating_sub(send.invoked) <= limit,
            _ => false,
        };
        if !stored {
            let what = format!(
                "{} to {}, begun at {:?} after all was well at {healed:?}, ended so: {:?}",
                send.value, send.log, send.invoked, send.end
            );
            breaches.push(Breach::new(Rule::Liveness, what));
            // One is enough: where one fails, thousands do.
            break;
        }
    }
    let read: BTreeSet<Log> = history.passes.iter().map(|pass| pass.log).collect();
    for log in history.live_logs().filter(|log| !read.contains(log)) {
        let what = format!("{log} could not be read to its end");
        breaches.push(Breach::new(Rule::Liveness, what));
    }
    breaches
}
