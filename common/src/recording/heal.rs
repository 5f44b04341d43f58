//! Healing: what is recorded when the backup and the database of `lightningd` have diverged.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{BackupWriter, Goes};
use crate::backup::Backup;
use crate::config::backup_lock::OnGap;
use crate::history::History;
use crate::live::live_database::{LiveDatabase, LiveDatabaseError};
use crate::live::take_snapshot::{Base, NewSnapshot, PagesDone, SnapshotError, take_snapshot};
use crate::recording::record_error::RecordError;
use crate::storage::read_error::ReadError;
use format::snapshot_ref::SnapshotReason;
use format::units::Shown;
use format::units::{DataVersion, Seq, Timestamp};
use format::version_rules::Bump;

/// The way in which a gap was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Closed {
    /// A snapshot closes the gap.
    BySnapshot,
    /// Without: the next write takes the snapshot.
    NotYet,
}

impl BackupWriter {
    /// Adds a snapshot that closes a gap to the batch, unless `backup.lock` says to stop.
    pub(super) fn push_heal(
        &mut self,
        committed: DataVersion,
        bump: Bump,
        now: Timestamp,
        unreplayable: Option<Seq>,
    ) -> Result<Closed, RecordError> {
        let newest = self.known.newest.map(|newest| newest.data_version);
        if self.known.on_gap == OnGap::Stop {
            return Err(RecordError::Gap { committed, newest, url: self.known.url.clone() });
        }
        log::warn!(
            "lightningd committed up to version {committed}, the backup ends at {}: taking a snapshot of {}",
            Shown(&newest),
            self.known.database.display()
        );
        match self.push_snapshot(committed, now, SnapshotReason::Gap, unreplayable) {
            Ok(()) => Ok(Closed::BySnapshot),
            // The transaction has spilled SQLite's cache, so the database cannot be read before its COMMIT.
            Err(RecordError::Heal { source: SnapshotError::Database(LiveDatabaseError::Busy { .. }), .. })
                if bump == Bump::Present =>
            {
                log::warn!(
                    "the database cannot be read in the middle of a large transaction. The write is recorded, and a snapshot is \
                     taken with the next one. Until then nothing newer than {} can be restored",
                    Shown(&newest)
                );
                self.log.push_gap(committed, now);
                Ok(Closed::NotYet)
            }
            Err(error) => Err(error),
        }
    }

    /// Takes a snapshot of the database, which `lightningd` does not write to now, and adds it to the batch.
    pub(super) fn push_snapshot(
        &mut self,
        committed: DataVersion,
        now: Timestamp,
        reason: SnapshotReason,
        unreplayable: Option<Seq>,
    ) -> Result<(), RecordError> {
        if let Goes::ToSpool(_) = self.goes {
            return Err(RecordError::HealWhileAway { committed, url: self.known.url.clone() });
        }
        let heal = |source| RecordError::Heal { committed, source };
        let database = LiveDatabase::open(&self.known.database).map_err(|error| heal(error.into()))?;
        let found = database.data_version().map_err(|error| heal(error.into()))?;
        if found != committed {
            return Err(RecordError::WrongDatabase { path: self.known.database.clone(), found, committed });
        }
        self.compare_node_id(&database)?;
        // The node waits: without a sound base a full snapshot is taken, which takes less time than mending.
        let backup = Arc::new(Backup::unhealed(Arc::clone(&self.directory), self.known.manifest.clone()));
        let (history, read) = backup.read_records();
        // A gap alone is no difference.
        let unverified = match (reason, unreplayable) {
            (SnapshotReason::Gap, None) => None,
            _ => history.unverified_since(),
        };
        let unreadable_since = unreplayable.into_iter().chain(unverified).min();
        let new = NewSnapshot {
            uuid: self.known.manifest.uuid,
            seq: self.log.next_seq(),
            data_version: committed,
            reason,
            unreadable_since,
            time: now,
        };
        let base = delta_base(&backup, &history, read);
        let taken = take_snapshot(&*self.directory, &database, &new, base.as_ref(), &mut log_progress());
        let snapshot = match taken {
            Err(SnapshotError::Base(error)) => {
                log::error!("{error}; taking a full snapshot instead of a delta");
                take_snapshot(&*self.directory, &database, &new, None, &mut log_progress())
            }
            other => other,
        }
        .map_err(heal)?;
        self.log.push_snapshot(committed, now, &snapshot);
        Ok(())
    }
}

/// The base of a delta: the newest stored pages of the backup. `None` when there are none that can be read, and a full snapshot
/// is needed.
fn delta_base(backup: &Arc<Backup>, history: &History, read: Result<(), ReadError>) -> Option<Base> {
    let name = history.newest_stored_state()?;
    match read.and_then(|()| backup.stored_pages(name)) {
        Ok(pages) => Some(Base { name, pages }),
        Err(error) => {
            log::error!("{error}; taking a full snapshot instead of a delta");
            None
        }
    }
}

/// Interval of progress messages during a heal: the node waits for it, and so does the operator.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);

/// Pages between reads of the clock: less than a millisecond's worth.
const PAGES_PER_LOOK: u32 = 128;

/// Time of the last progress message.
struct LastMessage(Instant);

impl LastMessage {
    /// Whether a message is due, which then counts as given.
    fn is_due(&mut self, now: Instant) -> bool {
        let is_due = now.saturating_duration_since(self.0) >= PROGRESS_EVERY;
        if is_due {
            self.0 = now;
        }
        is_due
    }
}

/// Logs the progress of a snapshot at intervals.
fn log_progress() -> impl FnMut(PagesDone) -> ControlFlow<()> {
    let mut last = LastMessage(Instant::now());
    move |PagesDone { done, total, page_size }| {
        if done.is_multiple_of(PAGES_PER_LOOK) && last.is_due(Instant::now()) {
            let megabytes = |pages: u32| u64::from(pages) * u64::from(page_size.get()) / 1_000_000;
            log::info!("the snapshot has come to {} of {} MB of the database", megabytes(done), megabytes(total));
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_said_every_two_seconds() {
        let start = Instant::now();
        let mut last = LastMessage(start);
        let times: Vec<u64> =
            (0..=10_000).step_by(10).filter(|&at| last.is_due(start + Duration::from_millis(at))).collect();
        assert_eq!(times, [2000, 4000, 6000, 8000, 10_000]);
    }
}
