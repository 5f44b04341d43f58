//! Analysis of SQL statements: which literals may become parameters, and how they are distinguished.

#[cfg(any(test, feature = "generate"))]
pub mod generated;
pub mod lexed;
mod lexer;
pub mod parameters;
