//! The three places settings come from, brought to one form: a dotted path, a raw value, an origin.

use std::fmt::Display;

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{ConfigError, value::Raw};

/// The start of every variable that is a setting. What Kubernetes injects for a service named
/// `streambus` (`STREAMBUS_PORT`, …) has the same start, so only names that also hold
/// [`SEPARATOR`] are read.
const VARIABLE_PREFIX: &str = "STREAMBUS_";
/// Parts the section from the key in a variable's name.
const SEPARATOR: &str = "__";

/// Everything that settings are read from. The caller does the reading: this module does no I/O.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The settings file, where there is one.
    pub file: Option<SettingsFile>,
    /// The process's environment: names and values.
    pub variables: Vec<(String, String)>,
    /// Settings given as flags, in their order on the command line.
    pub flags: Vec<FlagSetting>,
}

/// A settings file.
#[derive(Clone, Debug)]
pub struct SettingsFile {
    /// Its path as the user knows it.
    pub path: String,
    /// Its content.
    pub text: String,
}

/// A setting given as a flag.
#[derive(Clone, Debug)]
pub struct FlagSetting {
    /// The flag as it was written, for instance `--port`.
    pub flag: String,
    /// The setting's dotted path, for instance `listeners.main.port`.
    pub path: String,
    /// Its value.
    pub value: String,
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Origin {
    /// No source names it.
    #[default]
    Default,
    /// A line of the settings file, counted from one.
    File {
        /// The file's path as the user knows it.
        path: String,
        /// The line.
        line: usize,
    },
    /// A variable, by its name.
    Variable(String),
    /// A flag, as it was written.
    Flag(String),
}

impl Display for Origin {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Default => write!(out, "default"),
            Self::File { path, line } => write!(out, "{path}:{line}"),
            Self::Variable(name) => write!(out, "variable {name}"),
            Self::Flag(flag) => write!(out, "flag {flag}"),
        }
    }
}

/// One value that a source gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Assignment {
    pub(super) path: String,
    pub(super) raw: Raw,
    pub(super) origin: Origin,
}

/// All assignments in rising precedence.
pub(super) fn assignments(sources: &Sources) -> Result<Vec<Assignment>, ConfigError> {
    let mut all = Vec::new();
    if let Some(file) = &sources.file {
        read_file(file, &mut all)?;
    }
    all.extend(sources.variables.iter().filter_map(read_variable));
    all.extend(sources.flags.iter().map(|given| Assignment {
        path: given.path.clone(),
        raw: Raw::Text(given.value.clone()),
        origin: Origin::Flag(given.flag.clone()),
    }));
    Ok(all)
}

fn read_file(file: &SettingsFile, all: &mut Vec<Assignment>) -> Result<(), ConfigError> {
    let table = DeTable::parse(&file.text).map_err(|error| ConfigError::Syntax {
        origin: file.origin(error.span().map_or(0, |span| span.start)),
        // The parser's message may span lines; an error of ours is one line.
        reason: error.message().replace('\n', ", "),
    })?;
    read_table(file, "", table.get_ref(), all);
    Ok(())
}

impl SettingsFile {
    fn origin(&self, position: usize) -> Origin {
        let before = self.text.get(..position).unwrap_or(&self.text);
        let line = before.matches('\n').count() + 1;
        Origin::File {
            path: self.path.clone(),
            line,
        }
    }
}

/// Flattens a table. Its depth is bounded by the parser.
fn read_table(file: &SettingsFile, prefix: &str, table: &DeTable<'_>, all: &mut Vec<Assignment>) {
    let mut rows: Vec<_> = table.iter().collect();
    rows.sort_by_key(|(key, _)| key.span().start);
    for (key, value) in rows {
        let path = match prefix {
            "" => key.get_ref().to_string(),
            prefix => format!("{prefix}.{}", key.get_ref()),
        };
        match value.get_ref() {
            // An empty one is told, too: its name may be wrong.
            DeValue::Table(inner) if !inner.is_empty() => read_table(file, &path, inner, all),
            _ => all.push(Assignment {
                path,
                raw: read_value(value),
                origin: file.origin(key.span().start),
            }),
        }
    }
}

fn read_value(value: &Spanned<DeValue<'_>>) -> Raw {
    match value.get_ref() {
        DeValue::String(text) => Raw::String(text.to_string()),
        DeValue::Boolean(truth) => Raw::Boolean(*truth),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or(Raw::Other("integer beyond 64 bits"), Raw::Integer),
        other => Raw::Other(other.type_str()),
    }
}

fn read_variable((name, value): &(String, String)) -> Option<Assignment> {
    let rest = name.strip_prefix(VARIABLE_PREFIX)?;
    if !rest.contains(SEPARATOR) {
        return None;
    }
    Some(Assignment {
        path: rest.to_lowercase().replace(SEPARATOR, "."),
        raw: Raw::Text(value.clone()),
        origin: Origin::Variable(name.clone()),
    })
}
