//! The off-site copy of a backup: encrypted objects in a store, shipped continuously and read from there.
//!
//! * [`seal`]: the framing of an object: encrypted chunks behind a header, opened one by one;
//! * [`keys`]: the keys of a copy, what they are wrapped by, and how they are unlocked;
//! * [`store`]: where objects are: a directory, an SFTP server, or an S3-compatible bucket. Objects are whole, at most
//!   16 MiB, and written once.

#![cfg_attr(not(test), deny(unsafe_code))]

mod crypto;
mod hex;
pub mod keys;
pub mod seal;
pub mod store;
