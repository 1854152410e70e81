//! Connecting to the cluster that a command is about.

use std::time::Duration;

use streambus_client::{
    blocking::{Client, ClientConfig},
    router::Topic,
};

use crate::CliError;

/// Where a broker listens by default.
pub(crate) const BOOTSTRAP: &str = "127.0.0.1:9092";
/// A person waits: less patience than a service has.
const PATIENCE: Duration = Duration::from_secs(10);

/// The default of `--bootstrap`.
pub(crate) fn local_broker() -> String {
    BOOTSTRAP.to_owned()
}

pub(crate) fn connect(bootstrap: &str) -> Result<Client, CliError> {
    check_addresses(bootstrap)?;
    let config = ClientConfig {
        client_id: "streambus-cli".to_owned(),
        connect_timeout: PATIENCE,
        patience: PATIENCE,
        ..ClientConfig::default()
    };
    Ok(Client::connect(bootstrap, config)?)
}

/// Checks that each address has a host and a port.
fn check_addresses(bootstrap: &str) -> Result<(), CliError> {
    let is_address = |address: &str| {
        let parts = address.trim().rsplit_once(':');
        parts.is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
    };
    match bootstrap.split(',').find(|address| !is_address(address)) {
        None => Ok(()),
        Some(wrong) => Err(CliError::Refused(format!(
            "--bootstrap {wrong} is refused: it must be HOST:PORT, for instance {BOOTSTRAP}"
        ))),
    }
}

/// A topic that must be there.
pub(crate) fn find_topic(client: &mut Client, name: &str) -> Result<Topic, CliError> {
    let found = client.metadata(Some(&[name]))?.topics;
    found.into_iter().find(|topic| &*topic.name == name).ok_or_else(|| {
        CliError::Refused(format!(
            "topic {name} does not exist; `streambus topic list` shows those that do, `streambus \
             topic create {name}` makes it"
        ))
    })
}

/// The refusal of a partition that a topic does not have.
pub(crate) fn no_partition(topic: &str, partition: i32, count: usize) -> CliError {
    let has = match count {
        1 => "partition 0 only".to_owned(),
        count => format!("partitions 0 to {}", count.saturating_sub(1)),
    };
    CliError::Refused(format!(
        "--partition {partition} is refused: topic {topic} has {has}"
    ))
}

/// `NAME=VALUE` as its two parts.
pub(crate) fn pair(flag: &str, text: &str) -> Result<(String, String), CliError> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(CliError::Refused(format!(
            "{flag} {text} is refused: it must be NAME=VALUE"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_needs_its_port() {
        // Proves: what is no address is refused with an example, whichever of several it is.
        for good in ["localhost:9092", "a:1,b:2", "[::1]:9092", "a:1, b:2"] {
            assert!(check_addresses(good).is_ok(), "{good}");
        }
        for wrong in ["", "localhost", ":9092", "a:1,b", "a:http", "a:70000"] {
            let error = check_addresses(wrong).map_err(|error| error.to_string());
            let error = error.err().unwrap_or_default();
            assert!(
                error.ends_with("for instance 127.0.0.1:9092"),
                "{wrong}: {error}"
            );
        }
    }
}
