//! The spool: where changes go, on the node's own machine, while the backup's place is out of reach.
//!
//! A spool is a directory of logs, written by the code that writes those of a backup. Its first record continues the chain
//! behind the last acknowledged record of the backup, so every record has the same bytes here as it is going to have
//! there, and [`Drain`] only appends what the backup does not have yet. A header file says what a recorder must know that
//! finds the spool and cannot reach the backup.
//!
//! What must hold at every moment, whatever crashes: the records of the backup and behind them those of the spool that the
//! backup does not have are one chain, and every acknowledged record is durable in one of the two.
//!
//! [`durability`](crate::durability) goes through the moments. The marker, in the lightning-dir, tells an empty spool from
//! one whose disk is not mounted: see `marker`.
//!
//! Nothing is written to the backup except what is in the spool until the spool is gone: that is what makes its emptying
//! safe.

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

/// Why nothing can be spooled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpoolError {
    /// The directory cannot be made.
    #[error("cannot make the spool directory {path}", path = .path.display())]
    Make {
        /// The directory.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// Somebody else spools there.
    #[error("the spool {path} is locked: another recorder of the same backup is writing to it; stop the other lightningd", path = .path.display())]
    Locked {
        /// The spool.
        path: PathBuf,
    },
    /// It holds changes that another run has put there.
    #[error("the spool {path} holds changes already; start lightningd again, and they are drained first", path = .path.display())]
    NotEmpty {
        /// The spool.
        path: PathBuf,
    },
    /// It is the spool of another backup.
    #[error("{path} is the spool of backup {found}; give each node a spool of its own", path = .path.display())]
    Foreign {
        /// The spool.
        path: PathBuf,
        /// Whose it is.
        found: Uuid,
    },
    /// There are changes in a spool, and it cannot be seen.
    #[error(
        "the newest changes are in the spool {path} only, and that is not there: its disk is not mounted, or it was moved, \
         emptied or replaced. Bring it back as it was, then start lightningd: nothing is lost. Only if it is lost for good, and the \
         database of this node is the one that lightningd ran on last and not a restored one, remove {marker}: what was in \
         the spool is then missing from the backup, and a snapshot closes the gap",
        path = .path.display(), marker = .marker.display()
    )]
    NotThere {
        /// Where the spool was.
        path: PathBuf,
        /// The file that says so.
        marker: PathBuf,
    },
    /// Changes are left in a spool that is not named any more.
    #[error(
        "the spool {path}, which backup.lock does not name, holds {} that the backup does not have; put \"on_unreachable\": \
         {{\"spool\": …}} back into backup.lock for one start of the node, and the spool is drained",
        counted(*.changes, "change"), path = .path.display()
    )]
    Forgotten {
        /// The spool.
        path: PathBuf,
        /// What is in it.
        changes: u64,
    },
    /// The marker beside `backup.lock` cannot be read, written or removed.
    #[error(
        "the file backup.spool, beside backup.lock, says whether there are changes in a spool, and it cannot be read or written"
    )]
    Marker(#[source] StorageError),
    /// The marker is not what a recorder writes.
    #[error(
        "{path} is not usable ({reason}): it says where changes are that the backup does not have; if it was edited, put it \
         right; remove it only if there are none", path = .path.display()
    )]
    BadMarker {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// It cannot be read.
    #[error("the spool cannot be read; what is in it may be the newest there is, so keep it")]
    Read(#[from] ReadError),
    /// Its log cannot be put right.
    #[error(transparent)]
    Recover(#[from] RecoverError),
    /// A call failed.
    #[error("the spool cannot be written")]
    Storage(#[from] StorageError),
    /// A record cannot be appended.
    #[error("the spool cannot be written")]
    Append(#[from] AppendError),
}

/// Where the spool of a backup is.
pub(crate) fn spool_path(root: &Path, uuid: Uuid) -> PathBuf {
    root.join(uuid.to_string())
}

#[cfg(test)]
mod tests;
