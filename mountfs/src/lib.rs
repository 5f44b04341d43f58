//! The mountable backup and its command line, thin over `common`.
//!
//! The mount, from the names down to the kernel:
//! * [`tree`] – what there is, what it is called, which inode it has; [`calendar`] – the same for `by-time`
//! * [`fs`] – lookup, attributes, open and read over a backup; [`attr`] – what `stat` tells; [`listing`] – directories;
//!   [`by_time`] – order of the clock; [`content`] – the small files; [`shapes`] – how big versions are;
//!   [`open_files`] – what is open; [`fs_error`] – why not; [`error_log`] – every failure once
//! * [`shown`] – the tree that is shown, and when it becomes another one; [`kernel_inode`] – which inodes the kernel has for it
//! * [`fuse`] – translates for the kernel; [`errno`] – errors to numbers; [`workers`] – who answers what takes long
//! * [`prefill`], [`read_ahead`] – what makes the kernel ask less often and for more at once
//! * [`mount`] – a backup that is mounted; [`kernel_mount`] – how; [`mountpoint`] – where; [`mount_rights`] – why not;
//!   [`process`] – what it asks of the system; [`follow`] – keeps it up to date; [`newest_view`] – keeps its newest version open
//!
//! Beside it: [`restore`] writes a version to a file, [`lightning_dir`] and [`running_node`] look at a node before, [`cli`] has a
//! file per command, [`demo`] shows it all; [`speak`] prints, [`logging`] logs, [`log_queue`] without making anybody wait.

pub mod attr;
pub mod by_time;
pub mod calendar;
pub mod cli;
pub mod content;
pub mod demo;
pub mod errno;
pub mod error_log;
pub mod follow;
pub mod fs;
pub mod fs_error;
pub mod fuse;
pub mod kernel_inode;
pub mod kernel_mount;
pub mod lightning_dir;
pub mod lightning_rpc;
pub mod listing;
pub mod log_queue;
pub mod logging;
pub mod mount;
pub mod mount_rights;
pub mod mountpoint;
pub mod newest_view;
pub mod open_files;
pub mod prefill;
pub mod process;
pub mod read_ahead;
pub mod readme_text;
pub mod restore;
pub mod running_node;
pub mod shapes;
pub mod shown;
pub mod speak;
pub mod tree;
pub mod workers;
