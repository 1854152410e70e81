//! Compression in steps: what is written comes out compressed, and how much that is is known meanwhile.

use std::io::Write;

use super::compression::Codec;
use super::snappy;

/// Kafka's default for `compression.zstd.level`, as well as the library's.
const ZSTD_LEVEL: i32 = 3;
/// From this level on the window of Zstandard is bounded, and each write is a block of its own.
const ZSTD_SLOW_LEVEL: i32 = 7;
/// 2 MiB, the window of level 3. Level 22 would take 128 MiB for it, and several times that for its tables.
const ZSTD_WINDOW_LOG_MAX: u32 = 21;

/// A stream that is compressed, in the forms that all of Kafka's clients read.
pub(super) struct Encoder(Sink);

enum Sink {
    Plain(Vec<u8>),
    Gzip(flate2::write::GzEncoder<Vec<u8>>),
    Snappy(Box<snappy::Encoder>, Vec<u8>),
    Lz4(Box<lz4_flex::frame::FrameEncoder<Vec<u8>>>),
    Zstd {
        encoder: zstd::stream::write::Encoder<'static, Vec<u8>>,
        /// Writes take long: none waits for others to fill a block with it.
        slow: bool,
    },
}

impl Encoder {
    /// Appends to `out` what is compressed. `level` is the codec's own; without one, or beyond what the
    /// codec has, it is Kafka's default. LZ4 and Snappy have no levels here.
    pub(super) fn new(codec: Codec, level: Option<i32>, mut out: Vec<u8>) -> Self {
        Encoder(match codec {
            Codec::None => Sink::Plain(out),
            Codec::Gzip => {
                let level = level.and_then(|level| u32::try_from(level).ok());
                let level = level.filter(|level| (1..=9).contains(level));
                let level =
                    level.map_or_else(flate2::Compression::default, flate2::Compression::new);
                Sink::Gzip(flate2::write::GzEncoder::new(out, level))
            }
            Codec::Snappy => Sink::Snappy(Box::new(snappy::Encoder::begin(&mut out)), out),
            Codec::Lz4 => {
                // Java's reader takes independent blocks only, and its own writer uses 64 KiB.
                let frame = lz4_flex::frame::FrameInfo::new()
                    .block_mode(lz4_flex::frame::BlockMode::Independent)
                    .block_size(lz4_flex::frame::BlockSize::Max64KB);
                let encoder = lz4_flex::frame::FrameEncoder::with_frame_info(frame, out);
                Sink::Lz4(Box::new(encoder))
            }
            Codec::Zstd => {
                let range = zstd::compression_level_range();
                let level = level.filter(|level| range.contains(level));
                let level = level.unwrap_or(ZSTD_LEVEL);
                let slow = level >= ZSTD_SLOW_LEVEL;
                let mut encoder = written(zstd::stream::write::Encoder::new(out, level));
                if slow {
                    let window = zstd::zstd_safe::CParameter::WindowLog(ZSTD_WINDOW_LOG_MAX);
                    written(encoder.set_parameter(window));
                }
                Sink::Zstd { encoder, slow }
            }
        })
    }

    /// Compresses `input`. Some of it may come out later.
    pub(super) fn write(&mut self, input: &[u8]) {
        match &mut self.0 {
            Sink::Plain(out) => out.extend_from_slice(input),
            Sink::Gzip(encoder) => written(encoder.write_all(input)),
            Sink::Snappy(encoder, out) => encoder.write(input, out),
            Sink::Lz4(encoder) => written(encoder.write_all(input)),
            Sink::Zstd { encoder, slow } => {
                written(encoder.write_all(input));
                if *slow {
                    written(encoder.flush());
                }
            }
        }
    }

    /// What has come out, with what was there before.
    pub(super) fn len(&self) -> usize {
        match &self.0 {
            Sink::Plain(out) | Sink::Snappy(_, out) => out.len(),
            Sink::Gzip(encoder) => encoder.get_ref().len(),
            Sink::Lz4(encoder) => encoder.get_ref().len(),
            Sink::Zstd { encoder, .. } => encoder.get_ref().len(),
        }
    }

    /// Ends the stream.
    pub(super) fn finish(self) -> Vec<u8> {
        match self.0 {
            Sink::Plain(out) => out,
            Sink::Gzip(encoder) => written(encoder.finish()),
            Sink::Snappy(mut encoder, mut out) => {
                encoder.finish(&mut out);
                out
            }
            Sink::Lz4(encoder) => written(encoder.finish()),
            Sink::Zstd { encoder, .. } => written(encoder.finish()),
        }
    }
}

/// A vector takes everything: only running out of memory, which aborts, can stop a codec.
fn written<T, E: std::fmt::Debug>(result: Result<T, E>) -> T {
    result.expect("compressing from memory to memory does not fail")
}
