//! The world itself: schedule, time, lives, failures, and that a seed repeats.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;

use super::*;
use crate::sync::Notify;
use crate::{CoreId, Stopped, now, rng_u64, sleep, spawn, spawn_in, timeout, wall_ms, yield_now};

fn address(last: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, last])
}

/// Two cores that flood each other over the mesh, with sleeps between.
async fn flood(context: CoreContext<u64, u64>) -> u64 {
    let CoreContext { core, mesh, .. } = context;
    let server = mesh.clone();
    let serving = spawn(async move {
        server
            .serve(|_, request| async move {
                sleep(Duration::from_micros(rng_u64() % 50)).await;
                request + 1
            })
            .await;
    });
    let sum = Rc::new(Cell::new(0));
    let tasks: Vec<_> = (0..700_u64)
        .map(|request| {
            let (mesh, sum) = (mesh.clone(), Rc::clone(&sum));
            spawn(async move {
                let reply = mesh.call(CoreId(1 - core.0), request).await.unwrap();
                sum.set(sum.get() + reply);
            })
        })
        .collect();
    for task in tasks {
        task.await;
    }
    sleep(Duration::from_secs(1)).await;
    drop(serving);
    sum.get()
}

fn flooded(seed: u64) -> Report<Option<Vec<u64>>> {
    run(Simulation::new(seed), |world| async move {
        let host = world.add_host(address(1));
        world.start(host, 2, flood).ended().await
    })
}

#[test]
fn the_mesh_runs_in_the_world_and_a_seed_repeats() {
    // Proves that two cores of one host work in one thread, that a seed gives one trace, and that
    // seeds differ.
    let mut traces = BTreeSet::new();
    for seed in 0..20 {
        let (first, second) = (flooded(seed), flooded(seed));
        let sum = (1..=700).sum::<u64>();
        assert_eq!(first.result, Ok(Some(vec![sum, sum])), "seed {seed}");
        assert_eq!(first.trace_hash, second.trace_hash, "seed {seed}");
        assert_eq!(first.polls, second.polls, "seed {seed}");
        assert!(first.virtual_time >= Duration::from_secs(1));
        traces.insert(first.trace_hash);
    }
    assert_eq!(traces.len(), 20);
}

#[test]
fn time_is_virtual_and_timers_keep_their_order() {
    // Proves that an hour passes at once, that a timeout ends waiting, and that both clocks move.
    let report = run(Simulation::new(3), |_| async {
        let (start, wall) = (now(), wall_ms());
        let order = Rc::new(RefCell::new(Vec::new()));
        let late = Rc::clone(&order);
        let task = spawn(async move {
            sleep(Duration::from_mins(2)).await;
            late.borrow_mut().push("late");
        });
        sleep(Duration::from_mins(1)).await;
        order.borrow_mut().push("early");
        task.await;
        let waited = timeout(Duration::from_mins(30), std::future::pending::<()>()).await;
        assert!(waited.is_err());
        assert!(start.elapsed() >= Duration::from_mins(32));
        assert!(wall_ms() - wall >= 32 * 60_000);
        order.take()
    });
    assert_eq!(report.result, Ok(vec!["early", "late"]));
}

#[test]
fn a_dropped_task_is_gone_and_a_detached_one_goes_on() {
    // Proves the three ends of a handle: dropped, cancelled, detached.
    let report = run(Simulation::new(5), |_| async {
        let ran = Rc::new(RefCell::new(Vec::new()));
        let mark = |name: &'static str| {
            let ran = Rc::clone(&ran);
            async move {
                sleep(Duration::from_millis(1)).await;
                ran.borrow_mut().push(name);
                name
            }
        };
        drop(spawn(mark("dropped")));
        spawn(mark("detached")).detach();
        let cancelled = spawn_in(Queue::Background, mark("cancelled"));
        yield_now().await;
        assert_eq!(cancelled.cancel().await, None);
        let finished = spawn(mark("finished"));
        sleep(Duration::from_millis(5)).await;
        assert_eq!(finished.cancel().await, Some("finished"));
        let mut ran = ran.take();
        ran.sort_unstable();
        ran
    });
    assert_eq!(report.result, Ok(vec!["detached", "finished"]));
}

/// Counts when it is dropped, and tries to act on its host then.
struct Witness(Rc<Cell<u32>>);

impl Drop for Witness {
    fn drop(&mut self) {
        self.0.set(self.0.get() + 1);
        // What a destructor starts must not run in a life that is over.
        let again = Rc::clone(&self.0);
        spawn(async move { again.set(again.get() + 100) }).detach();
    }
}

#[test]
fn a_killed_host_drops_its_tasks_and_lives_again() {
    // Proves that a kill ends all tasks of the host, those that destructors start too, that who
    // waits for its end is told, and that its next life starts fresh.
    for how in [Kill::Process, Kill::Power] {
        let report = run(Simulation::new(9), move |world| async move {
            let host = world.add_host(address(1));
            let dropped = Rc::new(Cell::new(0));
            let witness = Rc::clone(&dropped);
            let running = world.start(host, 2, move |_: CoreContext<u64, u64>| {
                let witness = Witness(Rc::clone(&witness));
                async move {
                    let _held = witness;
                    std::future::pending::<()>().await;
                }
            });
            sleep(Duration::from_millis(1)).await;
            assert_eq!(world.task_count(host), 2);
            world.kill(host, how);
            assert!(!world.is_alive(host));
            assert_eq!(running.ended().await, None);
            sleep(Duration::from_millis(1)).await;
            assert_eq!((dropped.get(), world.task_count(host)), (2, 0));
            let again = world.start(host, 1, |_: CoreContext<u64, u64>| async { 7 });
            again.ended().await
        });
        assert_eq!(report.result, Ok(Some(vec![7])));
    }
}

#[test]
fn a_panic_ends_the_simulation_or_the_process() {
    // Proves both answers to a panic, and that a process that halts takes its other cores with it.
    let failed = run(Simulation::new(1), |_| async {
        spawn(async { panic!("planted") }).await;
    });
    assert!(
        matches!(&failed.result, Err(Failure::Panicked { message, .. }) if message == "planted"),
        "{failed:?}"
    );
    let died = run(Simulation::new(1), |world| async move {
        let host = world.add_host(address(1));
        world.panic_is_death(host);
        let body = |context: CoreContext<u64, u64>| async move {
            sleep(Duration::from_millis(1)).await;
            assert_eq!(context.core, CoreId(1), "planted");
            std::future::pending::<()>().await;
        };
        assert!(world.start(host, 2, body).ended().await.is_none());
        assert_eq!(world.panics(host).len(), 1);
        let halting = |context: CoreContext<u64, u64>| async move {
            if context.core == CoreId(0) {
                crate::halt::<()>("the disk is gone").await;
            }
            std::future::pending::<()>().await;
        };
        assert!(world.start(host, 2, halting).ended().await.is_none());
        world.halted(host)
    });
    assert_eq!(died.result, Ok(Some("the disk is gone".to_owned())));
}

#[test]
fn a_process_that_is_asked_to_stop_is_told_once_and_not_in_its_next_life() {
    // Proves that the request reaches whoever waits, and ends with the life.
    let report = run(Simulation::new(4), |world| async move {
        let host = world.add_host(address(1));
        let body = |_: CoreContext<u64, u64>| async {
            let asked = timeout(Duration::from_secs(1), crate::stop_requested()).await;
            asked.is_ok()
        };
        let first = world.start(host, 1, body);
        sleep(Duration::from_millis(1)).await;
        world.ask_to_stop(host);
        let first = first.ended().await;
        (first, world.start(host, 1, body).ended().await)
    });
    assert_eq!(report.result, Ok((Some(vec![true]), Some(vec![false]))));
}

#[test]
fn deadlock_livelock_and_endless_work_are_failures() {
    // Proves that a world that can't end is stopped, each in its own way.
    let dead = run(Simulation::new(1), |_| std::future::pending::<()>());
    assert_eq!(dead.result, Err(Failure::Deadlock));
    let simulation = Simulation {
        polls_between_events_max: 1_000,
        ..Simulation::new(1)
    };
    let live = run(simulation, |_| async {
        loop {
            yield_now().await;
        }
    });
    let live: Result<(), Failure> = live.result;
    assert!(matches!(live, Err(Failure::Livelock { .. })), "{live:?}");
    let endless = run(Simulation::new(1), |_| async {
        loop {
            sleep(Duration::from_mins(1)).await;
        }
    });
    let endless: Result<(), Failure> = endless.result;
    assert!(matches!(endless, Err(Failure::TimeUp(_))), "{endless:?}");
}

#[test]
fn a_stalled_core_goes_on_when_stalls_end() {
    // Proves that what was ready on a stalled core runs at the time at which its stall is ended.
    let report = run(Simulation::new(3), |world| async move {
        let host = world.add_host(address(1));
        world.boot(host);
        world.stall(host, 0, Duration::from_secs(2));
        let (stalled, clock) = (world.elapsed(), world.clone());
        let ran_at = world.spawn_on(host, async move { clock.elapsed() });
        sleep(Duration::from_millis(500)).await;
        world.end_stalls(host);
        let ran_after = ran_at.await.saturating_sub(stalled);
        assert!(
            ran_after >= Duration::from_millis(500) && ran_after < Duration::from_millis(510),
            "{ran_after:?}"
        );
    });
    assert_eq!(report.result, Ok(()));
}

#[test]
fn a_stalled_core_waits_and_a_skewed_clock_jumps() {
    // Proves that a stall holds one core only, and that a wall clock may jump while order holds.
    let report = run(Simulation::new(2), |world| async move {
        let host = world.add_host(address(1));
        let done = Rc::new(RefCell::new(Vec::new()));
        let bell = Rc::new(Notify::new());
        let (told, rung) = (Rc::clone(&done), Rc::clone(&bell));
        let running = world.start(host, 2, move |context: CoreContext<u64, u64>| {
            let (told, rung) = (Rc::clone(&told), Rc::clone(&rung));
            async move {
                rung.notified().await;
                told.borrow_mut().push((context.core, now(), wall_ms()));
            }
        });
        sleep(Duration::from_millis(1)).await;
        world.stall(host, 0, Duration::from_secs(2));
        world.skew_wall_clock(host, -3_600_000);
        let wall = wall_ms();
        bell.notify_all();
        running.ended().await;
        let done = done.take();
        assert_eq!((done[0].0, done[1].0), (CoreId(1), CoreId(0)));
        assert!(done[1].1.since(done[0].1) >= Duration::from_millis(1_990));
        assert!(wall - done[0].2 >= 3_590_000, "{} {}", wall, done[0].2);
    });
    assert_eq!(report.result, Ok(()));
}

#[test]
fn calls_to_a_core_that_has_ended_fail_and_none_hangs() {
    // Proves that a core which serves no more fails what it was asked before and did not answer, those that wait for a
    // place, and what it is asked afterwards, and that what it answered before it ended arrives.
    const ASKED: u64 = 600;
    for seed in 0..20 {
        let report = run(Simulation::new(seed), |world| async move {
            let host = world.add_host(address(1));
            let body = |context: CoreContext<u64, u64>| async move {
                let CoreContext { core, mesh, .. } = context;
                let server = mesh.clone();
                let serving = spawn(async move {
                    let answer = |_, request: u64| async move {
                        if request > 0 {
                            std::future::pending::<()>().await;
                        }
                        request
                    };
                    server.serve(answer).await;
                });
                if core == CoreId(1) {
                    sleep(Duration::from_millis(1 + rng_u64() % 3)).await;
                    drop(serving);
                    return 0;
                }
                let first = mesh.call(CoreId(1), 0).await;
                assert_eq!(first, Ok(0));
                let calls = (1..=ASKED).map(|request| {
                    let mesh = mesh.clone();
                    spawn(async move { mesh.call(CoreId(1), request).await })
                });
                let calls: Vec<_> = calls.collect();
                let mut failed = 0;
                for call in calls {
                    failed += u64::from(call.await == Err(Stopped(CoreId(1))));
                }
                let late = timeout(Duration::from_secs(1), mesh.call(CoreId(1), 0)).await;
                assert_eq!(late.ok(), Some(Err(Stopped(CoreId(1)))));
                failed
            };
            world.start(host, 2, body).ended().await
        });
        assert_eq!(report.result, Ok(Some(vec![ASKED, 0])), "seed {seed}");
    }
}
