//! Whether the rings fit into the memory that this process may lock, and patience until they do.
//!
//! The kernel gives the memory of a dropped ring back in the background, some 20 ms later. So what was tried and
//! found to fit may be refused right after; and what another process of the same user had may still be missing.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use glommio::Placement;
use io_uring::IoUring;

use crate::node::{RING_ENTRIES, executor};
use crate::probe::{UringRefused, memlock_bytes};

/// What a core takes of locked memory, in small rings: its four rings, and three times 64 KiB that glommio
/// registers, which are as much as seven more of 28 KiB.
const RINGS_PER_CORE: usize = 11;
/// glommio's own bound, whether the kernel holds this process to it or not.
const MEMLOCK_BYTES_MIN: u64 = 512 << 10;
/// How long the kernel may take to give memory back, by far.
const GIVEN_BACK_WITHIN: Duration = Duration::from_secs(2);
/// How long to wait between two tries: so long that what the first one had made and dropped is back.
const TRY_EVERY: Duration = Duration::from_millis(50);

/// Tries whether the rings of so many cores fit into the memory that this process may lock. By trying, as
/// privileged processes and old kernels count otherwise.
///
/// # Errors
/// [`UringRefused`], of which [`UringRefused::Memlock`] is what this looks for.
pub fn try_ring_memory(cores: usize) -> Result<(), UringRefused> {
    if memlock_bytes() < MEMLOCK_BYTES_MIN {
        return Err(io::Error::from_raw_os_error(libc::ENOMEM).into());
    }
    // glommio looks once whether it may make rings, and remembers a no: have it look while there is room.
    drop(executor(&Placement::Unbound)?);
    let mut rings = Vec::new();
    for _ in 0..cores * RINGS_PER_CORE {
        match patiently(|| IoUring::new(RING_ENTRIES)) {
            Ok(ring) => rings.push(ring),
            Err(error) if is_of_memory(&error) => return Err(error.into()),
            // Whoever needs that ring will tell.
            Err(_) => break,
        }
    }
    Ok(())
}

/// Makes something with rings; where memory is short, again until what was dropped before has been given back.
/// Blocks: for the start of a core.
///
/// # Errors
/// What `make` says.
pub(crate) fn patiently<T>(make: impl Fn() -> io::Result<T>) -> io::Result<T> {
    let began = Instant::now();
    loop {
        match make() {
            Err(error) if is_of_memory(&error) && began.elapsed() < GIVEN_BACK_WITHIN => {
                thread::sleep(TRY_EVERY);
            }
            result => return result,
        }
    }
}

fn is_of_memory(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOMEM)
}
