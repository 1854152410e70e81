//! What a core waits for another: the time from a request over the mesh to its reply, one at a time, while both have nothing
//! else to do.
//!
//! `cargo bench -p streambus-perf --bench mesh`

use std::rc::Rc;
use std::time::Duration;

use streambus_shards::sync::Notify;
use streambus_shards::{CoreContext, CoreId, NodePlan, now, run_node, spawn, yield_now};

const ROUNDS: usize = 9;
const ROUND_TRIPS: usize = 20_000;
/// The last request.
const END: usize = usize::MAX;
/// As `node.spin_us` is by default.
const SPIN: Duration = Duration::from_micros(200);

fn main() {
    let plan = NodePlan {
        cores: 2,
        pin: true,
        spin: SPIN,
    };
    let times = run_node(&plan, |context: CoreContext<usize, usize>| async move {
        let CoreContext { core, mesh, .. } = context;
        let (server, ended) = (mesh.clone(), Rc::new(Notify::new()));
        let bell = Rc::clone(&ended);
        spawn(async move {
            let serve = server.serve(move |_, request| {
                if request == END {
                    bell.notify_one();
                }
                async move { request }
            });
            serve.await;
        })
        .detach();
        let mut medians = Vec::new();
        if core == CoreId(0) {
            for _ in 0..ROUNDS {
                let mut times = Vec::with_capacity(ROUND_TRIPS);
                for trip in 0..ROUND_TRIPS {
                    let began = now();
                    assert_eq!(mesh.call(CoreId(1), trip).await, Ok(trip));
                    times.push(began.elapsed());
                }
                times.sort();
                medians.push(times[ROUND_TRIPS / 2]);
            }
            // It may end before it answers.
            let _ = mesh.call(CoreId(1), END).await;
        } else {
            ended.notified().await;
            // Until the reply is out.
            yield_now().await;
        }
        medians
    })
    .expect("two cores start");
    let mut medians = times.concat();
    medians.sort();
    println!(
        "mesh round trip: {:?} ({:?}-{:?}), the median of {ROUND_TRIPS} in each of {ROUNDS} rounds",
        medians[ROUNDS / 2],
        medians[0],
        medians[ROUNDS - 1],
    );
}
