//! The disk as the code of a host meets it: time, kills, faults.

use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use crate::buffer::Buf;
use crate::sim::{HostId, Kill, Report, Simulation, World, run};
use crate::{DirLock, DiskError, File, OpenOptions, disk, now, sleep, spawn};

const DATA: &str = "/data";
const CREATE: OpenOptions = super::CREATE;

/// Runs a body with a host whose data directory is there.
fn with_host<T: 'static, F: Future<Output = T> + 'static>(
    seed: u64,
    body: impl FnOnce(World, HostId) -> F + 'static,
) -> Report<T> {
    run(Simulation::new(seed), |world| async move {
        let host = world.add_host([10, 0, 0, 1].into());
        world.disk(host).create_dir_all(DATA);
        world.boot(host);
        body(world, host).await
    })
}

fn bytes(fill: u8, len: usize) -> Buf {
    Buf::from(vec![fill; len])
}

#[test]
fn operations_take_virtual_time_and_act_though_nobody_waits() {
    // Proves that a write takes its time, and happens after its future is dropped.
    let report = with_host(1, |world, host| async move {
        let faults = world.disk(host);
        let on_host = world.spawn_on(host, async move {
            let path = std::path::Path::new("/data/a");
            let file = Rc::new(File::open(path, CREATE).await.unwrap());
            let start = now();
            file.write_at(0, &bytes(1, 512)).await.unwrap();
            assert!((50..250).contains(&start.elapsed().as_micros()));
            let writer = Rc::clone(&file);
            let task = spawn(async move { writer.write_at(0, &bytes(2, 512)).await });
            crate::yield_now().await;
            sleep(Duration::from_micros(5)).await;
            drop(task);
            drop(file);
            assert_eq!(faults.read("/data/a").unwrap()[0], 1, "it is under way");
            sleep(Duration::from_millis(1)).await;
        });
        on_host.await;
        world.disk(host).read("/data/a").unwrap()[0]
    });
    assert_eq!(report.result, Ok(2));
}

#[test]
fn a_dead_process_leaves_what_it_wrote_and_a_power_failure_what_it_synced() {
    // Proves both deaths, that the lock and the descriptors end with a life, and that a handle
    // of an earlier life does nothing in the next.
    for (seed, how) in (0..20).flat_map(|seed| [(seed, Kill::Process), (seed, Kill::Power)]) {
        let report = with_host(seed, move |world, host| async move {
            let first = world.spawn_on(host, async {
                let path = std::path::Path::new("/data/a");
                let lock = DirLock::acquire(std::path::Path::new(DATA)).unwrap();
                let file = File::open(path, CREATE).await.unwrap();
                file.write_at(0, &bytes(1, 512)).await.unwrap();
                file.datasync().await.unwrap();
                disk::sync_dir(std::path::Path::new(DATA)).await.unwrap();
                file.write_at(512, &bytes(2, 512)).await.unwrap();
                (file, lock)
            });
            let (file, lock) = first.await;
            world.kill(host, how);
            assert!(world.disk(host).open_files().is_empty());
            world.boot(host);
            let second = world.spawn_on(host, async move {
                let held = DirLock::acquire(std::path::Path::new(DATA)).unwrap();
                assert!(file.len().is_err(), "the file was opened in another life");
                assert!(file.write_at(0, &bytes(9, 512)).await.is_err());
                drop((file, lock));
                assert!(DirLock::acquire(std::path::Path::new(DATA)).is_err());
                drop(held);
                disk::read_file(std::path::Path::new("/data/a"))
                    .await
                    .unwrap()
            });
            second.await
        });
        let read = report.result.unwrap();
        assert_eq!(read[..512], [1; 512], "seed {seed} {how:?}");
        if how == Kill::Process {
            assert_eq!(read[512..], [2; 512], "seed {seed}");
        }
    }
}

#[test]
fn faults_strike_below_their_path_and_are_noted() {
    // Proves each fault through the shipped file code, that another directory is spared, and that
    // healing ends them.
    let report = with_host(4, |world, host| async move {
        let faults = world.disk(host);
        faults.create_dir_all("/data/bad");
        faults.create_dir_all("/data/good");
        let on_host = world.spawn_on(host, async move {
            let mut files = Vec::new();
            for name in ["/data/bad/a", "/data/good/a"] {
                let path = std::path::Path::new(name);
                files.push(File::open(path, CREATE).await.unwrap());
            }
            let (bad, good) = (&files[0], &files[1]);
            faults.fail_writes("/data/bad", 1_000_000);
            assert!(bad.write_at(0, &bytes(1, 4_096)).await.is_err());
            good.write_at(0, &bytes(1, 4_096)).await.unwrap();
            faults.heal();
            bad.write_at(0, &bytes(1, 4_096)).await.unwrap();
            faults.fail_syncs("/data/bad", 1);
            good.datasync().await.unwrap();
            assert!(bad.datasync().await.is_err());
            bad.datasync().await.unwrap();
            faults.fail_reads("/data/bad", 1_000_000);
            assert!(bad.read_at(0, 1).await.is_err());
            assert_eq!(good.read_at(0, 1).await.unwrap()[0], 1);
            faults.heal();
            faults.set_capacity("/data/bad", Some(4_096));
            let full = bad.write_at(4_096, &bytes(1, 1)).await.unwrap_err();
            assert!(matches!(full, DiskError::NoSpace { .. }), "{full}");
            let space = disk::space(std::path::Path::new("/data/bad")).unwrap();
            assert_eq!(space, (4_096, 0));
            faults.slow("/data/bad", 1_000);
            let start = now();
            bad.datasync().await.unwrap();
            assert!(start.elapsed() >= Duration::from_millis(100));
            assert!(faults.rot("/data/bad/a", 77));
            assert!(!faults.rot("/data/bad/a", 4_096));
            faults.heal();
            let read = bad.read_at(0, 4_096).await.unwrap();
            assert_eq!(read.iter().filter(|byte| **byte != 1).count(), 1);
            assert_ne!(read[77], 1);
            assert!(faults.rot_somewhere("/data/good").is_some());
            assert_eq!(faults.rot_somewhere("/data/none"), None);
        });
        on_host.await;
        assert!(world.disk(host).open_files().is_empty());
    });
    assert_eq!(report.result, Ok(()));
    let notes: Vec<String> = report.notes.into_iter().map(|(_, note)| note).collect();
    for expected in [
        "FailWrite of /data/bad/a",
        "FailSync of",
        "FailRead of",
        "rots",
    ] {
        assert!(
            notes.iter().any(|note| note.contains(expected)),
            "{expected}: {notes:#?}"
        );
    }
}

#[test]
fn a_disk_refuses_names_syncs_and_sectors() {
    // Proves that a name operation which fails does nothing and only below its path, that a sync without space says so,
    // and that a sector is unreadable until it is written over as a whole, or mended.
    let report = with_host(4, |world, host| async move {
        let faults = world.disk(host);
        faults.create_dir_all("/data/bad");
        faults.create_dir_all("/data/good");
        let on_host = world.spawn_on(host, async move {
            let path = std::path::Path::new("/data/bad/a");
            let bad = File::open(path, CREATE).await.unwrap();
            bad.write_at(0, &bytes(1, 4_096)).await.unwrap();
            faults.refuse_syncs("/data/bad", 1);
            let refused = bad.datasync().await.unwrap_err();
            assert!(matches!(refused, DiskError::NoSpace { .. }), "{refused}");
            bad.datasync().await.unwrap();
            faults.fail_names("/data/bad", 1_000_000);
            let elsewhere = std::path::Path::new("/data/good/b");
            assert!(File::open(path, CREATE).await.is_err());
            assert!(disk::rename(path, elsewhere).await.is_err());
            assert!(disk::remove_file(path).await.is_err());
            assert!(bad.allocate(8_192).await.is_err());
            assert_eq!(bad.len().unwrap(), 4_096, "nothing was done");
            File::open(elsewhere, CREATE).await.unwrap();
            faults.heal();
            File::open(path, CREATE).await.unwrap();
            assert!(faults.lose_sector(path, 1_030) && !faults.lose_sector(path, 4_096));
            assert!(bad.read_at(0, 4_096).await.is_err());
            for (position, len) in [(0, 1_024), (1_536, 2_560)] {
                bad.read_at(position, len).await.unwrap();
            }
            bad.write_at(1_024, &bytes(1, 500)).await.unwrap();
            assert!(
                bad.read_at(1_535, 1).await.is_err(),
                "a part of it is as it was"
            );
            bad.write_at(1_024, &bytes(1, 512)).await.unwrap();
            bad.read_at(1_535, 1).await.unwrap();
            assert!(faults.lose_sector(path, 0));
            assert_eq!(faults.mend(), 1);
            bad.read_at(0, 4_096).await.unwrap();
        });
        on_host.await;
    });
    assert_eq!(report.result, Ok(()));
    let notes: Vec<String> = report.notes.into_iter().map(|(_, note)| note).collect();
    for expected in [
        "SyncNoSpace of /data/bad/a",
        "FailName of /data/bad/a",
        "the sector at 1024 of /data/bad/a can't be read",
    ] {
        assert!(
            notes.iter().any(|note| note.contains(expected)),
            "{expected}: {notes:#?}"
        );
    }
}

#[test]
fn a_misdirected_write_damages_exactly_one_other_place() {
    // Proves that the write is missing where it should be, is elsewhere in the directory, once, and
    // that its writer heard of success.
    for seed in 0..20 {
        let report = with_host(seed, |world, host| async move {
            let faults = world.disk(host);
            let on_host = world.spawn_on(host, async move {
                let mut files = Vec::new();
                for name in ["/data/a", "/data/b"] {
                    let path = std::path::Path::new(name);
                    let file = File::open(path, CREATE).await.unwrap();
                    file.write_at(0, &bytes(1, 16_384)).await.unwrap();
                    files.push(file);
                }
                faults.misdirect_writes(DATA, 1);
                files[0].write_at(4_096, &bytes(2, 4_096)).await.unwrap();
                files[0].write_at(16_384, &bytes(3, 4_096)).await.unwrap();
                let (a, b) = (
                    faults.read("/data/a").unwrap(),
                    faults.read("/data/b").unwrap(),
                );
                assert_eq!((a.len(), b.len()), (20_480, 16_384));
                assert_eq!((a[4_096], a[16_384]), (1, 3));
                let twos = |bytes: Vec<u8>| bytes.into_iter().filter(|byte| *byte == 2).count();
                twos(a) + twos(b)
            });
            on_host.await
        });
        assert_eq!(report.result, Ok(4_096), "seed {seed}");
    }
}

#[test]
fn damage_is_mended_unless_it_was_written_over() {
    // Proves that rot and misplaced sectors damage both what is read and what a power failure leaves, and that
    // mending brings back the good bytes, but never over newer ones.
    let report = with_host(1, |world, host| async move {
        let faults = world.disk(host);
        let path = Path::new("/data/a");
        let on_host = world.spawn_on(host, async move {
            let dsync = OpenOptions {
                dsync: true,
                ..CREATE
            };
            let file = File::open(path, dsync).await.unwrap();
            for (page, fill) in [(0, 1), (1, 2), (2, 3)] {
                file.write_at(page * 4_096, &bytes(fill, 4_096))
                    .await
                    .unwrap();
            }
            let short = File::open(Path::new("/data/short"), dsync).await.unwrap();
            short.write_at(0, &bytes(5, 100)).await.unwrap();
            disk::sync_dir(Path::new(DATA)).await.unwrap();
            assert!(faults.misplace((path, 0), (Path::new("/data/short"), 0)));
            assert_eq!(faults.latest_durable_write(path), 8_192);
            assert!(faults.rot(path, 600), "within its length");
            assert!(faults.rot(path, 4_100));
            assert!(faults.misplace((path, 8_192), (path, 0)));
            assert!(
                !faults.misplace((path, 0), (path, 12_288)),
                "beyond its end"
            );
            let read = file.read_at(0, 12_288).await.unwrap();
            assert_eq!((read[0], read[512], read[8_192]), (3, 1, 3));
            assert_ne!((read[600], read[4_100]), (1, 2));
            file.write_at(4_096, &bytes(7, 512)).await.unwrap();
        });
        on_host.await;
        world.kill(host, Kill::Power);
        let faults = world.disk(host);
        assert_eq!(
            faults.read(path).unwrap()[0],
            3,
            "damage outlives the power"
        );
        let mended = faults.mend();
        let read = faults.read(path).unwrap();
        assert!(read[..4_096].iter().all(|byte| *byte == 1), "as it was");
        assert!(
            read[4_096..4_608].iter().all(|byte| *byte == 7),
            "newer bytes stay"
        );
        let short = faults.read("/data/short").unwrap();
        assert_eq!(short, vec![5; 100], "also where a file ends in the sector");
        (mended, faults.mend())
    });
    assert_eq!(report.result, Ok((3, 0)));
}
