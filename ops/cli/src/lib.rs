//! The command line: nouns, verbs, output formats.
//!
//! Data goes to standard output, progress and errors to standard error. A wrong command line exits
//! with 2, a command that fails with 1. Those that judge, `streambus health` and `streambus storage`, exit
//! with 0 for what is sound (or repaired), 1 for what is not, and 2 where it can't be looked at.
#![forbid(unsafe_code)]

pub mod cluster;
mod connect;
mod error;
pub mod health;
mod input;
mod line;
pub mod output;
pub mod parse;
mod partitioner;
mod program;
pub mod progress;
pub mod topic;

pub use error::CliError;
pub use output::Format;
pub use program::{as_called, program};
