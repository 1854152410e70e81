//! `FindCoordinator` and `InitProducerId`.

use std::cell::Cell;

use streambus_proto::error_code::ErrorCode;
use streambus_proto::messages::find_coordinator_request::FindCoordinatorRequest;
use streambus_proto::messages::find_coordinator_response::{Coordinator, FindCoordinatorResponse};
use streambus_proto::messages::init_producer_id_request::InitProducerIdRequest;
use streambus_proto::messages::init_producer_id_response::InitProducerIdResponse;

use super::admin::{Host, shown};
use super::request_memory::Steps;
use super::topics::told;
use crate::metadata::routing::{BrokerAddress, Routing};
use crate::metadata::{Change, Command, Image, PartitionPlace, Refusal, Submit};

/// What a key names, by Kafka's numbers.
const GROUP: i8 = 0;
const TRANSACTION: i8 = 1;

/// Partitions of the topic of transactions: `transaction.state.log.num.partitions` of Kafka.
const TRANSACTION_PARTITIONS: i32 = 50;

/// What finding a key's coordinator takes of the core's time, in entries.
const STEPS_OF_A_KEY: usize = 4;

/// The first version that asks for many keys at once.
const BATCHED_VERSION: i16 = 4;

/// `FindCoordinator`.
pub(crate) async fn find_coordinator(
    host: &impl Host,
    routing: &impl Routing,
    request: &FindCoordinatorRequest<'_>,
    version: i16,
) -> FindCoordinatorResponse<'static> {
    // Version 0 only knows groups.
    let key_type = if version == 0 {
        GROUP
    } else {
        request.key_type
    };
    if version >= BATCHED_VERSION {
        let mut steps = Steps::default();
        let mut coordinators = Vec::with_capacity(request.coordinator_keys.len());
        for key in &request.coordinator_keys {
            steps.take(STEPS_OF_A_KEY).await;
            let Found {
                node_id,
                host,
                port,
                outcome,
            } = host.image(|image| found(image, routing, key_type, &key));
            let (error_code, error_message) = told(outcome);
            coordinators.push(Coordinator {
                key: key.into_owned().into(),
                node_id,
                host: host.into(),
                port,
                error_code,
                // Empty where all is well, as Kafka sends it: null is no value that clients expect.
                error_message: Some(error_message.unwrap_or_default().into()),
            });
        }
        return FindCoordinatorResponse {
            coordinators: coordinators.into(),
            ..FindCoordinatorResponse::default()
        };
    }
    let Found {
        node_id,
        host,
        port,
        outcome,
    } = host.image(|image| found(image, routing, key_type, &request.key));
    let (error_code, error_message) = told(outcome);
    FindCoordinatorResponse {
        error_code,
        // Kafka says so, too.
        error_message: Some(error_message.map_or("NONE".into(), Into::into)),
        node_id,
        host: host.into(),
        port,
        ..FindCoordinatorResponse::default()
    }
}

/// A key's coordinator, or nobody and why.
struct Found {
    node_id: i32,
    host: String,
    port: i32,
    outcome: Result<(), Refusal>,
}

fn found(image: &Image, routing: &impl Routing, key_type: i8, key: &str) -> Found {
    match coordinator(image, routing, key_type, key) {
        Ok(BrokerAddress { id, host, port, .. }) => Found {
            node_id: id.0,
            host,
            port: i32::from(port),
            outcome: Ok(()),
        },
        Err(refusal) => Found {
            node_id: -1,
            host: String::new(),
            port: -1,
            outcome: Err(refusal),
        },
    }
}

fn coordinator(
    image: &Image,
    routing: &impl Routing,
    key_type: i8,
    key: &str,
) -> Result<BrokerAddress, Refusal> {
    let (topic, partitions) = match key_type {
        GROUP => (
            "__consumer_offsets",
            image.broker().offsets_topic_partitions,
        ),
        TRANSACTION => ("__transaction_state", TRANSACTION_PARTITIONS),
        other => {
            let message = format!(
                "no coordinator for key type {other} of {}; 0 asks for groups, 1 for transactions",
                shown(key)
            );
            return Err(Refusal::new(ErrorCode::InvalidRequest, message));
        }
    };
    let place = coordinator_place(image, topic, partitions, key);
    let leader = routing.leader_of(&place);
    let broker = routing
        .brokers()
        .into_iter()
        .find(|broker| broker.id == leader);
    broker.ok_or_else(|| {
        let message = format!("broker {} is not on this listener; try again", leader.0);
        Refusal::new(ErrorCode::CoordinatorNotAvailable, message)
    })
}

/// Where a key's partition of a coordinator's topic lives, or will live: until the topic is made
/// its partitions go round the lanes, as placement will put them.
pub(crate) fn coordinator_place(
    image: &Image,
    topic: &str,
    partitions: i32,
    key: &str,
) -> PartitionPlace {
    let existing = image.topic(topic);
    let count = existing
        .map_or(partitions, |topic| topic.partition_count())
        .max(1);
    let index = partition_of(key, count);
    if let Some(place) = existing.and_then(|topic| topic.partition(index)) {
        return place.clone();
    }
    let lanes = i32::from(image.identity().lanes);
    PartitionPlace {
        lane: u16::try_from(index % lanes).expect("lanes are counted in 16 bits"),
        leader: image.node(),
        replicas: vec![image.node()],
        leader_epoch: streambus_proto::ids::LeaderEpoch(0),
    }
}

/// The partition of a group or of a transactional id: Java's hash of the text, as Kafka has it, so
/// that committed offsets mirrored from Kafka stay where their groups look for them.
fn partition_of(key: &str, partitions: i32) -> i32 {
    let hash = key.encode_utf16().fold(0_i32, |hash, unit| {
        hash.wrapping_mul(31).wrapping_add(i32::from(unit))
    });
    // Kafka's `Utils.abs`: the smallest integer has no positive twin and counts as 0.
    let hash = if hash == i32::MIN { 0 } else { hash.abs() };
    hash % partitions
}

/// How many producer ids a core takes at once: a command for each thousand producers costs nothing,
/// and the ids last (2^63 of them) however often a node restarts.
const BLOCK: u32 = 1_000;

/// A core's block of producer ids.
#[derive(Debug, Default)]
pub(crate) struct ProducerIds {
    next: Cell<i64>,
    end: Cell<i64>,
}

impl ProducerIds {
    /// An id that no other producer has or will have.
    ///
    /// # Errors
    /// As the controller refuses a new block.
    pub(crate) async fn draw(&self, submit: &impl Submit) -> Result<i64, Refusal> {
        loop {
            let id = self.next.get();
            if id < self.end.get() {
                self.next.set(id + 1);
                return Ok(id);
            }
            let delta = submit
                .submit(Command::AllocateProducerIds { count: BLOCK })
                .await?;
            let Some(Change::ProducerIdsAllocated { first, count }) = delta.changes.first() else {
                let message = "the controller answered with something else than producer ids";
                return Err(Refusal::new(ErrorCode::UnknownServerError, message));
            };
            // Another task may have brought a block meanwhile; what is left of it is given up.
            self.next.set(*first);
            self.end.set(first + i64::from(*count));
        }
    }
}

/// `InitProducerId`, for idempotent producers.
pub(crate) async fn init_producer_id(
    submit: &impl Submit,
    ids: &ProducerIds,
    request: &InitProducerIdRequest<'_>,
) -> InitProducerIdResponse {
    let drawn = match request.transactional_id.as_deref() {
        // A producer that knows its id and lost its epoch gets a new id, as in Kafka.
        None => ids.draw(submit).await,
        Some("") => Err(Refusal::new(
            ErrorCode::InvalidRequest,
            "the transactional id is empty",
        )),
        // Not retriable on purpose: a producer that waits for a coordinator would wait for ever.
        Some(_) => Err(Refusal::new(
            ErrorCode::UnsupportedVersion,
            "transactions are not supported yet",
        )),
    };
    match drawn {
        Ok(producer_id) => InitProducerIdResponse {
            producer_id,
            producer_epoch: 0,
            ..InitProducerIdResponse::default()
        },
        Err(refusal) => {
            tracing::debug!(%refusal, "no producer id");
            InitProducerIdResponse {
                error_code: refusal.code.into(),
                producer_id: -1,
                producer_epoch: -1,
                ..InitProducerIdResponse::default()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::test_host::{TestHost, TwoCores, image, now};
    use streambus_shards::run_alone;

    #[test]
    fn keys_hash_as_in_kafka() {
        // Proves the partitions that Java's String.hashCode and Utils.abs give.
        for (key, partition) in [
            ("", 0),
            ("a", 47),
            ("my-group", 12),
            ("hello", 22),
            ("ü", 2),
        ] {
            assert_eq!(partition_of(key, 50), partition, "{key}");
        }
        // "polygenelubricants" hashes to the smallest integer.
        assert_eq!(partition_of("polygenelubricants", 50), 0);
    }

    #[test]
    fn a_coordinator_is_found_in_every_version() {
        // Proves the single and the batched form, and that both name the same broker.
        let host = TestHost::new(&[]);
        for version in 0..=6 {
            let request = FindCoordinatorRequest {
                key: "a".into(),
                coordinator_keys: vec!["a".into(), "b".into()].into(),
                ..FindCoordinatorRequest::default()
            };
            let answer = now(find_coordinator(&host, &TwoCores, &request, version));
            if version < BATCHED_VERSION {
                // Partition 47 is on lane 1 of 2, which core 1 drives.
                assert_eq!(
                    (answer.error_code, answer.node_id, answer.port),
                    (0, 1, 10_093)
                );
                continue;
            }
            let found: Vec<(String, i32)> = answer
                .coordinators
                .iter()
                .map(|coordinator| (coordinator.key.to_string(), coordinator.node_id))
                .collect();
            assert_eq!(found, [("a".to_owned(), 1), ("b".to_owned(), 0)]);
        }
    }

    #[test]
    fn the_topic_says_where_its_partitions_are_once_it_is_there() {
        // Proves that the placement of the real topic goes before the guess.
        let image = image(&[("other", 1), ("__consumer_offsets", 50)]);
        let place = coordinator_place(&image, "__consumer_offsets", 50, "a");
        assert_eq!(
            Some(&place),
            image
                .topic("__consumer_offsets")
                .expect("made")
                .partition(47)
        );
        assert_eq!(place.lane, 0, "one lane had a partition already");
    }

    #[test]
    fn unknown_kinds_of_keys_are_refused() {
        // Proves the error in both forms, and that nobody is named.
        let host = TestHost::new(&[]);
        for version in [1, 5] {
            let request = FindCoordinatorRequest {
                key: "a".into(),
                key_type: 7,
                coordinator_keys: vec!["a".into()].into(),
            };
            let answer = now(find_coordinator(&host, &TwoCores, &request, version));
            let (code, node) = match answer.coordinators.iter().next() {
                Some(coordinator) => (coordinator.error_code, coordinator.node_id),
                None => (answer.error_code, answer.node_id),
            };
            assert_eq!((code, node), (42, -1));
        }
    }

    #[test]
    fn producer_ids_are_unique_over_cores() {
        // Proves that each core takes blocks of its own and that no id is given twice.
        run_alone(async {
            let host = TestHost::new(&[]);
            let cores = [ProducerIds::default(), ProducerIds::default()];
            let mut seen = std::collections::BTreeSet::new();
            for _ in 0..1_500 {
                for ids in &cores {
                    let request = InitProducerIdRequest {
                        transactional_id: None,
                        ..InitProducerIdRequest::default()
                    };
                    let answer = init_producer_id(&host, ids, &request).await;
                    assert_eq!((answer.error_code, answer.producer_epoch), (0, 0));
                    assert!(
                        seen.insert(answer.producer_id),
                        "{} again",
                        answer.producer_id
                    );
                }
            }
            assert_eq!(host.submitted(), 4);
        })
        .expect("an executor");
    }

    #[test]
    fn transactions_are_refused_for_good() {
        // Proves that a transactional producer stops at once and that nothing is allocated.
        run_alone(async {
            let host = TestHost::new(&[]);
            for (id, code) in [("tx", 35), ("", 42)] {
                let request = InitProducerIdRequest {
                    transactional_id: Some(id.into()),
                    ..InitProducerIdRequest::default()
                };
                let answer = init_producer_id(&host, &ProducerIds::default(), &request).await;
                assert_eq!((answer.error_code, answer.producer_id), (code, -1));
            }
            assert_eq!(host.submitted(), 0);
        })
        .expect("an executor");
    }
}
