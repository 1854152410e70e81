//! The gate that a produced batch passes: its header and CRC, and beside them the walk over its records for the largest
//! timestamp. Of the walk's cost a produce request sees the difference between the two.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use streambus_proto::records::{BatchBuilder, BatchView, Codec, NewRecord};

fn batch(records: usize, value_bytes: usize) -> Vec<u8> {
    let value = vec![0x5a; value_bytes];
    let mut builder = BatchBuilder::new(Codec::None);
    for _ in 0..records {
        builder.push(&NewRecord {
            timestamp: 1_700_000_000_000,
            value: Some(&value),
            ..NewRecord::default()
        });
    }
    builder.build()
}

fn gate(criterion: &mut Criterion) {
    for (name, records, value_bytes) in [
        ("one_of_1_kib", 1, 954),
        ("100_of_100_bytes", 100, 100),
        ("1000_of_1_kib", 1_000, 1_014),
        ("10000_of_100_bytes", 10_000, 93),
    ] {
        let batch = batch(records, value_bytes);
        criterion.bench_function(&format!("gate/{name}"), |bencher| {
            bencher.iter(|| BatchView::produced(black_box(&batch)).expect("sound").crc());
        });
        criterion.bench_function(&format!("gate_and_walk/{name}"), |bencher| {
            bencher.iter(|| {
                let batch = BatchView::produced(black_box(&batch)).expect("sound");
                batch.timestamp_range().expect("sound").newest
            });
        });
    }
}

fn configured() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(2))
}

criterion_group! {
    name = records;
    config = configured();
    targets = gate
}
criterion_main!(records);
