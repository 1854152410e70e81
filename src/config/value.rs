//! How one setting is written, read and bounded, whatever its source.

use std::{
    fmt::{Display, Write},
    ops::RangeInclusive,
};

/// What a source says a setting is, before it is known which type it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Raw {
    /// A variable's or a flag's text: it may stand for any type.
    Text(String),
    /// A TOML string: refused where a number or a boolean is wanted, so a quoted port is noticed.
    String(String),
    /// A TOML integer.
    Integer(i64),
    /// A TOML boolean.
    Boolean(bool),
    /// Any other TOML type, by its name.
    Other(&'static str),
}

impl Raw {
    /// A table that sets nothing.
    pub(super) const EMPTY_TABLE: Raw = Raw::Other("table");
}

impl Display for Raw {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text(text) => write!(out, "{text}"),
            Self::String(text) => write!(out, "{text:?}"),
            Self::Integer(number) => write!(out, "{number}"),
            Self::Boolean(truth) => write!(out, "{truth}"),
            Self::Other(kind) => write!(out, "of type {kind}"),
        }
    }
}

/// A type that a setting can have.
pub(super) trait Setting: Sized {
    /// What the type wants, as a noun phrase for the error.
    const WANTS: &'static str;

    /// Reads a value, or `None` where `raw` is not one of this type at all.
    fn read(raw: &Raw) -> Option<Self>;

    /// The value as it is written in `streambus.toml`; `None` for an optional one that is absent.
    fn toml(&self) -> Option<String>;
}

/// What keeps a setting within reason.
pub(super) trait Bound<T> {
    /// Whether the value may be used.
    fn holds(&self, value: &T) -> bool;

    /// The bound in words, empty where the type alone says it.
    fn words(&self) -> String;
}

impl<T: PartialOrd + Display> Bound<T> for RangeInclusive<T> {
    fn holds(&self, value: &T) -> bool {
        self.contains(value)
    }

    fn words(&self) -> String {
        format!("from {} to {}", self.start(), self.end())
    }
}

/// The bound of a switch or of a name among a few: its type leaves no room for more.
pub(super) struct Closed;

impl<T> Bound<T> for Closed {
    fn holds(&self, _value: &T) -> bool {
        true
    }

    fn words(&self) -> String {
        String::new()
    }
}

/// The bound of free text: its longest length in bytes, never empty, no control characters.
pub(super) struct TextLength(pub(super) usize);

impl TextLength {
    fn text_holds(&self, text: &str) -> bool {
        !text.is_empty() && text.len() <= self.0 && !text.chars().any(char::is_control)
    }
}

impl Bound<String> for TextLength {
    fn holds(&self, value: &String) -> bool {
        self.text_holds(value)
    }

    fn words(&self) -> String {
        format!("of 1 to {} bytes without control characters", self.0)
    }
}

impl Bound<Option<String>> for TextLength {
    fn holds(&self, value: &Option<String>) -> bool {
        value.as_deref().is_none_or(|text| self.text_holds(text))
    }

    fn words(&self) -> String {
        Bound::<String>::words(self)
    }
}

/// A bound on a value that may be absent.
pub(super) struct IfSet<B>(pub(super) B);

impl<T, B: Bound<T>> Bound<Option<T>> for IfSet<B> {
    fn holds(&self, value: &Option<T>) -> bool {
        value.as_ref().is_none_or(|value| self.0.holds(value))
    }

    fn words(&self) -> String {
        self.0.words()
    }
}

macro_rules! integers {
    ($($type:ty)+) => {$(
        impl Setting for $type {
            const WANTS: &'static str = "a whole number";

            fn read(raw: &Raw) -> Option<Self> {
                match raw {
                    // TOML lets digits be grouped by `_`; so may variables and flags.
                    Raw::Text(text) => text.trim().replace('_', "").parse().ok(),
                    Raw::Integer(number) => Self::try_from(*number).ok(),
                    Raw::String(_) | Raw::Boolean(_) | Raw::Other(_) => None,
                }
            }

            fn toml(&self) -> Option<String> {
                Some(self.to_string())
            }
        }
    )+};
}

integers!(i32 i64 u16 u32 u64 usize);

impl Setting for bool {
    const WANTS: &'static str = "true or false";

    fn read(raw: &Raw) -> Option<Self> {
        match raw {
            Raw::Text(text) => text.trim().parse().ok(),
            Raw::Boolean(truth) => Some(*truth),
            Raw::String(_) | Raw::Integer(_) | Raw::Other(_) => None,
        }
    }

    fn toml(&self) -> Option<String> {
        Some(self.to_string())
    }
}

impl Setting for String {
    const WANTS: &'static str = "a text";

    fn read(raw: &Raw) -> Option<Self> {
        match raw {
            Raw::Text(text) | Raw::String(text) => Some(text.clone()),
            Raw::Integer(_) | Raw::Boolean(_) | Raw::Other(_) => None,
        }
    }

    fn toml(&self) -> Option<String> {
        Some(quoted(self))
    }
}

impl<T: Setting> Setting for Option<T> {
    const WANTS: &'static str = T::WANTS;

    fn read(raw: &Raw) -> Option<Self> {
        T::read(raw).map(Some)
    }

    fn toml(&self) -> Option<String> {
        self.as_ref().and_then(T::toml)
    }
}

/// Text as a TOML basic string.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for letter in text.chars() {
        match letter {
            '"' | '\\' => out.extend(['\\', letter]),
            letter if letter.is_control() => {
                let _ = write!(out, "\\u{:04X}", u32::from(letter));
            }
            letter => out.push(letter),
        }
    }
    out.push('"');
    out
}

/// Declares a setting that is one of a few names.
macro_rules! choice {
    ($(#[$meta:meta])* pub enum $name:ident { $($(#[$arm_meta:meta])* $arm:ident = $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Copy, Clone, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$arm_meta])* $arm,)+ }

        impl $name {
            /// The name as it is written in settings.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$arm => $text,)+ }
            }
        }

        impl $crate::config::value::Setting for $name {
            const WANTS: &'static str = concat!("one of", $(" ", $text,)+);

            fn read(raw: &$crate::config::value::Raw) -> Option<Self> {
                use $crate::config::value::Raw;
                match raw {
                    Raw::Text(text) | Raw::String(text) => match text.as_str() {
                        $($text => Some(Self::$arm),)+
                        _ => None,
                    },
                    Raw::Integer(_) | Raw::Boolean(_) | Raw::Other(_) => None,
                }
            }

            fn toml(&self) -> Option<String> {
                Some(format!("{:?}", self.as_str()))
            }
        }
    };
}
pub(super) use choice;
