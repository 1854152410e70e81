//! The largest requests of the smallest entries, for every API that is served: what they make the broker hold, what
//! stays of it, and how long a core works on them without a yield.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use streambus_client::blocking::{Client, ClientConfig};
use streambus_proto::api::ApiKey;
use streambus_proto::messages::ApiVersionsRequest;
use streambus_proto::wire::Writer;

use crate::process::{Broker, peak_resident, reset_peak_resident, resident};
use crate::wire::Wire;

const MIB: u64 = 1 << 20;
/// `limits.request_bytes_max`.
const REQUEST_BYTES_MAX: usize = 100 << 20;
/// What a request may take beside its own bytes, and what may stay of it.
const MEMORY_MAX: u64 = 64 * MIB;
/// How long a core may work without a yield. The codec passes over an array and writes an answer in one step; where
/// tests build it without optimization that alone takes ten times as long.
const STALL_MAX: Duration = Duration::from_millis(if cfg!(debug_assertions) { 30 } else { 5 });
/// Entries to begin with when looking for how many are served; more than any API takes.
const ENTRIES_FIRST: usize = 450_000;
/// Many times what an answer takes on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);

/// Requests without arrays, which are refused, or close the connection, where no authentication is asked for.
const WITHOUT_ENTRIES: [ApiKey; 2] = [ApiKey::SaslHandshake, ApiKey::SaslAuthenticate];

/// How the number of entries is said.
#[derive(Clone, Copy, PartialEq)]
enum Counted {
    Array,
    TaggedFields,
}

/// A request whose entries can be multiplied: what stands before their number, an entry, what stands behind.
struct Row {
    api: ApiKey,
    version: i16,
    counted: Counted,
    before: Vec<u8>,
    entry: fn(usize) -> Vec<u8>,
    after: Vec<u8>,
}

impl Row {
    fn frame(&self, entries: usize) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.i32(0);
        writer.i16(self.api as i16);
        writer.i16(self.version);
        writer.i32(1);
        writer.i16(-1);
        assert!(self.api.request_is_flexible(self.version));
        writer.uvarint(0);
        writer.raw(&self.before);
        let count = u32::try_from(entries).unwrap();
        writer.uvarint(count + u32::from(self.counted == Counted::Array));
        let mut frame = writer.as_slice().to_vec();
        // Numbers come again: there are more entries than names of their length.
        let block: Vec<u8> = (0..NAMES.min(entries)).flat_map(self.entry).collect();
        let each = (self.entry)(0).len();
        frame.reserve(entries * each + self.after.len());
        let mut left = entries * each;
        while left > 0 {
            let part = block.len().min(left);
            frame.extend_from_slice(&block[..part]);
            left -= part;
        }
        frame.extend_from_slice(&self.after);
        let length = i32::try_from(frame.len() - 4).unwrap();
        frame[..4].copy_from_slice(&length.to_be_bytes());
        frame
    }

    fn entries_in(&self, bytes: usize) -> usize {
        let rest = self.before.len() + self.after.len() + 64;
        (bytes - rest) / (self.entry)(0).len()
    }
}

/// Names of five hexadecimal digits, with the length before them.
const NAMES: usize = 1 << 20;

fn name(number: usize) -> Vec<u8> {
    let mut name = vec![6];
    name.extend(format!("{number:05x}").bytes());
    name
}

/// A number on the wire, by its bytes.
fn wide(value: i32) -> Vec<u8> {
    value.to_be_bytes().to_vec()
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    let mut row = |api, version, before: &[&[u8]], entry, after: &[u8]| {
        rows.push(Row {
            api,
            version,
            counted: Counted::Array,
            before: before.concat(),
            entry,
            after: after.to_vec(),
        });
    };
    let none = wide(-1);
    let timeout = wide(1_000);
    // One topic, "t", whose partitions are the entries.
    let one = &[2, 2, b't'][..];
    // A topic without a name and without partitions.
    let empty: fn(usize) -> Vec<u8> = |_| vec![1, 1, 0];

    let produce: &[&[u8]] = &[&[0, 0xff, 0xff], &timeout];
    row(ApiKey::Produce, 9, produce, empty, &[0]);
    let produce: &[&[u8]] = &[&[0, 0xff, 0xff], &timeout, one];
    row(ApiKey::Produce, 9, produce, |_| vec![0; 6], &[0, 0]);
    row(
        ApiKey::Produce,
        9,
        produce,
        |_| [wide(-1), vec![0, 0]].concat(),
        &[0, 0],
    );

    let fetch = [&none[..], &[0; 8], &wide(i32::MAX), &[0; 5], &none].concat();
    row(ApiKey::Fetch, 12, &[&fetch], empty, &[1, 1, 0]);
    row(
        ApiKey::Fetch,
        12,
        &[&fetch, one],
        |_| vec![0; 33],
        &[0, 1, 1, 0],
    );
    let unknown: fn(usize) -> Vec<u8> = |number| {
        let index = i32::try_from(number + 1).unwrap();
        [wide(index), vec![0; 29]].concat()
    };
    row(ApiKey::Fetch, 12, &[&fetch, one], unknown, &[0, 1, 1, 0]);
    row(ApiKey::Fetch, 12, &[&fetch, &[1]], empty, &[1, 0]);

    let list = [&none[..], &[0]].concat();
    row(ApiKey::ListOffsets, 6, &[&list], empty, &[0]);
    row(
        ApiKey::ListOffsets,
        6,
        &[&list, one],
        |_| vec![0; 17],
        &[0, 0],
    );
    let unknown: fn(usize) -> Vec<u8> = |_| [wide(-1), vec![0; 13]].concat();
    row(ApiKey::ListOffsets, 6, &[&list, one], unknown, &[0, 0]);

    let named: fn(usize) -> Vec<u8> = |number| [name(number), vec![0]].concat();
    row(ApiKey::Metadata, 9, &[], |_| vec![2, b't', 0], &[0; 4]);
    row(ApiKey::Metadata, 9, &[], named, &[0; 4]);
    row(ApiKey::FindCoordinator, 4, &[&[0]], |_| vec![1], &[0]);
    row(ApiKey::FindCoordinator, 4, &[&[0]], name, &[0]);

    let flag = [&timeout[..], &[1, 0]].concat();
    let created: fn(usize) -> Vec<u8> =
        |number| [name(number), wide(1), vec![0, 1, 1, 1, 0]].concat();
    row(ApiKey::CreateTopics, 5, &[], created, &flag);
    row(
        ApiKey::CreateTopics,
        5,
        &[],
        |_| vec![1, 0, 0, 0, 1, 0, 1, 1, 1, 0],
        &flag,
    );
    // One topic whose assignments, and whose settings, are the entries.
    let topic = [&[2, 2, b'x'][..], &none, &[0xff, 0xff]].concat();
    let assigned: fn(usize) -> Vec<u8> = |number| {
        let index = i32::try_from(number).unwrap();
        [wide(index), vec![2, 0, 0, 0, 0, 0]].concat()
    };
    let after = [&[1, 0][..], &flag].concat();
    row(ApiKey::CreateTopics, 5, &[&topic], assigned, &after);
    let after = [&[0][..], &flag].concat();
    row(
        ApiKey::CreateTopics,
        5,
        &[&topic, &[1]],
        |_| vec![1, 0, 0],
        &after,
    );

    let end = [&timeout[..], &[0]].concat();
    row(ApiKey::DeleteTopics, 4, &[], |_| vec![1], &end);
    row(ApiKey::DeleteTopics, 4, &[], name, &end);
    row(ApiKey::DeleteRecords, 2, &[], empty, &end);
    let after = [&[0][..], &end].concat();
    row(ApiKey::DeleteRecords, 2, &[one], |_| vec![0; 13], &after);
    let unknown: fn(usize) -> Vec<u8> = |_| [wide(-1), vec![0; 9]].concat();
    row(ApiKey::DeleteRecords, 2, &[one], unknown, &after);
    row(ApiKey::OffsetForLeaderEpoch, 4, &[&none], empty, &[0]);
    row(
        ApiKey::OffsetForLeaderEpoch,
        4,
        &[&none, one],
        |_| vec![0; 13],
        &[0, 0],
    );
    row(
        ApiKey::OffsetForLeaderEpoch,
        4,
        &[&none, one],
        unknown,
        &[0, 0],
    );

    row(
        ApiKey::DescribeConfigs,
        4,
        &[],
        |_| vec![2, 2, b't', 0, 0],
        &[1, 1, 0],
    );
    let resource: fn(usize) -> Vec<u8> = |number| [vec![2], name(number), vec![0, 0]].concat();
    row(ApiKey::DescribeConfigs, 4, &[], resource, &[1, 1, 0]);
    row(
        ApiKey::DescribeConfigs,
        4,
        &[&[2, 2, 2, b't']],
        |_| vec![1],
        &[0, 1, 1, 0],
    );
    let altered: fn(usize) -> Vec<u8> = |number| [vec![2], name(number), vec![1, 0]].concat();
    row(ApiKey::AlterConfigs, 2, &[], |_| vec![2, 1, 1, 0], &[1, 0]);
    row(ApiKey::AlterConfigs, 2, &[], altered, &[1, 0]);
    row(
        ApiKey::AlterConfigs,
        2,
        &[&[2, 2, 2, b't']],
        |_| vec![1, 0, 0],
        &[0, 1, 0],
    );
    row(
        ApiKey::IncrementalAlterConfigs,
        1,
        &[],
        |_| vec![2, 1, 1, 0],
        &[1, 0],
    );
    row(ApiKey::IncrementalAlterConfigs, 1, &[], altered, &[1, 0]);

    row(ApiKey::DescribeLogDirs, 2, &[], empty, &[0]);
    row(ApiKey::DescribeLogDirs, 2, &[one], |_| vec![0; 4], &[0, 0]);
    row(
        ApiKey::CreatePartitions,
        2,
        &[],
        |_| vec![1, 0, 0, 0, 1, 0, 0],
        &flag,
    );
    let grown: fn(usize) -> Vec<u8> = |number| [name(number), vec![0, 0, 0, 1, 0, 0]].concat();
    row(ApiKey::CreatePartitions, 2, &[], grown, &flag);
    row(ApiKey::DescribeProducers, 0, &[], empty, &[0]);
    row(
        ApiKey::DescribeProducers,
        0,
        &[one],
        |_| vec![0; 4],
        &[0, 0],
    );
    row(ApiKey::DescribeProducers, 0, &[one], |_| wide(-1), &[0, 0]);
    let after = [&wide(100)[..], &[0xff, 0]].concat();
    row(ApiKey::DescribeTopicPartitions, 0, &[], named, &after);
    row(ApiKey::ListConfigResources, 1, &[], |_| vec![2], &[0]);

    let acl: fn(usize) -> Vec<u8> = |_| vec![2, 1, 3, 1, 1, 1, 1, 0];
    row(ApiKey::CreateAcls, 2, &[], acl, &[0]);
    row(ApiKey::DeleteAcls, 2, &[], acl, &[0]);
    let number: fn(usize) -> Vec<u8> = |_| vec![0; 4];
    row(ApiKey::AlterReplicaLogDirs, 2, &[], empty, &[0]);
    row(
        ApiKey::AlterReplicaLogDirs,
        2,
        &[&[2, 1], one],
        number,
        &[0; 3],
    );
    row(ApiKey::ElectLeaders, 2, &[&[0]], empty, &end);
    let after = [&[0][..], &end].concat();
    row(ApiKey::ElectLeaders, 2, &[&[0], one], number, &after);
    let reassigned: fn(usize) -> Vec<u8> = |_| vec![0; 6];
    row(
        ApiKey::AlterPartitionReassignments,
        0,
        &[&timeout],
        empty,
        &[0],
    );
    row(
        ApiKey::AlterPartitionReassignments,
        0,
        &[&timeout, one],
        reassigned,
        &[0; 2],
    );
    row(
        ApiKey::ListPartitionReassignments,
        0,
        &[&timeout],
        empty,
        &[0],
    );
    row(
        ApiKey::ListPartitionReassignments,
        0,
        &[&timeout, one],
        number,
        &[0; 2],
    );
    row(ApiKey::DescribeQuorum, 0, &[], empty, &[0]);
    row(ApiKey::DescribeQuorum, 0, &[one], |_| vec![0; 5], &[0; 2]);
    row(
        ApiKey::UpdateFeatures,
        1,
        &[&timeout],
        |_| vec![1, 0, 1, 1, 0],
        &[1, 0],
    );

    // No arrays: what an unknown field of the future takes.
    let mut row = |api, version, before: &[u8]| {
        rows.push(Row {
            api,
            version,
            counted: Counted::TaggedFields,
            before: before.to_vec(),
            entry: |_| vec![100, 0],
            after: Vec::new(),
        });
    };
    row(ApiKey::ApiVersions, 3, &[2, b'a', 2, b'a']);
    row(ApiKey::InitProducerId, 2, &[0, 0, 0, 0, 0]);
    row(ApiKey::DescribeCluster, 1, &[0, 1]);
    row(ApiKey::DescribeAcls, 2, &[2, 0, 3, 0, 0, 1, 1]);
    rows
}

/// Sends a frame and reads its answer away. `None` if the broker closes instead.
fn answered(broker: &Broker, frame: &[u8]) -> Option<usize> {
    let mut stream = TcpStream::connect(broker.core).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    // A broker that refuses may close before all is written.
    let _ = stream.write_all(frame);
    let mut length = [0; 4];
    match stream.read_exact(&mut length) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
            panic!("neither an answer nor a close within {PATIENCE:?}")
        }
        Err(_) => return None,
    }
    let length = u64::try_from(i32::from_be_bytes(length)).unwrap();
    let read = std::io::copy(&mut stream.take(length), &mut std::io::sink()).unwrap();
    assert_eq!(read, length, "the answer ends early");
    usize::try_from(length).ok()
}

/// What a request cost.
#[derive(Debug)]
#[expect(dead_code, reason = "shown where a cost is too high")]
struct Cost {
    api: ApiKey,
    row: usize,
    entries: usize,
    frame_bytes: usize,
    answer_bytes: Option<usize>,
    grown_bytes: u64,
    stall: Duration,
}

fn measured(broker: &Broker, (number, row): (usize, &Row), entries: usize) -> Cost {
    let frame = row.frame(entries);
    let before = resident(broker.id());
    reset_peak_resident(broker.id());
    broker.longest_poll();
    let answer_bytes = answered(broker, &frame);
    Cost {
        api: row.api,
        row: number,
        entries,
        frame_bytes: frame.len(),
        answer_bytes,
        grown_bytes: peak_resident(broker.id()).saturating_sub(before),
        stall: broker.longest_poll(),
    }
}

#[test]
fn entries_cost_no_more_than_is_charged_for_them() {
    // Proves for each API that is served: of a request as large as may be, and of the largest that is answered, all of the
    // smallest entries there are, memory grows by its own bytes and 64 MiB at most, none of it stays, and
    // no task runs for 5 ms without a yield. An API without a row fails.
    let home = tempfile::tempdir().unwrap();
    let broker = Broker::start(home.path(), &[]);
    let mut client = Client::connect(&broker.core.to_string(), ClientConfig::default()).unwrap();
    client.create_topic("t", 1, 1).unwrap();
    let request = ApiVersionsRequest {
        client_software_name: "entries".into(),
        client_software_version: "1".into(),
    };
    let mut wire = Wire::connect(broker.core);
    let served: BTreeSet<i16> = wire.ask(&request, 3, |answer| {
        answer.api_keys.iter().map(|api| api.api_key).collect()
    });
    let rows = rows();
    let mut covered: BTreeSet<i16> = rows.iter().map(|row| row.api as i16).collect();
    covered.extend(WITHOUT_ENTRIES.map(|api| api as i16));
    assert_eq!(served, covered, "each API that is served has a row");

    let before = resident(broker.id());
    let (mut costs, mut tried) = (Vec::new(), BTreeSet::new());
    for row in rows.iter().enumerate() {
        // Once for each API: all end at the same check.
        if tried.insert(row.1.api as i16) {
            let cost = measured(&broker, row, row.1.entries_in(REQUEST_BYTES_MAX));
            // ApiVersions is answered without a look at its message.
            let refused = cost.answer_bytes.is_none() || row.1.api == ApiKey::ApiVersions;
            assert!(refused, "{cost:?}");
            costs.push(cost);
        }
        let mut entries = ENTRIES_FIRST;
        loop {
            let cost = measured(&broker, row, entries);
            let served = cost.answer_bytes.is_some();
            costs.push(cost);
            if served {
                break;
            }
            entries = entries * 2 / 3;
            assert!(
                entries > 10_000,
                "{:?} is served with few entries",
                row.1.api
            );
        }
    }
    for cost in &costs {
        println!("{cost:?}");
    }
    for cost in &costs {
        let most = cost.frame_bytes as u64 + MEMORY_MAX;
        assert!(
            cost.grown_bytes <= most,
            "{cost:?} grew by more than {most}"
        );
        assert!(
            cost.stall <= STALL_MAX,
            "{cost:?} ran for more than {STALL_MAX:?}"
        );
    }
    let deadline = Instant::now() + PATIENCE;
    while resident(broker.id()) > before + MEMORY_MAX {
        assert!(
            Instant::now() < deadline,
            "{} MiB stay",
            (resident(broker.id()) - before) / MIB
        );
        // Memory of large requests goes back some seconds later.
        std::thread::sleep(Duration::from_millis(100));
    }
}
