//! What a broker refuses before it writes anything, and that it says so in one line.

use std::fs;
use std::net::TcpListener;

use crate::process::{Broker, refused, refused_under};

fn line_of(errors: &str) -> &str {
    errors
        .lines()
        .find(|line| line.starts_with("streambus: "))
        .unwrap_or_default()
}

#[test]
fn busy_port_is_named_and_nothing_is_written() {
    // Proves the refusal of a port that somebody listens on, before the directory is touched.
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let (output, errors) = refused(&data, &[("STREAMBUS_LISTENERS__CORE__PORT", port.as_str())]);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    let line = line_of(&errors);
    assert!(
        line.contains(&port) && line.contains("another process"),
        "{errors}"
    );
    assert!(!data.exists(), "nothing was written");
}

#[test]
fn second_broker_on_one_directory_is_refused_with_the_first_ones_process() {
    // Proves the lock, and that the first goes on.
    let home = tempfile::tempdir().unwrap();
    let first = Broker::start(home.path(), &[]);
    let port = first.core.port().to_string();
    let admin = first.admin.to_string();
    let same: [(&str, &str); 2] = [
        ("STREAMBUS_LISTENERS__CORE__PORT", &port),
        ("STREAMBUS_ADMIN__ADDRESS", &admin),
    ];
    // With ports of its own, and with those of the first, as after a second `start`: the directory is to blame.
    for settings in [&[][..], &same[..]] {
        let (output, errors) = refused(home.path(), settings);
        assert_eq!(output.status.code(), Some(1), "{errors}");
        let line = line_of(&errors);
        assert!(
            line.starts_with("streambus: data directory")
                && line.contains(&format!("process {}", first.id())),
            "{errors}"
        );
    }
}

#[test]
fn directory_of_another_node_is_refused_with_the_remedy() {
    // Proves fault row 42 for the node id.
    let home = tempfile::tempdir().unwrap();
    Broker::start(home.path(), &[]).kill();
    let (output, errors) = refused(home.path(), &[("STREAMBUS_NODE__ID", "7")]);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    let line = line_of(&errors);
    assert!(
        line.contains("belongs to node 0") && line.contains("node.id=0"),
        "{errors}"
    );
}

#[test]
fn directory_of_another_version_is_refused_and_left_as_it_was() {
    // Proves that a manifest of a format to come stops the start, and that its bytes stay.
    let home = tempfile::tempdir().unwrap();
    Broker::start(home.path(), &[]).kill();
    let manifest = home.path().join("lane-0").join("MANIFEST");
    let mut bytes = fs::read(&manifest).unwrap();
    for byte in &mut bytes {
        *byte = !*byte;
    }
    fs::write(&manifest, &bytes).unwrap();
    let (output, errors) = refused(home.path(), &[]);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(line_of(&errors).contains("MANIFEST"), "{errors}");
    assert_eq!(fs::read(&manifest).unwrap(), bytes);
}

#[test]
fn too_few_descriptors_are_named_with_the_remedy_and_nothing_is_written() {
    // Proves fault row 42 for a limit of 64 open files, which cannot be raised.
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    let (output, errors) = refused_under("ulimit -n 64", &data);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    let line = line_of(&errors);
    assert!(
        line.contains("64 files") && line.contains("ulimit -n"),
        "{errors}"
    );
    assert!(!data.exists(), "nothing was written");
}

/// A limit of locked memory. Root is not held to it unless it gives up the right to pass it.
fn memlock(kib: u32) -> String {
    let drop_right = "exec setpriv --bounding-set=-ipc_lock --inh-caps=-ipc_lock \"$0\" \"$@\"";
    format!("ulimit -l {kib} && if [ $(id -u) = 0 ]; then {drop_right}; fi")
}

#[test]
fn locked_memory_that_does_not_suffice_is_named_with_the_remedy_and_nothing_is_written() {
    // Proves fault row 42 for locked memory: below what any core needs, below what these two do, enough but taken by
    // another process of the same user, and about enough, where what was found to fit must fit when the cores start.
    // One limit after the other, for the kernel counts what all processes of a user have locked together.
    let alone = [(64, false), (512, false)];
    let beside = [624, 640, 656].map(|kib| (kib, true));
    for (kib, beside_another) in alone.into_iter().chain(beside) {
        let home = tempfile::tempdir().unwrap();
        let data = home.path().join("data");
        let _other = beside_another.then(|| {
            let other = Broker::start_under(&memlock(2_048), &home.path().join("other"));
            other.expect("2 MiB are enough for two cores")
        });
        let (output, errors) = refused_under(&memlock(kib), &data);
        assert_eq!(output.status.code(), Some(1), "{errors}");
        let line = line_of(&errors);
        let named = format!("memlock limit {} bytes", kib * 1_024);
        assert!(
            line.contains(&named) && line.contains("ulimit -l"),
            "{errors}"
        );
        assert!(!data.exists(), "nothing was written");
    }
    for kib in (560..720).step_by(16) {
        let home = tempfile::tempdir().unwrap();
        let data = home.path().join("data");
        let serves = Broker::start_under(&memlock(kib), &data).is_some();
        assert_eq!(serves, data.exists(), "{kib} KiB");
    }
}

#[test]
fn directory_that_cannot_be_written_is_named() {
    // Proves fault row 42 for the data directory: below a file, and on a file system of the kernel's
    // that takes no files, even from root.
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("file");
    fs::write(&file, b"not a directory").unwrap();
    for data in [file.join("data"), "/proc/streambus".into()] {
        let (output, errors) = refused(&data, &[]);
        assert_eq!(output.status.code(), Some(1), "{errors}");
        assert!(
            line_of(&errors).contains(&*data.to_string_lossy()),
            "{errors}"
        );
    }
}
