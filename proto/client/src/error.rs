//! What can go wrong for a caller of the client, one variant for each thing to do about it.

use streambus_proto::error_code::ErrorCode;
use streambus_proto::wire::{DecodeError, EncodeError};

use crate::blocking::TransportError;
use crate::connection::ConnectionError;
use crate::consumer::ConsumeError;
use crate::producer::{AppendError, DeliveryError};
use crate::versions::Unsupported;

/// A broker's refusal of one thing out of a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}{}", .message.as_ref().map(|message| format!(": {message}")).unwrap_or_default())]
pub struct Refusal {
    /// The protocol's code.
    pub code: ErrorCode,
    /// The broker's own words.
    pub message: Option<String>,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No broker could be reached, or one that is needed could not.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// A broker breaks the protocol.
    #[error("the broker breaks the protocol: {0}")]
    Protocol(ConnectionError),
    /// An answer cannot be read.
    #[error("the broker's answer cannot be read: {0}")]
    Decode(#[from] DecodeError),
    /// The request says something that the version the broker knows has no place for.
    #[error("the request cannot be said to this broker: {0}")]
    Encode(#[from] EncodeError),
    /// The broker does not serve the request.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
    /// The broker said no.
    #[error("{what}: {refusal}")]
    Refused {
        /// What was refused: a topic, a partition, a request.
        what: String,
        /// How.
        refusal: Refusal,
    },
    /// It did not come about in time; the last reason is told.
    #[error("gave up: {0}")]
    GaveUp(String),
    /// The producer did not take the record.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// A batch was given up.
    #[error(transparent)]
    Delivery(#[from] DeliveryError),
    /// A partition cannot be read on.
    #[error(transparent)]
    Consume(#[from] ConsumeError),
}

impl From<ConnectionError> for ClientError {
    fn from(error: ConnectionError) -> Self {
        ClientError::Protocol(error)
    }
}

impl ClientError {
    /// A refusal, if the code is one.
    pub(crate) fn check(
        what: impl Into<String>,
        code: i16,
        message: Option<&str>,
    ) -> Result<(), ClientError> {
        match refusal(code, message) {
            None => Ok(()),
            Some(refusal) => Err(ClientError::Refused {
                what: what.into(),
                refusal,
            }),
        }
    }

    /// Whether the connection that it came from is of no use any more.
    pub(crate) fn ends_connection(&self) -> bool {
        matches!(
            self,
            ClientError::Transport(_) | ClientError::Protocol(_) | ClientError::Decode(_)
        )
    }
}

/// The refusal that a code and a message stand for; `None` if the code says that all is well.
pub(crate) fn refusal(code: i16, message: Option<&str>) -> Option<Refusal> {
    match ErrorCode::from_i16(code) {
        ErrorCode::None => None,
        code => Some(Refusal {
            code,
            message: message.map(str::to_owned),
        }),
    }
}
