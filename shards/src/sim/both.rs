//! One test body, run in both worlds.

use std::future::Future;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Simulation, run};
use crate::{disk, run_alone};

/// Runs a test's body once on the real executor and once for each seed in the simulated world, each time with
/// an empty directory of its own. The first seed runs twice and must come to the same trace.
///
/// # Panics
/// If the body panics; for a seed, with the seed in the message.
pub fn in_both_worlds<F>(seeds: Range<u64>, body: impl Fn(PathBuf) -> F)
where
    F: Future<Output = ()> + 'static,
{
    let directory = RealDirectory::new();
    run_alone(body(directory.0.clone())).expect("an executor starts");
    drop(directory);
    let first = seeds.start;
    let mut trace = None;
    for seed in std::iter::once(first).chain(seeds) {
        let report = run(Simulation::new(seed), |world| {
            let host = world.add_host([10, 0, 0, 1].into());
            world.boot(host);
            let directory = PathBuf::from("/data");
            let test = body(directory.clone());
            world.spawn_on(host, async move {
                disk::create_dir_all(&directory).expect("an empty disk has room");
                test.await;
            })
        });
        if let Err(failure) = report.result {
            panic!("seed {seed}: {failure}\n{:#?}", report.notes);
        }
        if seed == first {
            let before = trace.replace(report.trace_hash);
            let same = before.is_none_or(|before| before == report.trace_hash);
            assert!(same, "seed {seed} came to two traces");
        }
    }
}

/// A directory of the real file system, gone when dropped.
struct RealDirectory(PathBuf);

static MADE: AtomicU64 = AtomicU64::new(0);

impl RealDirectory {
    fn new() -> RealDirectory {
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("streambus-test-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).expect("the temporary directory is writable");
        RealDirectory(path)
    }
}

impl Drop for RealDirectory {
    fn drop(&mut self) {
        // Left behind is better than a second panic.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
