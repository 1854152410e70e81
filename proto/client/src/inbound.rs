//! Cuts what arrives on a connection into frames.

/// Why what arrives cannot be cut into frames. The connection is of no use any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The length is negative, or less than a correlation id takes: not the Kafka protocol.
    #[error("frame length {0} makes no sense")]
    Senseless(i32),
    /// The frame is larger than was agreed to.
    #[error("frame of {length} bytes exceeds the limit of {bytes_max}")]
    TooLarge {
        /// What the frame claims.
        length: usize,
        /// The limit.
        bytes_max: usize,
    },
}

/// Bytes that arrived and were not taken yet. The owner reads from its socket into
/// [`Inbound::space`] and says with [`Inbound::filled`] how much came.
#[derive(Debug)]
pub struct Inbound {
    buffer: Vec<u8>,
    /// Where the first frame that was not taken begins.
    start: usize,
    /// Where the bytes that came end.
    end: usize,
    frame_bytes_max: usize,
}

/// What is read at once. A larger frame makes the buffer double as its bytes come, so that a
/// length alone sets nothing aside.
const READ_BYTES: usize = 64 << 10;
const LENGTH_BYTES: usize = 4;
/// A frame holds a correlation id at least.
const FRAME_BYTES_MIN: i32 = 4;

impl Inbound {
    /// Nothing has come yet.
    pub fn new(frame_bytes_max: usize) -> Self {
        Inbound {
            buffer: Vec::new(),
            start: 0,
            end: 0,
            frame_bytes_max,
        }
    }

    /// Free space, never empty, to be filled from its beginning.
    pub fn space(&mut self) -> &mut [u8] {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
            // One large answer must not be paid for as long as the connection lives.
            if self.buffer.len() > 16 * READ_BYTES {
                self.buffer = Vec::new();
            }
        } else if self.start > 0 && self.buffer.len() - self.end < READ_BYTES {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.buffer.len() - self.end < READ_BYTES {
            let size = (self.buffer.len() * 2).max(READ_BYTES);
            self.buffer.resize(size.max(self.end + READ_BYTES), 0);
        }
        self.buffer.get_mut(self.end..).unwrap_or_default()
    }

    /// Notes that so many bytes were put into the space.
    ///
    /// # Panics
    /// If that is more than the space had.
    pub fn filled(&mut self, count: usize) {
        assert!(count <= self.buffer.len() - self.end, "more than the space");
        self.end += count;
    }

    /// Takes the next whole frame, without its length.
    ///
    /// # Errors
    /// [`FrameError`]: close the connection.
    pub fn take_frame(&mut self) -> Result<Option<Vec<u8>>, FrameError> {
        let came = self.buffer.get(self.start..self.end).unwrap_or_default();
        let Some((length, rest)) = came.split_first_chunk::<LENGTH_BYTES>() else {
            return Ok(None);
        };
        let length = i32::from_be_bytes(*length);
        if length < FRAME_BYTES_MIN {
            return Err(FrameError::Senseless(length));
        }
        let length = usize::try_from(length).map_err(|_| FrameError::Senseless(length))?;
        if length > self.frame_bytes_max {
            return Err(FrameError::TooLarge {
                length,
                bytes_max: self.frame_bytes_max,
            });
        }
        let Some(frame) = rest.get(..length) else {
            return Ok(None);
        };
        let frame = frame.to_vec();
        self.start += LENGTH_BYTES + length;
        Ok(Some(frame))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(inbound: &mut Inbound, mut bytes: &[u8], chunk: usize) -> Vec<Vec<u8>> {
        let mut frames = vec![];
        while !bytes.is_empty() {
            let space = inbound.space();
            let count = chunk.min(bytes.len()).min(space.len());
            space[..count].copy_from_slice(&bytes[..count]);
            inbound.filled(count);
            bytes = &bytes[count..];
            while let Some(frame) = inbound.take_frame().unwrap() {
                frames.push(frame);
            }
        }
        frames
    }

    #[test]
    fn frames_come_out_however_the_bytes_come_in() {
        // Any chunking of any sizes gives the same frames.
        let sizes = [4_usize, 5, 100, 70_000, 4, 300_000, 9];
        let mut bytes = vec![];
        for (index, size) in sizes.iter().enumerate() {
            bytes.extend_from_slice(&i32::try_from(*size).unwrap().to_be_bytes());
            bytes.resize(bytes.len() + size, u8::try_from(index).unwrap());
        }
        for chunk in [1_000, 4_096, 65_536, 1 << 20] {
            let frames = feed(&mut Inbound::new(1 << 20), &bytes, chunk);
            assert_eq!(
                frames.iter().map(Vec::len).collect::<Vec<_>>(),
                sizes,
                "{chunk}"
            );
            for (index, frame) in frames.iter().enumerate() {
                assert!(frame.iter().all(|byte| usize::from(*byte) == index));
            }
        }
        assert_eq!(feed(&mut Inbound::new(1 << 20), &bytes[..700], 1).len(), 3);
    }

    #[test]
    fn a_length_alone_sets_nothing_aside() {
        // Lengths that are senseless or too large end the connection; a large one within the
        // limit takes no memory before its bytes come.
        for (length, error) in [
            (-1, FrameError::Senseless(-1)),
            (0, FrameError::Senseless(0)),
            (3, FrameError::Senseless(3)),
            (
                i32::MAX,
                FrameError::TooLarge {
                    length: 0x7fff_ffff,
                    bytes_max: 100 << 20,
                },
            ),
        ] {
            let mut inbound = Inbound::new(100 << 20);
            inbound.space()[..4].copy_from_slice(&length.to_be_bytes());
            inbound.filled(4);
            assert_eq!(inbound.take_frame(), Err(error));
        }
        let mut inbound = Inbound::new(100 << 20);
        inbound.space()[..4].copy_from_slice(&(90_i32 << 20).to_be_bytes());
        inbound.filled(4);
        assert_eq!(inbound.take_frame(), Ok(None));
        inbound.space();
        assert!(inbound.buffer.len() <= 4 * READ_BYTES);
    }
}
