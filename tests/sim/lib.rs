//! The simulator: whole nodes in one thread from a seed, the work that clients give them, the faults they
//! meet, and the checkers of what they did.
//!
//! | Part | What it is |
//! |---|---|
//! | [`cluster`] | brokers, each on a host of its own, running the code that ships |
//! | `swarm` | what a seed draws: operations, rates, sizes, faults |
//! | `workload` | a seed from beginning to end, one file an operation |
//! | [`run`] | runs seeds, judges them, tells of them |
//! | [`speed`] | how fast virtual time passes |
//! | [`client`] | a client over the protocol crate's cores; runs in both worlds |
//! | `planted` | bugs on purpose, by which the checkers are proved; under the feature of that name |
//! | [`history`] | what clients did and saw, with the virtual times |
//! | [`checkers`] | what must hold of any history; pure, apart from the work that made it |

#![forbid(unsafe_code)]

pub mod checkers;
pub mod client;
pub mod cluster;
mod dice;
pub mod history;
#[cfg(feature = "planted")]
pub mod planted;
pub mod run;
pub mod speed;
mod swarm;
mod workload;
