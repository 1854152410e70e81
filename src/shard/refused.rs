//! What this core refused because a partition is not here, and what therefore has to come first when it is.

use streambus_proto::records::BatchView;
use streambus_shards::now;
use streambus_storage::PartitionKey;

use super::Shard;
use crate::metadata::Topic;
use crate::partition::Partition;
use crate::partition::refusals::{Sequence, TopicRef};

impl Shard {
    /// Remembers that a batch was refused as its partition is unknown here, or led elsewhere.
    pub(crate) fn remember_refused(&self, topic: TopicRef, index: i32, records: &[u8]) {
        if let Some(batch) = sequence(records) {
            let mut refusals = self.refusals.borrow_mut();
            refusals.record(topic, index, &batch, now());
        }
    }

    /// The lowest sequence of a batch's producer that this core refused at the partition and that has to
    /// come before it, if the partition knows nothing of the producer.
    pub(crate) fn awaited(&self, key: PartitionKey, records: &[u8]) -> Option<i32> {
        let refusals = self.refusals.borrow();
        if refusals.is_empty() {
            return None;
        }
        let image = self.image.borrow();
        let topic = image.topic_by_id(key.topic)?;
        let batch = sequence(records)?;
        refusals.awaited((topic.id, &topic.name), key.index, &batch, now())
    }

    /// A topic is deleted: what its producers were refused before counts no more.
    pub(super) fn forget_refusals(&self, topic: &Topic) {
        let mut refusals = self.refusals.borrow_mut();
        refusals.topic_deleted(topic.id, &topic.name);
    }

    /// A partition is deleted: what is not committed is refused, and may be sent again to a new one.
    pub(super) fn remember_uncommitted(&self, key: PartitionKey, partition: &Partition) {
        let mut refusals = self.refusals.borrow_mut();
        for batch in partition
            .producers()
            .first_since(partition.high_watermark())
        {
            refusals.record(TopicRef::Id(key.topic), key.index, &batch, now());
        }
    }

    /// Forgets refusals that nobody is expected to send again.
    pub(super) fn expire_refusals(&self) {
        self.refusals.borrow_mut().expire(now());
    }
}

/// What an idempotent batch says of its place; it is not verified.
fn sequence(records: &[u8]) -> Option<Sequence> {
    let (batch, _) = BatchView::split_first(records).ok()?;
    Some(Sequence {
        producer_id: batch.producer_id()?,
        producer_epoch: batch.producer_epoch(),
        base_sequence: batch.base_sequence(),
    })
}
