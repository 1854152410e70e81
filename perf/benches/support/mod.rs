//! What benchmarks of a lane on a disk share.

use std::cell::Cell;

use streambus_proto::ids::{Offset, TopicId};
use streambus_proto::records::{BatchBuilder, Codec, NewRecord};
use streambus_shards::sync::Notify;
use streambus_storage::{CommitMeasured, LaneObserver, PartitionKey, StorageError};

/// The partition that is measured.
pub(crate) const KEY: PartitionKey = PartitionKey {
    topic: TopicId([9; 16]),
    index: 0,
};

/// Somebody who waits until the partition's batches are durable.
#[derive(Default)]
pub(crate) struct Owner {
    /// Where its durable batches end.
    pub(crate) durable: Cell<Offset>,
    /// Rung when that moves.
    pub(crate) moved: Notify,
}

impl LaneObserver for Owner {
    fn durable(&self, moved: &[(PartitionKey, Offset)]) {
        if let Some((_, end)) = moved.iter().find(|(key, _)| *key == KEY) {
            self.durable.set(*end);
            self.moved.notify_one();
        }
    }

    fn annotation(&self, _: PartitionKey) -> Vec<u8> {
        Vec::new()
    }

    fn measured(&self, _: CommitMeasured) {}

    fn failed(&self, error: &StorageError) {
        panic!("the lane failed: {error}");
    }
}

/// One record that takes so many bytes with its batch's header.
pub(crate) fn batch(bytes: usize) -> Vec<u8> {
    let of = |value: &[u8]| {
        let mut builder = BatchBuilder::new(Codec::None);
        builder.push(&NewRecord {
            timestamp: 1_700_000_000_000,
            value: Some(value),
            ..NewRecord::default()
        });
        builder.build()
    };
    let value = noise(bytes);
    let too_much = of(&value).len() - bytes;
    of(&value[too_much..])
}

/// Bytes that no disk takes for less than they are (xorshift64).
pub(crate) fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.flatten().take(bytes).collect()
}

/// The middle of several, with the least and the most.
pub(crate) fn spread(figures: &mut [f64]) -> (f64, String) {
    figures.sort_by(f64::total_cmp);
    let middle = figures[figures.len() / 2];
    let digits = usize::from(figures[0] < 10.0) * 2;
    let text = format!(
        "{middle:.digits$} ({:.digits$}-{:.digits$})",
        figures[0],
        figures[figures.len() - 1]
    );
    (middle, text)
}
