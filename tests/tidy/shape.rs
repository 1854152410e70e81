//! What lies where, and how long a file may be.

use std::fs;
use std::process::Command;

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

/// Hidden places of the root that are tracked.
const HIDDEN: [&str; 5] = [
    ".ci",
    ".clippy.toml",
    ".github",
    ".gitignore",
    ".rustfmt.toml",
];
/// More than any source, golden or lock file needs.
const TRACKED_BYTES_MAX: u64 = 256 << 10;

#[test]
fn only_what_belongs_is_tracked() {
    // Proves that no data directory and no other large or hidden thing was committed.
    let listed = Command::new("git")
        .args(["ls-files", "-z"])
        .current_dir(root())
        .output()
        .expect("git is there, for the source came by it");
    if !listed.status.success() {
        println!("skipped: {} is no git checkout", root().display());
        return;
    }
    let names = String::from_utf8(listed.stdout).expect("names are UTF-8");
    let paths: Vec<&str> = names.split_terminator('\0').collect();
    assert!(paths.contains(&"Cargo.toml"), "the listing has the root");
    let breaches: Vec<String> = paths
        .into_iter()
        .filter_map(|path| {
            let top = path.split('/').next().unwrap_or(path);
            let hidden =
                path.split('/').any(|part| part.starts_with('.')) && !HIDDEN.contains(&top);
            // A file that is removed and not yet committed has no size.
            let bytes = fs::metadata(root().join(path)).map_or(0, |file| file.len());
            (hidden || bytes > TRACKED_BYTES_MAX).then(|| format!("{path}: {bytes} bytes"))
        })
        .collect();
    assert_none("tracked, but hidden or too large", &breaches);
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
