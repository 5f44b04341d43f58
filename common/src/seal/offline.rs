//! Sealing a backup without a recorder.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::{Progress, SealError, Sealer};
use crate::backup::Backup;
use crate::backup::OpenError;
use crate::config::backup_url::BackupUrl;
use crate::config::log_limits::LogLimits;
use crate::log::{RecoverError, recover};
use crate::storage::StorageError;
use crate::storage::read_error::ReadError;
use format::names;
use format::units::Seq;

/// The reason why a backup is not sealed. All records are kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SealBackupError {
    /// The backup cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A recorder or another sealer has the lock.
    #[error(
        "{url} is locked: a recorder is writing to it, which seals it as it goes, or another `backupfs seal` is at it"
    )]
    Locked {
        /// The URL of the backup.
        url: BackupUrl,
    },
    /// The logs cannot be recovered.
    #[error(transparent)]
    Recover(#[from] RecoverError),
    /// A log cannot be sealed.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// A file system call failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl SealBackupError {
    /// Whether the backup is damaged, rather than temporarily unavailable.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Recover(RecoverError::Read(error)) | Self::Seal(SealError::Read(error)) => {
                matches!(error, ReadError::Damaged { .. })
            }
            Self::Seal(SealError::Replay { .. }) => true,
            _ => false,
        }
    }
}

impl From<ReadError> for SealBackupError {
    fn from(error: ReadError) -> Self {
        Self::Seal(error.into())
    }
}

/// Seals all finished logs of the backup at `url`; the newest log, which the next recorder continues, stays. `watch` is called
/// before every record, and can break.
///
/// # Errors
/// When another process has the lock, or a log cannot be read, replayed or sealed.
pub fn seal_backup(
    url: &BackupUrl,
    watch: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Progress, SealBackupError> {
    let backup = Arc::new(Backup::open(url)?);
    let _lock = backup.directory().lock(names::LOCK).map_err(|error| match error.source.kind() {
        io::ErrorKind::WouldBlock => SealBackupError::Locked { url: url.clone() },
        _ => error.into(),
    })?;
    // As at the start of a recorder: from here on everything that is read is durable.
    let (_, cursor) = backup.sealed_history()?;
    let next_seq = recover(cursor, &mut |_, _| Ok(()))?.next_seq();
    let mut sealer = Sealer::new(backup, LogLimits::from_env())?;
    if let Some(newest) = Seq::new(next_seq.get() - 1) {
        sealer.advance(newest, watch)?;
    }
    Ok(sealer.progress())
}
