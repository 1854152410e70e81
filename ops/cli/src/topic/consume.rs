//! Records of a topic to standard output.

use std::{
    collections::BTreeMap,
    io::{self, BufWriter, IsTerminal, Write, stdout},
};

use argh::{FromArgValue, FromArgs};
use serde_json::{Value, json};
use streambus_client::{
    blocking::{Client, OffsetSpec},
    consumer::{ConsumerConfig, Isolation, Start},
    partition::TopicPartition,
    router::Topic,
};
use streambus_proto::{ids::Offset, records::Record};

use crate::{
    CliError, Format,
    connect::{connect, find_topic, local_broker, no_partition},
    progress::Progress,
};

/// Where to begin.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
struct From(Start);

impl FromArgValue for From {
    fn from_arg_value(value: &str) -> Result<Self, String> {
        let number = |text: &str| text.parse::<i64>().ok().filter(|number| *number >= 0);
        let start = match value.split_once(':') {
            None if value == "earliest" => Some(Start::Earliest),
            None if value == "latest" => Some(Start::Latest),
            Some(("offset", text)) => number(text).map(|offset| Start::Offset(Offset(offset))),
            Some(("timestamp", text)) => number(text).map(Start::Timestamp),
            _ => None,
        };
        start.map(Self).ok_or_else(|| {
            "expected earliest, latest, offset:NUMBER or timestamp:MILLISECONDS".to_owned()
        })
    }
}

/// Read records: to the end there is now, or with --count or --follow on from there.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "consume")]
pub(super) struct Consume {
    /// the topic's name
    #[argh(positional)]
    name: String,
    /// where to begin: earliest, latest, offset:NUMBER or timestamp:MILLISECONDS since 1970
    /// (default: earliest)
    #[argh(option, short = 'o', default = "From(Start::Earliest)")]
    from: From,
    /// stop after so many records, waiting for them if need be
    #[argh(option, short = 'n')]
    count: Option<u64>,
    /// a partition; may be repeated (default: all)
    #[argh(option, short = 'p')]
    partition: Vec<i32>,
    /// go on with what comes (also with --from=latest)
    #[argh(switch, short = 'f')]
    follow: bool,
    /// print keys too, with this between key and value
    #[argh(option, short = 'K')]
    key_separator: Option<String>,
    /// text (values) or json (everything, one object a line)
    #[argh(option, default = "Format::Text")]
    format: Format,
    /// any broker's address as HOST:PORT (default: 127.0.0.1:9092)
    #[argh(option, short = 'b', default = "local_broker()")]
    bootstrap: String,
}

/// Records on their way out, and when there were enough.
struct Printer<'c, W> {
    out: W,
    format: Format,
    key_separator: Option<&'c str>,
    left: Option<u64>,
    /// Records at or behind these are not asked for; absent where the end is open.
    ends: BTreeMap<TopicPartition, Offset>,
    printed: u64,
    /// The first failure of the output; nothing is printed after it.
    failure: Option<io::Error>,
}

impl<W: Write> Printer<'_, W> {
    fn is_done(&self) -> bool {
        self.left == Some(0) || self.failure.is_some()
    }

    fn take(&mut self, partition: &TopicPartition, record: &Record<'_>) {
        let beyond = self
            .ends
            .get(partition)
            .is_some_and(|end| record.offset >= *end);
        if self.is_done() || beyond {
            return;
        }
        let written = match self.format {
            Format::Text => self.write_text(record),
            Format::Json => writeln!(self.out, "{}", to_json(partition, record)),
        };
        match written {
            Ok(()) => {
                self.printed += 1;
                self.left = self.left.map(|left| left - 1);
            }
            Err(error) => self.failure = Some(error),
        }
    }

    fn write_text(&mut self, record: &Record<'_>) -> io::Result<()> {
        if let Some(separator) = self.key_separator {
            self.out.write_all(record.key.unwrap_or_default())?;
            self.out.write_all(separator.as_bytes())?;
        }
        self.out.write_all(record.value.unwrap_or_default())?;
        self.out.write_all(b"\n")
    }

    /// Shows what was taken so far.
    fn flush(&mut self) {
        if self.failure.is_none() {
            self.failure = self.out.flush().err();
        }
    }
}

impl Consume {
    pub(super) fn run(&self) -> Result<(), CliError> {
        let mut client = connect(&self.bootstrap)?;
        let topic = find_topic(&mut client, &self.name)?;
        let partitions = self.partitions(&topic)?;
        let (starts, ends) = self.bounds(&mut client, &partitions)?;
        let mut printer = Printer {
            out: BufWriter::new(stdout().lock()),
            format: self.format,
            key_separator: self.key_separator.as_deref(),
            left: self.count,
            ends,
            printed: 0,
            failure: None,
        };
        let mut consumer = client.consumer(ConsumerConfig::default());
        for (partition, start) in starts {
            consumer.assign(partition, start);
        }
        let progress = if stdout().is_terminal() {
            // What moves on the screen would stand between the records.
            Progress::hidden()
        } else {
            Progress::start(format!("consuming {}", self.name), self.count)
        };
        while !printer.is_done() {
            let at_end = |(partition, end): (&TopicPartition, &Offset)| {
                consumer
                    .position(partition)
                    .is_some_and(|position| position >= *end)
            };
            if !self.is_open_ended() && printer.ends.iter().all(at_end) {
                break;
            }
            let before = printer.printed;
            consumer.poll(&mut |partition, _, record| printer.take(partition, record))?;
            printer.flush();
            progress.advance(printer.printed - before);
        }
        progress.finish();
        match printer.failure {
            // The reader has seen enough.
            Some(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            Some(error) => Err(CliError::Output(error)),
            None => Ok(()),
        }
    }

    /// Whether records that come later are wanted, too.
    fn is_open_ended(&self) -> bool {
        self.follow || self.count.is_some() || self.from.0 == Start::Latest
    }

    fn partitions(&self, topic: &Topic) -> Result<Vec<TopicPartition>, CliError> {
        let has = |index: &&i32| topic.partitions.contains_key(*index);
        if let Some(missing) = self.partition.iter().find(|index| !has(index)) {
            return Err(no_partition(&self.name, *missing, topic.partitions.len()));
        }
        let indexes = topic.partitions.keys().copied();
        Ok(indexes
            .filter(|index| self.partition.is_empty() || self.partition.contains(index))
            .map(|index| TopicPartition::new(topic.name.clone(), index))
            .collect())
    }

    /// Where to begin in each partition, and where to end; no ends if what comes later is wanted.
    fn bounds(
        &self,
        client: &mut Client,
        partitions: &[TopicPartition],
    ) -> Result<(Vec<(TopicPartition, Start)>, Offsets), CliError> {
        let mut offsets = |spec: OffsetSpec| {
            let wanted: Vec<_> = partitions.iter().map(|name| (name.clone(), spec)).collect();
            let listed = client.list_offsets(&wanted, Isolation::ReadUncommitted)?;
            let found = listed
                .into_iter()
                .filter_map(|(name, at)| Some((name, at.offset?)));
            Ok::<Offsets, CliError>(found.collect())
        };
        let with = |start: Start| move |name: &TopicPartition| (name.clone(), start);
        let Start::Offset(offset) = self.from.0 else {
            let ends = if self.is_open_ended() {
                Offsets::new()
            } else {
                offsets(OffsetSpec::Latest)?
            };
            return Ok((partitions.iter().map(with(self.from.0)).collect(), ends));
        };
        let (first, ends) = (offsets(OffsetSpec::Earliest)?, offsets(OffsetSpec::Latest)?);
        for line in outside(offset, &first, &ends)? {
            eprintln!("{line}");
        }
        let starts = partitions.iter().map(|name| {
            // Of a partition that has not got so far, what comes next is wanted.
            let beyond = ends.get(name).is_some_and(|end| offset > *end);
            with(if beyond { Start::Latest } else { self.from.0 })(name)
        });
        let starts = starts.collect();
        let ends = if self.is_open_ended() {
            Offsets::new()
        } else {
            ends
        };
        Ok((starts, ends))
    }
}

/// An offset of each partition.
type Offsets = BTreeMap<TopicPartition, Offset>;

/// What a reader should know who begins at an offset: which partitions do not reach it, and which have deleted it.
///
/// # Errors
/// No partition reaches it: there is nothing to read, and probably another offset was meant.
fn outside(offset: Offset, starts: &Offsets, ends: &Offsets) -> Result<Vec<String>, CliError> {
    let mut lines = Vec::new();
    let mut reached = false;
    for (partition, end) in ends {
        let start = starts.get(partition).copied().unwrap_or(Offset(0));
        reached |= offset <= *end;
        if offset > *end {
            lines.push(format!(
                "offset {} is past the end of {partition}, which is {}",
                offset.0, end.0
            ));
        } else if offset < start {
            lines.push(format!(
                "offset {} of {partition} is deleted; reading begins at {}",
                offset.0, start.0
            ));
        }
    }
    if !reached && !lines.is_empty() {
        return Err(CliError::Refused(lines.join("; ")));
    }
    Ok(lines)
}

/// Everything about a record. Bytes that are no text appear as hexadecimal under `…_hex` instead.
fn to_json(partition: &TopicPartition, record: &Record<'_>) -> Value {
    let mut value = json!({
        "topic": &*partition.topic,
        "partition": partition.index,
        "offset": record.offset.0,
        "timestamp": record.timestamp,
    });
    put_bytes(&mut value, "key", record.key);
    put_bytes(&mut value, "value", record.value);
    let headers = record.headers.iter().map(|header| {
        let mut one = json!({ "name": String::from_utf8_lossy(header.key) });
        put_bytes(&mut one, "value", header.value);
        one
    });
    value["headers"] = headers.collect();
    value
}

fn put_bytes(object: &mut Value, name: &str, bytes: Option<&[u8]>) {
    match bytes.map(|bytes| str::from_utf8(bytes).map_err(|_| bytes)) {
        None => object[name] = Value::Null,
        Some(Ok(text)) => object[name] = text.into(),
        Some(Err(bytes)) => {
            use std::fmt::Write;
            let mut hex = String::with_capacity(2 * bytes.len());
            for byte in bytes {
                // Writing to a string does not fail.
                let _ = write!(hex, "{byte:02x}");
            }
            object[format!("{name}_hex")] = hex.into();
        }
    }
}

#[cfg(test)]
mod tests {
    use streambus_proto::records::Headers;

    use super::*;

    fn record(offset: i64) -> Record<'static> {
        Record {
            offset: Offset(offset),
            offset_delta: 0,
            timestamp: 7,
            key: Some(b"k"),
            value: Some(&[0xff, 0x00]),
            headers: Headers::default(),
        }
    }

    fn printer(format: Format, left: Option<u64>) -> Printer<'static, Vec<u8>> {
        Printer {
            out: Vec::new(),
            format,
            key_separator: Some(":"),
            left,
            ends: BTreeMap::new(),
            printed: 0,
            failure: None,
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_not_mangled() {
        // Proves: JSON carries every byte of a record (golden).
        let mut printer = printer(Format::Json, None);
        printer.take(&TopicPartition::new("t", 2), &record(5));
        assert_eq!(
            String::from_utf8(printer.out).unwrap(),
            "{\"headers\":[],\"key\":\"k\",\"offset\":5,\"partition\":2,\"timestamp\":7,\
             \"topic\":\"t\",\"value_hex\":\"ff00\"}\n"
        );
    }

    #[test]
    fn no_more_than_asked_for_is_printed() {
        // Proves: a count and an end stop the output in the middle of an answer.
        let partition = TopicPartition::new("t", 0);
        let mut counted = printer(Format::Text, Some(2));
        let mut ended = printer(Format::Text, None);
        ended.ends.insert(partition.clone(), Offset(1));
        for offset in 0..5 {
            counted.take(&partition, &record(offset));
            ended.take(&partition, &record(offset));
        }
        assert_eq!((counted.printed, counted.is_done()), (2, true));
        assert_eq!(counted.out, b"k:\xff\x00\nk:\xff\x00\n");
        assert_eq!(ended.printed, 1);
    }

    #[test]
    fn an_offset_outside_a_partition_is_told() {
        // Proves: the end itself is a place to wait at; what lies past it everywhere is refused, and past it in one
        // partition, or before the first record, is said (golden).
        let at = |offsets: [i64; 2]| -> Offsets {
            (0..)
                .zip(offsets)
                .map(|(index, offset)| (TopicPartition::new("t", index), Offset(offset)))
                .collect()
        };
        let (starts, ends) = (at([0, 3]), at([5, 9]));
        let told =
            |offset| outside(Offset(offset), &starts, &ends).map_err(|error| error.to_string());
        let past = |index: i32, end: i64, offset: i64| {
            format!("offset {offset} is past the end of t-{index}, which is {end}")
        };
        assert_eq!(told(4), Ok(vec![]));
        assert_eq!(told(5), Ok(vec![]));
        assert_eq!(told(9), Ok(vec![past(0, 5, 9)]));
        assert_eq!(told(10), Err([past(0, 5, 10), past(1, 9, 10)].join("; ")));
        let deleted = "offset 1 of t-1 is deleted; reading begins at 3".to_owned();
        assert_eq!(told(1), Ok(vec![deleted]));
    }

    #[test]
    fn starting_points_are_read() {
        // Proves: each form is understood and anything else is refused.
        let read = |text| From::from_arg_value(text).map(|from| from.0);
        assert_eq!(read("earliest"), Ok(Start::Earliest));
        assert_eq!(read("latest"), Ok(Start::Latest));
        assert_eq!(read("offset:12"), Ok(Start::Offset(Offset(12))));
        assert_eq!(
            read("timestamp:1700000000000"),
            Ok(Start::Timestamp(1_700_000_000_000))
        );
        for wrong in ["", "offset", "offset:-1", "timestamp:noon", "newest"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
