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

#[cfg(test)]
mod tests {
    use super::*;

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
