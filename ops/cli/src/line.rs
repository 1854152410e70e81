//! Records from lines of standard input.

/// Cuts chunks of input into lines, each within a bound.
#[derive(Debug)]
pub(crate) struct Lines {
    bytes_max: usize,
    chunk: Vec<u8>,
    /// How much of `chunk` is taken.
    position: usize,
    line: Vec<u8>,
    /// The line has its end: the next one begins anew.
    complete: bool,
    count: u64,
    bytes: u64,
}

/// A line is longer than a record may be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooLong;

impl Lines {
    /// Lines of at most `bytes_max` bytes.
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            chunk: Vec::new(),
            position: 0,
            line: Vec::new(),
            complete: false,
            count: 0,
            bytes: 0,
        }
    }

    /// Takes more input. What was put before must have been used up.
    pub(crate) fn put(&mut self, chunk: Vec<u8>) {
        assert!(self.position == self.chunk.len(), "a chunk is left");
        self.chunk = chunk;
        self.position = 0;
    }

    /// The next line without its end; `None` if more input is needed for it.
    ///
    /// # Errors
    /// [`TooLong`]: nothing can be taken after it.
    pub(crate) fn next(&mut self) -> Result<Option<&[u8]>, TooLong> {
        if std::mem::take(&mut self.complete) {
            self.line.clear();
        }
        let rest = self.chunk.get(self.position..).unwrap_or_default();
        let end = rest.iter().position(|byte| *byte == b'\n');
        let part = rest.get(..end.unwrap_or(rest.len())).unwrap_or_default();
        if self.line.len() + part.len() > self.bytes_max {
            return Err(TooLong);
        }
        self.line.extend_from_slice(part);
        self.position += part.len();
        if end.is_none() {
            return Ok(None);
        }
        self.position += 1;
        Ok(Some(self.taken(1)))
    }

    /// The last line, if it has no end; after the end of input.
    pub(crate) fn last(&mut self) -> Option<&[u8]> {
        let unfinished = self.unfinished() > 0;
        unfinished.then(|| self.taken(0))
    }

    fn taken(&mut self, end_bytes: u64) -> &[u8] {
        self.complete = true;
        self.count += 1;
        self.bytes += self.line.len() as u64 + end_bytes;
        &self.line
    }

    /// Bytes of a line whose end has not come.
    pub(crate) fn unfinished(&self) -> usize {
        if self.complete { 0 } else { self.line.len() }
    }

    /// Lines taken so far.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Their bytes, with their ends.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// Key and value of a line: what is before and after the first separator.
pub(crate) fn split_key<'a>(line: &'a [u8], separator: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let at = line
        .windows(separator.len())
        .position(|window| window == separator)?;
    Some((line.get(..at)?, line.get(at + separator.len()..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_and_bounded_wherever_chunks_end() {
        // Proves: empty lines and a last line without an end are lines, whatever the size of chunks; one that is
        // too long is noticed before it is kept; lines and bytes are counted.
        let text = b"a\n\nbcd\nlast";
        for size in 1..=text.len() {
            let mut lines = Lines::new(4);
            let mut found: Vec<Vec<u8>> = Vec::new();
            for chunk in text.chunks(size) {
                lines.put(chunk.to_vec());
                while let Some(line) = lines.next().unwrap() {
                    found.push(line.to_vec());
                }
            }
            assert_eq!(
                (lines.count(), lines.bytes(), lines.unfinished()),
                (3, 7, 4)
            );
            found.extend(lines.last().map(<[u8]>::to_vec));
            let expected: [&[u8]; 4] = [b"a", b"", b"bcd", b"last"];
            assert_eq!(found, expected, "chunks of {size}");
            assert_eq!((lines.count(), lines.bytes(), lines.last()), (4, 11, None));
            let mut lines = Lines::new(3);
            let mut long = None;
            for chunk in text.chunks(size) {
                lines.put(chunk.to_vec());
                long = long.or_else(|| {
                    loop {
                        match lines.next() {
                            Ok(Some(_)) => {}
                            Ok(None) => break None,
                            Err(TooLong) => break Some(lines.count()),
                        }
                    }
                });
                if long.is_some() {
                    break;
                }
            }
            assert_eq!(long, Some(3), "chunks of {size}");
        }
    }

    #[test]
    fn the_first_separator_splits() {
        // Proves: a value may hold the separator, and separators may be longer than a byte.
        assert_eq!(split_key(b"k:v:w", b":"), Some((&b"k"[..], &b"v:w"[..])));
        assert_eq!(split_key(b"k::v", b"::"), Some((&b"k"[..], &b"v"[..])));
        assert_eq!(split_key(b":v", b":"), Some((&b""[..], &b"v"[..])));
        assert_eq!(split_key(b"v", b":"), None);
    }
}
