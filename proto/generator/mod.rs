//! From the message tables to Rust: [`table`] reads them, [`emit`] writes code.

pub(crate) mod emit;
pub(crate) mod table;
