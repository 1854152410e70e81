//! The APIs: their keys, the versions there are tables for, and the headers that go with each.

include!(concat!(env!("OUT_DIR"), "/apis.rs"));

/// What a message table says of an API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApiInfo {
    /// Kafka's name.
    pub name: &'static str,
    /// The first version.
    pub first: i16,
    /// The last.
    pub last: i16,
    /// The first flexible one, `i16::MAX` if there is none.
    pub flexible_from: i16,
}

impl ApiKey {
    /// The API of a key.
    pub fn from_i16(key: i16) -> Option<ApiKey> {
        ApiKey::ALL.iter().copied().find(|api| *api as i16 == key)
    }

    /// Whether the header of a request of this version has tagged fields (header version 2).
    pub fn request_is_flexible(self, version: i16) -> bool {
        version >= self.info().flexible_from
    }

    /// Whether the header of a response of this version has tagged fields (header version 1).
    ///
    /// `ApiVersions` never has: its answer must be read by clients that don't know the version yet.
    pub fn response_is_flexible(self, version: i16) -> bool {
        self != ApiKey::ApiVersions && self.request_is_flexible(version)
    }
}

/// A version range that a broker offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Served {
    /// The API.
    pub api: ApiKey,
    /// The first version offered.
    pub first: i16,
    /// The last.
    pub last: i16,
}

const fn served(api: ApiKey, first: i16, last: i16) -> Served {
    Served { api, first, last }
}

/// What the broker serves, as `ApiVersions` tells it.
///
/// Produce is offered from 0 though only 3 and later are taken (KAFKA-18659): librdkafka switches itself
/// off where the range does not start there.
pub const SERVED: &[Served] = &[
    served(ApiKey::Produce, 0, 13),
    served(ApiKey::Fetch, 4, 18),
    served(ApiKey::ListOffsets, 1, 11),
    served(ApiKey::Metadata, 0, 13),
    served(ApiKey::FindCoordinator, 0, 6),
    served(ApiKey::ApiVersions, 0, 4),
    served(ApiKey::CreateTopics, 2, 7),
    served(ApiKey::DeleteTopics, 1, 6),
    served(ApiKey::DeleteRecords, 0, 2),
    served(ApiKey::InitProducerId, 0, 5),
    served(ApiKey::OffsetForLeaderEpoch, 2, 4),
    served(ApiKey::DescribeConfigs, 1, 4),
    served(ApiKey::AlterConfigs, 0, 2),
    served(ApiKey::DescribeLogDirs, 1, 4),
    served(ApiKey::CreatePartitions, 0, 3),
    served(ApiKey::IncrementalAlterConfigs, 0, 1),
    served(ApiKey::DescribeCluster, 0, 2),
    served(ApiKey::DescribeProducers, 0, 0),
    served(ApiKey::DescribeTopicPartitions, 0, 0),
    served(ApiKey::ListConfigResources, 0, 1),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_served_has_tables() {
        // Proves that no version is offered that can't be read, but for Produce's first three.
        for Served { api, first, last } in SERVED {
            let info = api.info();
            assert!(*last <= info.last, "{} {last}", info.name);
            assert!(
                *first >= info.first || *api == ApiKey::Produce,
                "{} {first}",
                info.name
            );
        }
    }

    #[test]
    fn headers_follow_the_message_but_for_api_versions() {
        // Proves the header rule and its one exception.
        assert!(ApiKey::ApiVersions.request_is_flexible(3));
        assert!(!ApiKey::ApiVersions.response_is_flexible(3));
        assert!(ApiKey::Metadata.response_is_flexible(9));
        assert!(!ApiKey::Metadata.response_is_flexible(8));
        assert_eq!(ApiKey::from_i16(4), None);
    }
}
