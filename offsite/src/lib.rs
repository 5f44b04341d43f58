//! The off-site copy of a backup: encrypted objects in a store, shipped continuously and read from there.
//!
//! * [`seal`]: the framing of an object: encrypted chunks behind a header, opened one by one;
//! * [`keys`]: the keys of a copy, what they are wrapped by, and how they are unlocked;
//! * [`ship`]: everything that a backup has, and gets, is copied to a store; [`objects`] are named there, [`description`], [`catalog`]
//!   and [`log_bytes`] are what some of them hold;
//! * [`connect`]: what a store has, and how a copy is begun;
//! * [`copy`]: a copy, read as the directory of a backup; [`prune`]: old history removed from it;
//! * [`store`]: where objects are: a directory, an SFTP server, or an S3-compatible bucket. Objects are whole, at most
//!   16 MiB, and written once.

#![cfg_attr(not(test), deny(unsafe_code))]

pub mod catalog;
pub mod connect;
pub mod copy;
pub mod copy_error;
mod crypto;
pub mod description;
mod hex;
pub mod keys;
pub mod log_bytes;
#[cfg(test)]
mod memory_store;
pub mod objects;
pub mod prune;
pub mod seal;
pub mod ship;
#[cfg(test)]
mod small_backup;
pub mod store;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
