//! Record batches that no broker may take (fault rows 32 and 33), and what the producer is told.

use std::time::{Duration, Instant};

use streambus_client::blocking::{Client, ClientConfig};
use streambus_proto::messages::{
    CreateTopicsRequest, ListOffsetsRequest, ProduceRequest, ProduceResponse,
    create_topics_request as create, list_offsets_request as list, produce_request as produce,
    produce_response,
};
use streambus_proto::records::{BatchBuilder, Codec, NewRecord};
use streambus_proto::wire::Records;

use crate::process::{Broker, resident, resident_at_rest};
use crate::wire::Wire;

/// Produce by topic name, with record errors: the newest version that has both.
pub(crate) const PRODUCE: i16 = 12;
const CORRUPT_MESSAGE: i16 = 2;
const MESSAGE_TOO_LARGE: i16 = 10;
const INVALID_TIMESTAMP: i16 = 32;
const UNSUPPORTED_FOR_MESSAGE_FORMAT: i16 = 43;
const INVALID_TXN_STATE: i16 = 48;
const UNSUPPORTED_COMPRESSION_TYPE: i16 = 76;
const INVALID_RECORD: i16 = 87;

/// More than enough on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);

/// What a partition of a produce answer says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) code: i16,
    pub(crate) base_offset: i64,
    pub(crate) log_append_time_ms: i64,
    pub(crate) records: Vec<(i32, String)>,
    message: Option<String>,
}

fn request<'a>(topic: &'a str, batch: &'a [u8]) -> ProduceRequest<'a> {
    let partition = produce::PartitionProduceData {
        index: 0,
        records: Records::Bytes(batch),
    };
    ProduceRequest {
        transactional_id: None,
        acks: -1,
        timeout_ms: 10_000,
        topic_data: vec![produce::TopicProduceData {
            name: topic.into(),
            partition_data: vec![partition].into(),
            ..produce::TopicProduceData::default()
        }]
        .into(),
    }
}

/// What the answer to a request for one partition says.
fn told(answer: &ProduceResponse<'_>) -> Told {
    let topic = answer.responses.iter().next().unwrap();
    let told = topic.partition_responses.iter().next().unwrap();
    let name = |error: produce_response::BatchIndexAndErrorMessage<'_>| {
        let why = error.batch_index_error_message.unwrap_or_default();
        (error.batch_index, why.into_owned())
    };
    Told {
        code: told.error_code,
        base_offset: told.base_offset,
        log_append_time_ms: told.log_append_time_ms,
        records: told.record_errors.iter().map(name).collect(),
        message: told.error_message.map(std::borrow::Cow::into_owned),
    }
}

pub(crate) fn send(wire: &mut Wire, topic: &str, batch: &[u8], version: i16) -> Told {
    wire.ask(&request(topic, batch), version, |answer| told(&answer))
}

/// Sends all of them before it reads an answer; returns the code and the base offset of each.
pub(crate) fn send_all(wire: &mut Wire, topic: &str, batches: &[Vec<u8>]) -> Vec<(i16, i64)> {
    for batch in batches {
        wire.send(&request(topic, batch), PRODUCE).unwrap();
    }
    let answer = |_| {
        wire.answer::<ProduceRequest<'_>, _>(PRODUCE, |answer| {
            let told = told(&answer);
            (told.code, told.base_offset)
        })
    };
    batches.iter().map(answer).collect()
}

pub(crate) fn create(wire: &mut Wire, name: &str, configs: &[(&'static str, &'static str)]) {
    let configs = configs
        .iter()
        .map(|(name, value)| create::CreatableTopicConfig {
            name: (*name).into(),
            value: Some((*value).into()),
        });
    let request = CreateTopicsRequest {
        topics: vec![create::CreatableTopic {
            name: name.into(),
            num_partitions: 1,
            replication_factor: 1,
            configs: configs.collect(),
            ..create::CreatableTopic::default()
        }]
        .into(),
        timeout_ms: 10_000,
        ..CreateTopicsRequest::default()
    };
    let code = wire.ask(&request, 7, |answer| {
        answer.topics.iter().next().unwrap().error_code
    });
    assert_eq!(code, 0, "{name}");
}

fn log_end(wire: &mut Wire, topic: &str) -> i64 {
    offset_of(wire, topic, -1)
}

/// The latest offset for -1, the earliest for -2.
pub(crate) fn offset_of(wire: &mut Wire, topic: &str, timestamp: i64) -> i64 {
    let request = ListOffsetsRequest {
        replica_id: -1,
        topics: vec![list::ListOffsetsTopic {
            name: topic.into(),
            partitions: vec![list::ListOffsetsPartition {
                partition_index: 0,
                timestamp,
                ..list::ListOffsetsPartition::default()
            }]
            .into(),
        }]
        .into(),
        ..ListOffsetsRequest::default()
    };
    wire.ask(&request, 4, |answer| {
        let topic = answer.topics.iter().next().unwrap();
        topic.partitions.iter().next().unwrap().offset
    })
}

/// CRC-32C, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg())
        })
    })
}

/// Three keyed records, uncompressed.
fn honest() -> Vec<u8> {
    let mut builder = BatchBuilder::new(Codec::None);
    for value in [b"a", b"b", b"c"] {
        builder.push(&NewRecord {
            timestamp: 1_700_000_000_000,
            key: Some(b"key"),
            value: Some(value),
            ..NewRecord::default()
        });
    }
    builder.build()
}

/// An honest batch, changed so.
fn lying(place: usize, bytes: &[u8]) -> Vec<u8> {
    lie(honest(), place, bytes)
}

/// The batch with bytes replaced at a place, and a checksum that fits them.
fn lie(mut batch: Vec<u8>, place: usize, bytes: &[u8]) -> Vec<u8> {
    batch[place..place + bytes.len()].copy_from_slice(bytes);
    let crc = crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    batch
}

#[expect(
    clippy::too_many_lines,
    reason = "one row a lie: a table that reads top to bottom"
)]
#[test]
fn batches_that_lie_are_refused_whole_and_nothing_is_appended() {
    // Proves fault row 32 over TCP: each lie gets its code, the connection and the log stay as they were.
    let home = tempfile::tempdir().unwrap();
    let broker = Broker::start(home.path(), &[]);
    let mut wire = Wire::connect(broker.core);
    create(&mut wire, "lies", &[]);
    let mut bad_crc = honest();
    bad_crc[70] ^= 1;
    let twice = [honest(), honest()].concat();
    let cut = honest()[..80].to_vec();
    // Producer 7, epoch 0, sequence 0, whom nobody has given a transaction.
    let mut idempotent = honest();
    idempotent[43..57].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0]);
    let transactional = lie(idempotent, 22, &[0b1_0000]);
    let cases: Vec<(&str, Vec<u8>, i16)> = vec![
        ("no batch", vec![], INVALID_RECORD),
        ("bad checksum", bad_crc, CORRUPT_MESSAGE),
        ("magic 0", lying(16, &[0]), UNSUPPORTED_FOR_MESSAGE_FORMAT),
        ("magic 1", lying(16, &[1]), UNSUPPORTED_FOR_MESSAGE_FORMAT),
        ("magic 9", lying(16, &[9]), CORRUPT_MESSAGE),
        (
            "length too long",
            lying(8, &1_000_i32.to_be_bytes()),
            CORRUPT_MESSAGE,
        ),
        (
            "length too short",
            lying(8, &60_i32.to_be_bytes()),
            CORRUPT_MESSAGE,
        ),
        (
            "length below the header",
            lying(8, &4_i32.to_be_bytes()),
            CORRUPT_MESSAGE,
        ),
        (
            "negative length",
            lying(8, &(-1_i32).to_be_bytes()),
            CORRUPT_MESSAGE,
        ),
        ("cut short", cut, CORRUPT_MESSAGE),
        ("two batches", twice, INVALID_RECORD),
        (
            "more records than there are",
            lying(57, &4_i32.to_be_bytes()),
            CORRUPT_MESSAGE,
        ),
        (
            "fewer records than offsets",
            lying(57, &2_i32.to_be_bytes()),
            INVALID_RECORD,
        ),
        (
            "a billion records",
            lying(57, &1_000_000_000_i32.to_be_bytes()),
            CORRUPT_MESSAGE,
        ),
        (
            "negative record count",
            lying(57, &(-1_i32).to_be_bytes()),
            CORRUPT_MESSAGE,
        ),
        (
            "negative last offset delta",
            lying(23, &(-3_i32).to_be_bytes()),
            CORRUPT_MESSAGE,
        ),
        (
            "last offset delta too large",
            lying(23, &i32::MAX.to_be_bytes()),
            INVALID_RECORD,
        ),
        (
            "a record beyond the batch",
            lying(61, &[0x7e]),
            INVALID_RECORD,
        ),
        ("control batch", lying(22, &[0b10_0000]), INVALID_RECORD),
        (
            "transactional without a producer",
            lying(22, &[0b1_0000]),
            INVALID_RECORD,
        ),
        ("transactional", transactional, INVALID_TXN_STATE),
        (
            "append time from a client",
            lying(22, &[0b1000]),
            INVALID_TIMESTAMP,
        ),
        (
            "unknown codec",
            lying(22, &[5]),
            UNSUPPORTED_COMPRESSION_TYPE,
        ),
        (
            "negative producer epoch",
            lying(43, &[0, 0, 0, 0, 0, 0, 0, 7]),
            INVALID_RECORD,
        ),
    ];
    for (what, batch, code) in &cases {
        let told = send(&mut wire, "lies", batch, PRODUCE);
        assert_eq!(
            (told.code, told.base_offset),
            (*code, -1),
            "{what}: {told:?}"
        );
        assert_eq!(log_end(&mut wire, "lies"), 0, "{what}");
    }
    assert_eq!(send(&mut wire, "lies", &honest(), PRODUCE).base_offset, 0);
    assert_eq!(log_end(&mut wire, "lies"), 3);
}

#[test]
fn records_without_keys_are_named_and_kept_out_of_compacted_topics() {
    // Proves Kafka's INVALID_RECORD with the records to blame, for every codec, all or nothing; that
    // older versions get the code alone; and that other topics take such records.
    let home = tempfile::tempdir().unwrap();
    let broker = Broker::start(home.path(), &[]);
    let mut wire = Wire::connect(broker.core);
    create(&mut wire, "compacted", &[("cleanup.policy", "compact")]);
    create(&mut wire, "both", &[("cleanup.policy", "compact,delete")]);
    create(&mut wire, "plain", &[]);
    for codec in Codec::ALL {
        let mut builder = BatchBuilder::new(codec);
        for index in 0..6 {
            builder.push(&NewRecord {
                timestamp: 1_700_000_000_000,
                key: (index != 2 && index != 5).then_some(b"key"),
                value: Some(b"value"),
                ..NewRecord::default()
            });
        }
        let batch = builder.build();
        for topic in ["compacted", "both"] {
            let told = send(&mut wire, topic, &batch, PRODUCE);
            assert_eq!(
                (told.code, told.base_offset),
                (INVALID_RECORD, -1),
                "{told:?}"
            );
            let blamed: Vec<i32> = told.records.iter().map(|(index, _)| *index).collect();
            assert_eq!(blamed, [2, 5], "{codec:?}");
            assert!(
                told.records.iter().all(|(_, why)| why.contains("key")),
                "{told:?}"
            );
            assert!(told.message.unwrap().contains("2 of the batch's 6 records"));
            let old = send(&mut wire, topic, &batch, 7);
            assert_eq!((old.code, old.records), (INVALID_RECORD, vec![]));
            assert_eq!(log_end(&mut wire, topic), 0);
        }
        assert_eq!(send(&mut wire, "plain", &batch, PRODUCE).code, 0);
    }
    assert_eq!(send(&mut wire, "compacted", &honest(), PRODUCE).code, 0);
    assert_eq!(log_end(&mut wire, "compacted"), 3);
}

#[test]
fn bombs_are_refused_where_they_are_opened_and_stored_where_they_are_not() {
    // Proves fault row 33 over TCP: a compacted topic refuses what decompresses to gigabytes and memory stays
    // flat; another topic stores it without a look inside.
    let home = tempfile::tempdir().unwrap();
    let broker = Broker::start(home.path(), &[]);
    let mut wire = Wire::connect(broker.core);
    create(&mut wire, "compacted", &[("cleanup.policy", "compact")]);
    create(&mut wire, "plain", &[]);
    // 64 MiB of one byte come to some kilobytes; its body is then repeated frame by frame: zstd frames
    // one after the other decompress one after the other.
    let zeros = vec![0; 64 << 20];
    let mut builder = BatchBuilder::new(Codec::Zstd);
    builder.push(&NewRecord {
        timestamp: 1_700_000_000_000,
        key: Some(b"key"),
        value: Some(&zeros),
        ..NewRecord::default()
    });
    let one = builder.build();
    let mut bomb = one.clone();
    for _ in 1..40 {
        bomb.extend_from_slice(&one[61..]);
    }
    let length = i32::try_from(bomb.len() - 12).unwrap();
    bomb[8..12].copy_from_slice(&length.to_be_bytes());
    let crc = crc32c(&bomb[21..]);
    bomb[17..21].copy_from_slice(&crc.to_be_bytes());
    assert!(bomb.len() < 1 << 20, "{} bytes", bomb.len());
    let before = resident_at_rest(broker.id());
    for _ in 0..5 {
        // One record of a few kilobytes that is too much, and forty where the header says one.
        for (batch, code) in [(&one, MESSAGE_TOO_LARGE), (&bomb, INVALID_RECORD)] {
            let told = send(&mut wire, "compacted", batch, PRODUCE);
            assert_eq!(told.code, code, "{told:?}");
        }
    }
    let grown = resident(broker.id()).saturating_sub(before);
    assert!(
        grown < 160 << 20,
        "{grown} bytes more after five bombs of 2.5 GiB"
    );
    assert_eq!(log_end(&mut wire, "compacted"), 0);
    assert_eq!(send(&mut wire, "plain", &bomb, PRODUCE).code, 0);
    let mut client = Client::connect(&broker.core.to_string(), ClientConfig::default()).unwrap();
    client.metadata(None).unwrap();
}

#[test]
fn records_go_by_age_as_often_as_is_set_and_by_size_soon() {
    // Proves that records of 2023 are gone soon where retention.ms is looked after often, and still there with the
    // default, which is Kafka's, when retention.bytes has been looked after: tests and backfills write old records.
    let homes = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let often = ("STREAMBUS_TOPICS__RETENTION_CHECK_INTERVAL_MS", "100");
    let brokers = [
        Broker::start(homes[0].path(), &[]),
        Broker::start(homes[1].path(), &[often]),
    ];
    let [mut seldom, mut often] = brokers.each_ref().map(|broker| {
        let mut wire = Wire::connect(broker.core);
        create(&mut wire, "old", &[]);
        create(&mut wire, "small", &[("retention.bytes", "1")]);
        for topic in ["old", "small", "small"] {
            assert_eq!(send(&mut wire, topic, &honest(), PRODUCE).code, 0);
        }
        wire
    });
    for (wire, topic) in [(&mut often, "old"), (&mut seldom, "small")] {
        let began = Instant::now();
        while offset_of(wire, topic, -2) != 3 {
            assert!(began.elapsed() < PATIENCE, "{topic} is kept as it is");
        }
    }
    assert_eq!(offset_of(&mut seldom, "old", -2), 0);
}
