//! Lines of standard input into a topic.

use std::io::{BufReader, stdin};

use argh::{FromArgValue, FromArgs};
use streambus_client::{
    blocking::{Acks, BlockingProducer},
    partition::TopicPartition,
    producer::ProducerConfig,
};
use streambus_proto::records::{Codec, Header, NewRecord};

use crate::{
    CliError,
    connect::{connect, find_topic, local_broker, pair},
    line::{Line, read_line, split_key},
    partitioner::Partitioner,
    progress::Progress,
};

/// The longest line; brokers refuse larger batches by default.
const LINE_BYTES_MAX: usize = 1_000_000;
/// How much of standard input is read at once.
const READ_BYTES: usize = 256 << 10;

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
    #[argh(option)]
    key_separator: Option<String>,
    /// a header of every record as NAME=VALUE; may be repeated
    #[argh(option)]
    header: Vec<String>,
    /// the partition (default: by the key as Java's client chooses, without one each in turn)
    #[argh(option)]
    partition: Option<i32>,
    /// how batches are compressed: none, gzip, snappy, lz4 or zstd (default: none)
    #[argh(option, default = "CodecName(Codec::None)")]
    codec: CodecName,
    /// who must have a batch before it counts: 0, 1 or all (default: all)
    #[argh(option, default = "AcksName(Acks::All)")]
    acks: AcksName,
    /// let a retry write a record twice (as it is with acks other than all)
    #[argh(switch)]
    no_idempotence: bool,
    /// any broker's address as HOST:PORT (default: 127.0.0.1:9092)
    #[argh(option, default = "local_broker()")]
    bootstrap: String,
}

/// What became of the records so far.
#[derive(Default)]
struct Tally {
    stored: u64,
    failed: u64,
    reason: Option<String>,
}

impl Tally {
    fn take(&mut self, producer: &mut BlockingProducer<'_>) -> u64 {
        let mut taken = 0;
        for delivery in producer.take_delivered() {
            let records = u64::try_from(delivery.record_count).unwrap_or(0);
            taken += records;
            match delivery.result {
                Ok(_) => self.stored += records,
                Err(error) => {
                    self.failed += records;
                    self.reason
                        .get_or_insert_with(|| format!("{}: {error}", delivery.partition));
                }
            }
        }
        taken
    }
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
        let partitions = self.partitions(&find_topic(&mut client, &self.name)?)?;
        let config = ProducerConfig {
            codec: self.codec.0,
            idempotent: self.acks.0 == Acks::All && !self.no_idempotence,
            ..ProducerConfig::default()
        };
        let mut producer = client.producer(config).with_acks(self.acks.0);
        let progress = Progress::start(format!("producing to {}", self.name), None);
        let mut tally = Tally::default();
        let read = self.produce_lines(&partitions, &headers, &mut producer, &progress, &mut tally);
        // Even after a bad line, those before it are written.
        let flushed = producer.flush();
        tally.take(&mut producer);
        let elapsed = progress.finish();
        eprintln!(
            "{} records written to {} in {:.1} s",
            tally.stored,
            self.name,
            elapsed.as_secs_f64()
        );
        read?;
        if let Some(reason) = tally.reason {
            return Err(CliError::Refused(format!(
                "{} records were not written: {reason}",
                tally.failed
            )));
        }
        Ok(flushed?)
    }

    fn partitions(
        &self,
        topic: &streambus_client::router::Topic,
    ) -> Result<Vec<TopicPartition>, CliError> {
        if let Some(partition) = self.partition
            && !topic.partitions.contains_key(&partition)
        {
            let count = topic.partitions.len();
            return Err(CliError::Refused(format!(
                "--partition {partition} is refused: topic {} has partitions 0 to {}",
                self.name,
                count.saturating_sub(1)
            )));
        }
        let indexes = topic.partitions.keys().copied();
        Ok(indexes
            .filter(|index| self.partition.is_none_or(|wanted| wanted == *index))
            .map(|index| TopicPartition::new(topic.name.clone(), index))
            .collect())
    }

    fn produce_lines(
        &self,
        partitions: &[TopicPartition],
        headers: &[(String, String)],
        producer: &mut BlockingProducer<'_>,
        progress: &Progress,
        tally: &mut Tally,
    ) -> Result<(), CliError> {
        let headers: Vec<Header<'_>> = headers
            .iter()
            .map(|(name, value)| Header {
                key: name.as_bytes(),
                value: Some(value.as_bytes()),
            })
            .collect();
        let mut partitioner = Partitioner::new(partitions.len());
        let mut input = BufReader::with_capacity(READ_BYTES, stdin().lock());
        let mut line = Vec::new();
        for number in 1_u64.. {
            match read_line(&mut input, &mut line, LINE_BYTES_MAX).map_err(CliError::Input)? {
                Line::End => break,
                Line::TooLong => {
                    return Err(CliError::Refused(format!(
                        "line {number} is longer than {LINE_BYTES_MAX} bytes"
                    )));
                }
                Line::Complete => {}
            }
            let (key, value) = self.key_and_value(&line, number)?;
            // In range: it is chosen among as many.
            let Some(partition) = partitions.get(partitioner.choose(key)) else {
                continue;
            };
            let timestamp = wall_ms();
            producer.append(
                partition,
                &NewRecord {
                    timestamp,
                    key,
                    value: Some(value),
                    headers: &headers,
                },
            )?;
            progress.advance(tally.take(producer));
        }
        Ok(())
    }

    fn key_and_value<'l>(
        &self,
        line: &'l [u8],
        number: u64,
    ) -> Result<(Option<&'l [u8]>, &'l [u8]), CliError> {
        let Some(separator) = &self.key_separator else {
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
