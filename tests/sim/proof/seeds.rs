//! A few hundred seeds of work and faults, each judged by every checker.

use streambus_tests::run::{Soak, hide_planned_panics, run_seed, seeds_that_failed};

/// Seeds beside those that once failed: about a tenth of a second each.
const SEEDS: u64 = 250;
/// Of so many seeds one runs twice.
const TWICE_ONE_OF: u64 = 10;

#[test]
fn seeds_keep_every_promise_and_repeat() {
    // Proves the promises of the checkers under every mix of work and faults that these seeds draw, and
    // that a seed is a run: the same once more comes to the same trace.
    hide_planned_panics();
    let mut seeds = seeds_that_failed();
    seeds.extend(1_000..1_000 + SEEDS);
    let soak = Soak::run(&seeds, 2, |outcome| {
        assert!(outcome.is_sound(), "{}", outcome.story());
        if outcome.seed % TWICE_ONE_OF == 0 {
            let again = run_seed(outcome.seed);
            assert_eq!(again.line(), outcome.line(), "two runs of one seed");
        }
    });
    assert_eq!(soak.seeds, seeds.len());
    println!("{soak}");
}
