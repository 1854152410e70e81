//! Deltas: what a command came to. They are what the metadata log keeps and what cores absorb.

use streambus_proto::ids::TopicId;

use super::image::{ConfigMap, ConfigScope, NodeId, PartitionPlace};

/// The place of a delta in the metadata log: the first is 1, the next one more.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct MetadataIndex(pub u64);

impl MetadataIndex {
    /// The index that follows.
    #[must_use]
    pub fn next(self) -> MetadataIndex {
        MetadataIndex(self.0 + 1)
    }
}

/// All changes of one command: absorbed together or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delta {
    /// Its place in the log.
    pub index: MetadataIndex,
    /// The changes, in order.
    pub changes: Vec<Change>,
}

/// One fact that changed. It says what holds now, not what was asked for, so that a later version
/// with other rules replays an old log to the same image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A topic exists.
    TopicCreated {
        /// Its name.
        name: String,
        /// Its id.
        id: TopicId,
        /// Its partitions by index.
        partitions: Vec<PartitionPlace>,
        /// The settings it was given.
        configs: ConfigMap,
    },
    /// A topic is gone.
    TopicDeleted {
        /// Its id.
        id: TopicId,
    },
    /// A topic has more partitions.
    PartitionsAdded {
        /// The topic.
        id: TopicId,
        /// The index of the first new one.
        first: i32,
        /// The new ones.
        partitions: Vec<PartitionPlace>,
    },
    /// A topic has these settings and no others.
    TopicConfigsSet {
        /// The topic.
        id: TopicId,
        /// All that it was given.
        configs: ConfigMap,
    },
    /// A scope has these broker settings and no others.
    BrokerConfigsSet {
        /// Whose.
        scope: ConfigScope,
        /// All that it was given.
        configs: ConfigMap,
    },
    /// Of these deleted topics, and of no others, a lane may still hold something.
    DeletedTopicsSet {
        /// Their ids.
        ids: Vec<TopicId>,
    },
    /// These producer ids are taken.
    ProducerIdsAllocated {
        /// The first of them.
        first: i64,
        /// How many.
        count: u32,
    },
    /// A node has more lanes: made at its start, before anybody is served.
    LanesAdded {
        /// The node.
        node: NodeId,
        /// How many it has now.
        lanes: u16,
    },
}
