//! The comparison of the node's database with the backup, checked with every write.
//!
//! A comparison is pending from the beginning of a run, unless the previous run noted the stamp that the database still has. A
//! run writes such a note at its end only if no comparison is pending: so a comparison that was not made, for any reason, is
//! pending in the next run.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::stamp_file::StampFile;
use super::{BackupWriter, Goes};
use crate::backup::Backup;
use crate::compare::commit_check::{Verdict, compare_version};
use crate::config::backup_lock::OnGap;
use crate::history::History;
use crate::live::live_database::{LiveDatabase, LiveDatabaseError};
use crate::recording::record_error::RecordError;
use format::change_flags::{Predecessor, RunStart};
use format::commit_note::CommitNote;
use format::snapshot_ref::SnapshotReason;
use format::units::{DataVersion, Seq};
use format::version_rules::Bump;

/// Pause after a comparison while lightningd runs, in durations of that comparison.
const PAUSE_PER_COMPARISON: u32 = 10;

/// Pause after a failed comparison while lightningd runs.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(60);

/// Maximum number of writes between two attempts to compare.
const WRITES_BETWEEN_ATTEMPTS_MAX: u32 = 1023;

/// The state of the comparison with the node's database.
#[derive(Debug, Clone)]
pub(super) struct Comparison {
    file: StampFile,
    state: State,
    /// Writes until the next attempt, and the number of the previous wait.
    wait: (u32, u32),
    /// The earliest time of a comparison because of the change counter.
    not_before: Option<Instant>,
    /// The earliest time of another attempt after a failure that may last.
    put_off_until: Option<Instant>,
    /// The result of the last check of the stamp, when no comparison is pending.
    predecessor: Predecessor,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing was checked in this run. The last record of the previous run, if it is a commit.
    Unlooked(Option<CommitNote>),
    /// The database equals what was recorded, as long as its change counter has this value. `None` in WAL mode, which has none.
    Paid { change_counter: Option<u32> },
    /// A comparison is pending.
    Owed(Debt),
}

/// The reason why a comparison is pending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Debt {
    /// The previous run ended without a note.
    NothingNoted,
    /// The database was written to since the note.
    StampChanged,
    /// The newest version cannot be opened: a snapshot is pending, without a comparison.
    Awaited,
}

impl Comparison {
    /// The state at the beginning of a run: `note` is the last record, if it is a commit.
    pub(super) fn of_new_run(database: std::path::PathBuf, note: Option<CommitNote>) -> Self {
        let (file, state) = (StampFile::new(database), State::Unlooked(note));
        let (wait, predecessor) = ((0, 0), Predecessor::Unverified);
        Self { file, state, wait, not_before: None, put_off_until: None, predecessor }
    }

    /// Requires a snapshot, because the newest version cannot be opened.
    pub(super) fn await_snapshot(&mut self) {
        (self.state, self.wait) = (State::Owed(Debt::Awaited), (0, 0));
    }

    /// A snapshot was taken, so the recorded version equals the database.
    pub(super) fn snapshot_was_taken(&mut self) {
        let stamp = self.file.read();
        self.paid(stamp.map(|stamp| stamp.change_counter));
    }

    /// The database equals what was recorded, after a comparison or a snapshot.
    fn paid(&mut self, change_counter: Option<u32>) {
        (self.state, self.wait, self.predecessor) = (State::Paid { change_counter }, (0, 0), Predecessor::Verified);
    }

    /// Postpones the comparison after a failure that may last.
    fn postpone(&mut self) {
        self.put_off_until = Instant::now().checked_add(PAUSE_AFTER_FAILURE);
        let writes = (self.wait.1 * 2 + 1).min(WRITES_BETWEEN_ATTEMPTS_MAX);
        self.wait = (writes, writes);
    }

    /// A write was recorded, which `lightningd` commits next.
    pub(super) fn recorded(&mut self, bump: Bump) {
        if let (State::Paid { change_counter: Some(counter) }, Bump::Present) = (&mut self.state, bump) {
            *counter = counter.wrapping_add(1);
        }
    }

    /// The expected change counter if only `lightningd` has written to the database; the outer `None` when a comparison is
    /// pending.
    pub(super) fn expected_counter(&self) -> Option<Option<u32>> {
        match self.state {
            State::Paid { change_counter } => Some(change_counter),
            State::Unlooked(_) | State::Owed(_) => None,
        }
    }

    /// Whether the database is known to equal the version before the next change.
    pub(super) fn predecessor(&self) -> Predecessor {
        match self.state {
            State::Paid { .. } => self.predecessor,
            State::Unlooked(_) | State::Owed(_) => Predecessor::Unverified,
        }
    }

    /// Whether the last attempt failed for a reason that may last.
    fn is_put_off(&self) -> bool {
        self.put_off_until.is_some_and(|then| then > Instant::now())
    }

    /// Whether the last comparison is too recent for another.
    fn pauses(&self) -> bool {
        self.not_before.is_some_and(|then| then > Instant::now())
    }

    /// Checks the stamp; returns whether the contents must be compared.
    fn is_due(&mut self) -> bool {
        let found = self.file.read();
        match self.state {
            State::Unlooked(note) => {
                let noted = note.and_then(|note| note.stamp);
                if noted.is_some() && noted == found {
                    self.paid(found.map(|stamp| stamp.change_counter));
                    return false;
                }
                self.state = State::Owed(if note.is_some() { Debt::StampChanged } else { Debt::NothingNoted });
                true
            }
            State::Paid { change_counter: Some(expected) } => {
                let is_changed = found.is_some_and(|stamp| stamp.change_counter != expected);
                self.predecessor = if is_changed { Predecessor::Unverified } else { Predecessor::Verified };
                is_changed && !self.is_put_off() && !self.pauses()
            }
            // A database has no stamp before its first transaction.
            State::Paid { change_counter: None } => {
                self.paid(found.map(|stamp| stamp.change_counter));
                false
            }
            State::Owed(_) if self.wait.0 > 0 => {
                self.wait.0 -= 1;
                false
            }
            State::Owed(_) => true,
        }
    }
}

impl BackupWriter {
    /// Compares the database with the version that `lightningd` has committed, if that is due; returns the reason for a snapshot
    /// before the write. When it cannot be compared now, the comparison stays pending.
    ///
    /// # Errors
    /// When the database differs and `backup.lock` says to stop then.
    pub(super) fn compare_database(
        &mut self,
        committed: DataVersion,
        unreplayable: Option<Seq>,
    ) -> Result<Option<SnapshotReason>, RecordError> {
        let is_due = self.known.comparison.is_due();
        let is_wanted = unreplayable.is_some() && !self.known.comparison.is_put_off();
        if !is_due && !is_wanted {
            return Ok(None);
        }
        if let Goes::ToSpool(_) = self.goes {
            if self.known.run_start == RunStart::First {
                log::warn!(
                    "whether the database is what was recorded as version {committed} cannot be checked while the backup is \
                     out of reach; that is done when it is back"
                );
            }
            return Ok(None);
        }
        let began = Instant::now();
        let database = match self.open_at(committed) {
            Ok(Some(database)) => database,
            // At the next write the lock is free: a transaction that spilled the cache has ended by then.
            Err(LiveDatabaseError::Busy { .. }) => return Ok(None),
            Ok(None) => {
                self.known.comparison.postpone();
                return Ok(None);
            }
            Err(error) => {
                self.cannot_compare(committed, &error);
                return Ok(None);
            }
        };
        let (history, can_be_replaced) = self.history_with(committed);
        if !can_be_replaced {
            // Only behind an import whose newest log has a single, uncommitted change. The change that is recorded now is in a
            // log: if the next write finds a difference, a snapshot replaces it.
            return Ok(None);
        }
        if unreplayable.is_some() {
            log::warn!("a change recorded before does not replay: taking a snapshot of the node's database");
            return Ok(Some(SnapshotReason::Unreplayable));
        }
        if self.known.comparison.state == State::Owed(Debt::Awaited) {
            log::info!("the database can be read again: taking the snapshot that closes the gap");
            return Ok(Some(SnapshotReason::Gap));
        }
        let backup = Arc::new(Backup::of(Arc::clone(&self.directory), self.known.manifest.clone()));
        let history = history.as_ref().or(self.known.history_before_run.as_ref());
        let verdict =
            history.map_or(Ok(Verdict::Unreadable), |history| compare_version(backup, history, committed, &database));
        let counter = database.stamp();
        drop(database);
        let stamp_and_verdict = verdict.and_then(|verdict| Ok((verdict, counter?)));
        let (verdict, stamp) = match stamp_and_verdict {
            Ok(found) => found,
            Err(error) => {
                self.cannot_compare(committed, &error);
                return Ok(None);
            }
        };
        let took = began.elapsed();
        self.known.comparison.not_before = Instant::now().checked_add(took.saturating_mul(PAUSE_PER_COMPARISON));
        if verdict == Verdict::Same {
            if took >= Duration::from_secs(1) {
                log::info!(
                    "compared the database with version {committed} in {:.1} s: it is the same",
                    took.as_secs_f32()
                );
            }
            self.known.comparison.paid(stamp.map(|stamp| stamp.change_counter));
            return Ok(None);
        }
        self.report_difference(committed, &verdict)?;
        Ok(Some(SnapshotReason::Changed))
    }

    /// Opens the database, if it is at this version.
    fn open_at(&self, committed: DataVersion) -> Result<Option<LiveDatabase>, LiveDatabaseError> {
        let database = LiveDatabase::open(&self.known.database)?;
        let found = database.data_version()?;
        if found == committed {
            return Ok(Some(database));
        }
        let path = self.known.database.clone();
        log::warn!("{}", RecordError::WrongDatabase { path, found, committed });
        Ok(None)
    }

    /// The recorded history, read again unless it is known from the beginning of the run; and whether a snapshot may replace this
    /// version.
    fn history_with(&self, committed: DataVersion) -> (Option<History>, bool) {
        if let Some(history) = &self.known.history_before_run {
            return (None, history.can_be_replaced(committed));
        }
        let backup = Arc::new(Backup::of(Arc::clone(&self.directory), self.known.manifest.clone()));
        let (history, read) = backup.read_records();
        if let Err(error) = read {
            log::error!("{}", error.in_words());
        }
        let can_be_replaced = history.can_be_replaced(committed);
        (Some(history), can_be_replaced)
    }

    /// Postpones a snapshot that does not fit on the disk and that the node can continue without.
    pub(super) fn put_off_snapshot(&mut self, committed: DataVersion, error: &RecordError) {
        log::error!(
            "no snapshot of version {committed} can be taken: {error}: {}. Make room on the disk of the backup. Changes are recorded, \
             and the snapshot is tried again",
            std::error::Error::source(error).map(ToString::to_string).unwrap_or_default()
        );
        self.known.comparison.postpone();
    }

    fn cannot_compare(&mut self, committed: DataVersion, error: &LiveDatabaseError) {
        if self.known.comparison.wait.1 == 0 {
            log::warn!(
                "cannot check that the database is what was recorded as version {committed}: {error}. It is tried again"
            );
        }
        self.known.comparison.postpone();
    }

    /// Reports a difference, and whether it is an error.
    fn report_difference(&self, committed: DataVersion, verdict: &Verdict) -> Result<(), RecordError> {
        let path = self.known.database.clone();
        let Verdict::Differs(tables) = verdict else {
            log::warn!(
                "version {committed} cannot be opened, so it is not known whether {} is the same",
                path.display()
            );
            return Ok(());
        };
        let tables = tables.join(", ");
        if self.known.on_gap == OnGap::Stop {
            return Err(RecordError::Changed { path, committed, tables, url: self.known.url.clone() });
        }
        match self.known.comparison.state {
            State::Owed(Debt::StampChanged) => log::warn!(
                "{} was changed while lightningd was not running, in tables: {tables}. Taking a snapshot of it, which takes \
                 the place of version {committed}",
                path.display()
            ),
            State::Paid { .. } => log::warn!(
                "another program has written to {} while lightningd is running, in tables: {tables}. Taking a snapshot of \
                 it, which takes the place of version {committed}. Stop that program: it endangers the node",
                path.display()
            ),
            State::Unlooked(_) | State::Owed(_) => log::warn!(
                "{} holds another version {committed} than the one recorded, in tables: {tables}. lightningd ran without \
                 the recorder, or another program has changed it. Taking a snapshot, which takes that version's place",
                path.display()
            ),
        }
        Ok(())
    }

    /// Allows the next comparison at once.
    #[cfg(test)]
    pub(crate) fn compare_at_once(&mut self) {
        (self.known.comparison.not_before, self.known.comparison.put_off_until) = (None, None);
    }

    #[cfg(test)]
    pub(crate) fn pretend_another_boot(&mut self) {
        self.known.boot = uuid::Uuid::from_u128(1);
    }

    /// The commit of the newest version, if no comparison is pending and the database is at that version: then the next run need
    /// not compare.
    pub(super) fn commit_note(&self, newest: DataVersion) -> Option<CommitNote> {
        let expected = self.known.comparison.expected_counter()?;
        let read = || -> Result<_, LiveDatabaseError> {
            let database = LiveDatabase::open(&self.known.database)?;
            Ok((database.data_version()?, database.stamp()?))
        };
        match read() {
            Ok((found, stamp)) => {
                let is_ours = match (stamp, expected) {
                    (Some(stamp), Some(expected)) => stamp.change_counter == expected,
                    _ => true,
                };
                // A stamp that was not followed from write to write is useless to the next run.
                let stamp = stamp.filter(|_| expected.is_some());
                (found == newest && is_ours).then_some(CommitNote { boot: self.known.boot, stamp })
            }
            Err(error) => {
                log::debug!("whether version {newest} was committed is not known: {error}");
                None
            }
        }
    }
}
