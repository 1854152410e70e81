//! Accepting connections, within the limits.

use std::rc::Rc;
use std::time::Duration;

use streambus_ops::RefusalReason;
use streambus_shards::{Listener, Stream, sleep, spawn};

use super::broker::Broker;
use super::connection::{self, Ended};
use super::connection_limits::Refused;
use super::dispatch::Refused::Unanswered;
use super::listener::{ListenerPlan, View};

/// How long to wait when the process has no descriptor left for a connection.
const OUT_OF_DESCRIPTORS_PAUSE: Duration = Duration::from_millis(100);

/// Accepts for ever.
pub async fn accept(broker: Rc<Broker>, listener: Listener, plan: Rc<ListenerPlan>) {
    loop {
        match listener.accept().await {
            Ok(stream) => admit(&broker, stream, &plan),
            Err(failed) => {
                tracing::warn!(listener = plan.name, error = %failed, "a connection was not accepted");
                sleep(OUT_OF_DESCRIPTORS_PAUSE).await;
            }
        }
    }
}

/// Serves a connection in a task of its own, or drops it.
fn admit(broker: &Rc<Broker>, stream: Stream, plan: &Rc<ListenerPlan>) {
    // Both fail only for a client that has gone already.
    let (Ok(peer), Ok(local)) = (stream.peer_addr(), stream.local_addr()) else {
        return;
    };
    let admitted = match broker.connections.admit(peer.ip()) {
        Ok(admitted) => admitted,
        Err(refused) => {
            broker.shard.metrics().connections.refused(match refused {
                Refused::Node => RefusalReason::Total,
                Refused::Address => RefusalReason::PerIp,
            });
            tracing::debug!(%peer, ?refused, "a connection was refused");
            return;
        }
    };
    let view = View::new(plan, local.ip(), broker.shard.core().0);
    let broker = Rc::clone(broker);
    spawn(async move {
        broker.opened();
        let figures = &broker.shard.metrics().connections;
        figures.accepted.increment(1);
        figures.open.increment(1.0);
        let ended = connection::serve(Rc::clone(&broker), stream, view).await;
        figures.open.decrement(1.0);
        drop(admitted);
        broker.closed();
        match &ended {
            Ended::Idle(_) => figures.refused(RefusalReason::Idle),
            Ended::SlowRequest(_) => figures.refused(RefusalReason::SlowRequest),
            Ended::Closed
            | Ended::Draining
            | Ended::Socket(_)
            | Ended::Refused(Unanswered { .. }) => {}
            Ended::Frame(_) | Ended::Refused(_) => figures.refused(RefusalReason::BadFrame),
        }
        match ended {
            Ended::Refused(Unanswered { .. }) => {
                tracing::info!(%peer, reason = %ended, "a connection was closed");
            }
            Ended::Frame(_) | Ended::Refused(_) => {
                tracing::warn!(%peer, reason = %ended, "a connection was closed");
            }
            _ => tracing::debug!(%peer, reason = %ended, "a connection ended"),
        }
    })
    .detach();
}
