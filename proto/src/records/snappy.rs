//! Snappy as Kafka has it: blocks in the framing of xerial's Java library, or one bare block,
//! which some clients (sarama and franz-go among them) write instead.
//!
//! A bare block is as large as its batch, and the `snap` crate decompresses a block at once: small ones are
//! left to it, and larger ones are decompressed in steps here.

use super::decompress::{Progress, STEP_BYTES};
use super::error::RecordsError;

const MAGIC: &[u8; 8] = b"\x82SNAPPY\0";
/// Magic, then two 32-bit numbers: the framing's version and the oldest that can read it.
const FRAMING_BYTES: usize = 16;
const VERSIONS: [u8; 8] = [0, 0, 0, 1, 0, 0, 0, 1];
/// What the Java library cuts its input into.
const BLOCK_BYTES: usize = 32 * 1024;
/// A snappy block decompresses to at most 64 bytes from 3 (a copy with a two-byte distance), so a block
/// that claims more lies, and nothing is set aside for it.
const RATIO_MAX: usize = 22;
/// Blocks up to this are decompressed at once: 50 to 150 µs.
const AT_ONCE_BYTES_MAX: usize = 64 << 10;

const BAD: RecordsError = RecordsError::Corrupt("not snappy");

/// A decompression under way. It has the block that it is in: later bytes repeat earlier ones of the block, at
/// any distance.
pub(super) struct Decoder<'a> {
    /// What follows the block.
    rest: &'a [u8],
    compressed: usize,
    bytes_max: usize,
    /// Decompressed bytes of the blocks before this one.
    before: usize,
    /// What has not been decompressed of the block, and what the block claims to hold.
    block: &'a [u8],
    length: usize,
    /// Bytes left of a literal: they are next in the block.
    literal: usize,
    /// What the block has given so far, and how much of that was passed on.
    out: Vec<u8>,
    given: usize,
    framed: bool,
}

impl<'a> Decoder<'a> {
    /// Begins with `input`, which gives at most `bytes_max`.
    pub(super) fn new(input: &'a [u8], bytes_max: usize) -> Result<Self, RecordsError> {
        let mut decoder = Decoder {
            rest: input,
            compressed: input.len(),
            bytes_max,
            before: 0,
            block: &[],
            length: 0,
            literal: 0,
            out: Vec::new(),
            given: 0,
            framed: input.starts_with(MAGIC),
        };
        if !decoder.framed {
            decoder.rest = &[];
            decoder.begin(input)?;
        }
        Ok(decoder)
    }

    /// Appends up to `room` bytes to `out`.
    pub(super) fn step(
        &mut self,
        out: &mut Vec<u8>,
        mut room: usize,
    ) -> Result<Progress, RecordsError> {
        let mut allowed = STEP_BYTES;
        loop {
            let ready = self.out.get(self.given..).unwrap_or_default();
            let now = ready.get(..ready.len().min(room)).unwrap_or_default();
            out.extend_from_slice(now);
            room -= now.len();
            self.given += now.len();
            if room == 0 || allowed == 0 {
                return Ok(Progress::More);
            }
            // Nothing is ready any more.
            let before = self.block.len() + self.rest.len();
            if self.out.len() < self.length || !self.block.is_empty() {
                self.decode(self.given + room.min(STEP_BYTES))?;
            } else if !self.next_block()? {
                return Ok(Progress::Done);
            }
            let took = before - (self.block.len() + self.rest.len());
            allowed = allowed.saturating_sub(took.max(1));
        }
    }

    /// Goes on to the next block of the framing, if there is one.
    fn next_block(&mut self) -> Result<bool, RecordsError> {
        // Two framings one after the other, as from two flushes of a Java stream.
        if self.framed && self.rest.starts_with(MAGIC) {
            self.rest = self.rest.get(FRAMING_BYTES..).ok_or(BAD)?;
        }
        if self.rest.is_empty() {
            return Ok(false);
        }
        let (length, blocks) = self.rest.split_first_chunk::<4>().ok_or(BAD)?;
        if self.rest.starts_with(MAGIC) {
            return Ok(true);
        }
        let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| BAD)?;
        let (block, following) = blocks.split_at_checked(length).ok_or(BAD)?;
        self.rest = following;
        self.begin(block)?;
        Ok(true)
    }

    fn begin(&mut self, block: &'a [u8]) -> Result<(), RecordsError> {
        self.before += self.length;
        self.out.clear();
        self.given = 0;
        let length = snap::raw::decompress_len(block).map_err(|_| BAD)?;
        if length / RATIO_MAX > block.len() {
            return Err(BAD);
        }
        if length > self.bytes_max - self.before {
            return Err(RecordsError::TooLarge {
                compressed: self.compressed,
                bytes_max: self.bytes_max,
            });
        }
        self.length = length;
        if length <= AT_ONCE_BYTES_MAX {
            self.out.resize(length, 0);
            let got = snap::raw::Decoder::new()
                .decompress(block, &mut self.out)
                .map_err(|_| BAD)?;
            self.block = &[];
            return if got == length { Ok(()) } else { Err(BAD) };
        }
        // The length, in seven bits a byte.
        let prefix = block.iter().take_while(|byte| **byte >= 0x80).count() + 1;
        self.block = block.get(prefix..).ok_or(BAD)?;
        Ok(())
    }

    /// Decompresses elements of the block until it has given `until` bytes or more, or ends.
    fn decode(&mut self, until: usize) -> Result<(), RecordsError> {
        while self.out.len() < until {
            if self.literal > 0 {
                let now = self.literal.min(until - self.out.len());
                let bytes = self.take(now)?;
                self.out.extend_from_slice(bytes);
                self.literal -= now;
                continue;
            }
            let Some((tag, rest)) = self.block.split_first() else {
                return if self.out.len() == self.length {
                    Ok(())
                } else {
                    Err(BAD)
                };
            };
            self.block = rest;
            let size = usize::from(tag >> 2);
            match tag & 0b11 {
                0 => {
                    let bytes = size.saturating_sub(59);
                    let length = if bytes == 0 {
                        size
                    } else {
                        self.number(bytes)?
                    };
                    self.literal = length + 1;
                    if self.literal > self.length - self.out.len() {
                        return Err(BAD);
                    }
                }
                1 => {
                    let low = self.number(1)?;
                    self.copy((size & 0b111) + 4, (size >> 3) << 8 | low)?;
                }
                2 => {
                    let distance = self.number(2)?;
                    self.copy(size + 1, distance)?;
                }
                _ => {
                    let distance = self.number(4)?;
                    self.copy(size + 1, distance)?;
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], RecordsError> {
        let (taken, rest) = self.block.split_at_checked(count).ok_or(BAD)?;
        self.block = rest;
        Ok(taken)
    }

    /// A little-endian number of up to four bytes.
    fn number(&mut self, bytes: usize) -> Result<usize, RecordsError> {
        let bytes = self.take(bytes)?;
        let place = |sum, (index, byte): (usize, &u8)| sum | usize::from(*byte) << (8 * index);
        Ok(bytes.iter().enumerate().fold(0, place))
    }

    /// Repeats bytes that the block gave `distance` ago; they may overlap with what they become.
    fn copy(&mut self, count: usize, distance: usize) -> Result<(), RecordsError> {
        let length = self.out.len();
        let fits = count <= self.length - length;
        let from = length
            .checked_sub(distance)
            .filter(|_| distance > 0 && fits);
        let from = from.ok_or(BAD)?;
        if distance >= count {
            self.out.extend_from_within(from..from + count);
            return Ok(());
        }
        for at in from..from + count {
            let byte = self.out.get(at).copied().ok_or(BAD)?;
            self.out.push(byte);
        }
        Ok(())
    }
}

/// Compresses in the framing, block by block.
pub(super) struct Encoder {
    encoder: snap::raw::Encoder,
    /// Less than a block.
    pending: Vec<u8>,
}

impl Encoder {
    /// Begins a stream in `out`.
    pub(super) fn begin(out: &mut Vec<u8>) -> Self {
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSIONS);
        Encoder {
            encoder: snap::raw::Encoder::new(),
            pending: Vec::new(),
        }
    }

    /// Compresses `input`, except the last bytes that are less than a block.
    pub(super) fn write(&mut self, mut input: &[u8], out: &mut Vec<u8>) {
        while !input.is_empty() {
            let room = BLOCK_BYTES - self.pending.len();
            let (now, later) = input.split_at(room.min(input.len()));
            self.pending.extend_from_slice(now);
            if self.pending.len() == BLOCK_BYTES {
                self.finish(out);
            }
            input = later;
        }
    }

    /// Compresses what is left.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>) {
        if self.pending.is_empty() {
            return;
        }
        let block = self
            .encoder
            .compress_vec(&self.pending)
            .expect("a block is far below snappy's 4 GiB");
        let length = u32::try_from(block.len()).expect("a block is far below 4 GiB");
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&block);
        self.pending.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decompress(input: &[u8], bytes_max: usize) -> Result<Vec<u8>, RecordsError> {
        let mut out = vec![];
        let mut decoder = Decoder::new(input, bytes_max)?;
        while decoder.step(&mut out, 1_000)? == Progress::More {}
        Ok(out)
    }

    fn framed(input: &[u8]) -> Vec<u8> {
        let mut out = vec![];
        let mut encoder = Encoder::begin(&mut out);
        encoder.write(input, &mut out);
        encoder.finish(&mut out);
        out
    }

    #[test]
    fn reads_bare_blocks_and_concatenated_framings() {
        // What clients other than Java's write is read as well.
        let input = b"abcabcabcabcabcabc".repeat(100);
        let bare = snap::raw::Encoder::new().compress_vec(&input).unwrap();
        assert_eq!(decompress(&bare, 1 << 20).unwrap(), input);
        let framed = framed(&input).repeat(2);
        assert_eq!(decompress(&framed, 1 << 20).unwrap(), input.repeat(2));
    }

    #[test]
    fn a_claimed_length_sets_nothing_aside() {
        // Five bytes that claim 4 GiB are refused before memory is taken for them.
        let claim = [0xff, 0xff, 0xff, 0xff, 0x0f, 0x00];
        assert_eq!(decompress(&claim, usize::MAX), Err(BAD));
    }

    /// Bytes of which some repeat, at short and long distances.
    fn mixed(length: usize, mut seed: u64) -> Vec<u8> {
        let mut out: Vec<u8> = vec![];
        while out.len() < length {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            let count = usize::try_from(seed % 300).unwrap() + 1;
            if seed.is_multiple_of(3) && out.len() > count {
                let from = usize::try_from(seed >> 20).unwrap() % (out.len() - count);
                out.extend_from_within(from..from + count);
            } else if seed.is_multiple_of(5) {
                out.resize(out.len() + count, b'z');
            } else {
                out.extend((0..count).map(|i| (seed >> (i % 40)).to_le_bytes()[0]));
            }
        }
        out.truncate(length);
        out
    }

    #[test]
    fn large_blocks_in_steps_give_what_snap_gives() {
        // Proves, against the crate's own decoder, that a large bare block comes out the same, also when it is damaged:
        // both refuse it, or both give the same bytes.
        let input = mixed(300_000, 0x5eed);
        let honest = snap::raw::Encoder::new().compress_vec(&input).unwrap();
        assert!(decompress(&honest, 1 << 20).unwrap() == input);
        let mut seed = 0xfeed_u64;
        for round in 0..300 {
            let mut damaged = honest.clone();
            seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            let at = 3 + usize::try_from(seed >> 16).unwrap() % (damaged.len() - 3);
            damaged[at] ^= 1 << (seed >> 13 & 7);
            if round % 3 == 0 {
                damaged.truncate(at);
            }
            let theirs = snap::raw::Decoder::new().decompress_vec(&damaged);
            match (decompress(&damaged, 1 << 20), theirs) {
                (Ok(ours), Ok(theirs)) => assert!(ours == theirs, "round {round}"),
                (Err(BAD), Err(_)) => {}
                (ours, theirs) => panic!(
                    "round {round}: {:?} here, {:?} there",
                    ours.map(|out| out.len()),
                    theirs.map(|out| out.len())
                ),
            }
        }
    }

    #[test]
    fn distances_beyond_64_kib_are_followed() {
        // Some encoders repeat what lies further back than snappy's own do: a copy with a distance of four bytes.
        let first = mixed(100_000, 7);
        let mut block = vec![0xe0, 0xa7, 0x12]; // 300,000
        let literal = |bytes: &[u8], block: &mut Vec<u8>| {
            block.push(62 << 2);
            block.extend_from_slice(&u32::try_from(bytes.len() - 1).unwrap().to_le_bytes()[..3]);
            block.extend_from_slice(bytes);
        };
        literal(&first, &mut block);
        let mut expected = first.clone();
        for at in (0..64_000).step_by(64) {
            block.push(63 << 2 | 3);
            block.extend_from_slice(&100_000_u32.to_le_bytes());
            expected.extend_from_slice(&first[at..at + 64]);
        }
        let last = mixed(300_000 - expected.len(), 9);
        literal(&last, &mut block);
        expected.extend_from_slice(&last);
        assert_eq!(expected.len(), 300_000);
        assert!(decompress(&block, 1 << 20).unwrap() == expected);
    }
}
