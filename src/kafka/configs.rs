//! `DescribeConfigs`, `AlterConfigs`, `IncrementalAlterConfigs`, `ListConfigResources`.

use std::borrow::Cow;

use rustc_hash::FxHashSet;
use streambus_proto::error_code::ErrorCode;
use streambus_proto::ids::BrokerId;
use streambus_proto::messages::Message;
use streambus_proto::messages::alter_configs_request::{AlterConfigsRequest, AlterConfigsResource};
use streambus_proto::messages::alter_configs_response::{
    AlterConfigsResourceResponse, AlterConfigsResponse,
};
use streambus_proto::messages::describe_configs_request::{
    DescribeConfigsRequest, DescribeConfigsResource,
};
use streambus_proto::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResponse, DescribeConfigsResult,
    DescribeConfigsSynonym,
};
use streambus_proto::messages::incremental_alter_configs_request::{
    self as incremental, IncrementalAlterConfigsRequest,
};
use streambus_proto::messages::incremental_alter_configs_response::{
    self as incremental_response, IncrementalAlterConfigsResponse,
};
use streambus_proto::messages::list_config_resources_request::ListConfigResourcesRequest;
use streambus_proto::messages::list_config_resources_response::{
    ConfigResource, ListConfigResourcesResponse,
};
use streambus_proto::wire::{ArrayBuilder, EncodeError};

use super::admin::{Host, check_settings, duplicates, shown, submit_all};
use super::request_memory::Steps;
use super::topics::told;
use crate::metadata::broker_config::{self, BrokerConfigDef, Sources};
use crate::metadata::config_value::Kind;
use crate::metadata::routing::Routing;
use crate::metadata::topic_config::{self, ConfigSource, Origin, TopicConfigDef};
use crate::metadata::{
    Alteration, Command, ConfigEdit, ConfigMap, ConfigOp, ConfigScope, Image, Refusal, apply,
    topic_name,
};

/// What settings belong to, by Kafka's numbers.
const TOPIC: i8 = 2;
const BROKER: i8 = 4;
const BROKER_LOGGER: i8 = 8;
const CLIENT_METRICS: i8 = 16;
const GROUP: i8 = 32;

/// `DescribeConfigs`. A resource that is named twice is answered once. From `answer_bytes_max` on, resources are
/// refused: an answer is many times as long as its request.
pub(crate) async fn describe_configs(
    host: &impl Host,
    routing: &impl Routing,
    request: &DescribeConfigsRequest<'_>,
    version: i16,
    answer_bytes_max: usize,
) -> Result<DescribeConfigsResponse<'static>, EncodeError> {
    let with = Wanted {
        synonyms: request.include_synonyms,
        documentation: request.include_documentation,
    };
    let log_level = host.log_level();
    let mut steps = Steps::default();
    let mut seen = FxHashSet::default();
    let mut results = ArrayBuilder::new(version, DescribeConfigsResponse::FLEXIBLE_FROM);
    for resource in &request.resources {
        steps.next().await;
        let (resource_type, name) = (resource.resource_type, resource.resource_name.clone());
        if !seen.insert((resource_type, name.clone())) {
            continue;
        }
        let described = if results.written_bytes() < answer_bytes_max {
            host.image(|image| describe(image, routing, &resource, with, &log_level))
        } else {
            Err(too_many_resources(answer_bytes_max))
        };
        let (configs, outcome) = match described {
            Ok(configs) => (configs, Ok(())),
            Err(refusal) => (Vec::new(), Err(refusal)),
        };
        steps.take(configs.len()).await;
        let (error_code, error_message) = told(outcome);
        results.push(DescribeConfigsResult {
            error_code,
            // Empty where all is well, as Kafka sends it.
            error_message: Some(error_message.unwrap_or_default().into()),
            resource_type,
            resource_name: name.into_owned().into(),
            configs: configs.into(),
        })?;
    }
    Ok(DescribeConfigsResponse {
        results: results.finish(),
        ..DescribeConfigsResponse::default()
    })
}

fn too_many_resources(answer_bytes_max: usize) -> Refusal {
    let message = format!(
        "the answer has reached {answer_bytes_max} bytes: describe fewer resources in one request, or \
         name the settings that are wanted"
    );
    Refusal::new(ErrorCode::InvalidRequest, message)
}

/// How much of each setting is told.
#[derive(Copy, Clone)]
struct Wanted {
    synonyms: bool,
    documentation: bool,
}

fn describe(
    image: &Image,
    routing: &impl Routing,
    resource: &DescribeConfigsResource<'_>,
    with: Wanted,
    log_level: &str,
) -> Result<Vec<DescribeConfigsResourceResult<'static>>, Refusal> {
    let name = &*resource.resource_name;
    // No list and an empty list both mean all.
    let keys: FxHashSet<Cow<'_, str>> = resource
        .configuration_keys
        .as_ref()
        .map(|keys| keys.iter().collect())
        .unwrap_or_default();
    let asked = |name: &str| keys.is_empty() || keys.contains(name);
    match resource.resource_type {
        TOPIC => {
            topic_name::check(name)
                .map_err(|message| Refusal::new(ErrorCode::InvalidTopicException, message))?;
            let topic = image.topic(name).ok_or_else(|| {
                let message = format!("The topic '{}' does not exist.", shown(name));
                Refusal::new(ErrorCode::UnknownTopicOrPartition, message)
            })?;
            let defs = topic_config::TABLE.iter().filter(|def| asked(def.name));
            Ok(defs
                .map(|def| topic_entry(&image.sources(), &topic.configs, def, with))
                .collect())
        }
        BROKER => match scope(routing, name)? {
            ConfigScope::Cluster => {
                // What the cluster was given, and nothing that a node has by itself.
                let given = image
                    .broker_configs(ConfigScope::Cluster)
                    .cloned()
                    .unwrap_or_default();
                let defs = broker_config::all();
                let defs = defs.filter(|def| asked(def.name) && given.contains_key(def.name));
                let none = ConfigMap::new();
                let sources = Sources {
                    node: None,
                    cluster: Some(&given),
                    statics: &none,
                };
                Ok(defs.map(|def| broker_entry(&sources, def, with)).collect())
            }
            ConfigScope::Node(node) => {
                let mut statics = image.statics().clone();
                let brokers = routing.brokers();
                let broker = brokers
                    .iter()
                    .find(|broker| broker.id.0.to_string() == name);
                statics.extend(broker.map(broker_config::identity).unwrap_or_default());
                let sources = Sources {
                    statics: &statics,
                    ..image.sources_of(node)
                };
                let defs = broker_config::all().filter(|def| asked(def.name));
                Ok(defs.map(|def| broker_entry(&sources, def, with)).collect())
            }
        },
        BROKER_LOGGER => {
            scope(routing, name)?;
            let root = logger_entry(log_level);
            Ok(if asked(&root.name) {
                vec![root]
            } else {
                Vec::new()
            })
        }
        // Both have only what they were given, and nothing can be given yet.
        CLIENT_METRICS | GROUP => Ok(Vec::new()),
        other => Err(unexpected_type(other)),
    }
}

fn unexpected_type(resource_type: i8) -> Refusal {
    let message = format!(
        "Unexpected resource type {resource_type}; topics ({TOPIC}), brokers ({BROKER}) and their \
         loggers ({BROKER_LOGGER}) have settings"
    );
    Refusal::new(ErrorCode::InvalidRequest, message)
}

/// Whose broker settings a resource name means: the cluster's if it is empty.
fn scope(routing: &impl Routing, name: &str) -> Result<ConfigScope, Refusal> {
    if name.is_empty() {
        return Ok(ConfigScope::Cluster);
    }
    let place = name
        .parse()
        .ok()
        // Each broker has one name: "+1" and "01" would get past the look for repeats.
        .filter(|id: &i32| id.to_string() == name)
        .and_then(|id| routing.place_of(BrokerId(id)));
    place
        .map(|place| ConfigScope::Node(place.node))
        .ok_or_else(|| {
            let known: Vec<String> = routing
                .brokers()
                .iter()
                .map(|broker| broker.id.0.to_string())
                .collect();
            let message = format!(
                "Unexpected broker id, expected {} or empty string, but received {}",
                known.join(", "),
                shown(name)
            );
            Refusal::new(ErrorCode::InvalidRequest, message)
        })
}

fn topic_entry(
    sources: &Sources<'_>,
    configs: &ConfigMap,
    def: &'static TopicConfigDef,
    with: Wanted,
) -> DescribeConfigsResourceResult<'static> {
    let (value, source) = topic_config::effective(sources, Some(configs), def);
    DescribeConfigsResourceResult {
        name: def.name.into(),
        value: Some(value.into()),
        config_source: source.code(),
        synonyms: synonyms(with, || topic_config::origins(sources, Some(configs), def)).into(),
        config_type: def.kind.code(),
        documentation: with.documentation.then_some(def.documentation.into()),
        ..DescribeConfigsResourceResult::default()
    }
}

fn broker_entry(
    sources: &Sources<'_>,
    def: &'static BrokerConfigDef,
    with: Wanted,
) -> DescribeConfigsResourceResult<'static> {
    // A synonym may have the value under another name, in another unit: it gives the source, and
    // only the setting's own name gives the value.
    let origins = broker_config::origins_of(sources, def);
    let source = origins
        .first()
        .map_or(ConfigSource::Default, |best| best.source);
    let own = origins.iter().find(|origin| origin.name == def.name);
    DescribeConfigsResourceResult {
        name: def.name.into(),
        value: own.map(|own| own.value.clone().into()),
        read_only: !def.dynamic,
        is_sensitive: def.kind == Kind::Password,
        config_source: source.code(),
        synonyms: synonyms(with, || origins).into(),
        config_type: def.kind.code(),
        documentation: with.documentation.then_some(def.documentation.into()),
    }
}

fn logger_entry(log_level: &str) -> DescribeConfigsResourceResult<'static> {
    DescribeConfigsResourceResult {
        name: "root".into(),
        value: Some(log_level.to_ascii_uppercase().into()),
        read_only: true,
        config_source: ConfigSource::Logger.code(),
        config_type: Kind::String.code(),
        ..DescribeConfigsResourceResult::default()
    }
}

fn synonyms(
    with: Wanted,
    find: impl FnOnce() -> Vec<Origin>,
) -> Vec<DescribeConfigsSynonym<'static>> {
    if !with.synonyms {
        return Vec::new();
    }
    let synonym = |origin: Origin| DescribeConfigsSynonym {
        name: origin.name.into(),
        value: Some(origin.value.into()),
        source: origin.source.code(),
    };
    find().into_iter().map(synonym).collect()
}

/// One resource whose settings are to change.
struct Wish {
    resource_type: i8,
    resource_name: String,
    alteration: Result<Alteration, Refusal>,
}

/// `AlterConfigs`: what is not named goes back to its default.
pub(crate) async fn alter_configs(
    host: &impl Host,
    routing: &impl Routing,
    request: &AlterConfigsRequest<'_>,
) -> AlterConfigsResponse<'static> {
    let mut steps = Steps::default();
    let mut wishes = Vec::with_capacity(request.resources.len());
    for resource in &request.resources {
        steps.take(1 + resource.configs.len()).await;
        wishes.push(Wish {
            resource_type: resource.resource_type,
            alteration: replacement(&resource),
            resource_name: resource.resource_name.into_owned(),
        });
    }
    let outcomes = alter(host, routing, wishes, request.validate_only).await;
    let responses = outcomes.into_iter().map(|(wish, outcome)| {
        let (error_code, error_message) = told(outcome);
        AlterConfigsResourceResponse {
            error_code,
            error_message: error_message.map(Into::into),
            resource_type: wish.resource_type,
            resource_name: wish.resource_name.into(),
        }
    });
    AlterConfigsResponse {
        responses: responses.collect(),
        ..AlterConfigsResponse::default()
    }
}

/// `IncrementalAlterConfigs`: what is not named stays.
pub(crate) async fn incremental_alter_configs(
    host: &impl Host,
    routing: &impl Routing,
    request: &IncrementalAlterConfigsRequest<'_>,
) -> IncrementalAlterConfigsResponse<'static> {
    let mut steps = Steps::default();
    let mut wishes = Vec::with_capacity(request.resources.len());
    for resource in &request.resources {
        steps.take(1 + resource.configs.len()).await;
        wishes.push(Wish {
            resource_type: resource.resource_type,
            alteration: edits(&resource).map(Alteration::Edit),
            resource_name: resource.resource_name.into_owned(),
        });
    }
    let outcomes = alter(host, routing, wishes, request.validate_only).await;
    let responses = outcomes.into_iter().map(|(wish, outcome)| {
        let (error_code, error_message) = told(outcome);
        incremental_response::AlterConfigsResourceResponse {
            error_code,
            error_message: error_message.map(Into::into),
            resource_type: wish.resource_type,
            resource_name: wish.resource_name.into(),
        }
    });
    IncrementalAlterConfigsResponse {
        responses: responses.collect(),
        ..IncrementalAlterConfigsResponse::default()
    }
}

fn replacement(resource: &AlterConfigsResource<'_>) -> Result<Alteration, Refusal> {
    check_settings(resource.configs.len())?;
    let configs = resource.configs.iter();
    let configs =
        configs.map(|config| (config.name.into_owned(), config.value.map(Cow::into_owned)));
    Ok(Alteration::Replace(configs.collect()))
}

fn edits(resource: &incremental::AlterConfigsResource<'_>) -> Result<Vec<ConfigEdit>, Refusal> {
    check_settings(resource.configs.len())?;
    let edit = |config: incremental::AlterableConfig<'_>| {
        let code = config.config_operation;
        let op = ConfigOp::of(code).ok_or_else(|| {
            let message = format!(
                "Unknown config operation {code} for {}; 0 sets, 1 deletes, 2 appends, 3 subtracts",
                shown(&config.name)
            );
            Refusal::new(ErrorCode::InvalidRequest, message)
        })?;
        Ok(ConfigEdit {
            name: config.name.into_owned(),
            op,
            value: config.value.map(Cow::into_owned),
        })
    };
    resource.configs.iter().map(edit).collect()
}

/// Makes wishes true, or only judges them; each on its own, in the order of the request.
async fn alter(
    host: &impl Host,
    routing: &impl Routing,
    wishes: Vec<Wish>,
    validate_only: bool,
) -> Vec<(Wish, Result<(), Refusal>)> {
    let resource = |wish: &Wish| (wish.resource_type, wish.resource_name.clone());
    let twice = duplicates(wishes.iter().map(resource)).await;
    let judge = |wish: &Wish| {
        if twice.contains(&resource(wish)) {
            let message = "Each resource must appear at most once.";
            return Err(Refusal::new(ErrorCode::InvalidRequest, message));
        }
        let command = alteration_of(routing, wish)?;
        if validate_only {
            host.image(|image| apply(image, &command, &host.limits()))?;
            return Ok(None);
        }
        Ok(Some(command))
    };
    let mut steps = Steps::default();
    let mut judged: Vec<Result<Option<Command>, Refusal>> = Vec::with_capacity(wishes.len());
    for wish in &wishes {
        steps.next().await;
        judged.push(judge(wish));
    }
    let commands = judged
        .iter()
        .filter_map(|one| one.clone().ok().flatten())
        .collect();
    let mut decisions = submit_all(host, commands).await.into_iter();
    let outcomes = wishes.into_iter().zip(judged).map(|(wish, one)| {
        let outcome = match one {
            Ok(Some(_)) => decisions
                .next()
                .map_or(Ok(()), |decision| decision.map(drop)),
            Ok(None) => Ok(()),
            Err(refusal) => Err(refusal),
        };
        (wish, outcome)
    });
    outcomes.collect()
}

fn alteration_of(routing: &impl Routing, wish: &Wish) -> Result<Command, Refusal> {
    let alteration = wish.alteration.clone()?;
    let invalid = |message: &str| Err(Refusal::new(ErrorCode::InvalidRequest, message));
    match wish.resource_type {
        TOPIC => Ok(Command::AlterTopicConfig {
            topic: wish.resource_name.clone(),
            alteration,
        }),
        BROKER => {
            let scope = scope(routing, &wish.resource_name)?;
            Ok(Command::AlterBrokerConfig { scope, alteration })
        }
        BROKER_LOGGER => invalid("Log levels are set by log.level in streambus.toml"),
        CLIENT_METRICS => invalid("Client metrics subscriptions are not supported"),
        GROUP => invalid("Groups have no settings of their own"),
        other => Err(unexpected_type(other)),
    }
}

/// `ListConfigResources`. Version 0 only knows client metrics, of which there are none.
pub(crate) fn list_config_resources(
    image: &Image,
    routing: &impl Routing,
    request: &ListConfigResourcesRequest<'_>,
    version: i16,
) -> ListConfigResourcesResponse<'static> {
    const ALL: [i8; 5] = [TOPIC, BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP];
    let mut asked: Vec<i8> = request.resource_types.iter().collect();
    if version == 0 {
        asked = vec![CLIENT_METRICS];
    } else if asked.is_empty() {
        asked = ALL.to_vec();
    }
    if asked.iter().any(|asked| !ALL.contains(asked)) {
        return ListConfigResourcesResponse {
            error_code: ErrorCode::UnsupportedVersion.into(),
            ..ListConfigResourcesResponse::default()
        };
    }
    let mut resources = Vec::new();
    // In this order whatever the request's, and each once.
    for resource_type in ALL.into_iter().filter(|known| asked.contains(known)) {
        let names: Vec<String> = match resource_type {
            TOPIC => image.topics().map(|topic| topic.name.to_string()).collect(),
            BROKER | BROKER_LOGGER => routing
                .brokers()
                .iter()
                .map(|broker| broker.id.0.to_string())
                .collect(),
            _ => Vec::new(),
        };
        resources.extend(names.into_iter().map(|name| ConfigResource {
            resource_name: name.into(),
            resource_type,
        }));
    }
    ListConfigResourcesResponse {
        config_resources: resources.into(),
        ..ListConfigResourcesResponse::default()
    }
}

#[cfg(test)]
mod tests;
