//! Imports only go down.

use std::fs;

use crate::{assert_none, root, sources};

/// Each crate's folder and the crates of this workspace that it may use outside its tests.
const CRATES: [(&str, &[&str]); 8] = [
    ("proto", &[]),
    ("shards", &[]),
    ("proto/client", &["streambus-proto"]),
    ("storage", &["streambus-proto", "streambus-shards"]),
    ("ops", &["streambus-proto", "streambus-shards"]),
    ("ops/cli", &["streambus-client", "streambus-proto"]),
    (
        "perf",
        &["streambus-proto", "streambus-shards", "streambus-storage"],
    ),
    (
        ".",
        &[
            "streambus-cli",
            "streambus-ops",
            "streambus-proto",
            "streambus-shards",
            "streambus-storage",
        ],
    ),
];

/// The rooms of `src`, lowest first. A room may use those of a lower number; rooms of the same
/// number do not know each other. To come, and listed so that their place is settled: security, tenancy,
/// replication, groups, transactions, registry, streams.
const ROOMS: [(&str, u32); 19] = [
    ("config", 0),
    ("error", 0),
    ("security", 1),
    ("tenancy", 1),
    ("metadata", 2),
    ("partition", 3),
    ("replication", 4),
    ("groups", 4),
    ("transactions", 4),
    ("registry", 4),
    ("streams", 4),
    ("shard", 5),
    ("kafka", 6),
    ("node", 7),
    ("check", 8),
    ("lib", 9),
    ("start", 9),
    ("storage", 10),
    ("main", 10),
];

#[test]
fn crates_import_only_downwards() {
    // Proves the crate graph from the manifests themselves.
    let mut breaches = Vec::new();
    for (folder, allowed) in CRATES {
        let path = root().join(folder).join("Cargo.toml");
        let manifest = fs::read_to_string(&path).expect("each crate has a manifest");
        let mut in_dependencies = false;
        for line in manifest.lines() {
            if line.starts_with('[') {
                in_dependencies = line == "[dependencies]";
            }
            let name = line.split(['.', ' ', '=']).next().unwrap_or("");
            if in_dependencies && name.starts_with("streambus") && !allowed.contains(&name) {
                breaches.push(format!("{folder} uses {name}"));
            }
        }
    }
    assert_none("a crate may only use those below it", &breaches);
}

fn room_number(name: &str) -> Option<u32> {
    ROOMS
        .iter()
        .find(|(room, _)| *room == name)
        .map(|(_, number)| *number)
}

#[test]
fn rooms_of_the_broker_import_only_downwards() {
    // Proves that inside src no module reaches up or sideways.
    let mut breaches = Vec::new();
    for source in sources("src") {
        let inside = source.path.trim_start_matches("src/");
        let room = inside.split(['/', '.']).next().unwrap_or("");
        let Some(own) = room_number(room) else {
            breaches.push(format!(
                "{}: `{room}` has no place in tests/tidy/imports.rs",
                source.path
            ));
            continue;
        };
        for (line, code) in source.code() {
            for used in code.split("crate::").skip(1) {
                let name: String = used
                    .chars()
                    .take_while(|c| c.is_alphanumeric() || *c == '_')
                    .collect();
                if name != room && room_number(&name).is_some_and(|other| other >= own) {
                    breaches.push(format!("{}:{line}: {room} uses {name}", source.path));
                }
            }
        }
    }
    assert_none("a room of src may only use those below it", &breaches);
}
