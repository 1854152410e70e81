//! Files through the facade, in both worlds.

use std::future::Future;
use std::path::PathBuf;
use std::rc::Rc;

use super::*;
use crate::sim::{Simulation, World, run};
use crate::{DirLock, LockError, now, run_alone, spawn, yield_now};

/// Runs a body on the kernel's files, and in the simulated world from twenty seeds, where transfers are
/// cut short and interrupted. It gets an empty directory.
fn in_both_worlds<F: Future<Output = ()> + 'static>(body: impl Fn(PathBuf) -> F) {
    let directory = tempfile::tempdir().unwrap();
    run_alone(body(directory.path().to_path_buf())).unwrap();
    for seed in 0..20 {
        let report = run(Simulation::new(seed), |world: World| {
            let host = world.add_host([10, 0, 0, 1].into());
            let disk = world.disk(host);
            disk.create_dir_all("/data/test");
            disk.shorten_reads("/", 200_000);
            disk.shorten_writes("/", 200_000);
            disk.interrupt("/", 100_000);
            world.boot(host);
            let ran = world.spawn_on(host, body(PathBuf::from("/data/test")));
            async move {
                ran.await;
                assert!(disk.open_files().is_empty(), "{:?}", disk.open_files());
            }
        });
        assert_eq!(report.result, Ok(()), "seed {seed}");
    }
}

const READ: OpenOptions = OpenOptions {
    write: false,
    create: false,
    create_new: false,
    direct: false,
    dsync: false,
};
const CREATE: OpenOptions = OpenOptions {
    write: true,
    create: true,
    ..READ
};

#[test]
fn a_write_with_its_sync_takes_all_bytes() {
    // Proves that a write which is cut short or interrupted is finished, and that the next one follows it.
    in_both_worlds(|directory| async move {
        let path = directory.join("file");
        let file = File::open(&path, CREATE).await.unwrap();
        for round in 0..10_u8 {
            let mut filling = BufMut::with_capacity(64 << 10);
            filling.extend_from_slice(&vec![round + 1; 64 << 10]);
            let at = u64::from(round) * (64 << 10);
            file.write_synced(at, &filling.freeze()).await.unwrap();
        }
        let read = file.read_at(0, 640 << 10).await.unwrap();
        for (round, piece) in (0..10_u8).zip(read.chunks(64 << 10)) {
            assert!(piece.iter().all(|byte| *byte == round + 1), "round {round}");
        }
    });
}

#[test]
fn more_operations_than_a_core_may_have_wait_their_turn() {
    // Proves that those that want one place and those that want two of the core's ring all get them in the end.
    in_both_worlds(|directory| async move {
        let path = directory.join("file");
        let file = Rc::new(File::open(&path, CREATE).await.unwrap());
        let mut tasks = Vec::new();
        for number in 0..900_u64 {
            let file = Rc::clone(&file);
            tasks.push(spawn(async move {
                let mut filling = BufMut::with_capacity(8);
                filling.extend_from_slice(&number.to_le_bytes());
                let (at, bytes) = (number * 8, filling.freeze());
                if number % 3 == 0 {
                    file.write_synced(at, &bytes).await.unwrap();
                } else {
                    file.write_at(at, &bytes).await.unwrap();
                }
            }));
        }
        for task in tasks {
            task.await;
        }
        let read = file.read_at(0, 7_200).await.unwrap();
        for (number, bytes) in (0..900_u64).zip(read.chunks(8)) {
            assert_eq!(bytes, number.to_le_bytes());
        }
    });
}

#[test]
fn files_write_sync_read_and_report_their_end() {
    // Proves the file path: direct durable writes, reads across pieces, a short read as an error.
    in_both_worlds(|directory| async move {
        let path = directory.join("file");
        let options = OpenOptions {
            direct: true,
            dsync: true,
            ..CREATE
        };
        let file = File::open(&path, options).await.unwrap();
        file.allocate(2 << 20).await.unwrap();
        let mut filling = BufMut::with_capacity(1 << 20);
        for byte in 0..=255_u8 {
            filling.extend_from_slice(&[byte; 4_096]);
        }
        let bytes = filling.freeze();
        file.write_at(4_096, &bytes).await.unwrap();
        file.datasync().await.unwrap();
        let read = file.read_at(4_096, 1 << 20).await.unwrap();
        assert!(read[..] == bytes[..], "every byte came back");
        let short = file.read_at(1 << 20, 2 << 20).await.unwrap_err();
        assert!(
            matches!(short, DiskError::Short { got, .. } if got == 1 << 20),
            "{short}"
        );
    });
}

#[test]
fn a_read_asks_the_disk_for_a_piece_at_a_time() {
    // Proves that the caller's bound on a piece is kept, by the time that the disk takes: 40 us for each at least.
    const BYTES: usize = 1 << 20;
    let report = run(Simulation::new(1), |world: World| {
        let host = world.add_host([10, 0, 0, 1].into());
        world.disk(host).create_dir_all("/data");
        world.boot(host);
        world.spawn_on(host, async {
            let create = OpenOptions {
                write: true,
                create: true,
                ..READ
            };
            let file = File::open(Path::new("/data/a"), create).await.unwrap();
            file.write_at(0, &Buf::from(vec![7; BYTES])).await.unwrap();
            let mut taken = Vec::new();
            for piece_bytes in [BYTES, 64 << 10, 0] {
                let began = now();
                let memory = BufMut::with_capacity(BYTES);
                let read = file.read_behind(memory, 0, BYTES, piece_bytes).await;
                assert_eq!(read.unwrap()[..], vec![7; BYTES]);
                taken.push(began.elapsed().as_micros());
            }
            taken
        })
    });
    let taken = report.result.unwrap();
    assert!(
        taken[0] < 2 * 150,
        "two pieces, the largest there are: {taken:?}"
    );
    assert!((16 * 40..16 * 150).contains(&taken[1]), "16: {taken:?}");
    assert!(taken[2] >= 256 * 40, "256, of a block: {taken:?}");
}

#[test]
fn names_change_and_are_listed() {
    // Proves names: rename, remove, replace, list, and which error each mistake is.
    in_both_worlds(|directory| async move {
        let path = directory.join("file");
        drop(File::open(&path, CREATE).await.unwrap());
        let new = OpenOptions {
            create_new: true,
            ..CREATE
        };
        let there = File::open(&path, new).await.unwrap_err();
        assert!(matches!(there, DiskError::Io { .. }), "{there}");
        rename(&path, &path.with_extension("moved")).await.unwrap();
        let gone = File::open(&path, READ).await.unwrap_err();
        assert!(matches!(gone, DiskError::NotFound { .. }), "{gone}");
        assert!(matches!(
            rename(&path, &path.with_extension("again")).await,
            Err(DiskError::NotFound { .. })
        ));
        replace_file(&path, b"large".to_vec()).await.unwrap();
        replace_file(&path, b"small".to_vec()).await.unwrap();
        assert_eq!(read_file(&path).await.unwrap(), b"small");
        let below = directory.join("below/it");
        create_dir_all(&below).unwrap();
        sync_dir(&below).await.unwrap();
        assert!(exists(&below) && !exists(&below.join("x")));
        assert_eq!(list(&directory).unwrap(), ["below", "file", "file.moved"]);
        remove_file(&path).await.unwrap();
        assert_eq!(list(&directory).unwrap(), ["below", "file.moved"]);
        assert!(matches!(
            remove_file(&path).await,
            Err(DiskError::NotFound { .. })
        ));
        let (all, free) = space(&directory).unwrap();
        assert!(free > 0 && free <= all);
    });
}

#[test]
fn a_removed_open_file_stays_and_a_cut_one_reads_zeros() {
    // Proves that a file without a name lives until closed, and what cutting and extending leave.
    in_both_worlds(|directory| async move {
        let path = directory.join("file");
        let file = File::open(&path, CREATE).await.unwrap();
        file.write_at(0, &Buf::from(vec![7; 10_000])).await.unwrap();
        remove_file(&path).await.unwrap();
        assert_eq!(file.read_at(9_000, 1_000).await.unwrap()[..], [7; 1_000]);
        file.set_len(5_000).unwrap();
        file.set_len(10_000).unwrap();
        assert_eq!(file.len().unwrap(), 10_000);
        let read = file.read_at(4_990, 20).await.unwrap();
        assert_eq!((&read[..10], &read[10..]), (&[7; 10][..], &[0; 10][..]));
        let (bytes, got) = file.read_up_to(9_999, 10).await.unwrap();
        assert_eq!((&bytes[..], got), (&[0][..], 1));
    });
}

#[test]
fn dropped_operation_keeps_its_memory_until_it_is_done() {
    // Proves that a task dropped in the middle of a write leaves neither a dangling pointer nor a
    // lost place: hundreds of dropped writes later, the file still works.
    in_both_worlds(|directory| async move {
        let options = OpenOptions {
            direct: true,
            ..CREATE
        };
        let file = File::open(&directory.join("file"), options).await.unwrap();
        let file = Rc::new(file);
        for _ in 0..600 {
            let mut filling = BufMut::with_capacity(64 << 10);
            filling.put_zeros(64 << 10);
            let bytes = filling.freeze();
            let writer = Rc::clone(&file);
            let task = spawn(async move { writer.write_at(0, &bytes).await });
            yield_now().await;
            drop(task);
        }
        file.write_at(0, &Buf::empty()).await.unwrap();
        file.datasync().await.unwrap();
    });
}

#[test]
fn a_directory_has_one_holder() {
    // Proves that a locked directory is refused by name, and free again after.
    in_both_worlds(|directory| async move {
        let first = DirLock::acquire(&directory).unwrap();
        let refused = DirLock::acquire(&directory).unwrap_err();
        assert!(matches!(refused, LockError::Held { .. }), "{refused}");
        drop(first);
        DirLock::acquire(&directory).unwrap();
    });
}
