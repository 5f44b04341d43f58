//! The backup that writes go to, opened when it is first needed.

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;

use common::{DbWrite, Recording, Timestamp};

use crate::answer::{Record, Refusal};
use crate::hook::IncomingWrite;
use crate::replay_check::ReplayCheck;
use crate::status::{Destination, Newest, Status};

/// The backup named by the `backup.lock` of a lightning-dir.
///
/// Opening fails for reasons that an operator can remove while `lightningd` is being started again and again (a disk that
/// is not mounted, another recorder that is still ending), so every write tries once more until it is open. From then on
/// it stays: after a failed write or sync `common` refuses to trust the file before a restart.
#[derive(Debug)]
pub struct BackupRecording {
    lightning_dir: PathBuf,
    status: Arc<Status>,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    recording: Recording,
    replay_check: Option<ReplayCheck>,
}

impl BackupRecording {
    /// Nothing is opened yet.
    pub fn new(lightning_dir: PathBuf, status: Arc<Status>) -> Self {
        Self { lightning_dir, status, open: None }
    }

    fn ready(&mut self) -> Result<&mut Open, Refusal> {
        match &mut self.open {
            Some(open) => Ok(open),
            empty => Ok(empty.insert(open_backup(&self.lightning_dir, &self.status)?)),
        }
    }
}

fn open_backup(lightning_dir: &std::path::Path, status: &Arc<Status>) -> Result<Open, Refusal> {
    let recording = Recording::open(lightning_dir).map_err(|error| Refusal(with_causes(&error)))?;
    let newest = newest(&recording);
    let url = recording.url().to_string();
    match newest {
        Some(newest) => log::info!("recording to {url}; its newest version is {}", newest.data_version),
        None => log::info!("recording to {url}, which has no version yet"),
    }
    let backup = recording.backup();
    status.opened(Destination { url, path: backup.path().to_owned(), format: common::FORMAT_VERSION }, newest);
    let replay_check = match ReplayCheck::spawn(backup, Arc::clone(status)) {
        Ok(check) => Some(check),
        Err(error) => {
            status.replay_problem(format!("recorded changes are not being replayed: cannot start a thread ({error})"));
            None
        }
    };
    Ok(Open { recording, replay_check })
}

impl Record for BackupRecording {
    fn open(&mut self) -> Result<(), Refusal> {
        self.ready().map(|_open| ())
    }

    fn record(&mut self, write: &IncomingWrite<'_>, received_at: Timestamp) -> Result<(), Refusal> {
        let Open { recording, replay_check } = self.ready()?;
        let write = DbWrite { data_version: write.data_version, statements: &write.statements, received_at };
        recording.record(&write).map_err(|error| Refusal(with_causes(&error)))?;
        let newest = newest(recording);
        if let Some(check) = replay_check {
            check.wake();
        }
        self.status.recorded(newest);
        Ok(())
    }
}

fn newest(recording: &Recording) -> Option<Newest> {
    recording.newest().map(|newest| Newest {
        data_version: newest.data_version,
        seq: newest.seq,
        recorded_at: newest.recorded_at,
    })
}

/// An error and what caused it, in one line.
pub(crate) fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
