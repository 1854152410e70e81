//! The five codecs, and how far a batch may unfold.

use std::io::{Read, Write};

use super::error::RecordsError;
use super::snappy;

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

/// How far a batch may unfold before it is taken for a bomb.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecompressLimits {
    /// Unfolded bytes at most.
    pub bytes_max: usize,
    /// Unfolded bytes at most for each compressed byte, above `ratio_free_bytes`.
    pub ratio_max: usize,
    /// Unfolded bytes that are always allowed: small batches of one repeated byte are honest,
    /// and shrink a thousandfold and more.
    pub ratio_free_bytes: usize,
}

impl Default for DecompressLimits {
    /// 128 MiB: more than a batch may hold in a request of Kafka's usual largest size (100 MiB).
    /// A thousandfold above 4 MiB: gzip cannot do more, zstd only for input made to do so;
    /// 10 KiB then unfold to 10 MiB and not to 10 GiB.
    fn default() -> Self {
        DecompressLimits {
            bytes_max: 128 << 20,
            ratio_max: 1_000,
            ratio_free_bytes: 4 << 20,
        }
    }
}

impl DecompressLimits {
    /// What an input of `compressed` bytes may unfold to.
    pub fn bytes_for(self, compressed: usize) -> usize {
        let by_ratio = compressed
            .saturating_mul(self.ratio_max)
            .max(self.ratio_free_bytes);
        by_ratio.min(self.bytes_max)
    }
}

/// Largest window a zstd frame may ask for, as a power of two: 128 MiB, what level 22 uses.
/// The decoder reserves it but touches only as much as it unfolds, which the limits bound.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// Replaces what is in `out` by the unfolded `input`.
pub(super) fn decompress(
    codec: Codec,
    input: &[u8],
    limits: DecompressLimits,
    out: &mut Vec<u8>,
) -> Result<(), RecordsError> {
    out.clear();
    let bytes_max = limits.bytes_for(input.len());
    match codec {
        Codec::None => {
            out.extend_from_slice(input);
            Ok(())
        }
        Codec::Gzip => {
            let reader = flate2::bufread::MultiGzDecoder::new(input);
            drain(reader, input.len(), bytes_max, out, "not gzip")
        }
        Codec::Snappy => snappy::decompress(input, bytes_max, out),
        Codec::Lz4 => {
            let reader = lz4_flex::frame::FrameDecoder::new(input);
            drain(reader, input.len(), bytes_max, out, "not an lz4 frame")
        }
        Codec::Zstd => {
            let bad = |_| RecordsError::Corrupt("not a zstd frame");
            let mut reader = zstd::stream::read::Decoder::with_buffer(input).map_err(bad)?;
            reader.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(bad)?;
            drain(reader, input.len(), bytes_max, out, "not a zstd frame")
        }
    }
}

/// Reads to the end, or to one byte more than allowed.
fn drain(
    reader: impl Read,
    compressed: usize,
    bytes_max: usize,
    out: &mut Vec<u8>,
    refusal: &'static str,
) -> Result<(), RecordsError> {
    let bounded = bytes_max.saturating_add(1) as u64;
    reader
        .take(bounded)
        .read_to_end(out)
        .map_err(|_| RecordsError::Corrupt(refusal))?;
    if out.len() > bytes_max {
        return Err(RecordsError::TooLarge {
            compressed,
            bytes_max,
        });
    }
    Ok(())
}

/// Appends the compressed `input` to `out`, in the forms that all of Kafka's clients read.
pub(super) fn compress(codec: Codec, input: &[u8], out: &mut Vec<u8>) {
    match codec {
        Codec::None => out.extend_from_slice(input),
        Codec::Gzip => {
            let mut writer =
                flate2::write::GzEncoder::new(&mut *out, flate2::Compression::default());
            written(
                writer
                    .write_all(input)
                    .and_then(|()| writer.finish().map(drop)),
            );
        }
        Codec::Snappy => snappy::compress(input, out),
        Codec::Lz4 => {
            // Java's reader takes independent blocks only, and its own writer uses 64 KiB.
            let frame = lz4_flex::frame::FrameInfo::new()
                .block_mode(lz4_flex::frame::BlockMode::Independent)
                .block_size(lz4_flex::frame::BlockSize::Max64KB);
            let mut writer = lz4_flex::frame::FrameEncoder::with_frame_info(frame, &mut *out);
            written(
                writer
                    .write_all(input)
                    .and_then(|()| Ok(writer.finish().map(drop)?)),
            );
        }
        Codec::Zstd => {
            // Level 3 is Kafka's default as well as the library's.
            written(zstd::stream::copy_encode(input, &mut *out, 3));
        }
    }
}

/// A vector takes everything: only running out of memory, which aborts, can stop a codec.
fn written(result: std::io::Result<()>) {
    result.expect("compressing from memory to memory does not fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(codec: Codec, input: &[u8]) {
        let (mut folded, mut unfolded) = (vec![], vec![1, 2, 3]);
        compress(codec, input, &mut folded);
        decompress(codec, &folded, DecompressLimits::default(), &mut unfolded).unwrap();
        assert!(unfolded == input, "{codec:?} of {} bytes", input.len());
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
        // Whatever the codec, no more is unfolded than the limits allow, by size or by ratio.
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
            let (mut folded, mut out) = (vec![], vec![]);
            compress(codec, &honest, &mut folded);
            for limits in [by_size, by_ratio] {
                let refused = decompress(codec, &folded, limits, &mut out);
                assert!(
                    matches!(refused, Err(RecordsError::TooLarge { .. })),
                    "{codec:?}"
                );
                assert!(out.len() <= limits.bytes_for(folded.len()) + 1, "{codec:?}");
            }
            decompress(codec, &folded, DecompressLimits::default(), &mut out).unwrap();
        }
    }

    #[test]
    fn ten_kilobytes_never_become_gigabytes() {
        // The bomb of row 33: zstd of a gigabyte of zeros stops at the ratio, in bounded memory.
        let mut folded = vec![];
        let zeros = std::io::repeat(0).take(1 << 30);
        zstd::stream::copy_encode(zeros, &mut folded, 1).unwrap();
        let limits = DecompressLimits {
            ratio_max: 100,
            ..DecompressLimits::default()
        };
        let mut out = vec![];
        let refused = decompress(Codec::Zstd, &folded, limits, &mut out);
        assert!(
            matches!(refused, Err(RecordsError::TooLarge { .. })),
            "{refused:?}"
        );
        assert!(out.capacity() <= 2 * limits.bytes_for(folded.len()));
    }

    #[test]
    fn damaged_input_is_an_error_or_other_bytes_never_a_panic() {
        // Flipping any one bit of a compressed stream, or cutting it anywhere, is survived.
        let input: Vec<u8> = (0..2_000_u32).map(|i| i.to_le_bytes()[0] % 50).collect();
        let mut out = vec![];
        for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
            let mut folded = vec![];
            compress(codec, &input, &mut folded);
            for position in 0..folded.len() {
                for bit in 0..8 {
                    let mut damaged = folded.clone();
                    damaged[position] ^= 1 << bit;
                    let _ = decompress(codec, &damaged, DecompressLimits::default(), &mut out);
                }
                let cut = &folded[..position];
                let _ = decompress(codec, cut, DecompressLimits::default(), &mut out);
                assert!(
                    input.starts_with(&out),
                    "{codec:?} cut at {position} gave other bytes"
                );
            }
        }
    }
}
