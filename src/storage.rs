//! `streambus storage`: looks into, verifies and repairs a data directory that no broker has open.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use argh::FromArgs;
use serde_json::{Value, json};
use streambus::metadata::broker_config::statics;
use streambus::metadata::log::{LogError, MetadataLog};
use streambus::metadata::{ConfigMap, Image};
use streambus::node::{LANE_PREFIX, METADATA_DIR};
use streambus_cli::{Format, output::print, parse::EXIT_USAGE, progress::Progress};
use streambus_proto::ids::TopicId;
use streambus_shards::{DirLock, DiskError, LockError, disk, run_alone};
use streambus_storage::PartitionKey;
use streambus_storage::offline::{self, Depth, Examined, Finding, Remedy, Seen};

use crate::start::SettingFlags;

/// Exit code where there is damage, or where a repair of it failed.
const EXIT_DAMAGED: u8 = 1;
/// Exit code where no damage is known, and not everything could be looked at or told: the same as for wrong usage.
const EXIT_UNREAD: u8 = EXIT_USAGE;
/// Listed lines are written out in pieces of this size.
const PRINT_BYTES: usize = 64 << 10;

/// Look into, verify or repair a data directory that no broker has open.
#[derive(FromArgs)]
#[argh(subcommand, name = "storage")]
pub(crate) struct StorageCommand {
    #[argh(subcommand)]
    verb: Verb,
}

#[derive(FromArgs)]
#[argh(subcommand)]
enum Verb {
    Inspect(Inspect),
    Verify(Verify),
    Repair(Repair),
}

/// List the manifest, the tables and the write-ahead log of each lane.
#[derive(FromArgs)]
#[argh(subcommand, name = "inspect")]
struct Inspect {
    /// the data directory (default: the one that start would use)
    #[argh(option)]
    data_dir: Option<String>,
    /// the settings file
    #[argh(option)]
    config: Option<String>,
    /// list each record of the write-ahead log too
    #[argh(switch)]
    records: bool,
    /// text or json
    #[argh(option, default = "Format::Text")]
    format: Format,
}

/// Read everything and check every checksum. Exits with 1 if there is damage, with 2 if none is known and something
/// could not be looked at.
#[derive(FromArgs)]
#[argh(subcommand, name = "verify")]
struct Verify {
    /// the data directory (default: the one that start would use)
    #[argh(option)]
    data_dir: Option<String>,
    /// the settings file
    #[argh(option)]
    config: Option<String>,
    /// text or json
    #[argh(option, default = "Format::Text")]
    format: Format,
}

/// Say what a repair would drop; with --yes, do it. Nothing is deleted: it goes to quarantine.
#[derive(FromArgs)]
#[argh(subcommand, name = "repair")]
struct Repair {
    /// the data directory (default: the one that start would use)
    #[argh(option)]
    data_dir: Option<String>,
    /// the settings file
    #[argh(option)]
    config: Option<String>,
    /// do it
    #[argh(switch)]
    yes: bool,
    /// text or json
    #[argh(option, default = "Format::Text")]
    format: Format,
}

/// Why there is no report: one line, and the exit code.
struct Refused(String, u8);

impl StorageCommand {
    /// Carries the command out: 0 if the data is sound, 1 if it is damaged, 2 if no damage is known, and not all of it
    /// could be looked at.
    pub(crate) fn run(&self) -> ExitCode {
        let code = match &self.verb {
            Verb::Inspect(verb) => inspect(verb),
            Verb::Verify(verb) => verify(verb),
            Verb::Repair(verb) => repair(verb),
        };
        ExitCode::from(code.unwrap_or_else(|Refused(line, code)| {
            eprintln!("streambus: {line}");
            code
        }))
    }
}

fn inspect(verb: &Inspect) -> Result<u8, Refused> {
    let directory = Directory::open(verb.data_dir.as_deref(), verb.config.as_deref(), false)?;
    let mut lines = Lines {
        text: String::new(),
        format: verb.format,
        records: verb.records,
        topics: directory.topics(),
    };
    let mut report = directory.report();
    for lane in &directory.lanes {
        lines.lane(lane);
        let examined = look(lane, Depth::Listing, &mut |seen| lines.seen(seen))?;
        report.lanes.push(examined);
    }
    lines.flush();
    if !report.is_sound() {
        said(&match verb.format {
            Format::Text => report.to_text(),
            Format::Json => {
                let mut last = report.to_json(None);
                last["kind"] = json!("report");
                format!("{last}\n")
            }
        })?;
    }
    Ok(report.exit_code())
}

fn verify(verb: &Verify) -> Result<u8, Refused> {
    let directory = Directory::open(verb.data_dir.as_deref(), verb.config.as_deref(), false)?;
    let report = directory.examine("verifying")?;
    said(&report.shown(verb.format, None))?;
    Ok(report.exit_code())
}

fn repair(verb: &Repair) -> Result<u8, Refused> {
    let directory = Directory::open(verb.data_dir.as_deref(), verb.config.as_deref(), true)?;
    let mut report = directory.examine("verifying")?;
    if report.is_sound() || !verb.yes {
        let note = (!report.is_sound()).then_some(
            "nothing was changed; `streambus storage repair --yes` does what is said above",
        );
        said(&report.shown(verb.format, note))?;
        return Ok(report.exit_code());
    }
    // Said first: what a repair has dropped, nobody can find out again.
    let note = "repairing; what is replaced goes to quarantine/";
    said(&report.shown(verb.format, Some(note)))?;
    let code = report.exit_code();
    for (lane, _) in std::mem::take(&mut report.missing) {
        let begun = run_alone(offline::begin(&lane)).map_err(|error| machine(&error))?;
        begun.map_err(|error| Refused(format!("{error}; make it writable and try again"), code))?;
    }
    let lanes = std::mem::take(&mut report.lanes);
    let mut left = report.beside_lanes();
    let mut failed = false;
    for lane in lanes {
        let name = lane.dir.display().to_string();
        match run_alone(offline::repair(lane)).map_err(|error| machine(&error))? {
            Ok(findings) => left += findings.len(),
            Err(error) => {
                failed = true;
                eprintln!(
                    "streambus: {name} is not repaired: {error}; see what is left with `streambus storage repair`"
                );
            }
        }
    }
    if left > 0 {
        eprintln!("streambus: {left} findings above have no repair here");
    }
    Ok(if failed || left > 0 { code } else { 0 })
}

/// A data directory that is this process's for now.
struct Directory {
    path: PathBuf,
    lanes: Vec<PathBuf>,
    metadata: Result<Option<Image>, MetadataFault>,
    _lock: Option<DirLock>,
}

impl Directory {
    fn open(data_dir: Option<&str>, config: Option<&str>, changes: bool) -> Result<Self, Refused> {
        let usage = |line: String| Refused(line, EXIT_USAGE);
        let flags = SettingFlags::of("--data-dir", "data.dir", data_dir);
        let config = flags.load(config).map_err(usage)?.config;
        let path = PathBuf::from(&config.data.dir);
        let lanes = lanes(&path).map_err(usage)?;
        if lanes.is_empty() && !disk::exists(&path.join(METADATA_DIR)) {
            return Err(usage(format!(
                "{} holds no data of StreamBus; name the data directory with --data-dir",
                path.display()
            )));
        }
        let locked = if changes {
            DirLock::acquire(&path).map(Some)
        } else {
            DirLock::acquire_to_look(&path)
        };
        let lock = match locked {
            Ok(lock) => lock,
            Err(LockError::Held { holder, .. }) => {
                return Err(usage(format!(
                    "a broker (process {holder}) uses {}; stop it first, or ask it with `streambus health`",
                    path.display()
                )));
            }
            Err(error @ LockError::Io { .. }) => {
                return Err(usage(format!(
                    "{error}; without the lock nobody knows whether a broker writes there: run this as the user that the broker runs as"
                )));
            }
        };
        let statics = Arc::new(statics(&config));
        let metadata = match read_metadata(&path.join(METADATA_DIR), &statics)? {
            Ok(None) if !lanes.iter().all(|lane| offline::is_empty(lane)) => Err(MetadataFault {
                reason: "there is none, and there are lanes, of which it says what they hold"
                    .to_owned(),
                is_damage: true,
            }),
            found => found.map_err(|error| MetadataFault {
                reason: error.to_string(),
                is_damage: error.is_damage(),
            }),
        };
        Ok(Self {
            path,
            lanes,
            metadata,
            _lock: lock,
        })
    }

    /// Names of topics by id, as far as the metadata can be read.
    fn topics(&self) -> BTreeMap<TopicId, String> {
        let image = self.metadata.iter().flatten();
        image
            .flat_map(Image::topics)
            .map(|topic| (topic.id, topic.name.to_string()))
            .collect()
    }

    fn report(&self) -> Report {
        let numbers = (0_u16..).zip(
            self.metadata
                .iter()
                .flatten()
                .flat_map(|image| image.lane_partitions().to_vec()),
        );
        let missing = numbers
            .filter(|(_, partitions)| *partitions > 0)
            .map(|(number, partitions)| {
                (self.path.join(format!("{LANE_PREFIX}{number}")), partitions)
            })
            .filter(|(lane, _)| offline::is_empty(lane));
        Report {
            metadata: match &self.metadata {
                Ok(image) => Ok(image
                    .as_ref()
                    .map(|image| (image.topic_count(), image.partition_count()))),
                Err(fault) => Err(fault.clone()),
            },
            missing: missing.collect(),
            lanes: Vec::new(),
            topics: self.topics(),
        }
    }

    /// Reads everything, with a bar where somebody watches.
    fn examine(&self, what: &str) -> Result<Report, Refused> {
        let mut report = self.report();
        for lane in &self.lanes {
            let total = run_alone(offline::bytes_to_read(lane, Depth::Everything))
                .map_err(|error| machine(&error))?;
            let progress = Progress::bytes(format!("{what} {}", lane.display()), total);
            let examined = look(lane, Depth::Everything, &mut |seen| {
                if let Seen::Read { bytes } = seen {
                    progress.advance(bytes);
                }
            });
            progress.finish();
            report.lanes.push(examined?);
        }
        Ok(report)
    }
}

/// Why the metadata can't be used.
#[derive(Clone)]
struct MetadataFault {
    reason: String,
    /// Otherwise it could not be read, or is of another version.
    is_damage: bool,
}

/// Reads the metadata, once more if the disk refuses: a failure that passes is none of the data.
fn read_metadata(
    dir: &Path,
    statics: &Arc<ConfigMap>,
) -> Result<Result<Option<Image>, LogError>, Refused> {
    let read = || run_alone(MetadataLog::verify(dir.to_owned(), Arc::clone(statics)));
    let found = match read() {
        Ok(Err(LogError::Disk(_))) => read(),
        found => found,
    };
    found.map_err(|error| machine(&error))
}

/// The lanes there are; none in a directory that is not there.
fn lanes(path: &Path) -> Result<Vec<PathBuf>, String> {
    let number = |name: &str| name.strip_prefix(LANE_PREFIX)?.parse::<u16>().ok();
    let names = match disk::list(path) {
        Err(DiskError::NotFound { .. }) => Vec::new(),
        listed => listed.map_err(|error| error.to_string())?,
    };
    let mut numbers: Vec<u16> = names.iter().filter_map(|name| number(name)).collect();
    numbers.sort_unstable();
    let lane = |number: &u16| path.join(format!("{LANE_PREFIX}{number}"));
    Ok(numbers.iter().map(lane).collect())
}

fn look(lane: &Path, depth: Depth, see: &mut dyn FnMut(Seen)) -> Result<Examined, Refused> {
    run_alone(offline::examine(lane, depth, see)).map_err(|error| machine(&error))
}

fn machine(error: &dyn std::error::Error) -> Refused {
    Refused(format!("{error}; `streambus check` says more"), EXIT_USAGE)
}

fn said(text: &str) -> Result<(), Refused> {
    print(text).map(drop).map_err(|error| {
        let line = format!("cannot write to standard output: {error}");
        Refused(line, EXIT_UNREAD)
    })
}

fn named(topics: &BTreeMap<TopicId, String>, key: PartitionKey) -> String {
    match topics.get(&key.topic) {
        Some(topic) => format!("{topic}-{}", key.index),
        None => key.to_string(),
    }
}

/// What was found in all of the directory.
struct Report {
    /// Topics and partitions, `None` where there is no metadata yet, or why it can't be read.
    metadata: Result<Option<(usize, usize)>, MetadataFault>,
    /// Lanes that have partitions, by the metadata, and no files.
    missing: Vec<(PathBuf, usize)>,
    lanes: Vec<Examined>,
    topics: BTreeMap<TopicId, String>,
}

impl Report {
    fn is_sound(&self) -> bool {
        self.metadata.is_ok()
            && self.missing.is_empty()
            && self.lanes.iter().all(|lane| lane.findings.is_empty())
    }

    fn is_damaged(&self) -> bool {
        self.metadata.as_ref().is_err_and(|fault| fault.is_damage)
            || !self.missing.is_empty()
            || self.lanes.iter().any(Examined::is_damaged)
    }

    fn exit_code(&self) -> u8 {
        match (self.is_damaged(), self.is_sound()) {
            (true, _) => EXIT_DAMAGED,
            (false, false) => EXIT_UNREAD,
            (false, true) => 0,
        }
    }

    /// Findings that have no repair here, beside those of lanes.
    fn beside_lanes(&self) -> usize {
        usize::from(self.metadata.is_err())
    }

    fn shown(&self, format: Format, note: Option<&str>) -> String {
        match format {
            Format::Text => {
                let text = self.to_text();
                note.map_or(text.clone(), |note| format!("{text}{note}\n"))
            }
            Format::Json => format!("{}\n", self.to_json(note)),
        }
    }

    fn to_text(&self) -> String {
        let mut lines = vec![match &self.metadata {
            Ok(Some((topics, partitions))) => {
                format!("metadata  sound: {topics} topics, {partitions} partitions")
            }
            Ok(None) => "metadata  none yet".to_owned(),
            Err(MetadataFault { reason, is_damage }) => {
                let (state, remedy) = if *is_damage {
                    ("DAMAGED", "none here; restore it from a backup")
                } else {
                    ("UNREADABLE", remedy_words(Remedy::Unread))
                };
                format!("metadata  {state}\n  {reason}\n    repair: {remedy}")
            }
        }];
        for (lane, partitions) in &self.missing {
            lines.push(format!(
                "{}  MISSING, and {partitions} partitions are in it: mount it, or restore it from a backup\n    repair: begin it anew, empty: all its records are lost",
                lane.display()
            ));
        }
        for lane in &self.lanes {
            lines.push(lane_text(lane));
            if lane.totals.torn_bytes > 0 {
                lines.push(format!(
                    "  {} bytes of a commit that is not whole end the WAL, as a crash leaves it: it may never have been acknowledged; the next start cuts it",
                    lane.totals.torn_bytes
                ));
            }
            if lane.is_unread() && lane.is_damaged() {
                lines.push(
                    "  nothing here is repaired before all of it can be looked at: what can't be may hold what seems to be lost"
                        .to_owned(),
                );
            }
            lines.extend(lane.unknown.iter().map(|path| {
                format!(
                    "  {} is no file of a lane; the next start moves it to quarantine/",
                    path.display()
                )
            }));
            lines.extend(
                lane.findings
                    .iter()
                    .map(|finding| self.finding_text(finding)),
            );
        }
        lines.join("\n") + "\n"
    }

    fn finding_text(&self, finding: &Finding) -> String {
        let mut text = format!(
            "  {} at byte {}: {}",
            finding.file.display(),
            finding.position,
            finding.what
        );
        for lost in &finding.lost {
            let partition = named(&self.topics, lost.key);
            let (start, last) = (lost.start.0, lost.end.0 - 1);
            // Writing to a string does not fail.
            let _ = write!(text, "\n    lost: {partition} offsets {start} to {last}");
        }
        text + "\n    repair: " + remedy_words(finding.remedy)
    }

    fn to_json(&self, note: Option<&str>) -> Value {
        let lanes = self.lanes.iter().map(|lane| {
            let findings = lane.findings.iter().map(|finding| {
                let lost = finding.lost.iter().map(|lost| {
                    json!({
                        "topic": self.topics.get(&lost.key.topic),
                        "topic_id": lost.key.topic.to_string(),
                        "partition": lost.key.index,
                        "start_offset": lost.start.0,
                        "end_offset": lost.end.0,
                    })
                });
                json!({
                    "file": finding.file.display().to_string(),
                    "position": finding.position,
                    "what": finding.what,
                    "repair": remedy_words(finding.remedy),
                    "lost": lost.collect::<Vec<_>>(),
                })
            });
            let unknown = lane.unknown.iter().map(|path| path.display().to_string());
            json!({
                "lane": lane.dir.display().to_string(),
                "tables": lane.totals.tables,
                "table_bytes": lane.totals.table_bytes,
                "commits": lane.totals.commits,
                "records": lane.totals.records,
                "torn_bytes": lane.totals.torn_bytes,
                "unread": lane.is_unread(),
                "unknown_files": unknown.collect::<Vec<_>>(),
                "findings": findings.collect::<Vec<_>>(),
            })
        });
        let missing = self
            .missing
            .iter()
            .map(|(lane, _)| lane.display().to_string());
        json!({
            "sound": self.is_sound(),
            "damaged": self.is_damaged(),
            "metadata_error": self.metadata.as_ref().err().map(|fault| &fault.reason),
            "missing_lanes": missing.collect::<Vec<_>>(),
            "lanes": lanes.collect::<Vec<_>>(),
            "note": note,
        })
    }
}

fn lane_text(lane: &Examined) -> String {
    let state = match (lane.is_damaged(), lane.is_unread()) {
        (true, _) => "DAMAGED",
        (false, true) => "UNREADABLE",
        (false, false) => "sound",
    };
    let totals = lane.totals;
    let verified = match lane.depth {
        Depth::Everything => format!("{} bytes verified in them", totals.table_bytes),
        Depth::Listing => "their data not read".to_owned(),
    };
    format!(
        "{}  {state}: {} tables, {verified}; {} commits, {} records in the WAL",
        lane.dir.display(),
        totals.tables,
        totals.commits,
        totals.records
    )
}

fn remedy_words(remedy: Remedy) -> &'static str {
    match remedy {
        Remedy::RewriteTable { .. } => "write the table again without the batches that are lost",
        Remedy::DropTable { .. } => "drop the table and all that it held",
        Remedy::CutWal { .. } => {
            "end the WAL here: the commit that is damaged and all after it are dropped"
        }
        Remedy::BlankWal { .. } => {
            "write the WAL file again up to its last commit; the files after it stay"
        }
        Remedy::Quarantine => "move it to quarantine/, as the next start would",
        Remedy::EmptyLane => {
            "move all files of the lane to quarantine/, and begin it anew: all its records are dropped"
        }
        Remedy::None => "none here; keep a copy of the directory and ask for help",
        Remedy::Unread => {
            "none; look again as the user that the broker runs as, with the build that wrote it, and at what the kernel says of the disk"
        }
    }
}

/// What is listed, line by line.
struct Lines {
    text: String,
    format: Format,
    records: bool,
    topics: BTreeMap<TopicId, String>,
}

impl Lines {
    fn lane(&mut self, path: &Path) {
        let path = path.display().to_string();
        self.push(&match self.format {
            Format::Text => path,
            Format::Json => json!({"kind": "lane", "path": path}).to_string(),
        });
    }

    fn seen(&mut self, seen: Seen) {
        let is_record = matches!(seen, Seen::Record { .. });
        if matches!(seen, Seen::Read { .. }) || (is_record && !self.records) {
            return;
        }
        let line = match self.format {
            Format::Text => self.line(seen),
            Format::Json => self.value(seen).to_string(),
        };
        self.push(&line);
    }

    fn push(&mut self, line: &str) {
        self.text += line;
        self.text.push('\n');
        if self.text.len() >= PRINT_BYTES {
            self.flush();
        }
    }

    /// Writes out what is listed; a reader that has seen enough ends the program quietly.
    fn flush(&mut self) {
        match print(&std::mem::take(&mut self.text)) {
            Ok(true) => {}
            Ok(false) => std::process::exit(0),
            Err(error) => {
                eprintln!("streambus: cannot write to standard output: {error}");
                std::process::exit(i32::from(EXIT_UNREAD));
            }
        }
    }

    fn line(&self, seen: Seen) -> String {
        match seen {
            Seen::Manifest {
                generation,
                wal_from: (epoch, byte),
                tables,
                partitions,
            } => format!(
                "  manifest {generation}: {tables} tables, {partitions} partitions, WAL from wal-{epoch:016x}.log byte {byte}"
            ),
            Seen::Table { id, bytes, parts } => {
                format!("  table-{id:016x}.tbl: {bytes} bytes, {parts} partitions")
            }
            Seen::Part {
                key,
                offsets: (start, end),
                bytes,
            } => format!(
                "    {} offsets {} to {}: {bytes} bytes",
                named(&self.topics, key),
                start.0,
                end.0 - 1
            ),
            Seen::Commit {
                id,
                epoch,
                position,
                bytes,
                records,
            } => format!(
                "  commit {id} at wal-{epoch:016x}.log byte {position}: {bytes} bytes, {records} records"
            ),
            Seen::Record {
                sequence,
                kind,
                key,
                offsets,
                bytes,
            } => {
                let key = named(&self.topics, key);
                let offsets = offsets.map_or(String::new(), |(start, end)| {
                    format!(" offsets {} to {}", start.0, end.0.max(start.0 + 1) - 1)
                });
                format!("    record {sequence}: {kind} {key}{offsets}, {bytes} bytes")
            }
            Seen::Read { .. } => String::new(),
        }
    }

    fn value(&self, seen: Seen) -> Value {
        match seen {
            Seen::Manifest {
                generation,
                wal_from: (epoch, byte),
                tables,
                partitions,
            } => json!({
                "kind": "manifest", "generation": generation, "wal_epoch": epoch, "wal_position": byte,
                "tables": tables, "partitions": partitions,
            }),
            Seen::Table { id, bytes, parts } => {
                json!({"kind": "table", "id": id, "bytes": bytes, "partitions": parts})
            }
            Seen::Part {
                key,
                offsets: (start, end),
                bytes,
            } => json!({
                "kind": "part", "topic": self.topics.get(&key.topic), "topic_id": key.topic.to_string(),
                "partition": key.index, "start_offset": start.0, "end_offset": end.0, "bytes": bytes,
            }),
            Seen::Commit {
                id,
                epoch,
                position,
                bytes,
                records,
            } => json!({
                "kind": "commit", "id": id, "wal_epoch": epoch, "position": position, "bytes": bytes,
                "records": records,
            }),
            Seen::Record {
                sequence,
                kind,
                key,
                offsets,
                bytes,
            } => json!({
                "kind": "record", "sequence": sequence, "record": kind,
                "topic": self.topics.get(&key.topic), "topic_id": key.topic.to_string(),
                "partition": key.index, "start_offset": offsets.map(|(start, _)| start.0),
                "end_offset": offsets.map(|(_, end)| end.0), "bytes": bytes,
            }),
            Seen::Read { .. } => Value::Null,
        }
    }
}
