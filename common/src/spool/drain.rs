//! [`Drain`]: bringing what was spooled into the backup.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use super::contents::{ends, first_record, logs};
use crate::backup::Backup;
use crate::backup::attach::{Attached, Expected, attach};
use crate::backup::attach_error::OpenRecordingError;
use crate::backup::shared_lock::SharedLock;
use crate::config::backup_url::BackupUrl;
use crate::config::log_limits::LogLimits;
use crate::log::{AppendError, LogCursor, LogEnd, LogWriter, RecoverError, cut_behind};
use crate::storage::read_error::ReadError;
use crate::storage::{DeadlineDirectory, Directory, RealDirectory};
use format::manifest::Manifest;
use format::record::{Body, Record};
use format::spool::SpoolHeader;
use format::units::Seq;
use format::version_rules::Bump;

/// Most records that are made ready to be appended at once.
const BATCH_RECORDS: usize = 64;

/// How long a call may take while only the drain waits for it. Then it is left behind, and the next attempt is made with
/// what the path leads to by then: a server that is back, or was mounted anew.
const CALL_TAKES_AT_MOST: Duration = Duration::from_secs(600);

/// Why a spool is not drained. It stays as it is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DrainError {
    /// The backup cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenRecordingError),
    /// No thread can be started for it.
    #[error("cannot start a thread")]
    Thread(#[from] io::Error),
    /// The backup holds something else.
    #[error(
        "the backup {url} and the spool {spool} have gone different ways: the backup ends with record {backup_ends}, which \
         the spool does not go on from. Another recorder has written to the backup, or it was replaced by another copy. \
         Nothing is changed in either; keep both, find out which node wrote to it, and bring back the backup that the spool \
         goes on from"
    )]
    Forked {
        /// The backup.
        url: BackupUrl,
        /// The spool.
        spool: String,
        /// Its last record; 0 for none.
        backup_ends: u64,
    },
    /// A record cannot be made again as it is in the spool.
    #[error("record {seq} of the spool cannot be written with the same bytes (a bug: please report it)")]
    NotTheSame {
        /// Its seq.
        seq: Seq,
    },
    /// The spool cannot be read.
    #[error("the spool cannot be read; keep it, for what is in it may be the newest there is")]
    Read(#[from] ReadError),
    /// The backup cannot be written to.
    #[error(transparent)]
    Append(#[from] AppendError),
}

impl DrainError {
    /// Whether it may be different soon.
    pub fn is_trouble(&self) -> bool {
        match self {
            Self::Open(OpenRecordingError::Locked { .. }) | Self::Thread(_) => true,
            Self::Open(error) => error.is_trouble(),
            Self::Read(error) => matches!(error, ReadError::Storage(_)),
            Self::Append(AppendError::Storage(_) | AppendError::Poisoned { .. }) => true,
            Self::Append(AppendError::TooLong(_)) | Self::Forked { .. } | Self::NotTheSame { .. } => false,
        }
    }
}

/// What is to be drained, and to where.
#[derive(Debug, Clone)]
pub struct DrainPlan {
    pub(crate) url: BackupUrl,
    pub(crate) limits: LogLimits,
    pub(crate) header: SpoolHeader,
    pub(crate) spool: Arc<dyn Directory>,
    /// Behind the last record that is acknowledged.
    pub(crate) recorded: LogEnd,
}

/// A backup that is being brought up to date. Holds its lock.
#[derive(Debug)]
pub struct Drain {
    pub(crate) directory: Arc<dyn Directory>,
    pub(crate) lock: SharedLock,
    pub(crate) manifest: Manifest,
    pub(crate) log: LogWriter,
    leavable: Option<DeadlineDirectory>,
    /// In the spool, behind what the backup has; `None` when the backup has all of it, and it has no log any more.
    cursor: Option<LogCursor>,
}

impl DrainPlan {
    /// Opens the backup and finds the place in the spool that it ends at. May take long when the backup's place hangs.
    ///
    /// # Errors
    /// When the backup cannot be opened, or it does not end with a record of the spool or the one before.
    pub fn attach(&self) -> Result<Drain, DrainError> {
        // While it drains nobody waits for its calls but itself.
        let leavable = DeadlineDirectory::new(Arc::new(RealDirectory::new(self.url.path())), Arc::default())?;
        leavable.set_timeout(CALL_TAKES_AT_MOST);
        self.attach_in(Arc::new(leavable.clone()), Some(leavable))
    }

    pub(crate) fn attach_in(
        &self,
        directory: Arc<dyn Directory>,
        leavable: Option<DeadlineDirectory>,
    ) -> Result<Drain, DrainError> {
        let uuid = self.header.manifest.uuid;
        let attached = attach(&directory, &self.url, Some(uuid), self.limits, &Expected::Anything)?;
        let Attached { lock, manifest, mut log, .. } = attached;
        let (from, attempted) = ends(&self.header);
        let cursor = match self.find(log.end()) {
            // It ends with what was being written to it when it failed, and the spool has what came instead. A spool whose
            // first log is gone has been drained: what the backup ends with was acknowledged then, whatever it equals.
            Err(DrainError::Forked { .. }) if attempted.contains(&log.end()) && self.is_whole()? => {
                let cut = || -> Result<(), OpenRecordingError> {
                    let backup = Backup::of(Arc::clone(&directory), manifest.clone());
                    let (_, cursor) = backup.sealed_history().map_err(RecoverError::from)?;
                    cut_behind(cursor, from, &attempted)
                        .map_err(|source| OpenRecordingError::NotWhatWeWrote { url: self.url.clone(), source })
                };
                drop(log);
                cut()?;
                log = attach_again(&directory, &manifest, self.limits)?;
                self.find(log.end())?
            }
            // What it ends with is in the spool as well, and durable: that was made sure of when its log was put right.
            found => found?,
        };
        Ok(Drain { directory, lock, manifest, log, leavable, cursor })
    }

    /// Whether the spool still begins where it was begun.
    fn is_whole(&self) -> Result<bool, ReadError> {
        Ok(logs(&*self.spool)?.first() == Some(&self.header.from.0))
    }

    /// The place in the spool where the chain is at this end; `None` when the spool was drained up to there, and could not
    /// be emptied to the last file. Each checksum covers the one before: what is equal there is equal from the beginning.
    fn find(&self, end: LogEnd) -> Result<Option<LogCursor>, DrainError> {
        let forked = || DrainError::Forked {
            url: self.url.clone(),
            spool: self.spool.path().display().to_string(),
            backup_ends: end.next_seq.get() - 1,
        };
        let Some(mut cursor) = first_record(&self.spool, &self.header)? else {
            return if end == self.recorded { Ok(None) } else { Err(forked()) };
        };
        cursor.read_until(&mut |record| go_on_if(record.header.seq < end.next_seq))?;
        if cursor.end() == end { Ok(Some(cursor)) } else { Err(forked()) }
    }
}

/// Opens the log of a backup whose lock is held.
fn attach_again(
    directory: &Arc<dyn Directory>,
    manifest: &Manifest,
    limits: LogLimits,
) -> Result<LogWriter, OpenRecordingError> {
    let backup = Backup::of(Arc::clone(directory), manifest.clone());
    let (mut history, cursor) = backup.sealed_history().map_err(RecoverError::from)?;
    let mut log = crate::log::recover(cursor, &mut |record, place| history.apply(record, place))?;
    log.set_limits(limits);
    Ok(log)
}

impl Drain {
    /// Appends the records of the spool up to `through`, which must be acknowledged there: before that they may yet go.
    ///
    /// # Errors
    /// When a record cannot be read or appended. This drain is of no use any more; another one goes on behind what is in
    /// the backup.
    pub fn advance(&mut self, through: LogEnd) -> Result<(), DrainError> {
        let Self { log, cursor: Some(cursor), .. } = self else { return Ok(()) };
        while cursor.next_seq() < through.next_seq {
            let (mut taken, mut failed) = (0, None);
            let before = cursor.end();
            cursor.read_until(&mut |record| {
                if taken == BATCH_RECORDS || record.header.seq >= through.next_seq {
                    return ControlFlow::Break(());
                }
                taken += 1;
                failed = push(log, record).err();
                go_on_if(failed.is_none())
            })?;
            if let Some(error) = failed {
                return Err(error);
            }
            let end = cursor.end();
            if end == before || log.batch_end() != end {
                return Err(DrainError::NotTheSame { seq: before.next_seq });
            }
            // As every append: each record is durable before the next is written.
            log.commit()?;
        }
        Ok(())
    }

    /// Where the backup ends by now.
    pub fn end(&self) -> LogEnd {
        self.log.end()
    }

    /// From now on a call to the backup's place may take so long.
    pub fn set_timeout(&self, timeout: Duration) {
        if let Some(leavable) = &self.leavable {
            leavable.set_timeout(timeout);
        }
    }
}

fn go_on_if(condition: bool) -> ControlFlow<()> {
    if condition { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
}

/// Adds a record to the batch as it is in the spool.
fn push(log: &mut LogWriter, record: &Record<'_>) -> Result<(), DrainError> {
    let header = &record.header;
    match &record.body {
        Body::Change { flags, statements } => {
            let bump = Bump::find(header.data_version, statements);
            log.push_change(header.data_version, header.time, *flags, bump, statements)?;
        }
        Body::Rewind { rewound } => {
            log.push_rewind(header.data_version, header.time, *rewound);
        }
        Body::Commit(note) => {
            log.push_commit(header.data_version, header.time, note);
        }
        Body::Gap | Body::Snapshot(_) => return Err(DrainError::NotTheSame { seq: header.seq }),
    }
    Ok(())
}
