//! The backup that writes go to, opened when it is first needed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{Backup, DbWrite, LogLimits, Recorded, Recording, Timestamp};

use crate::answer::{Record, Refusal};
use crate::causes::with_causes;
use crate::hook::IncomingWrite;
use crate::sealing::Sealing;
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
    sealing: Option<Sealing>,
    /// What was recorded with the last write, until that is answered and there is time to tell.
    untold: Option<Recorded>,
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

fn open_backup(lightning_dir: &Path, status: &Arc<Status>) -> Result<Open, Refusal> {
    let limits = LogLimits::from_env();
    let recording = Recording::open(lightning_dir, limits).map_err(|error| Refusal(with_causes(&error)))?;
    let backup = Backup::open(recording.url()).map_err(|error| Refusal(with_causes(&error)))?;
    let backup = Arc::new(backup);
    let newest = newest(&recording);
    let url = recording.url().to_string();
    match newest {
        Some(newest) => log::info!("recording to {url}; its newest version is {}", newest.data_version),
        None => log::info!("recording to {url}, which has no version yet"),
    }
    status.opened(Destination { url, backup: Arc::clone(&backup) }, newest);
    let sealing = match Sealing::spawn(
        backup,
        limits,
        newest.map(|newest| newest.seq),
        Arc::clone(status),
        recording.share_lock(),
    ) {
        Ok(sealing) => Some(sealing),
        Err(error) => {
            let problem = format!("what is recorded is neither replayed nor sealed: cannot start a thread ({error})");
            log::error!("{problem}");
            status.replay_problem(problem);
            None
        }
    };
    Ok(Open { recording, sealing, untold: None })
}

impl Record for BackupRecording {
    fn open(&mut self) -> Result<(), Refusal> {
        self.ready().map(|_open| ())
    }

    fn record(&mut self, write: &IncomingWrite<'_>, received_at: Timestamp) -> Result<(), Refusal> {
        let Open { recording, untold, .. } = self.ready()?;
        let write = DbWrite { data_version: write.data_version, statements: &write.statements, received_at };
        *untold = Some(recording.record(&write).map_err(|error| Refusal(with_causes(&error)))?);
        Ok(())
    }

    fn answered(&mut self) {
        let Some(Open { recording, sealing, untold }) = &mut self.open else { return };
        let newest = newest(recording);
        if let (Some(sealing), Some(newest)) = (sealing, newest) {
            sealing.wake(newest.seq);
        }
        self.status.recorded(newest);
        untold.take().into_iter().for_each(tell);
    }

    fn end(&mut self) {
        let Some(open) = &mut self.open else { return };
        if let Err(error) = open.recording.note_commit() {
            log::warn!("cannot note that the last change was committed: {}", with_causes(&error));
        }
        if let Err(error) = open.recording.give_back_room() {
            log::debug!("the room for the next log stays: {}", with_causes(&error));
        }
    }
}

/// What happens at some starts and is worth a line then.
fn tell(recorded: Recorded) {
    match recorded {
        Recorded::Appended => {}
        Recorded::Rewound { data_version } => {
            log::info!("lightningd never committed version {data_version} as recorded; that record is void");
        }
        Recorded::Replaced { data_version } => {
            log::warn!(
                "version {data_version} is not what was recorded; that record is void, a snapshot takes its place"
            );
        }
        Recorded::Healed { from: Some(from), to } => {
            log::warn!("versions after {from} and before {to} were committed unseen; version {to} is a snapshot");
        }
        Recorded::Healed { from: None, to } => log::info!("the backup begins with a snapshot of version {to}"),
    }
}

fn newest(recording: &Recording) -> Option<Newest> {
    recording.newest().map(|newest| Newest {
        data_version: newest.data_version,
        seq: newest.seq,
        recorded_at: newest.recorded_at,
    })
}
