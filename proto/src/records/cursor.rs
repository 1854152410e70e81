//! Reads and writes the variable-length integers of records, bounded by what is there.

use super::error::RecordsError;

/// The rest of a record's bytes. Every read is checked against it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor<'a> {
    rest: &'a [u8],
}

const CUT: RecordsError = RecordsError::Corrupt("record reaches beyond its bytes");

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Cursor { rest: bytes }
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(super) fn byte(&mut self) -> Result<u8, RecordsError> {
        let (first, rest) = self.rest.split_first().ok_or(CUT)?;
        self.rest = rest;
        Ok(*first)
    }

    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], RecordsError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(CUT)?;
        self.rest = rest;
        Ok(taken)
    }

    /// A zigzag integer of at most five bytes.
    pub(super) fn varint(&mut self) -> Result<i32, RecordsError> {
        let raw = u32::try_from(self.unsigned(5)?)
            .map_err(|_| RecordsError::Corrupt("varint beyond 32 bits"))?;
        Ok((raw >> 1).cast_signed() ^ -(raw & 1).cast_signed())
    }

    /// A zigzag integer of at most ten bytes.
    pub(super) fn varlong(&mut self) -> Result<i64, RecordsError> {
        let raw = self.unsigned(10)?;
        Ok((raw >> 1).cast_signed() ^ -(raw & 1).cast_signed())
    }

    /// A length, a count: a varint that may not be negative.
    pub(super) fn length(&mut self) -> Result<usize, RecordsError> {
        usize::try_from(self.varint()?).map_err(|_| RecordsError::Corrupt("negative length"))
    }

    /// Bytes behind a varint length, of which -1 (and any negative, as in Kafka) means null.
    pub(super) fn nullable_bytes(&mut self) -> Result<Option<&'a [u8]>, RecordsError> {
        match usize::try_from(self.varint()?) {
            Ok(length) => self.take(length).map(Some),
            Err(_) => Ok(None),
        }
    }

    fn unsigned(&mut self, bytes_max: u32) -> Result<u64, RecordsError> {
        let mut value = 0_u64;
        for index in 0..bytes_max {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            // The tenth byte holds the 64th bit alone.
            if index == 9 && bits > 1 {
                return Err(RecordsError::Corrupt("varint beyond 64 bits"));
            }
            value |= bits << (7 * index);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(RecordsError::Corrupt("varint without an end"))
    }
}

/// Appends a zigzag integer; the 32-bit ones are the same bytes.
pub(super) fn put_varlong(out: &mut Vec<u8>, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)).cast_unsigned();
    while rest >= 0x80 {
        out.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    out.push((rest & 0x7f) as u8);
}

/// Bytes that [`put_varlong`] takes for the value.
pub(super) fn varlong_len(value: i64) -> usize {
    let zigzag = ((value << 1) ^ (value >> 63)).cast_unsigned();
    // Seven bits a byte, and zero takes one.
    (64 - (zigzag | 1).leading_zeros()).div_ceil(7) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_come_back_with_the_length_foretold() {
        // Reading gives what was written, at the size that was computed for it, at every edge.
        let edges = (0..63).flat_map(|shift| [1_i64 << shift, (1 << shift) - 1, -(1 << shift)]);
        for value in edges.chain([0, i64::MIN, i64::MAX]) {
            let mut bytes = Vec::new();
            put_varlong(&mut bytes, value);
            assert_eq!(bytes.len(), varlong_len(value), "{value}");
            let mut cursor = Cursor::new(&bytes);
            assert_eq!(cursor.varlong(), Ok(value));
            assert!(cursor.is_empty());
            let narrow = Cursor::new(&bytes).varint();
            assert_eq!(narrow.ok(), i32::try_from(value).ok(), "{value}");
        }
    }

    #[test]
    fn endless_and_cut_integers_are_refused() {
        // No input makes a varint run past its bytes, its length or its width.
        let cases: [(&[u8], bool, bool); 6] = [
            (&[], false, false),
            (&[0x80], false, false),
            (&[0xff, 0xff, 0xff, 0xff, 0x0f], true, true),
            (&[0xff, 0xff, 0xff, 0xff, 0x1f], false, true),
            (&[0xff; 10], false, false),
            (
                &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02],
                false,
                false,
            ),
        ];
        for (bytes, narrow, wide) in cases {
            assert_eq!(Cursor::new(bytes).varint().is_ok(), narrow, "{bytes:?}");
            assert_eq!(Cursor::new(bytes).varlong().is_ok(), wide, "{bytes:?}");
        }
    }
}
