//! The simulator's own proof: its checkers turn red when they must, and a few hundred seeds are green.

#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

mod checkers;
mod faults;
mod node;
mod rig;
mod seeds;
