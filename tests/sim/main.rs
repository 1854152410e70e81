//! Soaks and replays seeds of the simulated world.

fn main() {
    eprintln!("streambus-tests: no command yet");
    std::process::exit(2);
}
