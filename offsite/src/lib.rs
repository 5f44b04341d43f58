//! The off-site copy of a backup: encrypted objects in a store, shipped continuously and read from there.
//!
//! * [`store`]: where objects are: a directory, an SFTP server, or an S3-compatible bucket. Objects are whole, at most
//!   16 MiB, and written once.

#![cfg_attr(not(test), deny(unsafe_code))]

pub mod store;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
