//! Batches against an independent implementation, both ways, over seeded random records.

use super::*;
use crate::ids::{LeaderEpoch, Offset, ProducerEpoch, ProducerId};
use kafka_protocol::indexmap::IndexMap;
use kafka_protocol::protocol::StrBytes;
use kafka_protocol::records as oracle;

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }

    fn bytes(&mut self, length_max: u64) -> Option<Vec<u8>> {
        if self.below(8) == 0 {
            return None;
        }
        let length = self.below(length_max + 1);
        // Few different bytes, so that codecs have something to do.
        Some(
            (0..length)
                .map(|_| b'a' + u8::try_from(self.below(4)).unwrap())
                .collect(),
        )
    }
}

/// A record with its own bytes. Header names are distinct: the oracle keeps only one of a name.
#[derive(Debug, PartialEq)]
struct Owned {
    timestamp: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Owned {
    fn random(random: &mut Random) -> Self {
        let headers = (0..random.below(4))
            .map(|index| (format!("name{index}"), random.bytes(20)))
            .collect();
        Owned {
            timestamp: 1_700_000_000_000 + i64::try_from(random.below(1 << 34)).unwrap(),
            key: random.bytes(100),
            value: random.bytes(3_000),
            headers,
        }
    }

    fn of(record: &Record<'_>) -> Self {
        let owned = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
        Owned {
            timestamp: record.timestamp,
            key: owned(record.key),
            value: owned(record.value),
            headers: record
                .headers
                .iter()
                .map(|h| (String::from_utf8(h.key.to_vec()).unwrap(), owned(h.value)))
                .collect(),
        }
    }

    fn of_oracle(record: &oracle::Record) -> Self {
        Owned {
            timestamp: record.timestamp,
            key: record.key.as_ref().map(|bytes| bytes.to_vec()),
            value: record.value.as_ref().map(|bytes| bytes.to_vec()),
            headers: record
                .headers
                .iter()
                .map(|(key, value)| (key.to_string(), value.as_ref().map(|b| b.to_vec())))
                .collect(),
        }
    }

    fn to_oracle(&self, index: usize) -> oracle::Record {
        let headers: IndexMap<StrBytes, _> = self
            .headers
            .iter()
            .map(|(key, value)| {
                (
                    StrBytes::from_string(key.clone()),
                    value.clone().map(Into::into),
                )
            })
            .collect();
        let index = i32::try_from(index).unwrap();
        oracle::Record {
            transactional: true,
            control: false,
            delete_horizon: false,
            partition_leader_epoch: 6,
            producer_id: 900,
            producer_epoch: 5,
            timestamp_type: oracle::TimestampType::Creation,
            offset: 1_000 + i64::from(index),
            sequence: 40 + index,
            timestamp: self.timestamp,
            key: self.key.clone().map(Into::into),
            value: self.value.clone().map(Into::into),
            headers,
        }
    }
}

fn codecs() -> impl Iterator<Item = (Codec, oracle::Compression)> {
    Codec::ALL.into_iter().zip([
        oracle::Compression::None,
        oracle::Compression::Gzip,
        oracle::Compression::Snappy,
        oracle::Compression::Lz4,
        oracle::Compression::Zstd,
    ])
}

fn random_records(seed: u64) -> Vec<Owned> {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    (0..=random.below(40))
        .map(|_| Owned::random(&mut random))
        .collect()
}

#[test]
fn the_oracle_reads_what_we_write() {
    // Batches from the builder mean the same to an implementation that is not ours.
    for seed in 0..60 {
        let records = random_records(seed);
        for (codec, _) in codecs() {
            let mut builder = BatchBuilder::new(codec);
            builder.set_producer(ProducerId(900), ProducerEpoch(5), 40);
            builder.set_transactional();
            builder.set_place(Offset(1_000), LeaderEpoch(6));
            for record in &records {
                let headers: Vec<Header<'_>> = record
                    .headers
                    .iter()
                    .map(|(key, value)| Header {
                        key: key.as_bytes(),
                        value: value.as_deref(),
                    })
                    .collect();
                let new = NewRecord {
                    timestamp: record.timestamp,
                    key: record.key.as_deref(),
                    value: record.value.as_deref(),
                    headers: &headers,
                };
                let foretold = builder.len_with(&new);
                builder.push(&new);
                assert_eq!(builder.len(), foretold, "seed {seed}");
            }
            let bytes = builder.build();
            assert!(BatchView::produced(&bytes).is_ok(), "seed {seed} {codec:?}");
            let mut buffer = bytes.as_slice();
            let read = oracle::RecordBatchDecoder::decode(&mut buffer).unwrap();
            assert_eq!(read.records.len(), records.len());
            for (index, (ours, theirs)) in records.iter().zip(&read.records).enumerate() {
                assert_eq!(ours, &Owned::of_oracle(theirs), "seed {seed} {codec:?}");
                let expected = ours.to_oracle(index);
                assert_eq!(theirs, &expected, "seed {seed} {codec:?}");
            }
        }
    }
}

#[test]
fn we_read_what_the_oracle_writes() {
    // Batches of an implementation that is not ours pass the gate and mean the same to us.
    for seed in 0..60 {
        let records = random_records(seed);
        for (codec, compression) in codecs() {
            let theirs: Vec<oracle::Record> = records
                .iter()
                .enumerate()
                .map(|(index, r)| r.to_oracle(index))
                .collect();
            let mut buffer: Vec<u8> = vec![];
            let options = oracle::RecordEncodeOptions {
                version: 2,
                compression,
            };
            oracle::RecordBatchEncoder::encode(&mut buffer, &theirs, &options).unwrap();
            let batch = BatchView::produced(&buffer).unwrap();
            assert_eq!(batch.codec(), Ok(codec));
            assert_eq!(batch.base_offset(), Offset(1_000));
            assert_eq!(batch.partition_leader_epoch(), LeaderEpoch(6));
            assert_eq!(batch.producer_id(), Some(ProducerId(900)));
            assert_eq!(batch.producer_epoch(), ProducerEpoch(5));
            assert_eq!(batch.base_sequence(), 40);
            assert!(batch.attributes().is_transactional());
            let latest = records.iter().map(|record| record.timestamp).max();
            assert_eq!(Some(batch.max_timestamp()), latest);
            let mut scratch = vec![];
            let mut scan = RecordScan::new(&batch, DecompressLimits::default()).unwrap();
            let mut scanned = 0;
            let mut see = |_| {
                scanned += 1;
                std::ops::ControlFlow::Continue(())
            };
            while scan.step(&mut see).unwrap() == Progress::More {}
            assert_eq!(scanned, records.len());
            let read = batch
                .records(&mut scratch, DecompressLimits::default())
                .unwrap();
            for (index, (read, wrote)) in read.zip(&records).enumerate() {
                let read = read.unwrap();
                assert_eq!(&Owned::of(&read), wrote, "seed {seed} {codec:?}");
                assert_eq!(read.offset.0, 1_000 + i64::try_from(index).unwrap());
            }
        }
    }
}

#[test]
fn repeated_header_names_are_kept() {
    // Headers are a list, not a map: order and repetition survive.
    let headers = [
        Header {
            key: b"trace",
            value: Some(b"1"),
        },
        Header {
            key: b"",
            value: None,
        },
        Header {
            key: b"trace",
            value: Some(b"2"),
        },
    ];
    let mut builder = BatchBuilder::new(Codec::Lz4);
    builder.push(&NewRecord {
        headers: &headers,
        ..NewRecord::default()
    });
    let bytes = builder.build();
    let mut scratch = vec![];
    let batch = BatchView::produced(&bytes).unwrap();
    let mut records = batch
        .records(&mut scratch, DecompressLimits::default())
        .unwrap();
    let record = records.next().unwrap().unwrap();
    assert_eq!(record.headers.iter().collect::<Vec<_>>(), headers);
    assert_eq!(record.headers.len(), 3);
    assert!(records.next().is_none());
}
