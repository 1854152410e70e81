//! `DescribeCluster`: the brokers that a listener shows.

use streambus_proto::error_code::ErrorCode;
use streambus_proto::messages::describe_cluster_request::DescribeClusterRequest;
use streambus_proto::messages::describe_cluster_response::{
    DescribeClusterBroker, DescribeClusterResponse,
};

use crate::metadata::Image;
use crate::metadata::routing::Routing;

/// What a request may ask for, by Kafka's numbers.
const ENDPOINT_BROKERS: i8 = 1;
const ENDPOINT_CONTROLLERS: i8 = 2;

/// Create, alter, describe, cluster action, describe and alter configs, idempotent write: everything
/// a cluster knows, for nobody is kept from it.
pub(super) const CLUSTER_OPERATIONS: i32 = 0b1_1111_1010_0000;

/// `DescribeCluster`.
pub(crate) fn describe_cluster(
    image: &Image,
    routing: &impl Routing,
    request: &DescribeClusterRequest,
    version: i16,
) -> DescribeClusterResponse<'static> {
    // Version 0 does not say what it asks for.
    let endpoint_type = if version == 0 {
        ENDPOINT_BROKERS
    } else {
        request.endpoint_type
    };
    let refused = |code: ErrorCode, message: String| DescribeClusterResponse {
        error_code: code.into(),
        error_message: Some(message.into()),
        endpoint_type: ENDPOINT_BROKERS,
        cluster_authorized_operations: i32::MIN,
        ..DescribeClusterResponse::default()
    };
    match endpoint_type {
        ENDPOINT_BROKERS => {}
        ENDPOINT_CONTROLLERS => {
            return refused(
                ErrorCode::MismatchedEndpointType,
                "The request was sent to an endpoint of type BROKER, but we wanted an endpoint of \
                 type CONTROLLER"
                    .to_owned(),
            );
        }
        other => {
            let message = format!("Unsupported endpoint type {other}; 1 asks for brokers");
            return refused(ErrorCode::UnsupportedEndpointType, message);
        }
    }
    let brokers = routing
        .brokers()
        .into_iter()
        .map(|broker| DescribeClusterBroker {
            broker_id: broker.id.0,
            host: broker.host.into(),
            port: i32::from(broker.port),
            rack: broker.rack.map(Into::into),
            ..DescribeClusterBroker::default()
        });
    let wants_operations = request.include_cluster_authorized_operations;
    DescribeClusterResponse {
        error_message: None,
        endpoint_type,
        cluster_id: image.cluster_id().to_owned().into(),
        controller_id: routing.controller().0,
        brokers: brokers.collect(),
        cluster_authorized_operations: if wants_operations {
            CLUSTER_OPERATIONS
        } else {
            i32::MIN
        },
        ..DescribeClusterResponse::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::test_host::{TwoCores, image};

    #[test]
    fn a_listener_shows_its_brokers() {
        // Proves ids, addresses and the controller, and that operations come only when asked for.
        let image = image(&[]);
        let ask = |with| DescribeClusterRequest {
            include_cluster_authorized_operations: with,
            endpoint_type: ENDPOINT_BROKERS,
            ..DescribeClusterRequest::default()
        };
        let answer = describe_cluster(&image, &TwoCores, &ask(false), 2);
        assert_eq!(
            (answer.error_code, &*answer.cluster_id, answer.controller_id),
            (0, "test", 0)
        );
        let brokers: Vec<(i32, String, i32)> = answer
            .brokers
            .iter()
            .map(|broker| (broker.broker_id, broker.host.to_string(), broker.port))
            .collect();
        let host = || "localhost".to_owned();
        assert_eq!(brokers, [(0, host(), 10_092), (1, host(), 10_093)]);
        assert_eq!(answer.cluster_authorized_operations, i32::MIN);
        let answer = describe_cluster(&image, &TwoCores, &ask(true), 2);
        let operations = answer.cluster_authorized_operations;
        let bits: Vec<i32> = (0..32).filter(|bit| operations >> bit & 1 == 1).collect();
        assert_eq!(bits, [5, 7, 8, 9, 10, 11, 12]);
    }

    #[test]
    fn controllers_are_not_shown() {
        // Proves the errors for the endpoint types that this is not, from version 1 on.
        let image = image(&[]);
        for (endpoint_type, version, code) in [(2, 1, 114), (3, 2, 115), (0, 0, 0), (2, 0, 0)] {
            let request = DescribeClusterRequest {
                endpoint_type,
                ..DescribeClusterRequest::default()
            };
            let answer = describe_cluster(&image, &TwoCores, &request, version);
            assert_eq!(
                answer.error_code, code,
                "{endpoint_type} in version {version}"
            );
        }
    }
}
