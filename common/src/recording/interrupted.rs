//! [`Interrupted`]: a recording whose backup had to be let go of, because a call to it failed.

use std::sync::Arc;

use super::spooling::destination;
use super::{BackupWriter, Goes, Known};
use crate::backup::attach::{Attached, Expected, attach};
use crate::backup::attach_error::OpenRecordingError;
use crate::config::backup_url::BackupUrl;
use crate::log::LogEnd;
use crate::storage::{Directory, InFlightCalls};
use format::change_flags::RunStart;

/// What is left of a [`BackupWriter`] when its files are closed and its lock is given back: where it must go on, and what
/// the version rules need. A write that failed is not part of it: it is to be recorded again.
#[derive(Debug)]
pub struct Interrupted {
    pub(super) known: Known,
    /// Behind the last record that was acknowledged.
    pub(super) acknowledged: LogEnd,
    /// Behind the records of the write that failed.
    pub(super) attempted: Vec<LogEnd>,
}

impl BackupWriter {
    /// Lets go of the backup: its files are closed, and its lock is free as soon as nobody else shares it.
    pub fn interrupt(self) -> Interrupted {
        let (acknowledged, attempted) = (self.log.end(), self.log.attempted().to_vec());
        Interrupted { known: self.known, acknowledged, attempted }
    }
}

impl Interrupted {
    /// Opens the backup again, by its path, and goes on behind the last acknowledged record, which must be there. What was
    /// written behind that is cut off. No [room is made ahead](BackupWriter::make_room_ahead) yet.
    ///
    /// # Errors
    /// When the backup cannot be opened, or is not as it was left.
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

    /// Where the backup was.
    pub fn url(&self) -> &BackupUrl {
        &self.known.url
    }
}

impl Known {
    /// Everything but the history before the run, which belongs to files that are closed.
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
