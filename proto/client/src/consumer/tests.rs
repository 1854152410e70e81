//! Tables of answers in, records and positions out; no broker, no clock.

use super::*;
use streambus_proto::ids::{LeaderEpoch, ProducerEpoch};
use streambus_proto::records::{BatchBuilder, Codec, NewRecord, set_base_offset};

const LEADER: BrokerId = BrokerId(1);

fn partition() -> TopicPartition {
    TopicPartition::new("t", 0)
}

fn consumer(config: ConsumerConfig, start: Start) -> Consumer {
    let mut consumer = Consumer::new(config);
    consumer.assign(partition(), start);
    consumer
}

/// A batch of records whose values are their offsets.
fn batch(base_offset: i64, count: i64, producer: Option<i64>) -> Vec<u8> {
    let mut builder = BatchBuilder::new(Codec::Lz4);
    if let Some(id) = producer {
        builder.set_producer(ProducerId(id), ProducerEpoch(0), 0);
        builder.set_transactional();
    }
    builder.set_place(Offset(base_offset), LeaderEpoch(0));
    for offset in base_offset..base_offset + count {
        let value = offset.to_string();
        builder.push(&NewRecord {
            value: Some(value.as_bytes()),
            ..NewRecord::default()
        });
    }
    builder.build()
}

fn marker(offset: i64, producer: i64, kind: ControlKind) -> Vec<u8> {
    let marker = EndTransactionMarker {
        kind,
        coordinator_epoch: 0,
    };
    let mut bytes = marker.to_batch(ProducerId(producer), ProducerEpoch(0), 0);
    set_base_offset(&mut bytes, Offset(offset));
    bytes
}

fn read(consumer: &mut Consumer, fetched: Fetched<'_>) -> Result<Vec<i64>, ConsumeError> {
    let mut offsets = vec![];
    consumer.fetched(&partition(), fetched, |_, record| {
        let value = std::str::from_utf8(record.value.unwrap()).unwrap();
        assert_eq!(value, record.offset.0.to_string());
        offsets.push(record.offset.0);
    })?;
    Ok(offsets)
}

#[test]
fn begins_where_it_was_told() {
    // Each start asks for its offset first, or for none, and reads from what was found.
    let table = [
        (Start::Earliest, Some(EARLIEST)),
        (Start::Latest, Some(LATEST)),
        (Start::Timestamp(1_234), Some(1_234)),
        (Start::Offset(Offset(5)), None),
    ];
    for (start, asks) in table {
        let mut consumer = consumer(ConsumerConfig::default(), start);
        let lookups = consumer.take_lookups(|_| Some(LEADER), 0);
        let asked = lookups.get(&LEADER).map(|lookups| lookups[0].timestamp);
        assert_eq!(asked, asks, "{start:?}");
        assert!(
            consumer.take_lookups(|_| Some(LEADER), 0).is_empty(),
            "one at a time"
        );
        consumer.found(&partition(), Some(Offset(5)));
        let fetches = consumer.take_fetches(|_| Some(LEADER), 0);
        assert_eq!(fetches[&LEADER], [(partition(), Offset(5))]);
        assert!(
            consumer.take_fetches(|_| Some(LEADER), 0).is_empty(),
            "one at a time"
        );
    }
}

#[test]
fn a_time_after_the_last_record_reads_what_comes_next() {
    // No record is late enough: it goes on behind the last.
    let mut consumer = consumer(ConsumerConfig::default(), Start::Timestamp(9_999));
    consumer.take_lookups(|_| Some(LEADER), 0);
    consumer.found(&partition(), None);
    let lookups = consumer.take_lookups(|_| Some(LEADER), 0);
    assert_eq!(lookups[&LEADER][0].timestamp, LATEST);
}

#[test]
fn records_before_the_position_are_left_out_and_a_cut_batch_waits() {
    // A fetch returns the whole batch around the position, and may cut the last one.
    let mut consumer = consumer(ConsumerConfig::default(), Start::Offset(Offset(3)));
    let mut records = [batch(0, 5, None), batch(5, 2, None), batch(7, 9, None)].concat();
    records.truncate(records.len() - 10);
    let fetched = Fetched {
        records: &records,
        high_watermark: Some(Offset(16)),
        ..Default::default()
    };
    assert_eq!(read(&mut consumer, fetched), Ok(vec![3, 4, 5, 6]));
    assert_eq!(consumer.position(&partition()), Some(Offset(7)));
    assert!(!consumer.at_end());
    let rest = batch(7, 9, None);
    let fetched = Fetched {
        records: &rest,
        high_watermark: Some(Offset(16)),
        ..Default::default()
    };
    assert_eq!(read(&mut consumer, fetched).unwrap().len(), 9);
    assert!(consumer.at_end());
}

#[test]
fn a_damaged_batch_is_told_and_not_passed() {
    // What cannot be read stops the position before it; what came before was handed on.
    let mut consumer = consumer(ConsumerConfig::default(), Start::Offset(Offset(0)));
    let mut records = [batch(0, 2, None), batch(2, 2, None)].concat();
    *records.last_mut().unwrap() ^= 1;
    let failed = read(
        &mut consumer,
        Fetched {
            records: &records,
            ..Default::default()
        },
    );
    assert!(
        matches!(
            failed,
            Err(ConsumeError::Records {
                position: Offset(2),
                ..
            })
        ),
        "{failed:?}"
    );
    assert_eq!(consumer.position(&partition()), Some(Offset(2)));
}

#[test]
fn aborted_transactions_are_left_out_when_reading_committed() {
    // Two producers interleaved, one aborts twice, its third transaction commits.
    let records = [
        batch(0, 1, Some(1)),
        batch(1, 1, Some(2)),
        batch(2, 1, None),
        marker(3, 1, ControlKind::Abort),
        marker(4, 2, ControlKind::Commit),
        batch(5, 1, Some(1)),
        marker(6, 1, ControlKind::Abort),
        batch(7, 1, Some(1)),
        marker(8, 1, ControlKind::Commit),
    ]
    .concat();
    let begun = |offset| AbortedTransaction {
        first_offset: Offset(offset),
        producer_id: ProducerId(1),
    };
    let aborted = [begun(5), begun(0)];
    let table = [
        (Isolation::ReadCommitted, vec![1, 2, 7]),
        (Isolation::ReadUncommitted, vec![0, 1, 2, 5, 7]),
    ];
    for (isolation, expected) in table {
        let config = ConsumerConfig {
            isolation,
            ..ConsumerConfig::default()
        };
        let mut consumer = consumer(config, Start::Offset(Offset(0)));
        let fetched = Fetched {
            records: &records,
            aborted: &aborted,
            ..Default::default()
        };
        assert_eq!(read(&mut consumer, fetched), Ok(expected), "{isolation:?}");
        assert_eq!(
            consumer.position(&partition()),
            Some(Offset(9)),
            "markers are passed"
        );
    }
}

#[test]
fn out_of_range_is_reset_or_told() {
    // A position that retention removed is looked up again, or reported, as configured.
    let code = ErrorCode::OffsetOutOfRange;
    let table = [
        (Reset::Earliest, Some(EARLIEST)),
        (Reset::Latest, Some(LATEST)),
        (Reset::Fail, None),
    ];
    for (reset, asks) in table {
        let config = ConsumerConfig {
            reset,
            ..ConsumerConfig::default()
        };
        let mut consumer = consumer(config, Start::Offset(Offset(3)));
        consumer.take_fetches(|_| Some(LEADER), 0);
        let told = consumer.failed(&partition(), code, 0);
        let lookups = consumer.take_lookups(|_| Some(LEADER), 0);
        assert_eq!(
            lookups.get(&LEADER).map(|lookups| lookups[0].timestamp),
            asks
        );
        match asks {
            Some(_) => assert_eq!(told, Ok(Reaction::Retry)),
            None => assert_eq!(told, Err(ConsumeError::OutOfRange(Offset(3)))),
        }
    }
}

#[test]
fn errors_pause_and_lost_answers_are_asked_for_again() {
    // After an error or silence the same is asked again, after a pause, not in a loop.
    let mut consumer = consumer(ConsumerConfig::default(), Start::Offset(Offset(3)));
    for round in 0..2_u64 {
        let now = round * 100;
        assert_eq!(consumer.take_fetches(|_| Some(LEADER), now).len(), 1);
        if round == 0 {
            let told = consumer.failed(&partition(), ErrorCode::NotLeaderOrFollower, now);
            assert_eq!(told, Ok(Reaction::RefreshAndRetry));
        } else {
            consumer.lost(&partition(), now);
        }
        assert!(consumer.take_fetches(|_| Some(LEADER), now + 99).is_empty());
        assert_eq!(consumer.wake_at_ms(), Some(now + 100));
    }
    // An answer that does come ends the pause.
    read(&mut consumer, Fetched::default()).unwrap();
    assert_eq!(consumer.take_fetches(|_| Some(LEADER), 101).len(), 1);
}
