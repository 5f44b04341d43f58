//! [`RestoreError`]: why nothing was restored.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use common::verify::AgainstError;
use common::{DataVersion, ReadError, ReplayError};

use crate::restore::lightning_dir::AboveNetworks;
use crate::restore::running_node::RunningNode;

/// The reason why nothing was restored. No file is left behind in any case.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// The destination exists.
    #[error("{} exists and is not overwritten; name another destination, or have it renamed with --backup-existing", .0.display())]
    Exists(PathBuf),
    /// A node may have the database open, or be about to.
    #[error("{node}; a database that it has open must not be replaced: stop it first (`lightning-cli stop`)")]
    NodeRuns {
        /// The node.
        node: RunningNode,
    },
    /// A database that was put aside could not get its name back.
    #[error("nothing was restored, and the database that was there is now {aside}; give it its name back: `mv {aside} {path}`",
        path = .path.display(), aside = .aside.display())]
    LeftAside {
        /// The original name.
        path: PathBuf,
        /// The name it has now.
        aside: PathBuf,
        /// The reason why nothing was restored.
        #[source]
        source: io::Error,
    },
    /// A journal of another database lies beside the destination.
    #[error(
        "{} lies beside the destination: SQLite would apply it to the restored database and destroy it; \
         move it away first",
        .0.display()
    )]
    Companion(PathBuf),
    /// The directory of the destination does not exist.
    #[error("there is no directory {path}; make it with `mkdir -p {path}`, or have it made with --create", path = .0.display())]
    NoDirectory(PathBuf),
    /// The destination is neither a directory, nor the name of a file.
    #[error(
        "there is no directory {path}; make it with `mkdir -p {path}`, or have it made with --create. To restore to a file, \
         give its name an extension: {path}.sqlite3", path = .0.display()
    )]
    NoDirectoryOrFile(PathBuf),
    /// No node uses that directory.
    #[error(transparent)]
    AboveNetworks(#[from] AboveNetworks),
    /// The node in that directory has its database elsewhere.
    #[error("{lock} says that the database of this node is {database}: restore to that", lock = .lock.display(), database = .database.display())]
    Elsewhere {
        /// The `backup.lock` of the node.
        lock: PathBuf,
        /// The database.
        database: PathBuf,
    },
    /// The destination lies in the backup.
    #[error("{} is inside the backup; name a destination outside of it", .0.display())]
    InsideBackup(PathBuf),
    /// The destination names no file.
    #[error("{} names no file", .0.display())]
    NoFileName(PathBuf),
    /// A file cannot be made or written.
    #[error("cannot write {}", .path.display())]
    Write {
        /// The destination.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The version cannot be rebuilt.
    #[error("version {version} cannot be rebuilt from the backup")]
    View {
        /// The version.
        version: DataVersion,
        /// The cause.
        #[source]
        source: Arc<ReplayError>,
    },
    /// Peers have revoked more than the version knows of.
    #[error(
        "version {version} is a REVOKED STATE: emergency.recover has more revocations of {}. A node that is started on it can \
         broadcast a revoked state, and the peer then takes ALL funds of that channel. Is there a newer copy of the backup, or a spool? \
         To restore it only to look at it, add --accept-stale-state", .channels.join(", ")
    )]
    Revoked {
        /// The version.
        version: DataVersion,
        /// The channels, and by how many.
        channels: Vec<String>,
    },
    /// A version of an off-site copy, of which nothing shows that it is the newest.
    #[error(
        "nothing shows that version {version} is the newest: {reason}. Put the file emergency.recover of the old node beside the \
         destination, or name it with --emergency-recover: it shows whether a channel was revoked since. To restore without knowing \
         that, add --accept-stale-state"
    )]
    NotShownCurrent {
        /// The version.
        version: DataVersion,
        /// What the copy says.
        reason: String,
    },
    /// A part of what the version is made of cannot be read.
    #[error("version {version} cannot be read from the backup")]
    Read {
        /// The version.
        version: DataVersion,
        /// The cause.
        #[source]
        source: ReadError,
    },
    /// SQLite cannot read the copy.
    #[error("SQLite cannot read what was restored of version {version} ({reason}); try again, or on another disk")]
    Sqlite {
        /// The version.
        version: DataVersion,
        /// The message of SQLite.
        reason: String,
    },
    /// SQLite found damage.
    #[error(
        "version {version} did not pass SQLite's quick_check ({finding}). `backupfs verify` shows whether the backup is \
         damaged, or the node's own database was; --accept-damaged restores it all the same"
    )]
    Damaged {
        /// The version.
        version: DataVersion,
        /// The first line of the findings.
        finding: String,
    },
    /// The file could not be read back and compared.
    #[error("what was restored of version {version} could not be compared with the backup")]
    Compare {
        /// The version.
        version: DataVersion,
        /// The cause.
        #[source]
        source: AgainstError,
    },
    /// The file read back differs from the backup.
    #[error("version {version} was not stored as it was written: the disk at {path} must not be trusted", path = .path.display())]
    NotAsWritten {
        /// The version.
        version: DataVersion,
        /// The destination.
        path: PathBuf,
    },
    /// The copy contains another version.
    #[error("the restored database has data_version {found} instead of {expected}; do not use it")]
    OtherVersion {
        /// The version that was requested.
        expected: DataVersion,
        /// The version in the database.
        found: DataVersion,
    },
}

impl RestoreError {
    /// Whether the backup is the cause, not the destination.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Exists(_)
            | Self::Companion(_)
            | Self::NoDirectory(_)
            | Self::NoDirectoryOrFile(_)
            | Self::AboveNetworks(_)
            | Self::Elsewhere { .. }
            | Self::InsideBackup(_)
            | Self::NoFileName(_)
            | Self::NodeRuns { .. }
            | Self::LeftAside { .. }
            | Self::Revoked { .. }
            | Self::NotShownCurrent { .. }
            | Self::NotAsWritten { .. }
            | Self::Write { .. } => false,
            Self::Compare { source, .. } => source.is_damage(),
            Self::View { .. }
            | Self::Read { .. }
            | Self::Sqlite { .. }
            | Self::Damaged { .. }
            | Self::OtherVersion { .. } => true,
        }
    }
}
