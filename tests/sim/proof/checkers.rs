//! Tables of histories: a sound one passes, and each change that breaks a promise is told by its rule.

mod compacted;
mod disk;
mod liveness;
mod log_model;
mod order;
mod watermarks;

use std::time::Duration;

use streambus_proto::ids::{LeaderEpoch, Offset, TopicId};
use streambus_tests::checkers::{Breach, Rule};
use streambus_tests::history::{
    Acks, End, History, Log, Pass, Read, Seen, Send, Sighting, Topic, Value,
};

const LOG: Log = Log {
    topic: TopicId([7; 16]),
    partition: 0,
};
/// The reader of the last pass.
const PASS: u32 = 99;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn value(sequence: u32) -> Value {
    Value {
        producer: 1,
        sequence,
    }
}

/// A send that is stored at the offset of its number, one after the other.
fn stored(sequence: u32) -> Send {
    let at = u64::from(sequence) * 10;
    Send {
        value: value(sequence),
        log: LOG,
        acks: Acks::All,
        idempotent: true,
        invoked: ms(at),
        end: Some((ms(at + 5), End::Stored(Some(Offset(sequence.into()))))),
        sendings: 1,
        out_of_order: false,
    }
}

fn read(reader: u32, offset: i64, sequence: u32) -> Read {
    Read {
        reader,
        log: LOG,
        offset: Offset(offset),
        seen: Seen::Value(value(sequence)),
        leader_epoch: LeaderEpoch(0),
        at: ms(1_000 + offset.unsigned_abs()),
        repositioned: false,
    }
}

fn sighting(invoked: u64, log_start: i64, high_watermark: i64) -> Sighting {
    Sighting {
        log: LOG,
        invoked: ms(invoked),
        completed: ms(invoked + 5),
        log_start: Some(Offset(log_start)),
        high_watermark: Some(Offset(high_watermark)),
        leader_epoch: Some(LeaderEpoch(3)),
    }
}

/// A removal of the records before an offset that was done.
fn cut(history: &mut History, invoked: u64, before: i64) {
    let cut = history.cut(LOG, Offset(before), ms(invoked));
    history.cut_done(cut, ms(invoked + 5), Offset(before));
}

/// Ten records sent, acknowledged and read, by one reader and by the last pass.
fn sound() -> History {
    let topic = Topic {
        name: "t".to_owned(),
        partitions: 1,
        retention: false,
        compacted: false,
        delete_invoked: None,
    };
    let reads = |reader| (0..10).map(move |n| read(reader, n, u32::try_from(n).unwrap()));
    History {
        sends: (0..10).map(stored).collect(),
        reads: reads(5).chain(reads(PASS)).collect(),
        sightings: vec![sighting(20, 0, 2), sighting(60, 0, 6), sighting(200, 0, 10)],
        passes: vec![Pass {
            log: LOG,
            reader: PASS,
            log_start: Offset(0),
            high_watermark: Offset(10),
        }],
        topics: [(LOG.topic, topic)].into(),
        ..History::default()
    }
}

/// A change of the sound history, and the rules that it breaks.
type Case = (&'static str, fn(&mut History), &'static [Rule]);

fn run(check: impl Fn(&History) -> Vec<Breach>, cases: &[Case]) {
    let breaches = check(&sound());
    assert_eq!(breaches, [], "the sound history");
    for (name, change, expected) in cases {
        let mut history = sound();
        change(&mut history);
        let breaches = check(&history);
        let mut rules: Vec<Rule> = breaches.iter().map(|breach| breach.rule).collect();
        rules.sort_unstable();
        rules.dedup();
        assert_eq!(rules, *expected, "{name}: {breaches:?}");
    }
}
