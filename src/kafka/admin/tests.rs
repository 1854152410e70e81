use std::borrow::Cow;
use std::future::ready;

use streambus_proto::messages::create_topics_request::CreatableTopic;
use streambus_proto::messages::delete_topics_request::DeleteTopicState;
use streambus_proto::messages::describe_configs_request::DescribeConfigsResource;
use streambus_proto::messages::*;
use streambus_proto::wire::{Reader, Writer};
use streambus_shards::run_alone;

use super::*;
use crate::kafka::coordinators::{ProducerIds, find_coordinator, init_producer_id};
use crate::kafka::log_dirs::{self, LogDir, describe_log_dirs};
use crate::kafka::test_host::{TestHost, TwoCores, image, now, topic_id};
use crate::kafka::{cluster, configs, topic_partitions, topics};

/// Sends a request of every version through its bytes, answers it, and reads the answer's bytes.
macro_rules! in_every_version {
    ($Request:ident, $Response:ident, $ask:expr, $answer:expr) => {
        for version in $Request::FIRST..=$Request::LAST {
            let mut writer = Writer::new();
            let sent = with(version, $ask).write(&mut writer, version);
            sent.unwrap_or_else(|error| panic!("{} {version}: {error}", $Request::NAME));
            let (bytes, _) = writer.into_parts();
            let mut reader = Reader::new(&bytes);
            let request = $Request::read(&mut reader, version).expect($Request::NAME);
            reader.finish().expect($Request::NAME);
            let response = with((&request, version), |(request, version)| {
                $answer(request, version)
            });
            let mut writer = Writer::new();
            let answered = response.write(&mut writer, version);
            answered.unwrap_or_else(|error| panic!("{} {version}: {error}", $Response::NAME));
            let (bytes, _) = writer.into_parts();
            let mut reader = Reader::new(&bytes);
            $Response::read(&mut reader, version).expect($Response::NAME);
            reader.finish().expect($Response::NAME);
        }
    };
}

/// Calls a closure that a macro was given: its arguments' types come from here.
fn with<A, T>(argument: A, call: impl FnOnce(A) -> T) -> T {
    call(argument)
}

#[test]
fn changes_of_topics_are_answered_in_every_version() {
    // Proves that no answer, good or bad, has a field that some version can't say.
    let host = TestHost::new(&[("t", 1), ("u", 1)]);
    let made = || CreatableTopic {
        name: "made".into(),
        num_partitions: 1,
        replication_factor: 1,
        ..CreatableTopic::default()
    };
    in_every_version!(
        CreateTopicsRequest,
        CreateTopicsResponse,
        |_| CreateTopicsRequest {
            topics: vec![made(), CreatableTopic::default()].into(),
            ..CreateTopicsRequest::default()
        },
        |request, _| now(topics::create_topics(&host, &TwoCores, request))
    );
    in_every_version!(
        CreatePartitionsRequest,
        CreatePartitionsResponse,
        |version: i16| CreatePartitionsRequest {
            topics: vec![create_partitions_request::CreatePartitionsTopic {
                name: "t".into(),
                count: i32::from(version) + 2,
                assignments: None,
            }]
            .into(),
            ..CreatePartitionsRequest::default()
        },
        |request, _| now(topics::create_partitions(&host, &TwoCores, request))
    );
    in_every_version!(
        DeleteTopicsRequest,
        DeleteTopicsResponse,
        |version| {
            let mut request = DeleteTopicsRequest::default();
            let names = ["u", "x"].map(Cow::Borrowed).into_iter();
            if version >= 6 {
                let states = names.map(|name| DeleteTopicState {
                    name: Some(name),
                    ..DeleteTopicState::default()
                });
                request.topics = states.collect();
            } else {
                request.topic_names = names.collect();
            }
            request
        },
        |request, version| now(topics::delete_topics(&host, request, version))
    );
    assert_eq!(
        host.image(|image| image.topic("t").expect("there").partition_count()),
        5
    );
}

#[test]
fn settings_are_answered_in_every_version() {
    // Proves the same of the requests on settings.
    let host = TestHost::new(&[("t", 1)]);
    let resource = |resource_type, name: &'static str| DescribeConfigsResource {
        resource_type,
        resource_name: name.into(),
        configuration_keys: None,
    };
    in_every_version!(
        DescribeConfigsRequest,
        DescribeConfigsResponse,
        |version| DescribeConfigsRequest {
            resources: vec![
                resource(2, "t"),
                resource(4, "0"),
                resource(8, "0"),
                resource(2, "x")
            ]
            .into(),
            include_synonyms: version >= 1,
            include_documentation: version >= 3,
        },
        |request, version| now(configs::describe_configs(
            &host,
            &TwoCores,
            request,
            version,
            usize::MAX
        ))
        .expect("it can be written")
    );
    in_every_version!(
        AlterConfigsRequest,
        AlterConfigsResponse,
        |_| AlterConfigsRequest {
            resources: vec![alter_configs_request::AlterConfigsResource {
                resource_type: 2,
                resource_name: "t".into(),
                ..Default::default()
            }]
            .into(),
            ..AlterConfigsRequest::default()
        },
        |request, _| now(configs::alter_configs(&host, &TwoCores, request))
    );
    in_every_version!(
        IncrementalAlterConfigsRequest,
        IncrementalAlterConfigsResponse,
        |_| IncrementalAlterConfigsRequest {
            resources: vec![incremental_alter_configs_request::AlterConfigsResource {
                resource_type: 2,
                resource_name: "x".into(),
                ..Default::default()
            }]
            .into(),
            ..IncrementalAlterConfigsRequest::default()
        },
        |request, _| now(configs::incremental_alter_configs(
            &host, &TwoCores, request
        ))
    );
    in_every_version!(
        ListConfigResourcesRequest,
        ListConfigResourcesResponse,
        |_| ListConfigResourcesRequest::default(),
        |request, version| host
            .image(|image| configs::list_config_resources(image, &TwoCores, request, version))
    );
}

#[test]
fn what_there_is_is_answered_in_every_version() {
    // Proves the same of the requests that describe the cluster.
    let image = image(&[("t", 3)]);
    in_every_version!(
        DescribeClusterRequest,
        DescribeClusterResponse,
        |_| DescribeClusterRequest::default(),
        |request, version| cluster::describe_cluster(&image, &TwoCores, request, version)
    );
    in_every_version!(
        DescribeTopicPartitionsRequest,
        DescribeTopicPartitionsResponse,
        |_| DescribeTopicPartitionsRequest {
            response_partition_limit: 2,
            ..DescribeTopicPartitionsRequest::default()
        },
        |request, _| {
            let names = now(topic_partitions::names(request));
            topic_partitions::describe_topic_partitions(&image, &TwoCores, request, &names)
                .expect("no cursor")
        }
    );
    let dir = LogDir {
        path: "/data".to_owned(),
        total_bytes: 1,
        usable_bytes: 1,
        sizes: vec![(topic_id("t"), 0, 1)],
    };
    in_every_version!(
        DescribeLogDirsRequest,
        DescribeLogDirsResponse,
        |_| DescribeLogDirsRequest { topics: None },
        |request, _| {
            let asked = now(log_dirs::asked(request));
            describe_log_dirs(&image, &asked, std::slice::from_ref(&dir))
        }
    );
    let (host, ids) = (TestHost::new(&[]), ProducerIds::default());
    in_every_version!(
        FindCoordinatorRequest,
        FindCoordinatorResponse,
        |version| {
            let mut request = FindCoordinatorRequest::default();
            if version >= 4 {
                request.coordinator_keys = vec!["a".into()].into();
            } else {
                request.key = "a".into();
            }
            request
        },
        |request, version| now(find_coordinator(&host, &TwoCores, request, version))
    );
    in_every_version!(
        InitProducerIdRequest,
        InitProducerIdResponse,
        |_| InitProducerIdRequest {
            transactional_id: None,
            ..InitProducerIdRequest::default()
        },
        |request, _| now(init_producer_id(&host, &ids, request))
    );
}

#[test]
fn futures_are_waited_for_together() {
    // Proves that the answers keep the order of the futures whichever is done first.
    run_alone(async {
        let futures: Vec<Pin<Box<dyn Future<Output = u32>>>> = vec![
            Box::pin(async {
                streambus_shards::sleep(std::time::Duration::from_millis(2)).await;
                1
            }),
            Box::pin(ready(2)),
        ];
        assert_eq!(join_all(futures).await, [1, 2]);
        assert_eq!(
            join_all(Vec::<std::future::Ready<u8>>::new()).await,
            [] as [u8; 0]
        );
    })
    .expect("an executor");
}
