//! Replay of imported records, and writing of the segments, in parallel.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};

use super::log_cutter::FinishedLog;
use super::to_replay::ToReplay;
use crate::backup::Backup;
use crate::check::log_replay::{Cuts, LogReplay, ReplayedLog};
use crate::config::log_limits::LogLimits;
use crate::history::Start;
use crate::pages::{OverlayPages, PageSource};
use crate::replay::ReplayError;
use crate::seal::{SealError, write_segment};
use crate::segment::SealedState;
use crate::storage::read_error::ReadError;
use format::record::{Body, Record, RecordHeader};
use format::record_index::ForeignKeys;
use format::segment::FollowedBy;
use format::snapshot_ref::SnapshotRef;
use format::units::Seq;

/// A replayed log, with the fields of its segment about neighbouring records.
pub(super) struct Replayed {
    log: ReplayedLog,
    followed_by: FollowedBy,
    last_checksum: u32,
}

/// The end of the previous log, whose segment is still being written.
struct End {
    first_seq: Seq,
    start: Start,
    pages: OverlayPages,
    foreign_keys: ForeignKeys,
}

/// Replays all records, and passes on each finished log; the newest one is only replayed. Ends early, without an error, when the
/// receiver is gone.
pub(super) fn replay_logs(
    backup: &Arc<Backup>,
    limits: LogLimits,
    records: Receiver<Vec<ToReplay>>,
    replayed: SyncSender<Replayed>,
) -> Result<(), ReplayError> {
    let mut end = None::<End>;
    let mut current = None::<LogReplay>;
    for record in records.into_iter().flatten() {
        let (header, snapshot) = match &record {
            ToReplay::Change { header, .. } => (*header, None),
            ToReplay::Snapshot { header, snapshot } => (*header, Some(*snapshot)),
            ToReplay::End(FinishedLog { last_checksum, followed_by }) => {
                let Some(replay) = current.take() else { continue };
                let (log, pages) = replay.finish_at()?;
                end = Some(End { first_seq: log.first_seq, start: log.start, pages, foreign_keys: log.foreign_keys });
                let handed_on = Replayed { log, followed_by: *followed_by, last_checksum: *last_checksum };
                if replayed.send(handed_on).is_err() {
                    return Ok(());
                }
                continue;
            }
        };
        let replay = match &mut current {
            Some(replay) => replay,
            None => current.insert(begin_log(backup, limits, &header, snapshot, end.take())?),
        };
        match record {
            ToReplay::Change { header, flags, bump, statements } => {
                replay.add_change(&header, flags, bump, statements)?;
            }
            ToReplay::Snapshot { header, snapshot } => {
                replay.add(&Record { header, body: Body::Snapshot(snapshot) })?
            }
            ToReplay::End(_) => {}
        }
    }
    current.map_or(Ok(()), |replay| replay.finish().map(drop))
}

/// Begins the replay of the log with this first record.
fn begin_log(
    backup: &Backup,
    limits: LogLimits,
    first: &RecordHeader,
    snapshot: Option<SnapshotRef>,
    before: Option<End>,
) -> Result<LogReplay, ReplayError> {
    let (first_seq, newest_segment) = (first.seq, before.as_ref().map(|end| end.first_seq));
    let (start, pages, foreign_keys) = begin(backup, first_seq, snapshot, before)?;
    let cuts = Cuts::Due(limits);
    LogReplay::new(first_seq, first.previous_checksum, start, newest_segment, pages, foreign_keys, cuts)
}

/// The start pages of a log.
fn begin(
    backup: &Backup,
    first_seq: Seq,
    snapshot: Option<SnapshotRef>,
    before: Option<End>,
) -> Result<(Start, Arc<dyn PageSource>, ForeignKeys), ReadError> {
    let start = match (snapshot, &before) {
        (Some(snapshot), _) => Start::Snapshot(first_seq, snapshot),
        (_, Some(end)) => Start::Segment(end.first_seq, SealedState::End),
        (_, None) => Start::Nothing(backup.manifest().page_size),
    };
    match (start, before) {
        (Start::Segment(..), Some(End { start: before, pages, foreign_keys, .. })) => {
            // Pages written in the previous log are in memory. All others are where they were at its start: in the segment before
            // it, which is written by now, so that no older state is kept in memory.
            let pages = match before {
                Start::Segment(..) => pages.onto(backup.start_pages(&before)?.0),
                Start::Nothing(_) | Start::Snapshot(..) => pages,
            };
            Ok((start, Arc::new(pages), foreign_keys))
        }
        _ => {
            let (pages, foreign_keys) = backup.start_pages(&start)?;
            Ok((start, pages, foreign_keys))
        }
    }
}

/// Writes the segments of logs in order, and reads each back.
pub(super) fn write_segments(backup: &Backup, replayed: Receiver<Replayed>) -> Result<(), SealError> {
    replayed.into_iter().try_for_each(|Replayed { log, followed_by, last_checksum }| {
        write_segment(backup, log, followed_by, last_checksum).map(drop)
    })
}
