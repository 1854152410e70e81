//! Lines of standard input into a topic.

use std::time::Duration;

use argh::{FromArgValue, FromArgs};
use streambus_client::{
    blocking::{Acks, Client, ConfigResource},
    error::ClientError,
    partition::TopicPartition,
    producer::ProducerConfig,
};
use streambus_proto::records::{Codec, Header, NewRecord};

use crate::{
    CliError,
    connect::{connect, find_topic, local_broker, no_partition, pair},
    input::{CHUNKS_READ_MAX, Event, Input},
    line::{Lines, TooLong, split_key},
    output::count,
    partitioner::Partitioner,
    progress::Progress,
    topic::delivery::{Delivery, Gone, Tally},
};

/// The setting that says how large a batch a topic takes.
const BATCH_BYTES_SETTING: &str = "max.message.bytes";
/// Its default: for a broker that does not show settings.
const BATCH_BYTES_DEFAULT: usize = 1_048_588;
/// How long to wait for input before looking after what is under way: about as long as a batch waits for more records.
const INPUT_WAIT: Duration = Duration::from_millis(5);
/// The same while nothing is under way: how late a signal may be noticed.
const IDLE_WAIT: Duration = Duration::from_millis(100);
/// How long a record waits for a broker that does not answer, in seconds: Kafka's `request.timeout.ms`.
const TIMEOUT_SECONDS: u64 = 30;

/// A codec by the name that Kafka gives it.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
struct CodecName(Codec);

impl FromArgValue for CodecName {
    fn from_arg_value(value: &str) -> Result<Self, String> {
        Ok(Self(match value {
            "none" => Codec::None,
            "gzip" => Codec::Gzip,
            "snappy" => Codec::Snappy,
            "lz4" => Codec::Lz4,
            "zstd" => Codec::Zstd,
            _ => return Err("expected none, gzip, snappy, lz4 or zstd".to_owned()),
        }))
    }
}

/// Who must have a batch, by the name that Kafka gives it.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
struct AcksName(Acks);

impl FromArgValue for AcksName {
    fn from_arg_value(value: &str) -> Result<Self, String> {
        Ok(Self(match value {
            "0" => Acks::None,
            "1" => Acks::Leader,
            "all" | "-1" => Acks::All,
            _ => return Err("expected 0, 1 or all".to_owned()),
        }))
    }
}

/// Write each line of standard input as a record.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "produce")]
pub(super) struct Produce {
    /// the topic's name
    #[argh(positional)]
    name: String,
    /// what stands between key and value in a line (default: lines are values without keys)
    #[argh(option, short = 'K')]
    key_separator: Option<String>,
    /// write a line with an empty value as a tombstone, which deletes its key from a compacted topic
    #[argh(switch, short = 'Z')]
    tombstone: bool,
    /// a header of every record as NAME=VALUE; may be repeated
    #[argh(option, short = 'H')]
    header: Vec<String>,
    /// the partition (default: by the key as Java's client chooses, without one each in turn)
    #[argh(option, short = 'p')]
    partition: Option<i32>,
    /// how batches are compressed: none, gzip, snappy, lz4 or zstd (default: none)
    #[argh(option, short = 'z', default = "CodecName(Codec::None)")]
    codec: CodecName,
    /// who must have a batch before it counts: 0, 1 or all (default: all)
    #[argh(option, default = "AcksName(Acks::All)")]
    acks: AcksName,
    /// let a retry write a record twice (as it is with acks other than all)
    #[argh(switch)]
    no_idempotence: bool,
    /// give up when the broker has stored nothing for so many seconds (default: 30)
    #[argh(option, default = "TIMEOUT_SECONDS")]
    timeout: u64,
    /// any broker's address as HOST:PORT (default: 127.0.0.1:9092)
    #[argh(option, short = 'b', default = "local_broker()")]
    bootstrap: String,
}

/// Why reading ended.
enum Ended {
    /// With the input.
    Input,
    /// By Ctrl-C or a signal to terminate; bytes of a line whose end had not come.
    Stopped { unfinished: usize },
    /// By a line that can't be written, or an input that can't be read.
    Wrong(CliError),
    /// Because no more records are taken.
    Gone(Gone),
}

/// How much of the input was handed on.
#[derive(Copy, Clone, Default)]
struct Taken {
    lines: u64,
    bytes: u64,
}

/// What lines become.
struct Recipe<'a> {
    partitions: Vec<TopicPartition>,
    headers: Vec<Header<'a>>,
    key_separator: Option<&'a str>,
    tombstone: bool,
    bytes_max: usize,
}

impl Produce {
    pub(super) fn run(&self) -> Result<(), CliError> {
        let headers = self.header.iter().map(|text| pair("--header", text));
        let headers: Vec<(String, String)> = headers.collect::<Result<_, _>>()?;
        if self.key_separator.as_deref() == Some("") {
            return Err(CliError::Refused(
                "--key-separator must not be empty".to_owned(),
            ));
        }
        let mut client = connect(&self.bootstrap)?;
        let topic = find_topic(&mut client, &self.name)?;
        let recipe = Recipe {
            partitions: self.partitions(&topic)?,
            headers: headers.iter().map(header).collect(),
            key_separator: self.key_separator.as_deref(),
            tombstone: self.tombstone,
            bytes_max: batch_bytes_max(&mut client, &self.name)?,
        };
        let input = Input::begin()?;
        let progress = if Input::is_typed() {
            // What moves on the screen would overwrite what is typed.
            eprintln!("each line is a record; Ctrl-D ends the input");
            Progress::hidden()
        } else {
            Progress::start(format!("producing to {}", self.name), None)
        };
        let producer = client
            .producer(self.config(recipe.bytes_max))
            .with_acks(self.acks.0);
        let limit = Duration::from_secs(self.timeout.max(1));
        let mut delivery = Delivery::new(producer, progress, limit);
        let mut taken = Taken::default();
        let mut ended = recipe.produce_lines(&input, &mut delivery, &mut taken);
        // Even after a bad line or a signal, those before it are written.
        if !matches!(ended, Ended::Gone(_))
            && let Err(gone) = delivery.flush(|| input.is_stopped())
        {
            ended = Ended::Gone(gone);
        }
        let elapsed = delivery.end();
        if Input::is_typed() && input.is_stopped() {
            // The terminal has shown ^C, and stays on that line.
            eprintln!();
        }
        let tally = &delivery.tally;
        eprintln!(
            "{} written to {} in {:.1} s",
            count(tally.stored, "record"),
            self.name,
            elapsed.as_secs_f64()
        );
        Self::verdict(ended, tally, &input, taken)
    }

    fn config(&self, bytes_max: usize) -> ProducerConfig {
        let default = ProducerConfig::default();
        ProducerConfig {
            codec: self.codec.0,
            idempotent: self.acks.0 == Acks::All && !self.no_idempotence,
            batch_bytes_max: default.batch_bytes_max.min(bytes_max),
            record_bytes_max: bytes_max,
            buffered_bytes_max: default.buffered_bytes_max.max(2 * bytes_max),
            // What waits is given up all at once, when the broker has been silent for too long.
            delivery_timeout_ms: u64::MAX / 2,
            ..default
        }
    }

    /// What is wrong with how it went, and how much of the input that concerns.
    fn verdict(ended: Ended, tally: &Tally, input: &Input, taken: Taken) -> Result<(), CliError> {
        let mut parts = Vec::new();
        let mut unread = true;
        match ended {
            Ended::Input => unread = false,
            Ended::Stopped { unfinished } => {
                unread = false;
                if unfinished > 0 {
                    let bytes = count(unfinished as u64, "byte");
                    eprintln!("{bytes} of a line without an end were not written");
                }
            }
            Ended::Wrong(CliError::Refused(why)) => parts.push(why),
            Ended::Wrong(error) => parts.push(error.to_string()),
            Ended::Gone(Gone::Silent(since, why)) => {
                let why = why.map(|why| format!(" ({why})")).unwrap_or_default();
                parts.push(format!(
                    "gave up: the broker has stored nothing for {} s{why}",
                    since.as_secs()
                ));
            }
            Ended::Gone(Gone::Failed(error)) => parts.push(error.to_string()),
        }
        if let Some(loss) = tally.loss() {
            let reason = tally.reason.as_deref().filter(|_| parts.is_empty());
            let reason = reason.map(|reason| format!(" ({reason})"));
            parts.push(format!("{loss}{}", reason.unwrap_or_default()));
        }
        if unread {
            let bytes = input.unread_bytes(taken.bytes);
            let bytes = bytes.map(|bytes| format!(" ({})", count(bytes, "byte")));
            parts.push(format!(
                "the input is unread from line {} on{}",
                taken.lines + 1,
                bytes.unwrap_or_default(),
            ));
        }
        if parts.is_empty() {
            return Ok(());
        }
        Err(CliError::Refused(parts.join("; ")))
    }

    fn partitions(
        &self,
        topic: &streambus_client::router::Topic,
    ) -> Result<Vec<TopicPartition>, CliError> {
        if let Some(partition) = self.partition
            && !topic.partitions.contains_key(&partition)
        {
            return Err(no_partition(&self.name, partition, topic.partitions.len()));
        }
        let indexes = topic.partitions.keys().copied();
        Ok(indexes
            .filter(|index| self.partition.is_none_or(|wanted| wanted == *index))
            .map(|index| TopicPartition::new(topic.name.clone(), index))
            .collect())
    }
}

/// The largest batch that a topic takes.
fn batch_bytes_max(client: &mut Client, topic: &str) -> Result<usize, CliError> {
    let configs = match client.describe_configs(&ConfigResource::Topic(topic.to_owned()), false) {
        Ok(configs) => configs,
        // A broker without this request, or a user that may write and not look.
        Err(ClientError::Unsupported(_) | ClientError::Refused { .. }) => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    let setting = configs
        .iter()
        .find(|config| config.name == BATCH_BYTES_SETTING);
    let value = setting.and_then(|config| config.value.as_ref()?.parse().ok());
    Ok(value.unwrap_or(BATCH_BYTES_DEFAULT))
}

fn header((name, value): &(String, String)) -> Header<'_> {
    Header {
        key: name.as_bytes(),
        value: Some(value.as_bytes()),
    }
}

impl Recipe<'_> {
    /// Reads lines and hands them on until one of them, the input or the broker ends it.
    fn produce_lines(
        &self,
        input: &Input,
        delivery: &mut Delivery<'_>,
        taken: &mut Taken,
    ) -> Ended {
        let mut lines = Lines::new(self.bytes_max);
        let mut partitioner = Partitioner::new(self.partitions.len());
        // After a signal what was read already is written, and no more is waited for.
        let mut chunks_left = CHUNKS_READ_MAX;
        loop {
            let stopped = input.is_stopped();
            let wait = match (stopped, delivery.is_idle()) {
                (true, _) => Duration::ZERO,
                (false, true) => IDLE_WAIT,
                (false, false) => INPUT_WAIT,
            };
            match input.next(wait) {
                Event::Chunk(chunk) if !stopped || chunks_left > 0 => {
                    chunks_left -= usize::from(stopped);
                    lines.put(chunk);
                }
                Event::Chunk(_) | Event::Nothing if stopped => {
                    let unfinished = lines.unfinished();
                    return Ended::Stopped { unfinished };
                }
                Event::Chunk(_) | Event::Nothing => {}
                Event::End(Some(error)) => return Ended::Wrong(CliError::Input(error)),
                Event::End(None) => {
                    let number = lines.count() + 1;
                    let last = lines.last();
                    let last =
                        last.map(|line| self.append(line, number, &mut partitioner, delivery));
                    return last.and_then(Result::err).unwrap_or(Ended::Input);
                }
            }
            loop {
                let number = lines.count() + 1;
                let appended = match lines.next() {
                    Ok(Some(line)) => self.append(line, number, &mut partitioner, delivery),
                    Ok(None) => break,
                    Err(TooLong) => return Ended::Wrong(self.too_long(number)),
                };
                if let Err(ended) = appended {
                    return ended;
                }
                *taken = Taken {
                    lines: lines.count(),
                    bytes: lines.bytes(),
                };
            }
            if let Err(gone) = delivery.look() {
                return Ended::Gone(gone);
            }
        }
    }

    fn append(
        &self,
        line: &[u8],
        number: u64,
        partitioner: &mut Partitioner,
        delivery: &mut Delivery<'_>,
    ) -> Result<(), Ended> {
        let (key, value) = self.key_and_value(line, number).map_err(Ended::Wrong)?;
        // In range: it is chosen among as many.
        let Some(partition) = self.partitions.get(partitioner.choose(key)) else {
            return Ok(());
        };
        let record = NewRecord {
            timestamp: wall_ms(),
            key,
            value: (!self.tombstone || !value.is_empty()).then_some(value),
            headers: &self.headers,
        };
        match delivery.append(partition, &record) {
            Err(Gone::Failed(ClientError::Append(_))) => Err(Ended::Wrong(self.too_long(number))),
            taken => taken.map_err(Ended::Gone),
        }
    }

    fn too_long(&self, number: u64) -> CliError {
        let topic = self
            .partitions
            .first()
            .map_or("the topic", |partition| &partition.topic);
        CliError::Refused(format!(
            "line {number} is too long: {topic} takes batches of {} bytes; raise it with `streambus topic alter {topic} --set {BATCH_BYTES_SETTING}=BYTES`",
            self.bytes_max
        ))
    }

    fn key_and_value<'l>(
        &self,
        line: &'l [u8],
        number: u64,
    ) -> Result<(Option<&'l [u8]>, &'l [u8]), CliError> {
        let Some(separator) = self.key_separator else {
            return Ok((None, line));
        };
        match split_key(line, separator.as_bytes()) {
            Some((key, value)) => Ok((Some(key), value)),
            None => Err(CliError::Refused(format!(
                "line {number} has no key separator {separator:?}"
            ))),
        }
    }
}

fn wall_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(key_separator: Option<&str>) -> Recipe<'_> {
        Recipe {
            partitions: Vec::new(),
            headers: Vec::new(),
            key_separator,
            tombstone: false,
            bytes_max: 1_000,
        }
    }

    #[test]
    fn a_line_without_its_separator_is_refused_by_number() {
        // Proves: key and value are what is around the separator, and a line that has none is named.
        let keyed = recipe(Some("::"));
        let (key, value) = keyed.key_and_value(b"k::v", 7).unwrap();
        assert_eq!((key, value), (Some(&b"k"[..]), &b"v"[..]));
        let refused = keyed
            .key_and_value(b"k:v", 7)
            .map_err(|error| error.to_string());
        assert_eq!(
            refused,
            Err("line 7 has no key separator \"::\"".to_owned())
        );
        assert_eq!(
            recipe(None).key_and_value(b"k::v", 7).unwrap(),
            (None, &b"k::v"[..])
        );
    }
}
