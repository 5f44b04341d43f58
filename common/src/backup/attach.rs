//! Attaching to a backup directory for recording: its lock, its manifest, and the end of its log.

use std::io;
use std::sync::Arc;

use uuid::Uuid;

use crate::backup::attach_error::OpenRecordingError;
use crate::backup::shared_lock::SharedLock;
use crate::backup::source::Source;
use crate::backup::{Backup, read_manifest};
use crate::config::backup_url::BackupUrl;
use crate::config::log_limits::LogLimits;
use crate::history::History;
use crate::log::{LogEnd, LogWriter, RecoverError, cut_behind, recover};
use crate::parity::healing::HealingDirectory;
use crate::storage::Directory;
use format::manifest::Manifest;
use format::names;

/// A locked backup.
pub(crate) struct Attached {
    pub(crate) lock: SharedLock,
    pub(crate) manifest: Manifest,
    pub(crate) log: LogWriter,
    pub(crate) history: History,
}

/// The expected end of the log.
pub(crate) enum Expected<'a> {
    /// Any.
    Anything,
    /// The acknowledged records, followed at most by failed ones.
    WhatWeWrote {
        /// The end of the log when the last write was acknowledged.
        acknowledged: LogEnd,
        /// Other possible ends of the log.
        attempted: &'a [LogEnd],
    },
}

/// Locks and recovers the backup in `directory`, which must have this UUID, if one is given.
pub(crate) fn attach(
    directory: &Arc<dyn Directory>,
    url: &BackupUrl,
    uuid: Option<Uuid>,
    limits: LogLimits,
    expected: &Expected<'_>,
) -> Result<Attached, OpenRecordingError> {
    let source = Source::new(url.to_string(), Arc::clone(directory));
    let healing = HealingDirectory::new(Arc::clone(directory));
    let manifest = read_manifest(&healing, &source)?;
    if let Some(expected) = uuid.filter(|&uuid| uuid != manifest.uuid) {
        return Err(OpenRecordingError::Foreign { url: url.clone(), found: manifest.uuid, expected });
    }
    let lock = directory.lock(names::LOCK).map_err(|error| match error.source.kind() {
        io::ErrorKind::WouldBlock => OpenRecordingError::Locked { url: url.clone() },
        _ => error.into(),
    })?;
    let lock = SharedLock::of(lock);
    // Read again under the lock: the previous recorder may have added the node's id.
    let manifest = read_manifest(&healing, &source).map(|again| Manifest { uuid: manifest.uuid, ..again })?;
    let backup = Backup::of(Arc::clone(directory), manifest.clone());
    if let Expected::WhatWeWrote { acknowledged, attempted } = *expected {
        let (_, cursor) = backup.sealed_history().map_err(RecoverError::from)?;
        cut_behind(cursor, acknowledged, attempted)
            .map_err(|source| OpenRecordingError::NotWhatWeWrote { url: url.clone(), source })?;
    }
    let (mut history, cursor) = backup.sealed_history().map_err(RecoverError::from)?;
    let mut log = recover(cursor, &mut |record, address| history.apply(record, address))?;
    log.set_limits(limits);
    Ok(Attached { lock, manifest, log, history })
}
