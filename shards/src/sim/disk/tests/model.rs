//! The file system by tables: what a power failure may leave, and what it must.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::*;
use crate::sim::disk::content::Content;

/// Every state that the power failure leaves over many seeds, of what `make` did.
fn outcomes<T: Ord>(
    make: impl Fn(&mut FileSystem),
    state: impl Fn(&FileSystem) -> T,
) -> BTreeSet<T> {
    let after = (0..300).map(|seed| {
        let mut disk = FileSystem::default();
        make(&mut disk);
        disk.power_loss(&mut draws(seed));
        state(&disk)
    });
    after.collect()
}

fn set<T: Ord>(of: impl IntoIterator<Item = T>) -> BTreeSet<T> {
    of.into_iter().collect()
}

#[test]
fn unsynced_sectors_are_old_or_new_and_synced_ones_are_new() {
    // Proves the crash model of contents: all four mixtures of two pending sectors, and only them.
    let one = |fill: u8| vec![fill; 512];
    let write_twice = move |disk: &mut FileSystem, synced: bool| {
        let node = file(disk, "/a");
        disk.write(node, 0, &[1; 1_024]).unwrap();
        sync(disk, node);
        sync_dir(disk, "/");
        disk.write(node, 0, &[2; 1_024]).unwrap();
        if synced {
            sync(disk, node);
        }
    };
    let mixed = outcomes(
        |disk| write_twice(disk, false),
        |disk| held(disk, "/a").unwrap(),
    );
    let expected = [(1, 1), (1, 2), (2, 1), (2, 2)].map(|(a, b)| [one(a), one(b)].concat());
    assert_eq!(mixed, set(expected));
    let new = outcomes(
        |disk| write_twice(disk, true),
        |disk| held(disk, "/a").unwrap(),
    );
    assert_eq!(new, set([vec![2; 1_024]]));
}

#[test]
fn a_sync_covers_what_was_written_before_it_began() {
    // Proves that a write during a sync stays pending, and that two syncs may end in any order.
    let last = |later_first: bool| {
        move |disk: &mut FileSystem| {
            let node = file(disk, "/a");
            sync_dir(disk, "/");
            disk.write(node, 0, &[1; 512]).unwrap();
            let first = disk.begin_sync(node).unwrap();
            disk.write(node, 0, &[2; 512]).unwrap();
            let second = disk.begin_sync(node).unwrap();
            let content = disk.content_mut(node).unwrap();
            if later_first {
                content.complete_sync(&second);
            }
            content.complete_sync(&first);
        }
    };
    let byte = |disk: &FileSystem| held(disk, "/a").unwrap()[0];
    assert_eq!(outcomes(last(false), byte), set([1, 2]));
    assert_eq!(outcomes(last(true), byte), set([2]));
}

#[test]
fn a_durable_write_is_durable_alone() {
    // Proves that O_DSYNC covers its own range and length, not what else is pending in the file.
    let made = |disk: &mut FileSystem| {
        let node = file(disk, "/a");
        sync_dir(disk, "/");
        disk.write(node, 0, &[1; 512]).unwrap();
        disk.write(node, 512, &[2; 512]).unwrap();
        disk.content_mut(node).unwrap().sync_range(512, 512);
    };
    let bytes = outcomes(made, |disk| {
        let held = held(disk, "/a").unwrap();
        (held.len(), held[0], held[512])
    });
    assert_eq!(bytes, set([(1_024, 0, 2), (1_024, 1, 2)]));
}

#[test]
fn a_failed_sync_is_never_made_good() {
    // Proves that what a failed sync covered is readable, not durable, and that the next sync,
    // which succeeds, covers only what was written since.
    let mut content = Content::default();
    content.write(0, &[1; 1_024]);
    let covers = content.begin_sync();
    content.complete_sync(&covers);
    content.write(0, &[2; 1_024]);
    let covers = content.begin_sync();
    content.fail_sync(&covers);
    content.write(512, &[3; 512]);
    let covers = content.begin_sync();
    content.complete_sync(&covers);
    let read = content.read(0, 1_024);
    assert_eq!((read[0], read[512]), (2, 3), "readers see it");
    content.power_loss(&mut draws(1));
    let read = content.read(0, 1_024);
    assert_eq!((read[0], read[512]), (1, 3), "the disk does not");
}

#[test]
fn lengths_are_pending_too() {
    // Proves that cuts and extensions survive when synced, and may be undone before.
    let shape = |synced: bool, len: u64| {
        move |disk: &mut FileSystem| {
            let node = file(disk, "/a");
            disk.write(node, 0, &[1; 1_000]).unwrap();
            sync(disk, node);
            sync_dir(disk, "/");
            disk.set_len(node, len).unwrap();
            if synced {
                sync(disk, node);
            }
        }
    };
    let len = |disk: &FileSystem| held(disk, "/a").unwrap().len();
    for to in [0, 100, 5_000] {
        let to_len = usize::try_from(to).unwrap();
        assert_eq!(outcomes(shape(true, to), len), set([to_len]));
        let pending = outcomes(shape(false, to), len);
        assert!(pending.contains(&to_len) && pending.contains(&1_000));
        assert!(
            pending
                .iter()
                .all(|len| (to_len.min(1_000)..=to_len.max(1_000)).contains(len))
        );
    }
    let mut disk = FileSystem::default();
    shape(false, 100)(&mut disk);
    let node = disk.find(Path::new("/a")).unwrap();
    disk.set_len(node, 1_000).unwrap();
    let read = held(&disk, "/a").unwrap();
    assert_eq!((read[99], read[100], read[999]), (1, 0, 0));
}

#[test]
fn names_need_a_sync_of_their_directory() {
    // Proves which names a power failure leaves, for each operation with and without the sync.
    type Make = fn(&mut FileSystem);
    let names = |disk: &FileSystem| disk.list(Path::new("/")).unwrap().join(" ");
    let create: Make = |disk| {
        let node = file(disk, "/a");
        disk.write(node, 0, b"x").unwrap();
        sync(disk, node);
    };
    let renamed: Make = |disk| {
        file(disk, "/a");
        sync_dir(disk, "/");
        disk.rename(Path::new("/a"), Path::new("/b")).unwrap();
    };
    let twice: Make = |disk| {
        file(disk, "/a");
        sync_dir(disk, "/");
        disk.rename(Path::new("/a"), Path::new("/b")).unwrap();
        disk.rename(Path::new("/b"), Path::new("/c")).unwrap();
    };
    let removed: Make = |disk| {
        file(disk, "/a");
        sync_dir(disk, "/");
        disk.remove(Path::new("/a")).unwrap();
    };
    let remade: Make = |disk| {
        file(disk, "/a");
        sync_dir(disk, "/");
        disk.rename(Path::new("/a"), Path::new("/b")).unwrap();
        file(disk, "/a");
    };
    let two: Make = |disk| {
        file(disk, "/a");
        file(disk, "/b");
    };
    let table: [(Make, &[&str], &str); 6] = [
        (create, &["", "a"], "a"),
        (renamed, &["a", "b"], "b"),
        (twice, &["a", "b", "c"], "c"),
        (removed, &["", "a"], ""),
        // The second file of a name is never there without the rename that made room for it.
        (remade, &["a", "b", "a b"], "a b"),
        (two, &["", "a", "b", "a b"], "a b"),
    ];
    for (row, (make, pending, synced)) in table.into_iter().enumerate() {
        let pending: BTreeSet<String> = pending.iter().map(|names| (*names).to_owned()).collect();
        assert_eq!(outcomes(make, names), pending, "row {row}");
        let with_sync = |disk: &mut FileSystem| {
            make(disk);
            sync_dir(disk, "/");
        };
        assert_eq!(
            outcomes(with_sync, names),
            set([synced.to_owned()]),
            "row {row}"
        );
    }
}

#[test]
fn a_replaced_file_is_the_old_or_the_new_one() {
    // Proves that a rename over a file is atomic, and that the old one's bytes come back with it.
    let made = |disk: &mut FileSystem| {
        for (path, fill) in [("/a", 1), ("/a.new", 2)] {
            let node = file(disk, path);
            disk.write(node, 0, &[fill; 10]).unwrap();
            sync(disk, node);
            sync_dir(disk, "/");
        }
        disk.close_all();
        disk.rename(Path::new("/a.new"), Path::new("/a")).unwrap();
    };
    let state = |disk: &FileSystem| (held(disk, "/a"), held(disk, "/a.new"));
    let (old, new) = (Some(vec![1; 10]), Some(vec![2; 10]));
    assert_eq!(
        outcomes(made, state),
        set([(old, new.clone()), (new, None)])
    );
}

#[test]
fn what_is_in_an_undone_directory_is_gone() {
    // Proves that a sync of a directory is not one of those above it.
    let made = |disk: &mut FileSystem| {
        disk.create_dir_all(Path::new("/d/e")).unwrap();
        let node = file(disk, "/d/e/a");
        disk.write(node, 0, b"x").unwrap();
        sync(disk, node);
        sync_dir(disk, "/d/e");
        sync_dir(disk, "/d");
    };
    let state = |disk: &FileSystem| {
        let there = disk.find(Path::new("/d")).is_ok();
        (there, held(disk, "/d/e/a"), disk.files().len())
    };
    let kept = (true, Some(b"x".to_vec()), 1);
    assert_eq!(outcomes(made, state), set([(false, None, 0), kept]));
}

#[test]
fn a_full_disk_refuses_growth_and_takes_overwrites() {
    // Proves the count of room: by pages, below a path, with open files that have no name.
    let mut disk = FileSystem::default();
    disk.create_dir_all(Path::new("/one")).unwrap();
    disk.create_dir_all(Path::new("/two")).unwrap();
    disk.set_capacity(Path::new("/one"), Some(5 * 4_096));
    let (a, b) = (file(&mut disk, "/one/a"), file(&mut disk, "/one/b"));
    assert_eq!(disk.write(a, 0, &[1; 5_000]).unwrap(), 5_000);
    assert_eq!(disk.space(Path::new("/one")).unwrap(), (20_480, 12_288));
    assert!(disk.space(Path::new("/two")).unwrap().1 > 1 << 39);
    disk.allocate(b, 8_192).unwrap();
    assert_eq!(
        disk.write(b, 8_192, &[1; 6_000]).unwrap(),
        4_096,
        "a part fits"
    );
    let full = disk.write(b, 12_288, &[1]).unwrap_err();
    assert_eq!(full.raw_os_error(), Some(libc::ENOSPC));
    assert_eq!(disk.write(b, 0, &[2; 12_288]).unwrap(), 12_288);
    assert_eq!(
        disk.write(a, 5_000, &[1; 3_192]).unwrap(),
        3_192,
        "its page is paid"
    );
    let full = disk.allocate(a, 8_193).unwrap_err();
    assert_eq!(full.raw_os_error(), Some(libc::ENOSPC));
    let elsewhere = file(&mut disk, "/two/c");
    assert_eq!(disk.write(elsewhere, 0, &vec![1; 99_999]).unwrap(), 99_999);
    disk.remove(Path::new("/one/a")).unwrap();
    assert!(disk.write(b, 12_288, &[1]).is_err(), "it is open still");
    disk.close(1);
    disk.write(b, 12_288, &[1]).unwrap();
    disk.set_capacity(Path::new("/one"), None);
    disk.write(b, 1 << 20, &[1]).unwrap();
}

#[test]
fn zeros_cost_no_memory_and_cut_contents_come_back_whole() {
    // Proves that a file of zeros is cheap, whatever its length, and that it is long after a crash.
    let mut content = Content::default();
    for chunk in 0..256 {
        content.write(chunk << 20, &vec![0; 1 << 20]);
    }
    let covers = content.begin_sync();
    content.complete_sync(&covers);
    assert_eq!(content.pages(), 0);
    content.write(7 << 20, &[1; 4_096]);
    assert_eq!(content.pages(), 1);
    content.power_loss(&mut draws(3));
    assert_eq!(content.len(), 256 << 20);
}

#[test]
fn files_are_known_by_path_until_closed() {
    // Proves the accounting that leak checks stand on.
    let mut disk = FileSystem::default();
    let node = file(&mut disk, "/a");
    disk.write(node, 0, b"x").unwrap();
    disk.remove(Path::new("/a")).unwrap();
    assert_eq!(disk.files(), [(PathBuf::from("/a"), node, 1)]);
    assert_eq!(disk.used(Path::new("/")), 4_096);
    sync_dir(&mut disk, "/");
    disk.close(1);
    assert_eq!(disk.files(), []);
    let again = file(&mut disk, "/a");
    assert_ne!(again, node);
    assert_eq!(disk.all_opened().count(), 1);
}
