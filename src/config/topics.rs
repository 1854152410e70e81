//! What a topic gets that does not say otherwise: Kafka's broker-wide defaults by Kafka's names.

use super::{
    section::section,
    value::{Closed, choice},
};

choice! {
    /// What happens to a topic's old records.
    pub enum CleanupPolicy {
        /// They are dropped by age and size.
        Delete = "delete",
        /// The newest record of each key stays.
        Compact = "compact",
        /// Both.
        CompactDelete = "compact,delete",
    }
}

choice! {
    /// Which compression batches are stored with.
    pub enum Compression {
        /// The producer's own, untouched.
        Producer = "producer",
        /// None.
        Uncompressed = "uncompressed",
        /// gzip.
        Gzip = "gzip",
        /// Snappy.
        Snappy = "snappy",
        /// LZ4.
        Lz4 = "lz4",
        /// Zstandard.
        Zstd = "zstd",
    }
}

choice! {
    /// Whose clock a record's timestamp is.
    pub enum TimestampType {
        /// The producer's.
        CreateTime = "CreateTime",
        /// The broker's, at the append.
        LogAppendTime = "LogAppendTime",
    }
}

section! {
    /// Defaults of new topics. A topic's own settings come before them.
    pub struct TopicsConfig {
        /// Whether a topic that a client names is made when it is missing.
        auto_create_topics_enable: bool = true, in Closed;
        /// Partitions of a topic that is made without a count.
        num_partitions: i32 = 1, in 1..=10_000;
        /// Replicas of a partition that is made without a count.
        default_replication_factor: i32 = 1, in 1..=1_000;
        /// The largest batch, its header included.
        message_max_bytes: i32 = 1_048_588, in 1_024..=104_857_600;
        /// How long records are kept; -1 for ever.
        retention_ms: i64 = 604_800_000, in -1..=i64::MAX;
        /// How many bytes of a partition are kept; -1 all.
        retention_bytes: i64 = -1, in -1..=i64::MAX;
        /// How often `retention.ms` is enforced; `retention.bytes` is every ten seconds.
        retention_check_interval_ms: u64 = 300_000, in 100..=86_400_000;
        /// Accepted for Kafka's sake and shown to clients: tables take the place of segments.
        segment_bytes: i32 = 1_073_741_824, in 1_048_576..=i32::MAX;
        /// Accepted for Kafka's sake and shown to clients: tables take the place of segments.
        segment_ms: i64 = 604_800_000, in 1..=i64::MAX;
        /// Replicas that must hold a batch before acks=all is answered.
        min_insync_replicas: i32 = 1, in 1..=1_000;
        /// What happens to old records: "delete", "compact" or "compact,delete".
        cleanup_policy: CleanupPolicy = CleanupPolicy::Delete, in Closed;
        /// How batches are stored: "producer" keeps each as it was sent.
        compression_type: Compression = Compression::Producer, in Closed;
        /// Whose clock timestamps are: `CreateTime` (the producer's) or `LogAppendTime` (the broker's).
        message_timestamp_type: TimestampType = TimestampType::CreateTime, in Closed;
        /// How far in the past a producer's timestamp may lie.
        message_timestamp_before_max_ms: i64 = i64::MAX, in 0..=i64::MAX;
        /// How far in the future a producer's timestamp may lie.
        message_timestamp_after_max_ms: i64 = 3_600_000, in 0..=i64::MAX;
        /// Whether a topic may be deleted.
        delete_topic_enable: bool = true, in Closed;
    }
}
