//! A disk without space: who waits for room learns of it, and all goes on when there is space again.

use std::time::Duration;

use streambus_shards::sim::{self, DiskFaults, Simulation};
use streambus_shards::timeout;

use super::*;

/// Many times what a lane takes to find that there is no space, or that it is back.
const PATIENCE: Duration = Duration::from_mins(1);

/// Appends until the lane refuses for another reason than that it has to flush first.
async fn append_until_refused(lane: &Lane) -> AppendError {
    loop {
        let base = lane.log_end(key(0)).unwrap_or_default();
        match lane.append(key(0), base, LeaderEpoch(0), &batch(1, 5, &[7; 4_000])) {
            Ok(_) => {}
            Err(AppendError::Full) => timeout(PATIENCE, lane.writable())
                .await
                .expect("a wait for room comes to an end"),
            Err(refused) => return refused,
        }
    }
}

async fn without_space(disk: DiskFaults) {
    let (lane, _, _) = started(Path::new("/data/lane"), small()).await;
    append(&lane, key(0), &batch(1, 5, b"before")).await;
    durable(&lane, key(0), Offset(1)).await;
    disk.set_capacity("/data", Some(disk.used_bytes()));
    assert_eq!(append_until_refused(&lane).await, AppendError::NoSpace);
    // Records that give space back wait for it all the same, when even their reserve is used up.
    let moving = || lane.set_log_start(key(0), Offset(1));
    while timeout(PATIENCE, moving()).await.is_ok() {}
    let refused = append_until_refused(&lane).await;
    assert_eq!(refused, AppendError::NoSpace, "nothing came back meanwhile");
    disk.set_capacity("/data", None);
    let moved = timeout(PATIENCE, moving()).await;
    moved.expect("space came back").unwrap();
    let end = append(&lane, key(0), &batch(1, 5, b"after")).await;
    durable(&lane, key(0), end).await;
    lane.close().await.unwrap();
}

#[test]
fn a_wait_for_room_ends_when_there_is_no_space_and_so_no_room_to_come() {
    // Proves that a batch which waits for a full lane is refused when the lane finds no space to flush to, that
    // a control record goes on waiting, and that both are taken once there is space.
    for seed in 0..20 {
        let report = sim::run(Simulation::new(seed), |world| async move {
            let host = world.add_host([10, 0, 0, 1].into());
            let disk = world.disk(host);
            disk.create_dir_all("/data");
            world.boot(host);
            world.spawn_on(host, without_space(disk)).await;
        });
        if let Err(failure) = report.result {
            panic!("seed {seed}: {failure}\n{:#?}", report.notes);
        }
    }
}
