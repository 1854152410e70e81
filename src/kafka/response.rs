//! Responses on their way out: a few bytes of our own and slices of storage between them.

use std::rc::Rc;

use streambus_ops::CoreMetrics;
use streambus_proto::api::ApiKey;
use streambus_proto::error_code::ErrorCode;
use streambus_proto::frame;
use streambus_proto::messages::Message;
use streambus_proto::wire::{EncodeError, Writer};
use streambus_shards::Buf;

/// Which request is answered, and where the error codes in the answer are counted.
pub(super) struct ReplyTo {
    pub(super) api: ApiKey,
    pub(super) version: i16,
    pub(super) correlation_id: i32,
    pub(super) figures: Rc<CoreMetrics>,
}

/// A response as it goes to the socket: a whole frame in slices.
pub(super) type Slices = Vec<Buf>;

/// How much memory so many record bytes may keep, at most: slices of disk blocks are three quarters of what they lie in or
/// more, and the others are parts of log memory, which is there anyway as long as their client is not slow.
pub(super) fn pinned_bytes_max(bytes: usize) -> usize {
    bytes + bytes / 3
}

/// Why a response could not be written. A bug or a limit of the protocol, never the client's doing.
#[derive(Debug, thiserror::Error)]
pub(super) enum ResponseError {
    #[error(transparent)]
    Encode(#[from] EncodeError),
    #[error("the response is longer than a frame can be")]
    TooLong,
}

impl ReplyTo {
    /// A response without record bytes.
    pub(super) fn with<'a>(self, message: &impl Message<'a>) -> Result<Slices, ResponseError> {
        self.with_records(message, Vec::new())
    }

    /// A response with record bytes: `records` holds the slices of each splice that the message has, in
    /// order.
    pub(super) fn with_records<'a>(
        self,
        message: &impl Message<'a>,
        records: Vec<Vec<Buf>>,
    ) -> Result<Slices, ResponseError> {
        let mut writer = Writer::new();
        frame::response_header(&mut writer, self.api, self.version, self.correlation_id);
        message.write(&mut writer, self.version)?;
        for (code, count) in writer.errors() {
            let name = ErrorCode::from_i16(*code).name();
            self.figures.errors(*code, name, *count);
        }
        let (own, splices) = frame::finish(writer).ok_or(ResponseError::TooLong)?;
        let ours = Buf::from(own);
        if splices.is_empty() {
            return Ok(vec![ours]);
        }
        assert_eq!(splices.len(), records.len(), "each splice has its records");
        let mut whole = Vec::with_capacity(2 * splices.len() + 1);
        let mut written = 0;
        for (splice, batches) in splices.iter().zip(records) {
            let bytes: usize = batches.iter().map(|slice| slice.len()).sum();
            assert_eq!(bytes, splice.len, "as many bytes as were announced");
            whole.push(ours.slice(written..splice.position));
            whole.extend(batches);
            written = splice.position;
        }
        if written < ours.len() {
            whole.push(ours.slice(written..ours.len()));
        }
        Ok(whole)
    }
}
