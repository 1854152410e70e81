//! A disk that fills up (fault rows 13 and 14): refused before it is full, alive when it is, back without a
//! restart when there is space.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use streambus_client::blocking::{Acks, Client, ClientConfig};
use streambus_client::consumer::{ConsumerConfig, Start};
use streambus_client::error::{ClientError, Refusal};
use streambus_client::partition::TopicPartition;
use streambus_proto::error_code::ErrorCode;
use streambus_proto::records::{BatchBuilder, Codec, NewRecord};

use crate::process::Broker;
use crate::volume::{Volume, or_skip};

const VOLUME_BYTES: u64 = 512 << 20;
/// What the brokers here keep free, unless a test says otherwise.
const MIN_FREE_BYTES: u64 = 64 << 20;
const VALUE_BYTES: usize = 256 << 10;
/// More than enough on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);

fn connect(broker: &Broker) -> Client {
    Client::connect(&broker.core.to_string(), ClientConfig::default()).unwrap()
}

/// One batch of one record, which begins with its number.
fn batch(number: u64) -> Vec<u8> {
    let mut value = vec![0; VALUE_BYTES];
    value[..8].copy_from_slice(&number.to_le_bytes());
    let mut builder = BatchBuilder::new(Codec::None);
    // Retention must not take it for old.
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    builder.push(&NewRecord {
        timestamp: i64::try_from(since.as_millis()).unwrap(),
        value: Some(&value),
        ..NewRecord::default()
    });
    builder.build()
}

fn produce(client: &mut Client, to: &TopicPartition, number: u64) -> Result<i64, Refusal> {
    match client.produce_batch(to, &batch(number), Acks::All) {
        Ok(produced) => Ok(produced.unwrap().base_offset.0),
        Err(ClientError::Refused { refusal, .. }) => Err(refusal),
        Err(other) => panic!("batch {number} to {to}: {other}"),
    }
}

/// Produces until it is refused; returns the records taken, and the refusal.
fn produce_until_refused(client: &mut Client, to: &TopicPartition, from: u64) -> (u64, Refusal) {
    for number in from.. {
        match produce(client, to, number) {
            Ok(offset) => assert_eq!(offset, i64::try_from(number).unwrap()),
            Err(refusal) => return (number, refusal),
        }
    }
    unreachable!("the volume is smaller than all numbers");
}

/// Produces `number` until it is taken.
fn produce_when_taken(client: &mut Client, to: &TopicPartition, number: u64) {
    let deadline = Instant::now() + PATIENCE;
    while let Err(refusal) = produce(client, to, number) {
        assert_eq!(refusal.code, ErrorCode::KafkaStorageError, "{refusal}");
        assert!(Instant::now() < deadline, "never taken again: {refusal}");
    }
}

/// Reads `count` records and checks that each stands at its offset.
fn read_all(client: &mut Client, from: &TopicPartition, count: u64) {
    let mut consumer = client.consumer(ConsumerConfig::default());
    consumer.assign(from.clone(), Start::Earliest);
    let mut next = 0;
    while next < count {
        let got = consumer.poll(&mut |_, _, record| {
            let (number, _) = record.value.unwrap().split_first_chunk().unwrap();
            assert_eq!(u64::from_le_bytes(*number), next);
            assert_eq!(record.offset.0, i64::try_from(next).unwrap());
            next += 1;
        });
        got.unwrap();
    }
    assert_eq!(next, count);
}

/// Waits until the volume has this much free.
fn await_free(volume: &Volume, bytes: u64) {
    let deadline = Instant::now() + PATIENCE;
    while volume.free_bytes() < bytes {
        assert!(
            Instant::now() < deadline,
            "{} bytes free, {bytes} were to come back",
            volume.free_bytes()
        );
    }
}

#[test]
fn produce_is_refused_before_the_disk_is_full_and_taken_again_after() {
    // Proves storage.min_free_bytes on ext4: the refusal comes while space is left, fetch and deletion go on,
    // and produce is taken again by the same process when space has come back.
    let name = "produce_is_refused_before_the_disk_is_full_and_taken_again_after";
    let Some(volume) = or_skip(name, Volume::ext4(VOLUME_BYTES)) else {
        return;
    };
    let broker = Broker::start(&volume.path(), &[]);
    let mut client = connect(&broker);
    for topic in ["large", "kept"] {
        client.create_topic(topic, 1, 1).unwrap();
        client.wait_for_topic(topic).unwrap();
    }
    let (large, kept) = (
        TopicPartition::new("large", 0),
        TopicPartition::new("kept", 0),
    );
    assert_eq!(produce(&mut client, &kept, 0), Ok(0));
    let (taken, refusal) = produce_until_refused(&mut client, &large, 0);
    assert_eq!(refusal.code, ErrorCode::KafkaStorageError);
    let said = refusal.message.unwrap_or_default();
    assert!(said.contains("storage.min_free_bytes=67108864"), "{said}");
    assert!(
        volume.free_bytes() > MIN_FREE_BYTES / 4,
        "{} bytes free at the refusal",
        volume.free_bytes()
    );
    assert!(taken > 400, "{taken} batches of 256 KiB were taken");
    // Whatever the partition. A merge that ends may have given some space back meanwhile.
    let (kept_taken, refused) = produce_until_refused(&mut client, &kept, 1);
    assert_eq!(refused.code, ErrorCode::KafkaStorageError);
    read_all(&mut client, &large, taken);
    let outcomes = client.delete_topics(&["large"]).unwrap();
    assert!(outcomes.iter().all(|(_, outcome)| outcome.is_ok()));
    produce_when_taken(&mut client, &kept, kept_taken);
    read_all(&mut client, &kept, kept_taken + 1);
}

#[test]
fn a_full_disk_costs_no_acknowledged_record_and_no_restart() {
    // Proves rows 13 and 14 on tmpfs: another program takes the last byte; what was acknowledged is read,
    // produce is refused with 56, topics are deleted and their space comes back, with the last byte still
    // taken; and all of it goes on in one process, and in the next one.
    let name = "a_full_disk_costs_no_acknowledged_record_and_no_restart";
    let Some(volume) = or_skip(name, Volume::tmpfs(VOLUME_BYTES)) else {
        return;
    };
    let broker = Broker::start(&volume.path(), &[]);
    let mut client = connect(&broker);
    for topic in ["large", "kept"] {
        client.create_topic(topic, 1, 1).unwrap();
        client.wait_for_topic(topic).unwrap();
    }
    let (large, kept) = (
        TopicPartition::new("large", 0),
        TopicPartition::new("kept", 0),
    );
    for number in 0..400 {
        assert!(produce(&mut client, &large, number).is_ok());
    }
    for number in 0..100 {
        assert!(produce(&mut client, &kept, number).is_ok());
    }
    let ballast = volume.fill();
    assert!(volume.free_bytes() < 64 << 10, "{}", volume.free_bytes());
    let (taken, refusal) = produce_until_refused(&mut client, &kept, 100);
    assert_eq!(refusal.code, ErrorCode::KafkaStorageError);
    read_all(&mut client, &large, 400);
    read_all(&mut client, &kept, taken);
    let outcomes = client.delete_topics(&["large"]).unwrap();
    assert!(outcomes.iter().all(|(_, outcome)| outcome.is_ok()));
    // 400 batches are 100 MiB; the part that never left memory holds no table.
    await_free(&volume, 60 << 20);
    broker.kill();
    let more = volume.fill();
    let broker = Broker::start(&volume.path(), &[]);
    let mut client = connect(&broker);
    read_all(&mut client, &kept, taken);
    drop((ballast, more));
    produce_when_taken(&mut client, &kept, taken);
    read_all(&mut client, &kept, taken + 1);
}
