//! Snappy as Kafka has it: blocks in the framing of xerial's Java library, or one bare block,
//! which some clients (sarama among them) write instead.

use super::error::RecordsError;

const MAGIC: &[u8; 8] = b"\x82SNAPPY\0";
/// Magic, then two 32-bit numbers: the framing's version and the oldest that can read it.
const FRAMING_BYTES: usize = 16;
const VERSIONS: [u8; 8] = [0, 0, 0, 1, 0, 0, 0, 1];
/// What the Java library cuts its input into.
const BLOCK_BYTES: usize = 32 * 1024;
/// A snappy block unfolds at most 64 bytes from 3 (a copy with a two-byte distance), so a block
/// that claims more lies, and nothing is set aside for it.
const RATIO_MAX: usize = 22;

const BAD: RecordsError = RecordsError::Corrupt("not snappy");

/// Appends the unfolded `input` to `out`, which is empty.
pub(super) fn decompress(
    input: &[u8],
    bytes_max: usize,
    out: &mut Vec<u8>,
) -> Result<(), RecordsError> {
    let unfold = |block: &[u8], out: &mut Vec<u8>| {
        let length = snap::raw::decompress_len(block).map_err(|_| BAD)?;
        if length / RATIO_MAX > block.len() {
            return Err(BAD);
        }
        let start = out.len();
        if length > bytes_max - start {
            return Err(RecordsError::TooLarge {
                compressed: input.len(),
                bytes_max,
            });
        }
        out.resize(start + length, 0);
        let target = out.get_mut(start..).unwrap_or_default();
        let got = snap::raw::Decoder::new()
            .decompress(block, target)
            .map_err(|_| BAD)?;
        if got == length { Ok(()) } else { Err(BAD) }
    };
    if !input.starts_with(MAGIC) {
        return unfold(input, out);
    }
    let mut rest = input.get(FRAMING_BYTES..).ok_or(BAD)?;
    while !rest.is_empty() {
        let (length, blocks) = rest.split_first_chunk::<4>().ok_or(BAD)?;
        // Two framings one after the other, as from two flushes of a Java stream.
        if rest.starts_with(MAGIC) {
            rest = rest.get(FRAMING_BYTES..).ok_or(BAD)?;
            continue;
        }
        let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| BAD)?;
        let (block, following) = blocks.split_at_checked(length).ok_or(BAD)?;
        unfold(block, out)?;
        rest = following;
    }
    Ok(())
}

/// Appends the framed and compressed `input` to `out`.
pub(super) fn compress(input: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&VERSIONS);
    let mut encoder = snap::raw::Encoder::new();
    for block in input.chunks(BLOCK_BYTES) {
        let folded = encoder
            .compress_vec(block)
            .expect("a block is far below snappy's 4 GiB");
        let length = u32::try_from(folded.len()).expect("a block is far below 4 GiB");
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&folded);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_bare_blocks_and_concatenated_framings() {
        // What clients other than Java's write is read as well.
        let input = b"abcabcabcabcabcabc".repeat(100);
        let mut out = vec![];
        let bare = snap::raw::Encoder::new().compress_vec(&input).unwrap();
        decompress(&bare, 1 << 20, &mut out).unwrap();
        assert_eq!(out, input);

        let (mut framed, mut out) = (vec![], vec![]);
        compress(&input, &mut framed);
        decompress(&framed.repeat(2), 1 << 20, &mut out).unwrap();
        assert_eq!(out, input.repeat(2));
    }

    #[test]
    fn a_claimed_length_sets_nothing_aside() {
        // Five bytes that claim 4 GiB are refused before memory is taken for them.
        let claim = [0xff, 0xff, 0xff, 0xff, 0x0f, 0x00];
        let mut out = vec![];
        assert_eq!(decompress(&claim, usize::MAX, &mut out), Err(BAD));
        assert_eq!(out.capacity(), 0);
    }
}
