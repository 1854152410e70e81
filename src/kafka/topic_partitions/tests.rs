use streambus_proto::messages::describe_topic_partitions_request::{
    Cursor as RequestCursor, TopicRequest,
};

use super::*;
use crate::kafka::test_host::{TwoCores, image, now};

/// Topic, first partition, number of partitions and code of each topic in an answer.
type Told = Vec<(String, i32, usize, i16)>;

fn ask(
    topics: &[&'static str],
    limit: i32,
    cursor: Option<(&str, i32)>,
) -> DescribeTopicPartitionsRequest<'static> {
    let topics = topics.iter().map(|name| TopicRequest {
        name: (*name).into(),
    });
    DescribeTopicPartitionsRequest {
        topics: topics.collect(),
        response_partition_limit: limit,
        cursor: cursor.map(|(name, partition_index)| RequestCursor {
            topic_name: name.to_owned().into(),
            partition_index,
        }),
    }
}

fn described(
    image: &Image,
    request: &DescribeTopicPartitionsRequest<'_>,
) -> Result<DescribeTopicPartitionsResponse<'static>, Refusal> {
    describe_topic_partitions(image, &TwoCores, request, &now(names(request)))
}

fn told(answer: &DescribeTopicPartitionsResponse<'_>) -> (Told, Option<(String, i32)>) {
    let topics = answer.topics.iter().map(|topic| {
        let first = topic
            .partitions
            .iter()
            .next()
            .map_or(-1, |first| first.partition_index);
        let name = topic.name.expect("always named").into_owned();
        (name, first, topic.partitions.len(), topic.error_code)
    });
    let cursor = answer.next_cursor.as_ref();
    let cursor = cursor.map(|cursor| (cursor.topic_name.to_string(), cursor.partition_index));
    (topics.collect(), cursor)
}

#[test]
fn pages_follow_each_other_without_gap_or_overlap() {
    // Proves for every page size that the pages together are all partitions, each once, in order.
    let image = image(&[("a", 3), ("b", 1), ("c", 5)]);
    let every: Vec<(String, i32)> = [("a", 3), ("b", 1), ("c", 5)]
        .iter()
        .flat_map(|(name, count)| (0..*count).map(|index| ((*name).to_owned(), index)))
        .collect();
    for limit in 1..12 {
        for names in [&[][..], &["c", "a", "b", "a"][..]] {
            let mut seen = Vec::new();
            let mut cursor: Option<(String, i32)> = None;
            loop {
                let from = cursor.as_ref().map(|(name, index)| (name.as_str(), *index));
                let request = ask(names, limit, from);
                let answer = described(&image, &request).expect("good");
                let (topics, next) = told(&answer);
                let partitions: usize = topics.iter().map(|topic| topic.2).sum();
                assert!(partitions <= usize::try_from(limit).expect("small"));
                for (name, first, count, _) in topics {
                    let count = i32::try_from(count).expect("small");
                    seen.extend((first..first + count).map(|index| (name.clone(), index)));
                }
                cursor = next;
                if cursor.is_none() {
                    break;
                }
            }
            assert_eq!(seen, every, "pages of {limit}");
        }
    }
}

#[test]
fn topics_that_are_not_there_are_told_so() {
    // Proves the codes for unknown and impossible names, and what a partition is told with.
    let image = image(&[("a", 2)]);
    let request = ask(&["a", "x", "bad name"], 100, None);
    let answer = described(&image, &request).expect("good");
    let (topics, next) = told(&answer);
    let name = |name: &str| name.to_owned();
    assert_eq!(
        topics,
        [
            (name("a"), 0, 2, 0),
            (name("bad name"), -1, 0, 17),
            (name("x"), -1, 0, 3)
        ]
    );
    assert_eq!(next, None);
    let topic = answer.topics.iter().next().expect("a");
    let last = topic.partitions.iter().last().expect("two");
    assert_eq!((last.leader_id, last.partition_index), (1, 1));
    let replicas: Vec<i32> = last.replica_nodes.iter().collect();
    let in_sync: Vec<i32> = last.isr_nodes.iter().collect();
    assert_eq!((replicas, in_sync), (vec![1], vec![1]));
}

#[test]
fn a_cursor_that_nobody_gave_is_refused_or_harmless() {
    // Proves that a negative partition is an error, that a deleted topic's cursor goes on with the
    // next one, and that a limit of nothing still makes progress.
    let image = image(&[("a", 2), ("c", 1)]);
    let negative = ask(&[], 10, Some(("a", -1)));
    let refused = described(&image, &negative).expect_err("negative");
    assert_eq!(refused.code, ErrorCode::InvalidRequest);
    let gone = ask(&[], 10, Some(("b", 7)));
    let answer = described(&image, &gone).expect("good");
    assert_eq!(told(&answer).0, [("c".to_owned(), 0, 1, 0)]);
    for limit in [0, -5] {
        let nothing = ask(&[], limit, None);
        let answer = described(&image, &nothing).expect("good");
        assert_eq!(
            told(&answer),
            (vec![("a".to_owned(), 0, 1, 0)], Some(("a".to_owned(), 1)))
        );
    }
}

#[test]
fn arrays_that_java_reads_are_never_null() {
    // Proves empty lists where Kafka sends empty ones: Java's admin client fails on null.
    let image = image(&[("a", 1)]);
    let request = ask(&["a"], 10, None);
    let answer = described(&image, &request).expect("good");
    let topics: Vec<_> = answer.topics.iter().collect();
    let partitions: Vec<_> = topics[0].partitions.iter().collect();
    for list in [
        &partitions[0].eligible_leader_replicas,
        &partitions[0].last_known_elr,
    ] {
        assert_eq!(list.as_ref().map(Array::len), Some(0));
    }
}
