use super::*;

fn batch(id: i64, epoch: i16, base_sequence: i32, record_count: i32) -> Sequenced {
    Sequenced {
        producer_id: ProducerId(id),
        producer_epoch: ProducerEpoch(epoch),
        base_sequence,
        record_count,
        max_timestamp_ms: 7,
    }
}

/// Appends through the rule as the partition does; returns the verdict.
fn offer(producers: &mut Producers, log_end: &mut i64, batch: Sequenced) -> Verdict {
    let verdict = producers.check(&batch);
    if verdict == Verdict::New {
        producers.record(&batch, Offset(*log_end), 1_000);
        *log_end += i64::from(batch.record_count);
    }
    verdict
}

#[test]
fn verdicts_follow_the_table() {
    // Proves each rule of KIP-98 in turn: (batch, verdict) over one partition.
    let (mut producers, mut end) = (Producers::default(), 0);
    let table = [
        (batch(1, 0, 0, 10), Verdict::New),
        (batch(1, 0, 10, 5), Verdict::New),
        (
            batch(1, 0, 0, 10),
            Verdict::Duplicate {
                base_offset: Offset(0),
                last_offset: Offset(9),
            },
        ),
        (
            batch(1, 0, 10, 5),
            Verdict::Duplicate {
                base_offset: Offset(10),
                last_offset: Offset(14),
            },
        ),
        // Same first sequence, other length: not the same batch.
        (batch(1, 0, 10, 6), Verdict::OutOfOrder { expected: 15 }),
        (batch(1, 0, 16, 1), Verdict::OutOfOrder { expected: 15 }),
        // A new epoch starts from 0 and nowhere else.
        (batch(1, 1, 15, 1), Verdict::OutOfOrder { expected: 0 }),
        (batch(1, 1, 0, 1), Verdict::New),
        (
            batch(1, 0, 15, 1),
            Verdict::Fenced {
                current: ProducerEpoch(1),
            },
        ),
        // Another producer is none of its business; an unknown one may start anywhere.
        (batch(2, 0, 42, 1), Verdict::New),
        (batch(2, 0, 43, 1), Verdict::New),
    ];
    for (step, (offered, expected)) in table.into_iter().enumerate() {
        assert_eq!(
            offer(&mut producers, &mut end, offered),
            expected,
            "step {step}"
        );
    }
}

#[test]
fn what_was_refused_for_want_of_space_comes_first_when_it_is_tried_again() {
    // Proves that a producer of which nothing is in the log keeps its order over a refusal, and that one
    // which is known, or comes in a new epoch, is judged as ever.
    let (mut producers, mut end) = (Producers::default(), 0);
    producers.refused(&batch(1, 0, 3, 2), 1_000);
    producers.refused(&batch(1, 0, 1, 2), 1_000);
    producers.refused(&batch(1, 0, 5, 2), 1_000);
    assert_eq!(
        Producers::decode(&producers.encode()),
        Some(Producers::default())
    );
    assert_eq!(producers.views(), []);
    let table = [
        (batch(1, 0, 3, 2), Verdict::OutOfOrder { expected: 1 }),
        (batch(1, 0, 1, 2), Verdict::New),
        (batch(1, 0, 3, 2), Verdict::New),
        (batch(1, 0, 9, 2), Verdict::OutOfOrder { expected: 5 }),
        (batch(2, 0, 9, 1), Verdict::New),
    ];
    for (step, (offered, expected)) in table.into_iter().enumerate() {
        let verdict = offer(&mut producers, &mut end, offered);
        assert_eq!(verdict, expected, "step {step}");
    }
    producers.refused(&batch(1, 0, 5, 2), 1_000);
    assert_eq!(
        producers.check(&batch(1, 0, 5, 2)),
        Verdict::New,
        "known: nothing changed"
    );
    producers.refused(&batch(3, 0, 7, 1), 1_000);
    assert_eq!(
        producers.check(&batch(3, 1, 0, 1)),
        Verdict::New,
        "a new epoch"
    );
    assert_eq!(
        producers.check(&batch(3, 1, 8, 1)),
        Verdict::OutOfOrder { expected: 0 }
    );
}

#[test]
fn what_was_refused_makes_nobody_forgotten() {
    // Proves that refusals, however many, leave the producers whose batches are stored known.
    let (mut producers, mut end) = (Producers::default(), 0);
    let count = i64::try_from(PRODUCERS_MAX).unwrap();
    for id in 0..count {
        assert_eq!(
            offer(&mut producers, &mut end, batch(id, 0, 0, 1)),
            Verdict::New
        );
    }
    producers.refused(&batch(count, 0, 0, 1), 9_000);
    assert_eq!(producers.len(), PRODUCERS_MAX);
    for id in 0..count {
        let again = producers.check(&batch(id, 0, 0, 1));
        assert!(
            matches!(again, Verdict::Duplicate { .. }),
            "{id}: {again:?}"
        );
    }
}

#[test]
fn window_holds_five_batches() {
    // Proves that the fifth last batch is still a duplicate and the sixth last is not.
    let (mut producers, mut end) = (Producers::default(), 0);
    for sequence in 0..6 {
        assert_eq!(
            offer(&mut producers, &mut end, batch(9, 0, sequence, 1)),
            Verdict::New
        );
    }
    let fifth = producers.check(&batch(9, 0, 1, 1));
    assert_eq!(
        fifth,
        Verdict::Duplicate {
            base_offset: Offset(1),
            last_offset: Offset(1)
        }
    );
    assert_eq!(
        producers.check(&batch(9, 0, 0, 1)),
        Verdict::OutOfOrder { expected: 6 }
    );
}

#[test]
fn sequences_wrap_to_zero() {
    // Proves fault row 23: after i32::MAX comes 0, within a batch and between batches.
    let (mut producers, mut end) = (Producers::default(), 0);
    assert_eq!(
        offer(&mut producers, &mut end, batch(1, 0, i32::MAX - 1, 4)),
        Verdict::New
    );
    assert_eq!(
        offer(&mut producers, &mut end, batch(1, 0, 2, 1)),
        Verdict::New
    );
    assert_eq!(add_sequence(i32::MAX, 1), 0);
}

#[test]
fn state_survives_encoding() {
    // Proves that a restart knows the same duplicates, and that damage is refused.
    let (mut producers, mut end) = (Producers::default(), 0);
    for id in 0..3 {
        for sequence in 0..7 {
            offer(&mut producers, &mut end, batch(id, 3, sequence, 1));
        }
    }
    let bytes = producers.encode();
    assert_eq!(Producers::decode(&bytes), Some(producers));
    for cut in 1..bytes.len() {
        assert_eq!(Producers::decode(&bytes[..cut]), None, "cut at {cut}");
    }
    let mut other_version = bytes.clone();
    other_version[0] = 9;
    assert_eq!(Producers::decode(&other_version), None);
    assert_eq!(Producers::decode(&[]), Some(Producers::default()));
}

#[test]
fn no_bytes_are_too_much_for_the_decoder() {
    // Proves that mutations of saved producers are refused or come back as they were written, and that what is
    // not refused can be judged by and written to without a panic.
    let (mut producers, mut end) = (Producers::default(), 0);
    for id in 0..3 {
        for sequence in 0..7 {
            offer(&mut producers, &mut end, batch(id, 3, sequence, 1));
        }
    }
    let mut samples = vec![producers.encode()];
    producers.record(&batch(1, 4, i32::MAX, 9), Offset(end), 2_000);
    samples.push(producers.encode());
    streambus_shards::sim::mutated(&samples, |bytes| {
        let Some(mut read) = Producers::decode(bytes) else {
            return;
        };
        assert!(read.len() <= PRODUCERS_MAX);
        assert_eq!(Producers::decode(&read.encode()).as_ref(), Some(&read));
        for view in read.views() {
            let (id, epoch) = (view.producer_id.0, view.producer_epoch.0);
            for base_sequence in [0, i32::MAX] {
                offer(&mut read, &mut 90, batch(id, epoch, base_sequence, 2));
            }
        }
    });
}

#[test]
fn oldest_producer_makes_room() {
    // Proves the bound on producers: the one that wrote longest ago is forgotten.
    let mut producers = Producers::default();
    for id in 0..=i64::try_from(PRODUCERS_MAX).expect("small") {
        producers.record(&batch(id, 0, 0, 1), Offset(id), 1_000 + id);
    }
    assert_eq!(producers.len(), PRODUCERS_MAX);
    assert_eq!(producers.check(&batch(0, 0, 5, 1)), Verdict::New);
    assert!(matches!(
        producers.check(&batch(1, 0, 5, 1)),
        Verdict::OutOfOrder { .. }
    ));
}

#[test]
fn idle_producers_expire() {
    // Proves that expiry forgets by last append and keeps the rest.
    let mut producers = Producers::default();
    producers.record(&batch(1, 0, 0, 1), Offset(0), 100);
    producers.record(&batch(2, 0, 0, 1), Offset(1), 200);
    producers.expire(150);
    let ids: Vec<i64> = producers
        .views()
        .iter()
        .map(|view| view.producer_id.0)
        .collect();
    assert_eq!(ids, [2]);
}
