//! Liveness after healing.

use streambus_tests::checkers::Rule::Liveness;
use streambus_tests::checkers::liveness::check;
use streambus_tests::history::{Acks, End};

use super::{Case, LOG, ms, run};

#[test]
fn what_is_begun_after_healing_works_within_its_time() {
    // Proves that sends after healing must be stored in time, that those before need not, and that every
    // log is read.
    let cases: &[Case] = &[
        ("all well", |history| history.healed = Some(ms(50)), &[]),
        (
            "a send after healing never ends",
            |history| {
                history.healed = Some(ms(50));
                history.sends[7].end = None;
            },
            &[Liveness],
        ),
        (
            "a send after healing is refused",
            |history| {
                history.healed = Some(ms(50));
                history.sends[7].end = Some((ms(71), End::Refused(87)));
            },
            &[Liveness],
        ),
        (
            "a send after healing takes too long",
            |history| {
                history.healed = Some(ms(50));
                history.sends[7].end = Some((ms(1_071), End::Stored(None)));
            },
            &[Liveness],
        ),
        (
            "a send before healing is lost",
            |history| {
                history.healed = Some(ms(80));
                history.sends[7].end = None;
            },
            &[],
        ),
        (
            "a send that asked for no answer has none",
            |history| {
                history.healed = Some(ms(50));
                history.sends[7].end = None;
                history.sends[7].acks = Acks::None;
            },
            &[],
        ),
        (
            "a log could not be read",
            |history| {
                history.healed = Some(ms(50));
                history.passes.clear();
            },
            &[Liveness],
        ),
        (
            "a deleted log need not be",
            |history| {
                history.healed = Some(ms(50));
                history.passes.clear();
                history.topics.get_mut(&LOG.topic).unwrap().delete_invoked = Some(ms(10));
                history.sends[7].end = None;
            },
            &[],
        ),
    ];
    run(|history| check(history, ms(1_000)), cases);
}
