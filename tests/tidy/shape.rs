//! What lies where, and how long a file may be.

use std::fs;

use crate::{assert_none, root, sources};

/// The top level, exactly. Hidden files and build output are not listed.
const TOP_LEVEL: [&str; 15] = [
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "k8s",
    "ops",
    "perf",
    "proto",
    "shards",
    "src",
    "storage",
    "tests",
];
/// Not written yet; it may be missing, and nothing else may take its place.
const TO_COME: [&str; 1] = ["k8s"];
/// What the broker, a build or a client's package tool leaves behind; `.gitignore` has them.
const LEFT_BEHIND: [&str; 2] = ["target", "streambus-data"];

/// Past this a file holds a second noun.
const LINES_MAX: usize = 1_000;
/// The median that keeps files the length of one idea.
const LINES_MEDIAN_MAX: usize = 250;

#[test]
fn top_level_is_exactly_the_planned_one() {
    // Proves that nothing is added to or missing from the root folder.
    let mut found: Vec<String> = fs::read_dir(root())
        .expect("the root is readable")
        .map(|entry| {
            entry
                .expect("readable")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .filter(|name| !name.starts_with('.') && !LEFT_BEHIND.contains(&name.as_str()))
        .collect();
    found.sort();
    let expected: Vec<&str> = TOP_LEVEL
        .into_iter()
        .filter(|name| !TO_COME.contains(name) || found.iter().any(|have| have == name))
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn files_stay_short() {
    // Proves the bounds on file length over all source files.
    let all: Vec<_> = ["src", "proto", "shards", "storage", "ops", "perf", "tests"]
        .iter()
        .flat_map(|f| sources(f))
        .collect();
    let mut lengths: Vec<usize> = all
        .iter()
        .map(|source| source.text.lines().count())
        .collect();
    let breaches: Vec<String> = all
        .iter()
        .filter(|source| source.text.lines().count() > LINES_MAX)
        .map(|source| {
            format!(
                "{}: {} lines, at most {LINES_MAX}",
                source.path,
                source.text.lines().count()
            )
        })
        .collect();
    assert_none("a file is one noun: split it", &breaches);
    lengths.sort_unstable();
    let median = lengths[lengths.len() / 2];
    assert!(
        median <= LINES_MEDIAN_MAX,
        "half the files are longer than {median} lines"
    );
}

#[test]
fn architecture_stays_a_short_read() {
    // Proves that the map of the house is under 200 lines.
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md exists");
    assert!(text.lines().count() < 200, "{} lines", text.lines().count());
}
