//! [`BackupWriter`]: a backup being recorded to. Applies the version rules to every write and makes it durable.

mod comparison;
mod heal;
mod identity;
mod interrupted;
pub(crate) mod record_error;
mod spooling;
mod stamp_file;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::backup::Backup;
use crate::backup::attach::{Attached, Expected, attach};
use crate::backup::attach_error::OpenRecordingError;
use crate::backup::shared_lock::{HealUnderWay, SharedLock};
use crate::backup::state::UnsealedChanges;
use crate::config::backup_lock::{BackupLock, OnGap};
use crate::config::backup_url::BackupUrl;
use crate::config::log_limits::LogLimits;
use crate::config::on_unreachable::OnUnreachable;
use crate::history::{History, NewestVersion, Recorded};
use crate::log::{AppendError, DbWrite, LogWriter};
use crate::parity::share::ParityShare;
use crate::recording::record_error::RecordError;
use crate::segment::version::Readable;
use crate::storage::boot::{commit_in_boot, current_boot};
use crate::storage::{Directory, InFlightCalls, RealDirectory, StorageError};
use comparison::Comparison;
use format::change_flags::{ChangeFlags, Predecessor, RunStart};
use format::commit_note::CommitNote;
use format::manifest::Manifest;
use format::snapshot_ref::SnapshotReason;
use format::units::{DataVersion, Seq, Timestamp};
use format::version_rules::{Bump, Commit, Decision, Newest, decide};
use heal::Closed;
use identity::Identity;
pub use interrupted::Interrupted;
use spooling::{Spooling, destination};

/// Time within which the recorder of the previous run must end. A supervisor restarts a node that died at once, and its recorder
/// may still be waiting for the disk.
const PREDECESSOR_ENDS_WITHIN: Duration = Duration::from_secs(3);
const LOCK_RETRY_AFTER: Duration = Duration::from_millis(20);

/// A batch that is not durable yet.
struct Pushed {
    recorded: Recorded,
    /// Seq of the change.
    seq: Seq,
    /// The requested change that does not replay, when the batch was filled.
    unreplayable: Option<Seq>,
    /// Marks a snapshot in progress until its record is durable.
    _healing: Option<HealUnderWay>,
}

/// A backup being recorded to, or its spool. Has the lock until it is dropped.
#[derive(Debug)]
pub struct BackupWriter {
    known: Known,
    directory: Arc<dyn Directory>,
    log: LogWriter,
    lock: SharedLock,
    goes: Goes,
}

/// The destination of changes.
#[derive(Debug)]
enum Goes {
    ToBackup,
    ToSpool(Spooling),
}

/// State of a recording without its open files: it survives when the backup has to be closed.
#[derive(Debug)]
struct Known {
    url: BackupUrl,
    /// The directory of `backup.lock`.
    lightning_dir: Arc<dyn Directory>,
    database: PathBuf,
    on_gap: OnGap,
    on_unreachable: OnUnreachable,
    parity: ParityShare,
    limits: LogLimits,
    manifest: Manifest,
    newest: Option<NewestVersion>,
    commit: Commit,
    run_start: RunStart,
    /// Whether the database equals what was recorded.
    comparison: Comparison,
    /// The last record, if it is a commit.
    note: Option<CommitNote>,
    /// The current boot; nil when unknown.
    boot: Uuid,
    /// The change behind the newest snapshot of this run.
    newest_snapshot: Option<Seq>,
    /// The history before this run, until its first write is durable.
    history_before_run: Option<History>,
    identity: Identity,
}

impl BackupWriter {
    /// Opens the backup of `backup.lock` in `lightning_dir` and recovers its log; logs end at `limits`. Waits some seconds for
    /// the recorder of the previous run to end.
    ///
    /// # Errors
    /// When `backup.lock` or the backup is not usable, or another recorder has the lock.
    pub fn open(lightning_dir: &Path, limits: LogLimits) -> Result<Self, OpenRecordingError> {
        let lock = BackupLock::read(lightning_dir)?;
        Self::open_locked(&lock, lightning_dir, limits, &Arc::default())
    }

    /// Like [`open`](Self::open), with a `backup.lock` that was already read; `in_flight` shows how long calls to the backup
    /// take.
    ///
    /// # Errors
    /// The same as for [`open`](Self::open).
    pub fn open_locked(
        lock: &BackupLock,
        lightning_dir: &Path,
        limits: LogLimits,
        in_flight: &Arc<InFlightCalls>,
    ) -> Result<Self, OpenRecordingError> {
        let directory = destination(&lock.backend_url, &lock.on_unreachable, in_flight)?;
        let deadline = Instant::now() + PREDECESSOR_ENDS_WITHIN;
        loop {
            match Self::open_in(Arc::clone(&directory), lock, lightning_dir, limits) {
                Err(OpenRecordingError::Locked { .. }) if Instant::now() < deadline => thread::sleep(LOCK_RETRY_AFTER),
                opened => return opened.inspect(Self::preallocate_logs),
            }
        }
    }

    /// Starts to preallocate logs in the background.
    pub fn preallocate_logs(&self) {
        if let Err(error) = self.log.preallocated().keep_ready(self.share_lock()) {
            log::warn!(
                "the next log is not preallocated: cannot start a thread ({error}). Recording goes on; the first answer of \
                 each log takes longer"
            );
        }
    }

    /// Preallocates a log now, as the background thread would.
    #[cfg(test)]
    pub(crate) fn preallocate(&self) -> Result<(), StorageError> {
        self.log.preallocated().make().map(|_| ())
    }

    pub(crate) fn open_in(
        directory: Arc<dyn Directory>,
        backup_lock: &BackupLock,
        lightning_dir: &Path,
        limits: LogLimits,
    ) -> Result<Self, OpenRecordingError> {
        let beside_lock = Arc::new(RealDirectory::new(lightning_dir));
        Self::open_beside(directory, backup_lock, beside_lock, backup_lock.database_path(lightning_dir), limits)
    }

    /// Like [`open_in`](Self::open_in), with the directory of `backup.lock`.
    pub(crate) fn open_beside(
        directory: Arc<dyn Directory>,
        backup_lock: &BackupLock,
        lightning_dir: Arc<dyn Directory>,
        database: PathBuf,
        limits: LogLimits,
    ) -> Result<Self, OpenRecordingError> {
        let url = backup_lock.backend_url.clone();
        let Attached { lock, manifest, log, history } =
            attach(&directory, &url, backup_lock.backup_uuid, limits, &Expected::Anything)?;
        let recorded = history.newest_recorded();
        let newest = recorded.map(|newest| NewestVersion {
            data_version: newest.data_version,
            seq: newest.seq,
            recorded_at: newest.recorded_at,
        });
        let note = history.note();
        let mut comparison = Comparison::of_new_run(database.clone(), note);
        if recorded.is_some_and(|newest| newest.readable == Readable::No) {
            comparison.await_snapshot();
        }
        let known = Known {
            url,
            lightning_dir,
            database,
            on_gap: backup_lock.on_gap,
            on_unreachable: backup_lock.on_unreachable.clone(),
            parity: backup_lock.parity.unwrap_or_default(),
            limits,
            manifest,
            newest,
            commit: recorded.map_or(Commit::Certain, |newest| newest.commit),
            run_start: RunStart::First,
            comparison,
            note,
            boot: current_boot(),
            newest_snapshot: None,
            history_before_run: Some(history),
            identity: Identity::default(),
        };
        let recording = Self { known, directory, log, lock, goes: Goes::ToBackup };
        recording.note_spool()?;
        Ok(recording)
    }

    /// Records a write. `Ok` means that it is durable: answer "continue".
    ///
    /// # Errors
    /// The write is not recorded, and `lightningd` must not commit it. The message tells the operator what to do.
    pub fn record(&mut self, write: &DbWrite<'_>) -> Result<Recorded, RecordError> {
        let data_version = write.data_version;
        if write.statements.is_empty() {
            return Err(RecordError::NoStatements { data_version });
        }
        // After a failed write the last batch may be in the log or not, so even its snapshot must not be replaced.
        self.log.check_sound().map_err(|source| self.not_appended(source))?;
        let bump = Bump::find(data_version, write.statements);
        self.check_identity(bump.committed(data_version))?;
        let pushed = self.push(write, bump).inspect_err(|_| self.log.discard())?;
        self.commit_batch()?;
        if let Goes::ToSpool(spooling) = &mut self.goes {
            spooling.spooled.count(write);
        }
        match pushed.recorded {
            Recorded::Healed { .. } | Recorded::Replaced { .. } => {
                self.known.comparison.snapshot_was_taken();
                self.known.newest_snapshot = Some(pushed.seq);
                pushed.unreplayable.into_iter().for_each(|seq| self.lock.forget_unreplayable(seq));
            }
            Recorded::Gap { .. } => self.known.comparison.await_snapshot(),
            Recorded::Appended | Recorded::Rewound { .. } => {}
        }
        self.known.comparison.recorded(bump);
        self.known.note = None;
        self.known.newest = Some(NewestVersion { data_version, seq: pushed.seq, recorded_at: write.received_at });
        self.known.commit = Commit::after(bump);
        self.known.run_start = RunStart::Later;
        self.known.history_before_run = None;
        Ok(pushed.recorded)
    }

    fn commit_batch(&mut self) -> Result<(), RecordError> {
        let committed = self.log.commit();
        committed.map_err(|source| self.not_appended(source))
    }

    fn not_appended(&self, source: AppendError) -> RecordError {
        match &self.goes {
            Goes::ToBackup => source.into(),
            Goes::ToSpool(_) => {
                RecordError::Spool { path: self.directory.path().to_path_buf(), url: self.known.url.clone(), source }
            }
        }
    }

    /// Fills the batch with the write, and with the records that must precede it.
    fn push(&mut self, write: &DbWrite<'_>, bump: Bump) -> Result<Pushed, RecordError> {
        let (data_version, now) = (write.data_version, write.received_at);
        let committed = bump.committed(data_version);
        let unreplayable = self.unreplayable();
        let from = self.known.newest.map(|newest| newest.data_version);
        // Before the first version there is nothing to compare with.
        let has_predecessor = from.is_some() && committed != DataVersion::new(0);
        let mut healing = None;
        let recorded = match decide(self.newest_for_rules(), data_version, bump) {
            decision @ (Decision::Append | Decision::Rewind) => {
                let rewound = (decision == Decision::Rewind).then(|| self.push_rewind(now));
                let replacement = if has_predecessor { self.compare_database(committed, unreplayable)? } else { None };
                match (replacement, rewound) {
                    (Some(reason), rewound) => {
                        healing = Some(self.lock.begin_to_heal());
                        match self.push_snapshot(committed, now, reason, unreplayable) {
                            Ok(()) => Recorded::Replaced { data_version: committed, rewound },
                            // A known difference must not be built upon: without a snapshot the write fails.
                            Err(error) if reason != SnapshotReason::Changed && error.is_no_space() => {
                                self.put_off_snapshot(committed, &error);
                                rewound.map_or(Recorded::Appended, |data_version| Recorded::Rewound { data_version })
                            }
                            Err(error) => return Err(error),
                        }
                    }
                    (None, Some(data_version)) => Recorded::Rewound { data_version },
                    (None, None) => Recorded::Appended,
                }
            }
            // Without a bump it would count as a write behind unknown versions.
            Decision::Heal { .. } if bump == Bump::Absent && Bump::is_worded_otherwise(write.statements) => {
                return Err(RecordError::UnknownBump { data_version });
            }
            Decision::Heal { committed } => {
                healing = Some(self.lock.begin_to_heal());
                match self.push_heal(committed, bump, now, unreplayable)? {
                    Closed::BySnapshot => Recorded::Healed { from, to: committed },
                    Closed::NotYet => Recorded::Gap { from, to: committed },
                }
            }
            Decision::Refuse { committed, newest } => {
                return Err(RecordError::OldState { committed, newest, url: self.known.url.clone() });
            }
        };
        let predecessor = match recorded {
            Recorded::Appended | Recorded::Rewound { .. } if has_predecessor => self.known.comparison.predecessor(),
            _ => Predecessor::Verified,
        };
        let flags = ChangeFlags { run_start: self.known.run_start, predecessor };
        let seq = self.log.push_change(data_version, now, flags, bump, write.statements)?;
        Ok(Pushed { recorded, seq, unreplayable, _healing: healing })
    }

    /// The first change that does not replay, without a snapshot behind it.
    fn unreplayable(&self) -> Option<Seq> {
        let asked = self.lock.unreplayable()?;
        if self.known.newest_snapshot.is_some_and(|snapshot| asked < snapshot) {
            // The request came after the snapshot.
            self.lock.forget_unreplayable(asked);
            return None;
        }
        Some(asked)
    }

    /// Records at the end of a run that `lightningd` committed the newest version, so that the next run need not compare
    /// databases. Nothing is recorded when this run recorded nothing, or a comparison is pending.
    ///
    /// # Errors
    /// When the record cannot be made durable.
    pub fn note_commit(&mut self) -> Result<(), AppendError> {
        if self.known.run_start == RunStart::First || self.known.note.is_some() {
            return Ok(());
        }
        let Some(newest) = self.known.newest else { return Ok(()) };
        let Some(note) = self.commit_note(newest.data_version) else { return Ok(()) };
        self.log.push_commit(newest.data_version, Timestamp::now(), &note);
        self.log.commit()?;
        self.known.note = Some(note);
        if self.known.commit == Commit::Unknown {
            self.known.commit = Commit::Seen;
        }
        Ok(())
    }

    /// The lock, for a thread that continues to modify the backup after this is dropped.
    pub fn share_lock(&self) -> SharedLock {
        self.lock.clone()
    }

    /// Removes the preallocated log. Call it at the end of a run.
    ///
    /// The unused end of the open log stays: the next run begins in it, and its first answer need not wait for allocation.
    ///
    /// # Errors
    /// When the operating system refuses. No data is lost.
    pub fn remove_preallocated(&mut self) -> Result<(), StorageError> {
        self.log.preallocated().remove()
    }

    fn newest_for_rules(&self) -> Option<Newest> {
        let commit = commit_in_boot(self.known.commit, self.known.note, self.known.boot);
        self.known.newest.map(|newest| Newest { data_version: newest.data_version, commit })
    }

    /// Adds a rewind of the newest change to the batch; returns its version.
    fn push_rewind(&mut self, now: Timestamp) -> DataVersion {
        let NewestVersion { data_version, seq, .. } =
            self.known.newest.expect("BUG: only a recorded change is rewound");
        match self.known.commit {
            Commit::Unknown | Commit::Certain => {
                log::info!(
                    "lightningd never committed version {data_version} as recorded: that record is void (rewound)"
                );
            }
            Commit::Seen => {
                let before = data_version.previous();
                log::warn!(
                    "version {data_version} was committed when lightningd stopped, and now the database is at version {before}. The \
                     machine was started anew since: a power failure can have undone that commit. Version {data_version} becomes \
                     void (rewound), and lightningd goes on from {before}. If this database may be an old copy, stop lightningd \
                     and restore the newest version of {url} with `backupfs restore`: that is safer",
                    url = self.known.url
                );
                // The operator can read it before lightningd continues.
                log::logger().flush();
            }
        }
        self.log.push_rewind(data_version.previous(), now, seq);
        data_version
    }

    /// The newest recorded version; `None` when there is none yet.
    pub fn newest(&self) -> Option<NewestVersion> {
        self.known.newest
    }

    /// End of the sealed history, and the unsealed changes; `None` once this run has recorded a write.
    pub fn unsealed(&self) -> Option<UnsealedChanges> {
        UnsealedChanges::of(self.known.history_before_run.as_ref()?).ok()
    }

    /// The URL of the backup.
    pub fn url(&self) -> &BackupUrl {
        &self.known.url
    }

    /// The backup for reading, with files of its own. Nothing is opened yet.
    pub fn backup(&self) -> Backup {
        let backup = Backup::of(Arc::new(RealDirectory::new(self.known.url.path())), self.known.manifest.clone());
        backup.set_parity_share(self.known.parity);
        backup
    }

    /// Manifest of the backup.
    pub fn manifest(&self) -> &Manifest {
        &self.known.manifest
    }
}

#[cfg(test)]
mod changed_tests;
#[cfg(test)]
mod preallocated_tests;
#[cfg(test)]
mod replaced_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod trouble_tests;
