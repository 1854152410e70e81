//! The one binary: broker and command line.
#![forbid(unsafe_code)]

mod start;
mod storage;

use std::{path::Path, process::ExitCode};

use argh::FromArgs;
use serde_json::json;
use streambus::check;
use streambus_cli::{
    Format, as_called,
    cluster::ClusterCommand,
    health::HealthCommand,
    output::print,
    parse::{EXIT_USAGE, Stop, parse},
    program,
    topic::TopicCommand,
};

use start::{SettingFlags, Start};
use storage::StorageCommand;

/// StreamBus: a durable streaming broker that speaks the Kafka protocol.
#[derive(FromArgs)]
struct Arguments {
    #[argh(subcommand)]
    command: Command,
}

#[derive(FromArgs)]
#[argh(subcommand)]
enum Command {
    Start(Start),
    Check(Check),
    Config(Config),
    Topic(TopicCommand),
    Cluster(ClusterCommand),
    Health(HealthCommand),
    Storage(StorageCommand),
    Version(Version),
}

/// Look whether this machine suits a node, and say what to mend.
#[derive(FromArgs)]
#[argh(subcommand, name = "check")]
struct Check {
    /// the directory that the data would be in
    #[argh(option)]
    data_dir: Option<String>,
    /// the settings file
    #[argh(option)]
    config: Option<String>,
    /// text or json
    #[argh(option, default = "Format::Text")]
    format: Format,
}

/// The settings.
#[derive(FromArgs)]
#[argh(subcommand, name = "config")]
struct Config {
    #[argh(subcommand)]
    verb: ConfigVerb,
}

#[derive(FromArgs)]
#[argh(subcommand)]
enum ConfigVerb {
    Show(ConfigShow),
}

/// Show every setting as it stands, as a settings file with comments.
#[derive(FromArgs)]
#[argh(subcommand, name = "show")]
struct ConfigShow {
    /// show where each value came from instead of what it means
    #[argh(switch)]
    origin: bool,
    /// the settings file
    #[argh(option)]
    config: Option<String>,
    /// a setting as SECTION.KEY=VALUE; may be repeated
    #[argh(option)]
    set: Vec<String>,
    /// text or json
    #[argh(option, default = "Format::Text")]
    format: Format,
}

/// Show the version.
#[derive(FromArgs)]
#[argh(subcommand, name = "version")]
struct Version {}

fn main() -> ExitCode {
    let mut arguments: Vec<_> = std::env::args_os().skip(1).collect();
    if let [only] = arguments.as_mut_slice()
        && (only == "--version" || only == "-V")
    {
        *only = "version".into();
    }
    let arguments: Arguments = match parse(&program(), arguments) {
        Ok(arguments) => arguments,
        Err(Stop::Help(text)) => return printed(&text),
        Err(Stop::Usage(line)) => {
            eprintln!("{line}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    match arguments.command {
        Command::Start(start) => outcome(start.run()),
        Command::Check(check) => run_check(&check),
        Command::Config(Config {
            verb: ConfigVerb::Show(show),
        }) => show_config(&show),
        Command::Topic(topic) => outcome(topic.run().map_err(|error| error.to_string())),
        Command::Cluster(cluster) => outcome(cluster.run().map_err(|error| error.to_string())),
        Command::Health(health) => match health.run() {
            Ok(good) => ExitCode::from(u8::from(!good)),
            Err(error) => {
                eprintln!("streambus: {}", as_called(&error.to_string()));
                ExitCode::from(EXIT_USAGE)
            }
        },
        Command::Storage(storage) => storage.run(),
        Command::Version(Version {}) => {
            printed(concat!("streambus ", env!("CARGO_PKG_VERSION"), "\n"))
        }
    }
}

fn outcome(result: Result<(), String>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(line) => {
            eprintln!("streambus: {}", as_called(&line));
            ExitCode::FAILURE
        }
    }
}

fn printed(text: &str) -> ExitCode {
    outcome(
        print(text)
            .map(drop)
            .map_err(|error| format!("cannot write to standard output: {error}")),
    )
}

fn run_check(check: &Check) -> ExitCode {
    let flags = SettingFlags::of("--data-dir", "data.dir", check.data_dir.as_deref());
    let config = match flags.load(check.config.as_deref()) {
        Ok(loaded) => loaded.config,
        Err(line) => return outcome(Err(line)),
    };
    let mut findings = check::run(Path::new(&config.data.dir), config.node.core_count());
    findings.extend(check::listeners(&config));
    let text = match check.format {
        Format::Text => check::to_text(&findings),
        Format::Json => {
            let findings = findings.iter().map(|finding| {
                json!({
                    "name": finding.name,
                    "verdict": finding.verdict.as_str(),
                    "found": finding.found,
                    "remedy": finding.remedy,
                })
            });
            format!("{}\n", json!(findings.collect::<Vec<_>>()))
        }
    };
    let code = printed(&text);
    if check::passed(&findings) {
        code
    } else {
        ExitCode::FAILURE
    }
}

fn show_config(show: &ConfigShow) -> ExitCode {
    let loaded = SettingFlags::default()
        .with_settings(&show.set)
        .and_then(|flags| flags.load(show.config.as_deref()));
    let loaded = match loaded {
        Ok(loaded) => loaded,
        Err(line) => return outcome(Err(line)),
    };
    printed(&match (show.format, show.origin) {
        (Format::Json, _) => {
            let settings = loaded.shown().into_iter().map(|shown| {
                json!({ "key": shown.path, "value": shown.value, "origin": shown.origin.to_string() })
            });
            format!("{}\n", json!(settings.collect::<Vec<_>>()))
        }
        (Format::Text, true) => loaded.to_text_with_origins(),
        (Format::Text, false) => loaded.config.to_toml(),
    })
}
