//! Tables: what the footer says is what lies in the file, and nothing damaged is returned.

use std::path::Path;

use streambus_proto::ids::{LeaderEpoch, Offset, TopicId};
use streambus_proto::records::{BatchBuilder, Codec, NewRecord};
use streambus_shards::{Buf, run_alone};

use super::filter::{FilterKey, SEGMENT_ENTRIES};
use super::footer::{
    Footer, IndexEntry, KeyFilter, TABLE_VERSION, TablePart, Trailer, TrailerRead, checksum,
};
use super::layout::Layout;
use super::reader::{Table, Wanted};
use super::writer::TableWriter;
use crate::batch::place_batch;
use crate::batch::tests::batch;
use crate::config::LaneConfig;
use crate::error::StorageError;
use crate::key::PartitionKey;
use crate::key_hash::KeyHash;
use crate::memtable::MemBatch;
use crate::names;
use crate::wal::record::Nonce;

const NONCE: Nonce = Nonce(0xab1e);

fn key(index: i32) -> PartitionKey {
    PartitionKey {
        topic: TopicId([2; 16]),
        index,
    }
}

fn mem_batch(base: i64, records: i32, timestamp: i64, bytes: usize) -> MemBatch {
    let mut one = batch(
        records,
        timestamp,
        &vec![u8::try_from(base % 251).unwrap(); bytes],
    );
    place_batch(&mut one, Offset(base), LeaderEpoch(1));
    MemBatch {
        base_offset: Offset(base),
        last_offset: Offset(base + i64::from(records) - 1),
        max_timestamp: timestamp,
        bytes: Buf::from(one),
    }
}

fn config() -> LaneConfig {
    LaneConfig {
        block_bytes: 4096,
        index_stride_bytes: 3000,
        ..LaneConfig::default()
    }
}

/// Three partitions of 60 batches, from 60 bytes to some kilobytes.
async fn write_table(dir: &Path, id: u64) -> (Table, Vec<(PartitionKey, Vec<MemBatch>)>) {
    let mut parts = Vec::new();
    let mut writer = TableWriter::create(dir, NONCE, id, 1 << 20, &config())
        .await
        .unwrap();
    for index in 0..3 {
        let batches: Vec<MemBatch> = (0..60_i64)
            .map(|nth| mem_batch(100 + nth * 2, 2, 1_000 + nth, (nth * 211 % 4000) as usize))
            .collect();
        for one in &batches {
            writer.push(key(index), one, false).await.unwrap();
        }
        parts.push((key(index), batches));
    }
    let file_bytes = writer.finish().await.unwrap();
    let unnamed = dir.join(names::table_new(id));
    streambus_shards::disk::rename(&unnamed, &dir.join(names::table(id)))
        .await
        .unwrap();
    (open(dir, id, file_bytes).await.unwrap(), parts)
}

async fn open(dir: &Path, id: u64, file_bytes: u64) -> Result<Table, StorageError> {
    Table::open_file(dir.join(names::table(id)), id, NONCE, file_bytes).await
}

async fn read(table: &Table, part: usize, wanted: Wanted) -> Option<(Vec<u8>, Offset)> {
    let part = table.part(part);
    let mut span = table.range_for(part, wanted);
    loop {
        let blocks = table.blocks_of(&span);
        let start = usize::try_from(span.start - blocks.start).unwrap();
        let length = usize::try_from(span.end - span.start).unwrap();
        let bytes = table
            .read_blocks(blocks)
            .await
            .unwrap()
            .slice(start..start + length);
        match Table::pick(part, &bytes, span.start, wanted) {
            Ok(found) => return found.map(|found| (found.bytes.to_vec(), found.next_offset)),
            Err(super::reader::PickError::Cut(further)) => span = further,
            Err(error) => panic!("{error:?}"),
        }
    }
}

#[test]
fn every_offset_is_found_at_every_size() {
    // Proves that a read from any offset begins with the batch that holds it, is whole batches,
    // no more than the limit but always one, and never empty before the end.
    let dir = tempfile::tempdir().unwrap();
    run_alone(async {
        let (table, parts) = write_table(dir.path(), 1).await;
        for (at, (key, batches)) in parts.iter().enumerate() {
            assert_eq!(table.part(at).key, *key);
            for from in 100..220 {
                for max_bytes in [0, 1, 5_000, 1 << 20] {
                    let wanted = Wanted {
                        from: Offset(from),
                        upto: Offset(i64::MAX),
                        max_bytes,
                    };
                    let (bytes, next) = read(&table, at, wanted).await.unwrap();
                    let first = usize::try_from((from - 100) / 2).unwrap();
                    let mut expected = batches[first].bytes.to_vec();
                    let mut end = first + 1;
                    while end < batches.len()
                        && expected.len() + batches[end].bytes.len() <= max_bytes
                    {
                        expected.extend_from_slice(&batches[end].bytes);
                        end += 1;
                    }
                    // A read begins at an index entry and may end a stride earlier than it could.
                    let least = if max_bytes == 1 << 20 {
                        expected.len()
                    } else {
                        61
                    };
                    assert!(bytes.len() >= least, "from {from}, at most {max_bytes}");
                    assert!(
                        expected.starts_with(&bytes),
                        "from {from}, at most {max_bytes}"
                    );
                    assert!(next > Offset(from) && next.0 <= 100 + 2 * end as i64);
                }
            }
            let capped = Wanted {
                from: Offset(110),
                upto: Offset(115),
                max_bytes: 1 << 20,
            };
            assert_eq!(read(&table, at, capped).await.unwrap().1, Offset(114));
            let nothing = Wanted {
                from: Offset(110),
                upto: Offset(111),
                max_bytes: 1 << 20,
            };
            assert!(read(&table, at, nothing).await.is_none());
        }
    })
    .unwrap();
}

#[test]
fn no_damaged_byte_is_returned() {
    // Proves that a flipped bit anywhere in a table is noticed: on opening or on reading.
    let dir = tempfile::tempdir().unwrap();
    run_alone(async {
        let (table, _) = write_table(dir.path(), 1).await;
        let (data_bytes, file_bytes) = (table.footer.data_bytes, table.file_bytes);
        drop(table);
        let path = dir.path().join(names::table(1));
        let sound = std::fs::read(&path).unwrap();
        for at in (0..sound.len()).step_by(1_777) {
            let mut damaged = sound.clone();
            damaged[at] ^= 1;
            std::fs::write(&path, &damaged).unwrap();
            let opened = open(dir.path(), 1, file_bytes).await;
            let all = 0..data_bytes;
            let noticed = match opened {
                Err(StorageError::Corrupt { .. }) => true,
                Err(error) => panic!("byte {at}: {error}"),
                Ok(table) => table.read_blocks(table.blocks_of(&all)).await.is_err(),
            };
            let at = at as u64;
            // Padding behind data, footer and trailer is not covered, and never read.
            let padding = sound[at as usize] == 0 && at >= data_bytes;
            assert!(noticed || padding, "byte {at}");
        }
        std::fs::write(&path, &sound[..sound.len() - 4096]).unwrap();
        assert!(open(dir.path(), 1, file_bytes).await.is_err(), "cut short");
    })
    .unwrap();
}

#[test]
fn a_block_of_another_place_does_not_verify() {
    // Proves that checksums are bound to lane, table, position and length.
    let bytes = [7; 512];
    let sound = checksum(NONCE, 1, 4096, &bytes);
    assert_eq!(sound, checksum(NONCE, 1, 4096, &bytes));
    assert_ne!(sound, checksum(NONCE, 2, 4096, &bytes));
    assert_ne!(sound, checksum(NONCE, 1, 8192, &bytes));
    assert_ne!(sound, checksum(Nonce(1), 1, 4096, &bytes));
    assert_ne!(
        checksum(NONCE, 1, 0, &[0; 8]),
        checksum(NONCE, 1, 0, &[0; 9])
    );
}

fn golden_footer() -> Footer {
    golden_layout().finish()
}

fn golden_layout() -> Layout {
    let mut layout = Layout::new(NONCE, 3, 4096, 100);
    for (index, base) in [(0, 10), (0, 12), (1, 0)] {
        let one = mem_batch(base, 2, base * 10, 3000);
        layout.add(
            key(index),
            one.base_offset,
            one.last_offset,
            one.max_timestamp,
            &one.bytes,
        );
    }
    layout
}

/// The same with a third partition whose keys are noted, and the bytes of its filter.
fn golden_layout_with_keys() -> (Layout, Vec<Vec<u8>>) {
    run_alone(async {
        let mut layout = golden_layout();
        for base in 0..30_i64 {
            let mut builder = BatchBuilder::new(Codec::None);
            builder.set_place(Offset(base), LeaderEpoch(1));
            builder.push(&NewRecord {
                timestamp: base,
                key: Some(format!("key {base}").as_bytes()),
                value: Some(&[9; 60]),
                headers: &[],
            });
            let one = builder.build();
            layout.add(key(2), Offset(base), Offset(base), base, &one);
            layout
                .note_keys(&one, KeyHash::new(NONCE), &mut Vec::new())
                .await;
        }
        let filters = layout.place_filters().await;
        (layout, filters)
    })
    .unwrap()
}

/// Trailer and footer, and what else the format says.
fn table_end(footer: &Footer, version: u16, filters: &[Vec<u8>]) -> (Vec<u8>, Trailer) {
    let encoded = footer.encode();
    let trailer = Trailer {
        version,
        id: 3,
        footer_position: 12_288,
        footer_bytes: u32::try_from(encoded.len()).unwrap(),
        footer_crc: checksum(NONCE, 3, 12_288, &encoded),
    };
    let mut bytes = trailer.encode(NONCE).to_vec();
    bytes.extend_from_slice(&encoded);
    bytes.extend(filters.concat());
    (bytes, trailer)
}

#[test]
fn the_format_is_what_it_was() {
    // Proves that tables of earlier builds are still read: the bytes are those of versions 1, which
    // knew no filters, and 2; and that a key is found by the bits of a filter of version 2.
    let golden = include_bytes!("../../golden/table-end-v1.bin");
    let TrailerRead::Valid(trailer) = Trailer::decode(golden, NONCE, 3) else {
        panic!("version 1 is read");
    };
    assert_eq!(trailer.version, 1);
    assert_eq!(Footer::decode(&golden[64..], 1), Ok(golden_footer()));

    let (layout, filters) = golden_layout_with_keys();
    let footer = layout.finish();
    let (bytes, trailer) = table_end(&footer, 2, &filters);
    let golden = include_bytes!("../../golden/table-end-v2.bin");
    assert_eq!(bytes, golden, "a changed format needs a new version");
    assert_eq!(
        Trailer::decode(golden, NONCE, 3),
        TrailerRead::Valid(trailer)
    );
    let end = 64 + trailer.footer_bytes as usize;
    assert_eq!(Footer::decode(&golden[64..end], 2), Ok(footer.clone()));
    let part = &footer.parts[2];
    let [filter] = part.filters[..] else {
        panic!("one filter for the part with keys");
    };
    for base in 0..30_u32 {
        let key = FilterKey::new(KeyHash::new(NONCE).of(format!("key {base}").as_bytes()));
        let found: Vec<u32> = filter.segments_with(key, &golden[end..]).collect();
        let at = part.index_before(Offset(i64::from(base))).0;
        assert!(
            found.contains(&((at / SEGMENT_ENTRIES) as u32)),
            "key {base}"
        );
    }
    let mut newer = trailer;
    newer.version = 3;
    let newer = newer.encode(NONCE);
    assert_eq!(
        Trailer::decode(&newer, NONCE, 3),
        TrailerRead::OtherVersion(3)
    );
}

#[test]
fn filters_that_contradict_their_table_are_refused() {
    // Proves that a footer whose filters overlap, leave the part, lie elsewhere or have impossible
    // sizes does not decode: a forged one must not make a reader panic.
    let (layout, _) = golden_layout_with_keys();
    let footer = layout.finish();
    let sound = footer.parts[2].filters[0];
    let broken = [
        KeyFilter {
            segments: 0,
            ..sound
        },
        KeyFilter {
            segments: 900,
            ..sound
        },
        KeyFilter {
            first_segment: u32::MAX,
            ..sound
        },
        KeyFilter {
            position: sound.position - 1,
            ..sound
        },
        KeyFilter {
            bytes: sound.bytes + 1,
            ..sound
        },
        KeyFilter { bytes: 0, ..sound },
        KeyFilter { probes: 0, ..sound },
        KeyFilter {
            probes: 27,
            ..sound
        },
    ];
    for filter in broken {
        let mut changed = footer.clone();
        changed.parts[2].filters[0] = filter;
        assert!(Footer::decode(&changed.encode(), 2).is_err(), "{filter:?}");
    }
    let mut twice = footer.clone();
    twice.parts[2].filters.push(sound);
    assert!(Footer::decode(&twice.encode(), 2).is_err());
    assert!(Footer::decode(&footer.encode(), 1).is_err());
}

#[test]
fn cut_footers_are_refused() {
    // Proves that no prefix of a footer decodes, and that decoding never panics.
    let (layout, _) = golden_layout_with_keys();
    let encoded = layout.finish().encode();
    for at in 0..encoded.len() {
        assert!(Footer::decode(&encoded[..at], 2).is_err(), "cut at {at}");
        let mut changed = encoded.clone();
        changed[at] ^= 0xff;
        let _ = Footer::decode(&changed, 2);
    }
}

#[test]
fn no_bytes_are_too_much_for_the_footer_decoder() {
    // Proves that mutations of footers, whose checksum is taken for right, are refused or agree with themselves:
    // every look-up in one that is taken stays within its part.
    let golden = include_bytes!("../../golden/table-end-v1.bin");
    let samples = [golden_footer().encode(), golden[64..].to_vec()];
    streambus_shards::sim::mutated(&samples, |bytes| {
        for version in 0..=TABLE_VERSION {
            let Ok(footer) = Footer::decode(bytes, version) else {
                continue;
            };
            for part in &footer.parts {
                let end = part.position + part.bytes;
                assert!(end <= footer.data_bytes);
                for offset in [Offset(i64::MIN), part.start, part.end, Offset(i64::MAX)] {
                    let (at, entry) = part.index_before(offset);
                    let stride = entry.position..part.stride_end(at);
                    assert!(stride.start < stride.end && stride.end <= end, "{stride:?}");
                }
                for segment in 0..part.segments() {
                    let range = part.segment_range(segment);
                    assert!(range.start < range.end && range.end <= end, "{range:?}");
                }
            }
            if version == TABLE_VERSION {
                assert_eq!(Footer::decode(&footer.encode(), version), Ok(footer));
            }
        }
    });
}

#[test]
fn no_bytes_are_too_much_for_reads_of_batches() {
    // Proves that picking batches out of bytes that are none, or lie, ends without a panic and never beyond
    // the part: what a forged table would hand to it.
    let batches: Vec<u8> = (0..5)
        .flat_map(|nth| mem_batch(100 + 2 * nth, 2, 7, 90).bytes.to_vec())
        .collect();
    let part = TablePart {
        key: key(0),
        start: Offset(100),
        end: Offset(110),
        position: 0,
        bytes: batches.len() as u64,
        max_timestamp: 7,
        index: vec![IndexEntry {
            offset: Offset(100),
            position: 0,
            max_timestamp: 7,
        }],
        filters: Vec::new(),
    };
    streambus_shards::sim::mutated(&[batches], |bytes| {
        let bytes = Buf::from(bytes.clone());
        for (from, max_bytes) in [(100, 0), (100, 1 << 20), (105, 200), (109, 1)] {
            let wanted = Wanted {
                from: Offset(from),
                upto: Offset(110),
                max_bytes,
            };
            if let Ok(Some(read)) = Table::pick(&part, &bytes, 0, wanted) {
                assert!(read.range.end <= part.bytes && read.next_offset <= Offset(110));
            }
        }
    });
}

#[test]
fn no_bytes_are_too_much_for_the_trailer_decoder() {
    // Proves that mutations of a table's last block are read or refused, and never panic.
    let golden = include_bytes!("../../golden/table-end-v1.bin");
    streambus_shards::sim::mutated(&[golden[..64].to_vec()], |bytes| {
        if let TrailerRead::Valid(trailer) = Trailer::decode(bytes, NONCE, 3) {
            assert_eq!(trailer.id, 3);
        }
    });
}
