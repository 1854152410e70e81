//! `ApiVersions` and `UpdateFeatures`: what the broker can do, and that no feature is switched on.
//!
//! A finalized feature promises clients a protocol: `transaction.version` 2 makes producers leave out
//! `AddPartitionsToTxn`, `group.version` 1 makes consumers use KIP-848. None of these is served, so
//! the lists of supported and finalized features are empty.

use streambus_proto::error_code::ErrorCode;
use streambus_proto::messages::UpdateFeaturesRequest;
use streambus_proto::messages::api_versions_response::{ApiVersion, ApiVersionsResponse};
use streambus_proto::messages::update_features_request::FeatureUpdateKey;
use streambus_proto::messages::update_features_response::UpdateFeaturesResponse;

use super::admin::shown;
use super::served::SERVED;
use super::topics::told;
use crate::metadata::Refusal;

/// `ApiVersions`, with an error if the request's own version is not served.
pub(crate) fn api_versions(own_version_served: bool) -> ApiVersionsResponse<'static> {
    let keys = SERVED.iter().map(|served| ApiVersion {
        api_key: served.api as i16,
        min_version: served.first,
        max_version: served.last,
    });
    let code = if own_version_served {
        ErrorCode::None
    } else {
        ErrorCode::UnsupportedVersion
    };
    ApiVersionsResponse {
        error_code: code.into(),
        api_keys: keys.collect(),
        ..ApiVersionsResponse::default()
    }
}

/// `UpdateFeatures`: no feature exists, so every update is refused. Kafka updates all or none.
pub(crate) fn update_features(
    request: &UpdateFeaturesRequest<'_>,
    version: i16,
) -> UpdateFeaturesResponse<'static> {
    let outcome = match request.feature_updates.iter().next() {
        None => Ok(()),
        Some(first) => Err(refused(&first, version)),
    };
    let (error_code, error_message) = told(outcome);
    UpdateFeaturesResponse {
        error_code,
        error_message: error_message.map(Into::into),
        ..UpdateFeaturesResponse::default()
    }
}

/// Why an update fails, in Kafka's words.
fn refused(update: &FeatureUpdateKey<'_>, version: i16) -> Refusal {
    /// Upgrade, safe downgrade, unsafe downgrade, by Kafka's numbers. Version 0 has no such field.
    const UPGRADE_TYPES: std::ops::RangeInclusive<i8> = 1..=3;
    let feature = shown(&update.feature);
    let level = update.max_version_level;
    let why = if version > 0 && !UPGRADE_TYPES.contains(&update.upgrade_type) {
        "The controller does not support the given upgrade type.".to_owned()
    } else if level < 0 {
        "A feature version cannot be less than 0.".to_owned()
    } else if level == 0 {
        format!("Feature {feature} not found.")
    } else {
        "This broker does not support this feature.".to_owned()
    };
    let message = format!(
        "The update failed for all features since the following feature had an error: Invalid update \
         version {level} for feature {feature}. {why}"
    );
    Refusal::new(ErrorCode::InvalidUpdateVersion, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_feature_is_promised() {
        // Proves that nothing is finalized or supported, and that a version that is not served still
        // gets the list of those that are.
        for (own_version_served, code) in [(true, 0), (false, 35)] {
            let answer = api_versions(own_version_served);
            assert_eq!(answer.error_code, code);
            assert_eq!(answer.api_keys.len(), SERVED.len());
            assert_eq!(answer.finalized_features.len(), 0);
            assert_eq!(answer.supported_features.len(), 0);
            assert_eq!(answer.finalized_features_epoch, -1);
        }
    }

    #[test]
    fn updates_fail_with_the_reason() {
        // Proves each of Kafka's sentences, and that no update at all is no error.
        let answer = |updates: Vec<(i16, i8)>, version| {
            let updates = updates
                .into_iter()
                .map(|(max_version_level, upgrade_type)| FeatureUpdateKey {
                    feature: "transaction.version".into(),
                    max_version_level,
                    upgrade_type,
                    ..FeatureUpdateKey::default()
                });
            let request = UpdateFeaturesRequest {
                feature_updates: updates.collect(),
                ..UpdateFeaturesRequest::default()
            };
            let answer = update_features(&request, version);
            let message = answer.error_message.map(std::borrow::Cow::into_owned);
            (answer.error_code, message.unwrap_or_default())
        };
        assert_eq!(answer(vec![], 2), (0, String::new()));
        for (update, version, part) in [
            (
                (2, 1),
                2,
                "transaction.version. This broker does not support",
            ),
            ((0, 1), 1, "Feature transaction.version not found."),
            ((-1, 1), 1, "cannot be less than 0"),
            ((2, 7), 1, "does not support the given upgrade type"),
            ((2, 7), 0, "This broker does not support"),
        ] {
            let (code, message) = answer(vec![update], version);
            assert_eq!(code, 95, "{update:?}");
            assert!(message.contains(part), "{message}");
        }
    }
}
