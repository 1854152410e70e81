//! Little-endian fields of the lane's own files, and a reader that can neither panic nor over-allocate.

/// The bytes end before the field does, or a field holds what no writer writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

/// Appends fields to a byte vector.
#[derive(Debug, Default)]
pub(crate) struct Encoder {
    bytes: Vec<u8>,
}

impl Encoder {
    pub(crate) fn with_capacity(bytes: usize) -> Encoder {
        Encoder {
            bytes: Vec::with_capacity(bytes),
        }
    }

    pub(crate) fn u16(&mut self, value: u16) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn i32(&mut self, value: i32) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn i64(&mut self, value: i64) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// A count or a length: everything that the lane counts is far below 2^32.
    pub(crate) fn count(&mut self, count: usize) {
        self.u32(u32::try_from(count).expect("counts in lane files stay below 2^32"));
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

/// Takes fields off the front of a byte slice.
#[derive(Debug, Clone)]
pub(crate) struct Decoder<'a> {
    rest: &'a [u8],
}

impl<'a> Decoder<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Decoder<'a> {
        Decoder { rest: bytes }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (field, rest) = self.rest.split_first_chunk::<N>().ok_or(Malformed)?;
        self.rest = rest;
        Ok(*field)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(crate) fn i32(&mut self) -> Result<i32, Malformed> {
        Ok(i32::from_le_bytes(self.array()?))
    }

    pub(crate) fn i64(&mut self) -> Result<i64, Malformed> {
        Ok(i64::from_le_bytes(self.array()?))
    }

    pub(crate) fn uuid(&mut self) -> Result<[u8; 16], Malformed> {
        self.array()
    }

    pub(crate) fn raw(&mut self, bytes: usize) -> Result<&'a [u8], Malformed> {
        if bytes > self.rest.len() {
            return Err(Malformed);
        }
        let (field, rest) = self.rest.split_at(bytes);
        self.rest = rest;
        Ok(field)
    }

    /// A count of items that take at least `item_bytes_min` each: refused before anything is
    /// allocated when the bytes that are left could not hold them.
    pub(crate) fn count(&mut self, item_bytes_min: usize) -> Result<usize, Malformed> {
        assert!(item_bytes_min > 0, "an item of no bytes bounds nothing");
        let count = usize::try_from(self.u32()?).map_err(|_| Malformed)?;
        if count > self.rest.len() / item_bytes_min {
            Err(Malformed)
        } else {
            Ok(count)
        }
    }

    pub(crate) fn finish(self) -> Result<(), Malformed> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(Malformed)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_comes_back() {
        // Proves that the reader takes exactly what the writer put, field by field.
        let mut encoder = Encoder::with_capacity(64);
        encoder.u16(7);
        encoder.u32(8);
        encoder.u64(9);
        encoder.i32(-10);
        encoder.i64(-11);
        encoder.count(3);
        encoder.raw(b"abc");
        let bytes = encoder.finish();
        let mut decoder = Decoder::new(&bytes);
        assert_eq!(decoder.u16(), Ok(7));
        assert_eq!(decoder.u32(), Ok(8));
        assert_eq!(decoder.u64(), Ok(9));
        assert_eq!(decoder.i32(), Ok(-10));
        assert_eq!(decoder.i64(), Ok(-11));
        assert_eq!(decoder.count(1), Ok(3));
        assert_eq!(decoder.raw(3), Ok(b"abc".as_slice()));
        assert_eq!(decoder.finish(), Ok(()));
    }

    #[test]
    fn a_count_beyond_the_bytes_is_refused() {
        // Proves that a lying count is an error before it can become an allocation.
        let mut encoder = Encoder::default();
        encoder.u32(u32::MAX);
        encoder.raw(&[0; 32]);
        let bytes = encoder.finish();
        assert_eq!(Decoder::new(&bytes).count(16), Err(Malformed));
        assert_eq!(Decoder::new(&bytes[..2]).u32(), Err(Malformed));
        assert_eq!(Decoder::new(&bytes).finish(), Err(Malformed));
    }
}
