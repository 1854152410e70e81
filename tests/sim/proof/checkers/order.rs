//! Real-time order, a producer's order, and reading on.

use streambus_proto::ids::Offset;
use streambus_tests::checkers::Rule::{ProducerOrder, ReadOn, RealTimeOrder};
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
    // Proves the three sweeps, and that sends which overlap may stand either way.
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
            "a producer overtakes itself",
            |history| {
                swap_offsets(history, 3, 4);
                history.sends[4].invoked = history.sends[3].invoked;
            },
            &[ProducerOrder],
        ),
        (
            "a producer without idempotence may",
            |history| {
                swap_offsets(history, 3, 4);
                history.sends[4].invoked = history.sends[3].invoked;
                history.sends[3].idempotent = false;
            },
            &[],
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
