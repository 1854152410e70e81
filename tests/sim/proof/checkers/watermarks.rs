//! High watermark, first offset, leader epoch.

use streambus_proto::ids::{LeaderEpoch, Offset};
use streambus_tests::checkers::Rule::{Bounds, HighWatermark, LeaderEpoch as Epoch, LogStartBack};
use streambus_tests::checkers::watermarks::check;
use streambus_tests::history::Acks;

use super::{Case, LOG, cut, ms, run, sighting};

/// What brokers may and may not say of a log's bounds.
const CASES: &[Case] = &[
    (
        "the high watermark goes back",
        |history| history.sightings.push(sighting(300, 0, 9)),
        &[HighWatermark],
    ),
    (
        "of two questions at once, the second may be answered with less",
        |history| history.sightings.push(sighting(204, 0, 10)),
        &[],
    ),
    (
        "asked at the same time, answered with less",
        |history| {
            history.sightings.push(sighting(400, 0, 30));
            history.sightings.push(sighting(403, 0, 20));
        },
        &[],
    ),
    (
        "an acknowledged record is above the high watermark",
        |history| {
            history.sightings[2] = sighting(200, 0, 9);
        },
        &[HighWatermark],
    ),
    (
        "acknowledged by the leader alone, it may be",
        |history| {
            history.sightings[2] = sighting(200, 0, 9);
            history.sends[9].acks = Acks::Leader;
        },
        &[],
    ),
    (
        "an acknowledgement that came later than the question says nothing",
        |history| {
            history.sightings[2] = sighting(94, 0, 9);
        },
        &[],
    ),
    (
        "the first offset goes back",
        |history| {
            history.sightings.push(sighting(300, 4, 10));
            history.sightings.push(sighting(400, 3, 10));
        },
        &[LogStartBack],
    ),
    (
        "the first offset is before one that somebody was told to have asked for",
        |history| {
            cut(history, 300, 4);
            history.sightings.push(sighting(400, 3, 10));
        },
        &[LogStartBack],
    ),
    (
        "so it may not be either where retention moves it too",
        |history| {
            history.topics.get_mut(&LOG.topic).unwrap().retention = true;
            cut(history, 300, 4);
            history.sightings.push(sighting(400, 3, 10));
        },
        &[LogStartBack],
    ),
    (
        "what retention moved may go back",
        |history| {
            history.topics.get_mut(&LOG.topic).unwrap().retention = true;
            history.sightings.push(sighting(300, 4, 10));
            history.sightings.push(sighting(400, 3, 10));
        },
        &[],
    ),
    (
        "the leader epoch goes back",
        |history| {
            let mut later = sighting(300, 0, 10);
            later.leader_epoch = Some(LeaderEpoch(2));
            history.sightings.push(later);
        },
        &[Epoch],
    ),
    (
        "a batch has an older epoch than one before it",
        |history| history.reads[3].leader_epoch = LeaderEpoch(1),
        &[Epoch],
    ),
    (
        "the log starts behind its end",
        |history| {
            let mut later = sighting(300, 11, 10);
            later.completed = ms(301);
            history.sightings.push(later);
        },
        &[Bounds],
    ),
    (
        "what was not told is not compared",
        |history| {
            let mut later = sighting(300, 0, 10);
            later.high_watermark = None;
            later.log_start = Some(Offset(1));
            history.sightings.push(later);
        },
        &[],
    ),
];

#[test]
fn bounds_of_a_log_only_grow() {
    // Proves each bound, that overlapping questions may be answered either way, and that an
    // acknowledgement counts as a sighting of the high watermark.
    run(check, CASES);
}
