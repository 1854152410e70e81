//! Which broker leads which partition, as last heard, and when to ask again.
//!
//! The router only remembers and decides: whoever owns it sends the Metadata request when
//! [`Router::refresh_due`] says so, and hands the answer to [`Router::learn`].

use std::collections::BTreeMap;
use std::sync::Arc;

use streambus_proto::error_code::ErrorCode;
use streambus_proto::ids::{BrokerId, LeaderEpoch, TopicId};
use streambus_proto::messages::metadata_response::{MetadataResponse, MetadataResponseTopic};
use streambus_proto::wire::Array;

use crate::partition::TopicPartition;

/// A broker's address, on the listener that was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broker {
    /// Its id: with core-routed listeners one for each core of a node.
    pub id: BrokerId,
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Rack, if it has one.
    pub rack: Option<String>,
}

/// What is known of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// The partition's number.
    pub index: i32,
    /// Who leads it; `None` while nobody does.
    pub leader: Option<BrokerId>,
    /// Grows with each change of leader.
    pub leader_epoch: LeaderEpoch,
    /// Who holds it.
    pub replicas: Vec<BrokerId>,
    /// Who holds all of it.
    pub in_sync: Vec<BrokerId>,
}

/// What is known of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    /// The topic's name.
    pub name: Arc<str>,
    /// Its id, which a topic of the same name created later does not share.
    pub id: TopicId,
    /// Whether it is the broker's own, such as `__consumer_offsets`.
    pub is_internal: bool,
    /// Its partitions by number.
    pub partitions: BTreeMap<i32, Partition>,
}

/// An answer to a Metadata request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClusterView {
    /// The cluster's id.
    pub cluster_id: Option<String>,
    /// Which broker answers for the controller.
    pub controller: Option<BrokerId>,
    /// The brokers of the listener that was asked.
    pub brokers: Vec<Broker>,
    /// The topics that were asked for.
    pub topics: Vec<Topic>,
}

/// Keeps what was last heard of a cluster. Lives beside the connections of one client.
#[derive(Debug, Clone)]
pub struct Router {
    cluster_id: Option<String>,
    controller: Option<BrokerId>,
    brokers: BTreeMap<BrokerId, Broker>,
    topics: BTreeMap<Arc<str>, Topic>,
    /// Something answered that it is not where we think: ask before relying on this.
    stale: bool,
    /// When the last answer came; `None` before the first.
    learned_ms: Option<u64>,
    /// When a refresh was last begun, for the pause between two.
    asked_ms: Option<u64>,
}

/// The shortest time between two refreshes: leaders take about this long to change, and a
/// cluster in trouble is not helped by each client asking in a loop.
const REFRESH_PAUSE_MS: u64 = 100;
/// The longest time without one: Kafka's `metadata.max.age.ms`.
const AGE_MAX_MS: u64 = 300_000;

impl Default for Router {
    fn default() -> Self {
        Router {
            cluster_id: None,
            controller: None,
            brokers: BTreeMap::new(),
            topics: BTreeMap::new(),
            stale: true,
            learned_ms: None,
            asked_ms: None,
        }
    }
}

impl Router {
    /// The cluster's id, once known.
    pub fn cluster_id(&self) -> Option<&str> {
        self.cluster_id.as_deref()
    }

    /// The broker that answers for the controller.
    pub fn controller(&self) -> Option<BrokerId> {
        self.controller
    }

    /// All brokers, by id.
    pub fn brokers(&self) -> impl Iterator<Item = &Broker> {
        self.brokers.values()
    }

    /// A broker by its id.
    pub fn broker(&self, id: BrokerId) -> Option<&Broker> {
        self.brokers.get(&id)
    }

    /// A topic by its name.
    pub fn topic(&self, name: &str) -> Option<&Topic> {
        self.topics.get(name)
    }

    /// All topics known, by name.
    pub fn topics(&self) -> impl Iterator<Item = &Topic> {
        self.topics.values()
    }

    /// A partition.
    pub fn partition(&self, name: &TopicPartition) -> Option<&Partition> {
        self.topics.get(&name.topic)?.partitions.get(&name.index)
    }

    /// Who leads a partition, if somebody does and its address is known.
    pub fn leader(&self, name: &TopicPartition) -> Option<BrokerId> {
        self.partition(name)?
            .leader
            .filter(|leader| self.brokers.contains_key(leader))
    }

    /// Takes an answer in. A partition with an older leader epoch than known is not believed:
    /// the broker that answered has not heard yet.
    pub fn learn(&mut self, view: ClusterView, now_ms: u64) {
        self.cluster_id = view.cluster_id.or_else(|| self.cluster_id.take());
        self.controller = view.controller;
        self.brokers = view
            .brokers
            .into_iter()
            .map(|broker| (broker.id, broker))
            .collect();
        for mut topic in view.topics {
            if let Some(known) = self
                .topics
                .get(&topic.name)
                .filter(|known| known.id == topic.id)
            {
                for (index, partition) in &mut topic.partitions {
                    match known.partitions.get(index) {
                        Some(newer) if newer.leader_epoch > partition.leader_epoch => {
                            *partition = newer.clone();
                        }
                        _ => {}
                    }
                }
            }
            self.topics.insert(Arc::clone(&topic.name), topic);
        }
        self.stale = false;
        self.learned_ms = Some(now_ms);
    }

    /// Takes in what an error said about a partition's new leader, without asking anyone.
    /// Returns whether it was news that can be used.
    pub fn moved(&mut self, name: &TopicPartition, leader: BrokerId, epoch: LeaderEpoch) -> bool {
        let known = self.brokers.contains_key(&leader);
        let topic = self.topics.get_mut(&name.topic);
        let Some(partition) = topic.and_then(|topic| topic.partitions.get_mut(&name.index)) else {
            return false;
        };
        if epoch <= partition.leader_epoch {
            return false;
        }
        partition.leader = Some(leader);
        partition.leader_epoch = epoch;
        self.stale |= !known;
        known
    }

    /// Takes in a refusal that says the partition has moved, and perhaps where to. Without usable
    /// news of that, what is known becomes doubtful.
    pub fn heed(&mut self, name: &TopicPartition, leader: BrokerId, epoch: LeaderEpoch) -> bool {
        let told = leader.0 >= 0 && self.moved(name, leader, epoch);
        self.stale |= !told;
        told
    }

    /// Forgets a topic that was deleted.
    pub fn forget(&mut self, topic: &str) {
        self.topics.remove(topic);
    }

    /// Notes that something was not where it should be, or could not be reached.
    pub fn suspect(&mut self) {
        self.stale = true;
    }

    /// Whether to ask again now. The caller then asks, and says so with [`Router::asked`].
    pub fn refresh_due(&self, now_ms: u64) -> bool {
        let paused = self
            .asked_ms
            .is_none_or(|asked| now_ms.saturating_sub(asked) >= REFRESH_PAUSE_MS);
        let old = self
            .learned_ms
            .is_none_or(|learned| now_ms.saturating_sub(learned) >= AGE_MAX_MS);
        (self.stale || old) && paused
    }

    /// When [`Router::refresh_due`] will next be true by itself.
    pub fn refresh_at_ms(&self) -> u64 {
        let Some(learned) = self.learned_ms else {
            return 0;
        };
        let after_pause = self.asked_ms.map_or(0, |asked| asked + REFRESH_PAUSE_MS);
        if self.stale {
            after_pause
        } else {
            after_pause.max(learned + AGE_MAX_MS)
        }
    }

    /// Notes that a refresh was begun.
    pub fn asked(&mut self, now_ms: u64) {
        self.asked_ms = Some(now_ms);
    }
}

/// What an answer says, and the topics that it says do not exist.
pub fn cluster_view(answer: &MetadataResponse<'_>) -> (ClusterView, Vec<String>) {
    let brokers = answer.brokers.iter().map(|broker| Broker {
        id: BrokerId(broker.node_id),
        host: broker.host.into_owned(),
        port: u16::try_from(broker.port).unwrap_or_default(),
        rack: broker.rack.map(std::borrow::Cow::into_owned),
    });
    let mut view = ClusterView {
        cluster_id: answer.cluster_id.as_deref().map(str::to_owned),
        controller: (answer.controller_id >= 0).then_some(BrokerId(answer.controller_id)),
        brokers: brokers.collect(),
        topics: Vec::new(),
    };
    let mut missing = Vec::new();
    for topic in &answer.topics {
        let Some(name) = topic.name.as_deref() else {
            continue;
        };
        match ErrorCode::from_i16(topic.error_code) {
            ErrorCode::None | ErrorCode::LeaderNotAvailable => {
                view.topics.push(topic_of(name, &topic));
            }
            _ => missing.push(name.to_owned()),
        }
    }
    (view, missing)
}

fn topic_of(name: &str, topic: &MetadataResponseTopic<'_>) -> Topic {
    let partitions = topic.partitions.iter().map(|partition| {
        let brokers = |ids: &Array<'_, i32>| ids.iter().map(BrokerId).collect();
        let known = Partition {
            index: partition.partition_index,
            leader: (partition.leader_id >= 0).then_some(BrokerId(partition.leader_id)),
            leader_epoch: LeaderEpoch(partition.leader_epoch),
            replicas: brokers(&partition.replica_nodes),
            in_sync: brokers(&partition.isr_nodes),
        };
        (partition.partition_index, known)
    });
    Topic {
        name: name.into(),
        id: topic.topic_id,
        is_internal: topic.is_internal,
        partitions: partitions.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(leader: i32, epoch: i32) -> ClusterView {
        let broker = |id| Broker {
            id: BrokerId(id),
            host: "h".into(),
            port: 1,
            rack: None,
        };
        let partition = Partition {
            index: 0,
            leader: Some(BrokerId(leader)),
            leader_epoch: LeaderEpoch(epoch),
            replicas: vec![],
            in_sync: vec![],
        };
        let topic = Topic {
            name: "t".into(),
            id: TopicId([1; 16]),
            is_internal: false,
            partitions: [(0, partition)].into(),
        };
        ClusterView {
            brokers: vec![broker(1), broker(2)],
            topics: vec![topic],
            ..ClusterView::default()
        }
    }

    #[test]
    fn older_leader_epochs_are_not_believed() {
        // An answer from a broker that lags does not undo what a newer one said,
        // unless the topic is another one of the same name.
        let name = TopicPartition::new("t", 0);
        let mut router = Router::default();
        router.learn(view(1, 5), 0);
        router.learn(view(2, 4), 1);
        assert_eq!(router.leader(&name), Some(BrokerId(1)));
        router.learn(view(2, 6), 2);
        assert_eq!(router.leader(&name), Some(BrokerId(2)));
        let mut again = view(1, 0);
        again.topics[0].id = TopicId([2; 16]);
        router.learn(again, 3);
        assert_eq!(router.leader(&name), Some(BrokerId(1)));
    }

    #[test]
    fn hints_move_a_leader_only_forward() {
        // A hint in an error is used if it is newer, and asks for a refresh if it names a stranger.
        let name = TopicPartition::new("t", 0);
        let mut router = Router::default();
        router.learn(view(1, 5), 0);
        assert!(!router.moved(&name, BrokerId(2), LeaderEpoch(5)));
        assert!(router.moved(&name, BrokerId(2), LeaderEpoch(6)));
        assert_eq!(router.leader(&name), Some(BrokerId(2)));
        assert!(!router.refresh_due(1_000));
        assert!(!router.moved(&name, BrokerId(3), LeaderEpoch(7)));
        assert_eq!(router.leader(&name), None);
        assert!(router.refresh_due(1_000));
    }

    #[test]
    fn refreshes_are_paced() {
        // The first at once, then when suspected but not in a loop, then by age.
        let mut router = Router::default();
        assert!(router.refresh_due(0));
        router.asked(0);
        assert!(!router.refresh_due(REFRESH_PAUSE_MS - 1));
        assert!(router.refresh_due(REFRESH_PAUSE_MS));
        router.learn(view(1, 1), 50);
        assert!(!router.refresh_due(REFRESH_PAUSE_MS));
        assert_eq!(router.refresh_at_ms(), 50 + AGE_MAX_MS);
        router.suspect();
        assert!(router.refresh_due(REFRESH_PAUSE_MS));
        router.asked(REFRESH_PAUSE_MS);
        router.learn(view(1, 1), 200);
        assert!(router.refresh_due(200 + AGE_MAX_MS));
    }
}
