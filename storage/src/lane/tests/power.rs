//! A lane in the simulated world: killed processes, failing power and a disk that goes wrong, from seeds.

use std::time::Duration;

use streambus_shards::sim::{self, HostId, Kill, Simulation, Stream, World};
use streambus_shards::{disk, sleep};

use super::*;
use crate::batch::place_batch;
use crate::config::SyncMode;
use crate::names;

const DIR: &str = "/data/lane";
const LIVES: u64 = 6;

/// What a partition was given, and what was promised of it.
#[derive(Default)]
struct Log {
    batches: BTreeMap<i64, Vec<u8>>,
    end: i64,
    /// Everything before was reported durable, or shown after a recovery.
    promised_end: i64,
    start_promised: i64,
    start_asked: i64,
}

type Logs = Rc<RefCell<BTreeMap<PartitionKey, Log>>>;

/// Keeps what the lane promises, beyond the end of the life it promised it in.
struct Promises {
    logs: Logs,
    failed: RefCell<Vec<String>>,
}

impl LaneObserver for Promises {
    fn durable(&self, ends: &[(PartitionKey, Offset)]) {
        let mut logs = self.logs.borrow_mut();
        for (key, end) in ends {
            let log = logs.get_mut(key).expect("it was appended to");
            assert!(log.promised_end < end.0 && end.0 <= log.end);
            log.promised_end = end.0;
        }
    }

    fn annotation(&self, _: PartitionKey) -> Vec<u8> {
        Vec::new()
    }

    fn failed(&self, error: &StorageError) {
        self.failed.borrow_mut().push(error.to_string());
    }
}

/// Checks what a lane recovered, and cuts the logs to it: what is there now was shown to readers.
async fn check(lane: &Rc<Lane>, logs: &Logs) {
    let keys: Vec<PartitionKey> = logs.borrow().keys().copied().collect();
    for key in keys {
        let end = lane.log_end(key).unwrap_or_default().0;
        let start = lane.log_start(key).unwrap_or_default().0;
        let found = if lane.log_end(key).is_some() {
            read_all(lane, key, Offset(start), 20_000).await
        } else {
            Vec::new()
        };
        let mut logs = logs.borrow_mut();
        let log = logs.get_mut(&key).expect("one of its keys");
        let promised = log.promised_end;
        assert!(
            end >= promised,
            "{key:?} ends at {end}, promised {promised}"
        );
        assert!(
            (log.start_promised..=log.start_asked).contains(&start),
            "{key:?} starts at {start}, promised {} asked {}",
            log.start_promised,
            log.start_asked
        );
        log.batches.retain(|base, _| *base < end);
        let first = log.batches.range(..=start).next_back();
        let first = first.map_or(start, |(base, _)| *base);
        let expected: Vec<(Offset, Vec<u8>)> = log
            .batches
            .range(first..)
            .filter(|_| start < end)
            .map(|(base, bytes)| (Offset(*base), bytes.clone()))
            .collect();
        let bases =
            |of: &[(Offset, Vec<u8>)]| of.iter().map(|(base, _)| base.0).collect::<Vec<_>>();
        assert_eq!(
            bases(&found),
            bases(&expected),
            "{key:?} from {start} to {end}"
        );
        assert!(found == expected, "{key:?}: a batch has other bytes");
        (log.end, log.promised_end) = (end, end);
        (log.start_promised, log.start_asked) = (start, start);
    }
}

/// Appends, and moves log starts, until the host dies.
async fn work(world: World, lane: Rc<Lane>, logs: Logs) {
    let below = |end| world.below(Stream::Workload, end);
    loop {
        let key = key(i32::try_from(below(4)).unwrap());
        let records = i32::try_from(below(4) + 1).unwrap();
        let size = if below(10) == 0 { 20_000 } else { 1_000 };
        let fill = u8::try_from(below(256)).unwrap();
        let mut bytes = batch(
            records,
            1,
            &vec![fill; usize::try_from(below(size)).unwrap()],
        );
        let base = lane.log_end(key).unwrap_or_default();
        match lane.append(key, base, LeaderEpoch(0), &bytes) {
            Ok(appended) => {
                place_batch(&mut bytes, base, LeaderEpoch(0));
                let mut logs = logs.borrow_mut();
                let log = logs.entry(key).or_default();
                assert_eq!(log.end, base.0);
                log.batches.insert(base.0, bytes);
                log.end = appended.log_end.0;
            }
            Err(AppendError::Full) => lane.writable().await,
            // The broker halts here.
            Err(_) => return std::future::pending().await,
        }
        let is_known = logs.borrow().contains_key(&key);
        if below(30) == 0 && is_known {
            let to = {
                let mut logs = logs.borrow_mut();
                let log = logs.get_mut(&key).expect("it is known");
                let to = log.start_asked + below_i64(&world, log.promised_end - log.start_asked);
                log.start_asked = to;
                to
            };
            if lane.set_log_start(key, Offset(to)).await.is_ok() {
                let mut logs = logs.borrow_mut();
                logs.get_mut(&key).expect("just there").start_promised = to;
            }
        }
        sleep(Duration::from_micros(below(400))).await;
    }
}

fn below_i64(world: &World, end: i64) -> i64 {
    let end = u64::try_from(end.max(0)).unwrap() + 1;
    i64::try_from(world.below(Stream::Workload, end)).unwrap()
}

pub(super) fn one_fault(world: &World, host: HostId) {
    let disk = world.disk(host);
    match world.below(Stream::Faults, 6) {
        0 => disk.fail_syncs("/data", 1),
        1 => disk.fail_writes("/data", 20_000),
        2 => disk.set_capacity("/data", Some(disk.used_bytes() + (64 << 10))),
        3 => disk.refuse_syncs("/data", 1),
        4 => disk.fail_names("/data", 200_000),
        _ => disk.slow("/data", 50),
    }
}

async fn lives(world: World, with_faults: bool) {
    let host = world.add_host([10, 0, 0, 1].into());
    let disk = world.disk(host);
    disk.create_dir_all("/data");
    disk.interrupt("/", 20_000);
    disk.shorten_reads("/", 50_000);
    disk.shorten_writes("/", 50_000);
    let logs = Logs::default();
    let config = LaneConfig {
        sync: [SyncMode::Dsync, SyncMode::WriteThenSync]
            [usize::from(world.below(Stream::Faults, 2) == 0)],
        ..keeping(world.below(Stream::Workload, 3))
    };
    for life in 0..=LIVES {
        world.boot(host);
        let (of_life, logs_of_life, config) = (world.clone(), Rc::clone(&logs), config.clone());
        let opened = world.spawn_on(host, async move {
            let opened = Lane::open(Path::new(DIR), config).await;
            let (lane, _) = opened.unwrap_or_else(|error| panic!("life {life}: {error}"));
            check(&lane, &logs_of_life).await;
            let observer = Promises {
                logs: Rc::clone(&logs_of_life),
                failed: RefCell::default(),
            };
            lane.start(Rc::new(observer));
            streambus_shards::spawn(work(of_life, lane, logs_of_life)).detach();
        });
        opened.await;
        // Some lives end before their first commit: what the one before left must stand by itself.
        let us_max = [1_000, 120_000][usize::from(world.below(Stream::Faults, 3) > 0)];
        sleep(Duration::from_micros(world.below(Stream::Faults, us_max))).await;
        if with_faults && world.below(Stream::Faults, 2) == 0 {
            one_fault(&world, host);
            sleep(Duration::from_millis(world.below(Stream::Faults, 60))).await;
        }
        let power = world.below(Stream::Faults, 2) == 0;
        world.kill(host, if power { Kill::Power } else { Kill::Process });
        disk.heal();
        disk.set_capacity("/data", None);
    }
    let promised: i64 = logs.borrow().values().map(|log| log.promised_end).sum();
    assert!(promised > 0, "nothing was ever promised");
}

fn over(seeds: std::ops::Range<u64>, with_faults: bool) {
    for seed in seeds {
        let report = sim::run(Simulation::new(seed), move |world| {
            lives(world, with_faults)
        });
        if let Err(failure) = report.result {
            panic!("seed {seed}: {failure}\n{:#?}", report.notes);
        }
    }
}

#[test]
fn what_was_promised_survives_power_failures_and_kills() {
    // Proves that a lane recovers every batch it called durable, byte for byte, and never one it did
    // not get, over many lives that end by a kill or a power failure at any moment.
    over(0..60, false);
}

#[test]
fn what_was_promised_survives_a_disk_that_goes_wrong() {
    // Proves the same with failing syncs, writes, opens and renames, syncs without space, a full disk and a slow one
    // before the end of a life.
    over(1_000..1_060, true);
}

#[test]
fn names_that_a_dead_process_left_are_durable_before_anything_is_built_on_them() {
    // Proves that nothing is acknowledged into a log file whose name a power failure takes back: the process that
    // renamed it died before it synced the directory.
    let config = || LaneConfig {
        memtable_bytes: 512 << 10, // Nothing is flushed: a manifest would sync the directory.
        ..small()
    };
    for seed in 0..30 {
        let report = sim::run(Simulation::new(seed), move |world| async move {
            let host = world.add_host([10, 0, 0, 1].into());
            let disk = world.disk(host);
            disk.create_dir_all("/data");
            world.boot(host);
            let renamed = world.spawn_on(host, async move {
                let (lane, _, _) = started(Path::new(DIR), config()).await;
                let end = append(&lane, key(0), &batch(1, 0, b"first")).await;
                durable(&lane, key(0), end).await;
                let epoch = lane.state.borrow().buffer.place().epoch + 1;
                let name = Path::new(DIR).join(names::wal(epoch));
                while !disk::exists(&name) {
                    sleep(Duration::from_millis(1)).await;
                }
                lane.close().await.unwrap();
                let unfinished = Path::new(DIR).join(names::wal_new(epoch));
                disk::rename(&name, &unfinished).await.unwrap();
                disk::sync_dir(Path::new(DIR)).await.unwrap();
                disk::rename(&unfinished, &name).await.unwrap();
            });
            renamed.await;
            world.kill(host, Kill::Process);
            disk.set_capacity("/data", Some(disk.used_bytes()));
            world.boot(host);
            let promised = world.spawn_on(host, async move {
                let (lane, _, _) = started(Path::new(DIR), config()).await;
                let first = lane.state.borrow().buffer.place().epoch;
                while lane.state.borrow().durable.epoch == first {
                    let end = append(&lane, key(0), &batch(1, 0, &[7; 5_000])).await;
                    durable(&lane, key(0), end).await;
                }
                lane.durable_end(key(0)).unwrap()
            });
            let promised = promised.await;
            world.kill(host, Kill::Power);
            disk.set_capacity("/data", None);
            world.boot(host);
            let checked = world.spawn_on(host, async move {
                let (lane, _, _) = started(Path::new(DIR), config()).await;
                assert_eq!(lane.log_end(key(0)), Some(promised));
            });
            checked.await;
        });
        if let Err(failure) = report.result {
            panic!("seed {seed}: {failure}\n{:#?}", report.notes);
        }
    }
}
