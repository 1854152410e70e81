//! Progress on standard error, where somebody watches.

use std::{
    io::{IsTerminal, stderr},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressState, ProgressStyle};

/// How often the bar moves.
const TICK: Duration = Duration::from_millis(100);
/// A bar that shows what is done, how fast, and for how long.
const OPEN_ENDED: &str = "{spinner} {msg}: {human_pos} records, {rate}, {elapsed}";
/// A bar that knows its end.
const TO_AN_END: &str = "{msg}: [{bar:30}] {human_pos}/{human_len} records, {rate}, {eta} left";

/// A bar over bytes that knows its end.
const BYTES_TO_AN_END: &str =
    "{msg}: [{bar:30}] {bytes}/{total_bytes}, {bytes_per_sec}, {eta} left";

/// A bar on a terminal, nothing otherwise.
pub struct Progress {
    bar: Option<ProgressBar>,
    start: Instant,
}

impl Progress {
    /// Starts; `records` is how many are expected, where that is known.
    pub(crate) fn start(what: String, records: Option<u64>) -> Self {
        Self::with(what, || match records {
            Some(records) => (ProgressBar::new(records), TO_AN_END),
            None => (ProgressBar::new_spinner(), OPEN_ENDED),
        })
    }

    /// Starts over `total` bytes.
    pub fn bytes(what: String, total: u64) -> Self {
        Self::with(what, || (ProgressBar::new(total), BYTES_TO_AN_END))
    }

    /// Nothing that moves: for where somebody types.
    pub(crate) fn hidden() -> Self {
        Self {
            bar: None,
            start: Instant::now(),
        }
    }

    /// Writes a line to standard error, above the bar if there is one.
    pub(crate) fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.println(line),
            None => eprintln!("{line}"),
        }
    }

    fn with(what: String, make: impl FnOnce() -> (ProgressBar, &'static str)) -> Self {
        let bar = stderr().is_terminal().then(|| {
            let (bar, template) = make();
            if let Ok(style) = ProgressStyle::with_template(template) {
                let rate = |state: &ProgressState, out: &mut dyn std::fmt::Write| {
                    // Writing to a bar's line does not fail.
                    let _ = out.write_str(&rate(state.per_sec()));
                };
                bar.set_style(style.with_key("rate", rate));
            }
            bar.set_message(what);
            bar.enable_steady_tick(TICK);
            bar
        });
        Self {
            bar,
            start: Instant::now(),
        }
    }

    /// Moves on by so many records, or bytes.
    pub fn advance(&self, count: u64) {
        if let Some(bar) = &self.bar {
            bar.inc(count);
        }
    }

    /// Removes the bar; how long it all took.
    pub fn finish(&self) -> Duration {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        self.start.elapsed()
    }
}

/// A number of things a second, to as many figures as are of use.
fn rate(per_second: f64) -> String {
    let decimals = usize::from(per_second < 10.0);
    format!("{per_second:.decimals$}/s")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_have_figures_that_are_of_use() {
        // Proves: nobody has to read ten-thousandths of a record (golden).
        for (per_second, expected) in [
            (0.0, "0.0/s"),
            (3.217, "3.2/s"),
            (159.0785, "159/s"),
            (2_000_000.4, "2000000/s"),
        ] {
            assert_eq!(rate(per_second), expected);
        }
    }
}
