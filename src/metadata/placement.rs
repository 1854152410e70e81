//! Where new partitions go: round robin over the lanes, from the least loaded on.
//!
//! Round robin and not "always the least loaded": a new topic's partitions spread evenly over the
//! cores even where older topics are lopsided, for it is one topic's load that must not pile up.

/// The lanes of `count` new partitions, given how many partitions each lane has.
pub(super) fn lanes_for(lane_partitions: &[usize], count: usize) -> Vec<u16> {
    assert!(!lane_partitions.is_empty(), "a node has at least one lane");
    let lanes = lane_partitions.len();
    // The first of the least loaded, so that equal images place alike.
    let first = (0..lanes)
        .min_by_key(|&lane| lane_partitions[lane])
        .unwrap_or(0);
    (0..count)
        .map(|step| lane_number((first + step) % lanes))
        .collect()
}

fn lane_number(lane: usize) -> u16 {
    u16::try_from(lane).expect("lanes are counted in 16 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_go_round_from_the_least_loaded_lane() {
        // Proves the order, its start, and that a tie goes to the lower lane.
        assert_eq!(lanes_for(&[0, 0, 0], 4), [0, 1, 2, 0]);
        assert_eq!(lanes_for(&[3, 1, 2], 4), [1, 2, 0, 1]);
        assert_eq!(lanes_for(&[2, 1, 1], 1), [1]);
        assert_eq!(lanes_for(&[7], 3), [0, 0, 0]);
    }
}
