use streambus_proto::messages::alter_configs_request::{AlterConfigsResource, AlterableConfig};
use streambus_proto::wire::{Reader, Writer};
use streambus_shards::run_alone;

use super::*;
use crate::kafka::test_host::{TestHost, TwoCores, image, now};

fn resource(
    resource_type: i8,
    name: &'static str,
    keys: Option<&[&'static str]>,
) -> DescribeConfigsResource<'static> {
    DescribeConfigsResource {
        resource_type,
        resource_name: name.into(),
        configuration_keys: keys.map(|keys| keys.iter().map(|key| (*key).into()).collect()),
    }
}

fn described(
    host: &TestHost,
    resource: DescribeConfigsResource<'static>,
    everything: bool,
) -> DescribeConfigsResult<'static> {
    let request = DescribeConfigsRequest {
        resources: vec![resource].into(),
        include_synonyms: everything,
        include_documentation: everything,
    };
    let answer = answer(host, &request);
    answer.results.iter().next().expect("one result")
}

fn answer(
    host: &TestHost,
    request: &DescribeConfigsRequest<'_>,
) -> DescribeConfigsResponse<'static> {
    now(describe_configs(host, &TwoCores, request, 4, usize::MAX)).expect("it can be written")
}

fn only(result: &DescribeConfigsResult<'static>) -> DescribeConfigsResourceResult<'static> {
    assert_eq!((result.error_code, result.configs.len()), (0, 1));
    result.configs.iter().next().expect("one setting")
}

/// Sets, deletes, appends or subtracts one setting of one resource.
async fn edit(
    host: &TestHost,
    (resource_type, resource): (i8, &'static str),
    (name, operation, value): (&'static str, i8, Option<&'static str>),
    validate_only: bool,
) -> (i16, String) {
    let config = incremental::AlterableConfig {
        name: name.into(),
        config_operation: operation,
        value: value.map(Into::into),
    };
    let resource = incremental::AlterConfigsResource {
        resource_type,
        resource_name: resource.into(),
        configs: vec![config].into(),
    };
    let request = IncrementalAlterConfigsRequest {
        resources: vec![resource].into(),
        validate_only,
    };
    let answer = incremental_alter_configs(host, &TwoCores, &request).await;
    let response = answer.responses.iter().next().expect("one response");
    (
        response.error_code,
        response
            .error_message
            .map(Cow::into_owned)
            .unwrap_or_default(),
    )
}

#[test]
fn a_topic_is_described_with_sources_and_synonyms() {
    // Proves the whole list, the filter, and that synonyms and documentation come when asked for.
    let host = TestHost::new(&[("t", 1)]);
    for keys in [None, Some(&[][..])] {
        let all = described(&host, resource(TOPIC, "t", keys), false);
        assert_eq!(
            (all.error_code, all.configs.len()),
            (0, topic_config::TABLE.len())
        );
        let bare = |config: DescribeConfigsResourceResult<'_>| {
            config.synonyms.is_empty() && config.documentation.is_none() && !config.read_only
        };
        assert!(all.configs.iter().all(bare));
    }
    let result = described(
        &host,
        resource(TOPIC, "t", Some(&["retention.ms", "nothing"])),
        true,
    );
    let retention = only(&result);
    assert_eq!(retention.value.as_deref(), Some("604800000"));
    assert_eq!((retention.config_source, retention.config_type), (5, 5));
    let synonyms: Vec<(String, String, i8)> = retention
        .synonyms
        .iter()
        .map(|one| {
            (
                one.name.into(),
                one.value.expect("never null").into(),
                one.source,
            )
        })
        .collect();
    assert_eq!(
        synonyms,
        [("log.retention.hours".to_owned(), "168".to_owned(), 5)]
    );
    assert!(retention.documentation.is_some_and(|text| !text.is_empty()));
}

#[test]
fn a_changed_setting_shows_where_it_holds() {
    // Proves the sources of topic, node and cluster, and their order in the synonyms.
    run_alone(async {
        let host = TestHost::new(&[("t", 1)]);
        let set = async |resource, name, value| {
            let (code, message) = edit(&host, resource, (name, 0, Some(value)), false).await;
            assert_eq!((code, message.as_str()), (0, ""));
        };
        set((BROKER, ""), "log.retention.ms", "100").await;
        set((BROKER, "1"), "log.retention.ms", "50").await;
        set((TOPIC, "t"), "retention.ms", "7").await;
        let topic = described(&host, resource(TOPIC, "t", Some(&["retention.ms"])), true);
        let entry = only(&topic);
        assert_eq!(
            (entry.value.as_deref(), entry.config_source),
            (Some("7"), 1)
        );
        let sources: Vec<i8> = entry.synonyms.iter().map(|one| one.source).collect();
        assert_eq!(sources, [1, 2, 3, 5]);

        let broker = described(
            &host,
            resource(BROKER, "0", Some(&["log.retention.ms"])),
            true,
        );
        let entry = only(&broker);
        assert_eq!(
            (entry.value.as_deref(), entry.config_source, entry.read_only),
            (Some("50"), 2, false)
        );
        let cluster = described(&host, resource(BROKER, "", None), false);
        let entry = only(&cluster);
        assert_eq!(
            (entry.value.as_deref(), entry.config_source),
            (Some("100"), 3)
        );
    })
    .expect("an executor");
}

#[test]
fn brokers_and_loggers_are_described() {
    // Proves the table of a broker, what is fixed, what has no value, and the logger.
    let host = TestHost::new(&[]);
    let broker = described(&host, resource(BROKER, "1", None), false);
    assert_eq!(broker.configs.len(), broker_config::all().count());
    let of = |name: &str| {
        broker
            .configs
            .iter()
            .find(|config| config.name == name)
            .expect("told")
    };
    assert!(of("num.partitions").read_only && !of("message.max.bytes").read_only);
    assert_eq!(
        of("log.flush.interval.messages").value.as_deref(),
        Some("9223372036854775807")
    );
    assert_eq!(of("log.retention.ms").value, None);
    let password = of("ssl.key.password");
    assert!(password.is_sensitive && password.value.is_none() && password.read_only);
    assert!(!of("ssl.keystore.location").is_sensitive);
    let logger = described(&host, resource(BROKER_LOGGER, "0", None), false);
    let entry = only(&logger);
    assert_eq!(
        (entry.value.as_deref(), entry.config_source),
        (Some("INFO"), 6)
    );
    assert!(entry.read_only);
}

#[test]
fn a_broker_shows_its_own_number_and_addresses() {
    // Proves that they are those that the listener shows for the broker that is named, and whence.
    let host = TestHost::new(&[]);
    let value = |broker, name: &'static str| {
        let result = described(&host, resource(BROKER, broker, Some(&[])), true);
        let config = result.configs.iter().find(|config| config.name == name);
        let config = config.expect("a setting of Kafka");
        let synonyms: Vec<i8> = config.synonyms.iter().map(|one| one.source).collect();
        (config.value.expect("a value").into_owned(), synonyms)
    };
    for (name, first, second, sources) in [
        ("node.id", "0", "1", &[4][..]),
        ("broker.id", "0", "1", &[4, 5]),
        (
            "advertised.listeners",
            "PLAINTEXT://localhost:10092",
            "PLAINTEXT://localhost:10093",
            &[4],
        ),
        (
            "listeners",
            "PLAINTEXT://0.0.0.0:10092",
            "PLAINTEXT://0.0.0.0:10093",
            &[4, 5],
        ),
    ] {
        assert_eq!(value("0", name), (first.to_owned(), sources.to_vec()));
        assert_eq!(value("1", name), (second.to_owned(), sources.to_vec()));
    }
}

#[test]
fn what_has_no_settings_is_refused() {
    // Proves the code of each resource that is not there.
    let host = TestHost::new(&[]);
    for (resource_type, name, code, part) in [
        (TOPIC, "x", 3, "'x' does not exist"),
        (TOPIC, "a/b", 17, "Topic name is invalid"),
        (
            BROKER,
            "7",
            42,
            "expected 0, 1 or empty string, but received 7",
        ),
        (BROKER, "zero", 42, "received zero"),
        (3, "x", 42, "Unexpected resource type 3"),
    ] {
        let result = described(&host, resource(resource_type, name, None), false);
        let message = result.error_message.expect("told").into_owned();
        assert!(
            result.error_code == code && message.contains(part),
            "{name}: {message}"
        );
        assert!(result.configs.is_empty() && result.resource_name == name);
    }
    for nothing_yet in [CLIENT_METRICS, GROUP] {
        let result = described(&host, resource(nothing_yet, "any", None), false);
        assert_eq!((result.error_code, result.configs.len()), (0, 0));
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn bad_edits_are_refused_and_change_nothing() {
    // Proves Kafka's codes and sentences, and that validate_only judges alike.
    run_alone(async {
        let host = TestHost::new(&[("t", 1)]);
        let t = (TOPIC, "t");
        for (resource, change, code, part) in [
            (
                t,
                ("colour", 0, Some("red")),
                40,
                "Unknown topic config name: colour",
            ),
            (
                t,
                ("retention.ms", 0, Some("x")),
                40,
                "Not a number of type LONG",
            ),
            (t, ("retention.ms", 0, None), 40, "Null value not supported"),
            (t, ("retention.ms", 2, Some("1")), 40, "type is not LIST"),
            (
                t,
                ("retention.ms", 9, Some("1")),
                42,
                "Unknown config operation 9",
            ),
            (
                (TOPIC, "x"),
                ("retention.ms", 0, Some("1")),
                3,
                "'x' does not exist",
            ),
            (
                (BROKER, "0"),
                ("node.id", 0, Some("1")),
                42,
                "Cannot update these configs dynamically: [node.id]; set them in streambus.toml",
            ),
            (
                (BROKER, ""),
                ("num.io.threads", 0, Some("9")),
                42,
                "Cannot update these configs dynamically: [num.io.threads]; nothing here depends",
            ),
            (
                (BROKER, "9"),
                ("log.retention.ms", 0, Some("1")),
                42,
                "received 9",
            ),
            (
                (BROKER_LOGGER, "0"),
                ("root", 0, Some("DEBUG")),
                42,
                "log.level",
            ),
            (
                (GROUP, "g"),
                ("x", 0, Some("1")),
                42,
                "no settings of their own",
            ),
        ] {
            for validate_only in [true, false] {
                let (told, message) = edit(&host, resource, change, validate_only).await;
                assert!(
                    told == code && message.contains(part),
                    "{change:?}: {told} {message}"
                );
            }
        }
        let before = host.submitted();
        assert_eq!(
            edit(&host, t, ("retention.ms", 0, Some("5")), true).await.0,
            0
        );
        assert_eq!(host.submitted(), before);
        assert!(host.image(|image| image.topic("t").expect("there").configs.is_empty()));
    })
    .expect("an executor");
}

#[test]
fn a_replacement_forgets_what_it_does_not_name() {
    // Proves AlterConfigs, and that a resource which stands twice changes nothing.
    run_alone(async {
        let host = TestHost::new(&[("t", 1)]);
        let resource = |name: &'static str, configs: &[(&'static str, &'static str)]| {
            let configs = configs.iter().map(|(name, value)| AlterableConfig {
                name: (*name).into(),
                value: Some((*value).into()),
            });
            AlterConfigsResource {
                resource_type: TOPIC,
                resource_name: name.into(),
                configs: configs.collect(),
            }
        };
        let ask = async |resources: Vec<AlterConfigsResource<'static>>| -> Vec<i16> {
            let request = AlterConfigsRequest {
                resources: resources.into(),
                ..AlterConfigsRequest::default()
            };
            let answer = alter_configs(&host, &TwoCores, &request).await;
            answer
                .responses
                .iter()
                .map(|response| response.error_code)
                .collect()
        };
        let first = vec![resource(
            "t",
            &[("retention.ms", "5"), ("max.message.bytes", "99")],
        )];
        assert_eq!(ask(first).await, [0]);
        assert_eq!(
            ask(vec![resource("t", &[("retention.ms", "6")])]).await,
            [0]
        );
        let twice = vec![resource("t", &[]), resource("t", &[("retention.ms", "7")])];
        assert_eq!(ask(twice).await, [42, 42]);
        let configs = host.image(|image| image.topic("t").expect("there").configs.clone());
        let expected = ConfigMap::from([("retention.ms".to_owned(), "6".to_owned())]);
        assert_eq!(configs, expected);
    })
    .expect("an executor");
}

#[test]
fn resources_are_listed_by_type() {
    // Proves version 0, all types, one type, and a type that nobody knows.
    let image = image(&[("a", 1), ("b", 1)]);
    let list = |types: &[i8], version| {
        let request = ListConfigResourcesRequest {
            resource_types: types.to_vec().into(),
        };
        let answer = list_config_resources(&image, &TwoCores, &request, version);
        let resources = answer.config_resources.iter();
        let names: Vec<(i8, String)> = resources
            .map(|one| (one.resource_type, one.resource_name.into()))
            .collect();
        (answer.error_code, names)
    };
    let named = |resource_type, name: &str| (resource_type, name.to_owned());
    assert_eq!(list(&[], 0), (0, vec![]));
    assert_eq!(
        list(&[TOPIC, TOPIC], 1),
        (0, vec![named(TOPIC, "a"), named(TOPIC, "b")])
    );
    assert_eq!(list(&[], 1).1.len(), 6);
    assert_eq!(list(&[TOPIC, 99], 1), (35, vec![]));
}

#[test]
fn a_resource_is_answered_once_and_a_long_answer_ends() {
    // Proves that a repeated resource does not multiply the answer, and that resources past the bound on an
    // answer's bytes are refused with the remedy.
    let host = TestHost::new(&[("t", 1)]);
    let resource = |name: String| DescribeConfigsResource {
        resource_type: TOPIC,
        resource_name: name.into(),
        configuration_keys: None,
    };
    let request = DescribeConfigsRequest {
        resources: (0..200).map(|_| resource("t".to_owned())).collect(),
        ..DescribeConfigsRequest::default()
    };
    assert_eq!(answer(&host, &request).results.len(), 1);

    // Numbers with zeros before them name the same broker.
    let request = DescribeConfigsRequest {
        resources: (0..280)
            .map(|zeros| DescribeConfigsResource {
                resource_type: BROKER,
                ..resource("0".repeat(zeros + 1))
            })
            .collect(),
        ..DescribeConfigsRequest::default()
    };
    let answer = run_alone(async move {
        let answer = describe_configs(&host, &TwoCores, &request, 4, 1_000).await;
        let mut writer = Writer::new();
        answer.unwrap().write(&mut writer, 4).unwrap();
        writer.into_parts().0
    })
    .unwrap();
    let answer = DescribeConfigsResponse::read(&mut Reader::new(&answer), 4).unwrap();
    let refused = |result: &DescribeConfigsResult<'_>| {
        result.error_code == i16::from(ErrorCode::InvalidRequest)
            && result
                .error_message
                .as_ref()
                .unwrap()
                .contains("describe fewer resources")
    };
    let refused = answer.results.iter().filter(refused).count();
    assert_eq!((answer.results.len(), refused), (280, 23), "all but 257");
}
