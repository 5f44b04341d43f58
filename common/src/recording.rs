//! [`Recording`]: the recorder's hold on a backup. Applies the version rules to every write and makes it durable.

mod attach;
mod heal;
mod identity;
mod interrupted;
mod spooling;

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::backup::Backup;
use crate::format::manifest::Manifest;
use crate::format::record::RunStart;
use crate::history::History;
use crate::live_database::LiveDatabase;
use crate::log::{AppendError, LogWriter};
use crate::storage::{Directory, Pulse, RealDirectory, StorageError};
use crate::version_rules::{Bump, Commit, Decision, Newest, decide};
use crate::{
    BackupLock, BackupUrl, DataVersion, LogLimits, OnGap, OnUnreachable, OpenRecordingError, RecordError, Seq,
    Timestamp, UnsealedChanges,
};
pub(crate) use attach::{Attached, Expected, attach};
use identity::Identity;
pub use interrupted::Interrupted;
use spooling::{Spooling, destination};

/// A `db_write` to record.
#[derive(Debug)]
pub struct DbWrite<'a> {
    /// The version it leads to.
    pub data_version: DataVersion,
    /// Its statements, in order, as received.
    pub statements: &'a [Cow<'a, str>],
    /// When it was received.
    pub received_at: Timestamp,
}

/// The newest recorded version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewestVersion {
    /// Its number.
    pub data_version: DataVersion,
    /// Its record.
    pub seq: Seq,
    /// When that was received.
    pub recorded_at: Timestamp,
}

/// What was recorded for a write, beside the write itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    /// Nothing else.
    Appended,
    /// That the change before it was never committed.
    Rewound {
        /// The version that change would have led to.
        data_version: DataVersion,
    },
    /// That the newest change is not what `lightningd` committed under its number, and a snapshot of what it did commit.
    Replaced {
        /// The version of the snapshot.
        data_version: DataVersion,
    },
    /// A snapshot that closes a gap.
    Healed {
        /// The newest version before the gap; `None` when there was none.
        from: Option<DataVersion>,
        /// The version of the snapshot.
        to: DataVersion,
    },
}

/// How long the recorder of the run before may take to end. A supervisor starts a node that died at once, and its recorder
/// may still be waiting for the disk.
const PREDECESSOR_ENDS_WITHIN: Duration = Duration::from_secs(3);
const LOCK_RETRY_AFTER: Duration = Duration::from_millis(20);

/// A batch that is not durable yet.
struct Pushed {
    recorded: Recorded,
    /// Seq of the change.
    seq: Seq,
    /// If a snapshot was taken for it: until its record is durable.
    _healing: Option<HealUnderWay>,
}

/// A backup being recorded to. Holds its lock until dropped.
#[derive(Debug)]
pub struct Recording {
    known: Known,
    directory: Arc<dyn Directory>,
    log: LogWriter,
    lock: SharedLock,
    goes: Goes,
}

/// Where changes go.
#[derive(Debug)]
enum Goes {
    ToBackup,
    ToSpool(Spooling),
}

/// What a recorder knows beside what it holds open: it stays when the backup has to be let go of.
#[derive(Debug)]
struct Known {
    url: BackupUrl,
    /// Where `backup.lock` is.
    lightning_dir: Arc<dyn Directory>,
    database: PathBuf,
    on_gap: OnGap,
    on_unreachable: OnUnreachable,
    limits: LogLimits,
    manifest: Manifest,
    newest: Option<NewestVersion>,
    commit: Commit,
    run_start: RunStart,
    comparison: Comparison,
    /// What was recorded before this run, until its first write is durable.
    history_before_run: Option<History>,
    identity: Identity,
}

/// Whether the change that was the newest when the run began has to be compared with the database yet, because the run began
/// in a spool. It is the next run that does it, of which the newest version builds on that change: a node that is running does
/// not wait until all that was drained has been replayed, and the whole database read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    NotDue,
    Due,
}

/// The lock of a backup, held until the last clone is dropped: whoever changes the backup has one.
#[derive(Debug, Clone)]
pub struct SharedLock {
    _held: Arc<dyn fmt::Debug + Send + Sync>,
    healing: Arc<Mutex<Healing>>,
}

/// Whether a snapshot is being taken of which there is no record yet: then nobody else can know what it builds on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Healing {
    No,
    Yes,
}

/// A snapshot is being taken until this is dropped.
#[derive(Debug)]
struct HealUnderWay(SharedLock);

impl SharedLock {
    /// That which is held by `lock`.
    pub(crate) fn of(lock: impl Into<Arc<dyn fmt::Debug + Send + Sync>>) -> Self {
        Self { _held: lock.into(), healing: Arc::new(Mutex::new(Healing::No)) }
    }

    /// Does what changes what a snapshot may build on, unless one is being taken. One that begins meanwhile waits for it.
    pub(crate) fn unless_healing<T>(&self, change: impl FnOnce() -> T) -> Option<T> {
        let healing = self.healing.lock().unwrap_or_else(PoisonError::into_inner);
        (*healing == Healing::No).then(change)
    }

    /// As a recorder does that takes a snapshot, until what is returned is dropped.
    #[cfg(test)]
    pub(crate) fn pretend_to_heal(&self) -> impl Drop + use<> {
        self.begin_to_heal()
    }

    fn begin_to_heal(&self) -> HealUnderWay {
        *self.healing.lock().unwrap_or_else(PoisonError::into_inner) = Healing::Yes;
        HealUnderWay(self.clone())
    }
}

impl Drop for HealUnderWay {
    fn drop(&mut self) {
        *self.0.healing.lock().unwrap_or_else(PoisonError::into_inner) = Healing::No;
    }
}

impl Recording {
    /// Takes the backup that `backup.lock` in `lightning_dir` names, puts its log right, and is ready to record; logs end at
    /// `limits`. Waits some seconds for the recorder of the run before to end.
    ///
    /// # Errors
    /// When `backup.lock` or the backup is not usable, or somebody else records to it.
    pub fn open(lightning_dir: &Path, limits: LogLimits) -> Result<Self, OpenRecordingError> {
        let lock = BackupLock::read(lightning_dir)?;
        Self::open_locked(&lock, lightning_dir, limits, &Arc::default())
    }

    /// As [`open`](Self::open), with a `backup.lock` that was read already; `pulse` tells how long calls to the backup's
    /// place take, from now on.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_locked(
        lock: &BackupLock,
        lightning_dir: &Path,
        limits: LogLimits,
        pulse: &Arc<Pulse>,
    ) -> Result<Self, OpenRecordingError> {
        let directory = destination(&lock.backend_url, &lock.on_unreachable, pulse)?;
        let deadline = Instant::now() + PREDECESSOR_ENDS_WITHIN;
        loop {
            match Self::open_in(Arc::clone(&directory), lock, lightning_dir, limits) {
                Err(OpenRecordingError::Locked { .. }) if Instant::now() < deadline => thread::sleep(LOCK_RETRY_AFTER),
                opened => return opened.inspect(Self::make_room_ahead),
            }
        }
    }

    /// From now on the file of the next log is made before it is needed.
    pub fn make_room_ahead(&self) {
        if let Err(error) = self.log.spares().keep_ready(self.share_lock()) {
            log::warn!(
                "the file of the next log is not made ahead: cannot start a thread ({error}). Recording goes on; an answer \
                 takes longer now and then"
            );
        }
    }

    /// Makes the file of the next log now, as the thread would that makes room ahead.
    #[cfg(test)]
    pub(crate) fn make_spare(&self) -> Result<(), StorageError> {
        self.log.spares().make().map(|_| ())
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

    /// As [`open_in`](Self::open_in), with the directory that `backup.lock` is in.
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
        let newest = history.newest().map(|newest| NewestVersion {
            data_version: newest.data_version,
            seq: newest.seq,
            recorded_at: newest.recorded_at,
        });
        let known = Known {
            url,
            lightning_dir,
            database,
            on_gap: backup_lock.on_gap,
            on_unreachable: backup_lock.on_unreachable.clone(),
            limits,
            manifest,
            newest,
            commit: history.newest_for_rules().map_or(Commit::Certain, |newest| newest.commit),
            run_start: RunStart::First,
            comparison: Comparison::NotDue,
            history_before_run: Some(history),
            identity: Identity::default(),
        };
        let recording = Self { known, directory, log, lock, goes: Goes::ToBackup };
        recording.note_spool()?;
        Ok(recording)
    }

    /// Records a write. When this returns `Ok`, it is durable: answer "continue".
    ///
    /// # Errors
    /// The write is not recorded and `lightningd` must not commit it. The message says what the operator can do.
    pub fn record(&mut self, write: &DbWrite<'_>) -> Result<Recorded, RecordError> {
        let data_version = write.data_version;
        if write.statements.is_empty() {
            return Err(RecordError::NoStatements { data_version });
        }
        // After a failed write the last batch may be in the log or not: not even its snapshot may be replaced.
        self.log.check_sound().map_err(|source| self.not_appended(source))?;
        self.check_identity()?;
        let bump = Bump::find(data_version, write.statements);
        let pushed = self.push(write, bump).inspect_err(|_| self.log.discard())?;
        self.commit_batch()?;
        if let Goes::ToSpool(spooling) = &mut self.goes {
            spooling.spooled.count(write);
        }
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

    /// Fills the batch with what the write is, and with what must be recorded before it.
    fn push(&mut self, write: &DbWrite<'_>, bump: Bump) -> Result<Pushed, RecordError> {
        let (data_version, now) = (write.data_version, write.received_at);
        let mut healing = None;
        let recorded = match decide(self.newest_for_rules(), data_version, bump) {
            Decision::Append if self.newest_is_another() => {
                healing = Some(self.lock.begin_to_heal());
                self.push_rewind(now);
                let committed = bump.committed(data_version);
                self.push_snapshot(committed, now)?;
                Recorded::Replaced { data_version: committed }
            }
            Decision::Append => Recorded::Appended,
            Decision::Rewind => {
                // The run before may have begun in a spool: then what the rewound change built on was never compared.
                let may_be_due = matches!(self.known.on_unreachable, OnUnreachable::Spool { .. });
                if self.known.run_start == RunStart::First && may_be_due {
                    self.known.comparison = Comparison::Due;
                }
                self.push_rewind(now)
            }
            // Without a bump it would be taken for a write behind versions that nobody has seen.
            Decision::Heal { .. } if bump == Bump::Absent && Bump::is_worded_otherwise(write.statements) => {
                return Err(RecordError::UnknownBump { data_version });
            }
            Decision::Heal { committed } => {
                let from = self.known.newest.map(|newest| newest.data_version);
                healing = Some(self.lock.begin_to_heal());
                self.push_heal(committed, now)?;
                Recorded::Healed { from, to: committed }
            }
            Decision::Refuse { committed, newest } => {
                return Err(RecordError::OldState { committed, newest, url: self.known.url.clone() });
            }
        };
        let seq = self.log.push_change(data_version, now, self.known.run_start, bump, write.statements)?;
        Ok(Pushed { recorded, seq, _healing: healing })
    }

    /// Notes that `lightningd` committed the newest change, when its database says so. To be called when a run has ended:
    /// the next one then need not compare whole databases to be sure.
    ///
    /// # Errors
    /// When the note cannot be made durable. Nothing is lost by that.
    pub fn note_commit(&mut self) -> Result<(), AppendError> {
        // Only of a change of this run: what the database holds of an earlier one was compared at its first write. Where that
        // was not done the next run does it, for it finds no such note.
        let is_due = self.known.run_start == RunStart::Later
            && self.known.commit == Commit::Unknown
            && self.known.comparison == Comparison::NotDue;
        let Some(newest) = self.known.newest.filter(|_| is_due) else { return Ok(()) };
        match LiveDatabase::open(&self.known.database).and_then(|database| database.data_version()) {
            Ok(found) if found == newest.data_version => {
                self.log.push_commit(newest.data_version, Timestamp::now());
                self.log.commit()?;
                self.known.commit = Commit::Seen;
            }
            Ok(_) => {}
            Err(error) => log::debug!("whether version {} was committed is not known: {error}", newest.data_version),
        }
        Ok(())
    }

    /// The lock, for a thread that goes on changing the backup when this is dropped.
    pub fn share_lock(&self) -> SharedLock {
        self.lock.clone()
    }

    /// Gives the room that was made for the next log back to the disk. To be called when a run has ended.
    ///
    /// The unused end of the log that is open stays: the next run begins in it, and its first answer need not wait for room.
    ///
    /// # Errors
    /// When the operating system refuses. Nothing is lost by that.
    pub fn give_back_room(&mut self) -> Result<(), StorageError> {
        self.log.spares().give_back()
    }

    fn newest_for_rules(&self) -> Option<Newest> {
        self.known.newest.map(|newest| Newest { data_version: newest.data_version, commit: self.known.commit })
    }

    /// Adds to the batch that the newest change never happened.
    fn push_rewind(&mut self, now: Timestamp) -> Recorded {
        let newest = self.known.newest.expect("BUG: only a recorded change is rewound");
        self.log.push_rewind(newest.data_version.previous(), now, newest.seq);
        Recorded::Rewound { data_version: newest.data_version }
    }

    /// The newest recorded version; `None` when there is none yet.
    pub fn newest(&self) -> Option<NewestVersion> {
        self.known.newest
    }

    /// What is sealed, and what is not, as it was found; `None` once something was recorded in this run.
    pub fn unsealed(&self) -> Option<UnsealedChanges> {
        UnsealedChanges::of(self.known.history_before_run.as_ref()?).ok()
    }

    /// Where the backup is.
    pub fn url(&self) -> &BackupUrl {
        &self.known.url
    }

    /// The backup, for reading: through files of its own. Nothing is opened yet.
    pub fn backup(&self) -> Backup {
        Backup::of(Arc::new(RealDirectory::new(self.known.url.path())), self.known.manifest.clone())
    }

    /// What the backup is.
    pub fn manifest(&self) -> &Manifest {
        &self.known.manifest
    }
}

#[cfg(test)]
mod spare_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod trouble_tests;
