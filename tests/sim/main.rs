//! Soaks and replays seeds of the simulated world.

use std::process::ExitCode;

use argh::FromArgs;
use streambus_tests::run::{self, Soak};

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
}

fn main() -> ExitCode {
    let Command::Sim(sim) = argh::from_env::<Arguments>().command;
    run::hide_planned_panics();
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

fn code(sound: bool) -> ExitCode {
    if sound {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
