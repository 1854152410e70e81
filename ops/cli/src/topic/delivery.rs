//! Records on their way to the broker: sent, counted, and given up when nobody takes them.

use std::time::{Duration, Instant};

use streambus_client::{
    blocking::BlockingProducer,
    error::ClientError,
    partition::TopicPartition,
    producer::{self, DeliveryError},
};
use streambus_proto::records::NewRecord;

use crate::{output::count, progress::Progress};

/// How long one wait for an answer may take: a stop that is asked for is noticed after it.
const TURN: Duration = Duration::from_millis(50);
/// When nothing was stored for this long, a person is told that the broker does not answer.
const REPORT_AFTER: Duration = Duration::from_secs(2);

/// What became of the records so far.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) stored: u64,
    pub(super) not_stored: u64,
    /// Sent, and no answer came.
    pub(super) unknown: u64,
    /// Why the first that was not stored was not.
    pub(super) reason: Option<String>,
}

impl Tally {
    fn take(&mut self, delivery: &producer::Delivery) -> u64 {
        let records = u64::try_from(delivery.record_count).unwrap_or(0);
        let Err(error) = delivery.result else {
            self.stored += records;
            return records;
        };
        match error {
            DeliveryError::Unknown => self.unknown += records,
            DeliveryError::Refused(_) | DeliveryError::Expired => self.not_stored += records,
        }
        self.reason
            .get_or_insert_with(|| format!("{}: {error}", delivery.partition));
        records
    }

    /// What is wrong, in words; `None` if everything was stored.
    pub(super) fn loss(&self) -> Option<String> {
        let mut parts = Vec::new();
        if self.not_stored > 0 {
            let were = if self.not_stored == 1 { "was" } else { "were" };
            parts.push(format!(
                "{} {were} not written",
                count(self.not_stored, "record")
            ));
        }
        if self.unknown > 0 {
            parts.push(format!(
                "{} may be written or not, for no answer came",
                count(self.unknown, "record")
            ));
        }
        (!parts.is_empty()).then(|| parts.join("; "))
    }
}

/// Says when a broker that does not answer is reported, and when it is given up.
#[derive(Debug)]
struct Stall {
    /// Since when something waits and nothing was stored.
    since: Option<Instant>,
    reported: bool,
    limit: Duration,
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Fine,
    Report,
    GiveUp,
}

impl Stall {
    fn look(&mut self, waits: bool, moved: bool, now: Instant) -> Verdict {
        if !waits || moved {
            self.since = waits.then_some(now);
            self.reported = false;
            return Verdict::Fine;
        }
        let stalled = now.saturating_duration_since(*self.since.get_or_insert(now));
        if stalled >= self.limit {
            return Verdict::GiveUp;
        }
        if stalled >= REPORT_AFTER && !self.reported {
            self.reported = true;
            return Verdict::Report;
        }
        Verdict::Fine
    }
}

/// Why no more records are taken.
#[derive(Debug)]
pub(super) enum Gone {
    /// For so long nothing was stored; why, if that is known.
    Silent(Duration, Option<String>),
    /// The producer can't go on.
    Failed(ClientError),
}

impl From<ClientError> for Gone {
    fn from(error: ClientError) -> Self {
        Self::Failed(error)
    }
}

/// A producer whose records are counted, and that is not waited for longer than a limit.
pub(super) struct Delivery<'c> {
    producer: BlockingProducer<'c>,
    progress: Progress,
    pub(super) tally: Tally,
    stall: Stall,
}

impl<'c> Delivery<'c> {
    /// `limit`: how long nothing may be stored while something waits.
    pub(super) fn new(producer: BlockingProducer<'c>, progress: Progress, limit: Duration) -> Self {
        Self {
            producer,
            progress,
            tally: Tally::default(),
            stall: Stall {
                since: None,
                reported: false,
                limit,
            },
        }
    }

    /// Takes a record, waiting for room as long as the broker takes others.
    pub(super) fn append(
        &mut self,
        partition: &TopicPartition,
        record: &NewRecord<'_>,
    ) -> Result<(), Gone> {
        while !self.producer.offer(partition, record)? {
            self.turn(true, TURN)?;
        }
        Ok(())
    }

    /// Whether nothing is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.producer.is_idle()
    }

    /// Sends what is due and counts what was answered, waiting for nothing.
    pub(super) fn look(&mut self) -> Result<(), Gone> {
        self.turn(false, Duration::ZERO)
    }

    /// Sends everything and waits until it is stored or given up. A broker that has not answered for as long as it
    /// is reported is not waited for once `hurry` says so.
    pub(super) fn flush(&mut self, hurry: impl Fn() -> bool) -> Result<(), Gone> {
        while !self.producer.is_idle() {
            if self.stall.reported && hurry() {
                return Err(self.silent());
            }
            self.turn(true, TURN)?;
        }
        self.turn(false, Duration::ZERO)
    }

    /// Counts what is left as not stored, removes the bar, and says how long all took.
    pub(super) fn end(&mut self) -> Duration {
        self.producer.give_up();
        self.take_delivered();
        self.progress.finish()
    }

    fn turn(&mut self, flush: bool, wait: Duration) -> Result<(), Gone> {
        self.producer.turn_within(flush, wait)?;
        let moved = self.take_delivered();
        let waits = !self.producer.is_idle();
        match self.stall.look(waits, moved, Instant::now()) {
            Verdict::Fine => Ok(()),
            Verdict::Report => {
                let why = self.producer.trouble().map(|why| format!(": {why}"));
                let limit = self.stall.limit.as_secs();
                self.progress.say(&format!(
                    "the broker has not answered for {} s{}; given up after {limit} s",
                    REPORT_AFTER.as_secs(),
                    why.unwrap_or_default(),
                ));
                Ok(())
            }
            Verdict::GiveUp => Err(self.silent()),
        }
    }

    fn silent(&self) -> Gone {
        let since = self
            .stall
            .since
            .map_or(Duration::ZERO, |since| since.elapsed());
        Gone::Silent(since, self.producer.trouble().map(str::to_owned))
    }

    fn take_delivered(&mut self) -> bool {
        let mut records = 0;
        for delivery in self.producer.take_delivered() {
            records += self.tally.take(&delivery);
        }
        self.progress.advance(records);
        records > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_that_is_silent_is_reported_once_and_given_up() {
        // Proves the rule at each kind of step: (seconds, something waits, something was stored, verdict).
        let begin = Instant::now();
        let mut stall = Stall {
            since: None,
            reported: false,
            limit: Duration::from_secs(30),
        };
        let table = [
            (0, false, false, Verdict::Fine),
            // Nothing waits: however long that is.
            (100, false, false, Verdict::Fine),
            (100, true, false, Verdict::Fine),
            (101, true, false, Verdict::Fine),
            (102, true, false, Verdict::Report),
            (103, true, false, Verdict::Fine),
            // Something was stored, something else waits: the time begins anew.
            (120, true, true, Verdict::Fine),
            (121, true, false, Verdict::Fine),
            (122, true, false, Verdict::Report),
            (149, true, false, Verdict::Fine),
            (150, true, false, Verdict::GiveUp),
            (151, false, true, Verdict::Fine),
            (200, true, false, Verdict::Fine),
        ];
        for (seconds, waits, moved, expected) in table {
            let now = begin + Duration::from_secs(seconds);
            assert_eq!(stall.look(waits, moved, now), expected, "at {seconds} s");
        }
    }

    #[test]
    fn what_is_lost_is_told_apart_from_what_may_be() {
        // Proves: records that are certain not to be stored and those of unknown fate have a sentence each (golden).
        let lost = |not_stored, unknown| {
            let tally = Tally {
                not_stored,
                unknown,
                ..Tally::default()
            };
            tally.loss()
        };
        assert_eq!(lost(0, 0), None);
        assert_eq!(lost(1, 0).as_deref(), Some("1 record was not written"));
        let both =
            "3 records were not written; 2 records may be written or not, for no answer came";
        assert_eq!(lost(3, 2).as_deref(), Some(both));
    }
}
