//! How code runs on a core and how cores talk: the facade that every other crate stands on.
//!
//! | Part | What it gives |
//! |---|---|
//! | [`spawn`], [`spawn_begun`], [`spawn_in`], [`Task`], [`Queue`] | tasks of one core, in queues with shares |
//! | [`now`], [`wall_ms`], [`sleep`], [`timeout`] | clocks and timers |
//! | [`rng_u64`] | random numbers that are not keys |
//! | [`sync`] | waiting for each other on one core |
//! | [`Buf`], [`BufMut`], [`stock_log_memory`] | memory for bytes on their way |
//! | [`File`], [`disk`] | files, through the core's own `io_uring` |
//! | [`Listener`], [`Stream`] | TCP |
//! | [`Mesh`], [`CoreId`] | requests and replies between cores |
//! | [`run_node`], [`run_alone`] | starting executors |
//! | [`probe`], [`try_ring_memory`], [`memory_bytes`] | what the machine allows |
//! | [`planted`] | bugs on purpose, for the proof of the simulator's checkers |
//! | `sim` | the simulated world, under the feature of that name |
//!
//! Each of these acts in the world that its caller stands in: the real one, or on a thread that runs a
//! simulation the simulated one. The code above can't tell.
//!
//! It knows nothing of Kafka, and it is the only crate with `unsafe` and the only one that names glommio.
//! On the data path no other names a clock, a file, a socket, a thread or a random number; start-up, commands,
//! the client and the threads of `ops` are beside it.
//!
//! `unsafe` is in: `buffer` (raw memory, and its address given to the kernel), `ring` (slots handed between threads), `uring` and `disk::real`
//! (pointers given to the kernel), `real_task` (a pinned field), `net::real` (uninitialised receive space), `node`, `time`, `rng`,
//! `dir_lock` and `probe` (libc calls).

mod atomics;
pub mod buffer;
mod dir_lock;
pub mod disk;
mod heartbeat;
mod memory;
mod mesh;
mod net;
mod node;
pub mod planted;
#[cfg(any(test, feature = "sim"))]
pub mod polls;
pub mod probe;
mod real_task;
mod ring;
mod ring_memory;
#[cfg(test)]
mod ring_tests;
mod rng;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
mod spin;
mod stop;
pub mod sync;
mod task;
mod time;
mod timers;
mod uring;

pub use buffer::{
    BLOCK_BYTES, Buf, BufMut, LOG_PIECE_BYTES, log_memory_is_short, stock_log_memory,
};
pub use dir_lock::{DirLock, LockError};
pub use disk::{DiskError, File, OpenOptions};
pub use memory::memory_bytes;
pub use mesh::{CoreId, Mesh, MeshSeed, Stopped, mesh_seeds};
pub use net::{BoundAddress, Listener, Stream, Written, check_free};
pub use node::{
    CoreContext, NodePlan, StartFailed, abort_on_panic, give_memory_back, halt,
    keep_large_allocations, online_cpus, run_alone, run_node,
};
pub use ring_memory::try_ring_memory;
pub use rng::rng_u64;
pub use stop::{catch_stop_signals, stop_requested, watch_stop};
pub use task::{Queue, Task, spawn, spawn_begun, spawn_in, yield_if_needed, yield_now};
pub use time::{Elapsed, Instant, now, sleep, timeout, wall_ms};
