//! A bounded single-producer, single-consumer ring between two cores (Lamport 1983).
//!
//! One side only pushes, the other only pops; each keeps a copy of the other's position, so that a
//! cache line moves between the cores only when the copy runs out.

use std::mem::MaybeUninit;

use crate::atomics::{Arc, AtomicUsize, Ordering, UnsafeCell};

/// Keeps the two positions off each other's cache line.
#[repr(align(128))]
struct Padded(AtomicUsize);

struct Shared<T> {
    slots: Box<[UnsafeCell<MaybeUninit<T>>]>,
    mask: usize,
    /// Next slot to pop. Written by the consumer.
    head: Padded,
    /// Next slot to push. Written by the producer.
    tail: Padded,
}

// SAFETY: a slot is touched by the producer before `tail` passes it and by the consumer after; the
// release/acquire pair on `tail` and `head` hands it over. T itself moves between threads.
unsafe impl<T: Send> Sync for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for Shared<T> {}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // Relaxed: both sides are gone, and the count of the last reference ordered that.
        let mut head = self.head.0.load(Ordering::Relaxed);
        let tail = self.tail.0.load(Ordering::Relaxed);
        while head != tail {
            self.slots[head & self.mask].with_mut(|slot| {
                // SAFETY: slots from head to tail were written and not read; nobody else is left.
                unsafe { (*slot).assume_init_drop() };
            });
            head = head.wrapping_add(1);
        }
    }
}

/// The pushing side.
pub(crate) struct Producer<T> {
    shared: Arc<Shared<T>>,
    tail: usize,
    head_seen: usize,
}

/// The popping side.
pub(crate) struct Consumer<T> {
    shared: Arc<Shared<T>>,
    head: usize,
    tail_seen: usize,
}

/// A ring of `capacity` places, rounded up to a power of two.
pub(crate) fn ring<T: Send>(capacity: usize) -> (Producer<T>, Consumer<T>) {
    let places = capacity.next_power_of_two();
    let shared = Arc::new(Shared {
        slots: (0..places)
            .map(|_| UnsafeCell::new(MaybeUninit::uninit()))
            .collect(),
        mask: places - 1,
        head: Padded(AtomicUsize::new(0)),
        tail: Padded(AtomicUsize::new(0)),
    });
    let producer = Producer {
        shared: Arc::clone(&shared),
        tail: 0,
        head_seen: 0,
    };
    (
        producer,
        Consumer {
            shared,
            head: 0,
            tail_seen: 0,
        },
    )
}

impl<T: Send> Producer<T> {
    /// Pushes, or gives the value back if the ring is full.
    pub(crate) fn push(&mut self, value: T) -> Result<(), T> {
        let places = self.shared.slots.len();
        if self.tail.wrapping_sub(self.head_seen) == places {
            self.head_seen = self.shared.head.0.load(Ordering::Acquire);
            if self.tail.wrapping_sub(self.head_seen) == places {
                return Err(value);
            }
        }
        self.shared.slots[self.tail & self.shared.mask].with_mut(|slot| {
            // SAFETY: the slot is free: the consumer's head, read with acquire, has passed it.
            unsafe { (*slot).write(value) };
        });
        self.tail = self.tail.wrapping_add(1);
        self.shared.tail.0.store(self.tail, Ordering::Release);
        Ok(())
    }
}

impl<T: Send> Consumer<T> {
    /// Whether there is nothing to pop. A value that was pushed before is seen at last, not at once.
    pub(crate) fn is_empty(&self) -> bool {
        // Relaxed: nothing is read on the strength of it. `pop` looks again.
        self.head == self.tail_seen && self.head == self.shared.tail.0.load(Ordering::Relaxed)
    }

    /// Pops the oldest value, if there is one.
    pub(crate) fn pop(&mut self) -> Option<T> {
        if self.head == self.tail_seen {
            self.tail_seen = self.shared.tail.0.load(Ordering::Acquire);
            if self.head == self.tail_seen {
                return None;
            }
        }
        let value = self.shared.slots[self.head & self.shared.mask].with(|slot| {
            // SAFETY: the producer's tail, read with acquire, has passed the slot: it is written, and
            // it is read once, for head moves on.
            unsafe { (*slot).assume_init_read() }
        });
        self.head = self.head.wrapping_add(1);
        self.shared.head.0.store(self.head, Ordering::Release);
        Some(value)
    }
}
