//! The one place where failures below become Kafka's error codes.

use streambus_proto::error_code::ErrorCode;
use streambus_proto::records::RecordsError;
use streambus_storage::{AppendError, StorageError};

/// The code for a produced batch that was refused before it was appended.
pub fn of_batch(refused: &RecordsError) -> ErrorCode {
    match refused {
        RecordsError::Corrupt(_) | RecordsError::Truncated { .. } => ErrorCode::CorruptMessage,
        RecordsError::UnsupportedFormat { .. } => ErrorCode::UnsupportedForMessageFormat,
        RecordsError::UnsupportedCompression { .. } => ErrorCode::UnsupportedCompressionType,
        RecordsError::Invalid(_) => ErrorCode::InvalidRecord,
        RecordsError::InvalidTimestamp(_) => ErrorCode::InvalidTimestamp,
        RecordsError::TooLarge { .. } => ErrorCode::MessageTooLarge,
    }
}

/// The code for a batch that the lane did not take.
pub fn of_append(refused: &AppendError) -> ErrorCode {
    match refused {
        AppendError::TooLarge { .. } => ErrorCode::MessageTooLarge,
        AppendError::Full | AppendError::NoSpace | AppendError::Failed => {
            ErrorCode::KafkaStorageError
        }
    }
}

/// The code for a read, look-up or log start that failed.
pub fn of_storage(failed: &StorageError) -> ErrorCode {
    match failed {
        StorageError::OffsetOutOfRange { .. } => ErrorCode::OffsetOutOfRange,
        StorageError::UnknownPartition(_) => ErrorCode::UnknownTopicOrPartition,
        StorageError::Undecodable { .. } => ErrorCode::CorruptMessage,
        StorageError::Corrupt { .. }
        | StorageError::OtherVersion { .. }
        | StorageError::NoSpace { .. }
        | StorageError::Disk { .. }
        | StorageError::Stopped { .. }
        | StorageError::Config { .. } => ErrorCode::KafkaStorageError,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_tell_the_client_what_to_do() {
        // Proves the codes whose reaction differs: try again, split the batch, give up.
        assert!(of_append(&AppendError::NoSpace).is_retriable());
        assert!(!of_append(&AppendError::TooLarge { bytes: 1 }).is_retriable());
        let old = RecordsError::UnsupportedFormat { magic: 1 };
        assert_eq!(of_batch(&old), ErrorCode::UnsupportedForMessageFormat);
        assert_eq!(
            of_batch(&RecordsError::Corrupt("crc")),
            ErrorCode::CorruptMessage
        );
    }
}
