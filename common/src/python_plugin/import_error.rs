//! [`ImportError`]: why a file was not imported.

use std::io;
use std::path::PathBuf;

use super::bytes::NotAHeader;
pub use super::order::OutOfOrder;
use crate::create::CreateError;
use crate::log::AppendError;
use crate::replay::ReplayError;
use crate::seal::SealError;
use crate::storage::StorageError;
use crate::storage::read_error::ReadError;
use format::record::PayloadTooLong;
use format::units::DataVersion;

/// The reason why a record is not valid.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordDamage {
    /// The type of the record is unknown.
    #[error("its type is {0}, where 1 is a change and 2 a snapshot")]
    UnknownType(u8),
    /// The record is longer than the rest of the file, although the file was not cut off.
    #[error(
        "it claims {claimed} bytes, and {left} are left, but the file is as long as its header says: this is no record"
    )]
    TooLong {
        /// Length that it should have, with its header.
        claimed: u64,
        /// Length of the rest of the file.
        left: u64,
    },
    /// The version does not fit the position of the record.
    #[error(transparent)]
    OutOfOrder(#[from] OutOfOrder),
    /// The statements are not UTF-8.
    #[error("its statements are not UTF-8")]
    NotText,
    /// The statements are too long for a record.
    #[error(transparent)]
    Statements(#[from] PayloadTooLong),
    /// The snapshot is not a database.
    #[error("it is no SQLite database ({0})")]
    NotADatabase(String),
    /// The database in the snapshot is of another version.
    #[error("it is said to be version {said}, and the database in it is at version {found}")]
    OtherVersion {
        /// Version of the record.
        said: DataVersion,
        /// Version of the database.
        found: DataVersion,
    },
}

/// Advice for a damaged record behind this version.
fn way_out(before: Option<DataVersion>) -> String {
    let until = before.map_or_else(String::new, |before| {
        format!(" `--until-damage` imports what is before it, up to version {before};")
    });
    format!("import another copy;{until} or begin anew with `backupfs init`")
}

/// The reason why a file was not imported. Nothing was created.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// The file cannot be read.
    #[error("cannot read {path}", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// The file is not one of the plugin.
    #[error("{path} is not a file of the Python plugin `backup`: {reason}", path = .path.display())]
    NotAPythonBackup {
        /// The file.
        path: PathBuf,
        /// The reason.
        reason: NotAHeader,
    },
    /// The path is not that of a regular file.
    #[error("{path} is not a regular file, so it is not a file of the Python plugin `backup`", path = .path.display())]
    NotAFile {
        /// The named path.
        path: PathBuf,
    },
    /// The file has a header and no records.
    #[error("{path} holds no version yet: make a new backup with `backupfs init`", path = .path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A record is not valid.
    #[error("{path}: the record at byte {offset} is damaged: {damage}; {}", way_out(*before), path = .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Offset of the record.
        offset: u64,
        /// The damage of the record.
        damage: RecordDamage,
        /// The newest importable version before it, if any.
        before: Option<DataVersion>,
    },
    /// A change does not replay.
    #[error(
        "{path} cannot be restored beyond this{}; `--until-damage` imports what is before it, or begin anew with \
         `backupfs init`", if *plugin_too { ", not by the Python plugin either" } else { "" }, path = .path.display()
    )]
    Replay {
        /// The file.
        path: PathBuf,
        /// The statement, and the reason.
        source: ReplayError,
        /// Whether the plugin fails at the same statement.
        plugin_too: bool,
    },
    /// The result was not accepted.
    #[error("{0}")]
    NotWanted(String),
    /// The progress callback stopped it.
    #[error("interrupted; nothing was made")]
    Interrupted,
    /// A thread cannot be started.
    #[error("cannot start a thread; nothing was made")]
    Thread,
    /// The backup cannot be created.
    #[error(transparent)]
    Create(#[from] CreateError),
    /// The backup cannot be written.
    #[error(transparent)]
    Append(AppendError),
    /// The backup cannot be sealed.
    #[error("the new backup is not what was imported, and was removed")]
    Seal(#[source] SealError),
    /// The written backup cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl From<StorageError> for ImportError {
    fn from(error: StorageError) -> Self {
        Self::Create(error.into())
    }
}

// Advice for an existing backup, such as to keep a copy, does not apply to one that was not created.
impl From<AppendError> for ImportError {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Storage(error) => error.into(),
            error => Self::Append(error),
        }
    }
}

impl From<SealError> for ImportError {
    fn from(error: SealError) -> Self {
        match error {
            SealError::Write(error) | SealError::OutOfReach(error) | SealError::Read(ReadError::Storage(error)) => {
                error.into()
            }
            SealError::Read(error) => error.into(),
            error => Self::Seal(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::StorageOp;

    #[test]
    fn a_disk_that_is_full_is_no_reason_to_keep_a_backup_that_is_not_made() {
        let full = || StorageError {
            op: StorageOp::Write,
            path: PathBuf::from("new.bkp"),
            offset: None,
            source: io::ErrorKind::StorageFull.into(),
        };
        for error in [
            ImportError::from(AppendError::Storage(full())),
            ImportError::from(SealError::Write(full())),
            ImportError::from(SealError::Read(ReadError::Storage(full()))),
        ] {
            assert_eq!(error.to_string(), "cannot write new.bkp");
        }
    }
}
