//! Messages of 50 MiB, with a stock client.

use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};

use crate::process::Broker;
use crate::records::create;
use crate::wire::Wire;

const MESSAGE_BYTES: usize = 50 << 20;
/// Longer than any correct run on a busy machine.
const DEADLINE: Duration = Duration::from_mins(3);

#[test]
fn messages_of_50_mib_need_one_setting_of_their_topic() {
    // Proves that max.message.bytes of the topic is enough, with the default sizes of log and memory: such
    // messages come back as they were, before and after a restart.
    let home = tempfile::tempdir().unwrap();
    let defaults = [
        ("STREAMBUS_NODE__CORES", "1"),
        ("STREAMBUS_STORAGE__WAL_FILE_BYTES", "67108864"),
        ("STREAMBUS_STORAGE__MEMTABLE_BYTES", "67108864"),
    ];
    let broker = Broker::start(home.path(), &defaults);
    let mut wire = Wire::connect(broker.core);
    create(&mut wire, "large", &[("max.message.bytes", "60000000")]);
    let message: Vec<u8> = (0..MESSAGE_BYTES)
        .map(|at| u8::try_from(at / 7 % 251).unwrap())
        .collect();
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", broker.core.to_string())
        .set("enable.idempotence", "true")
        .set("message.max.bytes", "60000000")
        .create()
        .unwrap();
    for _ in 0..2 {
        let record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to("large").payload(&message);
        producer.send(record).map_err(|(error, _)| error).unwrap();
        producer.flush(DEADLINE).unwrap();
    }
    read_back(&broker, &message);
    broker.kill();
    let broker = Broker::start(home.path(), &defaults);
    read_back(&broker, &message);
}

/// Reads both messages from the beginning.
fn read_back(broker: &Broker, message: &[u8]) {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", broker.core.to_string())
        .set("group.id", "none")
        .set("enable.auto.commit", "false")
        .set("fetch.message.max.bytes", "60000000")
        .set("fetch.max.bytes", "60000000")
        .set("receive.message.max.bytes", "70000000")
        .create()
        .unwrap();
    let mut from = TopicPartitionList::new();
    from.add_partition_offset("large", 0, Offset::Beginning)
        .unwrap();
    consumer.assign(&from).unwrap();
    let deadline = Instant::now() + DEADLINE;
    let mut found = 0;
    while found < 2 {
        assert!(Instant::now() < deadline, "{found} of 2 messages came");
        let Some(next) = consumer.poll(Duration::from_millis(200)) else {
            continue;
        };
        let next = next.unwrap();
        assert_eq!(next.offset(), found);
        assert!(next.payload() == Some(message), "message {found} differs");
        found += 1;
    }
}
