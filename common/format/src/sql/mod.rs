//! Analysis of SQL statements: which literals may become parameters, and how they are distinguished.

#[cfg(test)]
pub mod generated;
pub mod lexed;
mod lexer;
pub mod parameters;
