//! From the process's arguments to a command, with a suggestion where one is misspelt.
//!
//! argh does the parsing; here is what it lacks: `--flag=value`, suggestions, and exit codes.

use std::ffi::OsString;

use argh::{EarlyExit, FromArgs, TopLevelCommand};

/// The exit code of a wrong command line.
pub const EXIT_USAGE: u8 = 2;
/// Below this likeness (0 to 1) a suggestion would only puzzle.
const LIKENESS_MIN: f64 = 0.6;
/// What Rust says of a number that is none.
const NO_NUMBER: &str = "invalid digit found in string";
/// What argh says before what it does not know.
const UNRECOGNIZED: &str = "Unrecognized argument: ";

/// Why there is no command to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Help was asked for: print it to standard output, exit with 0.
    Help(String),
    /// The arguments are wrong: print this line to standard error, exit with [`EXIT_USAGE`].
    Usage(String),
}

/// Reads a command of the program `name` from its arguments (without the program's own name).
///
/// # Errors
/// [`Stop`].
pub fn parse<T: TopLevelCommand>(
    name: &str,
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<T, Stop> {
    let arguments = arguments
        .into_iter()
        .map(|argument| {
            argument.into_string().map_err(|bad| {
                Stop::Usage(format!("{name}: argument {} is not UTF-8", bad.display()))
            })
        })
        .collect::<Result<Vec<String>, Stop>>()?;
    let arguments = split_values(arguments);
    let borrowed: Vec<&str> = arguments.iter().map(String::as_str).collect();
    T::from_args(&[name], &borrowed).map_err(|exit| stop::<T>(name, &borrowed, &exit))
}

/// `-f`.
fn is_short(flag: &str) -> bool {
    matches!(flag.as_bytes(), [b'-', letter] if letter.is_ascii_alphabetic())
}

/// `--flag=value` and `-f=value` as two arguments, and `-h` as it is known; what follows a lone `--` stays as it is.
fn split_values(arguments: Vec<String>) -> Vec<String> {
    let mut literal = false;
    let mut split = Vec::with_capacity(arguments.len());
    for argument in arguments {
        literal |= argument == "--";
        match argument.split_once('=') {
            Some((flag, value)) if !literal && (flag.starts_with("--") || is_short(flag)) => {
                split.extend([flag.to_owned(), value.to_owned()]);
            }
            _ if !literal && argument == "-h" => split.push("--help".to_owned()),
            _ => split.push(argument),
        }
    }
    split
}

fn stop<T: FromArgs>(name: &str, arguments: &[&str], exit: &EarlyExit) -> Stop {
    if exit.status.is_ok() {
        return Stop::Help(exit.output.clone());
    }
    let words = arguments
        .iter()
        .take_while(|argument| !argument.starts_with('-'))
        .copied();
    let path = command_path::<T>(name, words);
    let command = [&[name], path.as_slice()].concat().join(" ");
    let said = exit.output.trim_end();
    let Some(wrong) = said.strip_prefix(UNRECOGNIZED) else {
        // argh's lists come over several lines; an error of ours is one.
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        let said = said.replace(NO_NUMBER, "expected a whole number");
        return Stop::Usage(format!("{command}: {said}; see `{command} --help`"));
    };
    let kind = if wrong.starts_with('-') {
        "flag"
    } else {
        "argument"
    };
    let remedy = match closest(wrong, &known_words(&help::<T>(name, &path))) {
        Some(known) => format!("did you mean {known}?"),
        None => format!("see `{command} --help`"),
    };
    Stop::Usage(format!("{command}: unknown {kind} {wrong}; {remedy}"))
}

/// The longest start of the words that is a command.
fn command_path<'a, T: FromArgs>(name: &str, words: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut path = Vec::new();
    for word in words {
        // A command is one that the help of the command before it lists.
        if !known_words(&help::<T>(name, &path))
            .iter()
            .any(|known| known == word)
        {
            break;
        }
        path.push(word);
    }
    path
}

fn help<T: FromArgs>(name: &str, path: &[&str]) -> String {
    let arguments = [path, &["--help"]].concat();
    match T::from_args(&[name], &arguments) {
        Err(EarlyExit {
            output,
            status: Ok(()),
        }) => output,
        _ => String::new(),
    }
}

/// The flags and commands that a help text lists: the first word of each indented line.
fn known_words(help: &str) -> Vec<String> {
    let listed = help
        .lines()
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let words = listed.flat_map(|line| {
        line.trim_start()
            .split("  ")
            .next()
            .unwrap_or_default()
            .split(", ")
            .filter(|word| !word.contains(' ') && word.len() > 2)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    });
    words.collect()
}

/// The known word most like `word`, if any is like it at all.
pub fn closest(word: &str, known: &[String]) -> Option<String> {
    known
        .iter()
        .map(|candidate| {
            (
                strsim::normalized_damerau_levenshtein(word, candidate),
                candidate,
            )
        })
        .filter(|(likeness, _)| *likeness >= LIKENESS_MIN)
        .max_by(|left, right| left.0.total_cmp(&right.0))
        .map(|(_, candidate)| candidate.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// a test
    #[derive(FromArgs, Debug, PartialEq)]
    struct Top {
        #[argh(subcommand)]
        noun: Noun,
    }

    #[derive(FromArgs, Debug, PartialEq)]
    #[argh(subcommand)]
    enum Noun {
        Topic(Topic),
        Version(Version),
    }

    /// topics
    #[derive(FromArgs, Debug, PartialEq)]
    #[argh(subcommand, name = "topic")]
    struct Topic {
        #[argh(subcommand)]
        verb: Verb,
    }

    #[derive(FromArgs, Debug, PartialEq)]
    #[argh(subcommand)]
    enum Verb {
        Create(Create),
    }

    /// create one
    #[derive(FromArgs, Debug, PartialEq)]
    #[argh(subcommand, name = "create")]
    struct Create {
        /// its name
        #[argh(positional)]
        name: String,
        /// how many
        #[argh(option, short = 'p', default = "1")]
        partitions: i32,
        /// settings
        #[argh(option)]
        config: Vec<String>,
    }

    /// the version
    #[derive(FromArgs, Debug, PartialEq)]
    #[argh(subcommand, name = "version")]
    struct Version {}

    fn parsed(line: &str) -> Result<Top, Stop> {
        parse("streambus", line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn a_value_may_follow_an_equals_sign() {
        // Proves: both forms mean the same, and only the first `=` separates.
        let wanted = parsed("topic create t --partitions 3 --config a=b=c");
        assert!(wanted.is_ok());
        assert_eq!(
            parsed("topic create t --partitions=3 --config=a=b=c"),
            wanted
        );
        assert_eq!(parsed("topic create t -p=3 --config=a=b=c"), wanted);
    }

    #[test]
    fn a_negative_value_is_a_value() {
        // Proves: a minus does not make a value a flag.
        let top = parsed("topic create t --partitions=-1").unwrap();
        let Noun::Topic(Topic {
            verb: Verb::Create(create),
        }) = top.noun
        else {
            panic!("create")
        };
        assert_eq!(create.partitions, -1);
    }

    #[test]
    fn wrong_words_get_a_suggestion() {
        // Proves: each misspelling names the command it stands in and the likely word (golden).
        for (line, wanted) in [
            (
                "topc create t",
                "streambus: unknown argument topc; did you mean topic?",
            ),
            (
                "topic crate t",
                "streambus topic: unknown argument crate; did you mean create?",
            ),
            (
                "topic create t --partition 3",
                "streambus topic create: unknown flag --partition; did you mean --partitions?",
            ),
            (
                "topic create t --zzz",
                "streambus topic create: unknown flag --zzz; see `streambus topic create --help`",
            ),
        ] {
            assert_eq!(parsed(line), Err(Stop::Usage(wanted.to_owned())), "{line}");
        }
    }

    #[test]
    fn a_wrong_value_is_one_line() {
        // Proves: what argh says over several lines fits one, with where to read on.
        for line in [
            "topic create t --partitions many",
            "topic create",
            "topic",
            "",
        ] {
            let Err(Stop::Usage(text)) = parsed(line) else {
                panic!("{line} is wrong")
            };
            assert!(!text.contains('\n') && text.ends_with("--help`"), "{text}");
            assert!(!text.contains("digit"), "{text}");
        }
    }

    #[test]
    fn help_is_not_an_error() {
        // Proves: help of any command can be told from a mistake.
        for line in [
            "--help",
            "-h",
            "topic --help",
            "topic -h",
            "topic create --help",
            "topic create t -h",
        ] {
            assert!(matches!(parsed(line), Err(Stop::Help(_))), "{line}");
        }
    }

    #[test]
    fn arguments_that_are_not_text_are_refused() {
        // Proves: a stray byte is an error, not a panic.
        use std::os::unix::ffi::OsStringExt;
        let bad = OsString::from_vec(vec![b'a', 0xff]);
        assert!(matches!(
            parse::<Top>("streambus", [bad]),
            Err(Stop::Usage(_))
        ));
    }
}
