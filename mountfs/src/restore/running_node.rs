//! [`RunningNode`]: finds a `lightningd` that uses a directory.
//!
//! `lightningd` holds a POSIX lock on its file `lightningd-<network>.pid`, in the directory above that of the network
//! (`pidfile_create` in its `lightningd/pidfile.c`), and listens on the socket `lightning-rpc` in that of the network
//! (`lightningd/jsonrpc.c`). Either can be configured to be elsewhere, so both are checked. A file left by a node that
//! died is no sign: its lock is gone, and no process listens.
//!
//! A database outside of the directory (`--wallet=sqlite3://…`) has none of this beside it. For it `/proc` shows which process
//! has it open, if that is of the same user and machine.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use common::open_regular_file;
use rustix::process::{Flock, FlockType, fcntl_getlk};

use crate::restore::lightning_rpc::{LightningRpc, SOCKET};

/// The name of a node's process.
const LIGHTNINGD: &str = "lightningd";

/// A running node, by the way it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunningNode {
    /// The node has its pid file locked.
    Locks {
        /// The pid file.
        pid_file: PathBuf,
        /// The process id, if it is visible from here.
        process: Option<i32>,
    },
    /// The node listens on its socket.
    Listens {
        /// The socket.
        socket: PathBuf,
    },
    /// A process, the node or another one, has the database open.
    HasOpen {
        /// The database.
        database: PathBuf,
        /// The process id.
        process: i32,
    },
}

impl RunningNode {
    /// Finds a node that uses this directory, whose path has no links in it.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn find(directory: &Path) -> io::Result<Option<Self>> {
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            if network_of(&path).is_some()
                && let Some(found) = Self::holding(&path)?
            {
                return Ok(Some(found));
            }
        }
        // The pid files of other networks are of nodes that do not use this directory.
        if let (Some(above), Some(network)) = (directory.parent(), directory.file_name()) {
            let pid_file = above.join(format!("lightningd-{}.pid", network.to_string_lossy()));
            if let Some(found) = Self::holding(&pid_file)? {
                return Ok(Some(found));
            }
        }
        let listens = LightningRpc::connect(directory).is_ok();
        Ok(listens.then(|| Self::Listens { socket: directory.join(SOCKET) }))
    }

    /// A process that has this file open, preferably a `lightningd`; `None` also where that is not visible.
    pub fn with_open(database: &Path) -> Option<Self> {
        let (wanted, real) = (fs::metadata(database).ok()?, database.canonicalize().ok()?);
        let is_it = |descriptor: PathBuf| {
            // Files of other names are not examined: a network file system that hangs would never answer.
            fs::read_link(&descriptor).is_ok_and(|path| path.file_name() == real.file_name())
                && fs::metadata(&descriptor).is_ok_and(|it| (it.dev(), it.ino()) == (wanted.dev(), wanted.ino()))
        };
        let processes = fs::read_dir("/proc").ok()?.flatten().map(|entry| entry.path());
        let numbered = processes.filter_map(|path| Some((path.file_name()?.to_str()?.parse().ok()?, path)));
        let found = numbered.filter(|(_, path): &(i32, PathBuf)| {
            fs::read_dir(path.join("fd")).is_ok_and(|open| open.flatten().any(|entry| is_it(entry.path())))
        });
        let found = found.map(|(process, _)| Self::HasOpen { database: database.to_owned(), process });
        found.max_by_key(Self::is_lightningd)
    }

    /// Whether it is `lightningd`, and not another program that has the database open.
    pub fn is_lightningd(&self) -> bool {
        match self {
            Self::Locks { .. } | Self::Listens { .. } => true,
            Self::HasOpen { process, .. } => {
                fs::read_to_string(format!("/proc/{process}/comm")).is_ok_and(|name| name.trim_end() == LIGHTNINGD)
            }
        }
    }

    /// The process that has a pid file locked; `None` also without permission to read it: only its owner restores.
    fn holding(pid_file: &Path) -> io::Result<Option<Self>> {
        let Ok(file) = open_regular_file(pid_file) else { return Ok(None) };
        let found = fcntl_getlk(&file, &Flock::from(FlockType::WriteLock))?;
        Ok(found.map(|lock| Self::Locks {
            pid_file: pid_file.to_owned(),
            // Negative for a process on another machine, or for a lock that is of no process.
            process: lock.pid.map(|pid| pid.as_raw_nonzero().get()).filter(|&process| process > 0),
        }))
    }
}

/// `bitcoin` of `lightningd-bitcoin.pid`.
fn network_of(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()?.strip_prefix("lightningd-")?.strip_suffix(".pid")
}

impl fmt::Display for RunningNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Locks { pid_file, process: Some(process) } => {
                write!(f, "lightningd is running (process {process} holds {})", pid_file.display())
            }
            Self::Locks { pid_file, process: None } => {
                write!(f, "lightningd is running (it holds {})", pid_file.display())
            }
            Self::HasOpen { database, process } => write!(f, "process {process} has {} open", database.display()),
            Self::Listens { socket } => write!(f, "lightningd is running (it listens on {})", socket.display()),
        }
    }
}
