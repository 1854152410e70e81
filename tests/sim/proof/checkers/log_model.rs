//! The log model.

use streambus_proto::ids::Offset;
use streambus_tests::checkers::Rule::{
    AbortedRead, Duplicate, Garbage, Hole, LogStart, LostWrite, Phantom, TwoValues, Vanished,
};
use streambus_tests::checkers::log_model::check;
use streambus_tests::history::{Acks, Cut, End, History, Log, Seen, Value, payload, seen};

use super::{Case, LOG, PASS, ms, read, run, stored, value};

/// Cuts what the last pass found down to the offsets of a range.
fn passed(history: &mut History, offsets: std::ops::Range<i64>) {
    history
        .reads
        .retain(|read| read.reader != PASS || offsets.contains(&read.offset.0));
    history.passes[0].log_start = Offset(offsets.start);
    history.passes[0].high_watermark = Offset(offsets.end);
}

fn only_pass(history: &mut History) {
    history.reads.retain(|read| read.reader == PASS);
}

/// One more send, of number 10, that ended so; and what the pass found behind the others.
fn one_more(history: &mut History, end: Option<End>, found_at: &[i64]) {
    let mut send = stored(10);
    send.end = end.map(|end| (ms(105), end));
    history.sends.push(send);
    for offset in found_at {
        history.reads.push(read(PASS, *offset, 10));
    }
    history.passes[0].high_watermark = Offset(10 + i64::try_from(found_at.len()).unwrap());
}

/// Changes that break a promise.
const BROKEN: &[Case] = &[
    (
        "the tail is gone, and nobody had read it",
        |history| {
            only_pass(history);
            passed(history, 0..8);
        },
        &[LostWrite],
    ),
    (
        "the tail is gone, and a reader had seen it",
        |history| passed(history, 0..8),
        &[LostWrite, Vanished],
    ),
    (
        "a record in the middle is missing",
        |history| {
            only_pass(history);
            history.reads.retain(|read| read.offset != Offset(4));
        },
        &[LostWrite, Hole],
    ),
    (
        "a record stands twice",
        |history| one_more(history, Some(End::Stored(Some(Offset(10)))), &[10, 11]),
        &[Duplicate],
    ),
    (
        "an offset is one thing to one reader and another to the next",
        |history| {
            history.reads[3].seen = Seen::Value(value(4));
        },
        &[Duplicate, TwoValues],
    ),
    (
        "two sends were given one offset",
        |history| {
            history.sends[4].end = Some((ms(1), End::Stored(Some(Offset(3)))));
        },
        &[Duplicate, TwoValues],
    ),
    (
        "a refused record is read",
        |history| one_more(history, Some(End::Refused(87)), &[10]),
        &[AbortedRead],
    ),
    (
        "a record is read that nobody sent",
        |history| {
            history.sends.pop();
        },
        &[Phantom],
    ),
    (
        "a record is read in another log than it was sent to",
        |history| {
            history.sends[9].log = Log {
                partition: 1,
                ..LOG
            };
            history.sends[9].end = None;
        },
        &[Phantom],
    ),
    (
        "bytes are read that nobody wrote",
        |history| history.reads[2].seen = Seen::Garbage,
        &[Garbage],
    ),
    (
        "the log begins later, and nobody asked for that",
        |history| passed(history, 3..10),
        &[LogStart],
    ),
    (
        "the log begins behind where somebody asked for",
        |history| {
            cut(history, 3);
            passed(history, 4..10);
        },
        &[LogStart],
    ),
    (
        "a duplicate was acknowledged and is nowhere",
        |history| one_more(history, Some(End::Stored(None)), &[]),
        &[LostWrite],
    ),
];

#[test]
fn every_broken_promise_is_told_by_its_rule() {
    // Proves the log model: losses, duplicates, two values, reads of what was never or not stored, holes.
    run(check, BROKEN);
}

fn cut(history: &mut History, before: i64) {
    history.cuts.push(Cut {
        log: LOG,
        before: Offset(before),
        invoked: ms(300),
        done: None,
    });
}

#[test]
fn what_is_allowed_passes() {
    // Proves the weaker rules: unknown ends, acks=0, retries without idempotence, cuts and retention.
    let cases: &[Case] = &[
        (
            "an unknown send is there",
            |history| one_more(history, Some(End::Unknown), &[10]),
            &[],
        ),
        (
            "an unknown send is not there",
            |history| one_more(history, Some(End::Unknown), &[]),
            &[],
        ),
        (
            "a send that never ended is there",
            |history| one_more(history, None, &[10]),
            &[],
        ),
        (
            "nothing is promised without acknowledgement",
            |history| {
                one_more(history, Some(End::Stored(None)), &[]);
                history.sends[10].acks = Acks::None;
            },
            &[],
        ),
        (
            "a retry without idempotence stands twice",
            |history| {
                one_more(history, Some(End::Stored(Some(Offset(10)))), &[10, 11]);
                history.sends[10].idempotent = false;
                history.sends[10].sendings = 2;
            },
            &[],
        ),
        (
            "without a retry it stands once all the same",
            |history| {
                one_more(history, Some(End::Stored(Some(Offset(10)))), &[10, 11]);
                history.sends[10].idempotent = false;
            },
            &[Duplicate],
        ),
        (
            "somebody asked for records to go",
            |history| {
                cut(history, 3);
                passed(history, 3..10);
            },
            &[],
        ),
        (
            "the broker may delete by itself",
            |history| {
                history.topics.get_mut(&LOG.topic).unwrap().retention = true;
                passed(history, 7..10);
            },
            &[],
        ),
        (
            "a reader saw what was deleted later",
            |history| {
                cut(history, 10);
                passed(history, 10..10);
            },
            &[],
        ),
    ];
    run(check, cases);
}

#[test]
fn payloads_say_their_value_and_no_other_bytes_do() {
    // Proves that a changed byte, a cut and another's filling are garbage.
    let one = Value {
        producer: 3,
        sequence: 9,
    };
    for bytes in [8, 9, 100, 5_000] {
        let whole = payload(one, bytes);
        assert_eq!(whole.len(), bytes);
        assert_eq!(seen(&whole), Seen::Value(one));
        let mut changed = whole.clone();
        *changed.last_mut().unwrap() ^= 1;
        if bytes > 8 {
            assert_eq!(seen(&changed), Seen::Garbage, "{bytes}");
        }
    }
    assert_eq!(seen(&payload(one, 100)[..7]), Seen::Garbage);
    let mut mixed = payload(one, 100);
    mixed[7] = 8;
    assert_eq!(seen(&mixed), Seen::Garbage);
}
