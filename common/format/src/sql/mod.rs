//! Statements taken apart: which of their literals may become parameters, and how those are told from each other.

#[cfg(any(test, feature = "generate"))]
pub mod generated;
pub mod lexed;
mod lexer;
pub mod parameters;
