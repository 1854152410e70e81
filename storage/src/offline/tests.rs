//! Planted damage: each kind is found at its place, and a repair drops what was said and nothing else.

mod unreadable;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use streambus_proto::ids::{LeaderEpoch, TopicId};
use streambus_proto::records::{BatchBuilder, Codec, NewRecord};
use streambus_shards::sync::Notify;
use streambus_shards::{run_alone, yield_now};

use super::*;
use crate::batch::BatchInfo;
use crate::batch::tests::batch;
use crate::clean::CleanPolicy;
use crate::config::LaneConfig;
use crate::error::{AppendError, StorageError};
use crate::lane::{Lane, ReadPlan};
use crate::observer::LaneObserver;

const PARTITIONS: i32 = 3;
const BATCHES: i64 = 240;

fn key(index: i32) -> PartitionKey {
    PartitionKey {
        topic: TopicId([5; 16]),
        index,
    }
}

fn config() -> LaneConfig {
    LaneConfig {
        wal_file_bytes: 128 << 10,
        wal_files_max: 6,
        memtable_bytes: 64 << 10,
        block_bytes: 4 << 10,
        index_stride_bytes: 2 << 10,
        commit_bytes_max: 32 << 10,
        ..LaneConfig::default()
    }
}

#[derive(Default)]
struct Owner {
    moved: Notify,
    failed: RefCell<Option<String>>,
}

impl LaneObserver for Owner {
    fn durable(&self, _: &[(PartitionKey, Offset)]) {
        self.moved.notify_all();
    }

    fn annotation(&self, _: PartitionKey) -> Vec<u8> {
        Vec::new()
    }

    fn failed(&self, error: &StorageError) {
        *self.failed.borrow_mut() = Some(error.to_string());
    }
}

/// Batches by partition and base offset.
type Content = BTreeMap<(PartitionKey, Offset), Vec<u8>>;

/// A lane with tables and a WAL of many commits that no table holds yet; what is in it.
fn fill(dir: &Path) -> Content {
    run_alone(filled(dir, config(), 900)).unwrap()
}

/// With these, what no table holds is in several WAL files.
fn small_wal_files() -> LaneConfig {
    LaneConfig {
        wal_file_bytes: 64 << 10,
        wal_files_max: 12,
        memtable_bytes: 256 << 10,
        ..config()
    }
}

/// The same, with batches of `payload_bytes` behind their headers.
async fn filled(dir: &Path, config: LaneConfig, payload_bytes: usize) -> Content {
    // A merge that the end cuts off could leave tables that nobody misses when they are damaged.
    let without_merges = LaneConfig {
        merge_fan_in: 64,
        ..config
    };
    let (lane, _) = Lane::open(dir, without_merges).await.unwrap();
    let owner = Rc::new(Owner::default());
    lane.start(Rc::clone(&owner) as Rc<dyn LaneObserver>);
    let mut content = Content::new();
    for nth in 0..BATCHES {
        let key = key(i32::try_from(nth).unwrap() % PARTITIONS);
        let bytes = batch(2, 100 + nth, &vec![7; payload_bytes]);
        let base = lane.log_end(key).unwrap_or_default();
        let end = loop {
            match lane.append(key, base, LeaderEpoch(0), &bytes) {
                Ok(appended) => break appended.log_end,
                Err(AppendError::Full) => lane.writable().await,
                Err(error) => panic!("append: {error}"),
            }
        };
        let mut placed = bytes.clone();
        crate::batch::place_batch(&mut placed, base, LeaderEpoch(0));
        content.insert((key, base), placed);
        while lane.durable_end(key).unwrap() < end {
            owner.moved.notified().await;
        }
    }
    lane.close().await.unwrap();
    assert_eq!(*owner.failed.borrow(), None);
    content
}

/// What is left of it when these offsets are lost.
fn without(mut content: Content, lost: &[Lost]) -> Content {
    let is_lost = |(key, base): &(PartitionKey, Offset)| {
        lost.iter()
            .any(|lost| lost.key == *key && (lost.start..lost.end).contains(base))
    };
    content.retain(|at, _| !is_lost(at));
    content
}

fn read_back(dir: &Path) -> Content {
    run_alone(kept(dir)).unwrap()
}

/// What the lane serves, but for what fills holes.
async fn kept(dir: &Path) -> Content {
    let (lane, _) = Lane::open(dir, config()).await.unwrap();
    let mut content = Content::new();
    for key in lane.partitions() {
        let mut from = lane.log_start(key).unwrap();
        let upto = lane.durable_end(key).unwrap();
        loop {
            let batches = match lane.read(key, from, 10_000, upto).unwrap() {
                ReadPlan::Ready(batches) => batches,
                ReadPlan::Cold(cold) => cold.read().await.unwrap(),
            };
            if batches.bytes == 0 {
                break;
            }
            let joined: Vec<u8> = batches.bufs.iter().flat_map(|buf| buf.to_vec()).collect();
            let mut rest = joined.as_slice();
            while let Some(info) = BatchInfo::read(rest) {
                let (one, later) = rest.split_at(info.bytes);
                // What fills a hole has no records.
                if info.record_count > 0 {
                    content.insert((key, info.base_offset), one.to_vec());
                }
                rest = later;
            }
            from = batches.next_offset;
        }
    }
    content
}

fn look(dir: &Path, depth: Depth) -> (Examined, Vec<Seen>) {
    run_alone(async {
        let mut seen = Vec::new();
        let examined = examine(dir, depth, &mut |one| seen.push(one)).await;
        (examined, seen)
    })
    .unwrap()
}

fn tables(dir: &Path) -> Vec<PathBuf> {
    let names = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut tables: Vec<_> = names
        .filter(|path| path.extension().is_some_and(|end| end == "tbl"))
        .collect();
    tables.sort();
    tables
}

fn change(path: &Path, how: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    how(&mut bytes);
    fs::write(path, bytes).unwrap();
}

/// The file and the byte of the commit in the middle of the WAL.
fn middle_commit(dir: &Path) -> (PathBuf, u64) {
    let (_, seen) = look(dir, Depth::Listing);
    let commits: Vec<_> = seen
        .iter()
        .filter_map(|one| match one {
            Seen::Commit {
                epoch, position, ..
            } => Some((*epoch, *position)),
            _ => None,
        })
        .collect();
    let (epoch, position) = commits[commits.len() / 2];
    (dir.join(crate::names::wal(epoch)), position)
}

#[test]
fn a_sound_lane_is_listed_whole() {
    // Proves that a lane without damage has no finding, and that every batch is told once, from a table or
    // from the WAL; and that looking changes no file.
    let dir = tempfile::tempdir().unwrap();
    let content = fill(dir.path());
    let before: Vec<_> = tables(dir.path());
    let (examined, seen) = look(dir.path(), Depth::Everything);
    assert_eq!(examined.findings, vec![]);
    assert!(examined.totals.tables > 0 && examined.totals.records > 10);
    assert_eq!(examined.totals.torn_bytes, 0);
    let mut told = 0;
    for one in &seen {
        let offsets = match one {
            Seen::Part { offsets, .. } => Some(*offsets),
            Seen::Record {
                offsets,
                kind: "batch",
                ..
            } => *offsets,
            _ => None,
        };
        told += offsets.map_or(0, |(start, end)| end.0 - start.0);
    }
    assert_eq!(told, BATCHES * 2, "two records a batch");
    assert_eq!(tables(dir.path()), before);
    assert_eq!(read_back(dir.path()), content);
}

#[test]
fn a_table_that_a_crash_left_unnamed_is_sound() {
    // Proves that the state between the manifest's swap and a table's naming is no damage, and that a repair
    // of something else keeps the table.
    let dir = tempfile::tempdir().unwrap();
    let content = fill(dir.path());
    let table = tables(dir.path()).remove(0);
    fs::rename(&table, table.with_extension("new")).unwrap();
    let stranger = dir.path().join("table-00000000000000ff.tbl");
    fs::copy(&tables(dir.path())[0], stranger).unwrap();
    let (examined, _) = look(dir.path(), Depth::Everything);
    assert_eq!(examined.findings.len(), 1, "{:?}", examined.findings);
    run_alone(repair(examined)).unwrap().unwrap();
    assert_eq!(read_back(dir.path()), content);
}

#[test]
fn a_file_of_a_strange_name_is_no_damage() {
    // Proves that it is told, and that the lane is sound.
    let dir = tempfile::tempdir().unwrap();
    let content = fill(dir.path());
    let strange = dir.path().join("notes.txt");
    fs::write(&strange, "mine").unwrap();
    let (examined, _) = look(dir.path(), Depth::Everything);
    assert_eq!(examined.findings, vec![]);
    assert_eq!(examined.unknown, vec![strange]);
    assert_eq!(read_back(dir.path()), content);
}

#[test]
fn a_cut_that_fails_halfway_leaves_the_damage_to_be_found() {
    // Proves that files behind the damage stay until the cut is done: without them the damaged commit would be
    // the last one, a torn tail that the next start cuts without a word.
    let dir = tempfile::tempdir().unwrap();
    let content = run_alone(filled(dir.path(), small_wal_files(), 900)).unwrap();
    let (_, seen) = look(dir.path(), Depth::Listing);
    let places = seen.iter().filter_map(|one| match one {
        Seen::Commit {
            epoch, position, ..
        } => Some((*epoch, *position)),
        _ => None,
    });
    let last_of: BTreeMap<u64, u64> = places.collect();
    assert!(last_of.len() > 2, "{last_of:?}");
    let (epoch, position) = last_of.first_key_value().unwrap();
    let path = dir.path().join(crate::names::wal(*epoch));
    let at = usize::try_from(*position).unwrap() + 200;
    change(&path, |bytes| bytes[at] ^= 1);
    let (examined, _) = look(dir.path(), Depth::Everything);
    let before = examined.findings.clone();
    assert_eq!(before.len(), 1, "{before:?}");
    // The file that takes the damaged one's place can't be made.
    let in_the_way = dir.path().join(crate::names::wal_new(*epoch));
    fs::create_dir(&in_the_way).unwrap();
    run_alone(repair(examined)).unwrap().unwrap_err();
    let (examined, _) = look(dir.path(), Depth::Everything);
    assert_eq!(examined.findings, before, "as before the attempt");
    fs::remove_dir(&in_the_way).unwrap();
    run_alone(repair(examined)).unwrap().unwrap();
    let (after, _) = look(dir.path(), Depth::Everything);
    assert_eq!(after.findings, vec![]);
    let found = read_back(dir.path());
    assert!(found.len() < content.len() && !found.is_empty());
}

#[test]
fn a_batch_that_is_damaged_twice_is_lost_once() {
    // Proves that each bad range is told, and what they take with them once: with the first of them.
    let dir = tempfile::tempdir().unwrap();
    let content = run_alone(filled(dir.path(), config(), 18_000)).unwrap();
    // A batch of 18 KB lies in more than four blocks. Both of these are in the first batch.
    change(&tables(dir.path())[0], |bytes| {
        bytes[5_000] ^= 1;
        bytes[13_000] ^= 1;
    });
    let (examined, _) = look(dir.path(), Depth::Everything);
    let lost: Vec<_> = examined.findings.iter().map(|one| one.lost.len()).collect();
    assert_eq!(lost, [1, 0], "{:?}", examined.findings);
    run_alone(repair(examined)).unwrap().unwrap();
    assert_eq!(read_back(dir.path()).len(), content.len() - 1);
}

#[test]
fn what_is_the_file_systems_is_left_alone() {
    // Proves that neither a look nor a start takes `lost+found` for a stranger, and that a start leaves it
    // where it is.
    let dir = tempfile::tempdir().unwrap();
    let content = fill(dir.path());
    fs::create_dir(dir.path().join("lost+found")).unwrap();
    let (examined, _) = look(dir.path(), Depth::Everything);
    assert_eq!(examined.findings, vec![]);
    assert_eq!(read_back(dir.path()), content);
    assert!(dir.path().join("lost+found").exists());
}

/// A lane of which partition 0 was compacted, out of tables that it shared with others.
fn fill_compacted(dir: &Path) {
    // The tables must stay as compaction leaves them: no rewrite of what is dead, no merge. So the
    // flushes write parts of the size that `shared_part` looks for.
    let config = LaneConfig {
        memtable_bytes: 192 << 10,
        rewrite_dead_percent: 100,
        merge_table_bytes_max: 1,
        ..config()
    };
    run_alone(async {
        let (lane, _) = Lane::open(dir, config).await.unwrap();
        let owner = Rc::new(Owner::default());
        lane.start(Rc::clone(&owner) as Rc<dyn LaneObserver>);
        let value = [7; 900];
        for nth in 0..BATCHES {
            let key = key(i32::try_from(nth).unwrap() % PARTITIONS);
            let mut builder = BatchBuilder::new(Codec::None);
            builder.push(&NewRecord {
                timestamp: 5,
                key: Some(&[u8::try_from(nth % 7).unwrap()]),
                value: Some(&value),
                headers: &[],
            });
            let bytes = builder.build();
            let base = lane.log_end(key).unwrap_or_default();
            while lane.append(key, base, LeaderEpoch(0), &bytes) == Err(AppendError::Full) {
                lane.writable().await;
            }
            while lane.durable_end(key).unwrap() <= base {
                owner.moved.notified().await;
            }
        }
        let policy = CleanPolicy {
            min_compaction_lag_ms: 0,
            max_compaction_lag_ms: i64::MAX,
            min_cleanable_dirty_ppm: 0,
            delete_retention_ms: 0,
        };
        let end = lane.durable_end(key(0)).unwrap();
        assert!(lane.clean(key(0), policy, end, 1_000_000));
        while lane.cleaned_end(key(0)) == Some(Offset(0)) {
            yield_now().await;
        }
        lane.close().await.unwrap();
    })
    .unwrap();
}

/// The file and the middle of a part that was compacted away, or else of one that its partition still has
/// there, of a table that holds both; and the partition's offsets there.
fn shared_part(dir: &Path, replaced: bool) -> (PathBuf, u64, Lost) {
    let (examined, _) = look(dir, Depth::Listing);
    let manifest = examined.manifest.unwrap();
    run_alone(async {
        for entry in &manifest.tables {
            let table = tables::open(dir, entry.id, &manifest, entry.file_bytes)
                .await
                .unwrap();
            if entry.replaced_parts.is_empty() {
                continue;
            }
            for (nth, part) in (0_u32..).zip(&table.footer.parts) {
                let picked = entry.replaced_parts.contains(&nth) == replaced;
                // Large enough that the block in its middle is its own.
                if picked && part.bytes > 3 * (4 << 10) {
                    let (key, start, end) = (part.key, part.start, part.end);
                    let middle = part.position + part.bytes / 2;
                    return (table.path().to_owned(), middle, Lost { key, start, end });
                }
            }
        }
        panic!("no table holds a part that was compacted away");
    })
    .unwrap()
}

#[test]
fn what_was_compacted_away_is_neither_double_nor_needed() {
    // Proves that parts which compaction replaced are no second copy of their offsets, that damage in one
    // costs nothing, and that a repair of a table that holds such a part does not bring it back.
    for replaced in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        fill_compacted(dir.path());
        let content = read_back(dir.path());
        let (examined, _) = look(dir.path(), Depth::Everything);
        assert_eq!(examined.findings, vec![]);
        let (path, middle, part) = shared_part(dir.path(), replaced);
        change(&path, |bytes| {
            bytes[usize::try_from(middle).unwrap()] ^= 4;
        });
        let (examined, _) = look(dir.path(), Depth::Everything);
        let [finding] = examined.findings.as_slice() else {
            panic!("{:?}", examined.findings);
        };
        assert_eq!(finding.file, path);
        let lost = finding.lost.clone();
        assert_eq!(lost.is_empty(), replaced);
        assert!(lost.iter().all(|lost| lost.key == part.key));
        assert!(
            lost.iter()
                .all(|lost| part.start <= lost.start && lost.end <= part.end)
        );
        run_alone(repair(examined)).unwrap().unwrap();
        let (after, _) = look(dir.path(), Depth::Everything);
        assert_eq!(after.findings, vec![]);
        assert_eq!(read_back(dir.path()), without(content, &lost));
    }
}

/// Files of tables with filters on keys.
fn filtered(dir: &Path) -> Vec<PathBuf> {
    let (examined, _) = look(dir, Depth::Listing);
    let manifest = examined.manifest.unwrap();
    run_alone(async {
        let mut found = Vec::new();
        for entry in &manifest.tables {
            let opened = tables::open(dir, entry.id, &manifest, entry.file_bytes).await;
            let table = opened.unwrap();
            if table
                .footer
                .parts
                .iter()
                .any(|part| !part.filters.is_empty())
            {
                found.push(table.path().to_owned());
            }
        }
        found
    })
    .unwrap()
}

#[test]
fn a_repaired_table_has_its_filters_again() {
    // Proves that a table which is rewritten around damage can be looked up in as before: what is left
    // of its parts with filters has filters.
    let dir = tempfile::tempdir().unwrap();
    fill_compacted(dir.path());
    let before = filtered(dir.path());
    assert!(!before.is_empty(), "compaction writes filters");
    // The last one is compaction's own; of those before it the part was compacted away.
    change(before.last().unwrap(), |bytes| bytes[10] ^= 1);
    let (examined, _) = look(dir.path(), Depth::Everything);
    assert_eq!(examined.findings.len(), 1, "{:?}", examined.findings);
    run_alone(repair(examined)).unwrap().unwrap();
    let after = filtered(dir.path());
    assert_eq!(after.len(), before.len());
    assert_ne!(after, before, "it was rewritten");
    let (examined, _) = look(dir.path(), Depth::Everything);
    assert_eq!(examined.findings, vec![]);
}

/// What is planted, and what must be found.
struct Plant {
    name: &'static str,
    damage: fn(&Path),
    remedy: fn(Remedy) -> bool,
    what: &'static str,
    /// Whether the damage lets it be known what is lost.
    lost_is_known: bool,
    /// How many batches may be lost at most.
    batches_lost_max: usize,
}

const PLANTS: [Plant; 8] = [
    Plant {
        name: "a flipped bit in a table",
        damage: |dir| change(&tables(dir)[0], |bytes| bytes[5_000] ^= 1),
        remedy: |remedy| matches!(remedy, Remedy::RewriteTable { .. }),
        what: "checksum",
        lost_is_known: true,
        batches_lost_max: 12,
    },
    Plant {
        name: "a sound block in another's place",
        damage: |dir| {
            change(&tables(dir)[0], |bytes| {
                let block = bytes[..4_096].to_vec();
                bytes[8_192..12_288].copy_from_slice(&block);
            });
        },
        remedy: |remedy| matches!(remedy, Remedy::RewriteTable { .. }),
        what: "checksum",
        lost_is_known: true,
        batches_lost_max: 12,
    },
    Plant {
        name: "a table that ends early",
        damage: |dir| change(&tables(dir)[0], |bytes| bytes.truncate(9_000)),
        remedy: |remedy| matches!(remedy, Remedy::DropTable { .. }),
        what: "another length",
        lost_is_known: true,
        batches_lost_max: 160,
    },
    Plant {
        name: "a damaged footer",
        damage: |dir| {
            change(&tables(dir)[0], |bytes| {
                let at = bytes.len() - 8_000;
                bytes[at..].fill(0);
            });
        },
        remedy: |remedy| matches!(remedy, Remedy::DropTable { .. }),
        what: "trailer",
        lost_is_known: true,
        batches_lost_max: 160,
    },
    Plant {
        name: "a missing table",
        damage: |dir| fs::remove_file(&tables(dir)[0]).unwrap(),
        remedy: |remedy| matches!(remedy, Remedy::DropTable { .. }),
        what: "missing",
        lost_is_known: true,
        batches_lost_max: 160,
    },
    Plant {
        name: "a flipped bit in the WAL's middle",
        damage: |dir| {
            let (path, position) = middle_commit(dir);
            let at = usize::try_from(position).unwrap() + 200;
            change(&path, |bytes| bytes[at] ^= 1);
        },
        remedy: |remedy| matches!(remedy, Remedy::CutWal { .. }),
        what: "a synced commit does not verify",
        // All but the damaged commit itself, whose records can't be believed.
        lost_is_known: false,
        batches_lost_max: 40,
    },
    Plant {
        name: "a flipped bit in the manifest",
        damage: |dir| change(&dir.join("MANIFEST"), |bytes| bytes[40] ^= 1),
        remedy: |remedy| remedy == Remedy::EmptyLane,
        what: "the manifest does not verify",
        lost_is_known: false,
        batches_lost_max: usize::MAX,
    },
    Plant {
        name: "a table that nobody knows",
        damage: |dir| {
            let stranger = dir.join("table-00000000000000ff.tbl");
            fs::copy(&tables(dir)[0], stranger).unwrap();
        },
        remedy: |remedy| remedy == Remedy::Quarantine,
        what: "does not know this table",
        lost_is_known: true,
        batches_lost_max: 0,
    },
];

#[test]
fn planted_damage_is_found_and_mended() {
    // Proves for each kind of damage: it is found, it is named, a repair drops what it said and nothing else,
    // the lane opens after it, is sound, and what was replaced lies in quarantine.
    for plant in PLANTS {
        let name = plant.name;
        let dir = tempfile::tempdir().unwrap();
        let content = fill(dir.path());
        (plant.damage)(dir.path());
        let (examined, _) = look(dir.path(), Depth::Everything);
        let [finding] = examined.findings.as_slice() else {
            panic!("{name}: {:?}", examined.findings);
        };
        assert!((plant.remedy)(finding.remedy), "{name}: {finding:?}");
        assert!(finding.what.contains(plant.what), "{name}: {finding:?}");
        assert_eq!(examined.totals.torn_bytes, 0, "{name}: no crash tore it");
        let lost = finding.lost.clone();
        let left = run_alone(repair(examined)).unwrap().unwrap();
        assert_eq!(left, vec![], "{name}");
        let (after, _) = look(dir.path(), Depth::Everything);
        assert_eq!(after.findings, vec![], "{name}");
        let found = read_back(dir.path());
        let missing: Vec<_> = content
            .keys()
            .filter(|at| !found.contains_key(at))
            .collect();
        for (at, bytes) in &found {
            assert_eq!(content.get(at), Some(bytes), "{name}: {at:?} changed");
        }
        assert!(
            missing.len() <= plant.batches_lost_max,
            "{name}: {} batches are lost",
            missing.len()
        );
        let told = |(key, base): &(PartitionKey, Offset)| {
            lost.iter()
                .any(|lost| lost.key == *key && (lost.start..lost.end).contains(base))
        };
        if plant.lost_is_known {
            let expected: Vec<_> = content.keys().filter(|at| told(at)).collect();
            assert_eq!(missing, expected, "{name}: what is lost is what was told");
        }
        let aside = fs::read_dir(dir.path().join("quarantine")).map_or(0, Iterator::count);
        assert!(
            aside > 0 || name == "a missing table",
            "{name}: nothing was set aside"
        );
    }
}

#[test]
fn a_log_file_that_is_gone_is_found_and_the_rest_kept() {
    // Proves that a missing file is damage, with or without commits behind it, and that a repair keeps those
    // before it.
    for from_the_end in [2, 3] {
        let dir = tempfile::tempdir().unwrap();
        let without_flushes = LaneConfig {
            memtable_bytes: 512 << 10,
            ..config()
        };
        let content = run_alone(filled(dir.path(), without_flushes, 900)).unwrap();
        let mut files: Vec<PathBuf> = fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
            .collect();
        files.sort();
        let gone = &files[files.len() - from_the_end];
        fs::remove_file(gone).unwrap();
        let (examined, _) = look(dir.path(), Depth::Everything);
        let [finding] = examined.findings.as_slice() else {
            panic!("{:?}", examined.findings);
        };
        assert_eq!(
            (&finding.file, finding.what.as_str()),
            (gone, "the WAL file is missing")
        );
        assert_eq!(finding.lost.is_empty(), from_the_end == 2, "{finding:?}");
        run_alone(repair(examined)).unwrap().unwrap();
        let (after, _) = look(dir.path(), Depth::Everything);
        assert_eq!(after.findings, vec![]);
        let found = read_back(dir.path());
        assert!(!found.is_empty() && found.len() < content.len());
        assert!(
            found
                .iter()
                .all(|(at, bytes)| content.get(at) == Some(bytes))
        );
    }
}

#[test]
fn a_cut_tells_the_commits_behind_the_damage() {
    // Proves that the batches of sound commits after a damaged one are told before a repair drops them, and
    // that the lane takes batches again where the WAL was cut.
    let dir = tempfile::tempdir().unwrap();
    let content = fill(dir.path());
    let (path, position) = middle_commit(dir.path());
    let at = usize::try_from(position).unwrap();
    change(&path, |bytes| bytes[at + 70] ^= 0x10);
    let (examined, _) = look(dir.path(), Depth::Listing);
    let finding = &examined.findings[0];
    assert_eq!(finding.position, position);
    let lost = finding.lost.clone();
    assert_eq!(lost.len(), usize::try_from(PARTITIONS).unwrap());
    run_alone(repair(examined)).unwrap().unwrap();
    let found = read_back(dir.path());
    let missing: Vec<_> = content
        .keys()
        .filter(|at| !found.contains_key(at))
        .collect();
    let untold = missing.iter().filter(|(key, base)| {
        !lost
            .iter()
            .any(|one| one.key == *key && (one.start..one.end).contains(base))
    });
    // The damaged commit's own batch: its bytes can't be believed, not even to be told.
    assert_eq!(untold.count(), 1);
    let appended = run_alone(async {
        let (lane, _) = Lane::open(dir.path(), config()).await.unwrap();
        let owner = Rc::new(Owner::default());
        lane.start(Rc::clone(&owner) as Rc<dyn LaneObserver>);
        let base = lane.log_end(key(0)).unwrap();
        let bytes = batch(2, 1, b"new");
        // What was replayed may fill the lane until it is flushed.
        while lane.append(key(0), base, LeaderEpoch(0), &bytes) == Err(AppendError::Full) {
            lane.writable().await;
        }
        while lane.durable_end(key(0)).unwrap() <= base {
            owner.moved.notified().await;
        }
        lane.close().await.unwrap();
        base
    })
    .unwrap();
    let found = read_back(dir.path());
    assert!(
        found.contains_key(&(key(0), appended)),
        "appended after the cut"
    );
    let (after, _) = look(dir.path(), Depth::Everything);
    assert_eq!(after.findings, vec![]);
}

#[test]
fn damage_of_any_byte_is_no_panic() {
    // Proves that a lane whose files are cut or overwritten anywhere is examined to its end, and, if it is
    // damaged, repaired to something that opens.
    let dir = tempfile::tempdir().unwrap();
    let content = fill(dir.path());
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        usize::try_from(seed % below as u64).unwrap()
    };
    for round in 0..40 {
        let copy = tempfile::tempdir().unwrap();
        let mut files = Vec::new();
        for entry in fs::read_dir(dir.path()).unwrap() {
            let path = entry.unwrap().path();
            let to = copy.path().join(path.file_name().unwrap());
            fs::copy(&path, &to).unwrap();
            files.push(to);
        }
        files.sort();
        let path = files[random(files.len())].clone();
        let cut = round % 3 == 0;
        change(&path, |bytes| {
            let at = random(bytes.len());
            if cut {
                bytes.truncate(at);
            } else {
                let end = (at + 1 + random(6_000)).min(bytes.len());
                bytes[at..end].fill(u8::try_from(round).unwrap());
            }
        });
        let what = format!("round {round}: {}", path.display());
        let examined = run_alone(examine(copy.path(), Depth::Everything, &mut |_| {})).unwrap();
        if examined.is_unread() {
            // Bytes that say that a later version wrote them: nothing is repaired then.
            continue;
        }
        run_alone(repair(examined)).unwrap().unwrap();
        for (at, bytes) in read_back(copy.path()) {
            assert_eq!(content.get(&at), Some(&bytes), "{what}: {at:?} changed");
        }
    }
}
