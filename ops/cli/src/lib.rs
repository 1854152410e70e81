//! The command line: nouns, verbs, output formats.

#![forbid(unsafe_code)]
