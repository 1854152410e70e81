//! `SaslHandshake`, `SaslAuthenticate`, `DescribeAcls`, `CreateAcls`, `DeleteAcls`: served so that a
//! client learns at once that this broker has neither authentication nor an authorizer.

use streambus_proto::error_code::ErrorCode;
use streambus_proto::messages::create_acls_response::{AclCreationResult, CreateAclsResponse};
use streambus_proto::messages::delete_acls_response::{DeleteAclsFilterResult, DeleteAclsResponse};
use streambus_proto::messages::describe_acls_response::DescribeAclsResponse;
use streambus_proto::messages::sasl_authenticate_response::SaslAuthenticateResponse;
use streambus_proto::messages::sasl_handshake_response::SaslHandshakeResponse;
use streambus_proto::messages::{CreateAclsRequest, DeleteAclsRequest};
use streambus_shards::yield_if_needed;

/// `SaslHandshake` on a plain-text listener: refused, as Kafka does. The client fails at once instead
/// of waiting for an answer.
pub(crate) fn sasl_handshake() -> SaslHandshakeResponse<'static> {
    SaslHandshakeResponse {
        error_code: ErrorCode::IllegalSaslState.into(),
        ..SaslHandshakeResponse::default()
    }
}

/// `SaslAuthenticate` on a plain-text listener.
pub(crate) fn sasl_authenticate() -> SaslAuthenticateResponse<'static> {
    let message = "This listener takes no SASL: set security.protocol=PLAINTEXT in the client";
    SaslAuthenticateResponse {
        error_code: ErrorCode::IllegalSaslState.into(),
        error_message: Some(message.into()),
        ..SaslAuthenticateResponse::default()
    }
}

/// `DescribeAcls` without an authorizer.
pub(crate) fn describe_acls() -> DescribeAclsResponse<'static> {
    DescribeAclsResponse {
        error_code: ErrorCode::SecurityDisabled.into(),
        error_message: Some("No Authorizer is configured on the broker".into()),
        ..DescribeAclsResponse::default()
    }
}

const NO_AUTHORIZER: &str = "No Authorizer is configured.";

/// `CreateAcls` without an authorizer: each one is refused.
pub(crate) async fn create_acls(request: &CreateAclsRequest<'_>) -> CreateAclsResponse<'static> {
    let mut results = Vec::with_capacity(request.creations.len());
    for _ in &request.creations {
        yield_if_needed().await;
        results.push(AclCreationResult {
            error_code: ErrorCode::SecurityDisabled.into(),
            error_message: Some(NO_AUTHORIZER.into()),
        });
    }
    CreateAclsResponse {
        results: results.into(),
        ..CreateAclsResponse::default()
    }
}

/// `DeleteAcls` without an authorizer: each filter is refused.
pub(crate) async fn delete_acls(request: &DeleteAclsRequest<'_>) -> DeleteAclsResponse<'static> {
    let mut results = Vec::with_capacity(request.filters.len());
    for _ in &request.filters {
        yield_if_needed().await;
        results.push(DeleteAclsFilterResult {
            error_code: ErrorCode::SecurityDisabled.into(),
            error_message: Some(NO_AUTHORIZER.into()),
            ..DeleteAclsFilterResult::default()
        });
    }
    DeleteAclsResponse {
        filter_results: results.into(),
        ..DeleteAclsResponse::default()
    }
}

#[cfg(test)]
mod tests {
    use streambus_proto::messages::create_acls_request::AclCreation;
    use streambus_proto::messages::delete_acls_request::DeleteAclsFilter;
    use streambus_shards::run_alone;

    use super::*;

    #[test]
    fn every_acl_is_refused_and_none_is_forgotten() {
        // Proves one SECURITY_DISABLED for each creation and filter, and that nothing matches.
        let creations = CreateAclsRequest {
            creations: vec![AclCreation::default(), AclCreation::default()].into(),
        };
        let created = run_alone(async move { create_acls(&creations).await }).expect("an executor");
        let codes: Vec<i16> = created.results.iter().map(|one| one.error_code).collect();
        assert_eq!(codes, [54, 54]);
        let filters = DeleteAclsRequest {
            filters: vec![DeleteAclsFilter::default()].into(),
        };
        let deleted = run_alone(async move { delete_acls(&filters).await }).expect("an executor");
        let found: Vec<(i16, usize)> = deleted
            .filter_results
            .iter()
            .map(|one| (one.error_code, one.matching_acls.len()))
            .collect();
        assert_eq!(found, [(54, 0)]);
        assert_eq!(describe_acls().error_code, 54);
    }

    #[test]
    fn sasl_is_refused_with_no_mechanism() {
        // Proves what makes a SASL client fail at once: ILLEGAL_SASL_STATE and an empty list.
        let answer = sasl_handshake();
        assert_eq!((answer.error_code, answer.mechanisms.len()), (34, 0));
        let answer = sasl_authenticate();
        let message = answer.error_message.unwrap_or_default();
        assert_eq!(answer.error_code, 34);
        assert!(message.contains("security.protocol=PLAINTEXT"), "{message}");
    }
}
