//! What the handlers of admin requests need of the core that they run on.

use std::collections::BTreeSet;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

use streambus_proto::ids::{BrokerId, TopicId};

use super::request_memory::Steps;
use crate::metadata::routing::Routing;
use crate::metadata::{Command, Decision, Image, Limits, ManualPartition, Refusal, Submit};
use streambus_proto::error_code::ErrorCode;

/// The core that a request is served on.
pub(crate) trait Host: Submit {
    /// Looks at the core's image. Nothing of it may be held across an `.await`.
    fn image<T>(&self, look: impl FnOnce(&Image) -> T) -> T;

    /// How much metadata there may be.
    fn limits(&self) -> Limits;

    /// A number that chance draws.
    fn random(&self) -> u64;

    /// The broker's log level, as it is configured.
    fn log_level(&self) -> String;
}

/// Draws a topic id. Ids that begin as Kafka's reserved ones (all zeros but the last bits) are
/// never given.
pub(crate) fn draw_topic_id(host: &impl Host) -> TopicId {
    // A bit that is always set keeps the id from being a reserved one.
    let high = host.random() | (1 << 63);
    TopicId((u128::from(high) << 64 | u128::from(host.random())).to_be_bytes())
}

/// How many commands of one request are under way at once: enough that they share syncs, few enough
/// that one client does not fill the controller's queue.
const SUBMITTED_MAX: usize = 256;

/// Decides commands together, answers in their order.
pub(super) async fn submit_all(host: &impl Host, commands: Vec<Command>) -> Vec<Decision> {
    let mut decisions = Vec::with_capacity(commands.len());
    let mut commands = commands.into_iter();
    loop {
        let batch: Vec<_> = commands
            .by_ref()
            .take(SUBMITTED_MAX)
            .map(|command| host.submit(command))
            .collect();
        if batch.is_empty() {
            return decisions;
        }
        decisions.extend(join_all(batch).await);
    }
}

/// Waits for all futures, answers in their order.
async fn join_all<F: Future>(futures: Vec<F>) -> Vec<F::Output> {
    let mut waiting: Vec<Pin<Box<F>>> = futures.into_iter().map(Box::pin).collect();
    let mut done: Vec<Option<F::Output>> = waiting.iter().map(|_| None).collect();
    poll_fn(move |cx| {
        let mut pending = false;
        for (future, output) in waiting.iter_mut().zip(&mut done) {
            if output.is_none() {
                match future.as_mut().poll(cx) {
                    Poll::Ready(value) => *output = Some(value),
                    Poll::Pending => pending = true,
                }
            }
        }
        if pending {
            return Poll::Pending;
        }
        Poll::Ready(done.iter_mut().filter_map(Option::take).collect())
    })
    .await
}

/// Names that stand more than once.
pub(super) async fn duplicates<T: Ord + Clone>(items: impl Iterator<Item = T>) -> BTreeSet<T> {
    let mut steps = Steps::default();
    let (mut seen, mut twice) = (BTreeSet::new(), BTreeSet::new());
    for item in items {
        steps.next().await;
        if !seen.insert(item.clone()) {
            twice.insert(item);
        }
    }
    twice
}

/// Settings that one resource may name in a request: many times what there are.
const SETTINGS_MAX: usize = 1_000;

/// Refuses a resource that names more settings than it can have, before they are looked at.
///
/// # Errors
/// The refusal.
pub(super) fn check_settings(count: usize) -> Result<(), Refusal> {
    if count <= SETTINGS_MAX {
        return Ok(());
    }
    let message = format!(
        "{count} settings are named for one resource, which has far fewer; name each once, \
         {SETTINGS_MAX} at most"
    );
    Err(Refusal::new(ErrorCode::InvalidRequest, message))
}

/// What a client sent, for a message: harmless and short.
pub(super) fn shown(text: &str) -> String {
    const SHOWN_MAX: usize = 249;
    let short: String = text.chars().take(SHOWN_MAX).collect();
    short.escape_default().to_string()
}

/// The places of one partition that a client assigns to brokers of its listener.
///
/// # Errors
/// If no broker has an id.
pub(super) fn manual_partition(
    image: &Image,
    routing: &impl Routing,
    brokers: impl Iterator<Item = i32>,
    turn: usize,
) -> Result<ManualPartition, Refusal> {
    let mut replicas = Vec::new();
    let mut lane = None;
    for broker in brokers {
        let place = routing.place_of(BrokerId(broker)).ok_or_else(|| {
            Refusal::new(
                ErrorCode::InvalidReplicaAssignment,
                format!(
                    "The manual partition assignment includes broker {broker}, but no such broker is registered."
                ),
            )
        })?;
        if replicas.is_empty() {
            lane = lane_of(image, &place.lanes, turn);
        }
        replicas.push(place.node);
    }
    Ok(ManualPartition { replicas, lane })
}

/// The `turn`-th of a core's lanes, the least loaded first.
fn lane_of(image: &Image, lanes: &[u16], turn: usize) -> Option<u16> {
    let mut lanes = lanes.to_vec();
    lanes.sort_by_key(|lane| {
        (
            image
                .lane_partitions()
                .get(usize::from(*lane))
                .copied()
                .unwrap_or(usize::MAX),
            *lane,
        )
    });
    lanes.get(turn % lanes.len().max(1)).copied()
}

#[cfg(test)]
mod tests;
