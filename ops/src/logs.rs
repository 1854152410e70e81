//! Log lines to standard error, without ever making a core wait.
//!
//! A core formats its line and puts it into a bounded queue; the `log` thread writes it. It is a
//! thread of its own because a full pipe blocks it, and health must still answer then. A full queue
//! drops the line and counts it; the count is logged and shown as a metric.

use std::{
    io::{self, IsTerminal, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use tracing_subscriber::{EnvFilter, fmt::MakeWriter, layer::SubscriberExt};

use crate::OpsError;

/// Lines that may wait. With [`LINE_BYTES_MAX`] it bounds the queue at 64 MiB, in practice 1 MiB.
const LINES_MAX: usize = 8_192;
/// A longer line is cut: it holds something of a client's that nobody should log.
const LINE_BYTES_MAX: usize = 8 << 10;
/// How long an exit waits for lines still queued.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// How log lines look.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Format {
    /// Text where standard error is a terminal, JSON otherwise.
    Auto,
    /// One readable line an event.
    Text,
    /// One JSON object an event.
    Json,
}

enum Message {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

/// The running log. Dropping it flushes.
pub struct Logs {
    queue: Queue,
}

impl Logs {
    /// Lines dropped so far.
    pub fn dropped(&self) -> Dropped {
        Dropped(self.queue.dropped.clone())
    }

    /// Waits until every line queued so far is written, at most a second.
    pub fn flush(&self) {
        let (done, written) = sync_channel(1);
        if self.queue.lines.try_send(Message::Flush(done)).is_ok() {
            // Past the timeout the reader of standard error is gone or stuck: nothing to save.
            let _ = written.recv_timeout(FLUSH_TIMEOUT);
        }
    }
}

impl Drop for Logs {
    fn drop(&mut self) {
        self.flush();
    }
}

/// The count of dropped lines.
#[derive(Clone, Debug, Default)]
pub struct Dropped(Arc<AtomicU64>);

impl Dropped {
    /// Lines dropped so far.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Starts the log of this process.
///
/// # Errors
/// A level that is none, a thread the system refuses, or logs that are already set up.
pub fn start(level: &str, format: Format) -> Result<Logs, OpsError> {
    let text = match format {
        Format::Auto => io::stderr().is_terminal(),
        Format::Text => true,
        Format::Json => false,
    };
    let filter = filter(level)?;
    let (queue, lines) = Queue::new(LINES_MAX);
    let dropped = queue.dropped.clone();
    thread::Builder::new()
        .name("log".to_owned())
        .spawn(move || write_lines(&lines, &dropped, &mut io::stderr(), text))
        .map_err(|source| OpsError::Thread {
            name: "log",
            source,
        })?;
    let subscriber = subscriber(filter, text, io::stderr().is_terminal(), queue.clone());
    tracing::subscriber::set_global_default(subscriber).map_err(|_| OpsError::LogsTwice)?;
    Ok(Logs { queue })
}

fn filter(level: &str) -> Result<EnvFilter, OpsError> {
    check_level(level)
        .and_then(|()| {
            let parsed = EnvFilter::builder().parse(level.replace(' ', ""));
            parsed.map_err(|error| error.to_string())
        })
        .map_err(|reason| OpsError::LogLevel {
            level: level.to_owned(),
            reason,
        })
}

/// Severities that a filter knows, the least talkative first.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
/// The parts of the program that log. A filter may name one, or a module inside one.
const PARTS: [&str; 6] = [
    "streambus",
    "streambus_shards",
    "streambus_storage",
    "streambus_proto",
    "streambus_ops",
    "streambus_tests",
];

/// Checks a filter: a level, or a list of levels and `PART=LEVEL`. Without this check a misspelt level is
/// taken for the name of a part, and nothing is logged at all.
///
/// # Errors
/// Says which item is wrong and why, in words without a remedy.
pub fn check_level(filter: &str) -> Result<(), String> {
    let is_level = |word: &str| LEVELS.iter().any(|level| word.eq_ignore_ascii_case(level));
    let is_part = |word: &str| {
        let part = word.split("::").next().unwrap_or(word);
        PARTS.contains(&part)
    };
    for item in filter.split(',').map(str::trim) {
        let (part, level) = match item.split_once('=') {
            Some((part, level)) => (Some(part), Some(level)),
            None if is_level(item) => (None, Some(item)),
            None => (Some(item), None),
        };
        if let Some(part) = part.filter(|part| !is_part(part)) {
            let what = if level.is_some() {
                "no part of the program"
            } else {
                "no level and no part of the program"
            };
            return Err(format!("{part:?} is {what}"));
        }
        if let Some(level) = level.filter(|level| !is_level(level)) {
            return Err(format!("{level:?} is no level"));
        }
    }
    Ok(())
}

fn subscriber(
    filter: EnvFilter,
    text: bool,
    colors: bool,
    queue: Queue,
) -> Box<dyn tracing::Subscriber + Send + Sync> {
    let base = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(queue)
        .with_thread_names(true);
    if text {
        Box::new(base.with(layer.with_ansi(colors)))
    } else {
        Box::new(base.with(layer.json().flatten_event(true)))
    }
}

/// The end that cores write to.
#[derive(Clone)]
struct Queue {
    lines: SyncSender<Message>,
    dropped: Arc<AtomicU64>,
}

impl Queue {
    fn new(lines_max: usize) -> (Self, Receiver<Message>) {
        let (lines, receiver) = sync_channel(lines_max);
        (
            Self {
                lines,
                dropped: Arc::default(),
            },
            receiver,
        )
    }
}

impl Write for Queue {
    /// Takes one whole line: the formatter writes each event at once. Never waits, never fails.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let kept = line.get(..LINE_BYTES_MAX).map_or_else(
            || line.to_vec(),
            |start| {
                let mut start = start.to_vec();
                start.push(b'\n');
                start
            },
        );
        if self.lines.try_send(Message::Line(kept)).is_err() {
            self.dropped.fetch_add(1, Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Queue {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// The `log` thread: ends when the last queue is dropped.
fn write_lines(lines: &Receiver<Message>, dropped: &AtomicU64, out: &mut impl Write, text: bool) {
    let mut reported = 0;
    while let Ok(message) = lines.recv() {
        match message {
            Message::Line(line) => {
                // Nobody is left to tell when standard error fails.
                let _ = out.write_all(&line);
            }
            Message::Flush(done) => {
                let _ = out.flush();
                let _ = done.send(());
            }
        }
        let now = dropped.load(Relaxed);
        if now != reported {
            let words = format!(
                "{} log lines dropped: standard error is read too slowly",
                now - reported
            );
            let _ = if text {
                writeln!(out, "WARN streambus_ops::logs: {words}")
            } else {
                writeln!(
                    out,
                    "{}",
                    serde_json::json!({ "level": "WARN", "message": words, "target": "streambus_ops::logs" })
                )
            };
            reported = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines that events logged by `body` put into a queue of `lines_max`, and how many were dropped.
    fn logged(text: bool, lines_max: usize, body: impl FnOnce()) -> (String, u64) {
        let (queue, lines) = Queue::new(lines_max);
        let dropped = queue.dropped.clone();
        let subscriber = subscriber(filter("info").unwrap(), text, false, queue);
        tracing::subscriber::with_default(subscriber, body);
        let mut out = Vec::new();
        write_lines(&lines, &dropped, &mut out, text);
        (String::from_utf8(out).unwrap(), dropped.load(Relaxed))
    }

    #[test]
    fn json_lines_carry_their_fields() {
        // Proves: each event is one JSON object with level, message and fields at the top.
        let (out, dropped) = logged(false, 10, || {
            tracing::info!(lane = 3, "opened");
            tracing::debug!("not shown");
        });
        let line: serde_json::Value = serde_json::from_str(out.trim_end()).unwrap();
        assert_eq!(
            (&line["level"], &line["message"], &line["lane"]),
            (&"INFO".into(), &"opened".into(), &3.into())
        );
        assert_eq!(dropped, 0);
    }

    #[test]
    fn text_lines_are_readable() {
        // Proves: text has no escape codes where there are no colours, and ends in its fields.
        let (out, _) = logged(true, 10, || tracing::warn!(bytes = 12, "tail cut"));
        assert!(
            out.contains(" WARN ") && out.ends_with("tail cut bytes=12\n"),
            "{out}"
        );
        assert!(!out.contains('\u{1b}'));
    }

    #[test]
    fn a_full_queue_drops_and_says_so() {
        // Proves: the writer of a line never waits, and the loss is told once.
        for text in [true, false] {
            let (out, dropped) = logged(text, 2, || {
                for number in 0..5 {
                    tracing::info!(number, "event");
                }
            });
            assert_eq!(dropped, 3);
            assert_eq!(out.lines().count(), 3, "{out}");
            assert_eq!(out.matches("3 log lines dropped").count(), 1, "{out}");
        }
    }

    #[test]
    fn a_huge_line_is_cut() {
        // Proves: what waits in the queue is bounded in bytes too.
        let (mut queue, lines) = Queue::new(1);
        assert_eq!(queue.write(&vec![b'x'; 100_000]).unwrap(), 100_000);
        let Ok(Message::Line(line)) = lines.try_recv() else {
            panic!("a line")
        };
        assert_eq!(line.len(), LINE_BYTES_MAX + 1);
    }

    #[test]
    fn a_filter_names_levels_and_parts() {
        // Proves: what is neither a level nor a part of the program is refused by name, wherever it stands in
        // the list; levels in any case, parts, their modules and a level of a part are taken.
        let neither = |word: &str| Some(format!("{word:?} is no level and no part of the program"));
        let no_part = |word: &str| Some(format!("{word:?} is no part of the program"));
        let table = [
            ("info", None),
            ("WARN", None),
            ("off", None),
            ("info,streambus_storage=debug", None),
            ("warn, streambus::kafka=trace", None),
            ("streambus_storage", None),
            ("inof", neither("inof")),
            ("info,streambus_strage=debug", no_part("streambus_strage")),
            (
                "info,streambus=loud",
                Some("\"loud\" is no level".to_owned()),
            ),
            ("info,", neither("")),
            ("", neither("")),
            ("streambusx=info", no_part("streambusx")),
        ];
        for (level, expected) in table {
            assert_eq!(filter(level).is_ok(), expected.is_none(), "{level}");
            assert_eq!(check_level(level).err(), expected, "{level}");
        }
    }

    #[test]
    fn a_wrong_level_is_refused_with_the_choice() {
        // Proves: the error names the value and the remedy in one line.
        let error = filter("info,streambus=loud")
            .err()
            .map(|error| error.to_string());
        let error = error.expect("loud is no level");
        assert!(
            error.starts_with("log.level = \"info,streambus=loud\" is refused: "),
            "{error}"
        );
        assert!(!error.contains('\n'));
    }
}
