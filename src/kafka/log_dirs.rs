//! `DescribeLogDirs`: how much of the disk each partition takes.

use std::collections::BTreeMap;

use streambus_proto::ids::TopicId;
use streambus_proto::messages::describe_log_dirs_request::DescribeLogDirsRequest;
use streambus_proto::messages::describe_log_dirs_response::{
    DescribeLogDirsPartition, DescribeLogDirsResponse, DescribeLogDirsResult, DescribeLogDirsTopic,
};

use super::request_memory::Steps;
use crate::metadata::Image;

/// A data directory, as far as the answering broker has partitions in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LogDir {
    /// Where it is.
    pub path: String,
    /// Bytes of its file system.
    pub total_bytes: u64,
    /// Bytes that may still be written.
    pub usable_bytes: u64,
    /// Topic, partition and bytes of each log, in any order.
    pub sizes: Vec<(TopicId, i32, u64)>,
}

/// The partitions that a request names, sorted, by topic. `None` means all, and none means none.
pub(crate) type Asked = Option<BTreeMap<String, Vec<i32>>>;

/// What a request asks for.
pub(crate) async fn asked(request: &DescribeLogDirsRequest<'_>) -> Asked {
    let mut asked: BTreeMap<String, Vec<i32>> = BTreeMap::new();
    let mut steps = Steps::default();
    for topic in request.topics.as_ref()? {
        // Numbers, that take a fraction of what a name does.
        steps.take(1 + topic.partitions.len() / 16).await;
        let partitions = asked.entry(topic.topic.into_owned()).or_default();
        partitions.extend(topic.partitions.iter());
    }
    for partitions in asked.values_mut() {
        steps.take(1 + partitions.len() / 16).await;
        partitions.sort_unstable();
        partitions.dedup();
    }
    Some(asked)
}

/// `DescribeLogDirs`. A broker tells of what it leads: ask each core of a core listener for its own.
pub(crate) fn describe_log_dirs(
    image: &Image,
    asked: &Asked,
    dirs: &[LogDir],
) -> DescribeLogDirsResponse<'static> {
    let is_asked = |topic: &str, partition: i32| {
        asked.as_ref().is_none_or(|asked| {
            asked
                .get(topic)
                .is_some_and(|partitions| partitions.binary_search(&partition).is_ok())
        })
    };
    let results = dirs.iter().map(|dir| {
        let mut topics: BTreeMap<&str, Vec<DescribeLogDirsPartition>> = BTreeMap::new();
        for (id, index, size_bytes) in &dir.sizes {
            // A topic that was deleted a moment ago has a log still, but no name.
            let Some(topic) = image.topic_by_id(*id) else {
                continue;
            };
            if is_asked(&topic.name, *index) {
                topics
                    .entry(&topic.name)
                    .or_default()
                    .push(DescribeLogDirsPartition {
                        partition_index: *index,
                        partition_size: signed(*size_bytes),
                        ..DescribeLogDirsPartition::default()
                    });
            }
        }
        let topics = topics.into_iter().map(|(name, mut partitions)| {
            partitions.sort_by_key(|partition| partition.partition_index);
            DescribeLogDirsTopic {
                name: name.to_owned().into(),
                partitions: partitions.into(),
            }
        });
        DescribeLogDirsResult {
            log_dir: dir.path.clone().into(),
            topics: topics.collect(),
            total_bytes: signed(dir.total_bytes),
            usable_bytes: signed(dir.usable_bytes),
            ..DescribeLogDirsResult::default()
        }
    });
    DescribeLogDirsResponse {
        results: results.collect(),
        ..DescribeLogDirsResponse::default()
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use streambus_proto::messages::describe_log_dirs_request::DescribableLogDirTopic;

    use super::*;
    use crate::kafka::test_host::{image, now, topic_id};

    type Sizes = Vec<(String, i32, i64)>;

    fn told(request: &DescribeLogDirsRequest<'_>) -> Sizes {
        let image = image(&[("a", 2), ("b", 1)]);
        let dir = LogDir {
            path: "/data".to_owned(),
            total_bytes: 1_000,
            usable_bytes: u64::MAX,
            sizes: vec![
                (topic_id("b"), 0, 30),
                (topic_id("a"), 1, 20),
                (topic_id("a"), 0, 10),
                (topic_id("gone"), 0, 99),
            ],
        };
        let answer = describe_log_dirs(&image, &now(asked(request)), &[dir]);
        let result = answer.results.iter().next().expect("one directory");
        assert_eq!(
            (&*result.log_dir, result.total_bytes, result.error_code),
            ("/data", 1_000, 0)
        );
        assert_eq!(result.usable_bytes, i64::MAX);
        let topics = result.topics.iter();
        let partitions = topics.flat_map(|topic| {
            let partitions: Vec<_> = topic.partitions.iter().collect();
            let name = topic.name.into_owned();
            partitions.into_iter().map(move |partition| {
                (
                    name.clone(),
                    partition.partition_index,
                    partition.partition_size,
                )
            })
        });
        partitions.collect()
    }

    #[test]
    fn sizes_are_told_of_what_is_asked_for() {
        // Proves all, none, and some, in order, without what was deleted.
        let all = DescribeLogDirsRequest { topics: None };
        let size = |name: &str, index, bytes| (name.to_owned(), index, bytes);
        assert_eq!(
            told(&all),
            [size("a", 0, 10), size("a", 1, 20), size("b", 0, 30)]
        );
        let ask = |topics: Vec<(&'static str, Vec<i32>)>| {
            let topics = topics
                .into_iter()
                .map(|(name, partitions)| DescribableLogDirTopic {
                    topic: name.into(),
                    partitions: partitions.into(),
                });
            let topics = Some(topics.collect());
            DescribeLogDirsRequest { topics }
        };
        assert_eq!(told(&ask(vec![])), []);
        assert_eq!(
            told(&ask(vec![("a", vec![1, 7]), ("x", vec![0])])),
            [size("a", 1, 20)]
        );
    }
}
