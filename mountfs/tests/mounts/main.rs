//! The tree, the mount and the command line, against real backups. One program, so that tests which wait leave the machine to
//! others.

#![expect(clippy::unwrap_used, reason = "a step that fails here is a failed test")]

mod fixture;

mod cli;
mod fs;
mod prefill;
mod replaced;
mod sealed;
mod serving;
