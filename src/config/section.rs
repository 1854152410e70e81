//! A section of the settings: a plain struct whose fields are also known by name.

use super::value::Raw;

/// One setting as the user sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Its name within the section.
    pub(super) key: &'static str,
    /// What it means, one line or several.
    pub(super) doc: &'static str,
    /// The bound in words; empty where the type alone says it.
    pub(super) bound: String,
    /// Its value as TOML; `None` where it is optional and absent.
    pub(super) value: Option<String>,
}

/// Why a value was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The section has no such key.
    Unknown,
    /// The value isn't of the key's type or is outside its bound: what it should be, in words.
    Wants(String),
}

/// What every section can do by name; its struct's fields serve the code.
pub(super) trait Section {
    /// The keys in the order in which they are shown.
    const KEYS: &'static [&'static str];

    /// Sets one key.
    ///
    /// # Errors
    /// Says why the value is not usable; the section is as it was.
    fn set(&mut self, key: &str, raw: &Raw) -> Result<(), Refusal>;

    /// All settings with their values.
    fn entries(&self) -> Vec<Entry>;
}

/// Declares a section: fields with their documentation, type, default and bound.
macro_rules! section {
    (
        $(#[$meta:meta])*
        pub struct $name:ident {
            $($(#[doc = $doc:literal])+ $key:ident: $type:ty = $default:expr, in $bound:expr;)+
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $name { $($(#[doc = $doc])+ pub $key: $type,)+ }

        impl Default for $name {
            fn default() -> Self {
                Self { $($key: $default,)+ }
            }
        }

        impl $crate::config::section::Section for $name {
            const KEYS: &'static [&'static str] = &[$(stringify!($key),)+];

            fn set(
                &mut self,
                key: &str,
                raw: &$crate::config::value::Raw,
            ) -> Result<(), $crate::config::section::Refusal> {
                match key {
                    $(stringify!($key) => {
                        self.$key = $crate::config::section::read(raw, &$bound)?;
                        Ok(())
                    })+
                    _ => Err($crate::config::section::Refusal::Unknown),
                }
            }

            fn entries(&self) -> Vec<$crate::config::section::Entry> {
                vec![$($crate::config::section::entry(
                    stringify!($key),
                    concat!($($doc, "\n"),+).trim_end(),
                    &self.$key,
                    &$bound,
                ),)+]
            }
        }
    };
}
pub(super) use section;

use super::value::{Bound, Setting};

/// Reads and bounds one value.
pub(super) fn read<T: Setting>(raw: &Raw, bound: &impl Bound<T>) -> Result<T, Refusal> {
    match T::read(raw) {
        Some(value) if bound.holds(&value) => Ok(value),
        _ => {
            let words = bound.words();
            let space = if words.is_empty() { "" } else { " " };
            Err(Refusal::Wants(format!("{}{space}{words}", T::WANTS)))
        }
    }
}

/// Describes one value.
pub(super) fn entry<T: Setting>(
    key: &'static str,
    doc: &'static str,
    value: &T,
    bound: &impl Bound<T>,
) -> Entry {
    Entry {
        key,
        doc,
        bound: bound.words(),
        value: value.toml(),
    }
}
