//! [`RunningNode`]: a `lightningd` that has the directory in use into which a database is to be restored.
//!
//! `lightningd` holds a POSIX lock on its file `lightningd-<network>.pid`, in the directory above that of the network
//! (`pidfile_create` in its `lightningd/pidfile.c`), and listens on the socket `lightning-rpc` in that of the network
//! (`lightningd/jsonrpc.c`). Either can be configured to be elsewhere, so both are looked at. A file that is left of a
//! node that died is no sign: its lock is gone, and nobody listens.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::process::{Flock, FlockType, fcntl_getlk};

const SOCKET: &str = "lightning-rpc";

/// A node that runs, and how that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunningNode {
    /// It holds the lock of its pid file.
    Locks {
        /// The pid file.
        pid_file: PathBuf,
        /// The process, as far as it can be seen from here.
        process: Option<i32>,
    },
    /// It listens on its socket.
    Listens {
        /// The socket.
        socket: PathBuf,
    },
}

impl RunningNode {
    /// Looks for one that uses this directory, which has no links in it.
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
        // Those of other networks do not use this directory.
        if let (Some(above), Some(network)) = (directory.parent(), directory.file_name()) {
            let pid_file = above.join(format!("lightningd-{}.pid", network.to_string_lossy()));
            if let Some(found) = Self::holding(&pid_file)? {
                return Ok(Some(found));
            }
        }
        let socket = directory.join(SOCKET);
        Ok(UnixStream::connect(&socket).is_ok().then_some(Self::Listens { socket }))
    }

    /// Whoever holds the lock of a pid file; `None` also where that may not be looked at: only its owner restores.
    fn holding(pid_file: &Path) -> io::Result<Option<Self>> {
        let Ok(file) = File::open(pid_file) else { return Ok(None) };
        let found = fcntl_getlk(&file, &Flock::from(FlockType::WriteLock))?;
        Ok(found.map(|lock| Self::Locks {
            pid_file: pid_file.to_owned(),
            process: lock.pid.map(|pid| pid.as_raw_nonzero().get()),
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
            Self::Listens { socket } => write!(f, "lightningd is running (it listens on {})", socket.display()),
        }
    }
}
