//! One core of a node: recovery, service, drain.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use streambus_ops::{CoreMetrics, State, WalMetrics};
use streambus_shards::{
    CoreContext, Queue, halt, now, sleep, spawn, spawn_in, stop_requested, timeout,
};
use streambus_storage::{Lane, Recovery};

use super::NodeError;
use super::listeners::listen;
use super::prepare::{LANE_PREFIX, Start, open_metadata, read_metadata};
use crate::kafka::Broker;
use crate::metadata::log::{MetadataLog, Opened};
use crate::metadata::{Controller, Image, Limits};
use crate::shard::op::{Op, Reply};
use crate::shard::{OpenedLane, Shard, Space, gauge};

/// A core's whole life: recovery, service, drain.
///
/// # Errors
/// [`NodeError::Stopped`] if it had to stop.
pub async fn run_core(start: Arc<Start>, context: CoreContext<Op, Reply>) -> Result<(), NodeError> {
    let core = usize::from(context.core.0);
    let directory = PathBuf::from(&start.config.data.dir);
    start.around.health.set(State::Recovering);
    let leads = core == 0;
    let (image, log) = or_halt(metadata(&start, &directory, leads).await).await;
    let topics_max = start.config.metrics.topics_max;
    let metrics = Rc::new(CoreMetrics::new(&start.around.registry, core, topics_max));
    let lanes = or_halt(open_lanes(&start, core, &image, &metrics.wal).await).await;
    let controller = leads.then(|| Rc::new(Controller::new(Limits::from(&*start.config))));
    let controller_image = leads.then(|| image.clone());
    let space = Space::new(directory, start.config.storage.min_free_bytes);
    let shard = Shard::new(
        context.mesh,
        image,
        lanes,
        controller.clone(),
        metrics,
        space,
    );
    shard.look_at_space();
    spawn(Rc::clone(&shard).serve_mesh()).detach();
    let ages_every = Duration::from_millis(start.config.topics.retention_check_interval_ms);
    let retention = Rc::clone(&shard).keep_retention(ages_every);
    spawn_in(Queue::Background, retention).detach();
    spawn(stop_on_failure(Rc::clone(&shard))).detach();
    spawn(report(Rc::clone(&shard), Arc::clone(&start))).detach();
    if let (Some(controller), Some(image), Some(log)) = (controller, controller_image, log) {
        // The others read the metadata's files too: nothing new is written there before they have.
        shard.await_others().await;
        spawn_in(Queue::Background, Rc::clone(&shard).keep_forgetting()).detach();
        let publisher = Rc::clone(&shard);
        spawn(async move {
            let Err(failed) = controller.run(image, log, &publisher).await else {
                return;
            };
            halt::<()>(&failed.to_string()).await;
        })
        .detach();
    }
    let broker = Broker::new(
        Rc::clone(&shard),
        Arc::clone(&start.config),
        Arc::clone(&start.connections),
    );
    let accepting = or_halt(listen(&start, core, &broker)).await;
    if leads {
        start.around.health.set(State::Ready);
        (start.around.ready)(start.ready());
        spawn(stop_when_asked(Rc::clone(&shard))).detach();
    }
    shard.drain_requested().await;
    drop(accepting);
    start.around.health.set(State::Draining);
    broker.drain();
    let limit = Duration::from_millis(start.config.shutdown.drain_timeout_ms);
    let drained = async {
        broker.all_closed().await;
        // Connections of other cores may still want something of this one.
        shard.await_drained().await;
    };
    if timeout(limit, drained).await.is_err() {
        tracing::warn!(
            core,
            open = broker.open_connections(),
            "connections were cut when the time to drain was up"
        );
    }
    shard.close().await;
    start.around.health.end(core);
    Ok(())
}

/// The value, or the end of the process: a node of which a part did not start must not serve.
async fn or_halt<T>(result: Result<T, String>) -> T {
    match result {
        Ok(value) => value,
        Err(reason) => halt(&reason).await,
    }
}

/// How often a core says that it lives and what it holds, and looks how much the disk has free.
const REPORT_EVERY: Duration = Duration::from_millis(500);

/// Says that this core lives, and what it holds, for ever.
async fn report(shard: Rc<Shard>, start: Arc<Start>) {
    let core = usize::from(shard.core().0);
    let health = &start.around.health;
    loop {
        health.beat(core);
        shard.look_at_space();
        shard.report();
        health.set_troubles(core, shard.troubles());
        sleep(REPORT_EVERY).await;
    }
}

async fn stop_on_failure(shard: Rc<Shard>) {
    let reason = shard.stopped_by().await;
    halt::<()>(&format!(
        "storage failed and nothing is acknowledged any more: {reason}; what was acknowledged is on disk and is verified at the next start"
    ))
    .await;
}

async fn stop_when_asked(shard: Rc<Shard>) {
    stop_requested().await;
    tracing::info!("stopping: finishing what is begun");
    shard.drain_all();
}

/// The metadata, and for the core that leads its log.
async fn metadata(
    start: &Start,
    directory: &Path,
    leads: bool,
) -> Result<(Image, Option<MetadataLog>), String> {
    if leads {
        let opened = open_metadata(directory, start.identity.clone(), &start.config).await;
        let Opened { image, log, .. } = opened.map_err(|error| error.to_string())?;
        return Ok((image, Some(log)));
    }
    // Opening writes, and two that do so make and remove the same files.
    let read = read_metadata(directory, &start.config).await;
    let image = read.map_err(|error| error.to_string())?.ok_or_else(|| {
        let path = directory.display();
        format!("the metadata in {path} was removed during the start; restore it from a copy")
    })?;
    Ok((image, None))
}

/// Opens the core's lanes. What the metadata knows to be in them must be there: a lane that is not found is
/// not begun anew, for its offsets would be given out again.
async fn open_lanes(
    start: &Start,
    core: usize,
    image: &Image,
    figures: &WalMetrics,
) -> Result<Vec<OpenedLane>, String> {
    let mut opened = Vec::new();
    for number in (0..start.identity.lanes).filter(|lane| usize::from(*lane) % start.cores == core)
    {
        let directory = Path::new(&start.config.data.dir).join(format!("{LANE_PREFIX}{number}"));
        let known = image.lane_partitions().get(usize::from(number));
        let known = known.copied().unwrap_or(0);
        if known > 0 && !Lane::is_in(&directory) {
            return Err(format!(
                "lane {number} has {known} partitions, and there is no lane in {}: mount or restore it; should it be lost, `streambus storage repair` begins it anew, empty",
                directory.display()
            ));
        }
        let began = now();
        let (lane, recovery) = Lane::open(&directory, start.config.storage.lane())
            .await
            .map_err(|error| format!("lane {number} can't be opened: {error}"))?;
        let Recovery {
            partitions,
            tables,
            replayed_commits,
            replayed_bytes,
            scanned_bytes,
            replayed_in,
            cut_bytes,
            quarantined,
        } = recovery;
        for found in &partitions {
            let key = found.key;
            let topic = image.topic_by_id(key.topic);
            let place = topic.and_then(|topic| topic.partition(key.index));
            if let Some(place) = place.filter(|place| place.lane != number) {
                return Err(format!(
                    "partition {key} is in {}, and belongs to lane {}: give the directories their own names again",
                    directory.display(),
                    place.lane
                ));
            }
        }
        tracing::info!(
            lane = number,
            partitions = partitions.len(),
            tables,
            replayed_commits,
            replayed_bytes,
            scanned_bytes,
            replayed_ms = millis(replayed_in),
            cut_bytes,
            elapsed_ms = millis(began.elapsed()),
            "a lane is open"
        );
        figures.replayed_bytes.increment(gauge(replayed_bytes));
        figures.cut_bytes.increment(gauge(cut_bytes));
        for file in &quarantined {
            tracing::warn!(
                lane = number,
                file,
                "a file that the lane does not know was moved to quarantine/"
            );
        }
        opened.push(OpenedLane {
            number,
            lane,
            partitions,
        });
    }
    Ok(opened)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
