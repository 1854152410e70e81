//! When a fetch is answered, and when it waits for more: `min_bytes` against what there is.
//!
//! Kafka's rule (`DelayedFetch`) counts what is there up to each partition's limit, not what was read: answers have
//! whole batches only, so what was read may stay below the limit, and below `min_bytes`, however much there is. What a
//! limit keeps out of the answer therefore counts as if it filled that limit.

use crate::shard::op::ReadEnd;

/// What was read of one partition.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    /// Bytes of whole batches.
    pub(super) bytes: usize,
    /// The partition's limit.
    pub(super) bytes_max: usize,
    /// Why it is not more.
    pub(super) end: ReadEnd,
}

impl Found {
    /// What counts of it. The first batch of an answer may be larger than the limit.
    fn counted(&self) -> usize {
        match self.end {
            ReadEnd::NoMore => self.bytes,
            ReadEnd::PartitionLimit | ReadEnd::AnswerLimit => self.bytes.max(self.bytes_max),
        }
    }

    /// How many bytes more would count. Where nothing is, a first batch does, whatever the limit.
    pub(super) fn bytes_left(&self) -> usize {
        let left = self.bytes_max.saturating_sub(self.counted());
        left.max(usize::from(self.bytes == 0))
    }
}

/// What to do with what was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Answer.
    Answer,
    /// Wait until so many bytes more are there.
    Wait {
        /// Never 0.
        missing: usize,
    },
}

/// Judges a read of which the whole answer may have `bytes_max` bytes.
pub(super) fn judge(
    bytes_min: usize,
    bytes_max: usize,
    found: impl Iterator<Item = Found> + Clone,
) -> Verdict {
    if found.clone().any(|one| one.end == ReadEnd::AnswerLimit) {
        // Waiting makes the answer no larger.
        return Verdict::Answer;
    }
    let counted: usize = found.clone().map(|one| one.counted()).sum();
    let reachable = found.map(|one| one.counted() + one.bytes_left()).sum();
    // With limits of zero a client would ask again and again: it waits for a first batch.
    let wanted = bytes_min
        .min(bytes_max)
        .min(reachable)
        .max(1.min(bytes_min));
    match wanted.saturating_sub(counted) {
        0 => Verdict::Answer,
        missing => Verdict::Wait { missing },
    }
}

#[cfg(test)]
mod tests {
    use super::ReadEnd::{AnswerLimit, NoMore, PartitionLimit};
    use super::Verdict::{Answer, Wait};
    use super::*;

    #[test]
    #[expect(clippy::too_many_lines, reason = "a table of cases")]
    fn a_fetch_waits_only_for_what_can_come() {
        // Proves the rule: min_bytes, the answer's limit, and for each partition bytes, its limit and why there is no
        // more.
        type Case = (usize, usize, &'static [(usize, usize, ReadEnd)], Verdict);
        let cases: &[Case] = &[
            (1, 100, &[(0, 50, NoMore)], Wait { missing: 1 }),
            (0, 100, &[(0, 50, NoMore)], Answer),
            (1, 100, &[(1, 50, NoMore)], Answer),
            (
                30,
                100,
                &[(10, 50, NoMore), (5, 50, NoMore)],
                Wait { missing: 15 },
            ),
            (30, 100, &[(10, 50, NoMore), (20, 50, NoMore)], Answer),
            // As much as its limit, and the next batch would not fit.
            (50, 100, &[(45, 50, PartitionLimit)], Answer),
            (50, 100, &[(45, 50, NoMore)], Wait { missing: 5 }),
            // Two partitions: what the first has beyond its limit does not count.
            (
                80,
                100,
                &[(45, 50, PartitionLimit), (0, 50, NoMore)],
                Wait { missing: 30 },
            ),
            (
                80,
                100,
                &[(45, 50, PartitionLimit), (30, 50, NoMore)],
                Answer,
            ),
            // More than all limits together is asked for: they are what can come.
            (
                200,
                500,
                &[(45, 50, PartitionLimit), (45, 50, PartitionLimit)],
                Answer,
            ),
            (
                200,
                500,
                &[(45, 50, PartitionLimit), (10, 50, NoMore)],
                Wait { missing: 40 },
            ),
            // More than the answer may have.
            (900, 100, &[(98, 5_000, AnswerLimit)], Answer),
            (900, 100, &[(50, 5_000, NoMore)], Wait { missing: 50 }),
            (
                900,
                100,
                &[(40, 5_000, AnswerLimit), (0, 5_000, NoMore)],
                Answer,
            ),
            // A first batch that is larger than all limits.
            (60, 100, &[(90, 50, NoMore)], Answer),
            (
                95,
                100,
                &[(90, 50, NoMore), (0, 50, NoMore)],
                Wait { missing: 5 },
            ),
            // No limits to speak of.
            (10, 0, &[(0, 50, NoMore)], Wait { missing: 1 }),
            (10, 100, &[(0, 0, NoMore)], Wait { missing: 1 }),
        ];
        for (bytes_min, bytes_max, found, verdict) in cases {
            let found = found.iter().map(|(bytes, bytes_max, end)| Found {
                bytes: *bytes,
                bytes_max: *bytes_max,
                end: *end,
            });
            let case = format!(
                "{bytes_min} of {bytes_max}: {:?}",
                found.clone().collect::<Vec<_>>()
            );
            assert_eq!(
                judge(*bytes_min, *bytes_max, found.clone()),
                *verdict,
                "{case}"
            );
            if let Wait { missing } = verdict {
                let left: usize = found.map(|one| one.bytes_left()).sum();
                assert!(left >= *missing, "nothing would wake it: {case}");
            }
        }
    }
}
