//! The log model of compacted logs.

use streambus_proto::ids::Offset;
use streambus_tests::checkers::Rule::{self, Hole, LostWrite, Resurrected};
use streambus_tests::checkers::log_model::check;
use streambus_tests::history::{End, History, is_tombstone, key_of};

use super::{LOG, PASS, ms, read, sound, stored, value};

/// What was stored, offset by offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stored {
    A,
    B,
    /// A tombstone of A.
    DeletesA,
    /// The same, of which its producer does not know whether it is stored.
    PerhapsDeletesA,
}

/// A compacted log of these records, one after the other, of which the last pass found some.
fn history(records: &[Stored], found: &[i64]) -> History {
    let (a, b) = (key_of(value(0)), key_of(value(1)));
    assert_ne!(a, b, "two keys");
    let mut numbers = 0..;
    let mut next = |key: [u8; 1], deletes: bool| {
        let fits = |number: &u32| {
            let value = value(*number);
            key_of(value) == key && is_tombstone(value) == deletes
        };
        numbers.find(fits).expect("one in some hundred fits")
    };
    let mut history = History {
        sends: Vec::new(),
        reads: Vec::new(),
        ..sound()
    };
    for (offset, record) in (0..).zip(records) {
        let number = match record {
            Stored::A => next(a, false),
            Stored::B => next(b, false),
            Stored::DeletesA | Stored::PerhapsDeletesA => next(a, true),
        };
        let mut send = stored(number);
        let end = if *record == Stored::PerhapsDeletesA {
            End::Unknown
        } else {
            End::Stored(Some(Offset(offset)))
        };
        send.end = Some((ms(1), end));
        history.sends.push(send);
        if found.contains(&offset) {
            history.reads.push(read(PASS, offset, number));
        }
    }
    history.topics.get_mut(&LOG.topic).unwrap().compacted = true;
    history.passes[0].high_watermark = Offset(i64::try_from(records.len()).unwrap());
    history
}

#[test]
fn a_compacted_log_lacks_only_what_was_replaced_or_deleted() {
    // Proves each way in which a record may be gone, and the next to it in which it may not.
    use Stored::{A, B, DeletesA, PerhapsDeletesA};
    type Case = (
        &'static str,
        &'static [Stored],
        &'static [i64],
        &'static [Rule],
    );
    let cases: &[Case] = &[
        ("all are there", &[A, B, A], &[0, 1, 2], &[]),
        ("a replaced record is gone", &[A, B, A], &[1, 2], &[]),
        (
            "the newest of a key is gone",
            &[A, B, A],
            &[0, 1],
            &[LostWrite, Hole],
        ),
        (
            "both of a key are gone",
            &[A, B, A],
            &[1],
            &[LostWrite, Hole],
        ),
        (
            "what was never replaced is gone",
            &[A, B, A],
            &[2],
            &[LostWrite, Hole],
        ),
        ("a deleted record is gone", &[A, B, DeletesA], &[1, 2], &[]),
        ("so is its tombstone", &[A, B, DeletesA], &[1], &[]),
        (
            "only its tombstone is",
            &[A, B, DeletesA],
            &[0, 1],
            &[Resurrected],
        ),
        ("the key is used again", &[A, DeletesA, A], &[2], &[]),
        (
            "it is used again and gone",
            &[A, DeletesA, A],
            &[],
            &[LostWrite, Hole],
        ),
        (
            "a tombstone that may be there deleted it",
            &[A, B, PerhapsDeletesA],
            &[1],
            &[],
        ),
        (
            "it may have deleted no other key",
            &[A, B, PerhapsDeletesA],
            &[0],
            &[LostWrite, Hole],
        ),
    ];
    for (name, records, found, expected) in cases {
        let breaches = check(&history(records, found));
        let mut rules: Vec<Rule> = breaches.iter().map(|breach| breach.rule).collect();
        rules.sort_unstable();
        rules.dedup();
        assert_eq!(rules, *expected, "{name}: {breaches:?}");
    }
    let mut not_compacted = history(&[A, B, A], &[1, 2]);
    not_compacted.topics.get_mut(&LOG.topic).unwrap().compacted = false;
    assert!(
        !check(&not_compacted).is_empty(),
        "nothing else may lack it"
    );
}
