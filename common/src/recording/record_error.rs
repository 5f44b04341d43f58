//! Why a write is not recorded, as the operator of `lightningd` reads it when the hook refuses.

use std::fmt;
use std::path::PathBuf;

use crate::config::backup_url::BackupUrl;
use crate::live::take_snapshot::SnapshotError;
use crate::log::AppendError;
use format::manifest::NodeId;
use format::units::DataVersion;
use format::units::{Hex, Shown};

/// The reason why a write was not recorded: the hook must not answer "continue".
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The write has no statements, as those of PostgreSQL nodes.
    #[error(
        "the write of version {data_version} has no statements: lightningd sends them for SQLite only; for a PostgreSQL \
         node use PostgreSQL's own replication, and remove this plugin"
    )]
    NoStatements {
        /// The version.
        data_version: DataVersion,
    },
    /// The node runs on an old database.
    #[error(
        "the database is at version {committed}, but the backup {url} already holds version {newest}: this node was put \
         on an old state, and running it can lose all funds in its channels. Restore the newest version with \
         `backupfs restore {url} DEST` and start lightningd on that. Only if you went back on purpose, as to the version before a failed \
         upgrade, and `backupfs preflight` says that going back is safe: `backupfs init --replace \
         --accept-stale-state --lightning-dir DIR {url}` begins a new backup and keeps this one"
    )]
    OldState {
        /// The version on `lightningd`'s disk.
        committed: DataVersion,
        /// The newest version of the backup.
        newest: DataVersion,
        /// The URL of the backup.
        url: BackupUrl,
    },
    /// Versions are missing, and `on_gap` in `backup.lock` is `stop`.
    #[error(
        "lightningd committed up to version {committed} but the backup {url} ends at {newest}, and backup.lock says \
         \"on_gap\": \"stop\"; set it to \"heal\" to take a snapshot of the database and go on", newest = Shown(.newest)
    )]
    Gap {
        /// The version on `lightningd`'s disk.
        committed: DataVersion,
        /// The newest version of the backup.
        newest: Option<DataVersion>,
        /// The URL of the backup.
        url: BackupUrl,
    },
    /// The database was changed, and `backup.lock` says to stop then.
    #[error(
        "{path} is not what was recorded as version {committed}: it differs in tables: {tables}. Another program has changed it, or \
         lightningd ran without the recorder; and backup.lock says \"on_gap\": \"stop\". To go on with the database as it is, set \
         that to \"heal\" and start lightningd: a snapshot of it is taken. To go back to what was recorded, run \
         `backupfs restore --backup-existing {url} DIR`", path = .path.display()
    )]
    Changed {
        /// The database.
        path: PathBuf,
        /// The expected version.
        committed: DataVersion,
        /// The tables that differ.
        tables: String,
        /// The URL of the backup.
        url: BackupUrl,
    },
    /// A gap cannot be healed.
    #[error("versions up to {committed} were committed without being recorded, and no snapshot can be taken")]
    Heal {
        /// The version on `lightningd`'s disk.
        committed: DataVersion,
        /// The reason.
        source: SnapshotError,
    },
    /// The write increments data_version in unknown words.
    #[error(
        "the write of version {data_version} counts data_version up with a statement that this backup-recorder does not \
         know: it was made for other releases of lightningd than this one. Nothing was committed, and nothing is lost. \
         Install a newer backup-recorder, or start the release of lightningd that ran before; and please report this"
    )]
    UnknownBump {
        /// The version.
        data_version: DataVersion,
    },
    /// The write is about another database file.
    #[error(
        "{path} is at version {found}, not {committed}: it is not the database that lightningd is writing; name the right \
         one as `database` in backup.lock{}", OrUnknownBump { found: *.found, committed: *.committed }, path = .path.display()
    )]
    WrongDatabase {
        /// The database.
        path: PathBuf,
        /// Version of the database.
        found: DataVersion,
        /// The version on `lightningd`'s disk according to the write.
        committed: DataVersion,
    },
    /// The database belongs to another node.
    #[error(
        "{path} belongs to node {found}, but the backup {url} is of node {expected}; give this node a backup of its own \
         with `backupfs init`", path = .path.display(), found = Hex(.found), expected = Hex(.expected)
    )]
    OtherNode {
        /// The database.
        path: PathBuf,
        /// Node of the database.
        found: NodeId,
        /// Node of the backup.
        expected: NodeId,
        /// The URL of the backup.
        url: BackupUrl,
    },
    /// Versions are missing, and the backup, which the snapshot that closes the gap goes to, is out of reach.
    #[error(
        "versions up to {committed} were committed without being recorded, and a snapshot that closes the gap is only taken \
         into the backup itself, which is out of reach; make {url} reachable again and start lightningd"
    )]
    HealWhileAway {
        /// The version on `lightningd`'s disk.
        committed: DataVersion,
        /// The URL of the backup.
        url: BackupUrl,
    },
    /// Neither backup nor spool can be written.
    #[error(
        "{url} is out of reach, and the spool {path} cannot be written either; make room or replace the disk, then start \
         lightningd: nothing is lost", path = .path.display()
    )]
    Spool {
        /// Path of the spool.
        path: PathBuf,
        /// The URL of the backup.
        url: BackupUrl,
        /// The failed call.
        source: AppendError,
    },
    /// The write cannot be made durable.
    #[error(transparent)]
    Append(#[from] AppendError),
}

impl RecordError {
    /// Whether a call to the backup failed: then the recording must be [interrupted](crate::recording::BackupWriter::interrupt),
    /// and the write can be recorded when the backup is reachable again.
    pub fn is_trouble(&self) -> bool {
        match self {
            Self::Append(error) => matches!(error, AppendError::Storage(_) | AppendError::Poisoned { .. }),
            Self::Heal { source, .. } => matches!(source, SnapshotError::Storage(_)),
            _ => false,
        }
    }

    /// Whether there was no space for a snapshot.
    pub(crate) fn is_no_space(&self) -> bool {
        let Self::Heal { source: SnapshotError::Storage(error), .. } = self else { return false };
        matches!(error.source.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
    }

    /// Whether the failed call missed its deadline: another attempt would take as long.
    pub fn is_hang(&self) -> bool {
        match self {
            Self::Append(AppendError::Storage(error)) | Self::Heal { source: SnapshotError::Storage(error), .. } => {
                error.source.kind() == std::io::ErrorKind::TimedOut
            }
            _ => false,
        }
    }
}

/// The other possible reason of a database one version behind: the increment in the write was not recognised.
struct OrUnknownBump {
    found: DataVersion,
    committed: DataVersion,
}

impl fmt::Display for OrUnknownBump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.found.next() != self.committed {
            return Ok(());
        }
        f.write_str(
            ". If it is the right one, this release of lightningd counts data_version up in a way that this backup-recorder \
             does not know: then install a newer backup-recorder",
        )
    }
}
