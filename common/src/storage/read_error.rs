//! [`ReadError`]: why part of a backup cannot be read.

use std::path::{Path, PathBuf};

use crate::storage::StorageError;
use format::Damage;
use format::units::DataVersion;

/// The reason why part of a backup cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// A file system call failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A file does not have the bytes that were written.
    #[error("{path} is damaged at byte {offset}: {damage}", path = .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Offset of the damaged structure in the file.
        offset: u64,
        /// The damage.
        damage: Damage,
    },
    /// The newest version was recorded, and cannot be opened. All others are old states.
    #[error(
        "version {version}, the newest of {path}, cannot be opened: it builds on a change that does not replay, or on versions that \
         were never recorded. The recorder takes a snapshot of the node's database with the next write; start lightningd for that. \
         What can be opened is older", path = .path.display()
    )]
    NewestUnreadable {
        /// Path of the backup.
        path: PathBuf,
        /// The newest version.
        version: DataVersion,
    },
}

impl ReadError {
    /// The error with its cause and remedy, as a line for the log.
    pub fn in_words(&self) -> String {
        match self {
            Self::Storage(error) => format!("{error}: {}", error.source),
            Self::Damaged { .. } => format!("{self}; `backupfs verify` says which versions that costs"),
            Self::NewestUnreadable { .. } => self.to_string(),
        }
    }

    pub(crate) fn damaged(path: &Path, offset: u64, damage: Damage) -> Self {
        Self::Damaged { path: path.to_path_buf(), offset, damage }
    }

    /// Whether the files were replaced since the backup was opened: everything read since is void.
    pub fn is_replaced(&self) -> bool {
        matches!(self, Self::Damaged { damage, .. } if damage.is_replaced())
    }
}
