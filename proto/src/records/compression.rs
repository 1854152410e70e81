//! The five codecs, and how far a batch may be decompressed.

use super::decompress::{Decompressor, Progress};
#[cfg(test)]
use super::encoder::Encoder;
use super::error::RecordsError;

/// How the records of a batch are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum Codec {
    /// Not at all.
    #[default]
    None = 0,
    /// RFC 1952.
    Gzip = 1,
    /// Snappy blocks, in the framing of xerial's Java library.
    Snappy = 2,
    /// The LZ4 frame format.
    Lz4 = 3,
    /// RFC 8878.
    Zstd = 4,
}

impl Codec {
    /// All codecs, by number.
    pub const ALL: [Codec; 5] = [
        Codec::None,
        Codec::Gzip,
        Codec::Snappy,
        Codec::Lz4,
        Codec::Zstd,
    ];

    /// The codec that has this number in a batch's attributes.
    ///
    /// # Errors
    /// [`RecordsError::UnsupportedCompression`] for 5, 6, 7 and whatever is larger.
    pub fn from_number(codec: u8) -> Result<Self, RecordsError> {
        let found = Self::ALL.get(usize::from(codec)).copied();
        found.ok_or(RecordsError::UnsupportedCompression { codec })
    }

    /// The codec's name in Kafka's configuration.
    pub fn name(self) -> &'static str {
        match self {
            Codec::None => "none",
            Codec::Gzip => "gzip",
            Codec::Snappy => "snappy",
            Codec::Lz4 => "lz4",
            Codec::Zstd => "zstd",
        }
    }

    /// The codec that has this name in Kafka's configuration.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|codec| codec.name() == name)
    }
}

/// How far a batch may be decompressed before it is taken for a bomb.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecompressLimits {
    /// Decompressed bytes at most.
    pub bytes_max: usize,
    /// Decompressed bytes at most for each compressed byte, above `ratio_free_bytes`.
    pub ratio_max: usize,
    /// Decompressed bytes that are always allowed: small batches of one repeated byte are honest,
    /// and shrink a thousandfold and more.
    pub ratio_free_bytes: usize,
}

impl Default for DecompressLimits {
    /// 128 MiB: more than a batch may hold in a request of Kafka's usual largest size (100 MiB).
    /// A thousandfold above 4 MiB: gzip cannot do more, zstd only for input made to do so;
    /// 10 KiB then decompress to 10 MiB and not to 10 GiB.
    fn default() -> Self {
        DecompressLimits {
            bytes_max: 128 << 20,
            ratio_max: 1_000,
            ratio_free_bytes: 4 << 20,
        }
    }
}

impl DecompressLimits {
    /// What an input of `compressed` bytes may decompress to.
    pub fn bytes_for(self, compressed: usize) -> usize {
        let by_ratio = compressed
            .saturating_mul(self.ratio_max)
            .max(self.ratio_free_bytes);
        by_ratio.min(self.bytes_max)
    }
}

/// Replaces what is in `out` by the decompressed `input`, all of it at once: for clients, and for batches
/// that are known to be small. [`Decompressor`] does the same in steps.
pub(super) fn decompress(
    codec: Codec,
    input: &[u8],
    limits: DecompressLimits,
    out: &mut Vec<u8>,
) -> Result<(), RecordsError> {
    out.clear();
    let mut decompressor = Decompressor::new(codec, input, limits)?;
    while decompressor.step(out)? == Progress::More {}
    Ok(())
}

/// Appends the compressed `input` to `out`.
#[cfg(test)]
pub(super) fn compress(codec: Codec, input: &[u8], out: &mut Vec<u8>) {
    let mut encoder = Encoder::new(codec, None, std::mem::take(out));
    encoder.write(input);
    *out = encoder.finish();
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn round_trip(codec: Codec, input: &[u8]) {
        let (mut compressed, mut decompressed) = (vec![], vec![1, 2, 3]);
        compress(codec, input, &mut compressed);
        decompress(
            codec,
            &compressed,
            DecompressLimits::default(),
            &mut decompressed,
        )
        .unwrap();
        assert!(decompressed == input, "{codec:?} of {} bytes", input.len());
    }

    #[test]
    fn every_codec_gives_back_what_it_took() {
        // Round trips at sizes around the codecs' block sizes, of bytes that compress and that do not.
        for codec in Codec::ALL {
            for size in [0, 1, 1_000, 32_768, 65_537, 300_000] {
                round_trip(codec, &vec![7; size]);
                let mixed: Vec<u8> = (0..size).map(|i| ((i * i) >> 7).to_le_bytes()[0]).collect();
                round_trip(codec, &mixed);
            }
            assert_eq!(Codec::from_name(codec.name()), Some(codec));
            assert_eq!(Codec::from_number(codec as u8), Ok(codec));
        }
        assert_eq!(
            Codec::from_number(5),
            Err(RecordsError::UnsupportedCompression { codec: 5 })
        );
    }

    #[test]
    fn bombs_end_at_the_limit() {
        // Whatever the codec, no more is decompressed than the limits allow, by size or by ratio.
        let honest = vec![0; 3 << 20];
        let by_size = DecompressLimits {
            bytes_max: 1 << 20,
            ..DecompressLimits::default()
        };
        let by_ratio = DecompressLimits {
            ratio_max: 2,
            ratio_free_bytes: 1 << 10,
            ..Default::default()
        };
        for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
            let (mut compressed, mut out) = (vec![], vec![]);
            compress(codec, &honest, &mut compressed);
            for limits in [by_size, by_ratio] {
                let refused = decompress(codec, &compressed, limits, &mut out);
                assert!(
                    matches!(refused, Err(RecordsError::TooLarge { .. })),
                    "{codec:?}"
                );
                assert!(
                    out.len() <= limits.bytes_for(compressed.len()) + 1,
                    "{codec:?}"
                );
            }
            decompress(codec, &compressed, DecompressLimits::default(), &mut out).unwrap();
        }
    }

    #[test]
    fn ten_kilobytes_never_become_gigabytes() {
        // The bomb of row 33: zstd of a gigabyte of zeros stops at the ratio, in bounded memory.
        let mut compressed = vec![];
        let zeros = std::io::repeat(0).take(1 << 30);
        zstd::stream::copy_encode(zeros, &mut compressed, 1).unwrap();
        let limits = DecompressLimits {
            ratio_max: 100,
            ..DecompressLimits::default()
        };
        let mut out = vec![];
        let refused = decompress(Codec::Zstd, &compressed, limits, &mut out);
        assert!(
            matches!(refused, Err(RecordsError::TooLarge { .. })),
            "{refused:?}"
        );
        assert!(out.capacity() <= 2 * limits.bytes_for(compressed.len()));
    }

    #[test]
    fn damaged_input_is_an_error_or_other_bytes_never_a_panic() {
        // Flipping any one bit of a compressed stream, or cutting it anywhere, is survived.
        let input: Vec<u8> = (0..2_000_u32).map(|i| i.to_le_bytes()[0] % 50).collect();
        let mut out = vec![];
        for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
            let mut compressed = vec![];
            compress(codec, &input, &mut compressed);
            for position in 0..compressed.len() {
                for bit in 0..8 {
                    let mut damaged = compressed.clone();
                    damaged[position] ^= 1 << bit;
                    let _ = decompress(codec, &damaged, DecompressLimits::default(), &mut out);
                }
                let cut = &compressed[..position];
                let _ = decompress(codec, cut, DecompressLimits::default(), &mut out);
                assert!(
                    input.starts_with(&out),
                    "{codec:?} cut at {position} gave other bytes"
                );
            }
        }
    }
}
