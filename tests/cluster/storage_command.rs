//! `streambus storage` as an operator runs it: exit codes, words, and a broker that starts after a repair.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use streambus_client::blocking::{Client, ClientConfig};
use streambus_client::consumer::{ConsumerConfig, Start};
use streambus_client::partition::TopicPartition;
use streambus_client::producer::ProducerConfig;

use crate::process::{Broker, refused};

const RECORDS: i64 = 300;

pub(crate) fn storage(verb: &str, data: &Path, more: &[&str]) -> (Option<i32>, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = Command::new(env!("CARGO_BIN_EXE_streambus"))
        .args(["storage", verb, "--data-dir"])
        .arg(data)
        .args(more)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

fn fill(broker: &Broker) {
    let mut client = Client::connect(&broker.core.to_string(), ClientConfig::default()).unwrap();
    client.create_topic("orders", 1, 1).unwrap();
    client.wait_for_topic("orders").unwrap();
    let to = TopicPartition::new("orders", 0);
    for value in 0..RECORDS {
        let mut producer = client.producer(ProducerConfig::default());
        producer.send(&to, None, &value.to_be_bytes()).unwrap();
        producer.flush().unwrap();
    }
}

/// The values that are there, in the order of their offsets.
fn values(broker: &Broker) -> Vec<i64> {
    let mut client = Client::connect(&broker.core.to_string(), ClientConfig::default()).unwrap();
    let mut consumer = client.consumer(ConsumerConfig::default());
    consumer.assign(TopicPartition::new("orders", 0), Start::Earliest);
    let mut found = Vec::new();
    let mut quiet = 0;
    while quiet < 2 {
        let got = consumer
            .poll(&mut |_, _, record| {
                found.push(i64::from_be_bytes(
                    record.value.unwrap().try_into().unwrap(),
                ));
            })
            .unwrap();
        quiet = if got == 0 && consumer.at_end() {
            quiet + 1
        } else {
            0
        };
    }
    found
}

/// The first WAL file of the lane that holds the records, and the byte of a commit in its middle.
fn middle_commit(data: &Path) -> (PathBuf, usize) {
    let (code, listed, errors) = storage("inspect", data, &["--records"]);
    assert_eq!(code, Some(0), "{errors}");
    assert!(listed.contains("batch orders-0 offsets 7 to 7"), "{listed}");
    let lane = listed
        .split(&format!("{}/", data.display()))
        .find(|lane| lane.contains("batch orders-0"))
        .unwrap();
    let commits: Vec<&str> = lane
        .lines()
        .filter(|line| line.starts_with("  commit "))
        .collect();
    let words: Vec<&str> = commits[commits.len() / 2].split([' ', ':']).collect();
    let at = words.iter().position(|word| *word == "at").unwrap();
    let name = lane.lines().next().unwrap();
    (
        data.join(name).join(words[at + 1]),
        words[at + 3].parse().unwrap(),
    )
}

#[test]
fn damage_is_reported_and_repaired_only_when_told_to() {
    // Proves the life of an operator's worst day: sound is 0; a flipped bit in the WAL's middle is 1, stops
    // the broker, and is named; a repair without --yes changes nothing; with it the broker starts, and has
    // all records before the damage.
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    let (code, _, errors) = storage("verify", &data, &[]);
    assert_eq!(code, Some(2), "no data yet: {errors}");
    assert!(!data.exists(), "a look makes nothing");
    let broker = Broker::start(&data, &[]);
    fill(&broker);
    for verb in ["inspect", "verify", "repair"] {
        let (code, _, errors) = storage(verb, &data, &[]);
        assert_eq!(code, Some(2), "{verb} under a running broker: {errors}");
        assert!(
            errors.contains(&format!("process {}", broker.id())),
            "{errors}"
        );
    }
    broker.kill();
    let (code, said, errors) = storage("verify", &data, &["--format", "json"]);
    assert_eq!((code, errors.as_str()), (Some(0), ""), "{said}");
    assert!(said.contains("\"sound\":true"), "{said}");
    let (path, position) = middle_commit(&data);
    let mut bytes = fs::read(&path).unwrap();
    bytes[position + 130] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let (output, errors) = refused(&data, &[]);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("storage repair"), "{errors}");
    let (code, said, _) = storage("verify", &data, &[]);
    assert_eq!(code, Some(1), "{said}");
    let place = format!("{} at byte {position}", path.display());
    assert!(said.contains(&place), "{place} is not in {said}");
    let (code, said, _) = storage("repair", &data, &[]);
    assert_eq!(code, Some(1));
    assert!(said.contains("lost: orders-0 offsets"), "{said}");
    assert!(said.contains("nothing was changed"), "{said}");
    assert_eq!(fs::read(&path).unwrap(), bytes);
    let (code, said, errors) = storage("repair", &data, &["--yes"]);
    assert_eq!(code, Some(0), "{said}{errors}");
    assert!(path.parent().unwrap().join("quarantine").exists());
    assert_eq!(storage("verify", &data, &[]).0, Some(0));
    let found = values(&Broker::start(&data, &[]));
    assert!(found.len() > 100, "{} records are left", found.len());
    assert!(
        found
            .iter()
            .copied()
            .eq(0..i64::try_from(found.len()).unwrap())
    );
}

#[test]
fn a_check_judges_the_limit_that_a_start_raises() {
    // Proves that a low soft limit on open files, which a start raises to the hard one, is no finding.
    let home = tempfile::tempdir().unwrap();
    let output = Command::new("sh")
        .args([
            "-c",
            "ulimit -Sn 100; ulimit -Hn >&2; exec \"$0\" check --data-dir \"$1\"",
        ])
        .arg(env!("CARGO_BIN_EXE_streambus"))
        .arg(home.path())
        .output()
        .unwrap();
    let hard = String::from_utf8(output.stderr).unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let line = said
        .lines()
        .find(|line| line.contains("open files"))
        .unwrap();
    assert!(
        line.ends_with(&format!(" {}", hard.trim())),
        "{line} of {hard}"
    );
}

#[test]
fn wrong_usage_is_two() {
    // Proves the third exit code for words that are no command, and for a directory of something else.
    let home = tempfile::tempdir().unwrap();
    assert_eq!(storage("mend", home.path(), &[]).0, Some(2));
    let (code, _, errors) = storage("verify", home.path(), &[]);
    assert_eq!(code, Some(2));
    assert!(errors.contains("holds no data of StreamBus"), "{errors}");
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
}
