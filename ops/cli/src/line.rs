//! Records from lines of standard input.

use std::io::{self, BufRead, Read};

/// What a line is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// A line, without its end.
    Complete,
    /// More bytes than a record may have.
    TooLong,
    /// Nothing more.
    End,
}

/// Reads the next line into `line`, never more than `bytes_max` of it.
pub(crate) fn read_line(
    input: &mut impl BufRead,
    line: &mut Vec<u8>,
    bytes_max: usize,
) -> io::Result<Line> {
    line.clear();
    // Room for the line's end, and for one byte that shows it is too long.
    let most = bytes_max as u64 + 2;
    let read = input.take(most).read_until(b'\n', line)?;
    if line.last() == Some(&b'\n') {
        line.pop();
    }
    Ok(match read {
        0 => Line::End,
        _ if line.len() > bytes_max => Line::TooLong,
        _ => Line::Complete,
    })
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
    fn lines_are_bounded() {
        // Proves: empty lines and a last line without an end are lines; a long one is noticed.
        let mut input: &[u8] = b"a\n\nbcd\nlast";
        let mut line = Vec::new();
        let mut next = || (read_line(&mut input, &mut line, 4).unwrap(), line.clone());
        assert_eq!(next(), (Line::Complete, b"a".to_vec()));
        assert_eq!(next(), (Line::Complete, b"".to_vec()));
        assert_eq!(next(), (Line::Complete, b"bcd".to_vec()));
        assert_eq!(next(), (Line::Complete, b"last".to_vec()));
        assert_eq!(next().0, Line::End);
        let mut long: &[u8] = &[b'x'; 1_000];
        assert_eq!(read_line(&mut long, &mut line, 4).unwrap(), Line::TooLong);
        assert!(line.len() <= 6, "no more than needed is read");
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
