//! Deleting old records: the log's first offset moves, and what is before it leaves the disk.

use std::rc::Rc;
use std::time::Duration;

use streambus_proto::ids::Offset;

use super::Scene;
use crate::client::{Client, Reader};

/// The number of the reader that looks for the end.
const NUMBER: u32 = 901;

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
        // Whether it was done is seen by the log's first offset.
        let _ = client
            .delete_records(&partition, before, &scene.recorder)
            .await;
    }
}
