//! Batches of idempotent producers that were refused because their partition is not here: not yet, not
//! any more, or on another core.
//!
//! Such a batch is sent again. A later one of the same producer, under way at the same time, may find
//! the partition there and arrive first. To a partition that knows nothing of the producer any sequence
//! is good, so it would take the later batch, and the earlier one could never follow. Therefore each core
//! remembers, for a while and in bounds, the lowest sequence that it refused; until that one has come,
//! later ones are refused too, with an error after which they are sent again.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use rustc_hash::FxHashMap;
use streambus_proto::ids::{ProducerEpoch, ProducerId, TopicId};
use streambus_shards::Instant;

/// Refusals that one core remembers; the oldest makes room. About 400 bytes each with the longest
/// names: 2 MB.
const REFUSALS_MAX: usize = 4_000;
/// How long a refused batch is awaited. A client sends it again within a second or so; if its
/// application has given it up, later ones are taken after this time.
const AWAITED_FOR: Duration = Duration::from_secs(10);
/// Deleted topics whose names are remembered, so that a batch for the old topic counts for a new one
/// of the same name.
const DELETED_MAX: usize = 256;

/// What a batch says of its place among those of its producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sequence {
    /// The producer.
    pub producer_id: ProducerId,
    /// Its incarnation.
    pub producer_epoch: ProducerEpoch,
    /// The sequence of the batch's first record.
    pub base_sequence: i32,
}

/// A topic as a request names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum TopicRef {
    /// By name.
    Name(Rc<str>),
    /// By id.
    Id(TopicId),
}

/// A producer at a partition.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    producer: i64,
    topic: TopicRef,
    index: i32,
}

#[derive(Debug, Clone, Copy)]
struct Refused {
    epoch: ProducerEpoch,
    /// The lowest sequence that was refused.
    sequence: i32,
    /// When it was refused last.
    at: Instant,
    /// Its place among all refusals, by time.
    order: u64,
}

impl Refused {
    fn is_awaited(&self, now: Instant) -> bool {
        now.since(self.at) < AWAITED_FOR
    }
}

/// The refusals of one core.
#[derive(Debug, Default)]
pub struct Refusals {
    by_key: FxHashMap<Key, Refused>,
    /// The keys by time: the front is the oldest.
    by_order: BTreeMap<u64, Key>,
    next_order: u64,
    deleted: VecDeque<(TopicId, Rc<str>)>,
}

impl Refusals {
    /// Whether nothing is awaited: the usual case, and the only question on the way of a batch.
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// Remembers that a batch was refused.
    pub fn record(&mut self, topic: TopicRef, index: i32, batch: &Sequence, now: Instant) {
        let key = Key {
            producer: batch.producer_id.0,
            topic: self.lasting(topic),
            index,
        };
        let known = self.by_key.get(&key).filter(|known| known.is_awaited(now));
        if let Some(known) = known {
            let earlier_incarnation = batch.producer_epoch < known.epoch;
            let later_batch =
                batch.producer_epoch == known.epoch && batch.base_sequence > known.sequence;
            if earlier_incarnation || later_batch {
                return;
            }
        }
        self.forget(&key);
        while self.by_key.len() >= REFUSALS_MAX {
            let (_, oldest) = self
                .by_order
                .pop_first()
                .expect("as many as there are keys");
            self.by_key.remove(&oldest);
        }
        let order = self.next_order;
        self.next_order += 1;
        self.by_order.insert(order, key.clone());
        self.by_key.insert(
            key,
            Refused {
                epoch: batch.producer_epoch,
                sequence: batch.base_sequence,
                at: now,
                order,
            },
        );
        assert_eq!(self.by_key.len(), self.by_order.len());
    }

    /// The sequence that has to come before this batch at a partition that knows nothing of its
    /// producer, if one has.
    pub fn awaited(
        &self,
        (id, name): (TopicId, &Rc<str>),
        index: i32,
        batch: &Sequence,
        now: Instant,
    ) -> Option<i32> {
        let topics = [TopicRef::Id(id), TopicRef::Name(Rc::clone(name))];
        let refused = topics.into_iter().filter_map(|topic| {
            let producer = batch.producer_id.0;
            self.by_key.get(&Key {
                producer,
                topic,
                index,
            })
        });
        refused
            .filter(|refused| refused.epoch == batch.producer_epoch && refused.is_awaited(now))
            .map(|refused| refused.sequence)
            .filter(|sequence| *sequence < batch.base_sequence)
            .min()
    }

    /// Forgets what a topic's producers were refused before it was deleted: they had the time that it
    /// existed to send it again. What they are refused from now on counts for a new topic of its name.
    pub fn topic_deleted(&mut self, id: TopicId, name: &Rc<str>) {
        let dead: Vec<Key> = self
            .by_key
            .keys()
            .filter(|key| match &key.topic {
                TopicRef::Name(of) => of == name,
                TopicRef::Id(of) => *of == id,
            })
            .cloned()
            .collect();
        for key in &dead {
            self.forget(key);
        }
        if self.deleted.len() == DELETED_MAX {
            self.deleted.pop_front();
        }
        self.deleted.push_back((id, Rc::clone(name)));
    }

    /// Forgets what is not awaited any more.
    pub fn expire(&mut self, now: Instant) {
        while let Some((_, oldest)) = self.by_order.first_key_value() {
            let refused = self.by_key.get(oldest).expect("each key has its refusal");
            if refused.is_awaited(now) {
                return;
            }
            let key = oldest.clone();
            self.forget(&key);
        }
    }

    /// The name of a topic that was deleted, else the topic as it was named.
    fn lasting(&self, topic: TopicRef) -> TopicRef {
        let TopicRef::Id(id) = topic else {
            return topic;
        };
        let deleted = self.deleted.iter().rev().find(|(of, _)| *of == id);
        deleted.map_or(topic, |(_, name)| TopicRef::Name(Rc::clone(name)))
    }

    fn forget(&mut self, key: &Key) {
        if let Some(refused) = self.by_key.remove(key) {
            self.by_order.remove(&refused.order);
        }
    }
}

#[cfg(test)]
mod tests {
    use streambus_shards::now;

    use super::*;

    const OLD: TopicId = TopicId([1; 16]);
    const NEW: TopicId = TopicId([2; 16]);

    fn batch(producer: i64, epoch: i16, base_sequence: i32) -> Sequence {
        Sequence {
            producer_id: ProducerId(producer),
            producer_epoch: ProducerEpoch(epoch),
            base_sequence,
        }
    }

    fn named(name: &str) -> TopicRef {
        TopicRef::Name(name.into())
    }

    /// What is awaited at partition 0 of the new topic `t`.
    fn awaited(refusals: &Refusals, batch: &Sequence, now: Instant) -> Option<i32> {
        refusals.awaited((NEW, &"t".into()), 0, batch, now)
    }

    #[test]
    fn the_lowest_refused_batch_is_awaited() {
        // Proves which later batches wait: (producer, epoch, sequence) and what they wait for.
        let start = now();
        let mut refusals = Refusals::default();
        for (topic, index, epoch, sequence) in [
            (named("t"), 0, 3, 7),
            (named("t"), 0, 3, 5),
            (named("t"), 0, 3, 9),
            (named("t"), 0, 2, 1),
            (named("t"), 1, 3, 2),
            (named("u"), 0, 3, 2),
        ] {
            refusals.record(topic, index, &batch(1, epoch, sequence), start);
        }
        for (producer, epoch, sequence, expected) in [
            (1, 3, 5, None),
            (1, 3, 4, None),
            (1, 3, 6, Some(5)),
            (1, 3, 9, Some(5)),
            // Another incarnation begins anew, and another producer was not refused.
            (1, 4, 9, None),
            (1, 2, 9, None),
            (2, 3, 9, None),
        ] {
            let found = awaited(&refusals, &batch(producer, epoch, sequence), start);
            assert_eq!(found, expected, "{producer} {epoch} {sequence}");
        }
    }

    #[test]
    fn what_is_not_sent_again_is_not_awaited_for_long() {
        // Proves the bound in time, that a repeated refusal begins it anew, and that later batches don't.
        let start = now();
        let mut refusals = Refusals::default();
        refusals.record(named("t"), 0, &batch(1, 0, 5), start);
        let later = start + AWAITED_FOR / 2;
        refusals.record(named("t"), 0, &batch(1, 0, 8), later);
        let end = start + AWAITED_FOR;
        assert_eq!(awaited(&refusals, &batch(1, 0, 9), later), Some(5));
        assert_eq!(awaited(&refusals, &batch(1, 0, 9), end), None);
        refusals.record(named("t"), 0, &batch(1, 0, 5), later);
        assert_eq!(awaited(&refusals, &batch(1, 0, 9), end), Some(5));
        refusals.expire(end);
        assert!(!refusals.is_empty());
        refusals.expire(end + AWAITED_FOR);
        assert!(refusals.is_empty());
    }

    #[test]
    fn a_new_topic_follows_a_deleted_one_by_name() {
        // Proves that refusals by the old id count for the new topic, and that those from before a
        // deletion count for nobody.
        let start = now();
        let mut refusals = Refusals::default();
        refusals.record(TopicRef::Id(OLD), 0, &batch(1, 0, 2), start);
        refusals.record(named("t"), 0, &batch(1, 0, 3), start);
        refusals.topic_deleted(OLD, &"t".into());
        assert!(refusals.is_empty());
        refusals.record(TopicRef::Id(OLD), 0, &batch(1, 0, 5), start);
        assert_eq!(awaited(&refusals, &batch(1, 0, 6), start), Some(5));
        // One that is not known yet is found by its id.
        refusals.record(TopicRef::Id(NEW), 0, &batch(1, 0, 4), start);
        assert_eq!(awaited(&refusals, &batch(1, 0, 6), start), Some(4));
    }

    #[test]
    fn the_oldest_refusal_makes_room() {
        // Proves the bound in number, and that of the remembered names.
        let start = now();
        let mut refusals = Refusals::default();
        for producer in 0..=i64::try_from(REFUSALS_MAX).unwrap() {
            refusals.record(named("t"), 0, &batch(producer, 0, 5), start);
        }
        assert_eq!(refusals.by_key.len(), REFUSALS_MAX);
        assert_eq!(awaited(&refusals, &batch(0, 0, 6), start), None);
        assert_eq!(awaited(&refusals, &batch(1, 0, 6), start), Some(5));
        for _ in 0..2 * DELETED_MAX {
            refusals.topic_deleted(OLD, &"x".into());
        }
        assert_eq!(refusals.deleted.len(), DELETED_MAX);
    }
}
