//! The status of a backup, shared by recorder and command line.

pub(crate) mod fields;
pub(crate) mod offsite;
pub mod ship_words;
