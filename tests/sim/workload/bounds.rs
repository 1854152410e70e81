//! Looking at where logs begin and end.

use std::rc::Rc;
use std::time::Duration;

use super::Scene;
use crate::client::{Client, Reader};

/// The number of the reader that only looks.
const NUMBER: u32 = 900;

pub(super) async fn run(scene: Rc<Scene>, client: Rc<Client>, pause: Duration) {
    let reader = Reader::new(Rc::clone(&client), NUMBER, 0, scene.recorder.clone());
    while !scene.over.get() {
        scene.pause(pause).await;
        let Some(partition) = scene.any_partition() else {
            continue;
        };
        client.find_leaders(std::slice::from_ref(&partition)).await;
        if let Some(leader) = client.leader(&partition) {
            let timestamp = *scene.work.one_of(&[-1, -2]);
            // A refusal or a lost connection says nothing of the log.
            let _ = reader.look_up(leader, &partition, timestamp).await;
        }
    }
}
