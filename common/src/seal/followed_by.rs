//! What comes behind a log, as far as it decides what becomes of that log.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::{LogReplay, SealError, Sealer};
use crate::format::record::Body;
use crate::format::segment::FollowedBy;
use crate::log::LogCursor;
use crate::replay::ReplayError;
use crate::{Backup, Seq};

/// What is known of the records behind a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Behind {
    /// Nothing is there yet.
    Nothing,
    /// A change with this seq, and nothing behind it yet. It may still be rewound, and a snapshot of the version before it may
    /// follow then.
    Undecided(Seq),
    /// What they say of the newest version of the log is final.
    Decided(FollowedBy),
}

impl Sealer {
    /// Looks at the records behind the log that was read to its end, up to the newest that is durable.
    pub(super) fn look_behind(&self, durable: Seq) -> Result<Behind, SealError> {
        let newest = self.current.as_ref().and_then(LogReplay::newest_version);
        let mut behind = Behind::Nothing;
        self.read_behind(&mut |record| {
            if record.header.seq > durable {
                return ControlFlow::Break(());
            }
            behind = match (&record.body, behind) {
                (Body::Snapshot(_), Behind::Nothing) if newest == Some(record.header.data_version) => {
                    Behind::Decided(FollowedBy::SameVersion)
                }
                (Body::Snapshot(_) | Body::Gap, Behind::Nothing) => Behind::Decided(FollowedBy::Snapshot),
                (Body::Rewind { rewound }, Behind::Undecided(change)) if *rewound == change => Behind::Nothing,
                // It may stand between a change and its rewind.
                (Body::Commit(_), behind) => behind,
                // A rider belongs to the version of this log: all changes of the next one before it are void.
                (Body::Change { .. }, Behind::Nothing) if newest == Some(record.header.data_version) => Behind::Nothing,
                (_, Behind::Nothing) => Behind::Undecided(record.header.seq),
                (_, Behind::Undecided(_) | Behind::Decided(_)) => Behind::Decided(FollowedBy::Change),
            };
            if matches!(behind, Behind::Decided(_)) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        Ok(behind)
    }

    /// Replays the change behind the log on a copy, to see whether it can be.
    pub(super) fn check_behind(&mut self, seq: Seq) -> Result<(), SealError> {
        let Some(current) = self.current.as_ref().filter(|_| self.checked_behind != Some(seq)) else { return Ok(()) };
        let mut checked = Ok(None);
        self.read_behind(&mut |record| {
            if record.header.seq < seq {
                return ControlFlow::Continue(());
            }
            checked = current.check_onward(record).map(|()| Some(record.header.data_version));
            ControlFlow::Break(())
        })?;
        let checked = checked.map_err(|source| self.backup.does_not_replay(self.cursor.next_seq(), seq, source))?;
        if current.is_all_replayed() {
            self.progress.replayed_through = checked.or(self.progress.replayed_through);
        }
        self.checked_behind = Some(seq);
        Ok(())
    }

    fn read_behind(
        &self,
        take: &mut dyn FnMut(&crate::format::record::Record<'_>) -> ControlFlow<()>,
    ) -> Result<(), SealError> {
        let (directory, uuid) = (Arc::clone(self.backup.directory()), self.backup.manifest().uuid);
        let mut cursor = LogCursor::at(directory, uuid, self.cursor.next_seq(), self.cursor.previous_checksum());
        Ok(cursor.read_until(take)?)
    }
}

/// Replays a change. If that fails and a snapshot is behind it, the change and all records behind it are only kept: versions up
/// to the snapshot cannot be opened, and those from there on can.
pub(super) fn or_keep(
    replay: &mut LogReplay,
    backup: &Backup,
    step: impl Fn(&mut LogReplay) -> Result<(), ReplayError>,
) -> Result<(), ReplayError> {
    match step(replay) {
        Err(error) if !matches!(error, ReplayError::Pages(_)) && is_snapshot_behind(backup, replay) => {
            log::warn!("{}: {error}; versions from there to the next snapshot are unreadable", backup.path().display());
            replay.give_up_newest_change();
            step(replay)
        }
        result => result,
    }
}

/// Whether a snapshot is behind the newest change that was added. What cannot be read says nothing; it is told elsewhere.
fn is_snapshot_behind(backup: &Backup, replay: &LogReplay) -> bool {
    let (directory, uuid) = (Arc::clone(backup.directory()), backup.manifest().uuid);
    let (mut is_behind, change) = (false, replay.newest_change());
    let read = LogCursor::at_log(directory, uuid, replay.first_seq()).and_then(|mut cursor| {
        cursor.read_until(&mut |record| {
            is_behind = record.header.seq > change && matches!(record.body, Body::Snapshot(_));
            if is_behind { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
    });
    is_behind && read.is_ok()
}
