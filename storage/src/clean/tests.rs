//! What cleaning keeps of a batch, and when a partition is due.

use streambus_proto::ids::{LeaderEpoch, ProducerEpoch, ProducerId};
use streambus_proto::records::Codec;

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

fn survey(batches: &[Vec<u8>]) -> Survey {
    let mut survey = Survey::new(KeyHash::new(Nonce(1)), 1_000, Offset(0));
    for bytes in batches {
        survey.take(bytes);
    }
    survey
}

fn remains(survey: &Survey, bytes: &[u8], now_ms: i64) -> Remains {
    survey.remains(bytes, &POLICY, now_ms, false, &mut Vec::new())
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
    let Remains::Part(empty) = survey.remains(&old, &POLICY, 0, true, &mut scratch) else {
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
    let again = survey.remains(&empty, &POLICY, 0, true, &mut scratch);
    assert_eq!(again, Remains::Whole);
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
    // Proves that committed records supersede, aborted ones go and supersede nothing, undecided
    // ones supersede nothing and are surveyed again, and that markers stay.
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
    for stays in [&committed, &abort, &commit, &open] {
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
    assert!(!survey.is_full());
    survey.take(&batch(3, Codec::None, &[(Some("b"), None)], None));
    assert!(survey.is_full());
}

#[test]
fn a_partition_is_due_by_share_or_by_age() {
    // Proves min.cleanable.dirty.ratio and max.compaction.lag.ms at their edges.
    let cases = [
        (100, 0, -1, false),
        (0, 1, -1, true),
        (101, 100, -1, false),
        (100, 100, -1, true),
        (1_000, 1, 8_999, true),
        (1_000, 1, 9_000, false),
    ];
    let policy = CleanPolicy {
        max_compaction_lag_ms: 1_000,
        ..POLICY
    };
    for (clean_bytes, dirty_bytes, oldest_timestamp, due) in cases {
        let dirt = Dirt {
            clean_bytes,
            dirty_bytes,
            oldest_timestamp,
        };
        assert_eq!(policy.is_due(dirt, 10_000), due, "{dirt:?}");
    }
}
