//! The command line: nouns, verbs, output formats.
