//! The real `backup-recorder`, talked to as `lightningd` talks to it.

#![allow(clippy::unwrap_used, reason = "in a test, what is unexpected is a failure")]

mod ending;
mod handshake;
mod node;
mod recorder_process;
mod refusals;
mod status;
