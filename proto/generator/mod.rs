//! From the message tables to Rust: [`table`] reads them, [`emit`] writes code, of which [`decode`] and [`encode`]
//! write what reads a struct and what writes it.

mod decode;
pub(crate) mod emit;
mod encode;
pub(crate) mod table;
