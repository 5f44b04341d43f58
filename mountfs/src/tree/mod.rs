//! What there is in a mount: names, inodes, attributes, and the bytes of files.
//!
//! [`node`] has the nodes with their names and inodes, [`calendar`] those of `by-time`; [`lookup`] finds names, [`fs`] opens and
//! reads; [`listing`] reads directories; [`content`] has the small files, [`size_cache`] how big versions are;
//! [`shown`] is the tree that is shown now, and [`kernel_inode`] which inodes the kernel has for it.

pub mod attr;
pub mod by_time;
pub mod calendar;
pub mod content;
pub mod error_log;
pub mod fs;
pub mod fs_error;
pub mod kernel_inode;
pub mod listing;
pub mod lookup;
pub mod node;
pub mod open_files;
pub mod prefill;
pub mod shown;
pub mod size_cache;
