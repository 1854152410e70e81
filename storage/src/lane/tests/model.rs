//! Random operations against a reference, with restarts and crashes in between.

use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

use streambus_proto::ids::{LeaderEpoch, Offset};
use streambus_shards::{run_alone, yield_now};

use super::{Owner, append, durable, keeping, key, read_all, started};
use crate::batch::place_batch;
use crate::batch::tests::batch;
use crate::key::PartitionKey;
use crate::lane::{Lane, Recovery};
use crate::wal::tests::Chance;

/// What a partition must hold.
#[derive(Default, Clone)]
struct Reference {
    log_start: i64,
    log_end: i64,
    batches: BTreeMap<i64, Vec<u8>>,
}

impl Reference {
    fn append(&mut self, mut bytes: Vec<u8>, records: i32) {
        place_batch(&mut bytes, Offset(self.log_end), LeaderEpoch(0));
        self.batches.insert(self.log_end, bytes);
        self.log_end += i64::from(records);
    }

    /// The batches that a read from the log start must return.
    fn visible(&self) -> Vec<(Offset, Vec<u8>)> {
        let inside = self.batches.range(..self.log_start).next_back();
        let first = inside.filter(|(base, _)| self.end_of(**base) > self.log_start);
        let from = first.map_or(self.log_start, |(base, _)| *base);
        let range = self.batches.range(from..);
        range
            .map(|(base, bytes)| (Offset(*base), bytes.clone()))
            .collect()
    }

    fn end_of(&self, base: i64) -> i64 {
        self.batches
            .range(base + 1..)
            .next()
            .map_or(self.log_end, |(next, _)| *next)
    }

    /// A crash lost what was not durable.
    fn cut(&mut self, log_end: i64) {
        self.batches.retain(|base, _| *base < log_end);
        self.log_end = log_end;
    }
}

struct World {
    seed: u64,
    chance: Chance,
    references: BTreeMap<PartitionKey, Reference>,
}

impl World {
    fn pick(&mut self) -> PartitionKey {
        key(i32::try_from(self.chance.below(6)).unwrap())
    }

    async fn append_some(&mut self, lane: &Lane) {
        for _ in 0..=self.chance.below(40) {
            let key = self.pick();
            let records = i32::try_from(self.chance.below(5) + 1).unwrap();
            let size = match self.chance.below(20) {
                0 => 30_000,
                1..4 => 4_000,
                _ => 200,
            };
            let size = self.chance.below(size) as usize;
            let fill = self.chance.next() as u8;
            let bytes = batch(records, self.chance.below(1_000) as i64, &vec![fill; size]);
            append(lane, key, &bytes).await;
            self.references
                .entry(key)
                .or_default()
                .append(bytes, records);
        }
    }

    async fn step(&mut self, lane: &Rc<Lane>, owner: &Owner) {
        match self.chance.below(12) {
            0..6 => self.append_some(lane).await,
            6 => {
                let key = self.pick();
                let Some(reference) = self.references.get_mut(&key) else {
                    return;
                };
                let room = reference.log_end - reference.log_start;
                let to = reference.log_start + self.chance.below(room as u64 + 1) as i64;
                lane.set_log_start(key, Offset(to)).await.unwrap();
                reference.log_start = to;
            }
            7 => {
                let key = self.pick();
                let bytes = self.chance.below(200_000);
                if let Some(start) = lane.enforce_retention(key, None, Some(bytes), 0) {
                    let reference = self.references.get_mut(&key).unwrap();
                    assert!(start.0 >= reference.log_start && start.0 <= reference.log_end);
                    reference.log_start = start.0;
                }
            }
            8 if self.chance.below(4) == 0 => {
                let key = self.pick();
                lane.drop_partition(key).await.unwrap();
                self.references.remove(&key);
                owner.durable.borrow_mut().remove(&key);
            }
            9 => self.check(lane).await,
            _ => {
                for _ in 0..self.chance.below(10) {
                    yield_now().await;
                }
            }
        }
    }

    async fn check(&mut self, lane: &Rc<Lane>) {
        let seed = self.seed;
        for (key, reference) in &self.references {
            let end = Offset(reference.log_end);
            assert_eq!(lane.log_end(*key), Some(end), "seed {seed}");
            assert_eq!(
                lane.log_start(*key),
                Some(Offset(reference.log_start)),
                "seed {seed}"
            );
            durable(lane, *key, end).await;
            let max = self.chance.below(20_000) as usize;
            let found = read_all(lane, *key, Offset(reference.log_start), max).await;
            let expected = reference.visible();
            assert_eq!(found.len(), expected.len(), "seed {seed}: batches of {key}");
            assert!(found == expected, "seed {seed}: other bytes in {key}");
        }
    }

    /// The lane was opened again: what was durable must be there, what was not may be, in order.
    fn reopened(&mut self, recovery: &Recovery, durable: &BTreeMap<PartitionKey, Offset>) {
        let seed = self.seed;
        let found: BTreeMap<_, _> = recovery
            .partitions
            .iter()
            .map(|known| (known.key, known))
            .collect();
        for (key, reference) in &mut self.references {
            let Some(found) = found.get(key) else {
                assert!(!durable.contains_key(key), "seed {seed}: {key} is lost");
                reference.cut(0);
                continue;
            };
            let least = durable.get(key).map_or(0, |end| end.0);
            let end = found.log_end.0;
            assert!(end >= least, "seed {seed}: {key} lost {end}..{least}");
            assert!(end <= reference.log_end, "seed {seed}: {key} ends at {end}");
            reference.cut(end);
            // A log start that was not durable may have been lost.
            assert!(found.log_start.0 <= reference.log_start, "seed {seed}");
            reference.log_start = found.log_start.0;
        }
        self.references
            .retain(|_, reference| reference.log_end > 0 || reference.log_start > 0);
    }
}

/// Copies a directory as it lies there: what a `kill -9` at this moment would leave.
pub(super) fn copy_dir(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}

fn durable_ends(owner: &Owner) -> BTreeMap<PartitionKey, Offset> {
    owner.durable.borrow().clone()
}

/// Runs one seed; returns the merges that lanes carried out in it.
fn run_seed(seed: u64) -> u64 {
    let dir = tempfile::tempdir().unwrap();
    run_alone(async move {
        let mut merges = 0;
        let mut world = World {
            seed,
            chance: Chance(seed),
            references: BTreeMap::new(),
        };
        let mut at = dir.path().join("0");
        let config = keeping(seed);
        let (mut lane, mut owner, _) = started(&at, config.clone()).await;
        for round in 1..5 {
            for _ in 0..25 {
                world.step(&lane, &owner).await;
            }
            merges += lane.stats().merges;
            let crash = world.chance.below(2) == 0;
            if crash {
                let ends = durable_ends(&owner);
                let next = dir.path().join(round.to_string());
                // A file that is renamed while it is copied makes the copy fail: then again.
                while copy_dir(&at, &next).is_err() {
                    std::fs::remove_dir_all(&next).unwrap();
                    yield_now().await;
                }
                lane.close().await.unwrap();
                at = next;
                let reopened = started(&at, config.clone()).await;
                (lane, owner) = (reopened.0, reopened.1);
                world.reopened(&reopened.2, &ends);
                // No crash makes files that nobody dares to delete.
                assert!(
                    reopened.2.quarantined.is_empty(),
                    "seed {seed}: {:?}",
                    reopened.2
                );
            } else {
                lane.close().await.unwrap();
                let reopened = started(&at, config.clone()).await;
                (lane, owner) = (reopened.0, reopened.1);
                let all = world.references.iter();
                let ends = all
                    .map(|(key, reference)| (*key, Offset(reference.log_end)))
                    .collect();
                world.reopened(&reopened.2, &ends);
                assert_eq!(
                    reopened.2.cut_bytes, 0,
                    "seed {seed}: a clean stop leaves no torn tail"
                );
            }
            world.check(&lane).await;
        }
        lane.close().await.unwrap();
        merges
    })
    .unwrap()
}

/// Seeds that always run.
const SEEDS_MIN: u64 = 10;
/// Seeds after which too few merges are a failure.
const SEEDS_MAX: u64 = 60;
/// Merges that the seeds must meet together.
const MERGES_MIN: u64 = 20;

#[test]
fn random_operations_with_restarts_and_crashes_match_the_reference() {
    // Proves that reads return exactly what was appended and kept, through flushes, recycling,
    // rewrites, merges, clean restarts and crashes at arbitrary moments; durable batches are never lost.
    // How many merges a seed meets depends on how fast the disk is: more seeds make up for few.
    let mut merges = 0;
    for seed in 0..SEEDS_MAX {
        merges += run_seed(seed);
        if seed + 1 >= SEEDS_MIN && merges > MERGES_MIN {
            return;
        }
    }
    panic!("{merges} merges in {SEEDS_MAX} seeds: the model hardly meets them");
}
