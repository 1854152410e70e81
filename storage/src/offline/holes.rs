//! Offsets that a repair leaves without records: which they are, and what stands in their place.
//!
//! A hole is filled with batches of no records, as Kafka's cleaner leaves them: offsets stay dense, the log's
//! end stays where it was (an offset is never given out twice), and clients pass over it.

use std::collections::BTreeMap;

use streambus_proto::ids::{LeaderEpoch, Offset};
use streambus_proto::records::{BatchBuilder, Codec};
use streambus_shards::Buf;

use super::tables::Span;
use super::{Examined, Lost, Remedy};
use crate::key::PartitionKey;
use crate::manifest::{Manifest, PartitionEntry};
use crate::memtable::MemBatch;

/// What the WAL says first of a partition: where its batches go on after those in tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WalFirst {
    /// The log start moved up to here before the first batch.
    pub(super) log_start: Offset,
    /// Base offset of the first batch, if one comes before a drop.
    pub(super) batch: Option<Offset>,
    pub(super) dropped: bool,
}

pub(super) type WalFirsts = BTreeMap<PartitionKey, WalFirst>;

/// Notes a record of the WAL; those come in order.
pub(super) fn note(
    firsts: &mut WalFirsts,
    key: PartitionKey,
    kind: crate::wal::record::RecordKind,
    offset: Option<Offset>,
) {
    use crate::wal::record::RecordKind;
    let first = firsts.entry(key).or_insert(WalFirst {
        log_start: Offset(0),
        batch: None,
        dropped: false,
    });
    if first.batch.is_some() || first.dropped {
        return;
    }
    match (kind, offset) {
        (RecordKind::Batch, _) => first.batch = offset,
        (RecordKind::LogStart, Some(start)) => first.log_start = first.log_start.max(start),
        (RecordKind::LogStart, None) => {}
        (RecordKind::DropPartition, _) => first.dropped = true,
    }
}

/// Says with the tables that must be dropped which offsets go with them: those that nothing else has.
pub(super) fn tell_dropped(
    examined: &mut Examined,
    manifest: &Manifest,
    spans: &[Span],
    firsts: &WalFirsts,
) {
    let drops = |remedy| matches!(remedy, Remedy::DropTable { .. });
    let first_dropped = examined
        .findings
        .iter_mut()
        .find(|finding| drops(finding.remedy));
    let Some(finding) = first_dropped else {
        return;
    };
    let mut by_key: BTreeMap<PartitionKey, Vec<(Offset, Offset)>> = BTreeMap::new();
    for span in spans {
        by_key
            .entry(span.key)
            .or_default()
            .push((span.start, span.end));
    }
    for entry in &manifest.partitions {
        let held = by_key.get(&entry.key).map_or(&[][..], Vec::as_slice);
        let gaps = gaps(entry, held, firsts.get(&entry.key));
        finding
            .lost
            .extend(gaps.into_iter().map(|(start, end)| Lost {
                key: entry.key,
                start,
                end,
            }));
    }
}

/// The offsets of a partition that neither its tables, which are sorted, nor its WAL hold. What compaction
/// removed between two tables looks the same, and is told and filled as well.
fn gaps(
    entry: &PartitionEntry,
    held: &[(Offset, Offset)],
    wal: Option<&WalFirst>,
) -> Vec<(Offset, Offset)> {
    let mut gaps = Vec::new();
    let mut next = entry.log_start;
    for (start, end) in held {
        if *start > next {
            gaps.push((next, *start));
        }
        next = next.max(*end);
    }
    let goes_on_at = match wal {
        Some(first) if first.batch.is_none() && first.dropped => return Vec::new(),
        Some(WalFirst {
            batch: Some(base),
            log_start,
            ..
        }) => {
            next = next.max(*log_start);
            Some(*base)
        }
        // The owner's state was noted at the log's end.
        _ => entry
            .annotation
            .as_ref()
            .map(|annotation| annotation.offset),
    };
    if let Some(end) = goes_on_at.filter(|end| *end > next) {
        gaps.push((next, end));
    }
    gaps
}

/// Batches without records over the offsets of a loss.
pub(super) fn fill(lost: Lost, manifest: &Manifest) -> Vec<MemBatch> {
    let leader_epoch = epoch_at(manifest, lost);
    let mut batches = Vec::new();
    let mut start = lost.start;
    while start < lost.end {
        let delta = i32::try_from(lost.end.0 - 1 - start.0).unwrap_or(i32::MAX);
        let mut builder = BatchBuilder::new(Codec::None);
        builder.set_place(start, leader_epoch);
        builder.stretch_to(delta);
        let last_offset = Offset(start.0 + i64::from(delta));
        batches.push(MemBatch {
            base_offset: start,
            last_offset,
            max_timestamp: -1,
            bytes: Buf::from(builder.build()),
        });
        start = Offset(last_offset.0 + 1);
    }
    batches
}

/// The leader epoch that wrote at the loss.
fn epoch_at(manifest: &Manifest, lost: Lost) -> LeaderEpoch {
    let mut entries = manifest.partitions.iter();
    let entry = entries.find(|entry| entry.key == lost.key);
    let epochs = entry.map_or(&[][..], |entry| entry.epochs.as_slice());
    let begun = epochs.iter().rev().find(|(_, start)| *start <= lost.start);
    begun
        .or(epochs.first())
        .map_or(LeaderEpoch(0), |(epoch, _)| *epoch)
}

#[cfg(test)]
mod tests {
    use streambus_proto::ids::TopicId;

    use super::*;
    use crate::batch::BatchInfo;
    use crate::manifest::Annotation;

    fn entry(log_start: i64, annotated: Option<i64>) -> PartitionEntry {
        PartitionEntry {
            key: PartitionKey {
                topic: TopicId([1; 16]),
                index: 0,
            },
            log_start: Offset(log_start),
            created_sequence: 1,
            cleaned_end: Offset(0),
            epochs: Vec::new(),
            annotation: annotated.map(|offset| Annotation {
                offset: Offset(offset),
                bytes: vec![1],
            }),
        }
    }

    #[test]
    fn what_nobody_holds_is_a_gap() {
        // Proves gaps before, between and after tables, and what ends the last one.
        let wal = |log_start, batch: Option<i64>, dropped| WalFirst {
            log_start: Offset(log_start),
            batch: batch.map(Offset),
            dropped,
        };
        let cases = [
            (entry(0, None), vec![(0, 10), (10, 20)], None, vec![]),
            (entry(0, None), vec![(10, 20)], None, vec![(0, 10)]),
            (
                entry(15, None),
                vec![(10, 20), (30, 40)],
                None,
                vec![(20, 30)],
            ),
            (
                entry(0, None),
                vec![(0, 10)],
                Some(wal(0, Some(25), false)),
                vec![(10, 25)],
            ),
            (
                entry(0, None),
                vec![(0, 10)],
                Some(wal(25, Some(25), false)),
                vec![],
            ),
            (
                entry(0, None),
                vec![(0, 10)],
                Some(wal(0, None, true)),
                vec![],
            ),
            (entry(0, Some(30)), vec![(0, 10)], None, vec![(10, 30)]),
            (entry(0, Some(30)), vec![], None, vec![(0, 30)]),
            (entry(0, None), vec![], None, vec![]),
        ];
        for (nth, (entry, held, first, expected)) in cases.into_iter().enumerate() {
            let offsets = |ranges: Vec<(i64, i64)>| -> Vec<(Offset, Offset)> {
                ranges
                    .into_iter()
                    .map(|(start, end)| (Offset(start), Offset(end)))
                    .collect()
            };
            let found = gaps(&entry, &offsets(held), first.as_ref());
            assert_eq!(found, offsets(expected), "case {nth}");
        }
    }

    #[test]
    fn a_hole_of_any_width_is_filled_densely() {
        // Proves that filling batches follow each other without a gap up to the end, beyond 31 bits too.
        let manifest = Manifest::new(1);
        for width in [1, 2, 1 << 31, (1 << 32) + 5] {
            let lost = Lost {
                key: entry(0, None).key,
                start: Offset(7),
                end: Offset(7 + width),
            };
            let mut next = lost.start;
            for batch in fill(lost, &manifest) {
                let info = BatchInfo::read(&batch.bytes).unwrap();
                assert_eq!((info.base_offset, info.record_count), (next, 0));
                assert_eq!(
                    (info.last_offset, info.bytes),
                    (batch.last_offset, batch.bytes.len())
                );
                next = info.next_offset();
            }
            assert_eq!(next, lost.end);
        }
    }
}
