//! Sealing: a finished log is replayed and becomes a segment, from which every version opens quickly.
//!
//! [`Sealer`] follows the logs as they are written and replays every change soon after, which proves that it can be restored.
//! When a log is finished, the result of the replay is written to the segment.

#[cfg(test)]
mod corner_tests;
mod followed_by;
mod log_mending;
mod offline;
mod read_back;
mod snapshot_checks;
#[cfg(test)]
mod tests;
mod upkeep;
mod write;

use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;

use crate::backup::Backup;
use crate::backup::removal::remove_dropped;
use crate::check::log_replay::{Cuts, LogReplay};
use crate::config::log_limits::LogLimits;
use crate::history::SealedThrough;
use crate::history::{Start, sealed_through};
use crate::log::{LogCursor, NextLog, SECOND_LOOK_AFTER, SECOND_LOOKS};
use crate::replay::ReplayError;
use crate::segment::{MapError, SealedState};
use crate::storage::read_error::ReadError;
use crate::storage::{StorageError, Trouble, remove_if_present};
use followed_by::{Successor, or_keep};
use format::checked::CheckedSnapshots;
use format::names;
use format::record::Body;
use format::segment::{FollowedBy, SegmentFooter};
use format::snapshot_ref::SnapshotRef;
use format::units::{DataVersion, Seq};
pub use log_mending::MendedLog;
pub use offline::{SealBackupError, seal_backup};
pub use snapshot_checks::SnapshotCheckError;
use snapshot_checks::SnapshotChecks;
use upkeep::Upkeep;
pub(crate) use write::write_segment;

/// The reason why logs are not sealed. All logs are kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// Recorded data cannot be read back.
    #[error("what is recorded cannot be read back; check the disk, and keep a copy of the backup")]
    Read(#[source] ReadError),
    /// The backup cannot be read at the moment; it is not damaged.
    #[error("finished logs are not sealed while the backup cannot be read; nothing is lost by that")]
    OutOfReach(#[source] StorageError),
    /// A change does not replay. All later changes up to the next snapshot depend on it.
    #[error(
        "a change in {path} does not replay, so the versions from there on cannot be restored. The recorder takes a snapshot of \
         the node's database with the next write; from then on the newest version can be restored again. If that does not \
         happen, begin a new backup with `backupfs init --replace`. Please report this", path = .path.display()
    )]
    Replay {
        /// Path of the log.
        path: PathBuf,
        /// Seq of the change.
        change: Seq,
        /// The reason.
        source: ReplayError,
    },
    /// The segment cannot be written.
    #[error("finished logs are not sealed; nothing is lost by that: they are kept, and recording goes on")]
    Write(#[source] StorageError),
    /// zstd cannot allocate memory.
    #[error("finished logs cannot be compressed; nothing is lost by that: they are kept, and recording goes on")]
    Compress(#[source] io::Error),
    /// The written segment does not equal the replay.
    #[error("the segment made of {path} does not read back as it should ({what}). The log is kept, so nothing is lost. Check the disk and \
         the memory of this machine; if they are sound, report this", path = .path.display())]
    Differs {
        /// Path of the log.
        path: PathBuf,
        /// Description of the difference.
        what: String,
    },
}

impl From<StorageError> for SealError {
    /// The failed call decides: writing a segment includes reads, and reading includes writes.
    fn from(error: StorageError) -> Self {
        match error.trouble() {
            _ if error.is_of_a_change() => Self::Write(error),
            // The backup is reachable, but a file of it is missing.
            _ if error.is_not_found() => Self::Read(error.into()),
            Trouble::OutOfReach | Trouble::NoPermission | Trouble::TooManyFiles => Self::OutOfReach(error),
            _ => Self::Read(error.into()),
        }
    }
}

impl From<ReadError> for SealError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Storage(error) => error.into(),
            error => Self::Read(error),
        }
    }
}

impl From<MapError> for SealError {
    fn from(error: MapError) -> Self {
        match error {
            MapError::Read(error) => error.into(),
            MapError::Write(error) => error.into(),
        }
    }
}

impl SealError {
    /// Whether the backup itself has a fault: something in it is damaged, missing, or does not replay, and cannot be restored.
    /// Other errors only delay sealing.
    pub fn is_of_the_backup(&self) -> bool {
        match self {
            Self::Read(_) | Self::Replay { .. } | Self::Differs { .. } => true,
            Self::OutOfReach(_) | Self::Write(_) | Self::Compress(_) => false,
        }
    }
}

/// Progress of a sealer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Every change up to this version was replayed.
    pub replayed_through: Option<DataVersion>,
    /// Every record up to here is in a segment.
    pub sealed_through: Option<SealedThrough>,
    /// Number of logs sealed by this sealer.
    pub logs_sealed: u64,
}

/// Seals the logs of a backup. There must be only one: its user has the lock of the backup, as a recorder does.
#[derive(Debug)]
pub struct Sealer {
    backup: Arc<Backup>,
    limits: LogLimits,
    cursor: LogCursor,
    newest_segment: Option<Seq>,
    current: Option<LogReplay>,
    progress: Progress,
    snapshots: SnapshotChecks,
    health: Health,
    /// The change behind the log, without a successor yet, that was replayed on a copy.
    checked_behind: Option<Seq>,
    /// The position of the search, behind a log that ends unverified, for a record that verifies or condemns it.
    ahead: Option<LogCursor>,
    /// The first record of the unsealed logs that a later snapshot marks as unreadable, though it replays.
    condemned: Option<Seq>,
    upkeep: Upkeep,
}

/// Whether the replayed state matches the cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Health {
    Sound,
    OutOfSync,
}

impl Sealer {
    /// A sealer that begins behind the sealed part, and removes files of an interrupted sealing. `limits` are those of the logs;
    /// they also determine the keyframes.
    ///
    /// # Errors
    /// When the directory or the newest segment cannot be read.
    pub fn new(backup: Arc<Backup>, limits: LogLimits) -> Result<Self, SealError> {
        let (history, cursor) = backup.sealed_history()?;
        let newest_segment = history.sealed().last().copied();
        let mut progress =
            Progress { replayed_through: history.newest().map(|newest| newest.data_version), ..Progress::default() };
        if let Some(newest) = newest_segment {
            progress.sealed_through = history.sealed_through()?;
            // The rename of the segment may not be durable yet.
            if backup.directory().list()?.contains(&names::log(newest)) {
                backup.directory().sync()?;
            }
            remove_sealed_logs(&backup, newest)?;
            let _never_breaks = remove_dropped(&backup, history.sealed(), &mut || ControlFlow::Continue(()))?;
        }
        let (snapshots, health) = (SnapshotChecks::of(&backup, &history), Health::Sound);
        Ok(Self {
            backup,
            limits,
            cursor: cursor.keeping(),
            newest_segment,
            current: None,
            progress,
            snapshots,
            health,
            checked_behind: None,
            ahead: None,
            condemned: None,
            upkeep: Upkeep::default(),
        })
    }

    /// Current progress.
    pub fn progress(&self) -> Progress {
        self.progress
    }

    /// Replays the records since the last call, and seals finished logs, until `watch`, which is called before every record,
    /// breaks. A log is finished when a later record is durable, and with it the whole log: `durable` is the newest such record.
    ///
    /// # Errors
    /// When a log cannot be read, replayed or sealed. It is kept; the next call begins it again.
    pub fn advance(
        &mut self,
        durable: Seq,
        watch: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<(), SealError> {
        if self.health == Health::OutOfSync {
            self.begin_anew()?;
        }
        let result = self.advance_to(durable, watch);
        let progress = self.progress;
        self.upkeep.go_on(&self.backup, &mut || watch(progress));
        if result.is_err() {
            self.health = Health::OutOfSync;
            self.current = None;
        }
        result
    }

    /// Writes damaged files anew that readers or a scrub have found, and makes parity that is missing. Cheap when there are none.
    pub fn keep_up(&mut self, watch: &mut dyn FnMut() -> ControlFlow<()>) {
        self.upkeep.go_on(&self.backup, watch);
    }

    /// Why damaged files are not written anew, or parity is not made; `None` when nothing is wrong with that.
    pub fn upkeep_problem(&self) -> Option<&str> {
        self.upkeep.problem()
    }

    /// Removes the damaged files that were kept beside mended ones, where these are sound: everything was read back since.
    pub fn remove_kept(&mut self) {
        self.upkeep.remove_kept(&self.backup);
    }

    /// Checks that snapshots are sound databases: each one that the sealer has read and that was not checked before. For a large
    /// database this takes seconds; it stops at once when `stop` is set.
    ///
    /// # Errors
    /// When a snapshot is not sound; the next call continues with the next.
    pub fn check_snapshots(&mut self, stop: &Arc<AtomicBool>) -> Result<(), SnapshotCheckError> {
        let before = self.snapshots.known().cloned();
        let checked = self.snapshots.check(&self.backup, stop);
        if self.snapshots.known() != before.as_ref() {
            self.upkeep.parity_is_due();
        }
        checked
    }

    /// Results of the snapshot checks.
    pub fn checked_snapshots(&self) -> Option<&CheckedSnapshots> {
        self.snapshots.known()
    }

    /// Starts again at the beginning of the current log, after an error.
    fn begin_anew(&mut self) -> Result<(), SealError> {
        let begun = Self::new(Arc::clone(&self.backup), self.limits)?;
        let sealed_through = begun.progress.sealed_through;
        let snapshots = std::mem::take(&mut self.snapshots);
        let upkeep = std::mem::take(&mut self.upkeep);
        let kept = self.cursor.kept().map(std::mem::take).unwrap_or_default();
        *self = Self { progress: Progress { sealed_through, ..self.progress }, snapshots, upkeep, ..begun };
        // What has rotted since it was read is in there only.
        if let Some(now) = self.cursor.kept() {
            now.take_over(kept);
        }
        Ok(())
    }

    fn advance_to(
        &mut self,
        durable: Seq,
        watch: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<(), SealError> {
        loop {
            if self.current.as_ref().is_some_and(|current| current.is_before(&self.cursor)) {
                match self.look_behind(durable)? {
                    Successor::Decided(followed_by) => self.seal_current(followed_by)?,
                    Successor::Condemned(since) => {
                        self.begin_anew()?;
                        self.condemned = Some(since);
                    }
                    behind => {
                        self.check_newest()?;
                        if let Successor::Undecided(change) = behind {
                            self.check_behind(change)?;
                        }
                        return Ok(());
                    }
                }
            }
            match self.read_log(watch)? {
                Reached::NextLog => {}
                Reached::End => return self.check_newest(),
                Reached::Break => return Ok(()),
            }
        }
    }

    /// Replays the newest change of the log on a copy, as a check.
    fn check_newest(&mut self) -> Result<(), SealError> {
        let Some(current) = &mut self.current else { return Ok(()) };
        let checked = current.check_newest();
        self.progress.replayed_through = current.replayed_through().or(self.progress.replayed_through);
        checked.map_err(|source| self.backup.does_not_replay(current.first_seq(), current.newest_change(), source))
    }

    /// Replays the records of one log that are written so far. Damage is read again before it is reported: the log may be written
    /// at the moment.
    fn read_log(&mut self, watch: &mut dyn FnMut(Progress) -> ControlFlow<()>) -> Result<Reached, SealError> {
        let mut looks = 0;
        loop {
            let next_seq = self.cursor.next_seq();
            match self.read_log_once(watch)? {
                Err(ReadError::Damaged { .. }) if looks < SECOND_LOOKS => {
                    looks = if self.cursor.next_seq() == next_seq { looks + 1 } else { 1 };
                    thread::sleep(SECOND_LOOK_AFTER);
                }
                read => return Ok(read?),
            }
        }
    }

    /// Like [`read_log`](Self::read_log), with one attempt; the outer error is for failures besides reading.
    fn read_log_once(
        &mut self,
        watch: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Result<Reached, ReadError>, SealError> {
        let Self { backup, limits, cursor, newest_segment, current, progress, snapshots, condemned, upkeep, .. } = self;
        let mut failed = None;
        let previous_checksum = cursor.previous_checksum();
        let read = cursor.read_to_end_of_log(&mut |record, address| {
            if watch(*progress).is_break() {
                return Ok(ControlFlow::Break(()));
            }
            snapshots.note(record);
            if matches!(record.body, Body::Snapshot(_)) {
                upkeep.parity_is_due();
            }
            let replay = match current.take() {
                Some(replay) => Ok(replay),
                None => begin(backup, *limits, *newest_segment, address.file_seq(), previous_checksum, &record.body)
                    .map(|mut replay| {
                        condemned.iter().for_each(|since| replay.replay_before_seq(*since));
                        replay
                    }),
            };
            let added = replay.and_then(|replay| {
                let first_seq = replay.first_seq();
                let replay = current.insert(replay);
                let added = or_keep(replay, backup, |replay| replay.add(record));
                progress.replayed_through = replay.replayed_through().or(progress.replayed_through);
                added.map_err(|source| backup.does_not_replay(first_seq, replay.newest_change(), source))
            });
            failed = added.err();
            Ok(if failed.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        });
        match (failed, read) {
            (Some(error), _) => Err(error),
            (None, Ok(NextLog::Begins)) => Ok(Ok(Reached::NextLog)),
            (None, Ok(NextLog::NotYet)) => Ok(Ok(Reached::End)),
            (None, Ok(NextLog::NotReached)) => Ok(Ok(Reached::Break)),
            (None, Err(error)) => Ok(Err(error)),
        }
    }

    fn seal_current(&mut self, followed_by: FollowedBy) -> Result<(), SealError> {
        let Some(mut current) = self.current.take() else {
            return Ok(());
        };
        (self.ahead, self.condemned) = (None, None);
        let first_seq = current.first_seq();
        let does_not_replay = |change, source| self.backup.does_not_replay(first_seq, change, source);
        let settled = or_keep(&mut current, &self.backup, LogReplay::settle);
        let newest_change = current.newest_change();
        let finished =
            settled.and_then(|()| current.finish()).map_err(|source| does_not_replay(newest_change, source))?;
        let footer = write::write_segment(&self.backup, finished, followed_by, self.cursor.previous_checksum())?;
        self.newest_segment = Some(first_seq);
        self.cursor.kept().into_iter().for_each(|kept| kept.drop_through(first_seq));
        self.progress.sealed_through = Some(sealed_through(&footer));
        self.progress.logs_sealed += 1;
        log::debug!("sealed {} versions to {}", footer.versions, names::segment(first_seq));
        // The log is kept until its segment has parity, if that can be made.
        self.upkeep.sealed(&self.backup, first_seq);
        remove_sealed_log(&self.backup, &footer, first_seq)
    }
}

/// The point at which reading a log ended.
enum Reached {
    NextLog,
    End,
    Break,
}

/// Begins to replay the log with this first record.
pub(crate) fn begin(
    backup: &Arc<Backup>,
    limits: LogLimits,
    newest_segment: Option<Seq>,
    first_seq: Seq,
    previous_checksum: u32,
    first: &Body<'_>,
) -> Result<LogReplay, SealError> {
    let snapshot: Option<SnapshotRef> = match first {
        Body::Snapshot(snapshot) => Some(*snapshot),
        Body::Change { .. } | Body::Rewind { .. } | Body::Commit(_) | Body::Gap => None,
    };
    let start = match (snapshot, newest_segment) {
        (Some(snapshot), _) => Start::Snapshot(first_seq, snapshot),
        (None, Some(newest)) => Start::Segment(newest, SealedState::End),
        (None, None) => Start::Nothing(backup.manifest().page_size),
    };
    let (pages, foreign_keys) = backup.start_pages(&start)?;
    let mut replay =
        LogReplay::new(first_seq, previous_checksum, start, newest_segment, pages, foreign_keys, Cuts::Due(limits))
            .map_err(|source| backup.does_not_replay(first_seq, first_seq, source))?;
    if let (Start::Segment(newest, _), Body::Change { .. }) = (start, first)
        && backup.segments().timeline(newest)?.ends_unreadable()
    {
        replay.replay_before(0);
    }
    Ok(replay)
}

impl Backup {
    fn does_not_replay(&self, log: Seq, change: Seq, source: ReplayError) -> SealError {
        match source {
            ReplayError::Pages(error) => error.into(),
            source => SealError::Replay { path: self.path().join(names::log(log)), change, source },
        }
    }
}

/// Removes the log of a segment, and the delta snapshot that it begins with, which is part of the segment, with its parity. What a crash
/// leaves, no reader uses, and [`remove_sealed_logs`] removes.
fn remove_sealed_log(backup: &Backup, footer: &SegmentFooter, first: Seq) -> Result<(), SealError> {
    let directory = &**backup.directory();
    remove_if_present(directory, &names::log(first))?;
    if footer.snapshot.is_none_or(|full| full.seq != first) {
        remove_if_present(directory, &names::snapshot(first))?;
        remove_if_present(directory, &names::parity(&names::snapshot(first)))?;
        remove_if_present(directory, &names::damaged(&names::snapshot(first)))?;
    }
    Ok(())
}

/// Removes what belongs to the segments up to this one, the newest, and was left by an earlier run.
fn remove_sealed_logs(backup: &Backup, newest_segment: Seq) -> Result<(), SealError> {
    for name in backup.directory().list()? {
        let of = names::parse_log(&name).or_else(|| names::parse_snapshot(&name));
        if let Some(first) = of.filter(|&first| first <= newest_segment)
            && let Ok(footer) = backup.segments().footer(first)
        {
            remove_sealed_log(backup, &footer, first)?;
        }
    }
    Ok(())
}
