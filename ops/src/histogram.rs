//! A histogram of fixed memory that a core may write at any rate.
//!
//! The exporter's own histogram queues every sample until somebody drains it: its memory grows with
//! the load whenever the ops thread is late. This one is a row of counters.

use std::{
    fmt::Write,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

/// What a histogram counts; fixes its buckets and how they are shown.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Scale {
    /// Nanoseconds, shown as seconds.
    Nanoseconds,
    /// Bytes.
    Bytes,
}

/// Upper bounds of latencies: 1, 1.5, 2, 3, 4, 6, … µs: two a doubling, so a quantile read from
/// them is off by a quarter at most. 48 of them end at 12.6 s; what is slower is counted above.
const LATENCY_BOUNDS: [u64; 48] = {
    let mut bounds = [0; 48];
    let mut index = 0;
    while index < 48 {
        let octave = 1_000 << (index / 2);
        bounds[index] = if index % 2 == 0 {
            octave
        } else {
            octave + octave / 2
        };
        index += 1;
    }
    bounds
};

/// Upper bounds of sizes: 512 B to 1 GiB, one a doubling.
const SIZE_BOUNDS: [u64; 22] = {
    let mut bounds = [0; 22];
    let mut index = 0;
    while index < 22 {
        bounds[index] = 512 << index;
        index += 1;
    }
    bounds
};

const _: () = assert!(
    LATENCY_BOUNDS[47] > 10_000_000_000,
    "latencies reach past ten seconds"
);
const _: () = assert!(SIZE_BOUNDS[21] == 1 << 30, "sizes reach one GiB");

impl Scale {
    const fn bounds(self) -> &'static [u64] {
        match self {
            Self::Nanoseconds => &LATENCY_BOUNDS,
            Self::Bytes => &SIZE_BOUNDS,
        }
    }

    /// A bound or a sum in the unit that is shown.
    #[expect(
        clippy::cast_precision_loss,
        reason = "shown figures need no more than 53 bits"
    )]
    fn shown(self, value: u64) -> f64 {
        match self {
            Self::Nanoseconds => value as f64 / 1e9,
            Self::Bytes => value as f64,
        }
    }
}

/// Counts of values by size. Any thread may write and read; each core has its own, so that the
/// counters' cache lines stay where they are.
#[derive(Debug)]
pub struct Histogram {
    scale: Scale,
    /// One a bound, and one for what is above the last.
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
}

impl Histogram {
    pub(crate) fn new(scale: Scale) -> Self {
        let counts = (0..=scale.bounds().len())
            .map(|_| AtomicU64::new(0))
            .collect();
        Self {
            scale,
            counts,
            sum: AtomicU64::new(0),
        }
    }

    /// Counts one value, in nanoseconds or bytes as the histogram's name says.
    pub fn record(&self, value: u64) {
        let index = self.scale.bounds().partition_point(|bound| *bound < value);
        if let Some(count) = self.counts.get(index) {
            count.fetch_add(1, Relaxed);
        }
        self.sum.fetch_add(value, Relaxed);
    }

    /// How many values were counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().map(|count| count.load(Relaxed)).sum()
    }

    /// Writes this series in Prometheus's text format. `labels` is `key="value",…` or empty.
    pub(crate) fn render(&self, name: &str, labels: &str, out: &mut String) {
        let comma = if labels.is_empty() { "" } else { "," };
        let mut total = 0;
        for (count, bound) in self.counts.iter().zip(self.scale.bounds()) {
            total += count.load(Relaxed);
            let bound = self.scale.shown(*bound);
            let _ = writeln!(
                out,
                "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {total}"
            );
        }
        total += self.counts.last().map_or(0, |count| count.load(Relaxed));
        let sum = self.scale.shown(self.sum.load(Relaxed));
        let _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {total}");
        let _ = writeln!(out, "{name}_sum{{{labels}}} {sum}");
        let _ = writeln!(out, "{name}_count{{{labels}}} {total}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_falls_into_the_bucket_at_or_above_it() {
        // Proves: bounds are inclusive, and nothing is lost below the first or above the last.
        for scale in [Scale::Nanoseconds, Scale::Bytes] {
            let bounds = scale.bounds();
            assert!(bounds.is_sorted(), "cumulative counts need rising bounds");
            for (index, bound) in bounds.iter().enumerate() {
                let histogram = Histogram::new(scale);
                histogram.record(*bound);
                histogram.record(*bound + 1);
                assert_eq!(histogram.counts[index].load(Relaxed), 1, "{bound}");
                assert_eq!(histogram.counts[index + 1].load(Relaxed), 1, "{bound}");
            }
            let histogram = Histogram::new(scale);
            histogram.record(0);
            histogram.record(1 << 62);
            assert_eq!(histogram.counts[0].load(Relaxed), 1);
            assert_eq!(histogram.count(), 2);
        }
    }

    #[test]
    fn a_series_is_cumulative_and_in_seconds() {
        // Proves: the text is what Prometheus expects (golden of the first lines and the last).
        let histogram = Histogram::new(Scale::Nanoseconds);
        for value in [900, 1_400, 1_400, 20_000_000_000] {
            histogram.record(value);
        }
        let mut text = String::new();
        histogram.render("x_seconds", "core=\"1\"", &mut text);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "x_seconds_bucket{core=\"1\",le=\"0.000001\"} 1");
        assert_eq!(lines[1], "x_seconds_bucket{core=\"1\",le=\"0.0000015\"} 3");
        assert_eq!(lines[48], "x_seconds_bucket{core=\"1\",le=\"+Inf\"} 4");
        assert_eq!(lines[49], "x_seconds_sum{core=\"1\"} 20.0000037");
        assert_eq!(lines[50], "x_seconds_count{core=\"1\"} 4");
    }
}
