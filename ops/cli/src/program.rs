//! The name by which this program was called: what a command that is to be typed begins with.

use std::ffi::OsString;

/// The name when the process does not know it.
const NAME: &str = "streambus";

/// This program as it was called: a name on the PATH, or the path that was typed.
pub fn program() -> String {
    called(std::env::args_os().next())
}

fn called(first: Option<OsString>) -> String {
    let first = first.and_then(|first| first.into_string().ok());
    match first {
        Some(first) if !first.is_empty() && first.contains(char::is_whitespace) => {
            format!("'{first}'")
        }
        Some(first) if !first.is_empty() => first,
        _ => NAME.to_owned(),
    }
}

/// A text for people, with the commands in it (`streambus VERB` between backticks) as they can be typed here.
pub fn as_called(text: &str) -> String {
    under(text, &program())
}

fn under(text: &str, program: &str) -> String {
    text.replace("`streambus ", &format!("`{program} "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_shown_as_they_can_be_typed() {
        // Proves: what is called by a path is shown by it, and the name alone only where it is known to work.
        for (first, expected) in [
            (Some("streambus"), "streambus"),
            (
                Some("./target/release/streambus"),
                "./target/release/streambus",
            ),
            (Some("my tools/streambus"), "'my tools/streambus'"),
            (Some(""), "streambus"),
            (None, "streambus"),
        ] {
            assert_eq!(called(first.map(OsString::from)), expected);
        }
        let text = "streambus: no topic; `streambus topic list` shows all";
        let expected = "streambus: no topic; `./streambus topic list` shows all";
        assert_eq!(under(text, "./streambus"), expected);
    }
}
