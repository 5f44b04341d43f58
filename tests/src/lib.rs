//! What the end-to-end tests share: the real programs, recorded traces, an independent replay to compare with, and a
//! small node of our own.
//!
//! * [`binaries`]: the `backup-recorder` and `backupfs` under test.
//! * [`cli`] and [`mounted`]: running `backupfs` once, and keeping a mount.
//! * [`home`] and [`listing`]: a node's directory with its backup, and what `backupfs versions` says of it.
//! * [`traces`] and [`schedule`]: recorded traces, and what became of each write in them.
//! * [`play`]: a trace played to a real recorder as it happened; [`runs`]: what happens between its writes.
//! * [`python_file`]: files as the Python plugin `backup` writes them; [`python_node`]: a node that has it.
//! * [`recorded_trace`]: the beginning of a trace in a backup, at once.
//! * [`mod@reference`]: the same trace in a plain SQLite file, without any of our code.
//! * [`compare`]: whether two databases have the same contents.
//! * [`wait`]: for what another process is about to do.
//! * [`witness`]: keys, `emergency.recover` and channels of a node.
//! * [`fault_fs`]: a file system that fails on request; [`faulty_node`]: a small node whose backup lies on it.
//! * [`fuzz`]: fuzz targets that need files, SQLite or zstd.
//! * [`footprint`]: memory and descriptors of a process.
//! * [`guard`]: a test that hangs is stopped, and named.
//! * [`skip`]: what is said when a test cannot be run here.
//! * [`small_node`]: a node with statements made up here, for faults and models.

pub mod binaries;
pub mod cli;
pub mod compare;
pub mod fault_fs;
pub mod faulty_node;
pub mod footprint;
pub mod fuzz;
pub mod guard;
pub mod home;
pub mod listing;
pub mod mounted;
pub mod play;
pub mod python_file;
pub mod python_node;
pub mod recorded_trace;
pub mod reference;
pub mod runs;
pub mod schedule;
pub mod skip;
pub mod small_node;
pub mod tiny_disk;
pub mod traces;
pub mod wait;
pub mod witness;
