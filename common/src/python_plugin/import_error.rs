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

/// Why a record cannot be what the plugin wrote.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordDamage {
    /// It is of no known type.
    #[error("its type is {0}, where 1 is a change and 2 a snapshot")]
    UnknownType(u8),
    /// It is longer than what is left, and the file was not cut off.
    #[error(
        "it claims {claimed} bytes, and {left} are left, but the file is as long as its header says: this is no record"
    )]
    TooLong {
        /// Bytes that it should have, header included.
        claimed: u64,
        /// Bytes that there are.
        left: u64,
    },
    /// It stands where no such version can be.
    #[error(transparent)]
    OutOfOrder(#[from] OutOfOrder),
    /// Its statements are no text.
    #[error("its statements are not UTF-8")]
    NotText,
    /// Its statements are more than a record can hold.
    #[error(transparent)]
    Statements(#[from] PayloadTooLong),
    /// What it says is a database is none.
    #[error("it is no SQLite database ({0})")]
    NotADatabase(String),
    /// The database in it is of another version.
    #[error("it is said to be version {said}, and the database in it is at version {found}")]
    OtherVersion {
        /// What the record says.
        said: DataVersion,
        /// What the database says.
        found: DataVersion,
    },
}

/// What to do about a record that is damaged, with this version before it.
fn way_out(before: Option<DataVersion>) -> String {
    let until = before.map_or_else(String::new, |before| {
        format!(" `--until-damage` imports what is before it, up to version {before};")
    });
    format!("import another copy;{until} or begin anew with `backupfs init`")
}

/// Why a file was not imported. Nothing was made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// It cannot be read.
    #[error("cannot read {path}", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// It is something else.
    #[error("{path} is not a file of the Python plugin `backup`: {reason}", path = .path.display())]
    NotAPythonBackup {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: NotAHeader,
    },
    /// It is no regular file.
    #[error("{path} is not a regular file, so it is not a file of the Python plugin `backup`", path = .path.display())]
    NotAFile {
        /// What was named.
        path: PathBuf,
    },
    /// It has a header and nothing else.
    #[error("{path} holds no version yet: make a new backup with `backupfs init`", path = .path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A record cannot be what the plugin wrote.
    #[error("{path}: the record at byte {offset} is damaged: {damage}; {}", way_out(*before), path = .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where it begins.
        offset: u64,
        /// What is wrong.
        damage: RecordDamage,
        /// The newest version before it that can be imported, if any.
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
        /// Which statement of which version, and why.
        source: ReplayError,
        /// Whether the plugin executes the same and fails, too.
        plugin_too: bool,
    },
    /// Whoever was asked whether it will do did not want it.
    #[error("{0}")]
    NotWanted(String),
    /// Whoever was shown the progress asked to stop.
    #[error("interrupted; nothing was made")]
    Interrupted,
    /// The operating system gives no more threads.
    #[error("cannot start a thread; nothing was made")]
    Thread,
    /// The backup cannot be made.
    #[error(transparent)]
    Create(#[from] CreateError),
    /// It cannot be written.
    #[error(transparent)]
    Append(AppendError),
    /// It cannot be sealed.
    #[error("the new backup is not what was imported, and was removed")]
    Seal(#[source] SealError),
    /// What was written cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl From<StorageError> for ImportError {
    fn from(error: StorageError) -> Self {
        Self::Create(error.into())
    }
}

// What goes with a backup that is recorded to, such as to keep a copy, does not go with one that is not made.
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
