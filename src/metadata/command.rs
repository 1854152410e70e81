//! Commands: what may be asked of the metadata, and the answer when it is refused.

use std::fmt::{self, Display};

use streambus_proto::error_code::ErrorCode;
use streambus_proto::ids::TopicId;

use super::alteration::Alteration;
use super::image::{ConfigScope, NodeId};

/// A wish to change the metadata. It carries everything that is not in the image, chance included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Make a topic.
    CreateTopic {
        /// Its name.
        name: String,
        /// Its id, drawn by whoever asks.
        id: TopicId,
        /// How many partitions, where.
        layout: Layout,
        /// Its settings; Kafka's protocol lets a value be null, the rules do not.
        configs: Vec<(String, Option<String>)>,
    },
    /// Delete a topic.
    DeleteTopic {
        /// Its id.
        id: TopicId,
    },
    /// Give a topic more partitions.
    CreatePartitions {
        /// The topic's name.
        topic: String,
        /// How many it is to have in all.
        count: i32,
        /// Where the new ones go, if the asker says it.
        manual: Option<Vec<ManualPartition>>,
    },
    /// Change a topic's settings.
    AlterTopicConfig {
        /// The topic's name.
        topic: String,
        /// How.
        alteration: Alteration,
    },
    /// Change broker settings.
    AlterBrokerConfig {
        /// Whose.
        scope: ConfigScope,
        /// How.
        alteration: Alteration,
    },
    /// Forget deleted topics: no lane holds anything of them any more.
    ForgetTopics {
        /// Their ids; those that are not remembered do no harm.
        ids: Vec<TopicId>,
    },
    /// Take a block of producer ids.
    AllocateProducerIds {
        /// How many.
        count: u32,
    },
}

/// How many partitions a new topic has and where they live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layout {
    /// The rule of [`super::placement`] decides.
    Auto {
        /// How many, -1 for `num.partitions`.
        partitions: i32,
        /// On how many nodes, -1 for `default.replication.factor`.
        replication_factor: i16,
    },
    /// The asker decides, partition by partition.
    Manual(Vec<ManualPartition>),
}

/// Where one partition is to live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManualPartition {
    /// The nodes, the preferred leader first.
    pub replicas: Vec<NodeId>,
    /// The lane, if the asker named a core; else the least loaded.
    pub lane: Option<u16>,
}

/// Why a command changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Kafka's code.
    pub code: ErrorCode,
    /// What, with which value, why, and what to do.
    pub message: String,
}

impl Refusal {
    /// A refusal.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Refusal {
        Refusal {
            code,
            message: message.into(),
        }
    }
}

impl Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:?}: {}", self.code, self.message)
    }
}
