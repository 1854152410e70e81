//! What one core may ask of another: operations on partitions, by whoever holds the request, and
//! metadata commands and deltas between the controller and everyone.
//!
//! All of it is owned and `Send`. Record bytes travel as reference-counted slices: a hop copies none.

use std::borrow::Cow;
use std::sync::Arc;

use streambus_proto::error_code::ErrorCode;
use streambus_proto::ids::{LeaderEpoch, Offset, TopicId};
use streambus_shards::{Buf, CoreId};
use streambus_storage::PartitionKey;

use crate::metadata::{Command, Decision, Delta, MetadataIndex};
use crate::partition::Isolation;
use crate::partition::producers::ProducerView;

/// A request from core to core.
#[derive(Debug)]
pub enum Op {
    /// Append batches and answer when they are committed.
    Append(Vec<AppendItem>),
    /// Read what is there.
    Read {
        /// From which partitions.
        items: Vec<ReadItem>,
        /// About how many bytes together.
        bytes_max: usize,
    },
    /// Call back with [`Op::Wake`] once these partitions have enough records more.
    Park {
        /// The partitions.
        items: Vec<WaitItem>,
        /// Bytes that they must bring together.
        missing: usize,
        /// Who is to be called.
        asker: CoreId,
        /// With which number.
        number: u64,
        /// Within this time, or not at all.
        wait_ms: u64,
    },
    /// Forget a [`Op::Park`]: nobody waits any more.
    Unpark {
        /// Who asked.
        asker: CoreId,
        /// With which number.
        number: u64,
    },
    /// There is enough for the fetch of this number.
    Wake {
        /// Who calls back.
        from: CoreId,
        /// The number.
        number: u64,
    },
    /// Look offsets up.
    Offsets(Vec<OffsetItem>),
    /// Find where leader epochs end.
    EpochEnds(Vec<EpochItem>),
    /// Move log starts forward.
    DeleteRecords(Vec<(PartitionKey, i64)>),
    /// Sizes on disk of all partitions of the core.
    Sizes,
    /// Who produces to these partitions.
    Producers(Vec<PartitionKey>),
    /// To the controller: make this command true.
    Submit(Command),
    /// From the controller: absorb this delta.
    Absorb(Arc<Delta>),
    /// Which deleted topics the core's lanes still hold.
    Dropping,
    /// Answered by a core that has started.
    Ping,
    /// The node stops: finish what is begun, then close.
    Drain,
    /// A core that was told to stop has no connections any more.
    Drained,
}

/// The answer to an [`Op`], in the order of its items.
#[derive(Debug)]
pub enum Reply {
    /// To [`Op::Append`].
    Append(Vec<AppendOutcome>),
    /// To [`Op::Read`].
    Read(Vec<ReadOutcome>),
    /// To [`Op::Park`]: `false` if there is enough already, and nobody will call.
    Parked(bool),
    /// To [`Op::Offsets`].
    Offsets(Vec<Result<FoundOffset, ErrorCode>>),
    /// To [`Op::EpochEnds`].
    EpochEnds(Vec<Result<(LeaderEpoch, Offset), ErrorCode>>),
    /// To [`Op::DeleteRecords`]: the log start that holds now.
    DeleteRecords(Vec<Result<Offset, ErrorCode>>),
    /// To [`Op::Sizes`].
    Sizes(Vec<PartitionSize>),
    /// To [`Op::Producers`].
    Producers(Vec<Result<Vec<ProducerView>, ErrorCode>>),
    /// To [`Op::Submit`].
    Submit(Decision),
    /// To [`Op::Dropping`].
    Dropping {
        /// The last delta that the core has absorbed.
        index: MetadataIndex,
        /// The topics.
        topics: Vec<TopicId>,
    },
    /// To those that only are to be done.
    Done,
    /// To all: the core has ended, and may or may not have done it before.
    Stopped,
}

/// One batch for one partition.
#[derive(Debug, Clone)]
pub struct AppendItem {
    /// The partition.
    pub key: PartitionKey,
    /// The batch as produced.
    pub records: Buf,
    /// Whether every in-sync replica must hold it (`acks=all`).
    pub acks_all: bool,
    /// The lowest sequence of its producer that the core of its connection refused and that has to
    /// come first, if there is one.
    pub awaited: Option<i32>,
}

/// What became of an [`AppendItem`].
pub type AppendOutcome = Result<Appended, AppendRefusal>;

/// A committed batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// The offset of its first record.
    pub base_offset: Offset,
    /// The broker's time if the topic stamps it on records, else -1.
    pub log_append_time_ms: i64,
    /// The partition's log start.
    pub log_start: Offset,
    /// Records that were appended; 0 for a duplicate.
    pub record_count: u32,
}

/// A refused batch. Nothing of it was appended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppendRefusal {
    /// Kafka's code.
    pub code: ErrorCode,
    /// What, with which value, and the remedy; empty where the code says it all.
    pub message: String,
    /// Records that are to blame, by their place in the batch, and why; not more of them than an
    /// answer should carry.
    pub records: Vec<(i32, Cow<'static, str>)>,
}

impl AppendRefusal {
    /// The whole batch is refused for one reason.
    pub fn new(code: ErrorCode, message: String) -> AppendRefusal {
        AppendRefusal {
            code,
            message,
            records: Vec::new(),
        }
    }
}

impl From<ErrorCode> for AppendRefusal {
    fn from(code: ErrorCode) -> AppendRefusal {
        AppendRefusal::new(code, String::new())
    }
}

/// One partition's part of a fetch.
#[derive(Debug, Clone, Copy)]
pub struct ReadItem {
    /// The partition.
    pub key: PartitionKey,
    /// First offset wanted.
    pub from: i64,
    /// About how many bytes; the first batch comes whole if `whole_first`.
    pub bytes_max: usize,
    /// Whether a first batch larger than `bytes_max` is returned anyway, so that a reader never
    /// gets stuck behind it.
    pub whole_first: bool,
    /// How far it may see.
    pub isolation: Isolation,
    /// The leader epoch the client believes in, -1 if it does not say.
    pub current_leader_epoch: i32,
}

/// Why a read ended where it did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ReadEnd {
    /// There is no more that the reader may see.
    #[default]
    NoMore,
    /// The next batch is beyond the limit of this partition.
    PartitionLimit,
    /// The next batch is beyond the limit of the whole answer.
    AnswerLimit,
}

/// A partition that a fetch waits on.
#[derive(Debug, Clone, Copy)]
pub struct WaitItem {
    /// The partition.
    pub key: PartitionKey,
    /// Up to where the asker has seen it.
    pub high_watermark: Offset,
    /// How many bytes more of it are of use to the asker.
    pub bytes_max: usize,
}

/// What a [`ReadItem`] found.
#[derive(Debug, Clone, Default)]
pub struct ReadOutcome {
    /// An error, or `None`.
    pub error: ErrorCode,
    /// The high watermark, -1 if unknown.
    pub high_watermark: i64,
    /// The last stable offset, -1 if unknown.
    pub last_stable_offset: i64,
    /// The log start, -1 if unknown.
    pub log_start: i64,
    /// Whole batches, in order, as stored.
    pub records: Vec<Buf>,
    /// Why there are no more of them.
    pub end: ReadEnd,
    /// The offset after them; -1 where there are none.
    pub next_offset: i64,
}

impl ReadOutcome {
    /// Nothing but an error.
    pub fn failed(error: ErrorCode) -> ReadOutcome {
        ReadOutcome {
            error,
            high_watermark: -1,
            last_stable_offset: -1,
            log_start: -1,
            records: Vec::new(),
            end: ReadEnd::NoMore,
            next_offset: -1,
        }
    }

    /// How many bytes of records there are.
    pub fn bytes(&self) -> usize {
        self.records.iter().map(|slice| slice.len()).sum()
    }
}

/// A question of `ListOffsets`.
#[derive(Debug, Clone, Copy)]
pub struct OffsetItem {
    /// The partition.
    pub key: PartitionKey,
    /// A time in milliseconds, or one of the special values (-1 latest, -2 earliest, -3 largest
    /// timestamp, -4 earliest local, -5 latest tiered).
    pub timestamp: i64,
    /// How far the asker may see.
    pub isolation: Isolation,
    /// The leader epoch the client believes in, -1 if it does not say.
    pub current_leader_epoch: i32,
}

/// An offset with its record's timestamp; -1 where there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FoundOffset {
    /// The offset.
    pub offset: i64,
    /// The timestamp in milliseconds.
    pub timestamp: i64,
    /// The leader epoch of the record.
    pub leader_epoch: i32,
}

/// A question of `OffsetForLeaderEpoch`.
#[derive(Debug, Clone, Copy)]
pub struct EpochItem {
    /// The partition.
    pub key: PartitionKey,
    /// The epoch whose end is asked for.
    pub leader_epoch: i32,
    /// The leader epoch the client believes in, -1 if it does not say.
    pub current_leader_epoch: i32,
}

/// How much of a lane a partition takes.
#[derive(Debug, Clone, Copy)]
pub struct PartitionSize {
    /// The partition.
    pub key: PartitionKey,
    /// Bytes of its batches.
    pub size_bytes: u64,
}
