//! Retention: old records go, by age and size or by key, partition by partition.

use std::rc::Rc;
use std::time::Duration;

use streambus_shards::{sleep, wall_ms, yield_if_needed};
use streambus_storage::{CleanPolicy, PartitionKey};

use super::Shard;

/// How often all partitions are looked at (Kafka's `log.retention.check.interval.ms` is five minutes;
/// a look costs about a microsecond here).
const EVERY: Duration = Duration::from_secs(10);
/// After this long without a write an idempotent producer is forgotten (`producer.id.expiration.ms`).
const PRODUCER_EXPIRATION_MS: i64 = 86_400_000;

impl Shard {
    /// Applies retention for ever.
    pub async fn keep_retention(self: Rc<Self>) {
        loop {
            sleep(EVERY).await;
            let keys: Vec<PartitionKey> = self.partitions.borrow().keys().copied().collect();
            for key in keys {
                self.retain(key, wall_ms());
                yield_if_needed().await;
            }
        }
    }

    /// Applies the retention of one partition's topic.
    fn retain(&self, key: PartitionKey, now_ms: i64) {
        let mut partitions = self.partitions.borrow_mut();
        let Some(led) = partitions.get_mut(&key) else {
            return;
        };
        led.partition
            .expire_producers(now_ms - PRODUCER_EXPIRATION_MS);
        if led.settings.compacts() {
            let policy = CleanPolicy {
                min_compaction_lag_ms: led.settings.min_compaction_lag_ms,
                max_compaction_lag_ms: led.settings.max_compaction_lag_ms,
                min_cleanable_dirty_ppm: led.settings.min_cleanable_dirty_ppm,
                delete_retention_ms: led.settings.delete_retention_ms,
            };
            let decided = led.partition.last_stable_offset();
            led.lane.clean(key, policy, decided, now_ms);
        }
        // Without the delete policy nothing is deleted: compaction alone then bounds the log.
        if !led.settings.deletes() {
            return;
        }
        // Negative means no limit.
        let limit_ms = u64::try_from(led.settings.retention_ms).ok();
        let limit_bytes = u64::try_from(led.settings.retention_bytes).ok();
        if let Some(start) = led
            .lane
            .enforce_retention(key, limit_ms, limit_bytes, now_ms)
        {
            let moved = led.partition.advance_log_start(start);
            assert!(
                moved.is_ok(),
                "retention of {key} stops at what is durable, {start}"
            );
        }
    }
}
