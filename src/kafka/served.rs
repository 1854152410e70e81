//! Which APIs this broker serves, in which versions: the one place that says so.
//!
//! A message table in `proto` says what can be read and written; a row here says that the broker
//! answers it. `ApiVersions` lists these rows and `dispatch` refuses everything else.

use streambus_proto::api::ApiKey;

/// An API and the versions in which it is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Served {
    pub(super) api: ApiKey,
    /// The first version that `ApiVersions` lists.
    pub(super) first: i16,
    /// The last one.
    pub(super) last: i16,
}

impl Served {
    /// Whether a request of this version is answered. Produce is listed from 0, but served from the
    /// first version that has a message table.
    pub(super) fn has(self, version: i16) -> bool {
        (self.first.max(self.api.info().first)..=self.last).contains(&version)
    }
}

const fn served(api: ApiKey, first: i16, last: i16) -> Served {
    Served { api, first, last }
}

/// A row for each API, by key.
///
/// Produce is listed from 0 though versions below 3 are refused (KAFKA-18659): librdkafka switches
/// features off where the range does not start there.
pub(super) const SERVED: &[Served] = &[
    served(ApiKey::Produce, 0, 13),
    served(ApiKey::Fetch, 4, 18),
    served(ApiKey::ListOffsets, 1, 11),
    served(ApiKey::Metadata, 0, 13),
    served(ApiKey::FindCoordinator, 0, 6),
    served(ApiKey::SaslHandshake, 0, 1),
    served(ApiKey::ApiVersions, 0, 4),
    served(ApiKey::CreateTopics, 2, 7),
    served(ApiKey::DeleteTopics, 1, 6),
    served(ApiKey::DeleteRecords, 0, 2),
    served(ApiKey::InitProducerId, 0, 5),
    served(ApiKey::OffsetForLeaderEpoch, 2, 4),
    served(ApiKey::DescribeAcls, 1, 3),
    served(ApiKey::CreateAcls, 1, 3),
    served(ApiKey::DeleteAcls, 1, 3),
    served(ApiKey::DescribeConfigs, 1, 4),
    served(ApiKey::AlterConfigs, 0, 2),
    served(ApiKey::AlterReplicaLogDirs, 1, 2),
    served(ApiKey::DescribeLogDirs, 1, 5),
    served(ApiKey::SaslAuthenticate, 0, 2),
    served(ApiKey::CreatePartitions, 0, 3),
    served(ApiKey::ElectLeaders, 0, 2),
    served(ApiKey::IncrementalAlterConfigs, 0, 1),
    served(ApiKey::AlterPartitionReassignments, 0, 1),
    served(ApiKey::ListPartitionReassignments, 0, 0),
    served(ApiKey::DescribeQuorum, 0, 2),
    served(ApiKey::UpdateFeatures, 0, 2),
    served(ApiKey::DescribeCluster, 0, 2),
    served(ApiKey::DescribeProducers, 0, 0),
    served(ApiKey::ListConfigResources, 0, 1),
    served(ApiKey::DescribeTopicPartitions, 0, 0),
];

/// The row of an API key as it stands in a request, if the API is served.
pub(super) fn find(api_key: i16) -> Option<Served> {
    SERVED
        .iter()
        .find(|served| served.api as i16 == api_key)
        .copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_served_can_be_read_and_written() {
        // Proves that each served version has a message table, that rows are sorted by key, and that
        // only Produce is listed below its first table.
        for Served { api, first, last } in SERVED {
            let info = api.info();
            assert!(first <= last && *last <= info.last, "{} {last}", info.name);
            assert!(
                *first >= info.first || *api == ApiKey::Produce,
                "{} {first}",
                info.name
            );
        }
        assert!(SERVED.is_sorted_by(|left, right| left.api < right.api));
    }

    #[test]
    fn versions_outside_a_row_are_refused() {
        // Proves the ends of a range, Produce's three unserved versions, and an unknown key.
        let takes = |api: ApiKey, version| find(api as i16).is_some_and(|row| row.has(version));
        for (api, version, expected) in [
            (ApiKey::Produce, 2, false),
            (ApiKey::Produce, 3, true),
            (ApiKey::DescribeLogDirs, 5, true),
            (ApiKey::DescribeLogDirs, 6, false),
            (ApiKey::DescribeLogDirs, 0, false),
            (ApiKey::ApiVersions, -1, false),
        ] {
            assert_eq!(takes(api, version), expected, "{api:?} {version}");
        }
        assert_eq!(find(4), None);
        assert_eq!(find(i16::MAX), None);
    }
}
