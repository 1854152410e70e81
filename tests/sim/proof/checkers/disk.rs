//! Disk accounting.

use streambus_tests::checkers::disk::{Allowance, FileOnDisk, check};

const ALLOWANCE: Allowance = Allowance {
    lanes: 2,
    wal_files_max: 2,
    wal_file_bytes: 100,
    empty: true,
    rest_bytes_max: 50,
};

fn file(path: &str, bytes: u64) -> FileOnDisk {
    FileOnDisk {
        path: path.to_owned(),
        bytes,
    }
}

fn sound() -> Vec<FileOnDisk> {
    vec![
        file("lane-0/MANIFEST", 10),
        file("lane-0/wal-0000000000000001.log", 100),
        file("lane-0/wal-0000000000000002.log", 100),
        file("lane-1/wal-0000000000000001.log", 100),
        file("metadata/log", 20),
    ]
}

#[test]
fn files_at_rest_are_those_that_the_node_knows() {
    // Proves each kind of file that must not be there, one at a time.
    assert_eq!(check(&sound(), ALLOWANCE), []);
    for (stray, said) in [
        (file("lane-0/quarantine/x", 1), "no one"),
        (
            file("lane-1/table-0000000000000001.new", 1),
            "neither finished",
        ),
        (file("lane-1/table-0000000000000001.tbl", 1), "no topic"),
        (file("lane-0/wal-0000000000000003.log", 100), "3 log files"),
        (file("lane-1/wal-0000000000000002.log", 99), "99 of 100"),
        (file("lane-1/notes", 21), "51 bytes"),
    ] {
        let mut files = sound();
        files.push(stray.clone());
        let breaches = check(&files, ALLOWANCE);
        assert_eq!(breaches.len(), 1, "{stray:?}: {breaches:?}");
        assert!(breaches[0].what.contains(said), "{stray:?}: {breaches:?}");
    }
    let mut files = sound();
    files.push(file("lane-1/table-0000000000000001.tbl", 1));
    let with_topics = Allowance {
        empty: false,
        ..ALLOWANCE
    };
    assert_eq!(check(&files, with_topics), []);
}
