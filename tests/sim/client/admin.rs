//! Topics and old records: made, deleted, cut; each written down.

use std::time::Duration;

use streambus_client::partition::TopicPartition;
use streambus_proto::error_code::ErrorCode;
use streambus_proto::ids::{Offset, TopicId};
use streambus_proto::messages::create_topics_request::{
    CreatableTopic, CreatableTopicConfig, CreateTopicsRequest,
};
use streambus_proto::messages::delete_records_request::{
    DeleteRecordsPartition, DeleteRecordsRequest, DeleteRecordsTopic,
};
use streambus_proto::messages::delete_topics_request::{DeleteTopicState, DeleteTopicsRequest};
use streambus_shards::sleep;

use super::{CallError, Client};
use crate::history::{Recorder, Topic};

/// How long a broker may take over an admin request.
const ADMIN_TIMEOUT_MS: i32 = 5_000;

impl Client {
    /// Creates a topic and waits, up to `tries` tries, until its partitions have leaders. Returns its id; `None` if
    /// it could not be had in that many.
    pub async fn create_topic(
        &self,
        name: &str,
        partitions: i32,
        configs: &[(&str, String)],
        tries: u32,
        recorder: &Recorder,
    ) -> Option<TopicId> {
        for _ in 0..tries {
            let created = self.try_create(name, partitions, configs).await;
            let exists = matches!(
                created,
                Ok(()) | Err(CallError::Refused(ErrorCode::TopicAlreadyExists))
            );
            if exists && self.refresh(&[name]).await.is_ok() {
                let names = (0..partitions).map(|index| TopicPartition::new(name, index));
                let all = names.into_iter().all(|name| self.leader(&name).is_some());
                let log = self.log_of(&TopicPartition::new(name, 0)).filter(|_| all);
                if let Some(log) = log {
                    let topic = Topic {
                        name: name.to_owned(),
                        partitions,
                        retention: configs.iter().any(|(key, _)| key.starts_with("retention")),
                        compacted: configs.iter().any(|(key, value)| {
                            *key == "cleanup.policy" && value.contains("compact")
                        }),
                        delete_invoked: None,
                    };
                    recorder.with(|history| {
                        history.topics.entry(log.topic).or_insert(topic).partitions
                    });
                    return Some(log.topic);
                }
            }
            sleep(self.config().retry_pause).await;
        }
        None
    }

    async fn try_create(
        &self,
        name: &str,
        partitions: i32,
        configs: &[(&str, String)],
    ) -> Result<(), CallError> {
        let configs = configs.iter().map(|(name, value)| CreatableTopicConfig {
            name: (*name).into(),
            value: Some(value.as_str().into()),
        });
        let request = CreateTopicsRequest {
            topics: vec![CreatableTopic {
                name: name.into(),
                num_partitions: partitions,
                replication_factor: 1,
                configs: configs.collect(),
                ..Default::default()
            }]
            .into(),
            timeout_ms: ADMIN_TIMEOUT_MS,
            ..Default::default()
        };
        let reply = self.call(None, &request).await?;
        let answer = reply.read()?;
        let code = answer.topics.iter().next().map(|topic| topic.error_code);
        CallError::check(code.unwrap_or_default())
    }

    /// Asks for a topic to be deleted, up to `tries` times; returns whether it is.
    pub async fn delete_topic(
        &self,
        name: &str,
        id: TopicId,
        tries: u32,
        recorder: &Recorder,
    ) -> bool {
        let at = recorder.now();
        recorder.with(|history| {
            if let Some(topic) = history.topics.get_mut(&id) {
                topic.delete_invoked.get_or_insert(at);
            }
        });
        for _ in 0..tries {
            match self.try_delete(name).await {
                Ok(()) | Err(CallError::Refused(ErrorCode::UnknownTopicOrPartition)) => {
                    return true;
                }
                Err(_) => sleep(self.config().retry_pause).await,
            }
        }
        false
    }

    async fn try_delete(&self, name: &str) -> Result<(), CallError> {
        let request = DeleteTopicsRequest {
            topics: vec![DeleteTopicState {
                name: Some(name.to_owned().into()),
                ..Default::default()
            }]
            .into(),
            timeout_ms: ADMIN_TIMEOUT_MS,
            ..Default::default()
        };
        let reply = self.call(None, &request).await?;
        let answer = reply.read()?;
        let code = answer.responses.iter().next().map(|topic| topic.error_code);
        CallError::check(code.unwrap_or_default())
    }

    /// Removes the records before an offset.
    ///
    /// # Errors
    /// [`CallError`]: they may be gone or not.
    pub async fn delete_records(
        &self,
        partition: &TopicPartition,
        before: Offset,
        recorder: &Recorder,
    ) -> Result<Offset, CallError> {
        self.find_leaders(std::slice::from_ref(partition)).await;
        let (Some(log), Some(leader)) = (self.log_of(partition), self.leader(partition)) else {
            return Err(CallError::Refused(ErrorCode::LeaderNotAvailable));
        };
        let request = DeleteRecordsRequest {
            topics: vec![DeleteRecordsTopic {
                name: partition.topic.to_string().into(),
                partitions: vec![DeleteRecordsPartition {
                    partition_index: partition.index,
                    offset: before.0,
                }]
                .into(),
            }]
            .into(),
            timeout_ms: ADMIN_TIMEOUT_MS,
        };
        let at = recorder.now();
        let cut = recorder.with(|history| history.cut(log, before, at));
        let reply = self.call(Some(leader), &request).await?;
        let answer = reply.read()?;
        let result = answer
            .topics
            .iter()
            .next()
            .and_then(|topic| topic.partitions.iter().next());
        let Some(result) = result else {
            return Err(CallError::Lost(
                "an answer without the partition".to_owned(),
            ));
        };
        CallError::check(result.error_code)?;
        let log_start = Offset(result.low_watermark);
        let at: Duration = recorder.now();
        recorder.with(|history| history.cut_done(cut, at, log_start));
        Ok(log_start)
    }
}
