//! A disk that does not give what it holds: told where it is, and everything else is looked at all the same.

use streambus_shards::disk;
use streambus_shards::sim::{DiskFaults, Simulation, run};

use super::*;

/// Always, of a million reads.
const ALWAYS: u32 = 1_000_000;

/// Runs `body` in a simulated machine, with a filled lane, what is in it, and a hand on the disk.
fn with_lane<F>(body: impl Fn(PathBuf, Content, DiskFaults) -> F + 'static)
where
    F: Future<Output = ()> + 'static,
{
    let report = run(Simulation::new(1), |world| {
        let host = world.add_host([10, 0, 0, 1].into());
        world.boot(host);
        let faults = world.disk(host);
        world.spawn_on(host, async move {
            let dir = PathBuf::from("/data/lane-0");
            disk::create_dir_all(&dir).unwrap();
            let content = filled(&dir, small_wal_files(), 900).await;
            body(dir, content, faults).await;
        })
    });
    if let Err(failure) = report.result {
        panic!("{failure}\n{:#?}", report.notes);
    }
}

async fn seen(dir: &Path) -> Examined {
    examine(dir, Depth::Everything, &mut |_| {}).await
}

/// The lane's files with this ending, by name.
fn files(dir: &Path, ending: &str) -> Vec<PathBuf> {
    let names = disk::list(dir).unwrap();
    let names = names.iter().filter(|name| name.ends_with(ending));
    names.map(|name| dir.join(name)).collect()
}

#[test]
fn a_file_that_cannot_be_read_is_a_finding() {
    // Proves for each kind of file: it is told with what the disk said, whatever else is damaged is told too,
    // and a repair drops what it said and nothing else.
    with_lane(|dir, content, faults| async move {
        let tables = files(&dir, ".tbl");
        let first = &tables[0];
        faults.fail_reads(first, ALWAYS);
        assert!(faults.rot(&tables[1], 5_000));
        let examined = seen(&dir).await;
        let [dropped, rotten] = examined.findings.as_slice() else {
            panic!("{:?}", examined.findings);
        };
        assert_eq!(dropped.file, *first);
        assert!(dropped.what.contains("can't be read"), "{dropped:?}");
        assert!(matches!(dropped.remedy, Remedy::DropTable { .. }));
        assert!(matches!(rotten.remedy, Remedy::RewriteTable { .. }));
        let lost = [dropped.lost.clone(), rotten.lost.clone()].concat();
        repair(examined).await.unwrap();
        faults.heal();
        assert_eq!(seen(&dir).await.findings, vec![]);
        assert_eq!(kept(&dir).await, without(content, &lost));
    });
}

#[test]
fn the_rest_of_the_wal_is_read_around_what_cannot_be() {
    // Proves: commits that can't be read are lost like damaged ones, with those behind them, and told; blocks behind
    // the last commit cost nothing that is known; and after the repair the lane opens, with all else in it.
    for in_the_middle in [true, false] {
        with_lane(move |dir, content, faults| async move {
            let mut last_commit = 0;
            let see = &mut |one| {
                if let Seen::Commit { epoch, .. } = one {
                    last_commit = epoch;
                }
            };
            examine(&dir, Depth::Listing, see).await;
            let files = files(&dir, ".log");
            let last = dir.join(crate::names::wal(last_commit));
            let mut behind = files.iter().filter(|path| **path > last);
            let first = files.iter().find(|path| **path < last);
            let bad = if in_the_middle {
                first
            } else {
                behind.next_back()
            };
            let bad = bad.unwrap();
            faults.fail_reads(bad, ALWAYS);
            let examined = seen(&dir).await;
            let [finding] = examined.findings.as_slice() else {
                panic!("{:?}", examined.findings);
            };
            assert_eq!(finding.file, *bad);
            assert!(finding.what.contains("can't be read"), "{finding:?}");
            let cut = matches!(finding.remedy, Remedy::CutWal { .. });
            let blanked = matches!(finding.remedy, Remedy::BlankWal { .. });
            assert_eq!((cut, blanked), (in_the_middle, !in_the_middle));
            assert_eq!(finding.lost.is_empty(), !in_the_middle);
            assert_eq!(examined.totals.torn_bytes, 0);
            repair(examined).await.unwrap();
            faults.heal();
            assert_eq!(seen(&dir).await.findings, vec![]);
            let found = kept(&dir).await;
            if in_the_middle {
                assert!(!found.is_empty() && found.len() < content.len());
            } else {
                assert_eq!(found, content);
            }
        });
    }
}

#[test]
fn a_failure_that_passes_is_no_finding() {
    // Proves that a read is tried again before its file is called unreadable: one in fifty fails here.
    with_lane(|dir, _, faults| async move {
        let mut sound = 0;
        for _ in 0..20 {
            faults.fail_reads(&dir, 20_000);
            let examined = seen(&dir).await;
            sound += usize::from(examined.findings.is_empty());
        }
        assert!(sound >= 18, "{sound} of 20 looks found nothing");
    });
}

#[test]
fn data_of_a_table_that_cannot_be_read_is_lost_like_what_is_damaged() {
    // Proves that a table whose footer is read and whose data is not is told block by block with what the disk said,
    // and that a repair leaves out what was told: a read that fails only then is an error of the repair.
    with_lane(|dir, content, faults| async move {
        let path = files(&dir, ".tbl").remove(0);
        faults.fail_reads(&path, 600_000);
        let examined = loop {
            let examined = seen(&dir).await;
            let rewrites = examined
                .findings
                .iter()
                .filter(|one| matches!(one.remedy, Remedy::RewriteTable { .. }));
            if rewrites.count() > 0 && !examined.is_unread() {
                break examined;
            }
        };
        faults.heal();
        let lost: Vec<Lost> = examined
            .findings
            .iter()
            .flat_map(|one| one.lost.clone())
            .collect();
        let said = examined
            .findings
            .iter()
            .all(|one| one.what.contains("can't be read"));
        assert!(said, "{:?}", examined.findings);
        repair(examined).await.unwrap();
        assert_eq!(seen(&dir).await.findings, vec![]);
        assert_eq!(kept(&dir).await, without(content, &lost));
    });
}

#[test]
fn a_lane_that_cannot_be_looked_at_is_left_alone() {
    // Proves that a table which can't be opened is no damage, and that nothing in its lane is repaired, not even what
    // is damaged.
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    let tables = tables(dir.path());
    change(&tables[0], |bytes| bytes[5_000] ^= 1);
    fs::remove_file(&tables[1]).unwrap();
    // A link to itself is refused to this process, and says nothing of the table.
    std::os::unix::fs::symlink(&tables[1], &tables[1]).unwrap();
    let (examined, _) = look(dir.path(), Depth::Everything);
    assert!(examined.is_unread() && examined.is_damaged());
    let before = examined.findings.clone();
    assert_eq!(before.len(), 2, "{before:?}");
    let left = run_alone(repair(examined)).unwrap().unwrap();
    assert_eq!(left, before);
    assert!(!dir.path().join("quarantine").exists());
}
