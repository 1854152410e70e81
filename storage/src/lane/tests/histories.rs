//! Random histories of a lane in the simulated world, from seeds, against a reference.
//!
//! Half of the partitions keep what they are given until it is deleted, byte for byte; the others are
//! compacted by key, with transactions among what they are given. Appends, look-ups, deletions from
//! the front, retention, removals and cleanings come in any order, merges between them; lives end by a
//! kill or a power failure at any moment, in some of them after the disk went wrong.
//!
//! `STREAMBUS_HISTORIES=2000` runs that many seeds instead of the usual few, `STREAMBUS_HISTORY=17`
//! that one alone.

mod reference;

use std::time::Duration;

use streambus_proto::records::Codec;
use streambus_shards::sim::{self, Kill, Simulation, Stream, World};
use streambus_shards::sleep;

use self::reference::{Keyed, Reference, State, marker_event, records_event};
use super::power::one_fault;
use super::*;
use crate::LaneStats;
use crate::clean::CleanPolicy;

const DIR: &str = "/data/lane";
const LIVES: u64 = 5;
/// Seeds that every test run takes.
const SEEDS: u64 = 60;
/// Partitions below this keep everything, the others are compacted.
const PLAIN: i32 = 3;
const PARTITIONS: u64 = 6;

type References = Rc<RefCell<BTreeMap<PartitionKey, Reference>>>;

/// Keeps what the lane promises, beyond the end of the life it promised it in.
struct Promises(References);

impl LaneObserver for Promises {
    fn durable(&self, ends: &[(PartitionKey, Offset)]) {
        let mut references = self.0.borrow_mut();
        for (key, end) in ends {
            let known = references.get_mut(key).expect("it was appended to");
            if !known.drop_asked {
                assert!(known.promised_end < end.0 && end.0 <= known.end);
                known.promised_end = end.0;
            }
        }
    }

    fn annotation(&self, _: PartitionKey) -> Vec<u8> {
        Vec::new()
    }

    fn failed(&self, _: &StorageError) {}
}

/// What the histories of a seed came to.
#[derive(Debug, Clone, Copy, Default)]
struct Met {
    merges: u64,
    cleanings: u64,
    cleaned_away_bytes: u64,
    lookups: u64,
    tables_read: u64,
}

impl Met {
    fn add(&mut self, stats: &LaneStats) {
        self.merges += stats.merges;
        self.cleanings += stats.cleanings;
        self.cleaned_away_bytes += stats.cleaned_away_bytes;
        self.lookups += stats.key_lookups;
        self.tables_read += stats.key_tables_read;
    }
}

/// A life of the lane.
struct Life {
    world: World,
    lane: Rc<Lane>,
    references: References,
    now_ms: i64,
}

impl Life {
    fn below(&self, end: u64) -> u64 {
        self.world.below(Stream::Workload, end)
    }

    fn below_i64(&self, end: i64) -> i64 {
        i64::try_from(self.below(u64::try_from(end.max(0)).unwrap() + 1)).unwrap()
    }

    /// Until the host dies.
    async fn live(mut self, stats: Rc<RefCell<LaneStats>>) {
        let asked = |(key, known): (&PartitionKey, &Reference)| known.drop_asked.then_some(*key);
        let again: Vec<_> = self.references.borrow().iter().filter_map(asked).collect();
        for key in again {
            self.drop(key).await;
        }
        loop {
            let key = key(i32::try_from(self.below(PARTITIONS)).unwrap());
            let is_there = self.lane.log_end(key).is_some();
            match self.below(60) {
                0 if is_there => self.move_start(key).await,
                1 if is_there => self.retain(key),
                2 if is_there && self.below(3) == 0 => self.drop(key).await,
                3..10 if key.index >= PLAIN => self.clean(key),
                10..14 if is_there && key.index >= PLAIN => self.look_up(key).await,
                _ => self.append(key).await,
            }
            self.now_ms += 50;
            *stats.borrow_mut() = self.lane.stats();
            sleep(Duration::from_micros(self.below(400))).await;
        }
    }

    async fn append(&self, key: PartitionKey) {
        let base = self.lane.log_end(key).unwrap_or_default();
        let open = self.open(key);
        let producer = self.below(3) as i64;
        let event = if key.index >= PLAIN && open.contains(&producer) && self.below(2) == 0 {
            marker_event(producer, self.below(3) > 0, self.now_ms, base)
        } else {
            let transaction = key.index >= PLAIN && self.below(6) == 0;
            let producer = transaction.then_some(producer);
            let records = (0..=self.below(6)).map(|_| self.record()).collect();
            let codec = Codec::ALL[self.below(5) as usize];
            records_event(codec, producer, self.now_ms, records, base)
        };
        match self.lane.append(key, base, LeaderEpoch(0), event.bytes()) {
            Ok(appended) => {
                let mut references = self.references.borrow_mut();
                let known = references.entry(key).or_default();
                assert_eq!(known.end, base.0);
                known.push(event);
                assert_eq!(known.end, appended.log_end.0);
            }
            Err(AppendError::Full) => self.lane.writable().await,
            // The broker halts here.
            Err(_) => std::future::pending().await,
        }
    }

    fn open(&self, key: PartitionKey) -> std::collections::BTreeSet<i64> {
        let references = self.references.borrow();
        references
            .get(&key)
            .map(Reference::open)
            .unwrap_or_default()
    }

    /// A few keys are hot, so that most of what is written is soon replaced.
    fn record(&self) -> Keyed {
        let range = 1 + self.below(60);
        let key = format!("key-{}", self.below(range)).into_bytes();
        let size = if self.below(30) == 0 { 12_000 } else { 900 };
        let mut value = vec![0; usize::try_from(self.below(size)).unwrap()];
        for byte in value.iter_mut().step_by(1 + self.below(40) as usize) {
            *byte = self.below(256) as u8;
        }
        (key, (self.below(8) > 0).then_some(value))
    }

    async fn move_start(&self, key: PartitionKey) {
        let to = {
            let mut references = self.references.borrow_mut();
            let known = references.get_mut(&key).expect("it is there");
            let to =
                known.start_asked + self.below_i64((known.promised_end - known.start_asked) / 2);
            known.start_asked = to;
            to
        };
        if self.lane.set_log_start(key, Offset(to)).await.is_ok() {
            let mut references = self.references.borrow_mut();
            references
                .get_mut(&key)
                .expect("it is there")
                .start_promised = to;
        }
    }

    fn retain(&self, key: PartitionKey) {
        let bytes = 20_000 + self.below(200_000);
        if let Some(start) = self.lane.enforce_retention(key, None, Some(bytes), 0) {
            let mut references = self.references.borrow_mut();
            let known = references.get_mut(&key).expect("it is there");
            assert!((known.start_asked..=known.promised_end).contains(&start.0));
            known.start_asked = start.0;
        }
    }

    async fn drop(&self, key: PartitionKey) {
        let ask = |known: &mut Reference| known.drop_asked = true;
        self.references.borrow_mut().entry(key).and_modify(ask);
        if self.lane.drop_partition(key).await.is_ok() {
            self.references.borrow_mut().remove(&key);
        }
    }

    fn clean(&self, key: PartitionKey) {
        let references = self.references.borrow();
        let Some(known) = references.get(&key) else {
            return;
        };
        let policy = CleanPolicy {
            min_compaction_lag_ms: [0, 0, 500][self.below(3) as usize],
            max_compaction_lag_ms: [i64::MAX, i64::MAX, 1_000][self.below(3) as usize],
            min_cleanable_dirty_ppm: [0, 100_000, 300_000][self.below(3) as usize],
            delete_retention_ms: [0, 500, i64::MAX / 2][self.below(3) as usize],
        };
        let decided = Offset(known.last_stable());
        self.lane.clean(key, policy, decided, self.now_ms);
    }

    /// Looks a key up as a reader would: what is not committed counts as not there.
    async fn look_up(&self, key: PartitionKey) {
        let name = format!("key-{}", self.below(64)).into_bytes();
        let mut upto = self.lane.durable_end(key).expect("it is there");
        let bound = upto.0;
        loop {
            let hit = match self.lane.latest_by_key(key, &name, upto).await {
                Ok(hit) => hit,
                // A disk that goes wrong ends the life soon.
                Err(StorageError::Disk { .. }) => return,
                Err(error) => panic!("{name:?} of {key}: {error}"),
            };
            let references = self.references.borrow();
            let known = &references[&key];
            let records = known.records();
            let start = known.start_asked;
            if let Some(hit) = &hit {
                let (record, state, _) = records[&hit.offset.0];
                assert_eq!((&record.0, &record.1), (&name, &hit.value));
                if state != State::Committed {
                    upto = hit.offset;
                    continue;
                }
            }
            let newest = Reference::newest(&records, start..bound)
                .get(name.as_slice())
                .copied();
            let offset = hit.map(|hit| hit.offset.0);
            let gone =
                offset.is_none() && newest.is_some_and(|newest| records[&newest].0.1.is_none());
            assert!(
                gone || offset == newest,
                "{name:?} of {key}: {offset:?}, not {newest:?}"
            );
            return;
        }
    }
}

/// Checks what a lane recovered, and cuts the references to it: what is there now was shown to readers.
async fn check(lane: &Rc<Lane>, references: &References) {
    let keys: Vec<PartitionKey> = references.borrow().keys().copied().collect();
    for key in keys {
        let there = lane.log_end(key).zip(lane.log_start(key));
        let found = match there {
            Some((_, start)) => read_all(lane, key, start, 20_000).await,
            None => Vec::new(),
        };
        let cleaned_end = lane.cleaned_end(key).unwrap_or_default().0;
        let mut references = references.borrow_mut();
        let known = references.get_mut(&key).expect("one of its keys");
        // It may be there in part: the next life asks for its removal again.
        if known.drop_asked {
            continue;
        }
        let (end, start) = there.map_or((0, 0), |(end, start)| (end.0, start.0));
        let promised = known.promised_end;
        assert!(
            (promised..=known.end).contains(&end),
            "{key} ends at {end}, promised {promised}"
        );
        let starts = known.start_promised..=known.start_asked;
        assert!(
            starts.contains(&start),
            "{key} starts at {start}, not in {starts:?}"
        );
        known.cut(end);
        if key.index < PLAIN {
            known.check_bytes(start, &found);
        } else {
            known.check_compacted(start, cleaned_end, &found);
        }
        known.promised_end = end;
        (known.start_promised, known.start_asked) = (start, start);
    }
}

async fn lives(world: World, met: Rc<RefCell<Met>>) {
    let host = world.add_host([10, 0, 0, 1].into());
    let disk = world.disk(host);
    disk.create_dir_all("/data");
    let references = References::default();
    let config = LaneConfig {
        // Few enough that surveys fill up, also within a transaction.
        clean_keys_max: 4 + usize::try_from(world.below(Stream::Workload, 60)).unwrap(),
        ..keeping(world.below(Stream::Workload, 3))
    };
    for life in 0..=LIVES {
        world.boot(host);
        let stats = Rc::new(RefCell::new(LaneStats::default()));
        let (of_life, known, of_lane) = (world.clone(), Rc::clone(&references), Rc::clone(&stats));
        let config = config.clone();
        let opened = world.spawn_on(host, async move {
            let opened = Lane::open(Path::new(DIR), config).await;
            let (lane, recovery) = opened.unwrap_or_else(|error| panic!("life {life}: {error}"));
            assert!(recovery.quarantined.is_empty(), "life {life}: {recovery:?}");
            check(&lane, &known).await;
            lane.start(Rc::new(Promises(Rc::clone(&known))));
            let life = Life {
                world: of_life,
                lane,
                references: known,
                now_ms: 1_000 + i64::try_from(life).unwrap() * 100_000,
            };
            streambus_shards::spawn(life.live(of_lane)).detach();
        });
        opened.await;
        let us = world.below(Stream::Faults, 150_000);
        sleep(Duration::from_micros(us)).await;
        if world.below(Stream::Faults, 4) == 0 {
            one_fault(&world, host);
            sleep(Duration::from_millis(world.below(Stream::Faults, 60))).await;
        }
        met.borrow_mut().add(&stats.borrow());
        let power = world.below(Stream::Faults, 2) == 0;
        world.kill(host, if power { Kill::Power } else { Kill::Process });
        disk.heal();
        disk.set_capacity("/data", None);
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn random_histories_match_the_reference() {
    // Proves flushes, merges, rewrites, cleaning, filters, look-ups, retention and recovery together:
    // plain partitions return byte for byte what they were given, compacted ones the newest committed
    // record of each key and nothing that was replaced, after any end of a life.
    let met = Rc::new(RefCell::new(Met::default()));
    let seeds = match number("STREAMBUS_HISTORY") {
        Some(seed) => seed..seed + 1,
        None => 0..number("STREAMBUS_HISTORIES").unwrap_or(SEEDS),
    };
    let (count, begun) = (seeds.end - seeds.start, seeds.start);
    for seed in seeds {
        let of_seed = Rc::clone(&met);
        let report = sim::run(Simulation::new(seed), move |world| lives(world, of_seed));
        if let Err(failure) = report.result {
            panic!("seed {seed}: {failure}\n{:#?}", report.notes);
        }
    }
    let met = *met.borrow();
    println!("seeds {begun} and {count} up: {met:?}");
    if count >= SEEDS {
        assert!(
            met.merges > count / 2 && met.cleanings > count / 2,
            "{met:?}"
        );
        assert!(met.cleaned_away_bytes > count * 5_000, "{met:?}");
        assert!(
            met.lookups > count * 20 && met.tables_read > count,
            "{met:?}"
        );
    }
}
