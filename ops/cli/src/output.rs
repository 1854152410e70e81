//! How answers are printed.

use std::io::{self, Write};

use argh::FromArgValue;

/// The form of a command's answer.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs: one JSON value, or one a line where answers come one by one.
    Json,
}

impl FromArgValue for Format {
    fn from_arg_value(value: &str) -> Result<Self, String> {
        match value {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("expected \"text\" or \"json\"".to_owned()),
        }
    }
}

/// Rows under their heads, each column as wide as its widest cell, two spaces between.
pub fn table(heads: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows
            .iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count());
        cells
            .chain(heads.get(column).map(|head| head.len()))
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        format!("{}\n", padded.join("  ").trim_end())
    };
    let mut out = line(&mut heads.iter().copied());
    for row in rows {
        out.push_str(&line(&mut row.iter().map(String::as_str)));
    }
    out
}

/// A number of things: "1 record", "2 records".
pub fn count(number: u64, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

/// Bytes in the largest unit of which there is at least one: "512 B", "1.5 MiB".
pub fn bytes(number: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if number < 1_024 {
        return format!("{number} B");
    }
    // From 2^10 to 2^64: the tenths of a unit are exact enough in 128 bits.
    let place = (number.ilog2() / 10 - 1) as usize;
    let unit = 1_u128 << (10 * (place + 1));
    let tenths = u128::from(number) * 10 / unit;
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[place])
}

/// Writes to standard output. A reader that has seen enough (`| head`) is no error: `false` then.
///
/// # Errors
/// Any other failure of standard output, such as a full disk.
pub fn print(text: &str) -> io::Result<bool> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        // Proves: a column is as wide as its widest cell and no line ends in spaces (golden).
        let rows = [
            ["orders".to_owned(), "6".to_owned()],
            ["a".to_owned(), "12".to_owned()],
        ];
        let text = table(&["TOPIC", "PARTITIONS"], &rows.map(Vec::from));
        assert_eq!(text, "TOPIC   PARTITIONS\norders  6\na       12\n");
    }

    #[test]
    fn numbers_are_written_for_people() {
        // Proves: singular and plural, and the unit and rounding of bytes at the ends of each unit (golden).
        assert_eq!(
            [0, 1, 2].map(|number| count(number, "record")),
            ["0 records", "1 record", "2 records"]
        );
        let table = [
            (0, "0 B"),
            (1_023, "1023 B"),
            (1_024, "1.0 KiB"),
            (1_536, "1.5 KiB"),
            ((1 << 20) - 1, "1023.9 KiB"),
            (1 << 20, "1.0 MiB"),
            (5 << 30, "5.0 GiB"),
            (u64::MAX, "15.9 EiB"),
        ];
        for (number, expected) in table {
            assert_eq!(bytes(number), expected);
        }
    }

    #[test]
    fn an_empty_table_still_names_its_columns() {
        // Proves: nothing to list looks like an empty list, not like nothing.
        assert_eq!(table(&["TOPIC"], &[]), "TOPIC\n");
    }
}
