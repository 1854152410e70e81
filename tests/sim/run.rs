//! One seed, many seeds: run, judged, told.

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use streambus_shards::sim::{Simulation, run};

use crate::checkers::{Breach, Rule};
use crate::workload;

/// What a seed's virtual time may come to: work, healing, reading and deleting take a few minutes at most.
const VIRTUAL_TIME_MAX: Duration = Duration::from_mins(30);

/// How a seed went.
#[derive(Debug)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// The same for each run of the seed with one program.
    pub trace_hash: u64,
    /// How much virtual time it took.
    pub virtual_time: Duration,
    /// What was wrong, one line each; empty if nothing was.
    pub failures: Vec<String>,
    /// What happened to the world, with the virtual times.
    pub notes: Vec<(Duration, String)>,
}

impl Outcome {
    /// Whether every promise was kept.
    pub fn is_sound(&self) -> bool {
        self.failures.is_empty()
    }

    /// The line that tells of this promise as broken, if one does.
    pub fn breach_of(&self, rule: Rule) -> Option<&str> {
        let told = format!("{rule:?}: ");
        let mut failures = self.failures.iter().map(String::as_str);
        failures.find(|what| what.starts_with(&told))
    }

    /// One line for a run of many.
    pub fn line(&self) -> String {
        format!("seed {} trace {:016x}", self.seed, self.trace_hash)
    }

    /// Everything that a person needs to go on, the seed first and last.
    pub fn story(&self) -> String {
        use std::fmt::Write;
        let (seed, verdict) = (self.seed, if self.is_sound() { "passed" } else { "failed" });
        let mut story = format!("seed {seed} {verdict}\n");
        for (at, note) in &self.notes {
            let _ = writeln!(story, "  {:>12.6} s  {note}", at.as_secs_f64());
        }
        for failure in &self.failures {
            let _ = writeln!(story, "  {failure}");
        }
        let _ = write!(
            story,
            "seed {seed} {verdict}; replay it with\n  cargo run --release -p streambus-tests -- sim --seed {seed}"
        );
        story
    }
}

/// Runs a seed in a world of its own.
pub fn run_seed(seed: u64) -> Outcome {
    let simulation = Simulation {
        virtual_time_max: VIRTUAL_TIME_MAX,
        ..Simulation::new(seed)
    };
    let report = run(simulation, workload::run);
    let failures = match report.result {
        Ok(breaches) => breaches.iter().map(Breach::to_string).collect(),
        Err(failure) => vec![failure.to_string()],
    };
    Outcome {
        seed,
        trace_hash: report.trace_hash,
        virtual_time: report.virtual_time,
        failures,
        notes: report.notes,
    }
}

/// Seeds that once failed, one a line; what follows a `#` says why.
const SEEDS: &str = include_str!("seeds.txt");

/// The seeds that once failed.
///
/// # Panics
/// If a line of the list is no number.
pub fn seeds_that_failed() -> Vec<u64> {
    let lines = SEEDS.lines().filter_map(|line| line.split('#').next());
    let numbers = lines.map(str::trim).filter(|line| !line.is_empty());
    numbers
        .map(|number| number.parse().expect("a seed is a number"))
        .collect()
}

/// Keeps the panics that the workload asks for off the screen. Others are told as before.
pub fn hide_planned_panics() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if info.payload_as_str() != Some(workload::PANIC) {
            before(info);
        }
    }));
}

/// Keeps all panics off the screen: with a planted bug the broker may fail by any.
pub fn hide_all_panics() {
    std::panic::set_hook(Box::new(|_| {}));
}

/// How a run of many seeds went.
#[derive(Debug, Default)]
pub struct Soak {
    /// Seeds that were run.
    pub seeds: usize,
    /// Those that failed.
    pub failed: Vec<u64>,
    /// Virtual time of all of them together.
    pub virtual_time: Duration,
    /// Wall time of the whole run.
    pub wall_time: Duration,
}

impl Soak {
    /// Runs seeds on some threads; `told` hears of each as it ends.
    ///
    /// # Panics
    /// If `told` does.
    pub fn run(seeds: &[u64], threads: usize, told: impl Fn(&Outcome) + Sync) -> Soak {
        let began = Instant::now();
        let next = AtomicUsize::new(0);
        let soak = Mutex::new(Soak::default());
        thread::scope(|scope| {
            for _ in 0..threads.max(1) {
                scope.spawn(|| {
                    while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let outcome = run_seed(*seed);
                        let mut soak = soak.lock().expect("nobody panicked with it");
                        soak.seeds += 1;
                        soak.virtual_time += outcome.virtual_time;
                        if !outcome.is_sound() {
                            soak.failed.push(outcome.seed);
                        }
                        told(&outcome);
                    }
                });
            }
        });
        let mut soak = soak.into_inner().expect("nobody panicked with it");
        soak.wall_time = began.elapsed();
        soak
    }
}

impl fmt::Display for Soak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (simulated, wall) = (
            self.virtual_time.as_secs_f64(),
            self.wall_time.as_secs_f64(),
        );
        write!(
            f,
            "{} seeds, {} failed {:?}; {simulated:.0} simulated seconds in {wall:.1} s: {:.0} a second",
            self.seeds,
            self.failed.len(),
            self.failed,
            simulated / wall.max(0.001)
        )
    }
}
