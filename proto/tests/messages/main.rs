//! Every message in every version: what it costs to read, what it refuses, and whether an independent
//! codec understands it.
//!
//! Nothing here names a field. Messages are made from the tables at random (`sample`), so a new
//! version is tested as soon as its table says so. Failures name message, version and seed.

#![allow(clippy::unwrap_used, reason = "tests, and what only they call")]

#[path = "../../generator/table.rs"]
#[allow(dead_code, reason = "the generator uses what the tests don't")]
mod table;

mod bounds;
mod oracle;
mod ranges;
mod round_trip;
mod sample;
mod subject;

use table::Message;

/// Calls `check` for every message in every version.
fn each_version(mut check: impl FnMut(&Message, &subject::Subject, i16)) {
    let apis = tables();
    let messages: Vec<&Message> = apis
        .iter()
        .flat_map(|api| [&api.request, &api.response])
        .collect();
    assert_eq!(
        messages.len(),
        subject::SUBJECTS.len(),
        "a table without code, or code without a table"
    );
    for message in messages {
        let subject = subject::SUBJECTS
            .iter()
            .find(|subject| subject.name == message.name);
        let subject = subject.unwrap_or_else(|| panic!("no code for {}", message.name));
        for version in message.versions.first..=message.versions.last {
            check(message, subject, version);
        }
    }
}

/// All tables.
fn tables() -> Vec<table::Api> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tables");
    let mut paths: Vec<_> = std::fs::read_dir(folder)
        .expect("the tables are in the crate")
        .map(|entry| entry.expect("readable").path())
        .collect();
    paths.sort();
    paths
        .iter()
        .map(|path| table::parse(&std::fs::read_to_string(path).expect("a table is text")))
        .collect()
}
