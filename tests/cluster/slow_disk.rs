//! A disk that has become slow (the one-node part of fault row 16): only who waits for it waits.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use streambus_client::blocking::{Acks, Client, ClientConfig};
use streambus_client::partition::TopicPartition;
use streambus_proto::records::{BatchBuilder, Codec, NewRecord};

use crate::process::Broker;
use crate::volume::{Volume, or_skip};

const BYTES_PER_SECOND: u64 = 1 << 20;
const BATCHES: usize = 12;
const VALUE_BYTES: usize = 256 << 10;
/// Answers that need no disk come within this, on a machine that also runs other tests.
const ANSWER_MAX: Duration = Duration::from_secs(1);

/// A control group that slows the writes of a process to one device. Dropped, it lets them go.
struct Throttle {
    group: PathBuf,
    numbers: String,
}

impl Throttle {
    fn on(process: u32, numbers: String) -> Result<Throttle, String> {
        let group = PathBuf::from(format!("/sys/fs/cgroup/blkio/streambus-test-{process}"));
        fs::create_dir(&group).map_err(|error| format!("{}: {error}", group.display()))?;
        let throttle = Throttle { group, numbers };
        throttle.set("blkio.throttle.write_bps_device", BYTES_PER_SECOND)?;
        let procs = throttle.group.join("cgroup.procs");
        fs::write(&procs, process.to_string())
            .map_err(|error| format!("{}: {error}", procs.display()))?;
        Ok(throttle)
    }

    fn set(&self, file: &str, limit: u64) -> Result<(), String> {
        let path = self.group.join(file);
        fs::write(&path, format!("{} {limit}", self.numbers))
            .map_err(|error| format!("{}: {error}", path.display()))
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        // 0 means no limit. The group itself can only go once its process has.
        let _ = self.set("blkio.throttle.write_bps_device", 0);
        let _ = fs::remove_dir(&self.group);
    }
}

fn health(admin: SocketAddr) -> String {
    let mut stream = TcpStream::connect(admin).unwrap();
    stream
        .write_all(b"GET /health HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

fn batch() -> Vec<u8> {
    let mut builder = BatchBuilder::new(Codec::None);
    builder.push(&NewRecord {
        value: Some(&vec![7; VALUE_BYTES]),
        ..NewRecord::default()
    });
    builder.build()
}

/// Produces the batches one after the other; returns how long it took.
fn produce(bootstrap: &str) -> Duration {
    let mut client = Client::connect(bootstrap, ClientConfig::default()).unwrap();
    client.wait_for_topic("slow").unwrap();
    let begun = Instant::now();
    for _ in 0..BATCHES {
        let to = TopicPartition::new("slow", 0);
        client.produce_batch(&to, &batch(), Acks::All).unwrap();
    }
    begun.elapsed()
}

#[test]
fn slow_disk_delays_its_producers_and_nobody_else() {
    // Proves the one-node part of row 16: at 1 MiB/s batches are acknowledged late and none fails, while
    // metadata and health answer at once, no core counts as stalled, and all is fast again afterwards.
    let name = "slow_disk_delays_its_producers_and_nobody_else";
    let Some(volume) = or_skip(name, Volume::ext4(384 << 20)) else {
        return;
    };
    let broker = Broker::start(&volume.path(), &[]);
    let bootstrap = broker.core.to_string();
    let mut client = Client::connect(&bootstrap, ClientConfig::default()).unwrap();
    client.create_topic("slow", 1, 1).unwrap();
    let before = produce(&bootstrap);
    let throttle = match Throttle::on(broker.id(), volume.device_numbers()) {
        Ok(throttle) => throttle,
        Err(reason) => return println!("SKIP {name}: no blkio control group here: {reason}"),
    };
    let producer = {
        let bootstrap = bootstrap.clone();
        thread::spawn(move || produce(&bootstrap))
    };
    let mut answers = 0;
    while !producer.is_finished() {
        let begun = Instant::now();
        client.metadata(None).unwrap();
        let text = health(broker.admin);
        let took = begun.elapsed();
        assert!(took < ANSWER_MAX, "answers took {took:?}");
        assert!(text.starts_with("HTTP/1.1 200"), "{text}");
        answers += 1;
    }
    let during = producer.join().unwrap();
    let at_least = Duration::from_secs((BATCHES * VALUE_BYTES) as u64 / BYTES_PER_SECOND / 2);
    assert!(during > at_least, "the disk was not slow: {during:?}");
    assert!(answers > 10, "{answers} answers in {during:?}");
    drop(throttle);
    let after = produce(&bootstrap);
    assert!(
        after < during / 2,
        "before {before:?}, during {during:?}, after {after:?}"
    );
    broker.kill();
}
