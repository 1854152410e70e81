//! What a request may make the broker build: bounded before its arrays are walked, charged to its connection
//! before anything is built.
//!
//! An entry (a topic, a partition, a resource, nested ones too) takes a few bytes on the wire and some hundred in
//! memory, here and in the answer. So 100 MiB of the smallest entries would take tens of gigabytes. The
//! bound is `limits.request_memory_bytes_max`; what an entry of each API costs stands here.

use streambus_proto::api::ApiKey;
use streambus_shards::yield_now;

/// Entries that a handler looks at before other tasks of its core get a turn: about 100 µs.
const ENTRIES_PER_STEP: usize = 256;

/// How often the text of a request is in memory at most: as it is kept, in the answer, and where the answer is
/// being written.
const COPIES: usize = 3;

/// What an entry of a request costs in memory at most, from the request's own structs to the bytes of
/// the answer, the request itself not counted. `tests/cluster/entries.rs` measures that it holds.
fn entry_bytes(api: ApiKey) -> usize {
    match api {
        // A place, and an answer that is written as it comes.
        ApiKey::ListOffsets
        | ApiKey::OffsetForLeaderEpoch
        | ApiKey::DeleteRecords
        | ApiKey::DescribeProducers => 128,
        // A place, a batch on its way, and a written answer.
        ApiKey::Produce => 320,
        // A partition of a session, its read, what was found, and a written answer.
        ApiKey::Fetch => 640,
        // A name, and a written answer that has a message or settings.
        ApiKey::Metadata | ApiKey::DescribeConfigs | ApiKey::DeleteTopics => 768,
        // Structs of names, commands, results and messages; as much as keeps what is done with all of them at
        // once, reading and writing, within a step.
        _ => 1_536,
    }
}

/// Why a request is not served: its entries would take too much memory.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "a {name} request of {body_bytes} bytes would take more memory than \
     limits.request_memory_bytes_max={bytes_max}, at {COPIES} times its bytes and {entry_bytes} bytes for each \
     entry of its arrays: split it, or raise the setting"
)]
pub(super) struct TooMuch {
    name: &'static str,
    body_bytes: usize,
    entry_bytes: usize,
    bytes_max: usize,
}

/// The bound for one request.
#[derive(Debug, Clone, Copy)]
pub(super) struct RequestMemory {
    api: ApiKey,
    body_bytes: usize,
    bytes_max: usize,
    /// Bytes of the request that are copied.
    copied_bytes: usize,
    /// How many entries it may have.
    pub(super) entries_max: usize,
}

impl RequestMemory {
    /// The bound for a request of this API, whose message has so many bytes.
    ///
    /// # Errors
    /// [`TooMuch`] if the bytes alone are too many.
    pub(super) fn new(
        api: ApiKey,
        body_bytes: usize,
        bytes_max: usize,
    ) -> Result<RequestMemory, TooMuch> {
        // The records of a produce request stay where they are.
        let copied_bytes = match api {
            ApiKey::Produce => 0,
            _ => body_bytes * COPIES,
        };
        let mut memory = RequestMemory {
            api,
            body_bytes,
            bytes_max,
            copied_bytes,
            entries_max: 0,
        };
        let left = bytes_max.checked_sub(copied_bytes);
        memory.entries_max = left.ok_or_else(|| memory.too_much())? / entry_bytes(api);
        Ok(memory)
    }

    /// Names of a produce request that are copied, found while it is sorted out.
    ///
    /// # Errors
    /// [`TooMuch`].
    pub(super) fn copy(&mut self, bytes: usize) -> Result<(), TooMuch> {
        self.copied_bytes += bytes * COPIES;
        if self.copied_bytes > self.bytes_max {
            return Err(self.too_much());
        }
        Ok(())
    }

    /// What `entries` of them cost, of which a byte of the request is the least that each takes.
    pub(super) fn cost_bytes(&self, entries: usize) -> usize {
        let entries = entries.min(self.entries_max).min(self.body_bytes);
        self.copied_bytes + entries * entry_bytes(self.api)
    }

    /// Bytes from which on an answer ends that is not bounded by the request's entries.
    pub(super) fn answer_bytes_max(&self) -> usize {
        self.bytes_max / COPIES
    }

    /// The refusal.
    pub(super) fn too_much(&self) -> TooMuch {
        TooMuch {
            name: self.api.info().name,
            body_bytes: self.body_bytes,
            entry_bytes: entry_bytes(self.api),
            bytes_max: self.bytes_max,
        }
    }
}

/// Gives the other tasks of the core their turn while many entries are looked at.
#[derive(Debug, Default)]
pub(super) struct Steps {
    taken: usize,
}

impl Steps {
    /// Before each entry.
    #[inline]
    pub(super) async fn next(&mut self) {
        self.take(1).await;
    }

    /// Before work that is as much as that of `entries` entries.
    #[inline]
    pub(super) async fn take(&mut self, entries: usize) {
        self.taken += entries;
        if self.taken > ENTRIES_PER_STEP {
            self.taken = 0;
            yield_now().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_entries_share_one_bound() {
        // Proves: what the bytes take is left out of what the entries may take, a request of which the bytes
        // alone are too many is refused, and records of a produce request count only by their names.
        let bound = |api, body| RequestMemory::new(api, body, 48 << 20);
        let entries = |api, body| bound(api, body).map(|memory| memory.entries_max).ok();
        assert_eq!(entries(ApiKey::Metadata, 0), Some(65_536));
        assert_eq!(entries(ApiKey::Metadata, 8 << 20), Some(32_768));
        assert_eq!(entries(ApiKey::Metadata, 16 << 20), Some(0));
        assert_eq!(entries(ApiKey::Metadata, (16 << 20) + 1), None);
        assert_eq!(entries(ApiKey::Produce, 100 << 20), Some(157_286));
        let mut produce = bound(ApiKey::Produce, 100 << 20).unwrap();
        assert_eq!(produce.copy(15 << 20), Ok(()));
        assert_eq!(produce.cost_bytes(2), (45 << 20) + 640);
        assert_eq!(produce.copy(2 << 20), Err(produce.too_much()));
    }

    #[test]
    fn no_request_costs_more_than_its_bytes_could_name() {
        // Proves that a small request is charged little before it is read: an entry takes a byte at least.
        let memory = RequestMemory::new(ApiKey::Metadata, 40, 48 << 20).unwrap();
        assert_eq!(memory.cost_bytes(usize::MAX), 3 * 40 + 40 * 768);
    }

    #[test]
    fn a_node_of_the_largest_size_can_be_asked_about() {
        // Proves that the default lets through what stock clients ask of a full node: all partitions of
        // `limits.partitions_max` in one ListOffsets, a fetch of the largest session.
        let limits = crate::config::LimitsConfig::default();
        let entries = |api, body| {
            let memory = RequestMemory::new(api, body, limits.request_memory_bytes_max);
            memory.unwrap().entries_max
        };
        let partitions = limits.partitions_max;
        assert!(entries(ApiKey::ListOffsets, partitions * 24) > partitions + limits.topics_max);
        assert!(entries(ApiKey::Fetch, 3 << 20) > limits.fetch_session_partitions_max);
        assert!(entries(ApiKey::Metadata, limits.topics_max * 24) > limits.topics_max);
    }
}
