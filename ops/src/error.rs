//! What can go wrong when the operators' side starts.

use std::{io, net::SocketAddr};

/// Why the operators' side could not start. Each text is one line with its remedy.
#[derive(Debug, thiserror::Error)]
pub enum OpsError {
    /// The admin address can't be listened on.
    #[error(
        "cannot listen on the admin address {address}: {}; {}",
        reason(source),
        bind_remedy(source)
    )]
    Bind {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The system refuses a thread or its event queue.
    #[error(
        "cannot start the {name} thread: {}; raise the limits on processes and open files",
        reason(source)
    )]
    Thread {
        /// The thread.
        name: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The log level is not one.
    #[error(
        "log.level = {level:?} is refused: {reason}; use error, warn, info, debug or trace, or a \
         list such as info,streambus_storage=debug"
    )]
    LogLevel {
        /// The level as given.
        level: String,
        /// Why it is refused.
        reason: String,
    },
    /// Logs were set up twice in one process.
    #[error("logs are already set up in this process")]
    LogsTwice,
}

/// The system's words without the number that Rust puts behind them.
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    let end = text.find(" (os error").unwrap_or(text.len());
    text.get(..end).unwrap_or_default().to_lowercase()
}

fn bind_remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "stop what listens there, or set admin.address to another port (0 chooses a free one)"
        }
        io::ErrorKind::AddrNotAvailable => "set admin.address to an address of this machine",
        io::ErrorKind::PermissionDenied => "set admin.address to a port of 1024 or above",
        _ => "set admin.address to an address and port that are free, or admin.enabled = false",
    }
}
