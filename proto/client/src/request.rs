//! Requests as bytes: what goes around a message on its way out and back.

use std::marker::PhantomData;

use streambus_proto::api::ApiKey;
use streambus_proto::frame::{self, RequestHeader};
#[allow(
    clippy::wildcard_imports,
    reason = "one line for each request would say nothing more"
)]
use streambus_proto::messages::*;
use streambus_proto::wire::{DecodeError, EncodeError, Reader, Splice, Writer};

use crate::connection::Answer;

/// A request that we send, and the type of its answer.
pub trait Request {
    /// Which API it is.
    const KEY: ApiKey;
    /// What answers it, borrowed from the frame that it came in.
    type Response<'f>: Message<'f>;

    /// Writes the body.
    ///
    /// # Errors
    /// [`EncodeError`] if it says something that the version has no place for.
    fn write_body(&self, writer: &mut Writer, version: i16) -> Result<(), EncodeError>;
}

/// Ties each request to its answer.
macro_rules! requests {
    ($($key:ident: $request:ty => $response:ty;)*) => {$(
        impl Request for $request {
            const KEY: ApiKey = ApiKey::$key;
            type Response<'f> = $response;

            fn write_body(&self, writer: &mut Writer, version: i16) -> Result<(), EncodeError> {
                Message::write(self, writer, version)
            }
        }
    )*};
}

requests! {
    Produce: ProduceRequest<'_> => ProduceResponse<'f>;
    Fetch: FetchRequest<'_> => FetchResponse<'f>;
    ListOffsets: ListOffsetsRequest<'_> => ListOffsetsResponse<'f>;
    Metadata: MetadataRequest<'_> => MetadataResponse<'f>;
    OffsetCommit: OffsetCommitRequest<'_> => OffsetCommitResponse<'f>;
    OffsetFetch: OffsetFetchRequest<'_> => OffsetFetchResponse<'f>;
    FindCoordinator: FindCoordinatorRequest<'_> => FindCoordinatorResponse<'f>;
    JoinGroup: JoinGroupRequest<'_> => JoinGroupResponse<'f>;
    Heartbeat: HeartbeatRequest<'_> => HeartbeatResponse;
    LeaveGroup: LeaveGroupRequest<'_> => LeaveGroupResponse<'f>;
    SyncGroup: SyncGroupRequest<'_> => SyncGroupResponse<'f>;
    DescribeGroups: DescribeGroupsRequest<'_> => DescribeGroupsResponse<'f>;
    ListGroups: ListGroupsRequest<'_> => ListGroupsResponse<'f>;
    SaslHandshake: SaslHandshakeRequest<'_> => SaslHandshakeResponse<'f>;
    ApiVersions: ApiVersionsRequest<'_> => ApiVersionsResponse<'f>;
    CreateTopics: CreateTopicsRequest<'_> => CreateTopicsResponse<'f>;
    DeleteTopics: DeleteTopicsRequest<'_> => DeleteTopicsResponse<'f>;
    DeleteRecords: DeleteRecordsRequest<'_> => DeleteRecordsResponse<'f>;
    InitProducerId: InitProducerIdRequest<'_> => InitProducerIdResponse;
    OffsetForLeaderEpoch: OffsetForLeaderEpochRequest<'_> => OffsetForLeaderEpochResponse<'f>;
    AddPartitionsToTxn: AddPartitionsToTxnRequest<'_> => AddPartitionsToTxnResponse<'f>;
    AddOffsetsToTxn: AddOffsetsToTxnRequest<'_> => AddOffsetsToTxnResponse;
    EndTxn: EndTxnRequest<'_> => EndTxnResponse;
    WriteTxnMarkers: WriteTxnMarkersRequest<'_> => WriteTxnMarkersResponse<'f>;
    TxnOffsetCommit: TxnOffsetCommitRequest<'_> => TxnOffsetCommitResponse<'f>;
    DescribeAcls: DescribeAclsRequest<'_> => DescribeAclsResponse<'f>;
    CreateAcls: CreateAclsRequest<'_> => CreateAclsResponse<'f>;
    DeleteAcls: DeleteAclsRequest<'_> => DeleteAclsResponse<'f>;
    DescribeConfigs: DescribeConfigsRequest<'_> => DescribeConfigsResponse<'f>;
    AlterConfigs: AlterConfigsRequest<'_> => AlterConfigsResponse<'f>;
    AlterReplicaLogDirs: AlterReplicaLogDirsRequest<'_> => AlterReplicaLogDirsResponse<'f>;
    DescribeLogDirs: DescribeLogDirsRequest<'_> => DescribeLogDirsResponse<'f>;
    SaslAuthenticate: SaslAuthenticateRequest<'_> => SaslAuthenticateResponse<'f>;
    CreatePartitions: CreatePartitionsRequest<'_> => CreatePartitionsResponse<'f>;
    CreateDelegationToken: CreateDelegationTokenRequest<'_> => CreateDelegationTokenResponse<'f>;
    RenewDelegationToken: RenewDelegationTokenRequest<'_> => RenewDelegationTokenResponse;
    ExpireDelegationToken: ExpireDelegationTokenRequest<'_> => ExpireDelegationTokenResponse;
    DescribeDelegationToken: DescribeDelegationTokenRequest<'_> => DescribeDelegationTokenResponse<'f>;
    DeleteGroups: DeleteGroupsRequest<'_> => DeleteGroupsResponse<'f>;
    ElectLeaders: ElectLeadersRequest<'_> => ElectLeadersResponse<'f>;
    IncrementalAlterConfigs: IncrementalAlterConfigsRequest<'_> => IncrementalAlterConfigsResponse<'f>;
    AlterPartitionReassignments: AlterPartitionReassignmentsRequest<'_> => AlterPartitionReassignmentsResponse<'f>;
    ListPartitionReassignments: ListPartitionReassignmentsRequest<'_> => ListPartitionReassignmentsResponse<'f>;
    OffsetDelete: OffsetDeleteRequest<'_> => OffsetDeleteResponse<'f>;
    DescribeClientQuotas: DescribeClientQuotasRequest<'_> => DescribeClientQuotasResponse<'f>;
    AlterClientQuotas: AlterClientQuotasRequest<'_> => AlterClientQuotasResponse<'f>;
    DescribeUserScramCredentials: DescribeUserScramCredentialsRequest<'_> => DescribeUserScramCredentialsResponse<'f>;
    AlterUserScramCredentials: AlterUserScramCredentialsRequest<'_> => AlterUserScramCredentialsResponse<'f>;
    DescribeQuorum: DescribeQuorumRequest<'_> => DescribeQuorumResponse<'f>;
    UpdateFeatures: UpdateFeaturesRequest<'_> => UpdateFeaturesResponse<'f>;
    DescribeCluster: DescribeClusterRequest => DescribeClusterResponse<'f>;
    DescribeProducers: DescribeProducersRequest<'_> => DescribeProducersResponse<'f>;
    UnregisterBroker: UnregisterBrokerRequest => UnregisterBrokerResponse<'f>;
    DescribeTransactions: DescribeTransactionsRequest<'_> => DescribeTransactionsResponse<'f>;
    ListTransactions: ListTransactionsRequest<'_> => ListTransactionsResponse<'f>;
    ConsumerGroupHeartbeat: ConsumerGroupHeartbeatRequest<'_> => ConsumerGroupHeartbeatResponse<'f>;
    ConsumerGroupDescribe: ConsumerGroupDescribeRequest<'_> => ConsumerGroupDescribeResponse<'f>;
    GetTelemetrySubscriptions: GetTelemetrySubscriptionsRequest => GetTelemetrySubscriptionsResponse<'f>;
    PushTelemetry: PushTelemetryRequest<'_> => PushTelemetryResponse;
    ListConfigResources: ListConfigResourcesRequest<'_> => ListConfigResourcesResponse<'f>;
    DescribeTopicPartitions: DescribeTopicPartitionsRequest<'_> => DescribeTopicPartitionsResponse<'f>;
    ShareGroupHeartbeat: ShareGroupHeartbeatRequest<'_> => ShareGroupHeartbeatResponse<'f>;
    ShareGroupDescribe: ShareGroupDescribeRequest<'_> => ShareGroupDescribeResponse<'f>;
    ShareFetch: ShareFetchRequest<'_> => ShareFetchResponse<'f>;
    ShareAcknowledge: ShareAcknowledgeRequest<'_> => ShareAcknowledgeResponse<'f>;
    DescribeShareGroupOffsets: DescribeShareGroupOffsetsRequest<'_> => DescribeShareGroupOffsetsResponse<'f>;
    AlterShareGroupOffsets: AlterShareGroupOffsetsRequest<'_> => AlterShareGroupOffsetsResponse<'f>;
    DeleteShareGroupOffsets: DeleteShareGroupOffsetsRequest<'_> => DeleteShareGroupOffsetsResponse<'f>;
}

/// A request ready to be sent: the written bytes, and where the caller's go in between.
#[derive(Debug)]
pub struct Outgoing {
    /// The frame without the spliced bytes, length first.
    pub bytes: Vec<u8>,
    /// Where they go.
    pub splices: Vec<Splice>,
}

/// Writes a whole frame: length, header, body.
///
/// # Errors
/// [`EncodeError`] if the request says something that the version has no place for.
pub fn encode<R: Request>(
    request: &R,
    version: i16,
    correlation_id: i32,
    client_id: &str,
) -> Result<Outgoing, EncodeError> {
    let mut writer = Writer::new();
    let header = RequestHeader {
        api_key: R::KEY as i16,
        api_version: version,
        correlation_id,
        client_id: Some(client_id.into()),
    };
    header.write(R::KEY, &mut writer)?;
    request.write_body(&mut writer, version)?;
    let length = writer.total_len();
    let (bytes, splices) = frame::finish(writer).ok_or(EncodeError::TooLong(length))?;
    Ok(Outgoing { bytes, splices })
}

/// An answer to a request of type `R`, not read yet.
#[derive(Debug)]
pub struct Reply<R> {
    answer: Answer,
    request: PhantomData<R>,
}

impl<R: Request> Reply<R> {
    /// Takes the answer to a request of this type.
    ///
    /// # Panics
    /// If the answer is to something else.
    pub fn new(answer: Answer) -> Self {
        assert_eq!(
            answer.request.api_key,
            R::KEY as i16,
            "an answer to another request"
        );
        Reply {
            answer,
            request: PhantomData,
        }
    }

    /// The version it is in.
    pub fn version(&self) -> i16 {
        self.answer.request.version
    }

    /// Reads it.
    ///
    /// # Errors
    /// [`DecodeError`]: close the connection.
    pub fn read(&self) -> Result<R::Response<'_>, DecodeError> {
        self.read_as(self.version())
    }

    /// Reads it in a version other than was asked for: a broker that does not know our version of
    /// `ApiVersions` answers in version 0.
    ///
    /// # Errors
    /// [`DecodeError`]: close the connection.
    pub fn read_as(&self, version: i16) -> Result<R::Response<'_>, DecodeError> {
        let mut reader = Reader::new(&self.answer.frame);
        reader.i32()?;
        if R::KEY.response_is_flexible(version) {
            reader.set_flexible(true);
            reader.tagged(|_, _| Ok(false))?;
        }
        Message::read(&mut reader, version)
    }
}
