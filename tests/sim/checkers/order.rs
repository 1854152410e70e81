//! Offsets are the order of a log. What clients know of "before" must agree with it.
//!
//! No search is needed, as it would be for a register: the order is told, so each rule is one sweep.

use std::collections::BTreeMap;
use std::time::Duration;

use streambus_proto::ids::Offset;

use super::{Breach, Rule};
use crate::history::{End, History, Log, Send};

/// Checks a history.
pub fn check(history: &History) -> Vec<Breach> {
    let mut breaches = Vec::new();
    let mut by_log: BTreeMap<Log, Vec<(Offset, Duration, &Send)>> = BTreeMap::new();
    for send in &history.sends {
        if let Some((completed, End::Stored(Some(offset)))) = send.end {
            let appends = by_log.entry(send.log).or_default();
            appends.push((offset, completed, send));
        }
    }
    for (log, appends) in &mut by_log {
        appends.sort_by_key(|(offset, ..)| *offset);
        breaches.extend(real_time(*log, appends));
        if !history.forgets_producers(*log) {
            breaches.extend(by_producer(*log, appends));
        }
    }
    breaches.extend(sequences(history));
    breaches.extend(reading_on(history));
    breaches
}

/// Acknowledged before another was begun means a smaller offset. `appends` are by offset.
fn real_time(log: Log, appends: &[(Offset, Duration, &Send)]) -> Option<Breach> {
    // From the end: the earliest acknowledgement among those with a greater offset.
    let mut earliest: Option<(Duration, Offset, &Send)> = None;
    for (offset, completed, send) in appends.iter().rev() {
        if let Some((acknowledged, above, other)) = earliest
            && acknowledged < send.invoked
            && above > *offset
        {
            return Some(Breach::new(
                Rule::RealTimeOrder,
                format!(
                    "{} was acknowledged at {above} of {log} after {acknowledged:?}; {}, begun at {:?}, stands at {offset}",
                    other.value, send.value, send.invoked
                ),
            ));
        }
        if earliest.is_none_or(|(acknowledged, ..)| *completed < acknowledged) {
            earliest = Some((*completed, *offset, send));
        }
    }
    None
}

/// A producer's records stand in the order of its sends. One without idempotence may overtake itself when it
/// retries, so that only what it sent once is looked at; and so may one whose records all went with old
/// ones, for the broker knows its sequences by its records.
fn by_producer(log: Log, appends: &[(Offset, Duration, &Send)]) -> Option<Breach> {
    let mut last: BTreeMap<u32, (u32, Offset)> = BTreeMap::new();
    for (offset, _, send) in appends
        .iter()
        .filter(|(.., send)| send.idempotent || send.sendings == 1)
    {
        let value = send.value;
        let before = last.insert(value.producer, (value.sequence, *offset));
        if let Some((sequence, at)) = before
            && sequence > value.sequence
        {
            return Some(Breach::new(
                Rule::ProducerOrder,
                format!(
                    "{value} stands at {offset} of {log}, behind {}:{sequence} at {at}",
                    value.producer
                ),
            ));
        }
    }
    None
}

/// An idempotent producer that goes on where it was, or repeats one of the batches that it may have in flight, is
/// never out of order: the broker knows what it stored.
fn sequences(history: &History) -> Option<Breach> {
    let mut sends = history.sends.iter();
    let send = sends.find(|send| send.out_of_order && !history.forgets_producers(send.log))?;
    let what = format!(
        "{} was the next of its producer in {}, and was called out of order",
        send.value, send.log
    );
    Some(Breach::new(Rule::Sequence, what))
}

/// The next record of a reader has the next offset, or a later one in a compacted log, unless the reader was sent elsewhere.
fn reading_on(history: &History) -> Vec<Breach> {
    let mut breaches = Vec::new();
    let mut last: BTreeMap<(u32, Log), Offset> = BTreeMap::new();
    for read in &history.reads {
        let before = last.insert((read.reader, read.log), read.offset);
        if let Some(before) = before
            && !read.repositioned
            && read.offset != before.next()
            && !(history.is_compacted(read.log) && read.offset > before)
        {
            breaches.push(Breach::new(
                Rule::ReadOn,
                format!(
                    "reader {} of {} came from {before} to {}",
                    read.reader, read.log, read.offset
                ),
            ));
        }
    }
    breaches
}
