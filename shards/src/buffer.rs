//! Memory for bytes on their way: from a socket to the log, from the log to a socket.
//!
//! A [`BufMut`] is filled by one owner; [`BufMut::split`] turns what is filled into a shared, immutable
//! [`Buf`] and leaves the rest writable. So one megabyte of log memory can be written to disk at its front, be
//! read by fetches in its middle and be filled at its end, all without a copy.
//!
//! Memory is aligned for direct I/O, always initialised, and recycled through a small pool on each
//! thread, because a fresh megabyte costs 256 page faults.

mod block;

use std::fmt;
use std::ops::{Deref, Range};
use std::sync::Arc;

use self::block::Block;
pub use self::block::{LOG_PIECE_BYTES, log_memory_is_short, stock_log_memory};

/// Alignment of position, length and memory in direct I/O. A device's logical block may be 512
/// bytes; 4,096 is right for all of them.
pub const BLOCK_BYTES: usize = 4_096;

/// What a [`Buf`] keeps alive.
enum Memory {
    Block(Block),
    Vec(Vec<u8>),
}

impl Memory {
    fn start(&self) -> *const u8 {
        match self {
            Memory::Block(block) => block.start(),
            Memory::Vec(bytes) => bytes.as_ptr(),
        }
    }
}

/// Bytes being filled, by one owner: the memory from `start` on belongs to it alone; what lies before
/// was split off.
pub struct BufMut {
    memory: Arc<Memory>,
    start: usize,
    len: usize,
    capacity: usize,
}

impl BufMut {
    /// Room for at least `capacity` bytes, rounded up to whole blocks, starting on a block boundary.
    pub fn with_capacity(capacity: usize) -> BufMut {
        let block = Block::new(capacity);
        let capacity = block.capacity();
        BufMut {
            memory: Arc::new(Memory::Block(block)),
            start: 0,
            len: 0,
            capacity,
        }
    }

    /// Bytes filled.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is filled.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that fit in all: filled and free.
    pub fn capacity(&self) -> usize {
        self.capacity - self.start
    }

    /// Bytes that still fit.
    pub fn remaining(&self) -> usize {
        self.capacity - self.start - self.len
    }

    fn base(&self) -> *mut u8 {
        // SAFETY: `start` never passes the capacity of the allocation.
        unsafe { self.memory.start().add(self.start).cast_mut() }
    }

    /// What is filled.
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: `len` bytes from `base` are inside the allocation, initialised, and written only
        // through this owner.
        unsafe { std::slice::from_raw_parts(self.base(), self.len) }
    }

    /// What is filled, to be changed in place.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_slice`; `&mut self` makes this the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.base(), self.len) }
    }

    /// The free space: initialised, of no meaning; see [`BufMut::advance`].
    pub fn spare_mut(&mut self) -> &mut [u8] {
        let remaining = self.remaining();
        // SAFETY: `len` is at most the capacity that is left.
        let start = unsafe { self.base().add(self.len) };
        // SAFETY: the bytes up to the capacity are inside the allocation, were initialised when it
        // was made, and belong to this owner alone.
        unsafe { std::slice::from_raw_parts_mut(start, remaining) }
    }

    /// Counts `count` bytes of the free space as filled.
    pub fn advance(&mut self, count: usize) {
        assert!(
            count <= self.remaining(),
            "{count} bytes into {} free",
            self.remaining()
        );
        self.len += count;
    }

    /// Appends a copy of `bytes`.
    ///
    /// # Panics
    /// If they do not fit: the caller knows the room.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        self.spare_mut()[..bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    /// Appends `count` zero bytes.
    pub fn put_zeros(&mut self, count: usize) {
        self.spare_mut()[..count].fill(0);
        self.len += count;
    }

    /// Forgets what is filled and not split off.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Shares what is filled; the rest of the memory stays here, empty and writable.
    pub fn split(&mut self) -> Buf {
        self.split_to(self.len)
    }

    /// Shares the first `count` of the bytes that are filled; the others stay here, in place.
    ///
    /// # Panics
    /// If fewer are filled.
    pub fn split_to(&mut self, count: usize) -> Buf {
        assert!(count <= self.len, "{count} bytes of {} filled", self.len);
        let shared = Buf {
            start: self.base(),
            len: count,
            memory: Arc::clone(&self.memory),
        };
        self.start += count;
        self.len -= count;
        shared
    }

    /// Shares what is filled and gives the rest up.
    pub fn freeze(mut self) -> Buf {
        self.split()
    }
}

impl fmt::Debug for BufMut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BufMut({} of {} bytes)", self.len, self.capacity())
    }
}

/// Shared bytes that no one changes any more. A clone costs one atomic increment, so that a core may
/// hand them to another without a copy.
#[derive(Clone)]
pub struct Buf {
    start: *const u8,
    len: usize,
    memory: Arc<Memory>,
}

// SAFETY: the bytes are immutable for as long as any Buf sees them, and the count is atomic.
unsafe impl Send for Buf {}
// SAFETY: as above: shared reading only.
unsafe impl Sync for Buf {}

impl Buf {
    /// No bytes.
    pub fn empty() -> Buf {
        Buf::from(Vec::new())
    }

    /// A part of these bytes, over the same memory.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Buf {
        assert!(
            range.start <= range.end && range.end <= self.len,
            "{range:?} of {}",
            self.len
        );
        // SAFETY: the range is inside this view, just asserted.
        let start = unsafe { self.start.add(range.start) };
        Buf {
            start,
            len: range.end - range.start,
            memory: Arc::clone(&self.memory),
        }
    }

    /// Bytes of the whole allocation that this view keeps alive.
    pub fn backing_capacity(&self) -> usize {
        match &*self.memory {
            Memory::Block(block) => block.capacity(),
            Memory::Vec(bytes) => bytes.capacity(),
        }
    }

    /// Whether `other` starts where this ends, in the same memory: then both can be seen as one.
    pub fn joins(&self, other: &Buf) -> bool {
        let end = self.start.wrapping_add(self.len);
        Arc::ptr_eq(&self.memory, &other.memory) && std::ptr::eq(end, other.start)
    }

    /// This view made longer by `other`, which [joins](Buf::joins) it.
    #[must_use]
    pub fn join(&self, other: &Buf) -> Buf {
        assert!(self.joins(other), "only neighbours can be joined");
        Buf {
            start: self.start,
            len: self.len + other.len,
            memory: Arc::clone(&self.memory),
        }
    }
}

impl Deref for Buf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the view lies inside memory that `self.memory` keeps alive, and is immutable.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }
}

impl AsRef<[u8]> for Buf {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl From<Vec<u8>> for Buf {
    fn from(bytes: Vec<u8>) -> Buf {
        let len = bytes.len();
        let memory = Arc::new(Memory::Vec(bytes));
        Buf {
            start: memory.start(),
            len,
            memory,
        }
    }
}

impl fmt::Debug for Buf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buf({} bytes)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn split_shares_the_front_and_keeps_the_rest_writable() {
        // Proves that a split-off view never changes while its owner goes on writing.
        let mut filling = BufMut::with_capacity(10_000);
        assert_eq!(filling.capacity(), 12_288);
        filling.extend_from_slice(b"first");
        let first = filling.split();
        filling.extend_from_slice(b"second");
        let second = filling.split();
        filling.extend_from_slice(b"third");
        assert_eq!((&first[..], &second[..]), (&b"first"[..], &b"second"[..]));
        assert!(first.joins(&second) && !second.joins(&first));
        assert_eq!(&first.join(&second)[..], b"firstsecond");
        assert_eq!(filling.as_slice(), b"third");
        assert_eq!(filling.remaining(), 12_288 - 16);
    }

    #[test]
    fn memory_is_aligned_and_recycled() {
        // Proves that a pooled size comes back aligned, and clean where it is filled.
        let mut filling = BufMut::with_capacity(64 << 10);
        filling.put_zeros(64 << 10);
        filling.as_mut_slice().fill(7);
        let address = filling.as_slice().as_ptr();
        assert_eq!(address.align_offset(BLOCK_BYTES), 0);
        drop(filling);
        let mut again = BufMut::with_capacity(64 << 10);
        again.put_zeros(10);
        assert_eq!(
            again.as_slice().as_ptr(),
            address,
            "the thread's pool gave it back"
        );
        assert_eq!(again.as_slice(), [0; 10]);
    }

    #[test]
    fn memory_of_other_sizes_is_used_again() {
        // Proves that blocks which no pool keeps, one held while the next is taken, as a window over a log that
        // moves on, find room where earlier ones were.
        crate::keep_large_allocations();
        let size = 5 << 20;
        let mut places = std::collections::BTreeSet::new();
        let mut held = BufMut::with_capacity(size);
        for _ in 0..64 {
            let next = BufMut::with_capacity(size);
            assert_eq!(next.base().align_offset(BLOCK_BYTES), 0);
            places.insert(next.base() as usize);
            held = next;
        }
        drop(held);
        assert!(places.len() <= 8, "{} places", places.len());
    }

    #[test]
    fn views_cross_threads() {
        // Proves that a view read on another thread sees the bytes and frees the memory there.
        let mut filling = BufMut::with_capacity(100);
        filling.extend_from_slice(&[9; 100]);
        let view = filling.freeze();
        let part = view.slice(10..20);
        drop(view);
        let sum = std::thread::spawn(move || part.iter().map(|byte| u32::from(*byte)).sum::<u32>());
        assert_eq!(sum.join().expect("no panic"), 90);
    }
}
