//! What clients did and saw, with the time of each beginning and end.
//!
//! The history is written by clients and read by [checkers](crate::checkers); neither knows the other. All
//! times are of one clock, so that "before" means the same for all: virtual time where there is a simulated
//! world, else the machine's.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use streambus_proto::ids::{LeaderEpoch, Offset, TopicId};
use streambus_proto::records::Record;
use streambus_shards::sim::World;

/// Sends of one history, at most. A record costs about 100 bytes here.
const SENDS_MAX: usize = 500_000;
/// Reads of one history, at most: readers see a record several times.
const READS_MAX: usize = 2_000_000;
/// Sightings, cuts and passes of one history, at most.
const OTHERS_MAX: usize = 500_000;

/// A partition of a topic, told apart from the partitions of any other topic of that name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Log {
    /// Its topic.
    pub topic: TopicId,
    /// Its number.
    pub partition: i32,
}

impl std::fmt::Display for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

/// What a record says: no two sends say the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Value {
    /// Who sent it.
    pub producer: u32,
    /// Which of the producer's it is, in the order of its sends.
    pub sequence: u32,
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.producer, self.sequence)
    }
}

/// Who must have a record before its producer hears of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acks {
    /// Nobody: there is no answer, and nothing is promised.
    None,
    /// The leader, on its disk.
    Leader,
    /// Every replica in sync, on its disk.
    All,
}

/// How a send ended, as its producer knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It is stored, at this offset if the broker said so.
    Stored(Option<Offset>),
    /// It is certainly not stored; the broker's code, or 0 if it was never sent.
    Refused(i16),
    /// It may be stored or not.
    Unknown,
}

/// A record's sending.
#[derive(Debug, Clone, Copy)]
pub struct Send {
    /// What it says.
    pub value: Value,
    /// Where it was to go.
    pub log: Log,
    /// What was asked for.
    pub acks: Acks,
    /// Whether the broker can tell a retry of it from another record.
    pub idempotent: bool,
    /// When it was begun.
    pub invoked: Duration,
    /// How it ended, and when; `None` if it never did.
    pub end: Option<(Duration, End)>,
    /// How often it was put on the wire.
    pub sendings: u32,
    /// Its producer was told that it is out of order, when everything before it had ended.
    pub out_of_order: bool,
}

/// What a reader found at an offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// A record that some producer may have sent.
    Value(Value),
    /// Bytes that no producer of this history writes.
    Garbage,
}

/// A record that was read.
#[derive(Debug, Clone, Copy)]
pub struct Read {
    /// By whom.
    pub reader: u32,
    /// In which log.
    pub log: Log,
    /// At which offset.
    pub offset: Offset,
    /// What stood there.
    pub seen: Seen,
    /// The leader epoch that its batch was appended under.
    pub leader_epoch: LeaderEpoch,
    /// When its answer came.
    pub at: Duration,
    /// Whether the reader was sent to this place, instead of reading on.
    pub repositioned: bool,
}

/// What a broker said of a log's bounds.
#[derive(Debug, Clone, Copy)]
pub struct Sighting {
    /// Of which log.
    pub log: Log,
    /// When it was asked.
    pub invoked: Duration,
    /// When the answer came.
    pub completed: Duration,
    /// The first offset there is, if it was told.
    pub log_start: Option<Offset>,
    /// The offset behind the last that may be read, if it was told.
    pub high_watermark: Option<Offset>,
    /// The leader's epoch, if it was told.
    pub leader_epoch: Option<LeaderEpoch>,
}

/// A request to remove the records before an offset.
#[derive(Debug, Clone, Copy)]
pub struct Cut {
    /// Of which log.
    pub log: Log,
    /// Records before this may go from then on.
    pub before: Offset,
    /// When it was asked for.
    pub invoked: Duration,
    /// When it was done, and the log's first offset then; `None` if no answer came.
    pub done: Option<(Duration, Offset)>,
}

/// A reading of a log from its first offset to its end, after everything else.
#[derive(Debug, Clone, Copy)]
pub struct Pass {
    /// Of which log.
    pub log: Log,
    /// By which reader, who did nothing else.
    pub reader: u32,
    /// The first offset there was.
    pub log_start: Offset,
    /// The offset behind the last.
    pub high_watermark: Offset,
}

/// What is known of a topic.
#[derive(Debug, Clone)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// How many partitions it has.
    pub partitions: i32,
    /// Whether the broker may delete its old records by itself.
    pub retention: bool,
    /// Whether it keeps only the newest record of each key: its records have [keys](key_of).
    pub compacted: bool,
    /// When somebody first asked for it to be deleted.
    pub delete_invoked: Option<Duration>,
}

/// What clients did and saw.
#[derive(Debug, Default)]
pub struct History {
    /// In the order in which they were begun.
    pub sends: Vec<Send>,
    /// In the order in which they were read.
    pub reads: Vec<Read>,
    /// In the order in which they were answered.
    pub sightings: Vec<Sighting>,
    /// In the order in which they were begun.
    pub cuts: Vec<Cut>,
    /// One for each log that was there at the end.
    pub passes: Vec<Pass>,
    /// By id.
    pub topics: BTreeMap<TopicId, Topic>,
    /// When the last fault was over and everything ran again.
    pub healed: Option<Duration>,
}

/// Which of a history's sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SendId(usize);

/// Which of a history's cuts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CutId(usize);

impl History {
    /// Begins a send.
    ///
    /// # Panics
    /// If there are too many: the workload has its own, lower bounds.
    pub fn send(&mut self, send: Send) -> SendId {
        assert!(self.sends.len() < SENDS_MAX, "a history of too many sends");
        self.sends.push(send);
        SendId(self.sends.len() - 1)
    }

    /// Notes that a send was put on the wire once more.
    pub fn sending(&mut self, id: SendId) {
        self.sends[id.0].sendings += 1;
    }

    /// Notes that a send which was next in its producer's order was called out of order.
    pub fn out_of_order(&mut self, id: SendId) {
        self.sends[id.0].out_of_order = true;
    }

    /// Ends a send.
    ///
    /// # Panics
    /// If it has ended.
    pub fn sent(&mut self, id: SendId, at: Duration, end: End) {
        let send = &mut self.sends[id.0];
        assert!(send.end.is_none(), "the send of {} ended twice", send.value);
        send.end = Some((at, end));
    }

    /// Adds a record that was read.
    ///
    /// # Panics
    /// If there are too many.
    pub fn read(&mut self, read: Read) {
        assert!(self.reads.len() < READS_MAX, "a history of too many reads");
        self.reads.push(read);
    }

    /// Adds what a broker said of a log's bounds.
    ///
    /// # Panics
    /// If there are too many.
    pub fn sighting(&mut self, sighting: Sighting) {
        assert!(
            self.sightings.len() < OTHERS_MAX,
            "a history of too many sightings"
        );
        assert!(sighting.invoked <= sighting.completed);
        self.sightings.push(sighting);
    }

    /// Begins a removal of old records.
    ///
    /// # Panics
    /// If there are too many.
    pub fn cut(&mut self, log: Log, before: Offset, invoked: Duration) -> CutId {
        assert!(self.cuts.len() < OTHERS_MAX, "a history of too many cuts");
        self.cuts.push(Cut {
            log,
            before,
            invoked,
            done: None,
        });
        CutId(self.cuts.len() - 1)
    }

    /// Ends a removal of old records.
    pub fn cut_done(&mut self, id: CutId, at: Duration, log_start: Offset) {
        self.cuts[id.0].done = Some((at, log_start));
    }

    /// Whether old records may have gone from a log, and with them what the broker knows of producers.
    pub fn forgets_producers(&self, log: Log) -> bool {
        let topic = self.topics.get(&log.topic);
        topic.is_some_and(|topic| topic.retention) || self.cuts.iter().any(|cut| cut.log == log)
    }

    /// Whether a log keeps only the newest record of each key.
    pub fn is_compacted(&self, log: Log) -> bool {
        let topic = self.topics.get(&log.topic);
        topic.is_some_and(|topic| topic.compacted)
    }

    /// The logs that must be there at the end: those of topics that nobody asked to delete.
    pub fn live_logs(&self) -> impl Iterator<Item = Log> + '_ {
        let live = self
            .topics
            .iter()
            .filter(|(_, topic)| topic.delete_invoked.is_none());
        live.flat_map(|(id, topic)| {
            (0..topic.partitions).map(|partition| Log {
                topic: *id,
                partition,
            })
        })
    }
}

/// The hand by which clients write one history together.
#[derive(Debug, Clone, Default)]
pub struct Recorder(Rc<RefCell<History>>);

impl Recorder {
    /// A recorder of an empty history.
    pub fn new() -> Recorder {
        Recorder::default()
    }

    /// The time, by the one clock of the history.
    pub fn now(&self) -> Duration {
        World::current().map_or_else(
            || Duration::from_nanos(streambus_shards::now().as_nanos()),
            |world| world.elapsed(),
        )
    }

    /// Writes.
    pub fn with<T>(&self, write: impl FnOnce(&mut History) -> T) -> T {
        write(&mut self.0.borrow_mut())
    }
}

/// Bytes of a payload before its filling.
const PAYLOAD_BYTES_MIN: usize = 8;

/// The bytes of a record that says `value`: as long as asked for, and each byte follows from the value, so
/// that no other bytes can pass for it.
pub fn payload(value: Value, bytes: usize) -> Vec<u8> {
    let mut payload = Vec::with_capacity(bytes.max(PAYLOAD_BYTES_MIN));
    payload.extend_from_slice(&value.producer.to_be_bytes());
    payload.extend_from_slice(&value.sequence.to_be_bytes());
    let mut state = u64::from(value.producer) << 32 | u64::from(value.sequence);
    while payload.len() < bytes {
        // An LCG by Knuth (MMIX): only has to differ from value to value.
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        payload.push(state.to_be_bytes()[0]);
    }
    payload
}

/// Keys of a compacted topic's records.
const KEYS: u64 = 32;
/// One keyed record of so many is a tombstone.
const TOMBSTONE_ONE_OF: u64 = 8;

/// What a value's key and kind follow from.
fn mixed(value: Value) -> u64 {
    let both = u64::from(value.producer) << 32 | u64::from(value.sequence);
    // The multiplier of SplitMix64; the upper half depends on every bit below it.
    both.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32
}

/// The key of the record that says `value` in a compacted topic.
pub fn key_of(value: Value) -> [u8; 1] {
    [u8::try_from(mixed(value) % KEYS).expect("there are fewer keys")]
}

/// Whether that record is a tombstone: it deletes its key, and says its value in a header.
pub fn is_tombstone(value: Value) -> bool {
    (mixed(value) / KEYS).is_multiple_of(TOMBSTONE_ONE_OF)
}

/// What a record says.
pub fn said(record: &Record<'_>) -> Seen {
    let Some(key) = record.key else {
        return record.value.map_or(Seen::Garbage, seen);
    };
    let header = record.headers.iter().next();
    let body = record.value.or_else(|| header?.value);
    match body.map_or(Seen::Garbage, seen) {
        Seen::Value(value)
            if key == key_of(value) && record.value.is_none() == is_tombstone(value) =>
        {
            Seen::Value(value)
        }
        _ => Seen::Garbage,
    }
}

/// What a payload says; garbage if it is not one that [`payload`] makes.
pub fn seen(bytes: &[u8]) -> Seen {
    let Some((head, _)) = bytes.split_first_chunk::<PAYLOAD_BYTES_MIN>() else {
        return Seen::Garbage;
    };
    let both = u64::from_be_bytes(*head);
    let value = Value {
        producer: u32::try_from(both >> 32).expect("the upper half"),
        sequence: u32::try_from(both & u64::from(u32::MAX)).expect("the lower half"),
    };
    if payload(value, bytes.len()) == bytes {
        Seen::Value(value)
    } else {
        Seen::Garbage
    }
}
