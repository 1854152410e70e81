//! Numbers at the ends of their types, over the wire: each is answered at once, and the broker serves on.

use streambus_proto::messages::{
    DeleteRecordsRequest, FetchRequest, ListOffsetsRequest, delete_records_request as delete,
    fetch_request as fetch, list_offsets_request as list,
};
use streambus_proto::records::{BatchBuilder, Codec, NewRecord};

use crate::process::Broker;
use crate::records::{PRODUCE, create, send};
use crate::wire::Wire;

const TOPIC: &str = "extreme";
const OFFSET_OUT_OF_RANGE: i16 = 1;
/// What Kafka answers for a special timestamp that it does not know.
const UNSUPPORTED_VERSION: i16 = 35;

fn batch(timestamps: &[i64]) -> Vec<u8> {
    let mut builder = BatchBuilder::new(Codec::None);
    for timestamp in timestamps {
        builder.push(&NewRecord {
            timestamp: *timestamp,
            value: Some(b"value"),
            ..NewRecord::default()
        });
    }
    builder.build()
}

/// Error code, offset and timestamp.
fn listed(wire: &mut Wire, timestamp: i64) -> (i16, i64, i64) {
    let request = ListOffsetsRequest {
        replica_id: -1,
        topics: vec![list::ListOffsetsTopic {
            name: TOPIC.into(),
            partitions: vec![list::ListOffsetsPartition {
                timestamp,
                ..list::ListOffsetsPartition::default()
            }]
            .into(),
        }]
        .into(),
        ..ListOffsetsRequest::default()
    };
    wire.ask(&request, 7, |answer| {
        let topic = answer.topics.iter().next().unwrap();
        let found = topic.partitions.iter().next().unwrap();
        (found.error_code, found.offset, found.timestamp)
    })
}

fn fetched(wire: &mut Wire, fetch_offset: i64) -> i16 {
    let request = FetchRequest {
        replica_id: -1,
        // The least that may be waited for is more than there is: only its time ends the wait.
        max_wait_ms: i32::MIN,
        min_bytes: i32::MAX,
        max_bytes: i32::MAX,
        session_epoch: -1,
        topics: vec![fetch::FetchTopic {
            topic: TOPIC.into(),
            partitions: vec![fetch::FetchPartition {
                fetch_offset,
                partition_max_bytes: i32::MIN,
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
        topic.partitions.iter().next().unwrap().error_code
    })
}

/// Error code and low watermark.
fn deleted(wire: &mut Wire, offset: i64) -> (i16, i64) {
    let request = DeleteRecordsRequest {
        topics: vec![delete::DeleteRecordsTopic {
            name: TOPIC.into(),
            partitions: vec![delete::DeleteRecordsPartition {
                partition_index: 0,
                offset,
            }]
            .into(),
        }]
        .into(),
        timeout_ms: i32::MIN,
    };
    wire.ask(&request, 1, |answer| {
        let topic = answer.topics.iter().next().unwrap();
        let moved = topic.partitions.iter().next().unwrap();
        (moved.error_code, moved.low_watermark)
    })
}

#[test]
fn numbers_at_the_ends_of_their_types_are_answered() {
    // Proves it for timestamps of records and of look-ups, for offsets to fetch and to delete up to, and for times to
    // wait: no request among them holds a core.
    let home = tempfile::tempdir().unwrap();
    let broker = Broker::start(home.path(), &[]);
    let mut wire = Wire::connect(broker.node);
    let unlimited = "9223372036854775807";
    create(
        &mut wire,
        TOPIC,
        &[
            ("message.timestamp.after.max.ms", unlimited),
            ("message.timestamp.before.max.ms", unlimited),
            ("retention.ms", unlimited),
            ("retention.bytes", unlimited),
            ("max.compaction.lag.ms", unlimited),
            ("min.compaction.lag.ms", unlimited),
            ("delete.retention.ms", unlimited),
        ],
    );
    for timestamps in [vec![0, i64::MAX], vec![i64::MAX, 0], vec![i64::MAX - 1]] {
        let answer = send(&mut wire, TOPIC, &batch(&timestamps), PRODUCE);
        assert_eq!(answer.code, 0, "{answer:?}");
    }
    let listings = [
        (-3, (0, 1, i64::MAX)),
        (i64::MAX, (0, 1, i64::MAX)),
        (i64::MAX - 1, (0, 1, i64::MAX)),
        (0, (0, 0, 0)),
        (i64::MIN, (UNSUPPORTED_VERSION, -1, -1)),
        (-1, (0, 5, -1)),
        (-2, (0, 0, -1)),
    ];
    for (timestamp, expected) in listings {
        assert_eq!(listed(&mut wire, timestamp), expected, "{timestamp}");
    }
    for offset in [i64::MIN, -1, 6, i64::MAX] {
        assert_eq!(fetched(&mut wire, offset), OFFSET_OUT_OF_RANGE, "{offset}");
    }
    for offset in [0, 5] {
        assert_eq!(fetched(&mut wire, offset), 0, "{offset}");
    }
    for offset in [i64::MIN, -2, 6, i64::MAX] {
        let expected = (OFFSET_OUT_OF_RANGE, -1);
        assert_eq!(deleted(&mut wire, offset), expected, "{offset}");
    }
    assert_eq!(deleted(&mut wire, 2), (0, 2));
    assert_eq!(listed(&mut wire, -3), (0, 2, i64::MAX));
}
