//! What a seed draws before it begins: which operations, at which rates and sizes, and which faults. No two
//! seeds mix alike, and each leaves much out: a fault that is always there hides what happens without it.

use std::time::Duration;

use streambus::config::Config;

use crate::dice::Dice;
use crate::history::Acks;

/// What the node is made with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NodeMix {
    /// Cores at the first start.
    pub(crate) cores: usize,
    /// Lanes, for good.
    pub(crate) lanes: usize,
    /// Whether clients begin at the listener that shows each core.
    pub(crate) shows_cores: bool,
    /// Bytes of a write-ahead log file.
    pub(crate) wal_file_bytes: u64,
    /// Bytes at which a memtable is flushed.
    pub(crate) memtable_bytes: usize,
    /// Bytes of memtables that stay in memory when they are flushed.
    pub(crate) memtables_kept_bytes: usize,
    /// Bytes of a commit, at most.
    pub(crate) commit_bytes_max: usize,
    /// Bytes of a table's block.
    pub(crate) block_bytes: usize,
    /// How often records are looked at that go by age or by key, if not as seldom as by default.
    pub(crate) retention_check_interval_ms: Option<u64>,
}

/// The largest batch: within the smallest commit.
const MESSAGE_BYTES_MAX: i32 = 12 << 10;

impl NodeMix {
    /// Puts it into a node's settings.
    pub(crate) fn configure(&self, config: &mut Config) {
        config.node.cores = self.cores;
        config.data.lanes = self.lanes;
        config.storage.wal_file_bytes = self.wal_file_bytes;
        config.storage.memtable_bytes = self.memtable_bytes;
        config.storage.memtables_kept_bytes = Some(self.memtables_kept_bytes);
        config.storage.commit_bytes_max = self.commit_bytes_max;
        config.storage.block_bytes = self.block_bytes;
        config.storage.min_free_bytes = MIN_FREE_BYTES;
        config.topics.message_max_bytes = MESSAGE_BYTES_MAX;
        if let Some(interval) = self.retention_check_interval_ms {
            config.topics.retention_check_interval_ms = interval;
        }
        config.topics.auto_create_topics_enable = false;
        config.shutdown.drain_timeout_ms = 1_000;
    }
}

/// Free bytes below which a node takes no records.
pub(crate) const MIN_FREE_BYTES: u64 = 1 << 20;

/// How one producer works.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ProducerMix {
    /// What it asks for.
    pub(crate) acks: Acks,
    /// Whether a retry of it can be told from another record.
    pub(crate) idempotent: bool,
    /// The largest record.
    pub(crate) record_bytes_max: usize,
    /// The most records that it begins at once.
    pub(crate) burst_max: usize,
    /// The longest pause between two bursts.
    pub(crate) pause_max: Duration,
}

/// A topic that is there from the beginning.
#[derive(Debug, Clone)]
pub(crate) struct TopicMix {
    /// Its partitions.
    pub(crate) partitions: i32,
    /// Its settings.
    pub(crate) configs: Vec<(&'static str, String)>,
}

/// What goes wrong, and how often.
#[derive(Debug, Clone)]
pub(crate) struct FaultMix {
    /// The kinds that may happen.
    pub(crate) kinds: Vec<FaultKind>,
    /// The longest pause between two.
    pub(crate) pause_max: Duration,
    /// The longest that the node stays down.
    pub(crate) down_max: Duration,
    /// Chances that hold as long as the seed has faults, of a million.
    pub(crate) short_io_per_million: u32,
}

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FaultKind {
    /// `kill -9`, at any poll.
    KillProcess,
    /// Power loss, at any poll.
    KillPower,
    /// A stop in good order.
    Stop,
    /// A task of the broker panics.
    Panic,
    /// A sync fails, and the next one does not.
    FailSync,
    /// Writes fail.
    FailWrites,
    /// Reads fail for a while.
    FailReads,
    /// The disk is full for a while.
    NoSpace,
    /// The disk is slow for a while.
    SlowDisk,
    /// Connections break.
    Reset,
    /// One end of a connection forgets it.
    HalfOpen,
    /// Nothing passes for a while, one way or both.
    Partition,
    /// The network loses packets for a while.
    Loss,
    /// Bytes come in small pieces for a while.
    TinyChunks,
    /// A core stands still.
    Stall,
    /// The wall clock jumps.
    Clock,
    /// A bit rots.
    Rot,
    /// A sector lies over another.
    Misplace,
    /// A sector can't be read.
    Unreadable,
    /// Files are not opened, removed or renamed for a while.
    FailNames,
    /// A sync finds no space.
    SyncNoSpace,
}

/// Every kind that a healthy disk meets.
pub(crate) const ALL_KINDS: [FaultKind; 16] = [
    FaultKind::KillProcess,
    FaultKind::KillPower,
    FaultKind::Stop,
    FaultKind::Panic,
    FaultKind::FailSync,
    FaultKind::FailWrites,
    FaultKind::FailReads,
    FaultKind::NoSpace,
    FaultKind::SlowDisk,
    FaultKind::Reset,
    FaultKind::HalfOpen,
    FaultKind::Partition,
    FaultKind::Loss,
    FaultKind::TinyChunks,
    FaultKind::Stall,
    FaultKind::Clock,
];

/// What takes bytes away for good. There is one good copy, kept aside by the simulator: it comes back after
/// a while, as from a replica or a backup, and until then no wrong byte may be served or built upon.
const DECAY: [FaultKind; 2] = [FaultKind::Rot, FaultKind::Misplace];
/// The disk decays in one seed of so many: by its number, so that the others draw what they always drew.
const DECAY_ONE_OF: u64 = 5;

/// Whether the disk of a seed decays.
pub(crate) fn decays(seed: u64) -> bool {
    seed % DECAY_ONE_OF == 3
}

/// What a disk without a good answer does: it gives bytes to nobody, for good or for a while, or has no space for
/// what it took.
const REFUSAL: [FaultKind; 3] = [
    FaultKind::Unreadable,
    FaultKind::FailNames,
    FaultKind::SyncNoSpace,
];

/// Whether the disk of a seed refuses; by its number too.
fn refuses(seed: u64) -> bool {
    seed % DECAY_ONE_OF == 1
}

/// Topics are compacted in one seed of so many: by its number, so that the others draw what they always drew.
const COMPACTS_ONE_OF: u64 = 7;

/// Whether topics of a seed keep only the newest record of each key.
pub(crate) fn compacts(seed: u64) -> bool {
    seed % COMPACTS_ONE_OF == 4
}

/// What such a topic is made with, beside what was drawn: it is compacted while the seed works, and its tombstones go at
/// once, soon or not at all.
fn compaction(seed: u64, topic: usize) -> Vec<(&'static str, String)> {
    let turn = usize::try_from(seed / COMPACTS_ONE_OF).unwrap_or_default() + topic;
    let policy = ["compact", "compact", "compact,delete", "delete"][turn % 4];
    let delete_retention_ms = ["0", "300", "3600000"][turn % 3];
    let max_lag_ms = ["100", "1000", "9223372036854775807"][turn / 4 % 3];
    vec![
        ("cleanup.policy", policy.to_owned()),
        ("delete.retention.ms", delete_retention_ms.to_owned()),
        ("max.compaction.lag.ms", max_lag_ms.to_owned()),
        ("min.cleanable.dirty.ratio", "0.01".to_owned()),
    ]
}

/// Topics store batches with a codec of their own in one seed of so many, by its number too.
const OWN_CODEC_ONE_OF: u64 = 5;

/// The codec that a topic compresses its batches with; most leave them to their producers.
fn own_codec(seed: u64, topic: usize) -> Option<(&'static str, String)> {
    let turn = usize::try_from(seed / OWN_CODEC_ONE_OF).unwrap_or_default() + topic;
    let codec = ["gzip", "snappy", "lz4", "zstd"][turn % 4];
    (seed % OWN_CODEC_ONE_OF == 2).then(|| ("compression.type", codec.to_owned()))
}

/// Everything that one seed draws before it begins.
#[derive(Debug, Clone)]
pub(crate) struct Mix {
    /// The node.
    pub(crate) node: NodeMix,
    /// Topics that stay.
    pub(crate) topics: Vec<TopicMix>,
    /// Producers.
    pub(crate) producers: Vec<ProducerMix>,
    /// Readers.
    pub(crate) readers: usize,
    /// The longest pause between two looks at a log's bounds; `None` for no looks.
    pub(crate) offsets_pause_max: Option<Duration>,
    /// The longest pause between two removals of old records; `None` for none.
    pub(crate) delete_records_pause_max: Option<Duration>,
    /// The longest pause between the making and the deletion of topics; `None` for none.
    pub(crate) topics_pause_max: Option<Duration>,
    /// Whether a restart may change the number of cores.
    pub(crate) cores_change: bool,
    /// What goes wrong.
    pub(crate) faults: FaultMix,
    /// How long there is work and faults.
    pub(crate) length: Duration,
}

impl Mix {
    /// Draws a mix: the work from one stream, the faults from the other.
    pub(crate) fn draw(seed: u64, work: &Dice, faults: &Dice) -> Mix {
        let cores = work.count(1, 3);
        let optional = |percent, low, high| {
            let pause = work.time(low, high);
            work.percent(percent).then_some(pause)
        };
        let with_compaction = |number: usize| {
            let mut topic = topic(work);
            if compacts(seed) {
                topic.configs.extend(compaction(seed, number));
            }
            topic.configs.extend(own_codec(seed, number));
            topic
        };
        Mix {
            node: node(seed, work, cores),
            topics: (0..work.count(1, 3)).map(with_compaction).collect(),
            producers: (0..work.count(1, 4)).map(|_| producer(work)).collect(),
            readers: work.count(0, 2),
            offsets_pause_max: optional(50, 20, 500),
            delete_records_pause_max: optional(30, 100, 1_000),
            topics_pause_max: optional(30, 100, 2_000),
            cores_change: work.percent(30),
            faults: fault_mix(seed, faults),
            length: work.time(1_500, 6_000),
        }
    }
}

fn node(seed: u64, work: &Dice, cores: usize) -> NodeMix {
    // Not drawn, so that what seeds from before draw is what it was.
    let memtables_kept = match seed % 3 {
        0 => 0,
        1 => 1,
        _ => 4,
    };
    let wal_file_bytes = *work.one_of(&[128 << 10, 256 << 10, 512 << 10]);
    let memtable_bytes = *work.one_of(&[64 << 10, 128 << 10, 384 << 10]);
    NodeMix {
        cores,
        lanes: work.count(1, 3),
        shows_cores: work.percent(60),
        wal_file_bytes,
        memtable_bytes,
        memtables_kept_bytes: memtables_kept * memtable_bytes,
        commit_bytes_max: *work.one_of(&[16 << 10, 32 << 10, 64 << 10]),
        block_bytes: *work.one_of(&[4 << 10, 16 << 10]),
        retention_check_interval_ms: compacts(seed).then_some(200),
    }
}

fn topic(work: &Dice) -> TopicMix {
    let mut configs = Vec::new();
    if work.percent(25) {
        configs.push(("retention.ms", work.between(500, 20_000).to_string()));
    }
    if work.percent(15) {
        configs.push(("retention.bytes", work.between(1_000, 200_000).to_string()));
    }
    if work.percent(20) {
        configs.push(("message.timestamp.type", "LogAppendTime".to_owned()));
    }
    TopicMix {
        partitions: i32::try_from(work.between(1, 5)).expect("at most 5"),
        configs,
    }
}

fn producer(work: &Dice) -> ProducerMix {
    let (acks, idempotent) = *work.one_of(&[
        (Acks::All, true),
        (Acks::All, true),
        (Acks::All, false),
        (Acks::Leader, false),
        (Acks::None, false),
    ]);
    ProducerMix {
        acks,
        idempotent,
        record_bytes_max: *work.one_of(&[20, 200, 2_000, 6_000]),
        burst_max: *work.one_of(&[1, 3, 10, 40]),
        pause_max: work.time(2, 120),
    }
}

fn fault_mix(seed: u64, faults: &Dice) -> FaultMix {
    // One seed in eight runs without: what fails there fails for everybody.
    let share = if faults.percent(12) {
        0
    } else {
        *faults.one_of(&[10, 25, 50])
    };
    let drawn = ALL_KINDS.into_iter().filter(|_| faults.percent(share));
    let mut kinds: Vec<FaultKind> = drawn.collect();
    if decays(seed) {
        kinds.extend(DECAY);
    }
    if refuses(seed) {
        kinds.extend(REFUSAL);
    }
    FaultMix {
        kinds,
        pause_max: faults.time(100, 1_500),
        down_max: faults.time(0, 1_000),
        short_io_per_million: if share > 0 && faults.percent(30) {
            u32::try_from(faults.between(1, 50_000)).expect("a small number")
        } else {
            0
        },
    }
}
