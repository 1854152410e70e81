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
    fn an_empty_table_still_names_its_columns() {
        // Proves: nothing to list looks like an empty list, not like nothing.
        assert_eq!(table(&["TOPIC"], &[]), "TOPIC\n");
    }
}
