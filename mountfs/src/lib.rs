//! The mountable backup and its command line, thin over `common`.
//!
//! | room | what |
//! | --- | --- |
//! | [`print`](mod@print) | lines for the operator |
//! | [`tree`] | what there is in a mount: names, inodes, attributes, bytes |
//! | [`fuse`] | the same as the kernel asks for it |
//! | [`mount`] | a backup that is mounted |
//! | [`restore`] | a version written to a file, and the node that it is for |
//! | [`demo`] | a recorded trace played by a pretended `lightningd` |
//! | [`cli`] | a file per command |
//!
//! A room uses rooms above it in this table only.

pub mod cli;
pub mod demo;
pub mod fuse;
pub mod mount;
pub mod print;
pub mod restore;
pub mod tree;
