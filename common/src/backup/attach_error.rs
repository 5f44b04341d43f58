//! Why attaching to a backup fails.

use std::path::PathBuf;

use super::OpenError;
use crate::config::backup_lock::BackupLockError;
use crate::config::backup_url::BackupUrl;
use crate::log::{CutError, RecoverError};
use crate::storage::read_error::ReadError;
use crate::storage::{StorageError, Trouble};
use format::units::counted;

/// The reason why recording cannot begin. Nothing was created or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenRecordingError {
    /// The file `backup.lock` is missing or cannot be used.
    #[error(transparent)]
    BackupLock(#[from] BackupLockError),
    /// The backup is missing or cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The backup has another UUID than `backup.lock`.
    #[error(
        "{url} holds backup {found}, but backup.lock of this node names {expected}: it is the backup of another node, or \
         of an earlier `init`; correct backend_url in backup.lock. If it is the newest backup of this node, move backup.lock away and run \
         `backupfs attach`; if there is none, `backupfs init --replace` begins a new one"
    )]
    Foreign {
        /// The URL of the backup.
        url: BackupUrl,
        /// The UUID found.
        found: uuid::Uuid,
        /// The UUID expected.
        expected: uuid::Uuid,
    },
    /// Another recorder has the lock.
    #[error(
        "{url} is locked: another recorder is writing to it; stop the other lightningd, or give this node a backup of its own"
    )]
    Locked {
        /// The URL of the backup.
        url: BackupUrl,
    },
    /// The backup changed while it was detached.
    #[error("{url} was changed while this recorder could not reach it, so nothing more is recorded there")]
    NotWhatWeWrote {
        /// The URL of the backup.
        url: BackupUrl,
        /// The difference.
        source: CutError,
    },
    /// The log cannot be recovered.
    #[error(transparent)]
    Recover(#[from] RecoverError),
    /// A spool has changes.
    #[error(
        "the spool {path}, which backup.lock does not name, holds {} that {url} does not have; put \"on_unreachable\": \
         {{\"spool\": …}} back into backup.lock for one start of the node, and the spool is drained",
        counted(*.changes, "change"), path = .path.display()
    )]
    ForgottenSpool {
        /// The backup.
        url: BackupUrl,
        /// Path of the spool.
        path: PathBuf,
        /// Number of changes in it.
        changes: u64,
    },
    /// The thread for its calls cannot be started.
    #[error("cannot start a thread; let lightningd have more of them (`ulimit -u`), or more memory")]
    Thread(#[source] std::io::Error),
    /// A file system call failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl OpenRecordingError {
    /// Whether the backup may be out of reach only temporarily: not mounted, not answering, full.
    pub fn is_trouble(&self) -> bool {
        match self {
            Self::Open(
                OpenError::Missing { .. }
                | OpenError::Empty { .. }
                | OpenError::NoManifest { .. }
                | OpenError::NotADirectory { .. }
                | OpenError::NoPermission { .. }
                | OpenError::Storage(_),
            )
            | Self::Storage(_)
            | Self::Thread(_)
            | Self::Recover(RecoverError::Storage(_) | RecoverError::Read(ReadError::Storage(_)))
            | Self::NotWhatWeWrote { source: CutError::Storage(_) | CutError::Read(ReadError::Storage(_)), .. } => true,
            Self::Open(OpenError::NotABackup { .. } | OpenError::NewerFormat { .. })
            | Self::BackupLock(_)
            | Self::Foreign { .. }
            | Self::Locked { .. }
            | Self::Recover(RecoverError::Read(_))
            | Self::ForgottenSpool { .. }
            | Self::NotWhatWeWrote { .. } => false,
        }
    }

    /// Whether waiting does not help: the path leads to something else, or permission is missing.
    pub fn is_lasting(&self) -> bool {
        match self {
            Self::Open(
                OpenError::NotADirectory { .. } | OpenError::NoPermission { .. } | OpenError::NoManifest { .. },
            ) => true,
            Self::Open(OpenError::Storage(error))
            | Self::Storage(error)
            | Self::Recover(RecoverError::Storage(error) | RecoverError::Read(ReadError::Storage(error))) => {
                error.trouble() == Trouble::NoPermission
                    || matches!(error.source.raw_os_error(), Some(libc::ENOTDIR | libc::ELOOP | libc::ENAMETOOLONG))
            }
            error => !error.is_trouble(),
        }
    }
}
