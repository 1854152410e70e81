//! Topics: those that stay, and some that come and go.

use std::rc::Rc;
use std::time::Duration;

use streambus_client::partition::TopicPartition;

use super::{CREATE_TRIES, Scene};
use crate::client::Client;

/// Topics that come and go, at most.
const PASSING_MAX: u32 = 20;
/// How often a topic that comes or goes is asked for.
const TRIES: u32 = 20;

/// Makes the topics that stay.
pub(super) async fn create_lasting(scene: &Rc<Scene>) -> bool {
    let (host, client) = scene.client();
    let shared = Rc::clone(scene);
    let creating = async move {
        for (number, topic) in shared.mix.topics.iter().enumerate() {
            let name = format!("stays-{number}");
            let created = client
                .create_topic(
                    &name,
                    topic.partitions,
                    &topic.configs,
                    CREATE_TRIES,
                    &shared.recorder,
                )
                .await;
            let Some(id) = created else {
                return false;
            };
            add(&shared, &name, topic.partitions);
            shared.topics.borrow_mut().push((name, id));
        }
        true
    };
    scene.world.spawn_on(host, creating).await
}

fn add(scene: &Scene, name: &str, partitions: i32) {
    let names = (0..partitions).map(|index| TopicPartition::new(name, index));
    scene.partitions.borrow_mut().extend(names);
}

/// Makes and deletes topics.
pub(super) async fn run(scene: Rc<Scene>, client: Rc<Client>, pause: Duration) {
    for number in 0..PASSING_MAX {
        scene.pause(pause).await;
        if scene.over.get() {
            return;
        }
        // Never the same name twice: a producer's retry would go to the next topic of that name.
        let name = format!("passes-{number}");
        let partitions = i32::try_from(scene.work.between(1, 3)).expect("at most 3");
        let created = client
            .create_topic(&name, partitions, &[], TRIES, &scene.recorder)
            .await;
        let Some(id) = created else {
            // It may be there all the same: the next of that name is asked for like any other.
            continue;
        };
        add(&scene, &name, partitions);
        scene.topics.borrow_mut().push((name.clone(), id));
        scene.pause(pause).await;
        scene
            .partitions
            .borrow_mut()
            .retain(|partition| *partition.topic != *name);
        if client.delete_topic(&name, id, TRIES, &scene.recorder).await {
            scene.topics.borrow_mut().retain(|(_, other)| *other != id);
        } else {
            // It may be gone or not.
            return;
        }
    }
}
