//! Each log is a list of records: what was acknowledged is in it, once, and what is in it was sent.
//!
//! Weaker promises, weaker rules: a send with `acks=0` is acknowledged by nobody, so it can't be lost; one
//! without idempotence may stand as often as it was put on the wire, and without a retry that is once. The
//! same holds of an idempotent one where old records go: with the last of a producer's its sequences are forgotten.

use std::collections::{BTreeMap, BTreeSet};

use streambus_proto::ids::Offset;

use super::compacted::Compacted;
use super::{Breach, Rule};
use crate::history::{Acks, End, History, Log, Pass, Seen, Send, Value};

/// Checks a history.
pub fn check(history: &History) -> Vec<Breach> {
    let mut model = Model::default();
    model.place_sends(history);
    model.place_reads(history);
    model.count_copies(history);
    for pass in &history.passes {
        model.check_pass(history, pass);
    }
    model.breaches
}

#[derive(Default)]
struct Model<'h> {
    sends: BTreeMap<Value, &'h Send>,
    /// What stands where, by acknowledgements and reads together.
    at: BTreeMap<(Log, Offset), Value>,
    places: BTreeMap<Value, BTreeSet<(Log, Offset)>>,
    /// What was found by the reader of a pass, by that reader.
    passed: BTreeMap<(u32, Log), BTreeSet<Offset>>,
    breaches: Vec<Breach>,
}

impl<'h> Model<'h> {
    fn breach(&mut self, rule: Rule, what: String) {
        self.breaches.push(Breach::new(rule, what));
    }

    fn place(&mut self, log: Log, offset: Offset, value: Value) {
        let known = *self.at.entry((log, offset)).or_insert(value);
        if known != value {
            self.breach(
                Rule::TwoValues,
                format!("offset {offset} of {log} is {known} and {value}"),
            );
        }
        self.places.entry(value).or_default().insert((log, offset));
    }

    fn place_sends(&mut self, history: &'h History) {
        for send in &history.sends {
            let other = self.sends.insert(send.value, send);
            assert!(other.is_none(), "{} was sent twice over", send.value);
            if let Some((_, End::Stored(Some(offset)))) = send.end {
                self.place(send.log, offset, send.value);
            }
        }
    }

    fn place_reads(&mut self, history: &History) {
        let passes: BTreeSet<u32> = history.passes.iter().map(|pass| pass.reader).collect();
        for read in &history.reads {
            let (log, offset) = (read.log, read.offset);
            if passes.contains(&read.reader) {
                let found = self.passed.entry((read.reader, log)).or_default();
                found.insert(offset);
            }
            let Seen::Value(value) = read.seen else {
                self.breach(
                    Rule::Garbage,
                    format!("reader {} found garbage at {offset} of {log}", read.reader),
                );
                continue;
            };
            match self.sends.get(&value) {
                None => {
                    let what = format!("{value} at {offset} of {log} was never sent");
                    self.breach(Rule::Phantom, what);
                }
                Some(send) if send.log != log => {
                    let what = format!("{value} at {offset} of {log} was sent to {}", send.log);
                    self.breach(Rule::Phantom, what);
                }
                Some(send) if matches!(send.end, Some((_, End::Refused(_)))) => {
                    let what = format!("{value} at {offset} of {log} was refused");
                    self.breach(Rule::AbortedRead, what);
                }
                Some(_) => {}
            }
            self.place(log, offset, value);
        }
    }

    fn count_copies(&mut self, history: &History) {
        let mut found = Vec::new();
        for (value, places) in &self.places {
            let Some(send) = self.sends.get(value) else {
                continue;
            };
            let known = send.idempotent && !history.forgets_producers(send.log);
            let most = if known { 1 } else { send.sendings.max(1) };
            if places.len() > most as usize {
                let offsets: Vec<String> = places
                    .iter()
                    .map(|(_, offset)| offset.to_string())
                    .collect();
                found.push(format!(
                    "{value} stands at {} of {}, at most {most} allowed",
                    offsets.join(", "),
                    send.log
                ));
            }
        }
        for what in found {
            self.breach(Rule::Duplicate, what);
        }
    }

    /// What a log may lack of which the last pass found so much, if it is compacted.
    fn compacted(
        &self,
        history: &History,
        log: Log,
        found: &BTreeSet<Offset>,
    ) -> Option<Compacted> {
        history.is_compacted(log).then(|| {
            let places = self.at.range((log, Offset(0))..=(log, Offset(i64::MAX)));
            let known = places.map(|((_, offset), value)| (*offset, *value));
            Compacted::new(history, log, known.collect(), found)
        })
    }

    /// What one last reading of the whole log must have found.
    fn check_pass(&mut self, history: &History, pass: &Pass) {
        let Pass {
            log,
            reader,
            log_start,
            high_watermark,
        } = *pass;
        let found = self.passed.remove(&(reader, log)).unwrap_or_default();
        let allowed = log_start_allowed(history, log);
        if allowed.is_some_and(|allowed| log_start > allowed) {
            let most = allowed.unwrap_or_default();
            self.breach(
                Rule::LogStart,
                format!("{log} starts at {log_start}, and nobody asked for more than {most}"),
            );
        }
        let compacted = self.compacted(history, log, &found);
        let may_lack = |offset: Offset| {
            let compacted = compacted.as_ref();
            compacted.is_some_and(|compacted| compacted.may_lack(offset))
        };
        let missing =
            |offset: &Offset| *offset >= log_start && !found.contains(offset) && !may_lack(*offset);
        let back = compacted.as_ref().and_then(|it| it.come_back(log_start));
        // Nothing can be told of what stood before the log's beginning, nor of what was compacted away unseen.
        let tells_all = log_start == Offset(0) && compacted.is_none();
        if let Some((offset, tombstone)) = back {
            let what = format!("{offset} of {log} was deleted by {tombstone}, which is gone");
            self.breach(Rule::Resurrected, what);
        }
        let hole = (log_start.0..high_watermark.0).map(Offset).find(missing);
        if let Some(hole) = hole {
            let what = format!("{hole} of {log} is missing in {log_start}..{high_watermark}");
            self.breach(Rule::Hole, what);
        }
        for send in history.sends.iter().filter(|send| send.log == log) {
            let Some((_, End::Stored(stored))) = send.end else {
                continue;
            };
            if send.acks == Acks::None {
                continue;
            }
            // Without an offset the broker knows it as a duplicate and does not say where it is.
            let lost = stored.map_or_else(
                || tells_all && !self.places.contains_key(&send.value),
                |offset| missing(&offset),
            );
            if lost {
                let at = stored.map_or_else(|| "some offset".to_owned(), |at| at.to_string());
                self.breach(
                    Rule::LostWrite,
                    format!(
                        "{} was acknowledged at {at} of {log} and is not in {log_start}..{high_watermark}",
                        send.value
                    ),
                );
            }
        }
        let vanished = history
            .reads
            .iter()
            .find(|read| read.log == log && missing(&read.offset));
        if let Some(read) = vanished {
            let what = format!(
                "reader {} saw {} of {log}, and it is not in {log_start}..{high_watermark}",
                read.reader, read.offset
            );
            self.breach(Rule::Vanished, what);
        }
    }
}

/// How far the log's first offset may have moved; `None` where the broker itself may move it.
fn log_start_allowed(history: &History, log: Log) -> Option<Offset> {
    let topic = history.topics.get(&log.topic);
    if topic.is_none_or(|topic| topic.retention) {
        return None;
    }
    let cuts = history.cuts.iter().filter(|cut| cut.log == log);
    Some(cuts.map(|cut| cut.before).max().unwrap_or(Offset(0)))
}
