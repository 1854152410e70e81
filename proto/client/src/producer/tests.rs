//! Tables of events in, batches and deliveries out; no broker, no clock.

use super::*;
use streambus_proto::records::BatchView;

const LEADER: BrokerId = BrokerId(1);

fn config() -> ProducerConfig {
    ProducerConfig {
        batch_bytes_max: 200,
        linger_ms: 10,
        ..ProducerConfig::default()
    }
}

fn producer(config: ProducerConfig) -> Producer {
    let mut producer = Producer::new(config);
    if config.idempotent {
        assert!(
            producer
                .set_identity(ProducerId(7), ProducerEpoch(0))
                .is_empty()
        );
    }
    producer
}

fn append(producer: &mut Producer, value: &[u8], now_ms: u64) -> Ticket {
    let record = NewRecord {
        value: Some(value),
        ..NewRecord::default()
    };
    producer
        .append(&TopicPartition::new("t", 0), &record, now_ms)
        .unwrap()
}

fn take(producer: &mut Producer, now_ms: u64) -> Vec<ToSend> {
    producer.take_ready(|_| Some(LEADER), false, now_ms)
}

fn sequences(sends: &[ToSend]) -> Vec<i32> {
    sends
        .iter()
        .map(|send| BatchView::produced(&send.bytes).unwrap().base_sequence())
        .collect()
}

/// Three batches of one large record each, sent and in flight.
fn three_in_flight(config: ProducerConfig) -> (Producer, Vec<ToSend>) {
    let mut producer = producer(config);
    for _ in 0..3 {
        append(&mut producer, &[b'x'; 120], 0);
    }
    let sends = take(&mut producer, 10);
    assert_eq!(sends.len(), 3);
    (producer, sends)
}

#[test]
fn records_share_a_batch_until_it_is_full_or_due() {
    // Small records gather for the linger time; a full batch goes at once; tickets count up.
    let mut producer = producer(config());
    let first = append(&mut producer, b"a", 0);
    let second = append(&mut producer, b"b", 5);
    assert_eq!((first.batch, first.offset_delta), (second.batch, 0));
    assert_eq!(second.offset_delta, 1);
    assert!(take(&mut producer, 9).is_empty());
    assert_eq!(producer.wake_at_ms(), Some(10));
    append(&mut producer, &[b'x'; 150], 9);
    assert_eq!(take(&mut producer, 9).len(), 1, "the full one");
    let due = take(&mut producer, 19);
    assert_eq!(sequences(&due), [2]);
    assert!(take(&mut producer, 100).is_empty(), "all in flight");
}

#[test]
fn the_buffer_is_bounded_and_freed_by_deliveries() {
    // A full buffer refuses, and takes again once something was stored.
    let config = ProducerConfig {
        buffered_bytes_max: 500,
        record_bytes_max: 400,
        ..config()
    };
    let mut producer = producer(config);
    let partition = TopicPartition::new("t", 0);
    let record = NewRecord {
        value: Some(&[b'x'; 150]),
        ..NewRecord::default()
    };
    let mut taken = 0;
    let refused = loop {
        match producer.append(&partition, &record, 0) {
            Ok(_) => taken += 1,
            Err(error) => break error,
        }
    };
    assert_eq!((taken, refused), (2, AppendError::Full));
    let huge = NewRecord {
        value: Some(&[b'x'; 500]),
        ..NewRecord::default()
    };
    assert!(matches!(
        producer.append(&partition, &huge, 0),
        Err(AppendError::TooLarge(_))
    ));
    for send in take(&mut producer, 10) {
        let offset = Some(Offset(3));
        let end = producer
            .finished(send.batch, BatchResult::Stored(offset), 11)
            .unwrap();
        assert_eq!((end.record_count, end.result), (1, Ok(offset)));
    }
    assert_eq!((producer.buffered_bytes(), producer.is_idle()), (0, true));
    assert!(producer.append(&partition, &record, 12).is_ok());
}

#[test]
fn a_lost_answer_is_retried_alone_under_its_sequence() {
    // After a connection broke, batches go again one by one, in order, with the same bytes.
    let (mut producer, sends) = three_in_flight(config());
    assert_eq!(sequences(&sends), [0, 1, 2]);
    for send in &sends {
        assert_eq!(producer.finished(send.batch, BatchResult::Lost, 20), None);
    }
    assert!(take(&mut producer, 119).is_empty(), "paused");
    for sent in &sends {
        let again = take(&mut producer, 120);
        assert_eq!(again.len(), 1);
        assert_eq!(again[0].bytes, sent.bytes);
        let stored = BatchResult::Refused(ErrorCode::DuplicateSequenceNumber);
        assert_eq!(
            producer.finished(sent.batch, stored, 121).unwrap().result,
            Ok(None)
        );
    }
    assert!(producer.is_idle());
}

#[test]
fn a_batch_behind_a_failed_one_follows_it() {
    // The broker refuses 1 and 2 as out of order because 0 failed: all go again, in order.
    let (mut producer, sends) = three_in_flight(config());
    let codes = [
        ErrorCode::NotLeaderOrFollower,
        ErrorCode::OutOfOrderSequenceNumber,
        ErrorCode::OutOfOrderSequenceNumber,
    ];
    for (send, code) in sends.iter().zip(codes) {
        assert_eq!(
            producer.finished(send.batch, BatchResult::Refused(code), 20),
            None
        );
    }
    for expected in 0..3 {
        let again = take(&mut producer, 120);
        assert_eq!(sequences(&again), [expected]);
        producer
            .finished(again[0].batch, BatchResult::Stored(Some(Offset(0))), 121)
            .unwrap();
    }
}

#[test]
fn a_refused_batch_ends_the_identity_and_no_other_batch() {
    // One batch is refused for good: the ones behind it get new sequences under a new identity.
    let (mut producer, sends) = three_in_flight(config());
    let refused = BatchResult::Refused(ErrorCode::MessageTooLarge);
    let end = producer.finished(sends[0].batch, refused, 20).unwrap();
    assert_eq!(
        end.result,
        Err(DeliveryError::Refused(ErrorCode::MessageTooLarge))
    );
    assert!(!producer.needs_identity(), "two are in flight");
    assert!(take(&mut producer, 1_000).is_empty());
    let behind = BatchResult::Refused(ErrorCode::OutOfOrderSequenceNumber);
    // The second is now the first of its queue, yet it was refused because of the gap.
    let second = producer.finished(sends[1].batch, behind, 21);
    let third = producer.finished(sends[2].batch, behind, 22);
    assert_eq!((second, third), (None, None));
    assert!(producer.needs_identity());
    assert!(
        producer
            .set_identity(ProducerId(7), ProducerEpoch(1))
            .is_empty()
    );
    let again = take(&mut producer, 1_000);
    let view = BatchView::produced(&again[0].bytes).unwrap();
    assert_eq!(
        (view.producer_epoch(), view.base_sequence()),
        (ProducerEpoch(1), 0)
    );
}

#[test]
fn what_may_be_stored_is_never_sent_under_another_identity() {
    // The fate of a lost batch stays unknown; a batch never answered for is not duplicated.
    let (mut producer, sends) = three_in_flight(config());
    producer
        .finished(
            sends[0].batch,
            BatchResult::Refused(ErrorCode::InvalidRecord),
            20,
        )
        .unwrap();
    assert_eq!(
        producer.finished(sends[1].batch, BatchResult::Lost, 20),
        None
    );
    let behind = BatchResult::Refused(ErrorCode::OutOfOrderSequenceNumber);
    assert_eq!(producer.finished(sends[2].batch, behind, 20), None);
    let given_up = producer.set_identity(ProducerId(8), ProducerEpoch(0));
    assert_eq!(given_up.len(), 1);
    assert_eq!(given_up[0].batch, sends[1].batch);
    assert_eq!(given_up[0].result, Err(DeliveryError::Unknown));
    assert_eq!(sequences(&take(&mut producer, 1_000)), [0]);
}

#[test]
fn a_broker_that_stopped_waiting_may_have_stored_it() {
    // Answers that leave it open, and a lost one, make a later end an unknown one, never a refusal.
    for first in [
        BatchResult::Lost,
        BatchResult::Refused(ErrorCode::RequestTimedOut),
        BatchResult::Refused(ErrorCode::NotEnoughReplicasAfterAppend),
        BatchResult::Refused(ErrorCode::KafkaStorageError),
        BatchResult::Refused(ErrorCode::UnknownTopicOrPartition),
    ] {
        let refused = BatchResult::Refused(ErrorCode::MessageTooLarge);
        let (mut producer, sends) = three_in_flight(config());
        assert_eq!(producer.finished(sends[0].batch, first, 20), None);
        let end = producer.expire(1_000_000).remove(0);
        assert_eq!(end.result, Err(DeliveryError::Unknown), "{first:?}");
        let (mut producer, sends) = three_in_flight(config());
        for send in &sends {
            producer.finished(send.batch, first, 20);
        }
        let again = take(&mut producer, 1_000);
        let end = producer.finished(again[0].batch, refused, 1_010).unwrap();
        assert_eq!(end.result, Err(DeliveryError::Unknown), "{first:?}");
    }
}

#[test]
fn batches_are_given_up_in_time() {
    // What was never sent expires; what was sent and lost is of unknown fate; both are told.
    let config = ProducerConfig {
        delivery_timeout_ms: 500,
        ..config()
    };
    let mut producer = producer(config);
    append(&mut producer, b"a", 0);
    let sent = take(&mut producer, 10);
    producer.finished(sent[0].batch, BatchResult::Lost, 20);
    append(&mut producer, b"b", 30);
    assert!(producer.expire(499).is_empty());
    let expired = producer.expire(500);
    assert_eq!(expired.len(), 1);
    assert_eq!(expired[0].result, Err(DeliveryError::Unknown));
    assert!(producer.needs_identity());
    let expired = producer.expire(530);
    assert_eq!(expired[0].result, Err(DeliveryError::Expired));
    assert!(producer.is_idle());
}

#[test]
fn without_a_leader_nothing_is_sent_and_nothing_is_lost() {
    // Batches of a leaderless partition wait, and name the partition to ask about.
    let mut producer = producer(ProducerConfig {
        idempotent: false,
        ..config()
    });
    append(&mut producer, b"a", 0);
    assert!(producer.take_ready(|_| None, true, 1).is_empty());
    assert_eq!(producer.waiting_partitions().count(), 1);
    let sends = producer.take_ready(|_| Some(LEADER), true, 2);
    assert_eq!(sends.len(), 1);
    assert_eq!(
        BatchView::produced(&sends[0].bytes).unwrap().producer_id(),
        None
    );
}

#[test]
fn a_new_leader_gets_nothing_before_the_one_before_has_answered() {
    // Proves that batches do not overtake those that are under way to an earlier leader, and that they go to
    // the new one once all of those have ended.
    let (mut producer, sends) = three_in_flight(config());
    append(&mut producer, &[b'x'; 120], 20);
    let elsewhere = BrokerId(LEADER.0 + 1);
    for sent in sends {
        assert!(
            producer
                .take_ready(|_| Some(elsewhere), false, 30)
                .is_empty()
        );
        producer.finished(sent.batch, BatchResult::Stored(None), 30);
    }
    let sends = producer.take_ready(|_| Some(elsewhere), false, 30);
    assert_eq!(sends.len(), 1);
    assert_eq!(sends[0].broker, elsewhere);
}

#[test]
fn stale_answers_are_ignored() {
    // An answer for a batch that ended, or was not sent again yet, changes nothing.
    let (mut producer, sends) = three_in_flight(config());
    let stored = BatchResult::Stored(Some(Offset(1)));
    assert!(producer.finished(sends[0].batch, stored, 20).is_some());
    assert!(producer.finished(sends[0].batch, stored, 20).is_none());
    assert!(
        producer
            .finished(sends[1].batch, BatchResult::Lost, 20)
            .is_none()
    );
    assert!(producer.finished(sends[1].batch, stored, 20).is_none());
    assert_eq!(producer.in_flight(), 1);
}

#[test]
fn what_is_given_up_is_told_apart_by_whether_it_may_be_stored() {
    // Giving up takes what is not in flight, however young: what was sent and not answered may be stored, what was
    // not sent is not.
    let (mut producer, sends) = three_in_flight(config());
    assert_eq!(
        producer.finished(sends[0].batch, BatchResult::Lost, 11),
        None
    );
    append(&mut producer, b"open", 12);
    let results = |ended: Vec<Delivery>| -> Vec<_> {
        ended.into_iter().map(|delivery| delivery.result).collect()
    };
    let (unknown, expired) = (Err(DeliveryError::Unknown), Err(DeliveryError::Expired));
    assert_eq!(results(producer.give_up()), [unknown, expired]);
    assert!(!producer.is_idle(), "two are in flight");
    for send in &sends[1..] {
        assert_eq!(producer.finished(send.batch, BatchResult::Lost, 13), None);
    }
    assert_eq!(results(producer.give_up()), [unknown, unknown]);
    assert_eq!((producer.is_idle(), producer.buffered_bytes()), (true, 0));
}
