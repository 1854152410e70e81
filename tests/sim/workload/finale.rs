//! The end of a seed: all faults are over, everything must work, everything is read once more, then deleted,
//! and the disk must be as empty as the node.

use std::rc::Rc;
use std::time::Duration;

use streambus_client::consumer::Start;
use streambus_client::partition::TopicPartition;
use streambus_proto::ids::Offset;
use streambus_shards::sim::Kill;
use streambus_shards::{Task, now, sleep, timeout};

use super::{Scene, faults};
use crate::checkers::{Breach, disk};
use crate::client::{Client, Reader};
use crate::history::{History, Log, Pass};

/// How long clients work on after healing.
const WORK_ON_MS: (u64, u64) = (200, 1_500);
/// How long what went wrong before the healing may still take to end the node's process.
const SETTLE: Duration = Duration::from_secs(2);
/// How long clients may take to end: the longest is a producer's flush.
const CLIENTS_END: Duration = Duration::from_mins(4);
/// How long the reading of one log may take.
const PASS_LIMIT: Duration = Duration::from_mins(2);
/// The number of the first reader that reads everything.
const PASS_READERS: u32 = 10_000;
/// How long deleted data may stay on the disk: retention and deletion are looked after every ten seconds.
const DISK_LIMIT: Duration = Duration::from_mins(2);
/// How often a topic's deletion is asked for.
const DELETE_TRIES: u32 = 50;
/// Manifests and the metadata's log.
const REST_BYTES_MAX: u64 = 8 << 20;
/// Log files of a lane: those that may be in use, and two spare ones.
const WAL_FILES_MAX: usize = 6 + 2;

/// Ends all faults, lets clients finish, and reads every log once more.
pub(super) async fn read_everything(scene: &Rc<Scene>, tasks: Vec<Task<()>>) -> Result<(), Breach> {
    faults::heal(scene);
    revive(scene).await?;
    sleep(SETTLE).await;
    revive(scene).await?;
    scene.settled.set(true);
    let healed = scene.recorder.now();
    scene.world.note("everything is well again");
    scene.recorder.with(|history| history.healed = Some(healed));
    sleep(scene.work.time(WORK_ON_MS.0, WORK_ON_MS.1)).await;
    scene.over.set(true);
    for task in tasks {
        if timeout(CLIENTS_END, task).await.is_err() {
            return Err(Breach::liveness("a client did not end".to_owned()));
        }
    }
    if scene.trouble.percent(60) {
        // What was acknowledged is on the disk, not only in memory.
        scene.node.kill(Kill::Power);
        revive(scene).await?;
    }
    let (host, client) = scene.client();
    let shared = Rc::clone(scene);
    let reading = async move { read_logs(&shared, &client).await };
    scene.world.spawn_on(host, reading).await;
    Ok(())
}

/// Deletes every topic and waits until the disk is as empty as the node.
pub(super) async fn delete_everything(scene: &Rc<Scene>) -> Vec<Breach> {
    let (host, client) = scene.client();
    let shared = Rc::clone(scene);
    let deleting = async move { delete_topics(&shared, &client).await };
    let left = scene.world.spawn_on(host, deleting).await;
    match left {
        Some(name) => vec![Breach::liveness(format!("{name} could not be deleted"))],
        None => disk_at_rest(scene).await,
    }
}

/// Makes sure that the node serves.
async fn revive(scene: &Rc<Scene>) -> Result<(), Breach> {
    if !scene.node.is_alive() {
        scene.node.start();
    }
    let served = scene.serves().await;
    if served.is_err() && !scene.node.is_alive() && !scene.settled.get() {
        // It was about to end for what went wrong before: the next start has no such reason.
        scene.node.start();
        return scene.serves().await;
    }
    served
}

/// Reads each log that is there from its first offset to its end.
async fn read_logs(scene: &Rc<Scene>, client: &Rc<Client>) {
    let logs: Vec<(Log, String)> = scene.recorder.with(|history| {
        let name = |log: &Log| history.topics[&log.topic].name.clone();
        history.live_logs().map(|log| (log, name(&log))).collect()
    });
    for (number, (log, name)) in (PASS_READERS..).zip(logs) {
        let partition = TopicPartition::new(name, log.partition);
        let mut reader = Reader::new(Rc::clone(client), number, 0, scene.recorder.clone());
        reader.assign(partition.clone(), Start::Earliest);
        let end = now() + PASS_LIMIT;
        while !reader.at_end() && now() < end {
            reader.poll().await;
        }
        if !reader.at_end() || client.log_of(&partition) != Some(log) {
            // Without a pass the log counts as one that could not be read.
            continue;
        }
        let high_watermark = reader.position(&partition).unwrap_or_default();
        scene.recorder.with(|history| {
            let log_start = if history.is_compacted(log) {
                last_told_start(history, log)
            } else {
                first_read(history, log, number)
            };
            let log_start = log_start.unwrap_or(high_watermark);
            history.passes.push(Pass {
                log,
                reader: number,
                log_start,
                high_watermark,
            });
        });
    }
}

/// Where a reader began, the last time that it was sent somewhere: retention may overtake it.
fn first_read(history: &History, log: Log, reader: u32) -> Option<Offset> {
    let mut reads = history
        .reads
        .iter()
        .rev()
        .filter(|read| read.reader == reader && read.log == log);
    reads.find(|read| read.repositioned).map(|read| read.offset)
}

/// The first offset that a log was last said to have; the record there may be compacted away.
fn last_told_start(history: &History, log: Log) -> Option<Offset> {
    let mut sightings = history.sightings.iter().rev();
    sightings.find_map(|told| told.log_start.filter(|_| told.log == log))
}

/// Deletes the topics that are there; returns one that could not be.
async fn delete_topics(scene: &Rc<Scene>, client: &Rc<Client>) -> Option<String> {
    let names: Vec<_> = scene.topics.borrow().clone();
    for (name, id) in names {
        if !client
            .delete_topic(&name, id, DELETE_TRIES, &scene.recorder)
            .await
        {
            return Some(name);
        }
    }
    None
}

/// Waits until the disk holds nothing of deleted topics.
async fn disk_at_rest(scene: &Rc<Scene>) -> Vec<Breach> {
    let allowance = disk::Allowance {
        lanes: scene.mix.node.lanes,
        wal_files_max: WAL_FILES_MAX,
        wal_file_bytes: scene.mix.node.wal_file_bytes,
        empty: true,
        rest_bytes_max: REST_BYTES_MAX,
    };
    let end = now() + DISK_LIMIT;
    loop {
        let breaches = disk::check(&scene.node.files(), allowance);
        if breaches.is_empty() || now() >= end {
            return breaches;
        }
        sleep(Duration::from_secs(1)).await;
    }
}
