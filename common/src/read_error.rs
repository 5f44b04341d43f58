//! [`ReadError`]: why something recorded cannot be read.

use std::path::{Path, PathBuf};

use crate::format::Damage;
use crate::storage::StorageError;

/// A part of a backup cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// A file system call failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A file is not what it was when it was written.
    #[error("{path} is damaged at byte {offset}: {damage}", path = .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Byte of the file at which the damaged structure begins.
        offset: u64,
        /// What is wrong.
        damage: Damage,
    },
}

impl ReadError {
    pub(crate) fn damaged(path: &Path, offset: u64, damage: Damage) -> Self {
        Self::Damaged { path: path.to_path_buf(), offset, damage }
    }

    /// Whether something else is there than when the backup was opened: what was read of it since is void.
    pub fn is_replaced(&self) -> bool {
        matches!(self, Self::Damaged { damage, .. } if damage.is_replaced())
    }
}
