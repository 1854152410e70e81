//! The proof that the checkers see what they are there for.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use streambus_tests::planted::{BUGS, until_caught};
use streambus_tests::run::hide_all_panics;

#[test]
fn every_planted_bug_is_caught() {
    // Proves that the swarm meets each bug within some seeds, and that the checker of its rule tells of it.
    hide_all_panics();
    let (next, missed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        while let Some(bug) = BUGS.get(next.fetch_add(1, Ordering::Relaxed)) {
            let Some(caught) = until_caught(bug, 1, bug.within) else {
                missed.lock().expect("nobody panics with it").push(bug.name);
                continue;
            };
            let told = caught.breach_of(bug.breaks).unwrap_or_default();
            println!("{}: seed {}: {told}", bug.name, caught.seed);
        }
    };
    thread::scope(|scope| {
        scope.spawn(work);
        scope.spawn(work);
    });
    let missed = missed.into_inner().expect("nobody panics with it");
    assert!(missed.is_empty(), "not caught: {missed:?}");
}
