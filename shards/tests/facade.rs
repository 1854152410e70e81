//! The facade in the real world: timers, and two cores that talk.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use streambus_shards::{
    CoreContext, CoreId, NodePlan, now, run_alone, run_node, sleep, spawn, timeout,
};

#[test]
fn timeout_ends_waiting_and_not_before() {
    // Proves both outcomes of a timeout.
    run_alone(async {
        let start = now();
        assert!(
            timeout(Duration::from_millis(20), std::future::pending::<()>())
                .await
                .is_err()
        );
        assert!(start.elapsed() >= Duration::from_millis(20));
        assert_eq!(timeout(Duration::from_mins(1), async { 7 }).await, Ok(7));
        sleep(Duration::from_millis(1)).await;
    })
    .unwrap();
}

#[test]
fn cores_flood_each_other_without_deadlock() {
    // Proves the mesh: every request of every core is answered once, with far more under way than
    // the rings hold, in both directions at once; also with more cores than CPUs.
    for cores in [1, 2, 3, 8] {
        let plan = NodePlan {
            cores,
            pin: true,
            spin: Duration::from_micros(50),
        };
        let sums = run_node(&plan, move |context: CoreContext<u64, u64>| async move {
            let CoreContext { core, mesh, .. } = context;
            let server = mesh.clone();
            let serving = spawn(async move {
                server
                    .serve(|from, request| async move {
                        streambus_shards::yield_now().await;
                        request * 2 + u64::from(from.0)
                    })
                    .await;
            });
            let sum = Rc::new(RefCell::new(0_u64));
            let mut tasks = Vec::new();
            for other in (0..cores).filter(|other| *other != usize::from(core.0)) {
                for request in 0..2_000_u64 {
                    let (mesh, sum) = (mesh.clone(), Rc::clone(&sum));
                    let to = CoreId(u16::try_from(other).unwrap());
                    tasks.push(spawn(async move {
                        let reply = mesh.call(to, request).await.unwrap();
                        assert_eq!(reply, request * 2 + u64::from(core.0));
                        *sum.borrow_mut() += 1;
                    }));
                }
            }
            for task in tasks {
                task.await;
            }
            // Others may still ask: serve until they are done too.
            sleep(Duration::from_millis(200)).await;
            drop(serving);
            sum.take()
        })
        .unwrap();
        let expected = 2_000 * u64::try_from(cores - 1).unwrap();
        assert_eq!(sums, vec![expected; cores]);
    }
}
