//! `streambus start`: settings, logs, the ops thread, then the node.

use std::{fmt::Write, net::SocketAddr};

use argh::FromArgs;
use streambus::{
    config::{Advertise, Config, FlagSetting, Loaded, LogFormat, SettingsFile, Sources},
    node::{self, Ready},
};
use streambus_cli::{
    output::{count, print},
    program,
};
use streambus_ops::logs;
use streambus_shards::catch_stop_signals;

/// The settings file that is read when none is named and it is there.
const SETTINGS_FILE: &str = "streambus.toml";
/// The variable that names a settings file.
const SETTINGS_FILE_VARIABLE: &str = "STREAMBUS_CONFIG";
/// Cores listed in the banner; a longer list ends in dots.
const PORTS_SHOWN_MAX: usize = 4;

/// Start the broker.
#[derive(FromArgs)]
#[argh(subcommand, name = "start")]
pub(crate) struct Start {
    /// the settings file (default: ./streambus.toml if it is there)
    #[argh(option)]
    config: Option<String>,
    /// the directory that holds the data
    #[argh(option)]
    data_dir: Option<String>,
    /// the address to listen on
    #[argh(option)]
    host: Option<String>,
    /// the port to listen on
    #[argh(option)]
    port: Option<String>,
    /// how many cores serve data; 0 for all
    #[argh(option)]
    cores: Option<String>,
    /// this node's number
    #[argh(option)]
    node_id: Option<String>,
    /// where metrics and health are served
    #[argh(option)]
    admin_address: Option<String>,
    /// what is logged, for instance info
    #[argh(option)]
    log_level: Option<String>,
    /// how log lines look: auto, text or json
    #[argh(option)]
    log_format: Option<String>,
    /// any setting as SECTION.KEY=VALUE; may be repeated
    #[argh(option)]
    set: Vec<String>,
}

/// Settings given as flags.
#[derive(Default)]
pub(crate) struct SettingFlags(Vec<FlagSetting>);

impl SettingFlags {
    pub(crate) fn of(flag: &str, path: &str, value: Option<&str>) -> Self {
        Self::default().with(flag, path, value)
    }

    fn with(mut self, flag: &str, path: &str, value: Option<&str>) -> Self {
        self.0.extend(value.map(|value| FlagSetting {
            flag: flag.to_owned(),
            path: path.to_owned(),
            value: value.to_owned(),
        }));
        self
    }

    /// Adds what `--set` was given.
    pub(crate) fn with_settings(mut self, settings: &[String]) -> Result<Self, String> {
        for setting in settings {
            let Some((path, value)) = setting.split_once('=') else {
                return Err(format!(
                    "--set {setting} is refused: it must be SECTION.KEY=VALUE, for instance node.id=1"
                ));
            };
            self = self.with("--set", path, Some(value));
        }
        Ok(self)
    }

    /// Reads the settings file and the environment below these flags.
    pub(crate) fn load(self, file: Option<&str>) -> Result<Loaded, String> {
        let named = file
            .map(str::to_owned)
            .or_else(|| std::env::var(SETTINGS_FILE_VARIABLE).ok());
        let path = named.clone().unwrap_or_else(|| SETTINGS_FILE.to_owned());
        let file = match std::fs::read_to_string(&path) {
            Ok(text) => Some(SettingsFile { path, text }),
            Err(error) if named.is_none() && error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => {
                return Err(format!(
                    "settings file {path} can't be read: {error}; name one with --config, or leave it out for the defaults"
                ));
            }
        };
        // A variable that isn't text can't be a setting of ours.
        let variables = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let sources = Sources {
            file,
            variables,
            flags: self.0,
        };
        Config::load(&sources).map_err(|error| error.to_string())
    }
}

impl Start {
    fn flags(&self) -> Result<SettingFlags, String> {
        SettingFlags::of("--data-dir", "data.dir", self.data_dir.as_deref())
            .with("--host", "listeners.main.host", self.host.as_deref())
            .with("--port", "listeners.main.port", self.port.as_deref())
            .with("--cores", "node.cores", self.cores.as_deref())
            .with("--node-id", "node.id", self.node_id.as_deref())
            .with(
                "--admin-address",
                "admin.address",
                self.admin_address.as_deref(),
            )
            .with("--log-level", "log.level", self.log_level.as_deref())
            .with("--log-format", "log.format", self.log_format.as_deref())
            .with_settings(&self.set)
    }

    /// Runs the broker until it is asked to stop.
    pub(crate) fn run(&self) -> Result<(), String> {
        let config = self.flags()?.load(self.config.as_deref())?.config;
        let format = match config.log.format {
            LogFormat::Auto => logs::Format::Auto,
            LogFormat::Text => logs::Format::Text,
            LogFormat::Json => logs::Format::Json,
        };
        // Before the log's thread, which would otherwise let a signal end the process.
        catch_stop_signals().map_err(|error| format!("signals can't be caught: {error}"))?;
        let log = logs::start(&config.log.level, format).map_err(|error| error.to_string())?;
        let ran = node::run(config, Some(log.dropped()), |ready| {
            // Nobody reads standard output: no reason to stop serving.
            let _ = print(&banner(&ready, &program()));
        });
        // Lines still queued come before the last one, which `main` prints.
        drop(log);
        ran.map_err(|error| error.to_string())
    }
}

/// What a node that serves says to whoever started it.
///
/// `program` is what it was called by.
fn banner(ready: &Ready, program: &str) -> String {
    let mut out = format!(
        "StreamBus {} is ready after {} ms: {}, {}, cluster {}\n",
        env!("CARGO_PKG_VERSION"),
        ready.started_in.as_millis(),
        count(ready.cores as u64, "core"),
        count(ready.lanes.into(), "lane"),
        ready.cluster_id,
    );
    let _ = writeln!(out, "  data      {}", ready.data_dir.display());
    let _ = writeln!(
        out,
        "  memory    up to {} for records under load, {} of it for what tables have (storage.memtables_kept_bytes, for each lane)",
        size(ready.memory_bytes),
        size(ready.memtables_kept_bytes),
    );
    for listener in &ready.listeners {
        let _ = write!(out, "  kafka     {} ({}", listener.address, listener.name);
        let _ = match listener.advertise {
            Advertise::Core => writeln!(out, ", cores at {})", ports(&listener.core_ports)),
            Advertise::Node => writeln!(out, ", as one broker)"),
        };
    }
    if let Some(address) = ready.admin {
        let _ = writeln!(out, "  admin     http://{address}/health and /metrics");
    }
    let bootstrap = ready.listeners.first().map(|listener| listener.address);
    if let Some(address) = bootstrap {
        let _ = writeln!(
            out,
            "  try       {program} topic create hello --partitions=6 --bootstrap={}",
            reachable(address)
        );
    }
    out
}

/// A number of bytes for people.
fn size(bytes: usize) -> String {
    const MIB: usize = 1 << 20;
    const GIB: usize = 1 << 30;
    if bytes < GIB {
        return format!("{} MiB", bytes / MIB);
    }
    format!("{}.{} GiB", bytes / GIB, bytes % GIB * 10 / GIB)
}

/// An address to connect to for one to listen on.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address {
        SocketAddr::V4(at) if at.ip().is_unspecified() => std::net::Ipv4Addr::LOCALHOST.into(),
        SocketAddr::V6(at) if at.ip().is_unspecified() => std::net::Ipv6Addr::LOCALHOST.into(),
        other => other.ip(),
    };
    SocketAddr::new(ip, address.port())
}

fn ports(ports: &[u16]) -> String {
    let shown: Vec<String> = ports
        .iter()
        .take(PORTS_SHOWN_MAX)
        .map(u16::to_string)
        .collect();
    let rest = if ports.len() > PORTS_SHOWN_MAX {
        ", ..."
    } else {
        ""
    };
    format!("{}{rest}", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use streambus::node::ReadyListener;

    use super::*;

    #[test]
    fn the_banner_says_what_to_try_next() {
        // Proves: version, cores, directory, endpoints, time and next command are there (golden).
        let ready = Ready {
            cluster_id: "c1".to_owned(),
            cores: 5,
            lanes: 5,
            memory_bytes: 7 << 29,
            memtables_kept_bytes: 100 << 20,
            data_dir: "./streambus-data".into(),
            listeners: vec![
                ReadyListener {
                    name: "main".to_owned(),
                    address: ([0, 0, 0, 0], 9092).into(),
                    advertise: Advertise::Core,
                    core_ports: (10092..10097).collect(),
                },
                ReadyListener {
                    name: "one".to_owned(),
                    address: ([127, 0, 0, 1], 9093).into(),
                    advertise: Advertise::Node,
                    core_ports: Vec::new(),
                },
            ],
            admin: Some(([127, 0, 0, 1], 9644).into()),
            started_in: Duration::from_millis(12),
        };
        let wanted = format!(
            "StreamBus {} is ready after 12 ms: 5 cores, 5 lanes, cluster c1\n  \
             data      ./streambus-data\n  \
             memory    up to 3.5 GiB for records under load, 100 MiB of it for what tables have (storage.memtables_kept_bytes, for each lane)\n  \
             kafka     0.0.0.0:9092 (main, cores at 10092, 10093, 10094, 10095, ...)\n  \
             kafka     127.0.0.1:9093 (one, as one broker)\n  \
             admin     http://127.0.0.1:9644/health and /metrics\n  \
             try       ./streambus topic create hello --partitions=6 --bootstrap=127.0.0.1:9092\n",
            env!("CARGO_PKG_VERSION")
        );
        assert_eq!(banner(&ready, "./streambus"), wanted);
        let alone = Ready {
            cores: 1,
            lanes: 1,
            ..ready
        };
        assert!(banner(&alone, "./streambus").contains(": 1 core, 1 lane, cluster"));
    }

    #[test]
    fn a_setting_needs_its_equals_sign() {
        // Proves: a `--set` without a value is refused with an example, in one line.
        let error = SettingFlags::default()
            .with_settings(&["node.id".to_owned()])
            .err();
        let error = error.expect("no value is given");
        assert!(
            error.starts_with("--set node.id is refused") && !error.contains('\n'),
            "{error}"
        );
    }
}
