//! What no bound on a single setting can say: settings that exclude one another.

use std::net::{IpAddr, SocketAddr};

use super::{Advertise, ConfigError, ListenerConfig, Loaded};

/// What `core_port_first` 0 adds to the bootstrap port.
const CORE_PORT_STEP: u16 = 1_000;

impl ListenerConfig {
    /// The port that core `core` listens on in core mode; 0 lets the system choose, and `None`
    /// means that there is no such port.
    pub fn core_port(&self, core: usize) -> Option<u16> {
        let first = match (self.core_port_first, self.port) {
            (0, 0) => return Some(0),
            (0, port) => port.checked_add(CORE_PORT_STEP)?,
            (first, _) => first,
        };
        first.checked_add(u16::try_from(core).ok()?)
    }

    /// The port that clients are told for core `core` in core mode, where it isn't the one that is
    /// listened on.
    pub fn advertised_core_port(&self, core: usize) -> Option<u16> {
        self.advertised_port?
            .checked_add(CORE_PORT_STEP)?
            .checked_add(u16::try_from(core).ok()?)
    }
}

impl Loaded {
    /// Checks relations between settings.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        self.check_sizes()?;
        self.check_lane()?;
        self.check_admin()?;
        self.check_log()?;
        for (name, listener) in &self.config.listeners {
            self.check_listener(name, listener)?;
        }
        self.check_ports()
    }

    /// Each pair's left may not be larger than its right.
    fn check_sizes(&self) -> Result<(), ConfigError> {
        let limits = &self.config.limits;
        let storage = &self.config.storage;
        let topics = &self.config.topics;
        let pairs: [(&str, i128, &str, i128); 6] = [
            (
                "limits.request_bytes_max",
                wide(limits.request_bytes_max),
                "limits.in_flight_bytes_per_connection_max",
                wide(limits.in_flight_bytes_per_connection_max),
            ),
            (
                "limits.in_flight_bytes_per_connection_max",
                wide(limits.in_flight_bytes_per_connection_max),
                "limits.in_flight_bytes_per_core_max",
                wide(limits.in_flight_bytes_per_core_max),
            ),
            (
                "topics.num_partitions",
                topics.num_partitions.into(),
                "limits.partitions_per_topic_max",
                wide(limits.partitions_per_topic_max),
            ),
            (
                "topics.message_max_bytes",
                topics.message_max_bytes.into(),
                "limits.request_bytes_max",
                wide(limits.request_bytes_max),
            ),
            (
                "storage.commit_bytes_max",
                wide(storage.commit_bytes_max),
                "storage.wal_file_bytes",
                storage.wal_file_bytes.into(),
            ),
            (
                "storage.block_bytes",
                wide(storage.block_bytes),
                "storage.memtable_bytes",
                wide(storage.memtable_bytes),
            ),
        ];
        for (small, least, large, most) in pairs {
            if least > most {
                return Err(conflict(format!(
                    "{small} = {least} ({}) may not be larger than {large} = {most} ({})",
                    self.origin(small),
                    self.origin(large),
                )));
            }
        }
        // A batch is never split over two log files.
        let (batch, most) = (
            i128::from(topics.message_max_bytes),
            storage.lane().batch_bytes_max(),
        );
        if batch > wide(most) {
            return Err(conflict(format!(
                "topics.message_max_bytes = {batch} ({}) is more than the {most} bytes that a log file \
                 takes of one batch; raise storage.wal_file_bytes = {} ({})",
                self.origin("topics.message_max_bytes"),
                storage.wal_file_bytes,
                self.origin("storage.wal_file_bytes"),
            )));
        }
        Ok(())
    }

    /// What a lane would refuse when it is opened, before anything is written.
    fn check_lane(&self) -> Result<(), ConfigError> {
        let refused = self.config.storage.lane().validate();
        refused.map_err(|refused| conflict(format!("storage.{refused}")))
    }

    fn check_admin(&self) -> Result<(), ConfigError> {
        match self.config.admin.address.parse::<SocketAddr>() {
            Ok(_) => Ok(()),
            Err(_) => Err(ConfigError::Value {
                path: "admin.address".to_owned(),
                value: format!("{:?}", self.config.admin.address),
                origin: self.origin("admin.address"),
                wants: "an IP address and port such as 127.0.0.1:9644 or [::1]:9644".to_owned(),
            }),
        }
    }

    fn check_log(&self) -> Result<(), ConfigError> {
        let level = &self.config.log.level;
        streambus_ops::logs::check_level(level).map_err(|reason| ConfigError::Value {
            path: "log.level".to_owned(),
            value: format!("{level:?}"),
            origin: self.origin("log.level"),
            wants: format!(
                "error, warn, info, debug, trace or off, or a list such as info,streambus_storage=debug; {reason}"
            ),
        })
    }

    fn check_listener(&self, name: &str, listener: &ListenerConfig) -> Result<(), ConfigError> {
        let path = |key: &str| format!("listeners.{name}.{key}");
        let refused = |key: &str, value: String, wants: &str| {
            Err(ConfigError::Value {
                path: path(key),
                value,
                origin: self.origin(&path(key)),
                wants: wants.to_owned(),
            })
        };
        if listener.host.parse::<IpAddr>().is_err() && listener.host != "localhost" {
            return refused(
                "host",
                format!("{:?}", listener.host),
                "an IP address to listen on, such as 127.0.0.1, or 0.0.0.0 for all",
            );
        }
        if let Some(host) = &listener.advertised_host
            && let Err(wants) = check_advertised(host)
        {
            return refused("advertised_host", format!("{host:?}"), &wants);
        }
        if listener.advertise == Advertise::Core {
            let last = self.config.node.cores.saturating_sub(1);
            if listener.core_port(last).is_none() {
                return refused(
                    "core_port_first",
                    listener.core_port_first.to_string(),
                    "low enough that the last core's port is below 65536",
                );
            }
        }
        Ok(())
    }

    /// No two listeners may want the same port. Ports the system chooses can't clash. Where the
    /// core count is automatic only the first core is checked here; a clash beyond it is a bind error.
    fn check_ports(&self) -> Result<(), ConfigError> {
        let mut taken: Vec<(u16, String)> = Vec::new();
        for (name, listener) in &self.config.listeners {
            let cores = match listener.advertise {
                Advertise::Core => self.config.node.cores.max(1),
                Advertise::Node => 0,
            };
            let bootstrap = (Some(listener.port), format!("listeners.{name}.port"));
            let own = (0..cores).map(|core| {
                (
                    listener.core_port(core),
                    format!("core {core} of listeners.{name}"),
                )
            });
            for (port, owner) in std::iter::once(bootstrap).chain(own) {
                let Some(port) = port.filter(|port| *port != 0) else {
                    continue;
                };
                if let Some((_, other)) = taken.iter().find(|(other, _)| *other == port) {
                    return Err(conflict(format!(
                        "{other} and {owner} both want port {port}"
                    )));
                }
                taken.push((port, owner));
            }
        }
        Ok(())
    }
}

/// The longest label of a name in DNS.
const HOST_LABEL_BYTES_MAX: usize = 63;

/// Whether clients can use a host: an address other than the unspecified ones, or a name. An underscore is not
/// DNS's, but names of containers have it.
fn check_advertised(host: &str) -> Result<(), String> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return if address.is_unspecified() {
            Err(
                "an address that clients can connect to; unset, it is the one they connected to"
                    .to_owned(),
            )
        } else {
            Ok(())
        };
    }
    let wants = |reason: String| {
        Err(format!(
            "an IP address, or a host name of letters, digits, -, _ and dots without a port; {reason}"
        ))
    };
    let usable = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.');
    if let Some(letter) = host.chars().find(|letter| !usable(*letter)) {
        return wants(format!("it has {letter:?}"));
    }
    // One dot at the end is the root.
    let labels = host.strip_suffix('.').unwrap_or(host).split('.');
    for label in labels {
        if label.is_empty() || label.len() > HOST_LABEL_BYTES_MAX {
            return wants(format!(
                "between dots are 1 to {HOST_LABEL_BYTES_MAX} letters, not {label:?}"
            ));
        }
        if label.starts_with('-') || label.ends_with('-') {
            return wants(format!("{label:?} begins or ends with -"));
        }
    }
    Ok(())
}

fn wide(number: usize) -> i128 {
    // No platform has a usize beyond 64 bits.
    number as i128
}

fn conflict(reason: String) -> ConfigError {
    ConfigError::Conflict { reason }
}
