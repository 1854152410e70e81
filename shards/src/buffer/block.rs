//! Where the bytes of buffers are: aligned allocations, recycled through a pool on each thread.
//!
//! The kernel looks for a page when it is first touched: a microsecond or more for each 4 KiB, on the path of an
//! append. So log memory is asked for ahead, and a thread of the kernel's touches it ([`stock_log_memory`]).

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::RefCell;
use std::io;
use std::ptr::NonNull;

use io_uring::opcode;

use super::BLOCK_BYTES;
#[cfg(any(test, feature = "sim"))]
use crate::sim::world;
use crate::uring::Uring;

/// Log memory is taken in pieces of this size.
pub const LOG_PIECE_BYTES: usize = 1 << 20;

/// Sizes that are pooled, and how many free ones of each a thread keeps: 16 + 8 + 128 MiB at most. The last
/// is the memory of two of a lane's memtables: what leaves memory gives it back at once, and the next appends take it again.
const POOLED: [(usize, usize); 3] = [(64 << 10, 256), (256 << 10, 32), (LOG_PIECE_BYTES, 128)];

/// Larger memory is the kernel's own mapping.
const LARGEST_POOLED: usize = LOG_PIECE_BYTES;

/// Which of them is log memory.
const LOG_PIECES: usize = POOLED.len() - 1;

/// Free blocks of each pooled size.
struct Pool([Vec<Raw>; POOLED.len()]);

impl Drop for Pool {
    fn drop(&mut self) {
        for (free, (size, _)) in self.0.iter_mut().zip(POOLED) {
            for raw in free.drain(..) {
                // SAFETY: a block of this size gave it, and nobody else has it.
                unsafe { raw.free(size) };
            }
        }
    }
}

thread_local! {
    static POOL: RefCell<Pool> =
        const { RefCell::new(Pool([const { Vec::new() }; POOLED.len()])) };
}

/// An allocation, and the first block boundary in it.
///
/// It has room for the alignment within: an allocator that aligns cuts off what lies before, and what remains
/// when it is freed is too small for the next one of the same size, so that memory grew with each.
#[derive(Clone, Copy)]
struct Raw {
    allocation: NonNull<u8>,
    start: NonNull<u8>,
}

impl Raw {
    fn layout(capacity: usize) -> Layout {
        Layout::from_size_align(capacity + BLOCK_BYTES, align_of::<usize>())
            .expect("capacities are far below isize::MAX")
    }

    fn new(capacity: usize) -> Raw {
        if capacity > LARGEST_POOLED {
            return Raw::mapped(capacity);
        }
        let layout = Raw::layout(capacity);
        // SAFETY: the layout's size is not zero: at least one block.
        let allocation = unsafe { alloc_zeroed(layout) };
        let allocation = NonNull::new(allocation).unwrap_or_else(|| handle_alloc_error(layout));
        let before = allocation.align_offset(BLOCK_BYTES);
        assert!(before <= BLOCK_BYTES, "there is a boundary within a block");
        // SAFETY: at most one block into an allocation of more than one.
        let start = unsafe { allocation.add(before) };
        Raw { allocation, start }
    }

    /// Memory of the kernel's own: it is taken page by page as it is filled, so that a request costs what has come of
    /// it, and goes back at once when it is freed.
    fn mapped(capacity: usize) -> Raw {
        let (read_write, private) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
        );
        // SAFETY: a new mapping, where the kernel likes.
        let start =
            unsafe { libc::mmap(std::ptr::null_mut(), capacity, read_write, private, -1, 0) };
        let start = NonNull::new(start.cast::<u8>()).filter(|_| start != libc::MAP_FAILED);
        let start = start.unwrap_or_else(|| handle_alloc_error(Raw::layout(capacity)));
        // Fewer page faults, and a fraction of the time to free it. No harm if the kernel has no large pages.
        // SAFETY: advice about the mapping that was just made.
        unsafe { libc::madvise(start.as_ptr().cast(), capacity, libc::MADV_HUGEPAGE) };
        Raw {
            allocation: start,
            start,
        }
    }

    /// # Safety
    /// `new` gave it for this capacity, and nobody uses it any more.
    unsafe fn free(self, capacity: usize) {
        if capacity > LARGEST_POOLED {
            // SAFETY: `mapped` mapped so much there; the caller has it alone.
            let freed = unsafe { libc::munmap(self.allocation.as_ptr().cast(), capacity) };
            assert_eq!(freed, 0, "{capacity} bytes were mapped");
            return;
        }
        // SAFETY: allocated in `new` with this layout; the caller has it alone.
        unsafe { dealloc(self.allocation.as_ptr(), Raw::layout(capacity)) };
    }
}

/// An aligned, initialised allocation that nobody else has.
pub(super) struct Block {
    raw: Raw,
    capacity: usize,
}

// SAFETY: a Block is a plain owned allocation; nothing ties it to the thread that made it.
unsafe impl Send for Block {}
// SAFETY: a shared Block is only read, through `Buf`, over bytes that no writer touches any more.
unsafe impl Sync for Block {}

impl Block {
    /// At least so many bytes, in whole blocks, from this thread's pool if it has them.
    pub(super) fn new(at_least: usize) -> Block {
        let capacity = at_least.max(1).next_multiple_of(BLOCK_BYTES);
        let pooled = class_of(capacity).and_then(|class| {
            POOL.try_with(|pool| pool.borrow_mut().0[class].pop())
                .ok()
                .flatten()
        });
        let raw = pooled.unwrap_or_else(|| Raw::new(capacity));
        Block { raw, capacity }
    }

    pub(super) fn start(&self) -> *const u8 {
        self.raw.start.as_ptr()
    }

    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let keep = |class: usize| {
            POOL.try_with(|pool| {
                let free = &mut pool.borrow_mut().0[class];
                let room = free.len() < POOLED[class].1;
                if room {
                    free.push(self.raw);
                }
                room
            })
        };
        if class_of(self.capacity).is_some_and(|class| keep(class).unwrap_or(false)) {
            return;
        }
        // SAFETY: made for this capacity, and handed on to nobody.
        unsafe { self.raw.free(self.capacity) };
    }
}

fn class_of(capacity: usize) -> Option<usize> {
    POOLED.iter().position(|(size, _)| *size == capacity)
}

/// Whether this thread has fewer than `pieces` free pieces of [`LOG_PIECE_BYTES`]. Never in the simulated world: what a
/// thread has left from another seed must not change what happens.
pub fn log_memory_is_short(pieces: usize) -> bool {
    #[cfg(any(test, feature = "sim"))]
    if world::current().is_some() {
        return false;
    }
    POOL.try_with(|pool| pool.borrow().0[LOG_PIECES].len() < pieces)
        .unwrap_or(false)
}

/// Has the kernel find memory until this thread has `pieces` free pieces of [`LOG_PIECE_BYTES`]: a buffer of that
/// size, taken then, costs its first user no page fault. In the simulated world, where memory costs
/// nothing, it does nothing.
///
/// # Panics
/// If no pool keeps so many.
pub async fn stock_log_memory(pieces: usize) {
    assert!(
        pieces <= POOLED[LOG_PIECES].1,
        "{pieces} pieces are more than a thread keeps"
    );
    while log_memory_is_short(pieces) {
        let capacity = LOG_PIECE_BYTES;
        let raw = Raw::new(capacity);
        // It goes to the pool when the kernel is done with it.
        if populate(Block { raw, capacity }).await.is_err() {
            return;
        }
    }
}

/// Has a thread of the kernel's touch all pages of `block`.
async fn populate(block: Block) -> io::Result<()> {
    let uring = Uring::current()?;
    let len = libc::off_t::try_from(block.capacity).expect("a piece");
    let entry = opcode::Madvise::new(block.start().cast(), len, libc::MADV_POPULATE_WRITE).build();
    // SAFETY: the entry points into the block's memory, which the ring keeps with it and nobody else has.
    let (touched, _) = unsafe { uring.run(entry, block).await };
    touched.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BufMut;
    use crate::run_alone;
    use crate::sim::{Simulation, run};

    /// Page faults of this thread so far.
    fn faults() -> i64 {
        let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
        // SAFETY: `usage` is room for the answer.
        let got = unsafe { libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr()) };
        assert_eq!(got, 0, "the kernel counts");
        // SAFETY: zeroed, and filled by the call.
        unsafe { usage.assume_init() }.ru_minflt
    }

    /// Page faults of filling so many pieces of log memory.
    fn faults_of_filling(pieces: usize) -> i64 {
        let mut filled: Vec<BufMut> = (0..pieces)
            .map(|_| BufMut::with_capacity(LOG_PIECE_BYTES))
            .collect();
        let before = faults();
        for piece in &mut filled {
            piece.put_zeros(LOG_PIECE_BYTES);
        }
        let after = faults();
        // It is not to come back from the pool.
        filled.into_iter().for_each(std::mem::forget);
        after - before
    }

    #[test]
    fn memory_in_stock_costs_its_first_user_no_page_fault() {
        // Proves that the kernel has found the pages of what is in stock, and that it is the count that was asked for.
        const PIECES: usize = 4;
        crate::keep_large_allocations();
        let outcome = run_alone(async {
            let pages = i64::try_from(PIECES * LOG_PIECE_BYTES / BLOCK_BYTES).expect("some");
            let new = faults_of_filling(PIECES);
            assert!(log_memory_is_short(1));
            stock_log_memory(PIECES).await;
            assert!(!log_memory_is_short(PIECES) && log_memory_is_short(PIECES + 1));
            let stocked = faults_of_filling(PIECES);
            assert!(log_memory_is_short(1), "all of it was taken");
            (new, stocked, pages)
        });
        let (new, stocked, pages) = outcome.expect("a core to run on");
        assert!(new > pages / 2, "{new} faults of {pages} pages");
        // An address sanitizer has a page of its own for eight of them.
        assert!(stocked < pages / 4, "{stocked} faults of {pages} pages");
    }

    #[test]
    fn memory_is_never_short_in_the_simulated_world() {
        // Proves that a seed does the same whatever its thread did before.
        let pieces = POOLED[LOG_PIECES].1;
        let report = run(Simulation::new(1), move |_| async move {
            stock_log_memory(pieces).await;
            log_memory_is_short(pieces)
        });
        assert_eq!(report.result, Ok(false));
    }
}
