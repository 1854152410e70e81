//! Calls that are banned, and where.

use std::fs;

use crate::{Source, assert_none, root, sources};

/// Clocks, disk, network, threads and chance come from the facade, or a simulated run would not
/// repeat; locks would make cores wait for each other.
const BANNED: [&str; 17] = [
    "std::fs",
    "std::net::Tcp",
    "std::net::Udp",
    "std::thread",
    "std::time::Instant",
    "SystemTime",
    "Instant::now",
    "thread_rng",
    "rand::",
    "tokio::",
    "glommio",
    "io_uring::",
    "libc::",
    "Mutex<",
    "RwLock<",
    "static mut",
    "select!",
];

/// Files at the edge: they run on no data core, before the node starts or beside it.
const AT_THE_EDGE: [&str; 5] = [
    "src/main.rs",
    "src/start.rs",
    "src/storage.rs",
    "src/check.rs",
    "src/config",
];

#[test]
fn only_the_facade_touches_the_world() {
    // Proves that nothing above `shards` names a clock, a file, a socket, a thread or a lock.
    let mut breaches = Vec::new();
    for folder in ["src", "storage/src", "proto/src"] {
        for source in sources(folder) {
            if source.is_test() || AT_THE_EDGE.iter().any(|edge| source.path.starts_with(edge)) {
                continue;
            }
            for (line, code) in source.code() {
                for banned in BANNED.iter().filter(|banned| code.contains(*banned)) {
                    breaches.push(format!("{}:{line}: {banned}", source.path));
                }
            }
        }
    }
    assert_none("use the facade of `shards`", &breaches);
}

#[test]
fn unsafe_code_stays_in_shards() {
    // Proves that every crate but `shards` forbids unsafe code.
    let crates = [
        "src",
        "proto/src",
        "proto/client/src",
        "storage/src",
        "ops/src",
        "ops/cli/src",
    ];
    let breaches: Vec<String> = crates
        .iter()
        .filter(|folder| {
            let lib = root().join(folder).join("lib.rs");
            !fs::read_to_string(lib)
                .expect("a crate root")
                .contains("#![forbid(unsafe_code)]")
        })
        .map(|folder| format!("{folder}/lib.rs lacks #![forbid(unsafe_code)]"))
        .collect();
    assert_none("unsafe code belongs to `shards`", &breaches);
}

#[test]
fn nothing_is_left_half_done() {
    // Proves that no stub, skipped test or note to oneself is in the tree.
    // The words are put together here so that this file does not accuse itself.
    let words = [
        ["to", "do!("],
        ["unimple", "mented!("],
        ["#[ig", "nore"],
        ["TO", "DO"],
        ["FIX", "ME"],
    ]
    .map(|halves| halves.concat());
    let mut breaches = Vec::new();
    let folders = ["src", "proto", "shards", "storage", "ops", "perf", "tests"];
    for source in folders.iter().flat_map(|folder| sources(folder)) {
        let Source { path, text } = &source;
        for (index, line) in text.lines().enumerate() {
            for word in words.iter().filter(|word| line.contains(word.as_str())) {
                breaches.push(format!("{path}:{}: {word}", index + 1));
            }
        }
    }
    assert_none("finish it or file it", &breaches);
}
