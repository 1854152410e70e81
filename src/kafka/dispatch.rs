//! From a frame to the handler of its API.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

use streambus_proto::api::ApiKey;
use streambus_proto::error_code::ErrorCode;
use streambus_proto::frame::RequestHeader;
use streambus_proto::messages::{
    AlterConfigsRequest, AlterPartitionReassignmentsRequest, AlterReplicaLogDirsRequest,
    CreateAclsRequest, CreatePartitionsRequest, CreateTopicsRequest, DeleteAclsRequest,
    DeleteRecordsRequest, DeleteTopicsRequest, DescribeClusterRequest, DescribeConfigsRequest,
    DescribeLogDirsRequest, DescribeProducersRequest, DescribeQuorumRequest,
    DescribeTopicPartitionsRequest, ElectLeadersRequest, FetchRequest, FindCoordinatorRequest,
    IncrementalAlterConfigsRequest, InitProducerIdRequest, ListConfigResourcesRequest,
    ListOffsetsRequest, Message, MetadataRequest, OffsetForLeaderEpochRequest, ProduceRequest,
    UpdateFeaturesRequest,
};
use streambus_proto::wire::{DecodeError, Reader};
use streambus_shards::{Buf, CoreId, now, wall_ms};

use super::broker::Broker;
use super::in_flight::Charge;
use super::listener::View;
use super::log_dirs::LogDir;
use super::request_memory::{RequestMemory, TooMuch};
use super::response::{ReplyTo, ResponseError, Slices};
use super::served::{self, Served};
use super::topic_partitions;
use super::{
    cluster, configs, coordinators, features, fetch, log_dirs, metadata, offsets, produce, quorum,
    replicas, security, topics,
};

/// Why a connection is closed instead of answered.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    /// The frame is not the message that its header announces.
    #[error("malformed request: {0}")]
    Malformed(#[from] DecodeError),
    /// Its entries would take more memory than one request may.
    #[error(transparent)]
    TooMuch(#[from] TooMuch),
    /// Nothing that this broker serves.
    #[error("API {api_key} version {version} is not served")]
    NotServed { api_key: i16, version: i16 },
    /// The answer could not be written.
    #[error(transparent)]
    Response(#[from] ResponseError),
    /// A batch that was sent with acks=0 was not appended. There is no answer to say so, as in Kafka, so that the client
    /// notices, and asks for metadata.
    #[error(
        "a batch that was sent with acks=0 for {topic}-{index} was refused: {code}; the client learns of it by the end of the connection"
    )]
    Unanswered {
        topic: String,
        index: i32,
        code: ErrorCode,
    },
    /// The order of things on the connection does not allow it.
    #[error("{0}")]
    Protocol(String),
}

/// An answer that has to wait for something.
pub(super) type Later = Pin<Box<dyn Future<Output = Result<Slices, Refused>>>>;

/// What becomes of a request. Answers leave in the order of their requests.
pub(super) enum Answer {
    /// The client wants none.
    Nothing,
    /// The client wants none, and this is still to be done, whether or not it stays. An error ends the connection.
    Quiet(Pin<Box<dyn Future<Output = Result<(), Refused>>>>),
    /// It is here.
    Now(Slices),
    /// It comes.
    Later(Later),
}

/// Tagged fields that a header may end with. Kafka has none.
const HEADER_ENTRIES_MAX: usize = 100;
/// From this cost on a request waits for room on its core. Smaller ones are always served, as those are that fit
/// a connection's first buffer.
const WAITS_FROM_BYTES: usize = 64 << 10;

/// Charges what a request's entries cost, before anything is built from them.
async fn charge_entries(broker: &Rc<Broker>, charge: &mut Charge, bytes: usize) {
    if bytes < WAITS_FROM_BYTES {
        charge.merge(broker.in_flight.charge(bytes));
    } else {
        broker.in_flight.grow(charge, bytes).await;
        broker.uses_memory(bytes);
    }
}

/// Reads a message whose entries are bounded.
fn read_bounded<'a, M: Message<'a>>(
    reader: &mut Reader<'a>,
    version: i16,
    memory: &RequestMemory,
) -> Result<M, Refused> {
    reader.set_entries_left(memory.entries_max);
    M::read(reader, version).map_err(|error| match error {
        DecodeError::TooManyEntries { .. } => memory.too_much().into(),
        error => error.into(),
    })
}

/// Begins a request. What a produce request carries is in the log, in order, when this returns, or on its way to the
/// core that has the log; anything else happens when its answer is awaited. What its entries cost is added
/// to `charge`.
pub(super) async fn dispatch(
    broker: &Rc<Broker>,
    view: &View,
    frame: Buf,
    charge: &mut Charge,
) -> Result<Answer, Refused> {
    let began = now();
    let mut reader = Reader::new(&frame);
    reader.set_entries_left(HEADER_ENTRIES_MAX);
    let header = RequestHeader::read(&mut reader)?;
    let (api_key, version) = (header.api_key, header.api_version);
    let Some(served) = served::find(api_key) else {
        return Err(Refused::NotServed { api_key, version });
    };
    broker
        .shard
        .metrics()
        .request(api_key, served.api.info().name);
    let reply_to = ReplyTo {
        api: served.api,
        version,
        correlation_id: header.correlation_id,
        figures: Rc::clone(broker.shard.metrics()),
    };
    if served.api == ApiKey::ApiVersions {
        return api_versions(served, reply_to).map(Answer::Now);
    }
    if !served.has(version) {
        return Err(Refused::NotServed { api_key, version });
    }
    let bytes_max = broker.limits_config().request_memory_bytes_max;
    let mut memory = RequestMemory::new(served.api, reader.rest().len(), bytes_max)?;
    if served.api == ApiKey::Produce {
        let request: ProduceRequest<'_> = read_bounded(&mut reader, version, &memory)?;
        let entries = memory.entries_max - reader.entries_left();
        charge_entries(broker, charge, memory.cost_bytes(entries)).await;
        return produce::produce(
            broker,
            &frame,
            &request,
            reply_to,
            began,
            &mut memory,
            charge,
        )
        .await;
    }
    if served.api == ApiKey::Fetch {
        // Taken out of the frame now: a fetch that waits for records holds no frame meanwhile.
        let request: FetchRequest<'_> = read_bounded(&mut reader, version, &memory)?;
        let entries = memory.entries_max - reader.entries_left();
        charge_entries(broker, charge, memory.cost_bytes(entries)).await;
        let wish = fetch::Wish::new(broker, &request, version).await;
        let broker = Rc::clone(broker);
        return Ok(Answer::Later(Box::pin(async move {
            fetch::fetch(&broker, wish, reply_to).await
        })));
    }
    // What it may have at most: it is read when it is its turn.
    charge_entries(broker, charge, memory.cost_bytes(memory.entries_max)).await;
    let body = frame.len() - reader.rest().len();
    let (broker, view) = (Rc::clone(broker), view.clone());
    Ok(Answer::Later(Box::pin(async move {
        let body = Body {
            bytes: frame.get(body..).unwrap_or_default(),
            memory,
        };
        answer(&broker, &view, &body, reply_to).await
    })))
}

/// A message that is still to be read.
struct Body<'a> {
    bytes: &'a [u8],
    memory: RequestMemory,
}

/// A version of `ApiVersions` that is not served is answered in version 0, so that the client learns
/// which ones are (KIP-511).
fn api_versions(served: Served, reply_to: ReplyTo) -> Result<Slices, Refused> {
    let own_version_served = served.has(reply_to.version);
    let version = if own_version_served {
        reply_to.version
    } else {
        0
    };
    let response = features::api_versions(own_version_served);
    Ok(ReplyTo {
        version,
        ..reply_to
    }
    .with(&response)?)
}

/// Reads a message. What stands behind it is left alone, as Kafka does: librdkafka's request for the
/// metadata of all topics has three bytes too many.
fn read<'a, M: Message<'a>>(body: &Body<'a>, version: i16) -> Result<M, Refused> {
    read_bounded(&mut Reader::new(body.bytes), version, &body.memory)
}

#[expect(
    clippy::too_many_lines,
    reason = "one arm an API: a table that reads top to bottom"
)]
async fn answer(
    broker: &Rc<Broker>,
    view: &View,
    body: &Body<'_>,
    reply_to: ReplyTo,
) -> Result<Slices, Refused> {
    let version = reply_to.version;
    let host = &**broker;
    Ok(match reply_to.api {
        ApiKey::ListOffsets => {
            let request: ListOffsetsRequest<'_> = read(body, version)?;
            reply_to.with(&offsets::list_offsets(broker, &request, version).await?)?
        }
        ApiKey::Metadata => {
            let request: MetadataRequest<'_> = read(body, version)?;
            reply_to.with(&metadata::metadata(broker, view, &request, version).await?)?
        }
        ApiKey::FindCoordinator => {
            let request: FindCoordinatorRequest<'_> = read(body, version)?;
            reply_to.with(&coordinators::find_coordinator(host, view, &request, version).await)?
        }
        ApiKey::CreateTopics => {
            let request: CreateTopicsRequest<'_> = read(body, version)?;
            reply_to.with(&topics::create_topics(host, view, &request).await)?
        }
        ApiKey::DeleteTopics => {
            let request: DeleteTopicsRequest<'_> = read(body, version)?;
            reply_to.with(&topics::delete_topics(host, &request, version).await)?
        }
        ApiKey::CreatePartitions => {
            let request: CreatePartitionsRequest<'_> = read(body, version)?;
            reply_to.with(&topics::create_partitions(host, view, &request).await)?
        }
        ApiKey::DeleteRecords => {
            let request: DeleteRecordsRequest<'_> = read(body, version)?;
            reply_to.with(&offsets::delete_records(broker, &request, version).await?)?
        }
        ApiKey::InitProducerId => {
            let request: InitProducerIdRequest<'_> = read(body, version)?;
            let ids = &broker.producer_ids;
            reply_to.with(&coordinators::init_producer_id(host, ids, &request).await)?
        }
        ApiKey::OffsetForLeaderEpoch => {
            let request: OffsetForLeaderEpochRequest<'_> = read(body, version)?;
            reply_to.with(&offsets::offset_for_leader_epoch(broker, &request, version).await?)?
        }
        ApiKey::DescribeConfigs => {
            let request: DescribeConfigsRequest<'_> = read(body, version)?;
            let bytes_max = body.memory.answer_bytes_max();
            let described =
                configs::describe_configs(host, view, &request, version, bytes_max).await;
            reply_to.with(&described.map_err(ResponseError::from)?)?
        }
        ApiKey::AlterConfigs => {
            let request: AlterConfigsRequest<'_> = read(body, version)?;
            reply_to.with(&configs::alter_configs(host, view, &request).await)?
        }
        ApiKey::IncrementalAlterConfigs => {
            let request: IncrementalAlterConfigsRequest<'_> = read(body, version)?;
            reply_to.with(&configs::incremental_alter_configs(host, view, &request).await)?
        }
        ApiKey::ListConfigResources => {
            let request: ListConfigResourcesRequest<'_> = read(body, version)?;
            let listed = broker
                .shard
                .image(|image| configs::list_config_resources(image, view, &request, version));
            reply_to.with(&listed)?
        }
        ApiKey::DescribeCluster => {
            let request: DescribeClusterRequest = read(body, version)?;
            let told = broker
                .shard
                .image(|image| cluster::describe_cluster(image, view, &request, version));
            reply_to.with(&told)?
        }
        ApiKey::DescribeLogDirs => {
            let request: DescribeLogDirsRequest<'_> = read(body, version)?;
            let asked = log_dirs::asked(&request).await;
            let dirs = [disk_use(broker, view).await];
            let told = broker
                .shard
                .image(|image| log_dirs::describe_log_dirs(image, &asked, &dirs));
            reply_to.with(&told)?
        }
        ApiKey::DescribeProducers => {
            let request: DescribeProducersRequest<'_> = read(body, version)?;
            let bytes_max = body.memory.answer_bytes_max();
            let answer = offsets::describe_producers(broker, &request, version, bytes_max).await?;
            reply_to.with(&answer)?
        }
        ApiKey::DescribeTopicPartitions => {
            let request: DescribeTopicPartitionsRequest<'_> = read(body, version)?;
            let names = topic_partitions::names(&request).await;
            let told = broker.shard.image(|image| {
                topic_partitions::describe_topic_partitions(image, view, &request, &names)
            });
            reply_to.with(&told.map_err(|refusal| Refused::Protocol(refusal.to_string()))?)?
        }
        ApiKey::DescribeQuorum => {
            let request: DescribeQuorumRequest<'_> = read(body, version)?;
            reply_to.with(
                &quorum::describe_quorum(host, view, view.listener(), &request, wall_ms()).await,
            )?
        }
        ApiKey::ElectLeaders => {
            let request: ElectLeadersRequest<'_> = read(body, version)?;
            reply_to.with(&replicas::elect_leaders(host, &request, version).await)?
        }
        ApiKey::ListPartitionReassignments => {
            reply_to.with(&replicas::list_partition_reassignments())?
        }
        ApiKey::AlterPartitionReassignments => {
            let request: AlterPartitionReassignmentsRequest<'_> = read(body, version)?;
            let altered = replicas::alter_partition_reassignments(host, view, &request).await;
            reply_to.with(&altered)?
        }
        ApiKey::AlterReplicaLogDirs => {
            let request: AlterReplicaLogDirsRequest<'_> = read(body, version)?;
            let dir = &broker.config.data.dir;
            reply_to.with(&replicas::alter_replica_log_dirs(host, &request, dir).await)?
        }
        ApiKey::UpdateFeatures => {
            let request: UpdateFeaturesRequest<'_> = read(body, version)?;
            reply_to.with(&features::update_features(&request, version))?
        }
        ApiKey::SaslHandshake => reply_to.with(&security::sasl_handshake())?,
        ApiKey::SaslAuthenticate => reply_to.with(&security::sasl_authenticate())?,
        ApiKey::DescribeAcls => reply_to.with(&security::describe_acls())?,
        ApiKey::CreateAcls => {
            let request: CreateAclsRequest<'_> = read(body, version)?;
            reply_to.with(&security::create_acls(&request).await)?
        }
        ApiKey::DeleteAcls => {
            let request: DeleteAclsRequest<'_> = read(body, version)?;
            reply_to.with(&security::delete_acls(&request).await)?
        }
        api => {
            return Err(Refused::NotServed {
                api_key: api as i16,
                version,
            });
        }
    })
}

/// The data directory, with the logs of the broker that the listener shows here.
async fn disk_use(broker: &Rc<Broker>, view: &View) -> LogDir {
    let cores: Vec<CoreId> = match view.shown_core() {
        Some(core) => vec![CoreId(core)],
        None => (0..broker.shard.cores())
            .filter_map(|core| u16::try_from(core).ok().map(CoreId))
            .collect(),
    };
    let mut sizes = Vec::new();
    for core in cores {
        let own = broker.shard.sizes_of(core).await;
        sizes.extend(
            own.iter()
                .map(|size| (size.key.topic, size.key.index, size.size_bytes)),
        );
    }
    let path = broker.config.data.dir.clone();
    let space = streambus_shards::disk::space(std::path::Path::new(&path));
    let (total_bytes, usable_bytes) = space.unwrap_or((0, 0));
    LogDir {
        path,
        total_bytes,
        usable_bytes,
        sizes,
    }
}
