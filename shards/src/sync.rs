//! Waiting for each other on one core. Nothing here is shared between cores.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Waits for the first of two. The other is dropped.
pub async fn either(one: impl Future<Output = ()>, other: impl Future<Output = ()>) {
    let (mut one, mut other) = (pin!(one), pin!(other));
    poll_fn(|cx| {
        let done = one.as_mut().poll(cx).is_ready() || other.as_mut().poll(cx).is_ready();
        if done { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// A bell: tasks wait for it to ring.
///
/// [`Notify::notify_one`] with nobody waiting is remembered once; [`Notify::notify_all`] reaches every task
/// whose [`Notify::notified`] was called before.
#[derive(Debug, Default)]
pub struct Notify {
    /// Counts the rings for all. A waiter resolves when it has changed.
    rings: Cell<u64>,
    /// A remembered ring for one.
    stored: Cell<bool>,
    /// In the order in which they came, so by ascending id: thousands of connections wait for one bell.
    waiting: RefCell<VecDeque<(u64, Waker)>>,
    next_id: Cell<u64>,
}

impl Notify {
    /// A bell that nobody has rung.
    pub const fn new() -> Notify {
        Notify {
            rings: Cell::new(0),
            stored: Cell::new(false),
            waiting: RefCell::new(VecDeque::new()),
            next_id: Cell::new(0),
        }
    }

    /// Wakes one waiting task, or the next that waits.
    pub fn notify_one(&self) {
        self.stored.set(true);
        let first = self.waiting.borrow_mut().pop_front();
        if let Some((_, waker)) = first {
            waker.wake();
        }
    }

    /// Wakes every waiting task.
    pub fn notify_all(&self) {
        self.rings.set(self.rings.get() + 1);
        for (_, waker) in self.waiting.take() {
            waker.wake();
        }
    }

    /// Resolves when the bell rings. Rings count from this call on, not from the first poll, so
    /// nothing is lost between looking at a state and awaiting its change.
    pub fn notified(&self) -> Notified<'_> {
        Notified {
            bell: self,
            seen: self.rings.get(),
            id: None,
        }
    }
}

/// See [`Notify::notified`].
#[derive(Debug)]
pub struct Notified<'a> {
    bell: &'a Notify,
    seen: u64,
    id: Option<u64>,
}

impl Future for Notified<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let bell = self.bell;
        if bell.rings.get() != self.seen {
            return Poll::Ready(());
        }
        if bell.stored.take() {
            return Poll::Ready(());
        }
        let mut waiting = bell.waiting.borrow_mut();
        let known = self.id.and_then(|id| place_of(&waiting, id));
        if let Some(place) = known {
            waiting[place].1.clone_from(cx.waker());
        } else {
            let id = bell.next_id.get();
            bell.next_id.set(id + 1);
            waiting.push_back((id, cx.waker().clone()));
            self.id = Some(id);
        }
        Poll::Pending
    }
}

impl Drop for Notified<'_> {
    fn drop(&mut self) {
        let Some(id) = self.id else { return };
        let mut waiting = self.bell.waiting.borrow_mut();
        if let Some(place) = place_of(&waiting, id) {
            waiting.remove(place);
        } else if self.bell.stored.get()
            && let Some((_, waker)) = waiting.pop_front()
        {
            // It was woken for a ring that it did not take: the next in line gets it.
            drop(waiting);
            waker.wake();
        }
    }
}

fn place_of(waiting: &VecDeque<(u64, Waker)>, id: u64) -> Option<usize> {
    waiting.binary_search_by_key(&id, |(other, _)| *other).ok()
}

/// A line: whoever stands in it goes when those who came before have gone.
#[derive(Debug, Default)]
pub struct Line {
    /// The numbers of those who stand, in the order in which they came: ascending.
    standing: RefCell<VecDeque<(u64, Option<Waker>)>>,
    next_number: Cell<u64>,
}

impl Line {
    /// Whether nobody stands in it.
    pub fn is_empty(&self) -> bool {
        self.standing.borrow().is_empty()
    }

    /// Joins it at its end. The place is taken with this call, not when it is first waited for.
    pub fn join(self: &Rc<Line>) -> Place {
        let number = self.next_number.get();
        self.next_number.set(number + 1);
        self.standing.borrow_mut().push_back((number, None));
        Place {
            line: Rc::clone(self),
            number,
        }
    }
}

/// A place in a [`Line`]. Dropping it leaves the line, and the next may go.
#[derive(Debug)]
pub struct Place {
    line: Rc<Line>,
    number: u64,
}

impl Place {
    /// Resolves when nobody stands before it.
    pub fn first(&self) -> impl Future<Output = ()> {
        poll_fn(|cx| {
            let mut standing = self.line.standing.borrow_mut();
            let at = standing.binary_search_by_key(&self.number, |(number, _)| *number);
            let at = at.expect("a place is in its line until it is dropped");
            if at == 0 {
                return Poll::Ready(());
            }
            standing[at].1 = Some(cx.waker().clone());
            Poll::Pending
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let next = {
            let mut standing = self.line.standing.borrow_mut();
            if let Ok(at) = standing.binary_search_by_key(&self.number, |(number, _)| *number) {
                standing.remove(at);
            }
            standing.front_mut().and_then(|(_, waker)| waker.take())
        };
        if let Some(waker) = next {
            waker.wake();
        }
    }
}

/// A place for one value that one task waits for.
#[derive(Debug)]
pub struct Slot<T> {
    value: RefCell<Option<T>>,
    filled: Notify,
}

impl<T> Default for Slot<T> {
    fn default() -> Slot<T> {
        Slot {
            value: RefCell::new(None),
            filled: Notify::new(),
        }
    }
}

impl<T> Slot<T> {
    /// An empty one.
    pub fn new() -> Slot<T> {
        Slot::default()
    }

    /// Fills it. A second value replaces one that nobody took.
    pub fn fill(&self, value: T) {
        *self.value.borrow_mut() = Some(value);
        self.filled.notify_one();
    }

    /// Waits for the value and takes it.
    pub async fn take(&self) -> T {
        loop {
            if let Some(value) = self.value.borrow_mut().take() {
                return value;
            }
            self.filled.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::Waker;

    use super::*;

    fn poll(future: Pin<&mut impl Future<Output = ()>>) -> bool {
        future
            .poll(&mut Context::from_waker(Waker::noop()))
            .is_ready()
    }

    #[test]
    fn ring_for_one_is_remembered_once_and_passed_on() {
        // Proves that no ring is lost and none is counted twice.
        let bell = Notify::new();
        bell.notify_one();
        bell.notify_one();
        assert!(poll(pin!(bell.notified())));
        let mut first = Box::pin(bell.notified());
        let mut second = pin!(bell.notified());
        assert!(!poll(first.as_mut()) && !poll(second.as_mut()));
        bell.notify_one();
        drop(first);
        assert!(poll(second), "the dropped waiter's ring went to the next");
    }

    #[test]
    fn a_line_goes_in_the_order_in_which_it_was_joined() {
        // Proves that nobody goes before those who came earlier, whoever is polled first, and that leaving
        // the line lets the next go.
        let line = Rc::new(Line::default());
        assert!(line.is_empty());
        let (first, second, third) = (line.join(), line.join(), line.join());
        assert!(!poll(pin!(third.first())) && !poll(pin!(second.first())));
        assert!(poll(pin!(first.first())));
        drop(second);
        assert!(!poll(pin!(third.first())), "the first still stands");
        drop(first);
        assert!(poll(pin!(third.first())));
        drop(third);
        assert!(line.is_empty());
    }

    #[test]
    fn ring_for_all_counts_from_the_call() {
        // Proves that a ring between making the future and polling it is not lost.
        let bell = Notify::new();
        let early = bell.notified();
        bell.notify_all();
        let late = bell.notified();
        assert!(poll(pin!(early)));
        assert!(!poll(pin!(late)));
    }
}
