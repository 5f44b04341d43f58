//! [`Drain`]: appends the records of a spool to the backup.

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

/// Maximum number of records per batch.
const BATCH_RECORDS: usize = 64;

/// Deadline of a call while only the drain waits for it. Then it is abandoned, and the next attempt opens the path again: a
/// server may be back, or mounted again.
const CALL_TAKES_AT_MOST: Duration = Duration::from_secs(600);

/// The reason why a spool is not drained. It is unchanged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DrainError {
    /// The backup cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenRecordingError),
    /// The thread cannot be started.
    #[error("cannot start a thread")]
    Thread(#[from] io::Error),
    /// The backup has other records.
    #[error(
        "the backup {url} and the spool {spool} have gone different ways: the backup ends with record {backup_ends}, which \
         the spool does not go on from. Another recorder has written to the backup, or it was replaced by another copy. \
         Nothing is changed in either; keep both, find out which node wrote to it, and bring back the backup that the spool \
         goes on from"
    )]
    Forked {
        /// The URL of the backup.
        url: BackupUrl,
        /// Path of the spool.
        spool: String,
        /// Seq of the backup's last record; 0 for none.
        backup_ends: u64,
    },
    /// A record cannot be encoded as it is in the spool.
    #[error("record {seq} of the spool cannot be written with the same bytes (a bug: please report it)")]
    NotTheSame {
        /// Seq of the record.
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
    /// Whether a later attempt may succeed.
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

/// Source and destination of a drain.
#[derive(Debug, Clone)]
pub struct DrainPlan {
    pub(crate) url: BackupUrl,
    pub(crate) limits: LogLimits,
    pub(crate) header: SpoolHeader,
    pub(crate) spool: Arc<dyn Directory>,
    /// End of the last acknowledged record.
    pub(crate) recorded: LogEnd,
}

/// A locked backup that is being brought up to date.
#[derive(Debug)]
pub struct Drain {
    pub(crate) directory: Arc<dyn Directory>,
    pub(crate) lock: SharedLock,
    pub(crate) manifest: Manifest,
    pub(crate) log: LogWriter,
    with_deadline: Option<DeadlineDirectory>,
    /// Cursor in the spool, behind the records of the backup; `None` when the backup has all of them and no log is left.
    cursor: Option<LogCursor>,
}

impl DrainPlan {
    /// Opens the backup and finds its end in the spool. May take long when the backup hangs.
    ///
    /// # Errors
    /// When the backup cannot be opened, or does not end with a record of the spool or the one before.
    pub fn attach(&self) -> Result<Drain, DrainError> {
        // During the drain only the drain itself waits for these calls.
        let with_deadline = DeadlineDirectory::new(Arc::new(RealDirectory::new(self.url.path())), Arc::default())?;
        with_deadline.set_timeout(CALL_TAKES_AT_MOST);
        self.attach_in(Arc::new(with_deadline.clone()), Some(with_deadline))
    }

    pub(crate) fn attach_in(
        &self,
        directory: Arc<dyn Directory>,
        with_deadline: Option<DeadlineDirectory>,
    ) -> Result<Drain, DrainError> {
        let uuid = self.header.manifest.uuid;
        let attached = attach(&directory, &self.url, Some(uuid), self.limits, &Expected::Anything)?;
        let Attached { lock, manifest, mut log, .. } = attached;
        let (from, attempted) = ends(&self.header);
        let cursor = match self.find(log.end()) {
            // The backup ends with records that were being written when it failed, and the spool has their replacement. If the
            // first log of the spool is gone, the spool has been drained: then the last records of the backup were acknowledged,
            // with any contents.
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
            // The last records of the backup are also in the spool, and durable since its log was recovered.
            found => found?,
        };
        Ok(Drain { directory, lock, manifest, log, with_deadline, cursor })
    }

    /// Whether the spool still has its first log.
    fn is_whole(&self) -> Result<bool, ReadError> {
        Ok(logs(&*self.spool)?.first() == Some(&self.header.from.0))
    }

    /// The position in the spool at this end of the chain; `None` when the spool was drained up to there and not emptied
    /// completely. Each checksum covers the previous one: equal ends mean equal records from the beginning.
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

/// Opens the log of a locked backup.
fn attach_again(
    directory: &Arc<dyn Directory>,
    manifest: &Manifest,
    limits: LogLimits,
) -> Result<LogWriter, OpenRecordingError> {
    let backup = Backup::of(Arc::clone(directory), manifest.clone());
    let (mut history, cursor) = backup.sealed_history().map_err(RecoverError::from)?;
    let mut log = crate::log::recover(cursor, &mut |record, address| history.apply(record, address))?;
    log.set_limits(limits);
    Ok(log)
}

impl Drain {
    /// Appends the records of the spool up to `through`, which must be acknowledged there: earlier they may still be removed.
    ///
    /// # Errors
    /// When a record cannot be read or appended. This drain cannot be used further; another one continues behind the records of
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
            // As with every append, each record is durable before the next is written.
            log.commit()?;
        }
        Ok(())
    }

    /// The current end of the backup.
    pub fn end(&self) -> LogEnd {
        self.log.end()
    }

    /// Sets the deadline of calls to the backup.
    pub fn set_timeout(&self, timeout: Duration) {
        if let Some(with_deadline) = &self.with_deadline {
            with_deadline.set_timeout(timeout);
        }
    }
}

fn go_on_if(condition: bool) -> ControlFlow<()> {
    if condition { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
}

/// Adds a record of the spool to the batch.
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
