//! Producing: bursts of records to partitions of all topics, with every kind of acknowledgement, and with
//! retries that the broker can or can't tell from new records.

use std::rc::Rc;
use std::time::Duration;

use streambus_client::producer::ProducerConfig;

use super::Scene;
use crate::client::{Client, ProducerPlan, ProducerTask};
use crate::swarm::ProducerMix;

/// Sends of one producer, at most: bounds a seed's memory and time.
const SENDS_MAX: u32 = 3_000;
/// How long a producer may take to end what it has begun: beyond its own delivery timeout.
const FLUSH_LIMIT: Duration = Duration::from_mins(2);
/// How long a producer tries.
const DELIVERY_TIMEOUT_MS: u64 = 30_000;

pub(super) async fn run(scene: Rc<Scene>, client: Rc<Client>, number: u32, mix: ProducerMix) {
    let config = ProducerConfig {
        idempotent: mix.idempotent,
        batch_bytes_max: 8 << 10,
        linger_ms: scene.work.between(0, 10),
        delivery_timeout_ms: DELIVERY_TIMEOUT_MS,
        ..ProducerConfig::default()
    };
    let plan = ProducerPlan {
        number,
        acks: mix.acks,
        config,
    };
    let producer = ProducerTask::new(Rc::clone(&client), plan, scene.recorder.clone());
    let mut left = SENDS_MAX;
    while !scene.over.get() && left > 0 {
        for _ in 0..scene.work.count(1, mix.burst_max) {
            let Some(to) = scene.any_partition() else {
                break;
            };
            if client.log_of(&to).is_none() {
                client.find_leaders(std::slice::from_ref(&to)).await;
            }
            let bytes = scene.work.count(8, mix.record_bytes_max);
            left -= u32::from(producer.send(&to, bytes)).min(left);
        }
        scene.pause(mix.pause_max).await;
    }
    producer.flush(FLUSH_LIMIT).await;
}
