//! [`Interrupted`]: a recording whose backup had to be closed, because a call to it failed.

use std::sync::Arc;

use super::spooling::destination;
use super::{BackupWriter, Goes, Known};
use crate::backup::attach::{Attached, Expected, attach};
use crate::backup::attach_error::OpenRecordingError;
use crate::config::backup_url::BackupUrl;
use crate::log::LogEnd;
use crate::storage::{Directory, InFlightCalls};
use format::change_flags::RunStart;

/// The rest of a [`BackupWriter`] when its files are closed and its lock is released: the end of the log, and the state for
/// the version rules. It does not include the failed write, which must be recorded again.
#[derive(Debug)]
pub struct Interrupted {
    pub(super) known: Known,
    /// End of the last acknowledged record.
    pub(super) acknowledged: LogEnd,
    /// Ends of the records of the failed write.
    pub(super) attempted: Vec<LogEnd>,
}

impl BackupWriter {
    /// Closes the files of the backup; its lock is released when no other thread shares it.
    pub fn interrupt(self) -> Interrupted {
        let (acknowledged, attempted) = (self.log.end(), self.log.attempted().to_vec());
        Interrupted { known: self.known, acknowledged, attempted }
    }
}

impl Interrupted {
    /// Opens the backup again, by its path, and continues behind the last acknowledged record, which must exist. Later records
    /// are cut off. [Preallocation](BackupWriter::preallocate_logs) is not started yet.
    ///
    /// # Errors
    /// When the backup cannot be opened, or has changed.
    pub fn reopen(&self, in_flight: &Arc<InFlightCalls>) -> Result<BackupWriter, OpenRecordingError> {
        let directory = destination(&self.known.url, &self.known.on_unreachable, in_flight)?;
        self.reopen_in(directory)
    }

    pub(crate) fn reopen_in(&self, directory: Arc<dyn Directory>) -> Result<BackupWriter, OpenRecordingError> {
        let known = &self.known;
        let expected = Expected::WhatWeWrote { acknowledged: self.acknowledged, attempted: &self.attempted };
        let Attached { lock, manifest, log, history } =
            attach(&directory, &known.url, Some(known.manifest.uuid), known.limits, &expected)?;
        let history_before_run = (known.run_start == RunStart::First).then_some(history);
        let known = Known { manifest, history_before_run, ..known.without_history() };
        Ok(BackupWriter { known, directory, log, lock, goes: Goes::ToBackup })
    }

    /// The URL of the backup.
    pub fn url(&self) -> &BackupUrl {
        &self.known.url
    }
}

impl Known {
    /// A copy without the history before the run, which belongs to closed files.
    pub(super) fn without_history(&self) -> Self {
        Self {
            url: self.url.clone(),
            lightning_dir: Arc::clone(&self.lightning_dir),
            database: self.database.clone(),
            manifest: self.manifest.clone(),
            on_unreachable: self.on_unreachable.clone(),
            comparison: self.comparison.clone(),
            history_before_run: None,
            ..*self
        }
    }
}
