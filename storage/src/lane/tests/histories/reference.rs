//! What a partition must hold: a map that does by force what the lane does by rule.

use std::collections::{BTreeMap, BTreeSet};

use streambus_proto::ids::{LeaderEpoch, Offset, ProducerEpoch, ProducerId};
use streambus_proto::records::{
    BatchBuilder, BatchView, Codec, ControlKind, DecompressLimits, EndTransactionMarker, NewRecord,
    set_base_offset,
};

/// Key and value.
pub(super) type Keyed = (Vec<u8>, Option<Vec<u8>>);

/// A batch that was appended.
#[derive(Debug, Clone)]
pub(super) enum Event {
    /// Records, and whose transaction they are in.
    Records {
        producer: Option<i64>,
        records: Vec<Keyed>,
        bytes: Vec<u8>,
    },
    Marker {
        producer: i64,
        commits: bool,
        bytes: Vec<u8>,
    },
}

impl Event {
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Event::Records { bytes, .. } | Event::Marker { bytes, .. } => bytes,
        }
    }

    fn offsets(&self) -> i64 {
        match self {
            Event::Records { records, .. } => records.len() as i64,
            Event::Marker { .. } => 1,
        }
    }
}

/// How a record counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Committed,
    /// With the offset of the marker.
    Aborted,
    Open,
}

/// What a partition was given, and what was promised of it.
#[derive(Debug, Default)]
pub(super) struct Reference {
    pub(super) events: BTreeMap<i64, Event>,
    pub(super) end: i64,
    /// Everything before was reported durable, or shown after a recovery.
    pub(super) promised_end: i64,
    pub(super) start_promised: i64,
    pub(super) start_asked: i64,
    /// The partition's removal was asked for, and not confirmed.
    pub(super) drop_asked: bool,
}

/// The reference's records by offset, each with its state and the marker that decided it.
pub(super) type Records<'a> = BTreeMap<i64, (&'a Keyed, State, Option<i64>)>;

impl Reference {
    pub(super) fn push(&mut self, event: Event) {
        let offsets = event.offsets();
        self.events.insert(self.end, event);
        self.end += offsets;
    }

    /// A crash lost what lies behind.
    pub(super) fn cut(&mut self, end: i64) {
        self.events.retain(|base, _| *base < end);
        self.end = end;
    }

    pub(super) fn records(&self) -> Records<'_> {
        let mut records = Records::new();
        let mut open: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
        for (base, event) in &self.events {
            match event {
                Event::Records {
                    producer,
                    records: all,
                    ..
                } => {
                    for (offset, record) in (*base..).zip(all) {
                        let state = producer.map_or(State::Committed, |_| State::Open);
                        records.insert(offset, (record, state, None));
                        if let Some(producer) = producer {
                            open.entry(*producer).or_default().push(offset);
                        }
                    }
                }
                Event::Marker {
                    producer, commits, ..
                } => {
                    for offset in open.remove(producer).unwrap_or_default() {
                        let (_, state, marker) = records.get_mut(&offset).expect("just added");
                        let decided = [State::Aborted, State::Committed][usize::from(*commits)];
                        (*state, *marker) = (decided, Some(*base));
                    }
                }
            }
        }
        records
    }

    /// Producers whose transactions are open.
    pub(super) fn open(&self) -> BTreeSet<i64> {
        let mut open = BTreeSet::new();
        for event in self.events.values() {
            match event {
                Event::Records { producer, .. } => open.extend(*producer),
                Event::Marker { producer, .. } => drop(open.remove(producer)),
            }
        }
        open
    }

    /// Everything before is decided.
    pub(super) fn last_stable(&self) -> i64 {
        let records = self.records();
        let mut open = records.iter().filter(|(_, known)| known.1 == State::Open);
        open.next().map_or(self.end, |(offset, _)| *offset)
    }

    /// The newest committed record of each key in a range of offsets.
    pub(super) fn newest<'a>(
        records: &Records<'a>,
        range: std::ops::Range<i64>,
    ) -> BTreeMap<&'a [u8], i64> {
        let range = range.start.min(range.end)..range.end;
        let mut newest = BTreeMap::new();
        for (offset, (record, state, _)) in records.range(range) {
            if *state == State::Committed {
                newest.insert(record.0.as_slice(), *offset);
            }
        }
        newest
    }

    /// Batches are what they were, each of them from the one that holds the start on.
    pub(super) fn check_bytes(&self, start: i64, found: &[(Offset, Vec<u8>)]) {
        let first = self.events.range(..=start).next_back();
        let first = first.filter(|(base, event)| **base + event.offsets() > start);
        let from = first.map_or(start, |(base, _)| *base);
        let expected: Vec<(i64, &[u8])> = self
            .events
            .range(from..)
            .map(|(base, event)| (*base, event.bytes()))
            .collect();
        let found: Vec<(i64, &[u8])> = found
            .iter()
            .map(|(base, bytes)| (base.0, bytes.as_slice()))
            .collect();
        let bases = |of: &[(i64, &[u8])]| of.iter().map(|(base, _)| *base).collect::<Vec<_>>();
        assert_eq!(bases(&found), bases(&expected), "batches from {start}");
        assert!(found == expected, "a batch has other bytes");
    }

    /// Nothing is made up; the newest record of each key is there, but for tombstones; before
    /// `cleaned_end` nothing else is; and no record lost the marker that decides it.
    pub(super) fn check_compacted(
        &self,
        start: i64,
        cleaned_end: i64,
        found: &[(Offset, Vec<u8>)],
    ) {
        let records = self.records();
        let mut seen = BTreeSet::new();
        let mut markers = BTreeSet::new();
        let mut scratch = Vec::new();
        for (base, bytes) in found {
            let (view, rest) = BatchView::split_first(bytes).unwrap();
            view.verify().unwrap();
            assert!(rest.is_empty());
            if view.attributes().is_control() {
                let read = EndTransactionMarker::of_batch(&view).unwrap().unwrap();
                let known = self.events.get(&base.0);
                let Some(Event::Marker {
                    commits, producer, ..
                }) = known
                else {
                    panic!("a marker at {base:?} that was not appended");
                };
                assert_eq!(read.kind == ControlKind::Commit, *commits);
                assert_eq!(view.producer_id(), Some(ProducerId(*producer)));
                markers.insert(base.0);
                continue;
            }
            let limits = DecompressLimits::default();
            for record in view.records(&mut scratch, limits).unwrap() {
                let record = record.unwrap();
                let ((key, value), ..) = records[&record.offset.0];
                assert_eq!(record.key, Some(key.as_slice()), "{:?}", record.offset);
                assert_eq!(record.value, value.as_deref(), "{:?}", record.offset);
                assert!(seen.insert(record.offset.0), "{:?} twice", record.offset);
            }
        }
        for (key, offset) in Reference::newest(&records, start..self.end) {
            let is_tombstone = records[&offset].0.1.is_none();
            assert!(
                is_tombstone || seen.contains(&offset),
                "{key:?} at {offset} is lost"
            );
        }
        let newest = Reference::newest(&records, start..cleaned_end);
        for offset in seen.range(start.min(cleaned_end)..cleaned_end) {
            let ((key, _), state, _) = records[offset];
            let only = newest.get(key.as_slice()) == Some(offset);
            assert!(only, "{state:?} {key:?} at {offset} before {cleaned_end}");
        }
        for offset in seen {
            let marker = records[&offset].2;
            assert!(
                marker.is_none_or(|marker| markers.contains(&marker)),
                "{offset} lost its marker"
            );
        }
    }
}

/// Records of some keys, in a batch that is not placed yet.
pub(super) fn records_event(
    codec: Codec,
    producer: Option<i64>,
    timestamp: i64,
    records: Vec<Keyed>,
    base: Offset,
) -> Event {
    let mut builder = BatchBuilder::new(codec);
    builder.set_place(base, LeaderEpoch(0));
    if let Some(producer) = producer {
        builder.set_producer(ProducerId(producer), ProducerEpoch(0), 0);
        builder.set_transactional();
    }
    for (key, value) in &records {
        builder.push(&NewRecord {
            timestamp,
            key: Some(key),
            value: value.as_deref(),
            headers: &[],
        });
    }
    Event::Records {
        producer,
        records,
        bytes: builder.build(),
    }
}

pub(super) fn marker_event(producer: i64, commits: bool, timestamp: i64, base: Offset) -> Event {
    let marker = EndTransactionMarker {
        kind: [ControlKind::Abort, ControlKind::Commit][usize::from(commits)],
        coordinator_epoch: 0,
    };
    let mut bytes = marker.to_batch(ProducerId(producer), ProducerEpoch(0), timestamp);
    set_base_offset(&mut bytes, base);
    streambus_proto::records::set_partition_leader_epoch(&mut bytes, LeaderEpoch(0));
    Event::Marker {
        producer,
        commits,
        bytes,
    }
}
