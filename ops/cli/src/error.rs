//! What can go wrong with a command, in one line each.

use std::io;

use streambus_client::{blocking::TransportError, error::ClientError};

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The broker can't be reached, or refused.
    #[error("{error}{}", remedy(error))]
    Client {
        /// The client's error.
        #[from]
        error: ClientError,
    },
    /// The command can't be carried out as it is given.
    #[error("{0}")]
    Refused(String),
    /// Standard input can't be read.
    #[error("cannot read standard input: {0}")]
    Input(io::Error),
    /// Standard output can't be written.
    #[error("cannot write to standard output: {0}")]
    Output(io::Error),
}

fn remedy(error: &ClientError) -> &'static str {
    match error {
        ClientError::Transport(TransportError::Connect { .. }) => {
            "; is the broker running there? `streambus start` starts one, --bootstrap names another"
        }
        ClientError::Transport(TransportError::Resolve { .. }) => "; see --bootstrap",
        _ => "",
    }
}
