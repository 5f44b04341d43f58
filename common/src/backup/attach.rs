//! Taking hold of a backup directory: its lock, its manifest, and the end of its log.

use std::io;
use std::sync::Arc;

use uuid::Uuid;

use crate::backup::attach_error::OpenRecordingError;
use crate::backup::shared_lock::SharedLock;
use crate::backup::{Backup, read_manifest};
use crate::config::backup_url::BackupUrl;
use crate::config::log_limits::LogLimits;
use crate::history::History;
use crate::log::{LogEnd, LogWriter, RecoverError, cut_behind, recover};
use crate::storage::Directory;
use format::manifest::Manifest;
use format::names;

/// A backup that is held.
pub(crate) struct Attached {
    pub(crate) lock: SharedLock,
    pub(crate) manifest: Manifest,
    pub(crate) log: LogWriter,
    pub(crate) history: History,
}

/// What the log must hold.
pub(crate) enum Expected<'a> {
    /// Whatever it does.
    Anything,
    /// What was acknowledged, and behind that at most what failed.
    WhatWeWrote {
        /// Where it ended when the last write was acknowledged.
        acknowledged: LogEnd,
        /// Where it may end since.
        attempted: &'a [LogEnd],
    },
}

/// Takes hold of the backup in `directory`, which must have this uuid, if any is named.
pub(crate) fn attach(
    directory: &Arc<dyn Directory>,
    url: &BackupUrl,
    uuid: Option<Uuid>,
    limits: LogLimits,
    expected: &Expected<'_>,
) -> Result<Attached, OpenRecordingError> {
    let manifest = read_manifest(&**directory, url)?;
    if let Some(expected) = uuid.filter(|&uuid| uuid != manifest.uuid) {
        return Err(OpenRecordingError::Foreign { url: url.clone(), found: manifest.uuid, expected });
    }
    let lock = directory.lock(names::LOCK).map_err(|error| match error.source.kind() {
        io::ErrorKind::WouldBlock => OpenRecordingError::Locked { url: url.clone() },
        _ => error.into(),
    })?;
    let lock = SharedLock::of(lock);
    // Read again under the lock: the recorder that held it may have learned the node's id.
    let manifest = read_manifest(&**directory, url).map(|again| Manifest { uuid: manifest.uuid, ..again })?;
    let backup = Backup::of(Arc::clone(directory), manifest.clone());
    if let Expected::WhatWeWrote { acknowledged, attempted } = *expected {
        let (_, cursor) = backup.sealed_history().map_err(RecoverError::from)?;
        cut_behind(cursor, acknowledged, attempted)
            .map_err(|source| OpenRecordingError::NotWhatWeWrote { url: url.clone(), source })?;
    }
    let (mut history, cursor) = backup.sealed_history().map_err(RecoverError::from)?;
    let mut log = recover(cursor, &mut |record, place| history.apply(record, place))?;
    log.set_limits(limits);
    Ok(Attached { lock, manifest, log, history })
}
