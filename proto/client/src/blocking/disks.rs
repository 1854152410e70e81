//! What brokers keep on their disks.

use streambus_proto::ids::BrokerId;
use streambus_proto::messages::describe_log_dirs_request::{
    DescribableLogDirTopic, DescribeLogDirsRequest,
};

use super::Client;
use crate::error::ClientError;
use crate::partition::TopicPartition;

/// A replica in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaOnDisk {
    /// The partition.
    pub partition: TopicPartition,
    /// Bytes on disk.
    pub size_bytes: i64,
    /// Records that it is behind.
    pub offset_lag: i64,
}

/// A directory of a broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogDir {
    /// Its path.
    pub path: String,
    /// Bytes of its file system, if the broker says.
    pub total_bytes: Option<i64>,
    /// Bytes free there, if the broker says.
    pub usable_bytes: Option<i64>,
    /// What it holds.
    pub replicas: Vec<ReplicaOnDisk>,
}

impl Client {
    /// The directories of a broker and what they hold of these partitions of a topic.
    ///
    /// # Errors
    /// [`ClientError`]; a directory that is out of order is one, for the whole answer.
    pub fn describe_log_dirs(
        &mut self,
        broker: BrokerId,
        topic: &str,
        partitions: &[i32],
    ) -> Result<Vec<LogDir>, ClientError> {
        let topic = DescribableLogDirTopic {
            topic: topic.into(),
            partitions: partitions.to_vec().into(),
        };
        let request = DescribeLogDirsRequest {
            topics: Some(vec![topic].into()),
        };
        self.with_patience(|client| {
            let reply = client.call(Some(broker), &request)?;
            let answer = reply.read()?;
            ClientError::check("describe log dirs", answer.error_code, None)?;
            let mut dirs = Vec::new();
            for dir in &answer.results {
                let path = dir.log_dir.into_owned();
                ClientError::check(path.as_str(), dir.error_code, None)?;
                let mut replicas = Vec::new();
                for topic in &dir.topics {
                    replicas.extend(topic.partitions.iter().map(|partition| ReplicaOnDisk {
                        partition: TopicPartition::new(&*topic.name, partition.partition_index),
                        size_bytes: partition.partition_size,
                        offset_lag: partition.offset_lag,
                    }));
                }
                let said = |bytes: i64| (bytes >= 0).then_some(bytes);
                dirs.push(LogDir {
                    path,
                    total_bytes: said(dir.total_bytes),
                    usable_bytes: said(dir.usable_bytes),
                    replicas,
                });
            }
            Ok(dirs)
        })
    }
}
