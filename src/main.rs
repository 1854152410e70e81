//! The one binary: broker and command line.

fn main() {}
