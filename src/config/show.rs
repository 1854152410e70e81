//! Settings as text: a commented file, the same with origins, or JSON.

use std::fmt::Write;

use super::{Config, Loaded, Origin, section::Entry};

impl Config {
    /// A complete settings file: each setting with what it means, its bound and its value.
    /// Reading it back gives these settings.
    pub fn to_toml(&self) -> String {
        let mut out = String::from(
            "# StreamBus settings. A variable STREAMBUS_SECTION__KEY comes before this file,\n\
             # a flag before both.\n",
        );
        for (section, entries) in self.entries() {
            let _ = write!(out, "\n[{section}]\n");
            for entry in entries {
                for line in entry.doc.lines() {
                    let _ = writeln!(out, "#{line}");
                }
                if !entry.bound.is_empty() {
                    let _ = writeln!(out, "# A value {}.", entry.bound);
                }
                let _ = match &entry.value {
                    Some(value) => writeln!(out, "{} = {value}", entry.key),
                    None => writeln!(out, "# {} =", entry.key),
                };
            }
        }
        out
    }
}

/// One setting as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Its dotted path.
    pub path: String,
    /// Its value as TOML; `None` where it is optional and absent.
    pub value: Option<String>,
    /// Where the value came from.
    pub origin: Origin,
}

impl Loaded {
    /// Every setting as it stands, in the order of the file.
    pub fn shown(&self) -> Vec<Shown> {
        let with_origin = |section: &str, entry: Entry| {
            let path = format!("{section}.{}", entry.key);
            let origin = self.origin(&path);
            Shown {
                path,
                value: entry.value,
                origin,
            }
        };
        self.config
            .entries()
            .into_iter()
            .flat_map(|(section, entries)| {
                entries
                    .into_iter()
                    .map(|entry| with_origin(&section, entry))
                    .collect::<Vec<_>>()
            })
            .collect()
    }

    /// Every setting on a line of its own with the place it came from, in columns.
    pub fn to_text_with_origins(&self) -> String {
        let rows: Vec<(String, String)> = self
            .shown()
            .into_iter()
            .map(|shown| {
                let value = shown.value.unwrap_or_else(|| "unset".to_owned());
                (
                    format!("{} = {value}", shown.path),
                    shown.origin.to_string(),
                )
            })
            .collect();
        let width = rows
            .iter()
            .map(|(setting, _)| setting.len())
            .max()
            .unwrap_or(0);
        rows.iter()
            .fold(String::new(), |mut out, (setting, origin)| {
                let _ = writeln!(out, "{setting:<width$}  # {origin}");
                out
            })
    }
}
