//! Fetching: readers that follow some partitions, and sometimes begin anew.

use std::rc::Rc;

use streambus_client::consumer::Start;

use super::Scene;
use crate::client::{Client, Reader};

/// Partitions of one reader, at most.
const PARTITIONS_MAX: usize = 4;
/// How often of a hundred polls a reader goes elsewhere.
const MOVES_PERCENT: u64 = 5;

pub(super) async fn run(scene: Rc<Scene>, client: Rc<Client>, number: u32) {
    let wait_ms = i32::try_from(scene.work.between(0, 500)).expect("a small number");
    let mut reader = Reader::new(client, number, wait_ms, scene.recorder.clone());
    while !scene.over.get() {
        if reader.partitions().count() == 0 || scene.work.percent(MOVES_PERCENT) {
            let gone: Vec<_> = reader.partitions().cloned().collect();
            for partition in gone {
                reader.unassign(&partition);
            }
            for _ in 0..scene.work.count(1, PARTITIONS_MAX) {
                let Some(partition) = scene.any_partition() else {
                    break;
                };
                let start = *scene
                    .work
                    .one_of(&[Start::Earliest, Start::Earliest, Start::Latest]);
                reader.assign(partition, start);
            }
        }
        if reader.poll().await == 0 {
            scene.pause(std::time::Duration::from_millis(20)).await;
        }
    }
}
