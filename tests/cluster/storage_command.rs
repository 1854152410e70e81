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

/// A data directory with records in it, of two lanes, that no broker has open; and the lane that holds them.
fn stopped(home: &Path) -> (PathBuf, PathBuf) {
    let data = home.join("data");
    let broker = Broker::start(&data, &[("STREAMBUS_DATA__LANES", "2")]);
    fill(&broker);
    broker.kill();
    let (path, _) = middle_commit(&data);
    let lane = path.parent().unwrap().to_owned();
    (data, lane)
}

#[test]
fn what_is_missing_is_told_and_a_lane_is_begun_anew_only_when_told_to() {
    // Proves that a lane without its files, as of a disk that is not mounted, and lanes without metadata are damage
    // and keep the broker down; and that a lane that is lost for good can be begun anew.
    let home = tempfile::tempdir().unwrap();
    let (data, lane) = stopped(home.path());
    let metadata = data.join("metadata");
    let aside = home.path().join("aside");
    fs::rename(&metadata, &aside).unwrap();
    let (code, said, _) = storage("verify", &data, &[]);
    assert_eq!(code, Some(1), "{said}");
    let (_, errors) = refused(&data, &[]);
    assert!(errors.contains("no metadata"), "{errors}");
    fs::rename(&aside, &metadata).unwrap();
    assert_eq!(storage("verify", &data, &[]).0, Some(0));
    fs::remove_dir_all(&lane).unwrap();
    fs::create_dir(&lane).unwrap();
    let (code, said, _) = storage("verify", &data, &[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("MISSING, and 1 partitions"), "{said}");
    let (_, errors) = refused(&data, &[]);
    assert!(errors.contains(&lane.display().to_string()), "{errors}");
    assert_eq!(fs::read_dir(&lane).unwrap().count(), 0, "nothing was begun");
    let (code, said, errors) = storage("repair", &data, &["--yes"]);
    assert_eq!(code, Some(0), "{said}{errors}");
    assert_eq!(storage("verify", &data, &[]).0, Some(0));
    assert!(values(&Broker::start(&data, &[])).is_empty());
}

fn damage_the_wal(data: &Path) -> PathBuf {
    let (path, position) = middle_commit(data);
    let mut bytes = fs::read(&path).unwrap();
    bytes[position + 130] ^= 1;
    fs::write(&path, &bytes).unwrap();
    path
}

#[test]
fn what_is_lost_is_said_even_if_the_repair_fails() {
    // Proves that the report stands on standard output before a repair changes anything: once it has, nobody
    // can find out again.
    let home = tempfile::tempdir().unwrap();
    let (data, _) = stopped(home.path());
    let path = damage_the_wal(&data);
    fs::create_dir(path.with_extension("new")).unwrap();
    let (code, said, errors) = storage("repair", &data, &["--yes"]);
    assert_eq!(code, Some(1), "{said}{errors}");
    assert!(errors.contains("is not repaired"), "{errors}");
    assert!(said.contains("lost: orders-0 offsets"), "{said}");
}

#[test]
fn what_cannot_be_looked_at_is_two_and_the_rest_is_told() {
    // Proves: a lane that can't be listed is told as such, is no damage, and does not keep the other from
    // being looked at; metadata of a later version are not called damaged either.
    let home = tempfile::tempdir().unwrap();
    let (data, lane) = stopped(home.path());
    let aside = data.join("aside");
    fs::rename(&lane, &aside).unwrap();
    fs::write(&lane, "no directory").unwrap();
    let (code, said, errors) = storage("verify", &data, &[]);
    assert_eq!(code, Some(2), "{said}{errors}");
    assert!(
        said.contains("UNREADABLE") && !said.contains("DAMAGED"),
        "{said}"
    );
    for lane in ["lane-0", "lane-1"] {
        assert!(
            said.contains(&data.join(lane).display().to_string()),
            "{said}"
        );
    }
    let (code, said, errors) = storage("repair", &data, &["--yes"]);
    assert_eq!(code, Some(2), "{said}{errors}");
    fs::remove_file(&lane).unwrap();
    fs::rename(&aside, &lane).unwrap();
    assert_eq!(storage("verify", &data, &[]).0, Some(0));
    let metadata = fs::read_dir(data.join("metadata")).unwrap();
    let mut logs = metadata.map(|entry| entry.unwrap().path());
    let log = logs
        .find(|path| path.extension().is_some_and(|end| end == "log"))
        .unwrap();
    let mut bytes = fs::read(&log).unwrap();
    bytes[8] = 99;
    fs::write(&log, &bytes).unwrap();
    let (code, said, errors) = storage("verify", &data, &[]);
    assert_eq!(code, Some(2), "{said}{errors}");
    assert!(
        said.contains("format version is 99") && !said.contains("DAMAGED"),
        "{said}"
    );
}

#[test]
fn a_listing_says_why_its_exit_code_is_not_zero() {
    // Proves: with damage, the listing ends with the report in either form; a listing that could not be
    // written is no success; and a file that is nobody's is no damage.
    let home = tempfile::tempdir().unwrap();
    let (data, lane) = stopped(home.path());
    fs::write(lane.join("notes.txt"), "mine").unwrap();
    for verb in ["inspect", "verify", "repair"] {
        assert_eq!(storage(verb, &data, &[]).0, Some(0), "{verb}");
    }
    assert!(storage("verify", &data, &[]).1.contains("notes.txt"));
    let path = damage_the_wal(&data);
    let (code, said, _) = storage("inspect", &data, &[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("DAMAGED") && !said.contains("verified"),
        "{said}"
    );
    let (code, said, _) = storage("inspect", &data, &["--format", "json"]);
    assert_eq!(code, Some(1), "{said}");
    let last = said.lines().last().unwrap();
    assert!(last.contains("\"kind\":\"report\""), "{last}");
    assert!(last.contains(&path.display().to_string()), "{last}");
    let full = fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_streambus"))
        .args(["storage", "inspect", "--data-dir"])
        .arg(&data)
        .stdout(full)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.contains("standard output"), "{errors}");
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
