//! What cleaning keeps of a batch, and when a partition is due.

use streambus_proto::ids::{LeaderEpoch, ProducerEpoch, ProducerId};
use streambus_proto::records::{BATCH_BYTES_MIN, Codec, NewRecord};
use streambus_shards::now;

use super::*;
use crate::wal::record::Nonce;

const POLICY: CleanPolicy = CleanPolicy {
    min_compaction_lag_ms: 0,
    max_compaction_lag_ms: i64::MAX,
    min_cleanable_dirty_ppm: 500_000,
    delete_retention_ms: 1_000,
};

type Keyed<'a> = (Option<&'a str>, Option<&'a str>);

/// A batch at `base` of these keys and values, in this producer's transaction if there is one.
fn batch(base: i64, codec: Codec, records: &[Keyed<'_>], transaction: Option<i64>) -> Vec<u8> {
    let mut builder = BatchBuilder::new(codec);
    builder.set_place(Offset(base), LeaderEpoch(3));
    if let Some(producer) = transaction {
        builder.set_producer(ProducerId(producer), ProducerEpoch(0), 7);
        builder.set_transactional();
    }
    for (nth, (key, value)) in (0..).zip(records) {
        builder.push(&NewRecord {
            timestamp: 100 + nth,
            key: key.map(str::as_bytes),
            value: value.map(str::as_bytes),
            headers: &[],
        });
    }
    builder.build()
}

fn marker(base: i64, producer: i64, kind: ControlKind) -> Vec<u8> {
    let marker = EndTransactionMarker {
        kind,
        coordinator_epoch: 1,
    };
    let mut bytes = marker.to_batch(ProducerId(producer), ProducerEpoch(0), 200);
    streambus_proto::records::set_base_offset(&mut bytes, Offset(base));
    bytes
}

/// No executor runs here, so nothing yields.
fn at_once<T>(work: impl Future<Output = T>) -> T {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(work).poll(&mut context) {
        std::task::Poll::Ready(done) => done,
        std::task::Poll::Pending => panic!("it waits for something"),
    }
}

fn survey(batches: &[Vec<u8>]) -> Survey {
    let mut survey = Survey::new(KeyHash::new(Nonce(1)), 1_000, Offset(0));
    for bytes in batches {
        at_once(survey.take(bytes));
    }
    survey
}

fn remains(survey: &Survey, bytes: &[u8], now_ms: i64) -> Remains {
    let mut passed = Passed::default();
    at_once(survey.remains(bytes, &POLICY, now_ms, false, &mut Vec::new(), &mut passed))
}

/// Offsets and values of what is left.
fn records(bytes: &[u8]) -> Vec<(i64, Option<String>)> {
    let (view, rest) = BatchView::split_first(bytes).unwrap();
    assert!(rest.is_empty());
    view.verify().unwrap();
    let mut scratch = Vec::new();
    let records = view.records(&mut scratch, LIMITS).unwrap();
    let text = |value: &[u8]| String::from_utf8(value.to_vec()).unwrap();
    records
        .map(|record| record.unwrap())
        .map(|record| (record.offset.0, record.value.map(text)))
        .collect()
}

#[test]
fn the_newest_record_of_each_key_stays_at_its_offset() {
    // Proves, for each codec, that older records of a key go, that offsets keep their holes, that
    // a batch keeps base offset, last offset, producer and timestamps, and that records without a
    // key go.
    for codec in Codec::ALL {
        let first = batch(
            10,
            codec,
            &[
                (Some("a"), Some("1")),
                (Some("b"), Some("1")),
                (None, Some("?")),
                (Some("a"), Some("2")),
                (Some("c"), Some("1")),
            ],
            None,
        );
        let second = batch(15, codec, &[(Some("c"), Some("2"))], None);
        let survey = survey(&[first.clone(), second.clone()]);
        let Remains::Part(rest) = remains(&survey, &first, 500) else {
            panic!("{codec:?}: the first batch shrinks");
        };
        let left = [(11, Some("1".to_owned())), (13, Some("2".to_owned()))];
        assert_eq!(records(&rest), left, "{codec:?}");
        let (before, _) = BatchView::split_first(&first).unwrap();
        let (after, _) = BatchView::split_first(&rest).unwrap();
        assert_eq!(after.base_offset(), before.base_offset());
        assert_eq!(after.last_offset(), before.last_offset());
        assert_eq!(after.codec(), Ok(codec));
        assert_eq!(after.partition_leader_epoch(), LeaderEpoch(3));
        assert_eq!((after.base_timestamp(), after.max_timestamp()), (101, 103));
        assert_eq!(remains(&survey, &second, 500), Remains::Whole);
    }
}

#[test]
fn a_batch_of_nothing_new_goes_unless_it_holds_the_end() {
    // Proves that a batch without remaining records goes, that the last one stays as an empty
    // batch over the same offsets, and that an empty batch goes once it is not the last.
    let old = batch(0, Codec::Zstd, &[(Some("a"), Some("1")); 3], Some(4));
    let new = batch(4, Codec::None, &[(Some("a"), Some("2"))], None);
    let survey = survey(&[old.clone(), marker(3, 4, ControlKind::Commit), new]);
    assert_eq!(remains(&survey, &old, 0), Remains::Nothing);
    let mut scratch = Vec::new();
    let Remains::Part(empty) =
        at_once(survey.remains(&old, &POLICY, 0, true, &mut scratch, &mut Passed::default()))
    else {
        panic!("an empty batch");
    };
    assert_eq!(records(&empty), []);
    let (view, _) = BatchView::split_first(&empty).unwrap();
    assert_eq!(
        (view.base_offset(), view.last_offset()),
        (Offset(0), Offset(2))
    );
    assert_eq!(view.producer_id(), Some(ProducerId(4)));
    assert_eq!(view.base_sequence(), 7);
    assert_eq!(view.max_timestamp(), 102);
    assert_eq!(remains(&survey, &empty, 0), Remains::Nothing);
    let mut passed = Passed::default();
    let again = survey.remains(&empty, &POLICY, 0, true, &mut scratch, &mut passed);
    assert_eq!(at_once(again), Remains::Whole);
}

#[test]
fn a_tombstone_stays_for_its_time() {
    // Proves that the first cleaning gives a tombstone its horizon, that it stays until then with
    // its timestamp, and goes after; what it deletes goes at once.
    let value = batch(
        0,
        Codec::Lz4,
        &[(Some("a"), Some("1")), (Some("b"), Some("1"))],
        None,
    );
    let grave = batch(2, Codec::Lz4, &[(Some("a"), None)], None);
    let survey = survey(&[value.clone(), grave.clone()]);
    let Remains::Part(rest) = remains(&survey, &value, 5_000) else {
        panic!("a goes");
    };
    assert_eq!(records(&rest), [(1, Some("1".to_owned()))]);
    let Remains::Part(marked) = remains(&survey, &grave, 5_000) else {
        panic!("the tombstone is given its horizon");
    };
    let (view, _) = BatchView::split_first(&marked).unwrap();
    assert!(view.attributes().has_delete_horizon());
    assert_eq!((view.base_timestamp(), view.max_timestamp()), (6_000, 100));
    let mut scratch = Vec::new();
    let record = view.records(&mut scratch, LIMITS).unwrap().next();
    assert_eq!(record.unwrap().unwrap().timestamp, 100);
    assert_eq!(remains(&survey, &marked, 5_999), Remains::Whole);
    assert_eq!(remains(&survey, &marked, 6_000), Remains::Nothing);
}

#[test]
fn transactions_count_when_they_are_decided() {
    // Proves that committed records supersede, aborted ones go and supersede nothing, and that
    // undecided ones supersede nothing and are surveyed again.
    let plain = batch(
        0,
        Codec::None,
        &[(Some("a"), Some("0")), (Some("b"), Some("0"))],
        None,
    );
    let aborted = batch(2, Codec::None, &[(Some("a"), Some("1"))], Some(1));
    let committed = batch(3, Codec::None, &[(Some("b"), Some("2"))], Some(2));
    let abort = marker(4, 1, ControlKind::Abort);
    let commit = marker(5, 2, ControlKind::Commit);
    let open = batch(6, Codec::None, &[(Some("a"), Some("3"))], Some(1));
    let all = [&plain, &aborted, &committed, &abort, &commit, &open];
    let survey = survey(&all.map(Clone::clone));
    let Remains::Part(rest) = remains(&survey, &plain, 0) else {
        panic!("b goes, a stays");
    };
    assert_eq!(records(&rest), [(0, Some("0".to_owned()))]);
    assert_eq!(remains(&survey, &aborted, 0), Remains::Nothing);
    for stays in [&committed, &open] {
        assert_eq!(remains(&survey, stays, i64::MAX), Remains::Whole);
    }
    assert_eq!((survey.end(), survey.settled_end()), (Offset(7), Offset(6)));
}

#[test]
fn what_cannot_be_read_stays() {
    // Proves that a damaged batch, one that unfolds too far and one behind the survey's end stay
    // as they are, and that a full survey says so.
    let zeros = "0".repeat(65 << 20);
    let bomb = batch(0, Codec::Zstd, &[(Some("a"), Some(&zeros))], None);
    let mut damaged = batch(1, Codec::Gzip, &[(Some("a"), Some("1"))], None);
    let at = damaged.len() - 9;
    damaged[at] ^= 0xff;
    let newest = batch(2, Codec::None, &[(Some("a"), Some("2"))], None);
    let behind = batch(3, Codec::None, &[(Some("a"), Some("3")); 2], None);
    let mut survey = survey(&[bomb.clone(), damaged.clone(), newest]);
    for stays in [&bomb, &damaged, &behind] {
        assert!(remains(&survey, stays, 0) == Remains::Whole);
    }
    survey.keys_max = 2;
    assert!(!survey.is_done());
    at_once(survey.take(&batch(3, Codec::None, &[(Some("b"), None)], None)));
    assert!(survey.is_done());
}

/// A batch whose records say that they stand at these places, from 0 to 63.
fn misplaced(base: i64, records: &[Keyed<'_>], places: &[u8]) -> Vec<u8> {
    let mut bytes = batch(base, Codec::None, records, None);
    let mut at = BATCH_BYTES_MIN;
    for place in places {
        // Length, attributes, timestamp, place: each of one byte in records this short.
        bytes[at + 3] = place * 2;
        at += 1 + usize::from(bytes[at]) / 2;
    }
    bytes
}

#[test]
fn a_batch_whose_records_are_out_of_place_stays_and_decides_nothing() {
    // Proves that offset deltas which do not rise, or which pass the batch's end, are an error of that
    // batch alone: it stays as it is, also without its newest key or under a tombstone's horizon, and
    // nothing that it says of keys counts, not even what stands before the error.
    let keys = [(Some("a"), Some("1")), (Some("b"), None)];
    for places in [[0, 0], [1, 0], [0, 63]] {
        let before = batch(0, Codec::None, &[(Some("a"), Some("0"))], None);
        let wrong = misplaced(1, &keys, &places);
        let values = [(Some("a"), Some("2")), (Some("b"), Some("2"))];
        let behind = batch(3, Codec::None, &values, None);
        let all = survey(&[before.clone(), wrong.clone(), behind.clone()]);
        assert_eq!(remains(&all, &wrong, 0), Remains::Whole, "{places:?}");
        assert_eq!(remains(&all, &behind, 0), Remains::Whole, "{places:?}");
        assert_eq!(remains(&all, &before, 0), Remains::Nothing, "{places:?}");
        let without = survey(&[before.clone(), wrong.clone()]);
        assert_eq!(remains(&without, &before, 0), Remains::Whole, "{places:?}");
        assert_eq!(remains(&without, &wrong, 0), Remains::Whole, "{places:?}");
        assert_eq!(without.settled_end(), Offset(3));
    }
}

#[test]
fn a_tombstone_outlives_what_could_not_be_cleaned() {
    // Proves that a pass which left a batch as it was drops no tombstone behind it, whatever the time:
    // the batch may hold the value that the tombstone deletes. One before the batch goes as ever.
    let zeros = "0".repeat(65 << 20);
    let bomb = batch(2, Codec::Zstd, &[(Some("b"), Some(&zeros))], None);
    let mut damaged = batch(2, Codec::Gzip, &[(Some("b"), Some("1"))], None);
    let at = damaged.len() - 9;
    damaged[at] ^= 0xff;
    let readable = batch(2, Codec::Zstd, &[(Some("b"), Some("1"))], None);
    for (old, left) in [(bomb, 2), (damaged, 2), (readable, 0)] {
        let log = [
            batch(0, Codec::Lz4, &[(Some("a"), Some("1"))], None),
            batch(1, Codec::Lz4, &[(Some("a"), None)], None),
            old,
            batch(3, Codec::Lz4, &[(Some("b"), None)], None),
        ];
        let (log, _) = pass(&log, 10_000);
        let (log, _) = pass(&log, 90_000);
        assert_eq!(log.len(), left);
        let last = log.last().map(|last| records(last));
        assert!(last.is_none_or(|last| last == [(3, None)]));
    }
}

/// What is left of a log after a pass at this time, and what became of each batch.
fn pass(log: &[Vec<u8>], now_ms: i64) -> (Vec<Vec<u8>>, String) {
    let survey = survey(log);
    let (mut passed, mut scratch) = (Passed::default(), Vec::new());
    let mut left = Vec::new();
    let mut told = String::new();
    for bytes in log {
        let remains = survey.remains(bytes, &POLICY, now_ms, false, &mut scratch, &mut passed);
        let remains = at_once(remains);
        told.push(match &remains {
            Remains::Whole => 'w',
            Remains::Part(_) => 'p',
            Remains::Nothing => '-',
        });
        match remains {
            Remains::Whole => left.push(bytes.clone()),
            Remains::Part(rest) => left.push(rest),
            Remains::Nothing => {}
        }
    }
    (left, told)
}

#[test]
fn markers_go_a_while_after_their_records() {
    // Proves Kafka's rule for control batches, pass by pass: a marker stays in the pass in which the
    // last of its transaction's records go, is given its horizon in the next one (delete.retention.ms,
    // 1,000 here), keeps kind and offset, and goes after it; a marker whose records stay stays; and a
    // producer's transactions are told apart, those of several at once too.
    let log = [
        batch(0, Codec::Lz4, &[(Some("a"), Some("1"))], Some(1)),
        batch(1, Codec::Lz4, &[(Some("b"), Some("1"))], Some(2)),
        batch(2, Codec::Lz4, &[(Some("c"), Some("1"))], Some(3)),
        marker(3, 1, ControlKind::Commit),
        marker(4, 2, ControlKind::Abort),
        batch(5, Codec::Lz4, &[(Some("a"), Some("2"))], Some(1)),
        marker(6, 3, ControlKind::Commit),
        marker(7, 1, ControlKind::Commit),
        marker(8, 1, ControlKind::Other(7)),
    ];
    // Records: a of 1 is replaced, b aborted, c stays.
    let (log, told) = pass(&log, 10_000);
    assert_eq!(told, "--wwwwwww");
    let (log, told) = pass(&log, 20_000);
    assert_eq!(told, "wppwwww");
    for (bytes, kind, offset) in [
        (&log[1], ControlKind::Commit, 3),
        (&log[2], ControlKind::Abort, 4),
    ] {
        let (view, _) = BatchView::split_first(bytes).unwrap();
        view.verify().unwrap();
        assert!(view.attributes().is_control() && view.attributes().has_delete_horizon());
        assert_eq!((view.base_timestamp(), view.max_timestamp()), (21_000, 200));
        assert_eq!(view.base_offset(), Offset(offset));
        let read = EndTransactionMarker::of_batch(&view).unwrap().unwrap();
        assert_eq!((read.kind, read.coordinator_epoch), (kind, 1));
    }
    let (log, told) = pass(&log, 20_999);
    assert_eq!(told, "wwwwwww");
    let (log, told) = pass(&log, 21_000);
    assert_eq!(told, "w--wwww");
    let (_, told) = pass(&log, 90_000);
    assert_eq!(told, "wwwww");
}

#[test]
fn a_marker_that_must_stay_stays() {
    // Proves that the last batch of a range stays though its time is over, and that a pass which meets
    // more producers than it can keep track of drops no marker.
    let old = marker(0, 1, ControlKind::Commit);
    let survey = survey(std::slice::from_ref(&old));
    let mut scratch = Vec::new();
    let mut see = |bytes: &[u8], now_ms, must_stay, passed: &mut Passed| {
        at_once(survey.remains(bytes, &POLICY, now_ms, must_stay, &mut scratch, passed))
    };
    let Remains::Part(marked) = see(&old, 0, true, &mut Passed::default()) else {
        panic!("it is given its horizon");
    };
    let must_stay = see(&marked, 5_000, true, &mut Passed::default());
    assert_eq!(must_stay, Remains::Whole);
    assert_eq!(
        see(&marked, 5_000, false, &mut Passed::default()),
        Remains::Nothing
    );
    let mut many = Passed::default();
    for producer in 2..70_000 {
        let one = batch(0, Codec::None, &[(Some("a"), None)], Some(producer));
        many.see(&BatchView::split_first(&one).unwrap().0);
    }
    assert_eq!(see(&marked, 5_000, false, &mut many), Remains::Whole);
}

#[test]
fn a_transaction_larger_than_the_survey_does_not_stop_it() {
    // Proves that a survey which fills up within a transaction goes on until it knows how that ends,
    // without further keys, and that what it knows then holds up to where it was full.
    for (kind, left) in [(ControlKind::Commit, 2), (ControlKind::Abort, 1)] {
        let mut survey = Survey::new(KeyHash::new(Nonce(1)), 3, Offset(0));
        let plain = batch(0, Codec::None, &[(Some("a"), Some("0"))], None);
        at_once(survey.take(&plain));
        let keys = ["a", "b", "c", "d"].map(|key| (Some(key), Some("1")));
        let large: Vec<Vec<u8>> = (0..4)
            .map(|nth| batch(1 + nth, Codec::None, &keys[nth as usize..][..1], Some(9)))
            .collect();
        for one in &large {
            at_once(survey.take(one));
            assert!(!survey.is_done());
        }
        assert_eq!((survey.end(), survey.settled_end()), (Offset(3), Offset(1)));
        at_once(survey.take(&batch(5, Codec::None, &[(Some("z"), Some("1"))], None)));
        at_once(survey.take(&marker(6, 9, kind)));
        assert!(survey.is_done());
        assert_eq!((survey.end(), survey.settled_end()), (Offset(3), Offset(3)));
        let all: Vec<Vec<u8>> = std::iter::once(plain).chain(large).collect();
        let stay = |bytes: &&Vec<u8>| remains(&survey, bytes, 0) == Remains::Whole;
        // With the commit a of the transaction stays, b too; with the abort a of before. What lies
        // behind the survey's end stays.
        let bases: Vec<usize> = (0..5).filter(|at| stay(&&all[*at])).collect();
        let expected: &[usize] = if left == 2 { &[1, 2, 3, 4] } else { &[0, 3, 4] };
        assert_eq!(bases, expected, "{kind:?}");
    }
}

#[test]
fn a_partition_is_due_by_share_or_by_age() {
    // Proves min.cleanable.dirty.ratio (more than that share, as Kafka compares) and
    // max.compaction.lag.ms at their edges, with a lag that is not set, and for logs without age.
    let table = [
        // clean bytes, dirty bytes, oldest timestamps, share, longest lag, due
        (100, 0, &[1][..], 0, 0, false),
        (0, 1, &[], 0, i64::MAX, true),
        (0, 1, &[], 999_999, i64::MAX, true),
        (0, 1, &[], 1_000_000, i64::MAX, false),
        (101, 100, &[], 500_000, i64::MAX, false),
        (100, 100, &[], 500_000, i64::MAX, false),
        (100, 101, &[], 500_000, i64::MAX, true),
        (1_000, 1, &[8_999], 500_000, 1_000, true),
        (1_000, 1, &[9_000], 500_000, 1_000, false),
        (1_000, 1, &[9_900, 8_999, 9_950], 500_000, 1_000, true),
        (1_000, 1, &[-1, 0], 500_000, 1_000, false),
        (1_000, 1, &[1], 500_000, i64::MAX, false),
        (1_000, 1, &[9_999], 500_000, -5, true),
        (1_000, 1, &[20_000], 500_000, 0, false),
    ];
    for (clean_bytes, dirty_bytes, timestamps, share, lag, due) in table {
        let policy = CleanPolicy {
            max_compaction_lag_ms: lag,
            min_cleanable_dirty_ppm: share,
            ..POLICY
        };
        let mut dirt = Dirt {
            clean_bytes,
            dirty_bytes,
            ..Dirt::default()
        };
        for timestamp in timestamps {
            dirt.see_timestamp(*timestamp);
        }
        assert_eq!(policy.is_due(dirt, 10_000), due, "{dirt:?} with {policy:?}");
    }
}

#[test]
fn a_survey_in_vain_is_repeated_over_more_or_later() {
    // Proves when one may follow that decided nothing: over twice as much at once, over more after an
    // hour, over the same never, and from another start always.
    let when = now();
    let undecided = Undecided {
        start: Offset(7),
        bytes: 100,
        when,
    };
    let hour_s = 3_600;
    let table = [
        // start, bytes, seconds later, must wait
        (7, 100, 0, true),
        (7, 199, 0, true),
        (7, 200, 0, false),
        (7, 101, hour_s - 1, true),
        (7, 101, hour_s, false),
        (7, 100, 10 * hour_s, true),
        (7, 50, 10 * hour_s, true),
        (8, 1, 0, false),
    ];
    for (start, bytes, seconds, waits) in table {
        let at = when + Duration::from_secs(seconds);
        let barred = undecided.bars(Offset(start), bytes, at);
        assert_eq!(barred, waits, "{bytes} from {start}, {seconds} s later");
    }
}

#[test]
fn records_younger_than_the_lag_wait() {
    // Proves min.compaction.lag.ms: the newest timestamp that may be cleaned; without a lag there is
    // no such limit, also for timestamps that lie ahead.
    let table = [
        (0, i64::MAX),
        (-1, i64::MAX),
        (1, 9_999),
        (4_000, 6_000),
        (i64::MAX, 10_000 - i64::MAX),
    ];
    for (lag, youngest) in table {
        let policy = CleanPolicy {
            min_compaction_lag_ms: lag,
            ..POLICY
        };
        assert_eq!(policy.youngest(10_000), youngest, "lag {lag}");
    }
}
