//! What an executor leaves behind, in a process where nobody else has one.

use std::fs;
use std::time::{Duration, Instant};

use streambus_shards::{CoreContext, NodePlan, disk, run_alone, run_node};

/// Rings that this process has open.
fn rings() -> usize {
    let open = fs::read_dir("/proc/self/fd").expect("procfs").flatten();
    open.filter_map(|fd| fs::read_link(fd.path()).ok())
        .filter(|target| target.to_string_lossy().contains("io_uring"))
        .count()
}

#[test]
fn an_executor_that_has_ended_holds_no_rings() {
    // Proves that neither an executor alone nor those of a node keep rings, or the memory that those lock, once
    // they have ended: a node looks at its metadata in one, and then serves in others.
    let home = tempfile::tempdir().unwrap();
    let some = home.path().join("some");
    let at_work = run_alone(async {
        disk::make_dir_all(&some).await.unwrap();
        rings()
    });
    assert!(at_work.unwrap() >= 4, "its three, and the one for files");
    let plan = NodePlan {
        cores: 2,
        pin: false,
        spin: Duration::ZERO,
    };
    let body = move |context: CoreContext<(), ()>| {
        let dir = some.join(context.core.0.to_string());
        async move { disk::make_dir_all(&dir).await.is_ok() }
    };
    assert_eq!(run_node(&plan, body).unwrap(), [true, true]);
    // A ring goes when the thread that had it has ended, which may be a moment after it was joined.
    let end = Instant::now() + Duration::from_secs(10);
    while rings() > 0 {
        assert!(Instant::now() < end, "{} rings are left", rings());
        std::thread::yield_now();
    }
}
