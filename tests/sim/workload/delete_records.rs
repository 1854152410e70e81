//! Deleting old records: the log's first offset moves, and what is before it leaves the disk.

use std::rc::Rc;
use std::time::Duration;

use streambus_proto::ids::Offset;
use streambus_shards::sim::Kill;

use super::Scene;
use crate::client::{Client, Reader};

/// The number of the reader that looks for the end.
const NUMBER: u32 = 901;
/// How often the power fails on an answer, where it may fail at all.
const POWER_LOSS_PERCENT: u64 = 25;

pub(super) async fn run(scene: Rc<Scene>, client: Rc<Client>, pause: Duration) {
    let reader = Reader::new(Rc::clone(&client), NUMBER, 0, scene.recorder.clone());
    while !scene.over.get() {
        scene.pause(pause).await;
        let Some(partition) = scene.any_partition() else {
            continue;
        };
        client.find_leaders(std::slice::from_ref(&partition)).await;
        let Some(leader) = client.leader(&partition) else {
            continue;
        };
        let Ok(Some(end)) = reader.look_up(leader, &partition, -1).await else {
            continue;
        };
        let before =
            Offset(i64::try_from(scene.work.between(0, end.0.unsigned_abs())).expect("below it"));
        let done = client
            .delete_records(&partition, before, &scene.recorder)
            .await;
        // Commits come many a second, so that what was answered too early is on the disk a moment later:
        // only what ends the node at this very moment shows it.
        if done.is_ok() && scene.may_lose_power() && scene.trouble.percent(POWER_LOSS_PERCENT) {
            scene.node.kill(Kill::Power);
        }
    }
}
