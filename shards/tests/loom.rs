//! The ring between two cores, and the bell beside it, under every interleaving and every value that a
//! weak memory may return (loom), up to a bound on preemptions.
//!
//! The ring is the source that ships, compiled over loom's atomics. The waker is the algorithm of
//! `atomic-waker` 1.1.2, which can't be compiled so, written out again. `Mesh::serve` waits as
//! [`next`] does here: register, then drain.
//!
//! Weakening any of the ring's four orderings, or the waker's, turns these red. With two preemptions more
//! they pass as well, in 21 seconds instead of one.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Poll, Wake, Waker};

use loom::alloc::Track;
use loom::future::block_on;
use loom::model::Builder;
use loom::thread;

use atomics::{Arc, AtomicUsize, Ordering, UnsafeCell};
use ring::{Consumer, Producer, ring};

/// What the ring is made of here.
mod atomics {
    pub(crate) use loom::cell::UnsafeCell;
    pub(crate) use loom::sync::Arc;
    pub(crate) use loom::sync::atomic::{AtomicUsize, Ordering};
}
#[path = "../src/ring.rs"]
mod ring;

const WAITING: usize = 0;
const REGISTERING: usize = 1;
const WAKING: usize = 2;

/// The algorithm of `atomic_waker::AtomicWaker`, with its orderings.
struct AtomicWaker {
    state: AtomicUsize,
    waker: UnsafeCell<Option<Waker>>,
}

// SAFETY: the state says who may touch the waker; loom checks that.
unsafe impl Sync for AtomicWaker {}
// SAFETY: a waker may move between threads.
unsafe impl Send for AtomicWaker {}

impl AtomicWaker {
    fn new() -> Arc<AtomicWaker> {
        Arc::new(AtomicWaker {
            state: AtomicUsize::new(WAITING),
            waker: UnsafeCell::new(None),
        })
    }

    fn register(&self, waker: &Waker) {
        let found =
            self.state
                .compare_exchange(WAITING, REGISTERING, Ordering::Acquire, Ordering::Acquire);
        match found {
            Ok(_) => {
                // SAFETY: who registers has the waker to itself.
                let old = self
                    .waker
                    .with_mut(|held| unsafe { (*held).replace(waker.clone()) });
                drop(old);
                let back = self.state.compare_exchange(
                    REGISTERING,
                    WAITING,
                    Ordering::AcqRel,
                    Ordering::Acquire,
                );
                if back.is_err() {
                    // SAFETY: who wakes has left the waker to us.
                    let woken = self.waker.with_mut(|held| unsafe { (*held).take() });
                    self.state.swap(WAITING, Ordering::AcqRel);
                    woken.expect("just registered").wake();
                }
            }
            Err(WAKING) => {
                waker.wake_by_ref();
                // The task comes back until the other thread has woken it: loom must let that go on.
                thread::yield_now();
            }
            Err(state) => panic!("two tasks register: {state}"),
        }
    }

    fn wake(&self) {
        if self.state.fetch_or(WAKING, Ordering::AcqRel) == WAITING {
            // SAFETY: who sets the bit while nobody registers has the waker to itself.
            let woken = self.waker.with_mut(|held| unsafe { (*held).take() });
            self.state.fetch_and(!WAKING, Ordering::Release);
            if let Some(waker) = woken {
                waker.wake();
            }
        }
    }
}

/// Checks a model with at most so many preemptions: more take minutes, and most faults need two.
fn check(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

fn push<T: Send>(producer: &mut Producer<T>, mut value: T) {
    while let Err(back) = producer.push(value) {
        value = back;
        thread::yield_now();
    }
}

/// The next value, as `Mesh::serve` waits for it.
fn next<T: Send>(consumer: &mut Consumer<T>, bell: &AtomicWaker) -> T {
    block_on(poll_fn(|cx| {
        bell.register(cx.waker());
        consumer.pop().map_or(Poll::Pending, Poll::Ready)
    }))
}

#[test]
fn every_value_arrives_once_and_in_order() {
    // Proves that no slot is read before it is written or written before it is read, over more than a
    // lap of the ring, full and empty.
    check(3, || {
        let (mut producer, mut consumer) = ring(2);
        let sending = thread::spawn(move || {
            for value in 0..4_u32 {
                push(&mut producer, Track::new(value));
            }
        });
        for expected in 0..4 {
            let got = loop {
                match consumer.pop() {
                    Some(value) => break value,
                    None => thread::yield_now(),
                }
            };
            assert_eq!(*got.get_ref(), expected);
        }
        sending.join().unwrap();
        assert!(consumer.pop().is_none());
    });
}

#[test]
fn what_nobody_popped_is_dropped_once() {
    // Proves that the last of both sides drops what is left, whichever is last: loom finds leaks.
    check(3, || {
        let (mut producer, mut consumer) = ring(2);
        let sending = thread::spawn(move || {
            for value in 0..3_u32 {
                drop(producer.push(Track::new(value)));
            }
        });
        drop(consumer.pop());
        drop(consumer);
        sending.join().unwrap();
    });
}

#[test]
fn who_waits_for_a_message_is_always_woken() {
    // Proves that registering before draining loses no wake-up: otherwise loom finds a deadlock.
    check(3, || {
        let (mut producer, mut consumer) = ring(2);
        let bell = AtomicWaker::new();
        let rung = Arc::clone(&bell);
        let sending = thread::spawn(move || {
            for value in 0..2_u32 {
                push(&mut producer, value);
                rung.wake();
            }
        });
        for expected in 0..2 {
            assert_eq!(next(&mut consumer, &bell), expected);
        }
        sending.join().unwrap();
        assert!(consumer.is_empty());
    });
}

/// A waker that remembers that it was called. Not loom's kind of flag: it must add no ordering.
#[derive(Default)]
struct Called(std::sync::atomic::AtomicBool);

impl Wake for Called {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Looks once while another thread sends: what is not seen has to be announced.
fn look_once(register_first: bool) {
    check(3, move || {
        let (mut producer, mut consumer) = ring(2);
        let bell = AtomicWaker::new();
        let rung = Arc::clone(&bell);
        let sending = thread::spawn(move || {
            push(&mut producer, 7);
            rung.wake();
        });
        let called = std::sync::Arc::new(Called::default());
        let waker = Waker::from(std::sync::Arc::clone(&called));
        let seen = if register_first {
            bell.register(&waker);
            consumer.pop()
        } else {
            let seen = consumer.pop();
            bell.register(&waker);
            seen
        };
        sending.join().expect("no panic");
        // A core that looks before it sleeps sees at last what was sent.
        assert_eq!(consumer.is_empty(), seen.is_some());
        assert!(
            seen.is_some() || called.0.load(Ordering::SeqCst),
            "a message was neither seen nor announced"
        );
    });
}

#[test]
fn a_message_is_seen_or_announced() {
    // Proves the wake protocol for one message, without waiting.
    look_once(true);
}

#[test]
#[should_panic(expected = "neither seen nor announced")]
fn draining_before_registering_loses_a_message() {
    // Proves that the model sees a lost wake-up: the same in the wrong order.
    look_once(false);
}

#[test]
fn requests_and_replies_cross() {
    // Proves a call as the mesh makes it: two rings, two bells, both sides waiting for each other.
    check(2, || {
        let ((mut ask, mut asked), (mut reply, mut replies)) = (ring(2), ring(2));
        let (own, other) = (AtomicWaker::new(), AtomicWaker::new());
        let (back, served) = (Arc::clone(&own), Arc::clone(&other));
        let serving = thread::spawn(move || {
            for _ in 0..2 {
                let request: u32 = next(&mut asked, &served);
                push(&mut reply, request + 10);
                back.wake();
            }
        });
        let mut expected = VecDeque::new();
        for request in 0..2 {
            push(&mut ask, request);
            other.wake();
            expected.push_back(request + 10);
        }
        while let Some(expected) = expected.pop_front() {
            assert_eq!(next(&mut replies, &own), expected);
        }
        serving.join().unwrap();
    });
}
