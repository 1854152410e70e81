//! Retention: old records go, by age and size or by key, partition by partition.

use std::rc::Rc;
use std::time::Duration;

use streambus_shards::{Instant, now, sleep, wall_ms, yield_if_needed};
use streambus_storage::{CleanPolicy, PartitionKey};

use super::{Led, Shard};

/// How often all partitions are looked at, for what goes by size or by key: a look costs about a microsecond, and what a
/// fast producer writes within minutes may be as much as a disk.
const EVERY: Duration = Duration::from_secs(10);
/// After this long without a write an idempotent producer is forgotten (`producer.id.expiration.ms`).
const PRODUCER_EXPIRATION_MS: i64 = 86_400_000;

/// A jump of the wall clock of at least this is told: smaller ones are the corrections of every day.
const TOLD_FROM: Duration = Duration::from_mins(1);

/// The time by which records age: the wall clock, but never more than twice as fast as time passes.
///
/// A wall clock that jumps ahead would make records old at once that are not, and what is deleted does not
/// come back when the clock is set right. Back it follows at once: that only keeps records longer.
#[derive(Debug, Clone, Copy)]
struct RetentionClock {
    looked: Instant,
    shown_ms: i64,
    /// How far behind the wall clock it is, since a jump that was told.
    behind_ms: i64,
}

impl RetentionClock {
    /// Believes the wall clock as it is: before a first look there is nothing to hold it against.
    fn new(looked: Instant, wall_ms: i64) -> RetentionClock {
        RetentionClock {
            looked,
            shown_ms: wall_ms,
            behind_ms: 0,
        }
    }

    /// What time it is to retention, at a later look.
    fn look(&mut self, now: Instant, wall_ms: i64) -> i64 {
        let passed = now.since(self.looked).as_millis();
        let passed_ms = i64::try_from(passed).unwrap_or(i64::MAX);
        self.looked = now;
        let soonest_ms = self.shown_ms.saturating_add(passed_ms.saturating_mul(2));
        self.shown_ms = wall_ms.min(soonest_ms);
        self.behind_ms = wall_ms.saturating_sub(self.shown_ms);
        self.shown_ms
    }

    /// Whether the wall clock is further ahead than what needs no word.
    fn is_behind(&self) -> bool {
        self.behind_ms >= i64::try_from(TOLD_FROM.as_millis()).unwrap_or(i64::MAX)
    }
}

impl Shard {
    /// Applies retention for ever. By age records go so often only: some are old when they come, and are to be read
    /// before they go (Kafka's `log.retention.check.interval.ms`).
    pub async fn keep_retention(self: Rc<Self>, ages_every: Duration) {
        let mut clock = RetentionClock::new(now(), wall_ms());
        let mut aged = now();
        loop {
            sleep(EVERY.min(ages_every)).await;
            let was_behind = clock.is_behind();
            let now_ms = clock.look(now(), wall_ms());
            if clock.is_behind() && !was_behind {
                tracing::warn!(
                    core = self.core().0,
                    ahead_ms = clock.behind_ms,
                    "the wall clock jumped ahead: retention follows it at twice the speed of time; set the clock right, or restart to have it believed"
                );
            }
            let by_age = now().since(aged) >= ages_every;
            if by_age {
                aged = now();
            }
            self.expire_refusals();
            let keys: Vec<PartitionKey> = self.partitions.borrow().keys().copied().collect();
            for key in keys {
                self.retain(key, now_ms, by_age);
                yield_if_needed().await;
            }
            self.metrics.topics.show_log_bytes();
        }
    }

    /// Applies the retention of one partition's topic, that by age if it is due, and counts what is left.
    fn retain(&self, key: PartitionKey, now_ms: i64, by_age: bool) {
        let mut partitions = self.partitions.borrow_mut();
        let Some(led) = partitions.get_mut(&key) else {
            return;
        };
        apply(led, key, now_ms, by_age);
        led.figures.sized(led.lane.size_bytes(key).unwrap_or(0));
    }
}

/// Applies the retention of one partition's topic.
fn apply(led: &mut Led, key: PartitionKey, now_ms: i64, by_age: bool) {
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
    } else {
        led.lane.clean_no_more(key);
    }
    // Without the delete policy nothing is deleted: compaction alone then bounds the log.
    if !led.settings.deletes() {
        return;
    }
    // Negative means no limit.
    let limit_ms = u64::try_from(led.settings.retention_ms).ok();
    let limit_ms = limit_ms.filter(|_| by_age);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_age_by_the_wall_clock_but_not_by_its_jumps() {
        // Proves the rule at each kind of step: (milliseconds passed, wall clock, time shown, told).
        const HOUR_MS: i64 = 3_600_000;
        let start = now();
        let mut clock = RetentionClock::new(start, 1_000_000);
        let mut at = start;
        let table = [
            (10_000, 1_010_000, 1_010_000, false),
            // Slow and fast clocks are followed.
            (10_000, 1_015_000, 1_015_000, false),
            (10_000, 1_035_000, 1_035_000, false),
            // An hour ahead: twice the time that passed, and no more.
            (10_000, 1_045_000 + HOUR_MS, 1_055_000, true),
            (10_000, 1_055_000 + HOUR_MS, 1_075_000, true),
            // Set right: behind what was shown is fine.
            (10_000, 1_065_000, 1_065_000, false),
            // An hour back: at once.
            (10_000, 1_075_000 - HOUR_MS, 1_075_000 - HOUR_MS, false),
            // A frozen clock stands; when it goes on it is believed as far as time has passed.
            (10_000, 1_075_000 - HOUR_MS, 1_075_000 - HOUR_MS, false),
            (10_000, i64::MAX, 1_095_000 - HOUR_MS, true),
        ];
        for (step, (passed_ms, wall_ms, shown_ms, told)) in table.into_iter().enumerate() {
            at = at + Duration::from_millis(passed_ms);
            assert_eq!(clock.look(at, wall_ms), shown_ms, "step {step}");
            assert_eq!(clock.is_behind(), told, "step {step}");
        }
    }
}
