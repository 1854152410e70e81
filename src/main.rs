//! The one binary: broker and command line.

use std::process::ExitCode;

use streambus::config::Config;

fn main() -> ExitCode {
    match streambus::node::run(Config::default(), None, |ready| println!("{ready:?}")) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failed) => {
            eprintln!("streambus: {failed}");
            ExitCode::FAILURE
        }
    }
}
