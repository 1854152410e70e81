//! The image: the metadata as of one index. Each core has its own and absorbs the same deltas in
//! the same order, so that a lookup is a plain borrow and no two cores share memory.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use streambus_proto::ids::{LeaderEpoch, TopicId};

use super::broker_config::BrokerSettings;
use super::delta::{Change, Delta, MetadataIndex};
use super::topic_config::TopicSettings;
use super::topic_name;

/// Settings by Kafka's names, in order, as they were given.
pub type ConfigMap = BTreeMap<String, String>;

/// A node of the cluster: `node.id`. Its cores are brokers to the clients of a core listener, so a
/// node's number and a broker id are different things.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u16);

/// What a data directory is fixed to when it is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster's name, as clients see it.
    pub cluster_id: String,
    /// The node that the directory belongs to.
    pub node: NodeId,
    /// How many lanes the node has. Grows with [`Change::LanesAdded`], and never shrinks.
    pub lanes: u16,
}

/// Whose broker settings are meant.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConfigScope {
    /// Every node's, unless it has its own.
    Cluster,
    /// One node's.
    Node(NodeId),
}

/// Where a partition lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionPlace {
    /// The lane of the leader that holds it.
    pub lane: u16,
    /// The node that leads it.
    pub leader: NodeId,
    /// All nodes that hold it, the preferred leader first. Never empty, no node twice.
    pub replicas: Vec<NodeId>,
    /// Grows with each change of leader.
    pub leader_epoch: LeaderEpoch,
}

/// A topic.
#[derive(Clone, Debug)]
pub struct Topic {
    /// Its name.
    pub name: Rc<str>,
    /// Its id: a topic deleted and made again has another.
    pub id: TopicId,
    /// Its partitions by index. Never empty.
    pub partitions: Vec<PartitionPlace>,
    /// The settings it was given.
    pub configs: ConfigMap,
    /// The settings that hold, resolved once a delta and shared with whoever needs them.
    pub settings: Rc<TopicSettings>,
}

impl Topic {
    /// Whether the broker keeps it for itself.
    pub fn is_internal(&self) -> bool {
        topic_name::is_internal(&self.name)
    }

    /// Where one of its partitions lives.
    pub fn partition(&self, index: i32) -> Option<&PartitionPlace> {
        self.partitions.get(usize::try_from(index).ok()?)
    }

    /// How many partitions it has.
    pub fn partition_count(&self) -> i32 {
        i32::try_from(self.partitions.len())
            .expect("partitions_per_topic_max is far below i32::MAX")
    }
}

/// The metadata as of [`Image::index`].
#[derive(Clone, Debug)]
pub struct Image {
    identity: Identity,
    index: MetadataIndex,
    topics: BTreeMap<Rc<str>, Rc<Topic>>,
    topics_by_id: BTreeMap<TopicId, Rc<Topic>>,
    /// The names with `.` or `_` in them, by what clashing names have in common.
    unified: BTreeMap<String, Rc<str>>,
    /// Deleted topics of which a lane may still hold something.
    deleted_topics: BTreeSet<TopicId>,
    broker_configs: BTreeMap<ConfigScope, ConfigMap>,
    /// What `streambus.toml` says, by Kafka's names; only what differs from the default.
    statics: Arc<ConfigMap>,
    broker: Rc<BrokerSettings>,
    next_producer_id: i64,
    partition_count: usize,
    /// Partitions of each lane of this node.
    lane_partitions: Vec<usize>,
}

impl Image {
    /// The image of a cluster that has nothing yet. `statics` are this node's own settings by
    /// Kafka's names (see [`super::broker_config::statics`]).
    pub fn empty(identity: Identity, statics: Arc<ConfigMap>) -> Image {
        assert!(identity.lanes > 0, "a node has at least one lane");
        let lane_partitions = vec![0; usize::from(identity.lanes)];
        let mut image = Image {
            identity,
            index: MetadataIndex(0),
            topics: BTreeMap::new(),
            topics_by_id: BTreeMap::new(),
            unified: BTreeMap::new(),
            deleted_topics: BTreeSet::new(),
            broker_configs: BTreeMap::new(),
            statics,
            broker: Rc::new(BrokerSettings::default()),
            next_producer_id: 0,
            partition_count: 0,
            lane_partitions,
        };
        image.resolve_broker();
        image
    }

    /// Who this is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The cluster's name.
    pub fn cluster_id(&self) -> &str {
        &self.identity.cluster_id
    }

    /// The node that this image's owner is.
    pub fn node(&self) -> NodeId {
        self.identity.node
    }

    /// The last delta absorbed.
    pub fn index(&self) -> MetadataIndex {
        self.index
    }

    /// A topic by name.
    pub fn topic(&self, name: &str) -> Option<&Rc<Topic>> {
        self.topics.get(name)
    }

    /// A topic by id.
    pub fn topic_by_id(&self, id: TopicId) -> Option<&Rc<Topic>> {
        self.topics_by_id.get(&id)
    }

    /// All topics by name.
    pub fn topics(&self) -> impl ExactSizeIterator<Item = &Rc<Topic>> {
        self.topics.values()
    }

    /// The topics from `first` on, by name.
    pub fn topics_from<'a>(&'a self, first: &str) -> impl Iterator<Item = &'a Rc<Topic>> {
        use std::ops::Bound::{Included, Unbounded};
        self.topics
            .range::<str, _>((Included(first), Unbounded))
            .map(|(_, topic)| topic)
    }

    /// Another topic whose name a metric could not tell from this one.
    pub fn colliding_topic(&self, name: &str) -> Option<&str> {
        let other = self.unified.get(&topic_name::unified(name))?;
        (**other != *name).then_some(other)
    }

    /// Deleted topics of which a lane may still hold something.
    pub fn deleted_topics(&self) -> &BTreeSet<TopicId> {
        &self.deleted_topics
    }

    /// How many topics there are.
    pub fn topic_count(&self) -> usize {
        self.topics.len()
    }

    /// How many partitions there are.
    pub fn partition_count(&self) -> usize {
        self.partition_count
    }

    /// How many partitions each lane of this node holds.
    pub fn lane_partitions(&self) -> &[usize] {
        &self.lane_partitions
    }

    /// The settings that a scope was given at run time.
    pub fn broker_configs(&self, scope: ConfigScope) -> Option<&ConfigMap> {
        self.broker_configs.get(&scope)
    }

    /// Every scope that was given settings at run time.
    pub fn broker_config_scopes(&self) -> impl Iterator<Item = (ConfigScope, &ConfigMap)> {
        self.broker_configs
            .iter()
            .map(|(scope, configs)| (*scope, configs))
    }

    /// What this node's own configuration says, by Kafka's names.
    pub fn statics(&self) -> &ConfigMap {
        &self.statics
    }

    /// This node's broker settings that hold.
    pub fn broker(&self) -> &Rc<BrokerSettings> {
        &self.broker
    }

    /// The first producer id that nobody has.
    pub fn next_producer_id(&self) -> i64 {
        self.next_producer_id
    }

    /// Takes a delta in. Deltas come in order and whole.
    ///
    /// # Panics
    /// If the delta does not follow: the images of the cores would differ from then on.
    pub fn absorb(&mut self, delta: &Delta) {
        assert_eq!(
            delta.index,
            self.index.next(),
            "a delta was skipped or absorbed twice"
        );
        for change in &delta.changes {
            self.absorb_change(change);
        }
        self.index = delta.index;
    }

    /// Jumps to the index of a snapshot whose changes were taken in with [`Image::absorb_change`].
    pub(super) fn set_index(&mut self, index: MetadataIndex) {
        assert!(index >= self.index, "the metadata index never goes back");
        self.index = index;
    }

    /// Whether a change can follow this image.
    ///
    /// # Errors
    /// With what does not fit: the delta is not of this history.
    pub(super) fn admits(&self, change: &Change) -> Result<(), &'static str> {
        let fits = |places: &[PartitionPlace]| {
            let lanes = self.lane_partitions.len();
            let own = places
                .iter()
                .filter(|place| place.leader == self.identity.node);
            own.into_iter().all(|place| usize::from(place.lane) < lanes)
                && places.iter().all(|place| !place.replicas.is_empty())
        };
        let known = |id: &TopicId| self.topics_by_id.get(id);
        match change {
            Change::TopicCreated { name, id, .. }
                if self.topics.contains_key(name.as_str()) || known(id).is_some() =>
            {
                Err("a topic is created that exists")
            }
            Change::TopicCreated { partitions, .. } if partitions.is_empty() => {
                Err("a topic without partitions is created")
            }
            Change::TopicCreated { partitions, .. }
            | Change::PartitionsAdded { partitions, .. }
                if !fits(partitions) =>
            {
                Err("a partition is on a lane that does not exist, or has no replica")
            }
            Change::TopicDeleted { id } | Change::TopicConfigsSet { id, .. }
                if known(id).is_none() =>
            {
                Err("a topic changes that does not exist")
            }
            Change::PartitionsAdded { id, first, .. }
                if known(id).is_none_or(|topic| topic.partition_count() != *first) =>
            {
                Err("partitions are added elsewhere than at the end of a topic")
            }
            Change::ProducerIdsAllocated { first, count }
                if *first < self.next_producer_id
                    || first.checked_add(i64::from(*count)).is_none() =>
            {
                Err("producer ids are given out twice")
            }
            Change::LanesAdded { node, lanes }
                if *node == self.identity.node && *lanes < self.identity.lanes =>
            {
                Err("lanes are taken away")
            }
            _ => Ok(()),
        }
    }

    pub(super) fn absorb_change(&mut self, change: &Change) {
        assert_eq!(self.admits(change), Ok(()), "{change:?}");
        match change {
            Change::TopicCreated {
                name,
                id,
                partitions,
                configs,
            } => {
                self.create_topic(name, *id, partitions, configs);
            }
            Change::TopicDeleted { id } => self.delete_topic(*id),
            Change::PartitionsAdded {
                id,
                first,
                partitions,
            } => {
                self.add_partitions(*id, *first, partitions);
            }
            Change::TopicConfigsSet { id, configs } => {
                let mut topic = self.existing(*id);
                topic.configs.clone_from(configs);
                topic.settings = self.resolve_topic(configs);
                self.put(topic);
            }
            Change::BrokerConfigsSet { scope, configs } => {
                if configs.is_empty() {
                    self.broker_configs.remove(scope);
                } else {
                    self.broker_configs.insert(*scope, configs.clone());
                }
                self.resolve_broker();
            }
            Change::DeletedTopicsSet { ids } => {
                self.deleted_topics = ids.iter().copied().collect();
            }
            Change::ProducerIdsAllocated { first, count } => {
                assert!(
                    *first >= self.next_producer_id,
                    "producer ids are never given out twice"
                );
                self.next_producer_id = first + i64::from(*count);
            }
            Change::LanesAdded { node, lanes } if *node == self.identity.node => {
                self.identity.lanes = *lanes;
                self.lane_partitions.resize(usize::from(*lanes), 0);
            }
            // Another node's lanes: only their own node places partitions on them.
            Change::LanesAdded { .. } => {}
        }
    }

    fn create_topic(
        &mut self,
        name: &str,
        id: TopicId,
        partitions: &[PartitionPlace],
        configs: &ConfigMap,
    ) {
        assert!(
            !self.topics.contains_key(name),
            "topic {name} is created twice"
        );
        assert!(!partitions.is_empty(), "topic {name} has no partition");
        let settings = self.resolve_topic(configs);
        let topic = Topic {
            name: Rc::from(name),
            id,
            partitions: partitions.to_vec(),
            configs: configs.clone(),
            settings,
        };
        self.count(&topic.partitions, |lane| lane + 1);
        self.partition_count += partitions.len();
        if name.contains(['.', '_']) {
            self.unified
                .insert(topic_name::unified(name), Rc::clone(&topic.name));
        }
        self.put(topic);
    }

    fn delete_topic(&mut self, id: TopicId) {
        let topic = self
            .topics_by_id
            .remove(&id)
            .expect("only a topic that exists is deleted");
        self.topics
            .remove(&topic.name)
            .expect("both maps hold the same topics");
        self.unified.remove(&topic_name::unified(&topic.name));
        self.count(&topic.partitions, |lane| lane - 1);
        self.partition_count -= topic.partitions.len();
        self.deleted_topics.insert(id);
    }

    fn add_partitions(&mut self, id: TopicId, first: i32, added: &[PartitionPlace]) {
        let mut topic = self.existing(id);
        assert_eq!(
            topic.partition_count(),
            first,
            "partitions are added at the end"
        );
        topic.partitions.extend_from_slice(added);
        self.count(added, |lane| lane + 1);
        self.partition_count += added.len();
        self.put(topic);
    }

    fn existing(&self, id: TopicId) -> Topic {
        Topic::clone(
            self.topics_by_id
                .get(&id)
                .expect("only a topic that exists is changed"),
        )
    }

    fn put(&mut self, topic: Topic) {
        let topic = Rc::new(topic);
        self.topics
            .insert(Rc::clone(&topic.name), Rc::clone(&topic));
        self.topics_by_id.insert(topic.id, topic);
        debug_assert_eq!(self.topics.len(), self.topics_by_id.len());
    }

    /// Keeps count of the lanes of this node.
    fn count(&mut self, partitions: &[PartitionPlace], change: impl Fn(usize) -> usize) {
        for place in partitions
            .iter()
            .filter(|place| place.leader == self.identity.node)
        {
            let lane = self.lane_partitions.get_mut(usize::from(place.lane));
            let lane = lane.expect("partitions are placed on lanes that exist");
            *lane = change(*lane);
        }
    }

    fn resolve_topic(&self, configs: &ConfigMap) -> Rc<TopicSettings> {
        Rc::new(TopicSettings::resolve(&self.sources(), configs))
    }

    /// Resolves everything anew: a broker setting is the default of every topic's.
    fn resolve_broker(&mut self) {
        self.broker = Rc::new(BrokerSettings::resolve(&self.sources()));
        let topics: Vec<Topic> = self
            .topics
            .values()
            .map(|topic| Topic::clone(topic))
            .collect();
        for mut topic in topics {
            topic.settings = self.resolve_topic(&topic.configs);
            self.put(topic);
        }
    }

    /// Where this node's settings come from.
    pub fn sources(&self) -> super::broker_config::Sources<'_> {
        self.sources_of(self.identity.node)
    }

    /// Where a node's settings come from.
    pub fn sources_of(&self, node: NodeId) -> super::broker_config::Sources<'_> {
        super::broker_config::Sources {
            node: self.broker_configs.get(&ConfigScope::Node(node)),
            cluster: self.broker_configs.get(&ConfigScope::Cluster),
            statics: &self.statics,
        }
    }
}
