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
    let config = ClientConfig {
        client_id: "streambus-cli".to_owned(),
        connect_timeout: PATIENCE,
        patience: PATIENCE,
        ..ClientConfig::default()
    };
    Ok(Client::connect(bootstrap, config)?)
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

/// `NAME=VALUE` as its two parts.
pub(crate) fn pair(flag: &str, text: &str) -> Result<(String, String), CliError> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(CliError::Refused(format!(
            "{flag} {text} is refused: it must be NAME=VALUE"
        ))),
    }
}
