//! What goes wrong while clients work, drawn one by one; and somebody who starts the node again.

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use streambus_shards::sim::{DiskFaults, Kill};
use streambus_shards::{Task, now, sleep, spawn, timeout};

use super::{Scene, decay};
use crate::cluster::{DATA_DIR, Node};
use crate::swarm::{FaultKind, MIN_FREE_BYTES};

/// What a panic of ours says.
pub(crate) const PANIC: &str = "a panic that the simulator asked for";
/// How far a wall clock jumps, at most.
const CLOCK_JUMP_MS: u64 = 3_600_000;
/// How long a stop may take: drain, and the last commit on a slow disk.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// Faults of one seed, at most.
const FAULTS_MAX: u32 = 200;

/// Has faults happen for the length of the seed's work.
pub(super) async fn run(scene: &Rc<Scene>) {
    let end = now() + scene.mix.length;
    let passing = Passing::default();
    let short_io = scene.mix.faults.short_io_per_million;
    let disk = scene.world.disk(scene.node.host());
    disk.shorten_reads("/", short_io);
    disk.shorten_writes("/", short_io);
    disk.interrupt("/", short_io);
    for _ in 0..FAULTS_MAX {
        let longest = u64::try_from(scene.mix.faults.pause_max.as_nanos()).unwrap_or(u64::MAX);
        let pause = Duration::from_nanos(scene.trouble.between(1, longest));
        let left = end.since(now());
        sleep(pause.min(left)).await;
        if !scene.node.is_alive() {
            restart(scene).await;
        }
        if now() >= end {
            break;
        }
        if !scene.mix.faults.kinds.is_empty() {
            let kind = *scene.trouble.one_of(&scene.mix.faults.kinds);
            happen(scene, kind, &passing).await;
        }
    }
    drop(passing);
}

/// Faults that end by themselves after a while, unless all end before.
#[derive(Default)]
struct Passing(RefCell<Vec<Task<()>>>);

impl Passing {
    fn undo_after(&self, scene: &Rc<Scene>, undo: impl FnOnce(&Scene) + 'static) {
        let after = scene.trouble.time(50, 2_000);
        let scene = Rc::clone(scene);
        let task = spawn(async move {
            sleep(after).await;
            undo(&scene);
        });
        self.0.borrow_mut().push(task);
    }
}

/// Starts the node again after a while. It may fail to start for a fault that still holds: somebody tries
/// again later.
async fn restart(scene: &Rc<Scene>) {
    sleep(scene.trouble.time(
        0,
        u64::try_from(scene.mix.faults.down_max.as_millis()).unwrap_or(0),
    ))
    .await;
    let cores = if scene.mix.cores_change {
        scene.trouble.count(1, 3)
    } else {
        scene.mix.node.cores
    };
    scene.node.configure(|config| config.node.cores = cores);
    scene.node.start();
    if scene.trouble.percent(80) {
        // It may end again for a fault that still holds.
        let _ = scene.serves().await;
    }
}

async fn happen(scene: &Rc<Scene>, kind: FaultKind, passing: &Passing) {
    let (world, host) = (&scene.world, scene.node.host());
    let disk = world.disk(host);
    let lane = Node::lane_dir(scene.trouble.count(0, scene.mix.node.lanes - 1));
    let under = if scene.trouble.percent(50) {
        lane
    } else {
        DATA_DIR.into()
    };
    match kind {
        FaultKind::KillProcess => scene.node.kill(Kill::Process),
        FaultKind::KillPower => scene.node.kill(Kill::Power),
        FaultKind::Stop => {
            // One that can't stop for another fault is killed.
            if timeout(STOP_LIMIT, scene.node.stop()).await.is_err() {
                scene.node.kill(Kill::Process);
            }
        }
        FaultKind::Panic => {
            if scene.node.is_alive() {
                let panic = world.spawn_on(host, async { panic!("{PANIC}") });
                panic.detach();
            }
        }
        FaultKind::FailSync => disk.fail_syncs(&under, 1),
        FaultKind::FailWrites => often(scene, passing, under, DiskFaults::fail_writes),
        FaultKind::FailReads => often(scene, passing, under, DiskFaults::fail_reads),
        FaultKind::FailNames => often(scene, passing, under, DiskFaults::fail_names),
        FaultKind::NoSpace => {
            let room = disk.used_bytes() + scene.trouble.between(0, 2 * MIN_FREE_BYTES);
            disk.set_capacity("/", Some(room));
            passing.undo_after(scene, |scene| {
                scene.world.disk(scene.node.host()).set_capacity("/", None);
            });
        }
        FaultKind::SlowDisk => {
            disk.slow(&under, scene.trouble.between(5, 200));
            passing.undo_after(scene, move |scene| {
                scene.world.disk(scene.node.host()).slow(&under, 1);
            });
        }
        FaultKind::Stall => {
            let core = u16::try_from(scene.trouble.count(0, scene.node.cores() - 1));
            let core = core.expect("few cores");
            world.stall(host, core, scene.trouble.time(1, 2_500));
        }
        FaultKind::Clock => world.skew_wall_clock(host, clock_jump_ms(scene)),
        FaultKind::SyncNoSpace => disk.refuse_syncs(&under, 1),
        FaultKind::Rot | FaultKind::Misplace | FaultKind::Unreadable => {
            decay::happen(scene, kind);
            passing.undo_after(scene, decay::mend);
        }
        FaultKind::Reset
        | FaultKind::HalfOpen
        | FaultKind::Partition
        | FaultKind::Loss
        | FaultKind::TinyChunks => network(scene, kind, passing),
    }
}

/// Has one operation in five fail for a while.
fn often(
    scene: &Rc<Scene>,
    passing: &Passing,
    under: PathBuf,
    fail: fn(&DiskFaults, PathBuf, u32),
) {
    fail(&scene.world.disk(scene.node.host()), under.clone(), 200_000);
    passing.undo_after(scene, move |scene| {
        fail(&scene.world.disk(scene.node.host()), under, 0);
    });
}

fn clock_jump_ms(scene: &Scene) -> i64 {
    let ms = |ms| i64::try_from(ms).expect("two hours");
    ms(scene.trouble.between(0, 2 * CLOCK_JUMP_MS)) - ms(CLOCK_JUMP_MS)
}

fn network(scene: &Rc<Scene>, kind: FaultKind, passing: &Passing) {
    let (node, network) = (scene.node.host(), scene.world.network());
    let clients: Vec<_> = scene.client_hosts().collect();
    let client = *scene.trouble.one_of(&clients);
    match kind {
        FaultKind::Reset => drop(network.reset_one(node, client)),
        FaultKind::HalfOpen => drop(network.half_open(node, client)),
        FaultKind::Partition => {
            match scene.trouble.between(0, 3) {
                0 => network.block(node, client),
                1 => network.block(client, node),
                2 => network.flap(
                    node,
                    client,
                    scene.trouble.time(10, 500),
                    scene.trouble.time(100, 2_000),
                ),
                _ => network.partition(node, client),
            }
            passing.undo_after(scene, move |scene| scene.world.network().heal(node, client));
        }
        FaultKind::Loss => {
            let lost =
                u32::try_from(scene.trouble.between(1_000, 300_000)).expect("below a million");
            network.lose(node, client, lost);
            network.slow(
                node,
                client,
                u32::try_from(scene.trouble.between(1, 50)).expect("at most 50"),
            );
            passing.undo_after(scene, move |scene| scene.world.network().heal(node, client));
        }
        _ => {
            network.tiny_chunks(client, true);
            passing.undo_after(scene, move |scene| {
                scene.world.network().tiny_chunks(client, false);
            });
        }
    }
}

/// Ends every fault.
pub(super) fn heal(scene: &Scene) {
    scene.healed.set(true);
    let host = scene.node.host();
    let network = scene.world.network();
    network.heal_all();
    for client in scene.client_hosts() {
        network.tiny_chunks(client, false);
    }
    decay::mend(scene);
    let disk = scene.world.disk(host);
    disk.heal();
    disk.set_capacity("/", None);
    for lane in 0..scene.mix.node.lanes {
        disk.slow(Node::lane_dir(lane), 1);
    }
    disk.slow(DATA_DIR, 1);
    scene.world.skew_wall_clock(host, 0);
    scene.world.end_stalls(host);
}
