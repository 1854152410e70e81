//! The `ops` thread: admin HTTP, the watch over the cores, and the exporter's upkeep.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use metrics::Counter;
use tokio::{runtime::Runtime, sync::oneshot};

use crate::{
    Health, OpsError, Registry,
    admission::Admission,
    families,
    health::{Change, Watch},
    http::{self, Admin},
    logs::Dropped,
};

/// How often the cores' signs of life are looked at.
const WATCH_EVERY: Duration = Duration::from_millis(500);
/// Watch rounds between two upkeeps of the exporter: five seconds.
const ROUNDS_AN_UPKEEP: u32 = 10;
/// How long a stop waits for admin requests under way.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// Where the admin HTTP listens.
#[derive(Clone, Debug)]
pub struct OpsConfig {
    /// The address; `None` for no HTTP at all. Port 0 lets the system choose.
    pub admin_address: Option<SocketAddr>,
}

/// What the ops thread looks at.
pub struct Handles {
    /// The node's metrics.
    pub registry: Registry,
    /// The node's health.
    pub health: Arc<Health>,
    /// The log's count of dropped lines, where there is a log.
    pub log_lines_dropped: Option<Dropped>,
}

/// The running thread.
pub struct OpsThread {
    admin_address: Option<SocketAddr>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl OpsThread {
    /// Where the admin HTTP listens, with the port the system chose.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin_address
    }

    /// Stops the thread: requests under way get two seconds.
    pub fn stop(mut self) {
        self.stop_and_join();
    }

    fn stop_and_join(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the ops thread had panicked");
        }
    }
}

impl Drop for OpsThread {
    fn drop(&mut self) {
        self.stop_and_join();
    }
}

/// Listens on the admin address and starts the thread.
///
/// # Errors
/// [`OpsError::Bind`] when the address can't be had, [`OpsError::Thread`] when the system refuses
/// the thread. Nothing is left running then.
pub fn start(config: &OpsConfig, handles: Handles) -> Result<OpsThread, OpsError> {
    let listener = config.admin_address.map(bind).transpose()?;
    let admin_address = listener.as_ref().map(|(_, address)| *address);
    let thread_error = |source| OpsError::Thread {
        name: "ops",
        source,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(thread_error)?;
    let (stop, stopped) = oneshot::channel();
    let thread = thread::Builder::new()
        .name("ops".to_owned())
        .spawn(move || {
            run(
                &runtime,
                listener.map(|(listener, _)| listener),
                handles,
                stopped,
            );
        })
        .map_err(thread_error)?;
    Ok(OpsThread {
        admin_address,
        stop: Some(stop),
        thread: Some(thread),
    })
}

/// Binds here, not on the thread, so that the caller gets the error.
fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), OpsError> {
    let bound = || -> io::Result<_> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let local = listener.local_addr()?;
        Ok((listener, local))
    };
    bound().map_err(|source| OpsError::Bind { address, source })
}

fn run(
    runtime: &Runtime,
    listener: Option<TcpListener>,
    handles: Handles,
    stopped: oneshot::Receiver<()>,
) {
    let admin = Arc::new(Admin {
        registry: handles.registry,
        health: handles.health,
        log_lines_dropped: handles.log_lines_dropped,
    });
    runtime.block_on(async {
        let watching = tokio::spawn(watch(admin.clone()));
        let (stop_http, http_stopped) = oneshot::channel();
        let serving = tokio::spawn(serve(listener, admin, http_stopped));
        // An error means that the sender is gone: that is the signal, too.
        let _ = stopped.await;
        watching.abort();
        let _ = stop_http.send(());
        if tokio::time::timeout(STOP_TIMEOUT, serving).await.is_err() {
            tracing::warn!("admin requests under way were cut off");
        }
    });
}

async fn serve(listener: Option<TcpListener>, admin: Arc<Admin>, stopped: oneshot::Receiver<()>) {
    let Some(listener) = listener else { return };
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => Admission::new(listener),
        Err(error) => {
            tracing::error!(%error, "admin HTTP does not listen");
            return;
        }
    };
    let stopped = async {
        let _ = stopped.await;
    };
    let served = axum::serve(listener, http::router(admin))
        .with_graceful_shutdown(stopped)
        .await;
    if let Err(error) = served {
        tracing::error!(%error, "admin HTTP ended");
    }
}

/// Looks after the cores for ever.
async fn watch(admin: Arc<Admin>) {
    let start = Instant::now();
    let mut watch = Watch::new(&admin.health, start.elapsed());
    let stalls: Vec<Counter> = (0..admin.health.cores())
        .map(|core| {
            let core = core.to_string();
            let labels = [("core", core.as_str())];
            admin.registry.counter(families::CORE_STALLS, &labels)
        })
        .collect();
    let mut round = 0_u32;
    loop {
        tokio::time::sleep(WATCH_EVERY).await;
        for change in watch.look(&admin.health, start.elapsed()) {
            match change {
                Change::Stalled(core) => {
                    stalls[core].increment(1);
                    tracing::error!(core, "core gives no sign of life");
                }
                Change::Recovered(core) => tracing::warn!(core, "core moves again"),
            }
        }
        round = round.wrapping_add(1);
        if round.is_multiple_of(ROUNDS_AN_UPKEEP) {
            admin.registry.upkeep();
        }
    }
}

#[cfg(test)]
mod tests;
