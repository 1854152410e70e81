//! Real-time order, a producer's order, and reading on.

use streambus_proto::ids::Offset;
use streambus_tests::checkers::Rule::{ProducerOrder, ReadOn, RealTimeOrder, Sequence};
use streambus_tests::checkers::order::check;
use streambus_tests::history::{End, History};

use super::{Case, ms, run};

fn swap_offsets(history: &mut History, a: usize, b: usize) {
    let end = |at: u64, offset| Some((ms(at), End::Stored(Some(Offset(offset)))));
    let (first, second) = (history.sends[a].invoked, history.sends[b].invoked);
    history.sends[a].end = end(u64::try_from(first.as_millis()).unwrap() + 5, 4);
    history.sends[b].end = end(u64::try_from(second.as_millis()).unwrap() + 5, 3);
}

#[test]
fn offsets_agree_with_what_clients_know_of_before() {
    // Proves the sweeps over time and over readers, and that sends which overlap may stand either way.
    let cases: &[Case] = &[
        (
            "the later of two stands first",
            |history| {
                swap_offsets(history, 3, 4);
                history.sends[4].value.producer = 2;
            },
            &[RealTimeOrder],
        ),
        (
            "of two that overlap, either may",
            |history| {
                swap_offsets(history, 3, 4);
                history.sends[4].value.producer = 2;
                history.sends[4].invoked = history.sends[3].invoked;
            },
            &[],
        ),
        (
            "one that was acknowledged at once is behind one begun long after",
            |history| {
                history.sends[0].end = Some((ms(1), End::Stored(Some(Offset(20)))));
                history.sends[0].value.producer = 2;
            },
            &[RealTimeOrder],
        ),
        (
            "a reader skips",
            |history| {
                history.reads.remove(4);
            },
            &[ReadOn],
        ),
        (
            "a reader is sent ahead",
            |history| {
                history.reads.remove(4);
                history.reads[4].repositioned = true;
            },
            &[],
        ),
        (
            "a reader reads a record twice",
            |history| {
                let again = history.reads[4];
                history.reads.insert(4, again);
            },
            &[ReadOn],
        ),
    ];
    run(check, cases);
}

#[test]
fn a_producer_keeps_its_order_and_is_known() {
    // Proves the order of one producer, what it may do without idempotence, and that the broker knows what it
    // has of an idempotent one.
    let cases: &[Case] = &[
        (
            "a producer overtakes itself",
            |history| {
                swap_offsets(history, 3, 4);
                history.sends[4].invoked = history.sends[3].invoked;
            },
            &[ProducerOrder],
        ),
        (
            "a producer without idempotence may, if it sent something twice",
            |history| {
                swap_offsets(history, 3, 4);
                history.sends[4].invoked = history.sends[3].invoked;
                history.sends[3].idempotent = false;
                history.sends[3].sendings = 2;
            },
            &[],
        ),
        (
            "but not what it sent once",
            |history| {
                swap_offsets(history, 3, 4);
                history.sends[4].invoked = history.sends[3].invoked;
                history.sends[3].idempotent = false;
                history.sends[4].idempotent = false;
            },
            &[ProducerOrder],
        ),
        (
            "what is next is called out of order",
            |history| {
                history.sends[9].end = Some((ms(99), End::Unknown));
                history.sends[9].out_of_order = true;
            },
            &[Sequence],
        ),
        (
            "unless its producer may have been forgotten",
            |history| {
                history.sends[9].out_of_order = true;
                history.topics.get_mut(&super::LOG.topic).unwrap().retention = true;
            },
            &[],
        ),
    ];
    run(check, cases);
}
