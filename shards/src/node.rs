//! Starting and ending the cores of a node.

use std::future::Future;
use std::io;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use glommio::{LocalExecutor, LocalExecutorBuilder, Placement};

use crate::heartbeat;
use crate::mesh::{CoreId, Mesh, mesh_seeds};
use crate::ring_memory::patiently;
use crate::spin;
use crate::task::create_queues;
use crate::timers;
use crate::uring::Uring;

/// glommio's registered buffers, which we do not use: the least it takes, since it counts against memlock.
const IO_MEMORY_BYTES: usize = 64 << 10;
/// Entries of each of glommio's rings.
pub(crate) const RING_ENTRIES: u32 = 256;
/// How long a core may run ready tasks before it looks at its rings.
const PREEMPT_AFTER: Duration = Duration::from_millis(5);

/// How many cores, and where.
#[derive(Debug, Clone)]
pub struct NodePlan {
    /// Executors to start.
    pub cores: usize,
    /// Whether to pin each to a CPU. Left out where there are more cores than CPUs.
    pub pin: bool,
    /// How long a core that has nothing to do looks for work before it goes to sleep. Waking a sleeping core takes
    /// tens of microseconds. It looks only where that pays (see `spin`), and not at all unless each core has a
    /// CPU to itself: they would look in each other's time.
    pub spin: Duration,
}

/// What a core knows of itself when it starts.
pub struct CoreContext<Q, R> {
    /// Its number.
    pub core: CoreId,
    /// How many there are.
    pub cores: usize,
    /// Its end of the mesh.
    pub mesh: Mesh<Q, R>,
}

/// Why the cores did not start.
#[derive(Debug, thiserror::Error)]
#[error("core {core} could not start: {reason}")]
pub struct StartFailed {
    /// Which core.
    pub core: usize,
    /// What glommio or the kernel said.
    pub reason: String,
}

impl StartFailed {
    fn new(core: usize, reason: &dyn std::fmt::Display) -> StartFailed {
        StartFailed {
            core,
            reason: reason.to_string(),
        }
    }
}

/// Runs `body` once on each core and returns what they returned, in their order, when all have ended. No body begins
/// unless every core has its executor.
///
/// # Errors
/// [`StartFailed`] if an executor could not be made; nothing has run then.
pub fn run_node<Q, R, T, F>(
    plan: &NodePlan,
    body: impl Fn(CoreContext<Q, R>) -> F + Clone + Send + 'static,
) -> Result<Vec<T>, StartFailed>
where
    Q: Send + 'static,
    R: Send + 'static,
    T: Send + 'static,
    F: Future<Output = T> + 'static,
{
    heartbeat::start();
    let cpus = online_cpus();
    let (started, all_started) = mpsc::channel();
    let mut threads = Vec::new();
    for (core, seed) in mesh_seeds::<Q, R>(plan.cores).into_iter().enumerate() {
        let own_cpus = plan.cores <= cpus.len();
        let (placement, spin) = match cpus.get(core) {
            Some(cpu) if plan.pin && own_cpus => (Placement::Fixed(*cpu), plan.spin),
            _ => (Placement::Unbound, Duration::ZERO),
        };
        let (body, cores, started) = (body.clone(), plan.cores, started.clone());
        let (go, may_go) = mpsc::channel();
        let thread = thread::Builder::new()
            .name(format!("core-{core}"))
            .spawn(move || {
                let executor = executor(&placement)?;
                let told = started.send(());
                drop(started);
                if told.is_err() || may_go.recv().is_err() {
                    // Another core could not start, and says why.
                    return Ok(None);
                }
                Ok(Some(run_on(&executor, spin, async move {
                    let mesh = seed.grow();
                    let (core, end) = (mesh.core(), mesh.clone());
                    let result = body(CoreContext { core, cores, mesh }).await;
                    // Tasks that are left hold the mesh, and nobody runs them any more.
                    end.stop();
                    result
                })))
            })
            .map_err(|failed| StartFailed::new(core, &failed))?;
        threads.push((go, thread));
    }
    drop(started);
    // Ends when each core has told or failed.
    let all = all_started.iter().count() == plan.cores;
    let threads: Vec<_> = threads
        .into_iter()
        .map(|(go, thread)| {
            if all {
                // One that is gone tells why when it is joined.
                let _ = go.send(());
            }
            thread
        })
        .collect();
    let mut results = Vec::new();
    for (core, thread) in threads.into_iter().enumerate() {
        let ended = thread
            .join()
            .map_err(|_| StartFailed::new(core, &"its thread panicked"))?;
        results.extend(ended.map_err(|failed: io::Error| StartFailed::new(core, &failed))?);
    }
    Ok(results)
}

/// Runs one future on an executor of its own, on this thread: for tests and offline tools.
///
/// # Errors
/// [`StartFailed`].
pub fn run_alone<T: 'static>(future: impl Future<Output = T>) -> Result<T, StartFailed> {
    heartbeat::start();
    let executor = executor(&Placement::Unbound).map_err(|failed| StartFailed::new(0, &failed))?;
    Ok(run_on(&executor, Duration::ZERO, future))
}

pub(crate) fn executor(placement: &Placement) -> io::Result<LocalExecutor> {
    patiently(|| {
        LocalExecutorBuilder::new(placement.clone())
            .io_memory(IO_MEMORY_BYTES)
            .ring_depth(RING_ENTRIES as usize)
            .preempt_timer(PREEMPT_AFTER)
            .spin_before_park(Duration::ZERO)
            .make()
            .map_err(io::Error::from)
    })
}

fn run_on<T>(executor: &LocalExecutor, spin: Duration, future: impl Future<Output = T>) -> T {
    executor.run(async {
        create_queues();
        timers::start();
        spin::start(spin);
        heartbeat::join().await;
        let result = future.await;
        spin::end().await;
        timers::end().await;
        Uring::give_up().await;
        // Last: what is awaited above needs an executor that does not sleep over it.
        heartbeat::leave();
        result
    })
}

/// The CPUs this process may run on.
pub fn online_cpus() -> Vec<usize> {
    // SAFETY: an all-zero set is a valid value of the type.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is valid for its size.
    let failed = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) };
    if failed != 0 {
        return vec![0];
    }
    let most = usize::try_from(libc::CPU_SETSIZE).unwrap_or(1_024);
    // SAFETY: the index is below CPU_SETSIZE.
    (0..most)
        .filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &set) })
        .collect()
}

/// Ends the process on any panic, after its message: half a node is worse than none, and what is
/// acknowledged is on disk.
pub fn abort_on_panic() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        before(info);
        std::process::abort();
    }));
}

/// Stops the memory allocator from giving large blocks back to the kernel after each use: they are log
/// memory, and will be wanted again at once.
pub fn keep_large_allocations() {
    // SAFETY: mallopt only sets parameters of the allocator.
    unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 30) };
    // SAFETY: as above.
    unsafe { libc::mallopt(libc::M_TRIM_THRESHOLD, 1 << 30) };
}

/// Gives what the allocator holds free back to the kernel: for when much was in use that will not be wanted
/// again soon. In a thread of its own, for it looks through all of it.
pub fn give_memory_back() {
    let trim = || {
        // SAFETY: malloc_trim has no preconditions.
        unsafe { libc::malloc_trim(0) };
    };
    // Without a thread it stays as it is until the next time.
    let _ = std::thread::Builder::new()
        .name("trim".to_owned())
        .spawn(trim);
}

/// Ends the process with a message and exit code 1: a node of which a part does not work must not
/// serve. Never resolves.
pub async fn halt<T>(reason: &str) -> T {
    #[cfg(any(test, feature = "sim"))]
    if let Some(world) = crate::sim::world::current() {
        world.halt(reason);
        return std::future::pending().await;
    }
    eprintln!("streambus: {reason}");
    std::process::exit(1)
}
