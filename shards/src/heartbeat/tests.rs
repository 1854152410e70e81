use super::*;

#[test]
fn the_kernels_line_is_read() {
    // Proves the fields, and that another shape is refused.
    let counts = Counts::parse("12345 678 9\n").expect("three fields");
    assert_eq!(counts.waited, Duration::from_nanos(678));
    assert_eq!(counts.runs, 9);
    for line in ["", "1 2", "1 x 3", "0 0 0\n"] {
        assert_eq!(Counts::parse(line), None, "{line:?}");
    }
}

#[test]
fn a_core_is_excused_while_it_has_not_left_its_sleep() {
    // Proves each row: (milliseconds passed, runs counted, runs when the last beat was served, beat, works).
    let start = now();
    let mut at = start;
    let mut pulse = Pulse {
        runs: 0,
        beaten: start,
    };
    let table = [
        // Never served.
        (5, Some(1), 0, true, false),
        // Served in run 2, and asleep since.
        (5, Some(2), 2, false, false),
        (100, Some(2), 2, false, false),
        // It left its sleep: whether a task ran is not known.
        (100, Some(3), 2, true, false),
        // The beat made it run, and was not served.
        (5, Some(4), 2, true, false),
        (5, Some(4), 4, false, false),
        // It works.
        (5, Some(8), 4, true, true),
        (5, Some(11), 8, true, false),
        (5, Some(11), 11, false, false),
        // Asleep for long: once a second in spite of that.
        (994, Some(11), 11, false, false),
        (1, Some(11), 11, true, false),
        (5, Some(12), 12, false, false),
        // The kernel does not count.
        (5, None, 0, true, true),
    ];
    for (row, (ms, runs, served, beat, works)) in table.into_iter().enumerate() {
        at = at + Duration::from_millis(ms);
        assert_eq!(
            pulse.look(runs, served, at),
            Look { beat, works },
            "row {row}"
        );
    }
}

#[test]
fn the_period_grows_while_no_core_works() {
    // Proves the longest pause between two looks, and that work ends it at once.
    let mut period = PERIOD;
    for _ in 0..10 {
        period = next_period(period, false);
    }
    assert_eq!(period, PERIOD_MAX);
    assert_eq!(next_period(period, true), PERIOD);
}

#[test]
fn a_thread_that_waits_for_its_cpu_shares_it() {
    // Proves both sides of the limit, and that a window is judged by itself.
    let start = now();
    let mut wait = WaitForCpu {
        since: start,
        waited: Duration::from_secs(7),
    };
    let mut waited = Duration::from_secs(7);
    let mut at = start;
    let limit = WAIT_WINDOW / SHARED_PART;
    let table = [
        (limit + Duration::from_nanos(1), true),
        (limit, false),
        (WAIT_WINDOW, true),
        (Duration::ZERO, false),
    ];
    for (row, (more, shares)) in table.into_iter().enumerate() {
        at = at + WAIT_WINDOW / 2;
        assert_eq!(wait.look(waited, at), None, "row {row}: half a window");
        at = at + WAIT_WINDOW / 2;
        waited += more;
        assert_eq!(wait.look(waited, at), Some(shares), "row {row}");
    }
}
