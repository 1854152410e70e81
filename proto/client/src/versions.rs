//! Which version of each request both sides know.

use std::collections::BTreeMap;

/// The broker does not serve a request in any version that we know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no common version of API {api_key}: we know {ours:?}, the broker serves {theirs:?}")]
pub struct Unsupported {
    /// The API's number.
    pub api_key: i16,
    /// Our versions.
    pub ours: (i16, i16),
    /// The broker's; `None` if it does not serve the API at all.
    pub theirs: Option<(i16, i16)>,
}

/// What a broker said it serves. Belongs to a connection: two brokers of a cluster that is being
/// upgraded differ.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Versions {
    served: BTreeMap<i16, (i16, i16)>,
}

impl Versions {
    /// From the keys and version ranges of an `ApiVersions` answer. Ranges that are empty or
    /// negative are as good as absent.
    pub fn new(served: impl IntoIterator<Item = (i16, i16, i16)>) -> Self {
        let served = served
            .into_iter()
            .filter(|(_, min, max)| (0..=*max).contains(min));
        Versions {
            served: served.map(|(key, min, max)| (key, (min, max))).collect(),
        }
    }

    /// The highest version that is in `ours` (least and greatest) and served by the broker.
    ///
    /// # Errors
    /// [`Unsupported`]: the request cannot be sent to this broker.
    pub fn choose(&self, api_key: i16, ours: (i16, i16)) -> Result<i16, Unsupported> {
        let theirs = self.served.get(&api_key).copied();
        let common = theirs.map(|(min, max)| (min.max(ours.0), max.min(ours.1)));
        match common {
            Some((min, max)) if min <= max => Ok(max),
            _ => Err(Unsupported {
                api_key,
                ours,
                theirs,
            }),
        }
    }

    /// Whether nothing was learned yet.
    pub fn is_empty(&self) -> bool {
        self.served.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_common_version_is_chosen() {
        // Overlaps give their top; gaps, absent keys and senseless ranges give an error.
        let versions = Versions::new([(0, 0, 13), (1, 4, 11), (2, 7, 9), (3, 5, 2), (4, -3, -1)]);
        let table = [
            (0, (3, 12), Some(12)),
            (0, (3, 15), Some(13)),
            (1, (0, 4), Some(4)),
            (1, (0, 3), None),
            (2, (10, 11), None),
            (3, (0, 9), None),
            (4, (0, 9), None),
            (9, (0, 9), None),
        ];
        for (key, ours, expected) in table {
            assert_eq!(
                versions.choose(key, ours).ok(),
                expected,
                "API {key} {ours:?}"
            );
        }
    }
}
