//! The name of a partition, as every core here uses it.

use std::sync::Arc;

/// A topic's partition.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// The topic's name, shared by all that name it.
    pub topic: Arc<str>,
    /// The partition's number, from 0.
    pub index: i32,
}

impl TopicPartition {
    /// Names a partition.
    pub fn new(topic: impl Into<Arc<str>>, index: i32) -> Self {
        TopicPartition {
            topic: topic.into(),
            index,
        }
    }
}

impl std::fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.topic, self.index)
    }
}
