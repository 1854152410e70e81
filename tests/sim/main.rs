//! Soaks and replays seeds of the simulated world.

use std::process::ExitCode;
use std::time::Duration;

use argh::FromArgs;
use streambus_tests::run::{self, Soak};
use streambus_tests::speed;

/// Virtual time of a measurement.
const SPEED_LENGTH: Duration = Duration::from_mins(5);

/// The simulator: whole nodes in one thread, from a seed.
#[derive(FromArgs)]
struct Arguments {
    #[argh(subcommand)]
    command: Command,
}

#[derive(FromArgs)]
#[argh(subcommand)]
enum Command {
    Sim(Sim),
}

/// Run seeds: those that once failed first, then as many as asked for.
#[derive(FromArgs)]
#[argh(subcommand, name = "sim")]
struct Sim {
    /// how many seeds
    #[argh(option, default = "1000")]
    seeds: u64,
    /// the first of them
    #[argh(option, default = "1")]
    first: u64,
    /// run this one alone
    #[argh(option)]
    seed: Option<u64>,
    /// with --seed: print what happened to the world, even if all is well
    #[argh(switch)]
    trace: bool,
    /// how many threads run seeds; each has worlds of its own
    #[argh(option, default = "2")]
    threads: usize,
    /// measure instead how fast virtual time passes for three lightly loaded nodes
    #[argh(switch)]
    speed: bool,
    /// run with this bug until it is caught, or with each ("all"); needs the feature planted
    #[argh(option)]
    planted: Option<String>,
}

fn main() -> ExitCode {
    let Command::Sim(sim) = argh::from_env::<Arguments>().command;
    run::hide_planned_panics();
    if sim.speed {
        println!("{}", speed::measure(SPEED_LENGTH));
        return ExitCode::SUCCESS;
    }
    if let Some(name) = &sim.planted {
        return run_planted(name, &sim);
    }
    if let Some(seed) = sim.seed {
        let outcome = run::run_seed(seed);
        println!("{}", outcome.line());
        if sim.trace || !outcome.is_sound() {
            println!("{}", outcome.story());
        }
        return code(outcome.is_sound());
    }
    let mut seeds = run::seeds_that_failed();
    seeds.extend(sim.first..sim.first.saturating_add(sim.seeds));
    let soak = Soak::run(&seeds, sim.threads, |outcome| {
        println!("{}", outcome.line());
        if !outcome.is_sound() {
            println!("{}", outcome.story());
        }
    });
    println!("{soak}");
    code(soak.failed.is_empty())
}

/// Runs with bugs; fails if one is not caught.
#[cfg(feature = "planted")]
fn run_planted(name: &str, sim: &Sim) -> ExitCode {
    use streambus_tests::planted::{BUGS, until_caught};

    run::hide_all_panics();
    let mut bugs = BUGS.to_vec();
    bugs.retain(|bug| name == "all" || bug.name == name);
    if bugs.is_empty() {
        println!(
            "there is no bug {name}; there are: {:?}",
            BUGS.map(|bug| bug.name)
        );
        return ExitCode::FAILURE;
    }
    let mut all = true;
    for bug in bugs {
        let caught = until_caught(&bug, sim.first, sim.seeds);
        match &caught {
            Some(outcome) => {
                println!(
                    "{}: seed {}: {}",
                    bug.name,
                    outcome.seed,
                    outcome.breach_of(bug.breaks).unwrap_or_default()
                );
                if sim.trace {
                    println!("{}", outcome.story());
                }
            }
            None => println!("{}: not caught in {} seeds", bug.name, sim.seeds),
        }
        all &= caught.is_some();
    }
    code(all)
}

#[cfg(not(feature = "planted"))]
fn run_planted(_: &str, _: &Sim) -> ExitCode {
    println!("no bug is compiled in: add --features planted to cargo run");
    ExitCode::FAILURE
}

fn code(sound: bool) -> ExitCode {
    if sound {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
