//! The records behind a log, as far as they determine its sealing.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::{LogReplay, SealError, Sealer};
use crate::backup::Backup;
use crate::log::LogCursor;
use crate::replay::ReplayError;
use format::change_flags::Predecessor;
use format::names;
use format::record::Body;
use format::segment::FollowedBy;
use format::units::Seq;

/// The evidence of the records behind a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Successor {
    /// No record follows yet.
    Nothing,
    /// A change with this seq, and nothing behind it. It may still be rewound, and then a snapshot of the previous version may
    /// follow.
    Undecided(Seq),
    /// Whether the newest versions of the log were those of the node's database is not known yet.
    Unverified,
    /// The versions from this record on, which may be before the log, were not those of the node's database.
    Condemned(Seq),
    /// The kind of successor is final.
    Decided(FollowedBy),
}

/// Maximum number of logs behind one that ends unverified before it is sealed all the same. Opening a version behind it replays
/// all of them.
const LOGS_BEHIND_UNVERIFIED_MAX: usize = 16;

impl Sealer {
    /// Examines the durable records behind the log that was read to its end.
    pub(super) fn look_behind(&mut self, durable: Seq) -> Result<Successor, SealError> {
        let behind = self.look_what_follows(durable)?;
        if !matches!(behind, Successor::Decided(_)) {
            return Ok(behind);
        }
        match &self.current {
            Some(current) if current.is_all_replayed() && current.ends_unverified() => {
                Ok(self.look_for_verdict(current.first_seq(), durable)?.unwrap_or(behind))
            }
            _ => Ok(behind),
        }
    }

    /// Searches behind a log that ends unverified for a verified change, which verifies everything before it, or a snapshot,
    /// which names the first unreadable record; `None` when the log is verified. The wait for such a record is bounded.
    fn look_for_verdict(&mut self, log: Seq, durable: Seq) -> Result<Option<Successor>, SealError> {
        let end = self.cursor.next_seq();
        let cursor = self.ahead.get_or_insert_with(|| self.cursor.behind());
        let mut verdict = Some(Successor::Unverified);
        cursor.read_until(&mut |record| {
            if record.header.seq > durable {
                return ControlFlow::Break(());
            }
            verdict = match &record.body {
                Body::Change { flags, .. } if flags.predecessor == Predecessor::Verified => None,
                Body::Snapshot(snapshot) => {
                    snapshot.unreadable_since.filter(|since| *since < end).map(Successor::Condemned)
                }
                Body::Change { .. } | Body::Rewind { .. } | Body::Commit(_) | Body::Gap => {
                    return ControlFlow::Continue(());
                }
            };
            ControlFlow::Break(())
        })?;
        let names = self.backup.directory().list()?;
        let logs_behind = names.iter().filter_map(|name| names::parse_log(name)).filter(|first| *first > log).count();
        if verdict == Some(Successor::Unverified) && logs_behind > LOGS_BEHIND_UNVERIFIED_MAX {
            log::warn!(
                "{}: {} is sealed although the node's database could not be compared with it. The recorder says above why it \
                 cannot read that database",
                self.backup.path().display(),
                names::log(log)
            );
            return Ok(None);
        }
        Ok(verdict)
    }

    fn look_what_follows(&self, durable: Seq) -> Result<Successor, SealError> {
        let newest = self.current.as_ref().and_then(LogReplay::newest_version);
        let mut behind = Successor::Nothing;
        self.read_behind(&mut |record| {
            if record.header.seq > durable {
                return ControlFlow::Break(());
            }
            behind = match (&record.body, behind) {
                (Body::Snapshot(_), Successor::Nothing) if newest == Some(record.header.data_version) => {
                    Successor::Decided(FollowedBy::SameVersion)
                }
                (Body::Snapshot(_) | Body::Gap, Successor::Nothing) => Successor::Decided(FollowedBy::Snapshot),
                (Body::Rewind { rewound }, Successor::Undecided(change)) if *rewound == change => Successor::Nothing,
                // It may be between a change and its rewind.
                (Body::Commit(_), behind) => behind,
                // A rider belongs to the version of this log: all changes of the next log before it are void.
                (Body::Change { .. }, Successor::Nothing) if newest == Some(record.header.data_version) => {
                    Successor::Nothing
                }
                (_, Successor::Nothing) => Successor::Undecided(record.header.seq),
                (_, _) => Successor::Decided(FollowedBy::Change),
            };
            if matches!(behind, Successor::Decided(_)) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        Ok(behind)
    }

    /// Replays the change behind the log on a copy, as a check.
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
        take: &mut dyn FnMut(&format::record::Record<'_>) -> ControlFlow<()>,
    ) -> Result<(), SealError> {
        Ok(self.cursor.behind().read_until(take)?)
    }
}

/// Replays a change. If that fails and a snapshot follows, the change and all records behind it are only kept: versions up to the
/// snapshot cannot be opened, later ones can.
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

/// Whether a snapshot follows the newest change. Read errors are ignored here and reported elsewhere.
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
