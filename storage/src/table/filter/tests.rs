//! Filters: no key is missed, and absent ones seldom pass.

use std::cell::Cell;
use std::rc::Rc;

use streambus_shards::{run_alone, spawn, yield_now};

use super::*;
use crate::key_hash::KeyHash;
use crate::wal::record::Nonce;
use crate::wal::tests::Chance;

fn key(name: &str) -> FilterKey {
    FilterKey::new(KeyHash::new(Nonce(5)).of(name.as_bytes()))
}

/// The filters of one part, as they would lie one behind the other.
fn placed(built: &[BuiltFilter]) -> Vec<(KeyFilter, Vec<u8>)> {
    let mut position = 7_000;
    let place = |built: &BuiltFilter| {
        let filter = KeyFilter {
            first_segment: built.first_segment,
            segments: built.segments,
            position,
            bytes: built.bytes.len() as u32,
            probes: built.probes,
        };
        position += built.bytes.len() as u64;
        (filter, built.bytes.clone())
    };
    built.iter().map(place).collect()
}

fn found((filter, bytes): &(KeyFilter, Vec<u8>), key: FilterKey) -> Vec<u32> {
    let page = filter.page_range(key);
    let start = (page.start - filter.position) as usize;
    let page = &bytes[start..start + (page.end - page.start) as usize];
    filter.segments_with(key, page).collect()
}

/// A part of so many segments with so many keys each, of which some are in every segment.
async fn part(segments: u32, keys: u32, everywhere: u32) -> (Vec<BuiltFilter>, usize) {
    let mut builder = FilterBuilder::default();
    for segment in 0..segments {
        builder.enter(0, segment).await;
        for nth in 0..keys {
            builder.note(key(&format!("{segment}-{nth}")));
        }
        for nth in 0..everywhere {
            builder.note(key(&format!("hot-{nth}")));
            builder.note(key(&format!("hot-{nth}")));
        }
    }
    (
        builder.finish().await,
        (segments * (keys + everywhere)) as usize,
    )
}

#[test]
fn every_key_is_found_and_absent_ones_seldom_pass() {
    // Proves, from a part of one key to one of 512 segments, with keys spread evenly and with keys
    // that are everywhere, that no key is missed in any segment, that of absent keys at most one
    // in 50 passes for the whole part (it is sized for one in 100), and what a key costs.
    run_alone(async {
        let cases = [
            (1, 1, 0, 512),
            (1, 300, 0, 12),
            (16, 200, 0, 18),
            (64, 400, 0, 22),
            (512, 100, 0, 27),
            (512, 10, 90, 75),
        ];
        for (segments, keys, everywhere, bits_max) in cases {
            let case = format!("{segments} segments of {keys} keys and {everywhere} everywhere");
            let (built, entries) = part(segments, keys, everywhere).await;
            let all = placed(&built);
            assert_eq!(all.len(), 1, "{case}");
            let bits = built[0].bytes.len() * 8;
            assert!(bits <= bits_max * entries, "{case}: {bits} bits");
            for segment in 0..segments {
                for nth in 0..keys {
                    let found = found(&all[0], key(&format!("{segment}-{nth}")));
                    assert!(found.contains(&segment), "{case}: {segment}-{nth}");
                    assert!(found.is_sorted_by(|one, next| one > next), "{case}");
                }
            }
            for nth in 0..everywhere {
                let found = found(&all[0], key(&format!("hot-{nth}")));
                assert_eq!(found.len(), segments as usize, "{case}: hot-{nth}");
            }
            let absent = 20_000;
            let passed = (0..absent)
                .filter(|nth| !found(&all[0], key(&format!("absent-{nth}"))).is_empty())
                .count();
            assert!(passed <= absent / 50, "{case}: {passed} of {absent}");
        }
    })
    .unwrap();
}

#[test]
fn what_is_not_known_is_not_covered() {
    // Proves that a segment with unknown keys is in no filter, while those around it are, that one
    // with more keys than there is memory for is treated so, and that parts do not mix.
    run_alone(async {
        let mut builder = FilterBuilder::default();
        for segment in 0..5 {
            builder.enter(0, segment).await;
            builder.note(key(&format!("{segment}")));
            if segment == 2 {
                builder.spoil();
                builder.note(key("late"));
            }
        }
        builder.enter(3, 0).await;
        builder.note(key("another part"));
        let mut chance = Chance(1);
        builder.enter(3, 1).await;
        for _ in 0..2 * ENTRIES_MAX {
            builder.note(FilterKey::new(
                u128::from(chance.next()) << 64 | u128::from(chance.next()),
            ));
        }
        let built = builder.finish().await;
        let covers: Vec<(usize, u32, u32)> = built
            .iter()
            .map(|built| (built.part, built.first_segment, built.segments))
            .collect();
        assert_eq!(covers, [(0, 0, 2), (0, 3, 2), (3, 0, 1)]);
        let all = placed(&built);
        assert_eq!(found(&all[0], key("1")), [1]);
        assert_eq!(found(&all[1], key("4")), [4]);
        assert_eq!(found(&all[2], key("another part")), [0]);
        assert!(FilterBuilder::default().finish().await.is_empty());
    })
    .unwrap();
}

#[test]
fn many_keys_make_several_filters() {
    // Proves that the memory for keys is bounded: a filter is closed at the end of the segment that
    // reaches the limit, and the next one goes on behind it.
    run_alone(async {
        let mut builder = FilterBuilder::default();
        let mut chance = Chance(2);
        for segment in 0..6 {
            builder.enter(0, segment).await;
            for _ in 0..ENTRIES_MAX / 2 {
                builder.note(FilterKey::new(
                    u128::from(chance.next()) << 64 | u128::from(chance.next()),
                ));
            }
            assert!(builder.entries.len() <= 2 * ENTRIES_MAX);
        }
        let built = builder.finish().await;
        let covers: Vec<(u32, u32)> = built
            .iter()
            .map(|built| (built.first_segment, built.segments))
            .collect();
        assert_eq!(covers, [(0, 2), (2, 2), (4, 2)]);
    })
    .unwrap();
}

#[test]
fn others_run_while_a_large_filter_is_built() {
    // Proves that a build, which takes longer than a core's tasks may wait for each other, lets them run.
    run_alone(async {
        let mut builder = FilterBuilder::default();
        let mut chance = Chance(3);
        builder.enter(0, 0).await;
        for _ in 0..ENTRIES_MAX {
            builder.note(FilterKey::new(
                u128::from(chance.next()) << 64 | u128::from(chance.next()),
            ));
        }
        let turns = Rc::new(Cell::new(0));
        let other = Rc::clone(&turns);
        let running = spawn(async move {
            loop {
                other.set(other.get() + 1);
                yield_now().await;
            }
        });
        let before = turns.get();
        builder.finish().await;
        drop(running);
        assert!(turns.get() > before, "nobody else had a turn");
    })
    .unwrap();
}
