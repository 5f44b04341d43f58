//! [`ImportError`]: why a file was not imported.

use std::io;
use std::path::PathBuf;

use super::bytes::NotAHeader;
pub use super::order::OutOfOrder;
use crate::create::CreateError;
use crate::format::record::PayloadTooLong;
use crate::log::AppendError;
use crate::replay::ReplayError;
use crate::seal::SealError;
use crate::storage::StorageError;
use crate::{DataVersion, ReadError};

/// Why a record cannot be what the plugin wrote.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordDamage {
    /// It is of no known type.
    #[error("its type is {0}, where 1 is a change and 2 a snapshot")]
    UnknownType(u8),
    /// It is longer than what is left.
    #[error("it claims {claimed} bytes, and {left} are left: the end of the file was cut off, or this is no record")]
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
    /// It ends too early.
    #[error(
        "{path} was cut off: it has {len} bytes, and its header says that its records end at byte {end}; \
         import another copy, or begin anew with `backupfs init`", path = .path.display()
    )]
    CutOff {
        /// The file.
        path: PathBuf,
        /// Bytes that there are.
        len: u64,
        /// Bytes that there should be.
        end: u64,
    },
    /// A record cannot be what the plugin wrote.
    #[error(
        "{path}: the record at byte {offset} is damaged: {damage}; import another copy, or begin anew with `backupfs init`",
        path = .path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where it begins.
        offset: u64,
        /// What is wrong.
        damage: RecordDamage,
    },
    /// Header and records are not of one file.
    #[error(
        "{path}: its header says that version {header} is the newest, but its records end with version {records}; \
         import another copy, or begin anew with `backupfs init`", path = .path.display()
    )]
    HeaderDisagrees {
        /// The file.
        path: PathBuf,
        /// What the header says.
        header: DataVersion,
        /// What the records say.
        records: DataVersion,
    },
    /// The header counts more records than there are.
    #[error(
        "{path}: its header counts {header} records, and there are {records}; import another copy, or begin anew with \
         `backupfs init`", path = .path.display()
    )]
    RecordsMissing {
        /// The file.
        path: PathBuf,
        /// What the header says.
        header: u64,
        /// Those that there are.
        records: u64,
    },
    /// A change does not replay.
    #[error("{path} cannot be restored beyond this, not by the Python plugin either; begin anew with `backupfs init`", path = .path.display())]
    Replay {
        /// The file.
        path: PathBuf,
        /// Which statement of which version, and why.
        source: ReplayError,
    },
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
