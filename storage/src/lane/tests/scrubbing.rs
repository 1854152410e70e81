//! Damage under a running lane: it is found, told, refused to readers of those bytes alone, and left where it is.

use std::path::PathBuf;
use std::time::Duration;

use streambus_shards::sim::in_both_worlds;
use streambus_shards::{Buf, File, OpenOptions, sleep, yield_now};

use super::*;

fn scrubbed() -> LaneConfig {
    LaneConfig {
        // Fast enough for a test to wait for, in the real world too.
        scrub_bytes_per_second: 64 << 20,
        scrub_interval: Duration::from_millis(20),
        cache_bytes: 0,
        ..small()
    }
}

/// A lane with tables of two partitions.
async fn filled(dir: &Path, config: LaneConfig) -> (Rc<Lane>, Rc<Owner>) {
    let (lane, owner, _) = started(dir, config).await;
    for nth in 0..200 {
        append(&lane, key(nth % 2), &batch(1, 5, &[7; 900])).await;
    }
    for index in 0..2 {
        let end = lane.log_end(key(index)).unwrap();
        durable(&lane, key(index), end).await;
    }
    while !lane.state.borrow().frozen.is_empty() {
        sleep(Duration::from_millis(1)).await;
    }
    (lane, owner)
}

/// Flips a bit of a file.
async fn flip(path: &Path, position: u64) {
    let options = OpenOptions {
        write: true,
        ..OpenOptions::default()
    };
    let file = File::open(path, options).await.unwrap();
    let block = position / 4096 * 4096;
    let mut bytes = file.read_at(block, 4096).await.unwrap().to_vec();
    bytes[usize::try_from(position - block).unwrap()] ^= 1;
    file.write_at(block, &Buf::from(bytes)).await.unwrap();
    file.datasync().await.unwrap();
}

/// The middle of partition 0's first range: the file and the byte.
fn middle_of_a_range(lane: &Lane) -> (PathBuf, u64) {
    let state = lane.state.borrow();
    let range = state.partition(key(0)).unwrap().ranges.first().unwrap();
    let part = range.part();
    (
        range.table.path().to_owned(),
        part.position + part.bytes / 2,
    )
}

/// Lets the scrub go over everything that there is now.
async fn scrubbed_twice(lane: &Lane) {
    let before = lane.stats().scrub_passes;
    while lane.stats().scrub_passes < before + 2 {
        sleep(Duration::from_millis(1)).await;
    }
}

#[test]
fn damage_is_found_told_and_forgotten_when_it_verifies_again() {
    // Proves, in both worlds, that a pass finds a flipped bit of a block and one of a footer, tells each once
    // however many passes meet it, with the block's position, and forgets it when the bytes are right again;
    // and that the lane goes on.
    in_both_worlds(0..3, |dir| async move {
        let dir = dir.join("lane");
        let (lane, owner) = filled(&dir, scrubbed()).await;
        scrubbed_twice(&lane).await;
        assert_eq!(lane.damage(), None);
        let (path, position) = middle_of_a_range(&lane);
        flip(&path, position).await;
        scrubbed_twice(&lane).await;
        let (places, first) = lane.damage().unwrap();
        let block = 4 << 10;
        let expected = (1, path.clone(), position / block * block);
        assert_eq!((places, first.file, first.position), expected);
        let footer = {
            let state = lane.state.borrow();
            let last = state.tables.iter().next_back().unwrap();
            let footer = last.table.footer.data_bytes.next_multiple_of(4096);
            (last.table.path().to_owned(), footer)
        };
        flip(&footer.0, footer.1).await;
        scrubbed_twice(&lane).await;
        assert_eq!(lane.damage().unwrap().0, 2);
        scrubbed_twice(&lane).await;
        let stats = lane.stats();
        assert_eq!((stats.damage_found, stats.damaged), (2, 2), "told once");
        flip(&footer.0, footer.1).await;
        flip(&path, position).await;
        scrubbed_twice(&lane).await;
        assert_eq!(lane.damage(), None);
        append(&lane, key(0), &batch(1, 5, &[7; 900])).await;
        lane.close().await.unwrap();
        assert!(owner.failed.borrow().is_empty());
    });
}

#[test]
fn only_reads_of_damaged_bytes_are_refused() {
    // Proves that a read which comes upon damage is an error and tells the place without a pass, that the
    // partition beside it is read whole, and that the table stays.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_owned();
    run_alone(async move {
        let config = LaneConfig {
            scrub_bytes_per_second: 0,
            ..scrubbed()
        };
        let (lane, owner) = filled(&path, config).await;
        let (table, position) = middle_of_a_range(&lane);
        flip(&table, position).await;
        let end = lane.durable_end(key(0)).unwrap();
        let mut from = Offset(0);
        let refused = loop {
            let read = match lane.read(key(0), from, 1, end).unwrap() {
                ReadPlan::Ready(batches) => Ok(batches),
                ReadPlan::Cold(cold) => cold.read().await,
            };
            match read {
                Ok(batches) => from = batches.next_offset,
                Err(error) => break error,
            }
        };
        assert!(from > Offset(0), "what lies before is read");
        let StorageError::Corrupt { file, .. } = &refused else {
            panic!("{refused}");
        };
        assert_eq!(*file, table);
        assert_eq!(lane.damage().unwrap().1.file, table);
        let other = read_all(&lane, key(1), Offset(0), 5_000).await;
        assert_eq!(other.len(), 100);
        assert!(owner.failed.borrow().is_empty() && table.exists());
        lane.close().await.unwrap();
    })
    .unwrap();
}

#[test]
fn damage_goes_with_its_table() {
    // Proves that a lane whose damaged tables were dropped is sound again, without another pass.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_owned();
    run_alone(async move {
        let (lane, _) = filled(&path, scrubbed()).await;
        let (table, position) = middle_of_a_range(&lane);
        flip(&table, position).await;
        scrubbed_twice(&lane).await;
        assert!(lane.damage().is_some());
        for index in 0..2 {
            let end = lane.log_end(key(index)).unwrap();
            lane.set_log_start(key(index), end).await.unwrap();
        }
        while table.exists() {
            yield_now().await;
        }
        assert_eq!(lane.damage(), None);
        lane.close().await.unwrap();
    })
    .unwrap();
}
