//! When which bytes of a lane's tables are verified again: a walk over all of them, at a steady pace.
//!
//! A pass takes the tables that there were when it began, by their ids; tables made meanwhile have higher
//! ones and belong to the next. Where it got to is not kept over a restart: a pass begins anew.

use std::ops::Range;
use std::time::Duration;

use streambus_shards::Instant;

/// Bytes of one read, or one block if that is larger: small beside what a client's read waits for.
const STEP_BYTES: u64 = 256 << 10;

/// How fast, and how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ScrubPace {
    /// Never read faster than this; not 0.
    pub(crate) bytes_per_second: u64,
    /// From the start of one pass to the start of the next, if the pass does not take longer.
    pub(crate) interval: Duration,
}

/// What the walk needs to know of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ScrubTable {
    pub(crate) id: u64,
    pub(crate) data_bytes: u64,
    pub(crate) file_bytes: u64,
    pub(crate) block_bytes: u64,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ScrubStep {
    /// Nothing before this time is over.
    Wait(Duration),
    /// Verify these whole blocks.
    Blocks { table: u64, blocks: Range<u64> },
    /// Verify what lies behind the blocks: footer and trailer.
    End { table: u64 },
}

/// A pass over the tables.
#[derive(Debug, Clone, Copy)]
struct Pass {
    began: Instant,
    /// Tables from this id on are not the pass's.
    ids_end: u64,
    table: u64,
    position: u64,
}

/// The walk. What it decides depends on nothing but its arguments.
#[derive(Debug)]
pub(crate) struct Scrub {
    pace: ScrubPace,
    pass: Option<Pass>,
    due: Instant,
    passes: u64,
}

impl Scrub {
    /// The first pass begins at once.
    pub(crate) fn new(pace: ScrubPace, now: Instant) -> Scrub {
        assert!(pace.bytes_per_second > 0, "a scrub that never reads");
        Scrub {
            pace,
            pass: None,
            due: now,
            passes: 0,
        }
    }

    /// Passes that came to their end.
    pub(crate) fn passes(&self) -> u64 {
        self.passes
    }

    /// What to do at `now`. `ids_end` is the id that the next table will get, and `from` finds the first
    /// table of an id or more.
    pub(crate) fn step(
        &mut self,
        now: Instant,
        ids_end: u64,
        from: impl Fn(u64) -> Option<ScrubTable>,
    ) -> ScrubStep {
        if now < self.due {
            return ScrubStep::Wait(self.due.since(now));
        }
        let mut pass = self.pass.take().unwrap_or(Pass {
            began: now,
            ids_end,
            table: 0,
            position: 0,
        });
        let table = from(pass.table).filter(|table| table.id < pass.ids_end);
        let Some(table) = table else {
            self.passes += 1;
            self.due = now.max(pass.began + self.pace.interval);
            return ScrubStep::Wait(self.due.since(now));
        };
        if table.id != pass.table {
            (pass.table, pass.position) = (table.id, 0);
        }
        let (step, read_bytes) = if pass.position < table.data_bytes {
            let step_bytes = STEP_BYTES.next_multiple_of(table.block_bytes);
            let end = (pass.position + step_bytes).min(table.data_bytes);
            let blocks = pass.position..end;
            pass.position = end;
            let read_bytes = blocks.end - blocks.start;
            let table = table.id;
            (ScrubStep::Blocks { table, blocks }, read_bytes)
        } else {
            (pass.table, pass.position) = (table.id + 1, 0);
            let read_bytes = table.file_bytes - table.data_bytes;
            (ScrubStep::End { table: table.id }, read_bytes)
        };
        self.due = now + self.time_for(read_bytes);
        self.pass = Some(pass);
        step
    }

    /// How long `bytes` take at this pace, rounded up.
    fn time_for(&self, bytes: u64) -> Duration {
        let nanos = u128::from(bytes) * 1_000_000_000;
        let nanos = nanos.div_ceil(u128::from(self.pace.bytes_per_second));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const MIB: u64 = 1 << 20;
    const PACE: ScrubPace = ScrubPace {
        bytes_per_second: MIB,
        interval: Duration::from_secs(100),
    };

    fn table(id: u64, data_bytes: u64) -> ScrubTable {
        ScrubTable {
            id,
            data_bytes,
            file_bytes: data_bytes.next_multiple_of(4096) + 8192,
            block_bytes: 64 << 10,
        }
    }

    /// A walk, its clock and its tables.
    struct Bench {
        scrub: Scrub,
        began: Instant,
        now: Instant,
        tables: BTreeMap<u64, ScrubTable>,
        ids_end: u64,
    }

    impl Bench {
        fn new(tables: &[ScrubTable]) -> Bench {
            let now = streambus_shards::run_alone(async { streambus_shards::now() }).unwrap();
            Bench {
                scrub: Scrub::new(PACE, now),
                began: now,
                now,
                tables: tables.iter().map(|one| (one.id, *one)).collect(),
                ids_end: tables.iter().map(|one| one.id + 1).max().unwrap_or(1),
            }
        }

        fn step(&mut self) -> ScrubStep {
            let tables = &self.tables;
            let from = |id| tables.range(id..).next().map(|(_, table)| *table);
            self.scrub.step(self.now, self.ids_end, from)
        }

        /// Steps that are no wait, with the time of each, until a wait of `until` or more.
        fn steps(&mut self, until: Duration) -> Vec<(Duration, ScrubStep)> {
            let mut steps = Vec::new();
            loop {
                match self.step() {
                    ScrubStep::Wait(wait) if wait >= until => return steps,
                    ScrubStep::Wait(wait) => self.now = self.now + wait,
                    step => steps.push((self.now.since(self.began), step)),
                }
                assert!(steps.len() < 10_000, "a pass without an end");
            }
        }
    }

    fn blocks(table: u64, blocks: Range<u64>) -> ScrubStep {
        ScrubStep::Blocks { table, blocks }
    }

    #[test]
    fn a_pass_reads_all_once_at_its_pace() {
        // Proves the order, that each byte of each table is read once, and when: 1 MiB a second.
        let mut bench = Bench::new(&[table(3, 600 << 10), table(7, 10)]);
        let at = Duration::from_millis;
        let steps = bench.steps(Duration::from_secs(50));
        let expected = [
            (at(0), blocks(3, 0..256 << 10)),
            (at(250), blocks(3, 256 << 10..512 << 10)),
            (at(500), blocks(3, 512 << 10..600 << 10)),
            (at(585), ScrubStep::End { table: 3 }),
            (at(593), blocks(7, 0..10)),
            (at(593), ScrubStep::End { table: 7 }),
        ];
        assert_eq!(steps.len(), expected.len(), "{steps:?}");
        for ((when, step), (expected_when, expected)) in steps.iter().zip(&expected) {
            assert_eq!(step, expected);
            assert_eq!(when.as_millis(), expected_when.as_millis(), "{step:?}");
        }
        assert_eq!(bench.scrub.passes(), 1);
    }

    #[test]
    fn the_next_pass_begins_an_interval_after_the_last_began() {
        // Proves the interval for a short pass, that one which takes longer is followed at once, and that
        // no tables are no busy loop.
        let cases = [
            (10 * MIB, Duration::from_secs(100)),
            (150 * MIB, Duration::from_secs(150)),
        ];
        for (bytes, next) in cases {
            let mut bench = Bench::new(&[table(1, bytes)]);
            while bench.scrub.passes() == 0 {
                if let ScrubStep::Wait(wait) = bench.step() {
                    bench.now = bench.now + wait;
                }
            }
            let first = blocks(1, 0..256 << 10);
            assert_eq!(bench.step(), first);
            let slack = bench.now.since(bench.began + next);
            assert!(slack < Duration::from_secs(1), "{bytes}: {slack:?} late");
        }
        let mut empty = Bench::new(&[]);
        assert_eq!(empty.step(), ScrubStep::Wait(PACE.interval));
    }

    #[test]
    fn tables_come_and_go_under_a_pass() {
        // Proves that a table that is gone is passed over, and that new ones wait for the next pass: a pass
        // ends however fast tables are made.
        let mut bench = Bench::new(&[table(1, 300 << 10), table(2, 10), table(4, 10)]);
        assert_eq!(bench.step(), blocks(1, 0..256 << 10));
        bench.tables.remove(&1);
        bench.tables.remove(&2);
        bench.tables.insert(5, table(5, 10));
        bench.ids_end = 6;
        let steps = bench.steps(Duration::from_secs(50));
        let steps: Vec<_> = steps.into_iter().map(|(_, step)| step).collect();
        assert_eq!(steps, [blocks(4, 0..10), ScrubStep::End { table: 4 }]);
        bench.now = bench.now + PACE.interval;
        assert_eq!(bench.step(), blocks(4, 0..10));
    }

    #[test]
    fn large_blocks_are_read_whole() {
        // Proves that no step cuts a block, whatever its size.
        let mut bench = Bench::new(&[ScrubTable {
            block_bytes: 192 << 10,
            ..table(1, MIB)
        }]);
        assert_eq!(bench.step(), blocks(1, 0..384 << 10));
    }
}
