//! Progress on standard error, where somebody watches.

use std::{
    io::{IsTerminal, stderr},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

/// How often the bar moves.
const TICK: Duration = Duration::from_millis(100);
/// A bar that shows what is done, how fast, and for how long.
const OPEN_ENDED: &str = "{spinner} {msg}: {human_pos} records, {per_sec}, {elapsed}";
/// A bar that knows its end.
const TO_AN_END: &str = "{msg}: [{bar:30}] {human_pos}/{human_len} records, {per_sec}, {eta} left";

/// A bar on a terminal, nothing otherwise.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    start: Instant,
}

impl Progress {
    /// Starts; `records` is how many are expected, where that is known.
    pub(crate) fn start(what: String, records: Option<u64>) -> Self {
        let bar = stderr().is_terminal().then(|| {
            let (bar, template) = match records {
                Some(records) => (ProgressBar::new(records), TO_AN_END),
                None => (ProgressBar::new_spinner(), OPEN_ENDED),
            };
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
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

    /// Moves on by so many records.
    pub(crate) fn advance(&self, records: u64) {
        if let Some(bar) = &self.bar {
            bar.inc(records);
        }
    }

    /// Removes the bar; how long it all took.
    pub(crate) fn finish(&self) -> Duration {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        self.start.elapsed()
    }
}
