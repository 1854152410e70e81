//! `Metadata`: which topics there are and which broker leads what; and topics made because a
//! client named them.

use std::borrow::Cow;
use std::rc::Rc;

use rustc_hash::FxHashSet;
use streambus_proto::error_code::ErrorCode;
use streambus_proto::ids::TopicId;
use streambus_proto::messages::metadata_request::MetadataRequest;
use streambus_proto::messages::metadata_response::{
    MetadataResponse, MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};

use streambus_proto::messages::Message;
use streambus_proto::wire::ArrayBuilder;

use super::admin::draw_topic_id;
use super::broker::Broker;
use super::cluster::CLUSTER_OPERATIONS;
use super::listener::View;
use super::request_memory::Steps;
use super::response::ResponseError;
use super::topic_partitions::TOPIC_OPERATIONS;
use crate::metadata::routing::Routing;
use crate::metadata::{Command, Image, Layout, Submit, Topic, topic_name};

/// The first version whose empty list means no topics; before, it means all.
const EMPTY_MEANS_NONE_FROM: i16 = 1;
/// The first version that can forbid that a topic is made.
const MAY_FORBID_CREATION_FROM: i16 = 4;
/// The first version that can leave a topic's name out.
const NAME_MAY_BE_NULL_FROM: i16 = 12;

/// A topic that a request names.
#[derive(PartialEq, Eq, Hash)]
enum Asked<'a> {
    Name(Cow<'a, str>),
    Id(TopicId),
}

pub(super) async fn metadata(
    broker: &Rc<Broker>,
    view: &View,
    request: &MetadataRequest<'_>,
    version: i16,
) -> Result<MetadataResponse<'static>, ResponseError> {
    let asked = request.topics.as_ref();
    let asked = asked.filter(|asked| !asked.is_empty() || version >= EMPTY_MEANS_NONE_FROM);
    let may_create = version < MAY_FORBID_CREATION_FROM || request.allow_auto_topic_creation;
    let mut answer = Topics {
        with_operations: request.include_topic_authorized_operations,
        steps: Steps::default(),
        written: ArrayBuilder::new(version, MetadataResponse::FLEXIBLE_FROM),
    };
    match asked {
        None => {
            let all: Vec<Rc<Topic>> = broker
                .shard
                .image(|image| image.topics().cloned().collect());
            for topic in all {
                answer.push(told(&topic, view)).await?;
            }
        }
        Some(asked) => {
            // A topic that is named twice is answered once, as Kafka does.
            let mut seen = FxHashSet::default();
            for topic in asked {
                answer.steps.next().await;
                let asked = match topic.name {
                    Some(name) if topic.topic_id == TopicId::ZERO => Asked::Name(name),
                    _ => Asked::Id(topic.topic_id),
                };
                if !seen.contains(&asked) {
                    let topic = one(broker, view, &asked, may_create, version).await;
                    answer.push(topic).await?;
                    seen.insert(asked);
                }
            }
        }
    }
    let cluster_authorized_operations = if request.include_cluster_authorized_operations {
        CLUSTER_OPERATIONS
    } else {
        i32::MIN
    };
    let topics = answer.written.finish();
    Ok(broker.shard.image(|image| MetadataResponse {
        cluster_authorized_operations,
        brokers: brokers(view),
        cluster_id: Some(image.cluster_id().to_owned().into()),
        controller_id: view.controller().0,
        topics,
        ..MetadataResponse::default()
    }))
}

/// The topics of an answer.
struct Topics {
    with_operations: bool,
    steps: Steps,
    written: ArrayBuilder<MetadataResponseTopic<'static>>,
}

impl Topics {
    async fn push(
        &mut self,
        mut topic: MetadataResponseTopic<'static>,
    ) -> Result<(), ResponseError> {
        if self.with_operations && topic.name.is_some() {
            topic.topic_authorized_operations = TOPIC_OPERATIONS;
        }
        self.steps.take(1 + topic.partitions.len()).await;
        Ok(self.written.push(topic)?)
    }
}

fn brokers(view: &View) -> streambus_proto::wire::Array<'static, MetadataResponseBroker<'static>> {
    let brokers = view
        .brokers()
        .into_iter()
        .map(|broker| MetadataResponseBroker {
            node_id: broker.id.0,
            host: broker.host.into(),
            port: i32::from(broker.port),
            rack: broker.rack.map(Into::into),
        });
    brokers.collect()
}

async fn one(
    broker: &Rc<Broker>,
    view: &View,
    asked: &Asked<'_>,
    may_create: bool,
    version: i16,
) -> MetadataResponseTopic<'static> {
    let name = match asked {
        Asked::Id(id) => {
            let found = broker
                .shard
                .image(|image| image.topic_by_id(*id).map(|t| told(t, view)));
            return found.unwrap_or_else(|| MetadataResponseTopic {
                error_code: ErrorCode::UnknownTopicId.into(),
                topic_id: *id,
                name: (version < NAME_MAY_BE_NULL_FROM).then(|| "".into()),
                ..MetadataResponseTopic::default()
            });
        }
        Asked::Name(name) => name,
    };
    let find = |image: &Image| image.topic(name).map(|topic| told(topic, view));
    if let Some(found) = broker.shard.image(find) {
        return found;
    }
    let code = if may_create && !topic_name::is_reserved(name) {
        create(broker, name).await
    } else {
        missing(name)
    };
    match broker.shard.image(find) {
        Some(made) => made,
        None => MetadataResponseTopic {
            error_code: code.into(),
            is_internal: topic_name::is_internal(name),
            name: Some(name.to_string().into()),
            ..MetadataResponseTopic::default()
        },
    }
}

fn missing(name: &str) -> ErrorCode {
    match topic_name::check(name) {
        Ok(()) => ErrorCode::UnknownTopicOrPartition,
        Err(_) => ErrorCode::InvalidTopicException,
    }
}

/// Makes a topic with the defaults, if the settings allow it. Returns what to tell if it is not
/// there afterwards.
async fn create(broker: &Rc<Broker>, name: &str) -> ErrorCode {
    let settings = broker.shard.image(|image| Rc::clone(image.broker()));
    if topic_name::check(name).is_err() || !settings.auto_create_topics_enable {
        return missing(name);
    }
    let command = Command::CreateTopic {
        name: name.to_owned(),
        id: draw_topic_id(&**broker),
        layout: Layout::Auto {
            partitions: -1,
            replication_factor: -1,
        },
        configs: Vec::new(),
    };
    match broker.submit(command).await {
        Ok(_) => ErrorCode::None,
        // Somebody was faster; the look after this finds it.
        Err(refusal) if refusal.code == ErrorCode::TopicAlreadyExists => ErrorCode::None,
        Err(refusal) => {
            tracing::debug!(topic = name, %refusal, "a topic was not made automatically");
            refusal.code
        }
    }
}

/// A topic as the listener's clients see it.
fn told(topic: &Rc<Topic>, view: &View) -> MetadataResponseTopic<'static> {
    let partitions = (0_i32..)
        .zip(&topic.partitions)
        .map(|(partition_index, place)| {
            let replicas: Vec<i32> = view
                .replicas_of(place)
                .iter()
                .map(|broker| broker.0)
                .collect();
            MetadataResponsePartition {
                partition_index,
                leader_id: view.leader_of(place).0,
                leader_epoch: place.leader_epoch.0,
                replica_nodes: replicas.clone().into(),
                isr_nodes: replicas.into(),
                ..MetadataResponsePartition::default()
            }
        });
    MetadataResponseTopic {
        name: Some(topic.name.to_string().into()),
        topic_id: topic.id,
        is_internal: topic.is_internal(),
        partitions: partitions.collect(),
        ..MetadataResponseTopic::default()
    }
}
