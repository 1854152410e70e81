//! Decompression in steps: a core does a little, lets others run, and goes on.
//!
//! A step takes a bounded part of the input and gives a bounded part of the output, so that neither a
//! bomb nor input that decompresses to nothing holds a core up. One thing is done at once whatever
//! its size: a block of LZ4, which has 4 MiB at most (8 MiB in LZ4's legacy format).

use std::io::{self, BufRead, ErrorKind, Read};

use flate2::bufread::MultiGzDecoder;
use lz4_flex::frame::FrameDecoder;
use zstd::stream::raw::{self, DParameter, InBuffer, Operation, OutBuffer};

use super::compression::{Codec, DecompressLimits};
use super::error::RecordsError;
use super::snappy;

/// Decompressed bytes of one step at most, and compressed ones. Records of the smallest size in as many
/// bytes take about 100 µs to walk.
pub const STEP_BYTES: usize = 32 << 10;

/// Largest window a zstd frame may ask for, as a power of two: 128 MiB, what level 22 uses.
/// The decoder reserves it but touches only as much as it decompresses, which the limits bound.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// Whether there is more to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Another step may give more.
    More,
    /// That was all.
    Done,
}

/// A decompression under way.
///
/// It takes the decoder's own memory: 32 KiB for gzip, up to 8 MiB for LZ4, for Snappy the block, and for
/// Zstandard the frame's window as far as it is filled. All are bounded by the limits.
pub struct Decompressor<'a> {
    stream: Stream<'a>,
    /// Bytes of the input.
    compressed: usize,
    bytes_max: usize,
    /// Bytes given so far.
    bytes: usize,
}

enum Stream<'a> {
    Plain(&'a [u8]),
    Gzip(Box<MultiGzDecoder<Portion<'a>>>),
    Snappy(snappy::Decoder<'a>),
    Lz4(Box<FrameDecoder<&'a [u8]>>),
    Zstd(Zstd<'a>),
}

impl<'a> Decompressor<'a> {
    /// Begins with `input`, within `limits`. Nothing is decompressed yet.
    ///
    /// # Errors
    /// [`RecordsError::Corrupt`] where no decoder can be made.
    pub(super) fn new(
        codec: Codec,
        input: &'a [u8],
        limits: DecompressLimits,
    ) -> Result<Self, RecordsError> {
        let bytes_max = limits.bytes_for(input.len());
        let stream = match codec {
            Codec::None => Stream::Plain(input),
            // The constructor reads the header, so it has its portion already.
            Codec::Gzip => Stream::Gzip(Box::new(MultiGzDecoder::new(Portion {
                rest: input,
                allowed: STEP_BYTES,
            }))),
            Codec::Snappy => Stream::Snappy(snappy::Decoder::new(input, bytes_max)?),
            Codec::Lz4 => Stream::Lz4(Box::new(FrameDecoder::new(input))),
            Codec::Zstd => Stream::Zstd(Zstd::new(input)?),
        };
        Ok(Decompressor {
            stream,
            compressed: input.len(),
            bytes_max,
            bytes: 0,
        })
    }

    /// Appends up to [`STEP_BYTES`] to `out`; it may be none though there are more.
    ///
    /// # Errors
    /// [`RecordsError::TooLarge`] beyond the limits, [`RecordsError::Corrupt`]. The decompression is over then.
    pub fn step(&mut self, out: &mut Vec<u8>) -> Result<Progress, RecordsError> {
        // One byte beyond the limit shows that there is more.
        let room = STEP_BYTES.min(self.bytes_max.saturating_add(1) - self.bytes);
        let start = out.len();
        let done = match &mut self.stream {
            Stream::Plain(rest) => {
                let (now, later) = rest.split_at(room.min(rest.len()));
                out.extend_from_slice(now);
                *rest = later;
                Ok(if later.is_empty() {
                    Progress::Done
                } else {
                    Progress::More
                })
            }
            Stream::Snappy(decoder) => decoder.step(out, room),
            Stream::Gzip(decoder) => filled(out, room, |room| gzip_step(decoder, room))
                .map_err(|_| RecordsError::Corrupt("not gzip")),
            Stream::Lz4(decoder) => filled(out, room, |room| lz4_step(decoder, room))
                .map_err(|_| RecordsError::Corrupt("not an lz4 frame")),
            Stream::Zstd(decoder) => filled(out, room, |room| decoder.step(room))
                .map_err(|_| RecordsError::Corrupt("not a zstd frame")),
        }?;
        self.bytes += out.len() - start;
        if self.bytes > self.bytes_max {
            return Err(RecordsError::TooLarge {
                compressed: self.compressed,
                bytes_max: self.bytes_max,
            });
        }
        Ok(done)
    }
}

/// Lets `fill` write into `room` new bytes at the end of `out`, and keeps those that it wrote.
fn filled(
    out: &mut Vec<u8>,
    room: usize,
    fill: impl FnOnce(&mut [u8]) -> io::Result<(usize, Progress)>,
) -> io::Result<Progress> {
    let start = out.len();
    out.resize(start + room, 0);
    let done = fill(out.get_mut(start..).unwrap_or_default());
    let written = done.as_ref().map_or(0, |(written, _)| *written);
    out.truncate(start + written);
    done.map(|(_, progress)| progress)
}

fn gzip_step(
    decoder: &mut MultiGzDecoder<Portion<'_>>,
    room: &mut [u8],
) -> io::Result<(usize, Progress)> {
    decoder.get_mut().allowed = STEP_BYTES;
    let mut written = 0;
    while let Some(rest) = room.get_mut(written..).filter(|rest| !rest.is_empty()) {
        match decoder.read(rest) {
            Ok(0) => return Ok((written, Progress::Done)),
            Ok(more) => written += more,
            // The portion is used up, and the decoder goes on where it was.
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok((written, Progress::More))
}

fn lz4_step(decoder: &mut FrameDecoder<&[u8]>, room: &mut [u8]) -> io::Result<(usize, Progress)> {
    let before = decoder.get_ref().len();
    let mut written = 0;
    while let Some(rest) = room.get_mut(written..).filter(|rest| !rest.is_empty()) {
        if before - decoder.get_ref().len() >= STEP_BYTES {
            break;
        }
        match decoder.read(rest)? {
            0 => return Ok((written, Progress::Done)),
            more => written += more,
        }
    }
    Ok((written, Progress::More))
}

/// Input of which a decoder gets a portion; then it is told that there is no more yet.
struct Portion<'a> {
    rest: &'a [u8],
    allowed: usize,
}

impl Read for Portion<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(out)?;
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for Portion<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.allowed == 0 && !self.rest.is_empty() {
            return Err(ErrorKind::WouldBlock.into());
        }
        let available = self.rest.len().min(self.allowed);
        Ok(self.rest.get(..available).unwrap_or_default())
    }

    fn consume(&mut self, count: usize) {
        self.rest = self.rest.get(count..).unwrap_or_default();
        self.allowed = self.allowed.saturating_sub(count);
    }
}

/// Frames of Zstandard, one after the other.
struct Zstd<'a> {
    decoder: raw::Decoder<'static>,
    rest: &'a [u8],
    in_frame: bool,
}

impl<'a> Zstd<'a> {
    fn new(input: &'a [u8]) -> Result<Self, RecordsError> {
        let bad = |_| RecordsError::Corrupt("not a zstd frame");
        let mut decoder = raw::Decoder::new().map_err(bad)?;
        let window = DParameter::WindowLogMax(ZSTD_WINDOW_LOG_MAX);
        decoder.set_parameter(window).map_err(bad)?;
        Ok(Zstd {
            decoder,
            rest: input,
            in_frame: false,
        })
    }

    fn step(&mut self, room: &mut [u8]) -> io::Result<(usize, Progress)> {
        let (mut written, mut allowed) = (0, STEP_BYTES);
        while written < room.len() && allowed > 0 {
            if self.rest.is_empty() && !self.in_frame {
                return Ok((written, Progress::Done));
            }
            if !self.in_frame {
                self.decoder.reinit()?;
                self.in_frame = true;
            }
            let portion = self.rest.get(..self.rest.len().min(allowed));
            let mut input = InBuffer::around(portion.unwrap_or_default());
            let mut output = OutBuffer::around(room.get_mut(written..).unwrap_or_default());
            let hint = self.decoder.run(&mut input, &mut output)?;
            let (took, gave) = (input.pos(), output.pos());
            self.in_frame = hint != 0;
            if took == 0 && gave == 0 && self.in_frame {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            self.rest = self.rest.get(took..).unwrap_or_default();
            // Each frame costs something, even one of nothing.
            allowed = allowed.saturating_sub(took.max(FRAME_COST_BYTES));
            written += gave;
        }
        Ok((written, Progress::More))
    }
}

/// What a call of the decoder counts as at least: so many bytes of input take as long.
const FRAME_COST_BYTES: usize = 512;

#[cfg(test)]
mod tests {
    use super::super::compression::compress;
    use super::*;

    /// All steps: what they gave together, and the longest.
    fn steps(codec: Codec, input: &[u8]) -> (Result<Vec<u8>, RecordsError>, usize) {
        let mut out = vec![];
        let mut longest = 0;
        let decompressor = Decompressor::new(codec, input, DecompressLimits::default());
        let mut decompressor = match decompressor {
            Ok(decompressor) => decompressor,
            Err(error) => return (Err(error), 0),
        };
        for _ in 0..1_000_000 {
            let before = out.len();
            let progress = decompressor.step(&mut out);
            longest = longest.max(out.len() - before);
            match progress {
                Ok(Progress::More) => {}
                Ok(Progress::Done) => return (Ok(out), longest),
                Err(error) => return (Err(error), longest),
            }
        }
        panic!("{codec:?} does not end");
    }

    #[test]
    fn steps_are_bounded_whatever_the_input() {
        // Proves that no step gives more than its share, of bytes that compress well and of those that don't, and
        // that together they give everything.
        let noise: Vec<u8> = (0..700_000_u64)
            .map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33).to_le_bytes()[0])
            .collect();
        for codec in Codec::ALL {
            for input in [vec![7; 700_000], noise.clone()] {
                let mut compressed = vec![];
                compress(codec, &input, &mut compressed);
                let (out, longest) = steps(codec, &compressed);
                assert!(out.unwrap() == input, "{codec:?}");
                assert!(longest <= STEP_BYTES, "{codec:?}: a step of {longest}");
            }
        }
    }

    #[test]
    fn input_that_decompresses_to_nothing_is_taken_in_steps() {
        // Proves that thousands of empty members and frames are not gone through in one step.
        let mut member = vec![];
        compress(Codec::Gzip, b"", &mut member);
        let mut frame = vec![];
        compress(Codec::Zstd, b"", &mut frame);
        for (codec, one) in [(Codec::Gzip, member), (Codec::Zstd, frame)] {
            let input = one.repeat(20_000);
            let mut out = vec![];
            let limits = DecompressLimits::default();
            let mut decompressor = Decompressor::new(codec, &input, limits).unwrap();
            let mut count = 1;
            while decompressor.step(&mut out).unwrap() == Progress::More {
                count += 1;
            }
            assert_eq!(out.len(), 0);
            assert!(
                count >= input.len() / STEP_BYTES,
                "{codec:?}: {count} steps"
            );
        }
    }

    #[test]
    fn several_frames_are_one_stream() {
        // Proves that members of gzip and frames of zstd follow each other, and that one that is cut is an error.
        for codec in [Codec::Gzip, Codec::Zstd] {
            let mut one = vec![];
            compress(codec, &vec![5; 50_000], &mut one);
            let (out, _) = steps(codec, &one.repeat(3));
            assert_eq!(out.unwrap(), vec![5; 150_000], "{codec:?}");
            for cut in [1, one.len() / 2, one.len() - 1, one.len() + 3] {
                let (out, _) = steps(codec, &one.repeat(2)[..cut]);
                assert!(
                    matches!(out, Err(RecordsError::Corrupt(_))),
                    "{codec:?} cut at {cut}"
                );
            }
        }
    }
}
