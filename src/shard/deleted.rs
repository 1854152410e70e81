//! Deleted topics: their space comes back in every lane, now or after the next start.
//!
//! A deletion is durable in the metadata before any lane hears of it. So the metadata remembers the ids of
//! deleted topics until every lane has dropped their partitions durably; a lane that is opened with a
//! partition of such a topic drops it, and one of a topic that nobody ever heard of it keeps.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use streambus_proto::ids::TopicId;
use streambus_shards::{CoreId, sleep, spawn};
use streambus_storage::{Lane, PartitionKey};

use super::Shard;
use super::op::{Op, Reply};
use crate::metadata::{Command, Submit};

/// How often the metadata forgets what every lane has dropped.
const EVERY: Duration = Duration::from_secs(10);

/// Partitions of deleted topics that the lanes of this core have not dropped durably yet.
#[derive(Debug, Clone, Default)]
pub(super) struct Dropping(Rc<RefCell<BTreeMap<TopicId, usize>>>);

impl Dropping {
    /// Has a lane drop a partition. One that fails stays here, so that the next start does it.
    pub(super) fn begin(&self, lane: Rc<Lane>, key: PartitionKey) {
        *self.0.borrow_mut().entry(key.topic).or_insert(0) += 1;
        let dropping = self.clone();
        spawn(async move {
            match lane.drop_partition(key).await {
                Ok(()) => dropping.done(key.topic),
                Err(failed) => {
                    tracing::error!(partition = %key, error = %failed, "a deleted partition was not dropped; the next start does it");
                }
            }
        })
        .detach();
    }

    fn done(&self, topic: TopicId) {
        let mut left = self.0.borrow_mut();
        let partitions = left.get_mut(&topic).expect("it was counted when it began");
        *partitions -= 1;
        if *partitions == 0 {
            left.remove(&topic);
        }
    }

    /// Their topics.
    pub(super) fn topics(&self) -> Vec<TopicId> {
        self.0.borrow().keys().copied().collect()
    }
}

impl Shard {
    /// Has the metadata forget deleted topics that no lane holds any more, for ever. On the
    /// controller's core.
    pub async fn keep_forgetting(self: Rc<Self>) {
        loop {
            sleep(EVERY).await;
            self.forget_deleted().await;
        }
    }

    async fn forget_deleted(self: &Rc<Self>) {
        let (index, mut ids) = self.image(|image| {
            let ids: BTreeSet<TopicId> = image.deleted_topics().iter().copied().collect();
            (image.index(), ids)
        });
        if ids.is_empty() {
            return;
        }
        for core in 0..self.cores() {
            let core = CoreId(u16::try_from(core).expect("at most 256 cores"));
            match self.ask(core, Op::Dropping).await {
                Reply::Dropping {
                    index: seen,
                    topics,
                } if seen >= index => {
                    for topic in topics {
                        ids.remove(&topic);
                    }
                }
                // It has not heard of some of these deletions yet: the next time.
                _ => return,
            }
        }
        if ids.is_empty() {
            return;
        }
        let command = Command::ForgetTopics {
            ids: ids.into_iter().collect(),
        };
        if let Err(refusal) = self.submit(command).await {
            tracing::warn!(%refusal, "deleted topics were not forgotten; it is tried again");
        }
    }
}
