//! The ring over real threads. Apart from it, because the model checker compiles the ring by itself.

use std::sync::Arc;

use crate::ring::ring;

#[test]
fn order_holds_across_threads_and_laps() {
    // Proves that every value arrives once and in order, with the ring full most of the time.
    let (mut producer, mut consumer) = ring(8);
    let sender = std::thread::spawn(move || {
        for value in 0..100_000_u32 {
            let mut value = Box::new(value);
            while let Err(back) = producer.push(value) {
                value = back;
                std::thread::yield_now();
            }
        }
    });
    for expected in 0..100_000_u32 {
        let got = loop {
            match consumer.pop() {
                Some(value) => break value,
                None => std::thread::yield_now(),
            }
        };
        assert_eq!(*got, expected);
    }
    sender.join().expect("no panic");
    assert!(consumer.pop().is_none());
}

#[test]
fn full_ring_gives_the_value_back_and_drops_what_is_left() {
    // Proves the bound, and that values never popped are dropped once.
    let counted = Arc::new(());
    let (mut producer, mut consumer) = ring(2);
    assert!(producer.push(Arc::clone(&counted)).is_ok());
    assert!(producer.push(Arc::clone(&counted)).is_ok());
    assert!(producer.push(Arc::clone(&counted)).is_err());
    drop(consumer.pop());
    assert_eq!(Arc::strong_count(&counted), 2);
    drop((producer, consumer));
    assert_eq!(Arc::strong_count(&counted), 1);
}
