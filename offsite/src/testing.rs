//! Servers for tests and benchmarks, of this crate and of others (feature `testing`): [`FaultyServer`] speaks as much of S3 as a
//! copy needs, keeps everything in memory, counts, and fails in every way that it is told to; [`Sshd`] is a real OpenSSH server.

mod faulty_server;
mod http;
mod link;
mod signature;
mod sshd;
mod trouble;

pub use faulty_server::{FaultyServer, Stored};
pub use sshd::{Access, Sshd};
pub use trouble::{Conditions, Counts, Kind, Ranges, Seen, Trouble};
