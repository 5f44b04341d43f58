//! The spool: a directory on the node's own machine for changes while the backup is out of reach.
//!
//! A spool is a directory of logs, written by the same code as those of a backup. Its first record continues the checksum chain
//! behind the last acknowledged record of the backup, so every record has the same bytes here as later in the backup, and
//! [`Drain`] only appends what the backup lacks. A header file has what a recorder needs to know when it finds the spool while
//! the backup is out of reach.
//!
//! Invariant, at every moment and after any crash: the records of the backup, followed by those of the spool that the backup
//! lacks, form one chain, and every acknowledged record is durable in one of the two.
//!
//! [`durability`](crate::durability) describes every step. The marker in the lightning-dir distinguishes an empty spool from one
//! whose disk is not mounted: see `marker`.
//!
//! While a spool exists, only its records are written to the backup: so it can be emptied safely.

mod contents;
mod drain;
mod held;
mod marker;
mod note;

use std::io;
use std::path::{Path, PathBuf};

use uuid::Uuid;

pub use contents::SpooledChanges;
pub(crate) use contents::{SpoolContents, logs as spool_logs};
pub use drain::{Drain, DrainError, DrainPlan};
pub(crate) use held::{HeldSpool, clear as clear_spool, spool_directory};
pub use marker::SpoolMarker;
pub use note::{BehindSpool, SpoolNote, SpoolStatus};
pub(crate) use note::{SpoolNoteError, this_host};

use crate::log::{AppendError, RecoverError};
use crate::storage::StorageError;
use crate::storage::read_error::ReadError;
use format::units::counted;

/// The reason why changes cannot be spooled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpoolError {
    /// The directory cannot be created.
    #[error("cannot make the spool directory {path}", path = .path.display())]
    Make {
        /// The directory.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// Another recorder has the lock of the spool.
    #[error("the spool {path} is locked: another recorder of the same backup is writing to it; stop the other lightningd", path = .path.display())]
    Locked {
        /// Path of the spool.
        path: PathBuf,
    },
    /// The spool has changes of an earlier run.
    #[error("the spool {path} holds changes already; start lightningd again, and they are drained first", path = .path.display())]
    NotEmpty {
        /// Path of the spool.
        path: PathBuf,
    },
    /// The spool belongs to another backup.
    #[error("{path} is the spool of backup {found}; give each node a spool of its own", path = .path.display())]
    Foreign {
        /// Path of the spool.
        path: PathBuf,
        /// UUID of that backup.
        found: Uuid,
    },
    /// A spool with changes is missing.
    #[error(
        "the newest changes are in the spool {path} only, and that is not there: its disk is not mounted, or it was moved, \
         emptied or replaced. Bring it back as it was, then start lightningd: nothing is lost. Only if it is lost for good, and the \
         database of this node is the one that lightningd ran on last and not a restored one, remove {marker}: what was in \
         the spool is then missing from the backup, and a snapshot closes the gap",
        path = .path.display(), marker = .marker.display()
    )]
    NotThere {
        /// Path of the spool.
        path: PathBuf,
        /// Path of the marker.
        marker: PathBuf,
    },
    /// A spool that `backup.lock` does not name has changes.
    #[error(
        "the spool {path}, which backup.lock does not name, holds {} that the backup does not have; put \"on_unreachable\": \
         {{\"spool\": …}} back into backup.lock for one start of the node, and the spool is drained",
        counted(*.changes, "change"), path = .path.display()
    )]
    Forgotten {
        /// Path of the spool.
        path: PathBuf,
        /// Number of changes in it.
        changes: u64,
    },
    /// The marker beside `backup.lock` cannot be read, written or removed.
    #[error(
        "the file backup.spool, beside backup.lock, says whether there are changes in a spool, and it cannot be read or written"
    )]
    Marker(#[source] StorageError),
    /// The marker is not valid.
    #[error(
        "{path} is not usable ({reason}): it says where changes are that the backup does not have; if it was edited, put it \
         right; remove it only if there are none", path = .path.display()
    )]
    BadMarker {
        /// Path of the marker.
        path: PathBuf,
        /// The reason, for the operator.
        reason: String,
    },
    /// The spool cannot be read.
    #[error("the spool cannot be read; what is in it may be the newest there is, so keep it")]
    Read(#[from] ReadError),
    /// The log of the spool cannot be recovered.
    #[error(transparent)]
    Recover(#[from] RecoverError),
    /// A call failed.
    #[error("the spool cannot be written")]
    Storage(#[from] StorageError),
    /// A record cannot be appended.
    #[error("the spool cannot be written")]
    Append(#[from] AppendError),
}

/// Path of the spool of a backup.
pub(crate) fn spool_path(root: &Path, uuid: Uuid) -> PathBuf {
    root.join(uuid.to_string())
}

#[cfg(test)]
mod tests;
