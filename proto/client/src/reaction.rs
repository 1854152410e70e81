//! What a client does about an error code.

use streambus_proto::error_code::ErrorCode;

/// What to do about a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaction {
    /// The same again, to the same broker, after a pause.
    Retry,
    /// Ask for metadata, then the same again, to whoever is now right.
    RefreshAndRetry,
    /// It will not get better by itself.
    GiveUp,
}

/// What to do about `code`, when it comes back for a partition, a topic or a whole request.
pub fn reaction(code: ErrorCode) -> Reaction {
    use ErrorCode as E;
    match code {
        E::NotLeaderOrFollower
        | E::LeaderNotAvailable
        | E::UnknownTopicOrPartition
        | E::UnknownTopicId
        | E::FencedLeaderEpoch
        | E::UnknownLeaderEpoch
        | E::InconsistentTopicId
        | E::KafkaStorageError
        | E::ReplicaNotAvailable
        | E::BrokerNotAvailable
        | E::NotController
        | E::ListenerNotFound
        | E::NetworkException => Reaction::RefreshAndRetry,
        E::RequestTimedOut
        | E::NotEnoughReplicas
        | E::NotEnoughReplicasAfterAppend
        | E::CorruptMessage
        | E::CoordinatorLoadInProgress
        | E::CoordinatorNotAvailable
        | E::ConcurrentTransactions
        | E::OffsetNotAvailable
        | E::FetchSessionIdNotFound
        | E::InvalidFetchSessionEpoch
        | E::ThrottlingQuotaExceeded
        | E::UnstableOffsetCommit => Reaction::Retry,
        _ => Reaction::GiveUp,
    }
}
