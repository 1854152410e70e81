//! The fault table for one node, row by row: what each fault must come to, on the broker that ships.

use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use streambus_shards::sim::Kill;
use streambus_shards::{sleep, spawn};
use streambus_tests::checkers::Rule;
use streambus_tests::cluster::DATA_DIR;

use crate::rig::{Rig, rigged, rigged_with};

const LANE: &str = "/data/lane-0";
const DELIVERY_MS: u64 = 20_000;
const SEEDS: u64 = 8;

/// The lane's write-ahead log files, as they are.
fn wal_files(rig: &Rig) -> Vec<(PathBuf, Vec<u8>)> {
    let disk = rig.world.disk(rig.node.host());
    let files = disk.files().into_iter().map(|(path, _)| path);
    files
        .filter(|path| path.starts_with(LANE) && path.to_string_lossy().contains("wal"))
        .filter_map(|path| Some((path.clone(), disk.read(&path)?)))
        .collect()
}

/// Where the bytes of the first record that was ever produced are.
fn place_of(files: &[(PathBuf, Vec<u8>)], bytes: &[u8]) -> Option<(PathBuf, u64)> {
    files.iter().find_map(|(path, content)| {
        let at = content
            .windows(bytes.len())
            .position(|window| window == bytes)?;
        Some((path.clone(), at as u64))
    })
}

/// Kills the node again and again while records are produced, then reads everything.
fn killed_under_load(how: Kill) {
    for seed in 0..SEEDS {
        rigged(seed, move |rig| async move {
            let killer = Rc::clone(&rig);
            let killing = spawn(async move {
                for _ in 0..6 {
                    let pause = killer
                        .world
                        .below(streambus_shards::sim::Stream::Faults, 60);
                    sleep(Duration::from_millis(5 + pause)).await;
                    killer.node.kill(how);
                    assert_eq!(killer.restart().await, Ok(()));
                }
            });
            let acknowledged = rig.produce(900, DELIVERY_MS).await;
            killing.await;
            assert_eq!(acknowledged, 900, "retries bring every record in");
            rig.node.kill(how);
            assert_eq!(rig.restart().await, Ok(()));
            rig.verify().await;
        });
    }
}

#[test]
fn rows_1_and_2_a_killed_process_loses_nothing_it_acknowledged() {
    // Proves that kills at any poll of a stream of appends, rolls and flushes lose and double nothing.
    killed_under_load(Kill::Process);
}

#[test]
fn rows_3_to_5_a_power_loss_loses_nothing_it_acknowledged() {
    // Proves the same when of all that was not synced an arbitrary part is on the disk.
    killed_under_load(Kill::Power);
}

#[test]
fn row_7_a_flipped_bit_in_the_middle_of_the_log_is_told_and_nothing_is_cut() {
    // Proves that damage before later commits keeps the node from starting, names the file, and changes none.
    for seed in 0..SEEDS {
        rigged(seed, |rig| async move {
            assert_eq!(rig.produce(60, DELIVERY_MS).await, 60);
            rig.node.kill(Kill::Process);
            let value = rig.recorder.with(|history| history.sends[0].value);
            let bytes = streambus_tests::history::payload(value, 1_000);
            let (path, at) =
                place_of(&wal_files(&rig), &bytes).expect("the first record is in the log");
            let disk = rig.world.disk(rig.node.host());
            assert!(disk.rot(&path, at + 500));
            let before = wal_files(&rig);
            let said = rig
                .restart()
                .await
                .expect_err("a damaged log is not served");
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            assert!(said.contains(&name), "{said} names {name}");
            assert_eq!(wal_files(&rig), before, "nothing was cut or removed");
        });
    }
}

#[test]
fn rows_8_and_36_damaged_metadata_or_manifest_keeps_the_node_down_and_deletes_nothing() {
    // Proves that a node which can't know what it holds does not start, and leaves every file where it is.
    for seed in 0..SEEDS {
        for (below, file) in [(DATA_DIR, "metadata/"), (LANE, "manifest")] {
            rigged(seed, move |rig| async move {
                assert_eq!(rig.produce(600, DELIVERY_MS).await, 600);
                rig.node.stop().await;
                let disk = rig.world.disk(rig.node.host());
                let damaged: Vec<PathBuf> = disk
                    .files()
                    .into_iter()
                    .map(|(path, _)| path)
                    .filter(|path| path.starts_with(below))
                    .filter(|path| {
                        let name = path
                            .strip_prefix(below)
                            .unwrap()
                            .to_string_lossy()
                            .to_lowercase();
                        name.starts_with(file) && !name.contains("reserve")
                    })
                    .collect();
                assert!(
                    !damaged.is_empty(),
                    "there is a {file} below {below}: {:?}",
                    disk.files()
                );
                for path in &damaged {
                    // The head of the file: its format, its identity.
                    disk.rot(path, 9);
                }
                let names = |rig: &Rig| -> Vec<PathBuf> {
                    let files = rig.world.disk(rig.node.host()).files();
                    files
                        .into_iter()
                        .map(|(path, _)| path)
                        .filter(|path| !path.ends_with("lock"))
                        .collect()
                };
                let before = names(&rig);
                let said = rig
                    .restart()
                    .await
                    .expect_err("what is damaged is not served");
                assert!(said.contains(file.trim_end_matches('/')), "{said}");
                let after = names(&rig);
                let missing: Vec<_> = before.iter().filter(|path| !after.contains(path)).collect();
                assert!(missing.is_empty(), "gone: {missing:?}");
            });
        }
    }
}

#[test]
fn a_lane_or_the_metadata_that_is_not_there_keeps_the_node_down() {
    // Proves that what the one knows of the other is looked for: a lane whose disk is not mounted is not begun
    // anew at offset 0, lanes without metadata are not taken for nobody's, and lanes that changed places are told.
    for (gone, told) in [(LANE, LANE), ("/data/metadata", "no metadata")] {
        rigged(1, move |rig| async move {
            assert_eq!(rig.produce(60, DELIVERY_MS).await, 60);
            rig.node.stop().await;
            let disk = rig.world.disk(rig.node.host());
            assert!(disk.lose_files(gone) > 0, "there were files in {gone}");
            let before = disk.files();
            let said = rig.restart().await.expect_err("it is not there");
            assert!(said.contains(told), "{said}");
            let made: Vec<_> = disk
                .files()
                .into_iter()
                .filter(|file| !before.contains(file))
                .filter(|(path, _)| path.starts_with(gone))
                .collect();
            assert_eq!(made, [], "nothing was begun");
        });
    }
}

#[test]
fn row_9_a_misdirected_write_is_never_served_as_if_it_were_right() {
    // Proves that a block which landed elsewhere is told from the one that belongs there: on one node the
    // record may be lost, but what is read is what was sent, at its offset.
    for seed in 0..SEEDS {
        rigged(seed, |rig| async move {
            rig.produce(100, DELIVERY_MS).await;
            rig.world.disk(rig.node.host()).misdirect_writes(LANE, 1);
            rig.produce(500, DELIVERY_MS).await;
            rig.node.kill(Kill::Process);
            if let Err(said) = rig.restart().await {
                assert!(said.contains("lane"), "{said}");
                return;
            }
            let _ = rig.read_all(900).await;
            let wrong: Vec<_> = rig
                .breaches()
                .into_iter()
                .filter(|breach| !matches!(breach.rule, Rule::LostWrite | Rule::Vanished))
                .collect();
            assert_eq!(wrong, []);
        });
    }
}

#[test]
fn row_12_a_failed_sync_ends_the_node_before_anything_it_covers_is_acknowledged() {
    // Proves that a sync which fails once and then succeeds is never trusted: the process ends, and what it
    // acknowledged before is there after a power loss.
    for seed in 0..SEEDS {
        rigged(seed, |rig| async move {
            assert_eq!(rig.produce(60, DELIVERY_MS).await, 60);
            rig.world.disk(rig.node.host()).fail_syncs(LANE, 1);
            let acknowledged = rig.produce(60, 2_000).await;
            let said = rig.halted().await.expect("a failed sync ends the process");
            assert!(said.contains("storage failed"), "{said}");
            assert_eq!(acknowledged, 0, "nothing is acknowledged after the failure");
            assert_eq!(rig.restart().await, Ok(()));
            rig.node.kill(Kill::Power);
            assert_eq!(rig.restart().await, Ok(()));
            rig.verify().await;
        });
    }
}

#[test]
fn rows_13_and_14_a_full_disk_refuses_records_serves_readers_and_recovers_by_itself() {
    // Proves that without space nothing is acknowledged or lost, reads and deletion of topics go on, and
    // records are taken again without a restart once there is space.
    for seed in 0..SEEDS {
        rigged(seed, |rig| async move {
            assert_eq!(rig.produce(300, DELIVERY_MS).await, 300);
            let disk = rig.world.disk(rig.node.host());
            disk.set_capacity("/", Some(disk.used_bytes()));
            // What is preallocated still takes some; then it is over.
            rig.produce(1_500, 3_000).await;
            assert_eq!(rig.produce(30, 2_000).await, 0, "a full disk takes nothing");
            assert!(rig.read_all(500).await.is_some(), "reads go on");
            assert!(rig.is_alive(), "{:?}", rig.halted().await);
            disk.set_capacity("/", None);
            sleep(Duration::from_secs(5)).await;
            assert_eq!(rig.produce(300, DELIVERY_MS).await, 300, "space came back");
            rig.node.kill(Kill::Power);
            assert_eq!(rig.restart().await, Ok(()));
            rig.verify().await;
        });
    }
}

#[test]
fn row_15_short_and_interrupted_operations_change_nothing() {
    // Proves that no part of an operation is taken for the whole.
    for seed in 0..SEEDS {
        rigged(seed, |rig| async move {
            let disk = rig.world.disk(rig.node.host());
            disk.shorten_reads("/", 200_000);
            disk.shorten_writes("/", 200_000);
            disk.interrupt("/", 200_000);
            assert_eq!(rig.produce(400, DELIVERY_MS).await, 400);
            rig.node.kill(Kill::Power);
            assert_eq!(rig.restart().await, Ok(()));
            rig.verify().await;
        });
    }
}

#[test]
fn row_20_a_clock_that_jumps_deletes_nothing_early() {
    // Proves that records live as long as retention.ms in the time that passes, whatever the wall clock says
    // meanwhile, and go in the end when the clock is right.
    const MINUTE_MS: i64 = 60_000;
    for seed in 0..SEEDS {
        let configs = vec![("retention.ms", (5 * MINUTE_MS).to_string())];
        rigged_with(seed, configs, |rig| async move {
            assert_eq!(rig.produce(300, DELIVERY_MS).await, 300);
            for skew_ms in [60 * MINUTE_MS, 10_000 * MINUTE_MS, -10 * MINUTE_MS, 0] {
                rig.world.skew_wall_clock(rig.node.host(), skew_ms);
                sleep(Duration::from_mins(1)).await;
                assert_eq!(rig.held().await, 300, "{skew_ms} ms off");
            }
            // Ten minutes behind, retention catches up within another ten.
            sleep(Duration::from_mins(15)).await;
            assert_eq!(rig.held().await, 0, "they have had their time");
        });
    }
}

#[test]
fn row_39_a_panic_on_one_core_ends_the_process_and_loses_nothing() {
    // Proves that no core goes on half alive after a panic of another task.
    for seed in 0..SEEDS {
        rigged(seed, |rig| async move {
            assert_eq!(rig.produce(60, DELIVERY_MS).await, 60);
            let host = rig.node.host();
            rig.world.panic_is_death(host);
            rig.world
                .spawn_on(host, async { panic!("planted") })
                .detach();
            sleep(Duration::from_millis(10)).await;
            assert!(!rig.is_alive());
            assert_eq!(rig.world.panics(host), ["planted"]);
            assert_eq!(rig.restart().await, Ok(()));
            rig.verify().await;
        });
    }
}
