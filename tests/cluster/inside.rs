//! What the broker finds when it looks into batches, over TCP: timestamps that headers hide, other codecs, bombs.

use std::ops::ControlFlow;
use std::time::{Duration, Instant, SystemTime};

use streambus_proto::ids::{ProducerEpoch, ProducerId};
use streambus_proto::messages::{FetchRequest, fetch_request as fetch};
use streambus_proto::records::{
    BatchBuilder, BatchView, Codec, DecompressLimits, NewRecord, Progress, RecordScan,
    set_max_timestamp,
};

use crate::process::Broker;
use crate::records::{PRODUCE, create, offset_of, send};
use crate::wire::Wire;

const INVALID_TIMESTAMP: i16 = 32;
const MESSAGE_TOO_LARGE: i16 = 10;
const HOUR_MS: i64 = 3_600_000;
/// More than enough on a busy machine.
const PATIENCE: Duration = Duration::from_mins(2);

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    i64::try_from(since.unwrap().as_millis()).unwrap()
}

fn batch(codec: Codec, timestamps: &[i64]) -> Vec<u8> {
    let mut builder = BatchBuilder::new(codec);
    for timestamp in timestamps {
        builder.push(&NewRecord {
            timestamp: *timestamp,
            key: Some(b"key"),
            value: Some(b"value"),
            ..NewRecord::default()
        });
    }
    builder.build()
}

/// The batch with another largest timestamp in its header.
fn claiming(max_timestamp: i64, mut batch: Vec<u8>) -> Vec<u8> {
    set_max_timestamp(&mut batch, max_timestamp);
    batch
}

/// The first batch at an offset, as it is stored.
fn stored(wire: &mut Wire, topic: &str, offset: i64) -> Vec<u8> {
    let request = FetchRequest {
        replica_id: -1,
        max_wait_ms: 500,
        min_bytes: 1,
        max_bytes: 64 << 20,
        session_epoch: -1,
        topics: vec![fetch::FetchTopic {
            topic: topic.into(),
            partitions: vec![fetch::FetchPartition {
                partition: 0,
                fetch_offset: offset,
                partition_max_bytes: 64 << 20,
                ..fetch::FetchPartition::default()
            }]
            .into(),
            ..fetch::FetchTopic::default()
        }]
        .into(),
        ..FetchRequest::default()
    };
    wire.ask(&request, 11, |answer| {
        let topic = answer.responses.iter().next().unwrap();
        let partition = topic.partitions.iter().next().unwrap();
        assert_eq!(partition.error_code, 0);
        let bytes = partition.records.bytes().unwrap();
        let (batch, _) = BatchView::split_first(bytes).unwrap();
        batch.verify().unwrap();
        batch.as_bytes().to_vec()
    })
}

#[test]
fn a_largest_timestamp_that_lies_is_stamped_with_the_records() {
    // Proves, for headers as sarama 1.43 sends them (0, -1) and for one from the future, that the batch is taken, says what
    // its records say, is found by time, and is there when retention has taken an old one.
    let home = tempfile::tempdir().unwrap();
    let often = ("STREAMBUS_TOPICS__RETENTION_CHECK_INTERVAL_MS", "100");
    let broker = Broker::start(home.path(), &[often]);
    let mut wire = Wire::connect(broker.core);
    let now = now_ms();
    let mut number = 0;
    for codec in [Codec::None, Codec::Zstd, Codec::Snappy] {
        for claim in [0, -1, now + 100 * HOUR_MS, i64::MAX] {
            number += 1;
            let topic = format!("fresh-{number}");
            create(&mut wire, &topic, &[("retention.ms", "3600000")]);
            let bytes = claiming(claim, batch(codec, &[now - 2, now, now - 1]));
            let told = send(&mut wire, &topic, &bytes, PRODUCE);
            assert_eq!(told.code, 0, "{codec:?} claims {claim}: {told:?}");
            let kept = stored(&mut wire, &topic, 0);
            let kept = BatchView::produced(&kept).unwrap();
            assert_eq!(kept.max_timestamp(), now, "{codec:?} claims {claim}");
            assert_eq!(offset_of(&mut wire, &topic, now - 2), 0);
            assert_eq!(offset_of(&mut wire, &topic, now - 1), 1);
            assert_eq!(offset_of(&mut wire, &topic, now + 1), -1);
        }
    }
    // Old records whose header is as of now: they go, and all that is fresh was looked at before.
    create(&mut wire, "old", &[("retention.ms", "3600000")]);
    let old = claiming(now, batch(Codec::None, &[now - 3 * HOUR_MS]));
    assert_eq!(send(&mut wire, "old", &old, PRODUCE).code, 0);
    let began = Instant::now();
    while offset_of(&mut wire, "old", -2) != 1 {
        assert!(began.elapsed() < PATIENCE, "the old record is kept");
    }
    for number in 1..=number {
        assert_eq!(offset_of(&mut wire, &format!("fresh-{number}"), -2), 0);
    }
}

#[test]
fn records_out_of_the_times_allowed_are_named() {
    // Proves before.max.ms and after.max.ms by record, as in Kafka, for every codec whose header shows it; records
    // without a timestamp are always taken.
    let home = tempfile::tempdir().unwrap();
    let broker = Broker::start(home.path(), &[]);
    let mut wire = Wire::connect(broker.core);
    let bounds = [
        ("message.timestamp.before.max.ms", "3600000"),
        ("message.timestamp.after.max.ms", "3600000"),
    ];
    create(&mut wire, "bounded", &bounds);
    let now = now_ms();
    let (old, new) = (now - 2 * HOUR_MS, now + 2 * HOUR_MS);
    for codec in Codec::ALL {
        let cases = [
            (batch(codec, &[old, now, old]), vec![0, 2]),
            (batch(codec, &[now, new, now]), vec![1]),
            (batch(codec, &[new]), vec![0]),
            (claiming(0, batch(codec, &[now, old, new])), vec![1, 2]),
        ];
        for (bytes, blamed) in cases {
            let told = send(&mut wire, "bounded", &bytes, PRODUCE);
            assert_eq!(told.code, INVALID_TIMESTAMP, "{codec:?}: {told:?}");
            let named: Vec<i32> = told.records.iter().map(|(index, _)| *index).collect();
            assert_eq!(named, blamed, "{codec:?}");
            assert!(told.records[0].1.contains("is out of range"), "{told:?}");
        }
    }
    assert_eq!(offset_of(&mut wire, "bounded", -1), 0);
    let untimed = batch(Codec::Gzip, &[-1, -1]);
    assert_eq!(send(&mut wire, "bounded", &untimed, PRODUCE).code, 0);
}

#[test]
#[expect(clippy::too_many_lines, reason = "one topic after another")]
fn topics_store_batches_with_their_own_codec() {
    // Proves compression.type: whatever a producer sends is stored with the topic's codec, the same records under the same
    // offsets and sequence, a retry is a duplicate, levels have their effect, and a batch that would be too large is refused.
    let home = tempfile::tempdir().unwrap();
    let broker = Broker::start(home.path(), &[]);
    let mut wire = Wire::connect(broker.core);
    let now = now_ms();
    let targets = [
        ("uncompressed", Some(Codec::None)),
        ("gzip", Some(Codec::Gzip)),
        ("snappy", Some(Codec::Snappy)),
        ("lz4", Some(Codec::Lz4)),
        ("zstd", Some(Codec::Zstd)),
        ("producer", None),
    ];
    // A batch that is compressed anew where it comes in, and one in steps.
    for (size, value) in [
        ("small", vec![b'v'; 100]),
        ("large", b"some value".repeat(10_000)),
    ] {
        for (name, target) in targets {
            let topic = format!("{name}-{size}");
            create(&mut wire, &topic, &[("compression.type", name)]);
            for (number, codec) in (0..).zip(Codec::ALL) {
                let mut builder = BatchBuilder::new(codec);
                let sequence = i32::try_from(number).unwrap() * 3;
                builder.set_producer(ProducerId(900), ProducerEpoch(0), sequence);
                for index in 0..3 {
                    builder.push(&NewRecord {
                        timestamp: now + index,
                        value: Some(&value),
                        ..NewRecord::default()
                    });
                }
                let bytes = builder.build();
                let offset = number * 3;
                for _ in 0..2 {
                    let told = send(&mut wire, &topic, &bytes, PRODUCE);
                    assert_eq!((told.code, told.base_offset), (0, offset), "{topic}");
                }
                let kept = stored(&mut wire, &topic, offset);
                let kept = BatchView::produced(&kept).unwrap();
                assert_eq!(kept.codec(), Ok(target.unwrap_or(codec)), "{topic}");
                assert_eq!(kept.base_sequence(), sequence);
                assert_eq!(kept.last_offset().0, offset + 2);
                assert_eq!(kept.max_timestamp(), now + 2);
                let mut scratch = vec![];
                let records = kept.records(&mut scratch, DecompressLimits::default());
                for (index, record) in (0..).zip(records.unwrap()) {
                    let record = record.unwrap();
                    assert_eq!(
                        (record.offset.0, record.timestamp),
                        (offset + index, now + index)
                    );
                    assert!(record.value == Some(&value));
                }
            }
            assert_eq!(offset_of(&mut wire, &topic, -1), 15, "{topic}");
        }
    }
    // A higher level makes less of the same.
    let value: Vec<u8> = (0..200_000_u64)
        .map(|i| b'a' + u8::try_from(((i * i * i) >> 7) % 19).unwrap())
        .collect();
    let mut builder = BatchBuilder::new(Codec::None);
    builder.push(&NewRecord {
        timestamp: now,
        value: Some(&value),
        ..NewRecord::default()
    });
    let bytes = builder.build();
    for (codec, level, low, high) in [
        ("gzip", "compression.gzip.level", "1", "9"),
        ("zstd", "compression.zstd.level", "-10", "12"),
    ] {
        let sizes = [low, high].map(|value| {
            let topic = format!("{codec}-at{value}");
            create(
                &mut wire,
                &topic,
                &[("compression.type", codec), (level, value)],
            );
            assert_eq!(send(&mut wire, &topic, &bytes, PRODUCE).code, 0);
            stored(&mut wire, &topic, 0).len()
        });
        assert!(sizes[0] > sizes[1], "{codec}: {sizes:?}");
    }
    let mut builder = BatchBuilder::new(Codec::Zstd);
    builder.push(&NewRecord {
        timestamp: now,
        value: Some(&vec![0; 2 << 20]),
        ..NewRecord::default()
    });
    let bytes = builder.build();
    let told = send(&mut wire, "uncompressed-large", &bytes, PRODUCE);
    assert_eq!(told.code, MESSAGE_TOO_LARGE, "{told:?}");
    assert_eq!(offset_of(&mut wire, "uncompressed-large", -1), 15);
}

/// Records of a batch that takes long to look into.
const BOMB_RECORDS: i64 = 200_000;

/// A batch of so many records in less than a megabyte. The last one is a second younger than the others.
fn bomb(now: i64) -> Vec<u8> {
    let mut builder = BatchBuilder::new(Codec::Zstd);
    for nth in 1..=BOMB_RECORDS {
        let age_ms = if nth == BOMB_RECORDS { 0 } else { 1_000 };
        builder.push(&NewRecord {
            timestamp: now - age_ms,
            key: Some(b"key"),
            value: Some(&[0; 64]),
            ..NewRecord::default()
        });
    }
    builder.build()
}

/// How long it takes here to decompress the batch and look at its records, the best of three times.
fn time_to_look_into(bomb: &[u8]) -> Duration {
    let look = |_| {
        let began = Instant::now();
        let batch = BatchView::produced(bomb).unwrap();
        let mut scan = RecordScan::new(&batch, DecompressLimits::default()).unwrap();
        while scan.step(|_| ControlFlow::Continue(())).unwrap() == Progress::More {}
        began.elapsed()
    };
    (0..3).map(look).min().unwrap()
}

#[test]
fn bombs_are_looked_into_in_steps() {
    // Proves that a batch which takes a core long to look into is gone over in steps, when it is appended and when it is
    // looked up by time: no task ran for half of the time that it takes.
    let home = tempfile::tempdir().unwrap();
    let broker = Broker::start(home.path(), &[("STREAMBUS_NODE__CORES", "1")]);
    let mut wire = Wire::connect(broker.core);
    let uncleaned = ("min.compaction.lag.ms", "86400000");
    create(
        &mut wire,
        "compacted",
        &[("cleanup.policy", "compact"), uncleaned],
    );
    let now = now_ms();
    let bomb = bomb(now);
    assert!(bomb.len() < 1 << 20, "{} bytes", bomb.len());
    let whole = time_to_look_into(&bomb);
    broker.longest_poll();
    for first in [0, BOMB_RECORDS] {
        assert_eq!(send(&mut wire, "compacted", &bomb, PRODUCE).code, 0);
        let appended = broker.longest_poll();
        let last = offset_of(&mut wire, "compacted", now - 500);
        assert_eq!(last, BOMB_RECORDS - 1);
        let found = broker.longest_poll();
        assert!(
            appended.max(found) < whole / 2,
            "{first}: {appended:?} for the append, {found:?} for the look-up, {whole:?} at once"
        );
    }
}

#[test]
fn batches_that_are_looked_into_keep_their_order() {
    // Proves that nothing of a partition overtakes a batch whose records are gone over, though others of its lane do:
    // large and small batches of one idempotent producer, sent without waiting to the core that does not own the
    // partition, are appended in the order of their sequences.
    let home = tempfile::tempdir().unwrap();
    let broker = Broker::start(home.path(), &[]);
    let mut wire = Wire::connect(broker.node);
    for number in 0..4 {
        create(
            &mut wire,
            &format!("ordered-{number}"),
            &[("cleanup.policy", "compact")],
        );
    }
    let large = b"a value of some bytes".repeat(50_000);
    let batches: Vec<Vec<u8>> = (0..30)
        .map(|number| {
            let codec = [Codec::Zstd, Codec::None, Codec::Gzip][number % 3];
            let mut builder = BatchBuilder::new(codec);
            let sequence = i32::try_from(number).unwrap();
            builder.set_producer(ProducerId(900), ProducerEpoch(0), sequence);
            let value: &[u8] = if number % 4 == 1 { b"small" } else { &large };
            builder.push(&NewRecord {
                timestamp: now_ms(),
                key: Some(b"key"),
                value: Some(&value[..value.len().min(900_000)]),
                ..NewRecord::default()
            });
            builder.build()
        })
        .collect();
    let mut wires: Vec<Wire> = (0..4).map(|_| Wire::connect(broker.node)).collect();
    std::thread::scope(|scope| {
        for (number, wire) in wires.iter_mut().enumerate() {
            let batches = &batches;
            scope.spawn(move || {
                let topic = format!("ordered-{number}");
                let codes = crate::records::send_all(wire, &topic, batches);
                let expected: Vec<(i16, i64)> = (0..30).map(|offset| (0, offset)).collect();
                assert_eq!(codes, expected, "{topic}");
            });
        }
    });
}
