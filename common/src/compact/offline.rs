//! Compaction of a backup without a recorder.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::{Clock, CompactError, CompactOutcome, CompactProgress, Compaction, KeepPolicy, Manner, prepare};
use crate::backup::Backup;
use crate::backup::OpenError;
use crate::backup::shared_lock::SharedLock;
use crate::backup::source::Source;
use crate::config::backup_url::BackupUrl;
use crate::log::{RecoverError, recover};
use crate::storage::StorageError;
use crate::storage::read_error::ReadError;
use format::names;
use format::units::Timestamp;

/// The reason why a backup is not compacted. Kept history is unchanged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompactBackupError {
    /// The backup cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Another process has the lock.
    #[error(
        "{url} is locked: a recorder is writing to it that cannot be reached from here. Have it do this where it runs: \
         lightning-cli -k backup-compact {options}; --dry-run works beside it"
    )]
    Locked {
        /// The URL of the backup.
        url: BackupUrl,
        /// The policy, as options of the recorder's method.
        options: String,
    },
    /// The logs cannot be recovered.
    #[error(transparent)]
    Recover(#[from] RecoverError),
    /// The compaction failed.
    #[error(transparent)]
    Compact(#[from] CompactError),
    /// A file system call failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl CompactBackupError {
    /// Whether the backup is damaged, rather than temporarily unavailable.
    pub fn is_damage(&self) -> bool {
        matches!(
            self,
            Self::Recover(RecoverError::Read(ReadError::Damaged { .. }))
                | Self::Compact(CompactError::Read(ReadError::Damaged { .. }))
        )
    }
}

impl From<ReadError> for CompactBackupError {
    fn from(error: ReadError) -> Self {
        Self::Compact(error.into())
    }
}

/// Compacts the backup at `url` under its lock; `watch` is called repeatedly, and can break.
///
/// # Errors
/// When another process has locked the backup, the backup cannot be read completely, the clock may be wrong, or a file cannot be
/// written.
pub fn compact_backup(
    url: &BackupUrl,
    policy: &KeepPolicy,
    clock: Clock<'_>,
    watch: &mut dyn FnMut(CompactProgress) -> ControlFlow<()>,
) -> Result<CompactOutcome, CompactBackupError> {
    policy.check().map_err(CompactError::from)?;
    let backup = Arc::new(Backup::open(url)?);
    let lock = backup.directory().lock(names::LOCK).map_err(|error| match error.source.kind() {
        io::ErrorKind::WouldBlock => CompactBackupError::Locked {
            url: url.clone(),
            options: policy.options().map(|(name, span)| format!("{name}={span}")).collect::<Vec<_>>().join(" "),
        },
        _ => error.into(),
    })?;
    let lock = SharedLock::of(lock);
    // As at the start of a recorder: from here on everything that is read is durable.
    let (_, cursor) = backup.sealed_history()?;
    recover(cursor, &mut |_, _| Ok(()))?;
    Ok(backup.compact(policy, (Timestamp::now(), clock), Manner::FULL, &lock, watch)?)
}

/// Compacts a copy of a backup, which nothing else compacts: a copy has no lock, and no log of it is ever torn. `watch` is called
/// repeatedly, and can break.
///
/// # Errors
/// When the copy cannot be read completely, the clock may be wrong, or it cannot be changed.
pub fn compact_copy(
    source: impl Into<Source>,
    policy: &KeepPolicy,
    clock: Clock<'_>,
    watch: &mut dyn FnMut(CompactProgress) -> ControlFlow<()>,
) -> Result<CompactOutcome, CompactBackupError> {
    policy.check().map_err(CompactError::from)?;
    let backup = Arc::new(Backup::open(source)?);
    let lock = SharedLock::of(backup.directory().lock(names::LOCK)?);
    Ok(backup.compact(policy, (Timestamp::now(), clock), Manner::AT_ONCE, &lock, watch)?)
}

/// Plans a compaction of the backup at `source`, including the check of the clock. Takes no lock and changes nothing. `None` when
/// `watch` has broken.
///
/// # Errors
/// When the backup cannot be read completely.
pub fn plan_compaction(
    source: impl Into<Source>,
    policy: &KeepPolicy,
    watch: &mut dyn FnMut() -> ControlFlow<()>,
) -> Result<Option<Compaction>, CompactBackupError> {
    policy.check().map_err(CompactError::from)?;
    let backup = Arc::new(Backup::open(source)?);
    Ok(prepare(&backup, policy, Timestamp::now(), Clock::Unwatched, watch)?.map(|prepared| prepared.compaction))
}
