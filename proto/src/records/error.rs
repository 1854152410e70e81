//! Why bytes are not a batch, one variant for each thing a caller does about it.

/// Why a run of bytes was refused as records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordsError {
    /// The bytes were damaged on the way or were never a batch: refuse them as corrupt.
    #[error("corrupt batch: {0}")]
    Corrupt(&'static str),
    /// The bytes end inside a batch. In a produce request that is corruption; at the end of a
    /// fetched run it only means that the rest comes with the next fetch.
    #[error("batch of {needed} bytes cut short at {available}")]
    Truncated {
        /// How many bytes the batch (or the fixed part of its header) takes.
        needed: usize,
        /// How many there were.
        available: usize,
    },
    /// A message set of format 0 or 1, which only clients from before Kafka 0.11 write.
    #[error("message format {magic} is not supported")]
    UnsupportedFormat {
        /// The format's number as found.
        magic: i8,
    },
    /// The codec's number is none that Kafka knows.
    #[error("unknown compression codec {codec}")]
    UnsupportedCompression {
        /// The codec's number as found.
        codec: u8,
    },
    /// The batch arrived intact and breaks a rule: refuse it as an invalid record.
    #[error("invalid batch: {0}")]
    Invalid(&'static str),
    /// A timestamp breaks a rule: refuse it as an invalid timestamp.
    #[error("invalid timestamp: {0}")]
    InvalidTimestamp(&'static str),
    /// Decompressing would pass the limit set by the caller: a bomb, or a limit set too low.
    #[error("{compressed} compressed bytes decompress to more than {bytes_max}")]
    TooLarge {
        /// Size of the compressed input in bytes.
        compressed: usize,
        /// The limit that it ran into, in bytes.
        bytes_max: usize,
    },
}
