//! Replaying logs that are in memory, and writing their segments, one beside the other.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};

use super::log_cutter::CutLog;
use crate::format::record::{Body, Record};
use crate::format::record_index::ForeignKeys;
use crate::format::segment::FollowedBy;
use crate::history::Start;
use crate::pages::{OverlayPages, PageSource};
use crate::seal::{Cuts, LogReplay, ReplayedLog, SealError, write_segment};
use crate::segment::SealedState;
use crate::{Backup, LogLimits, ReadError, ReplayError, Seq};

/// A log that has been replayed, and what its segment has to say of the records around it.
pub(super) struct Replayed {
    log: ReplayedLog,
    followed_by: FollowedBy,
    last_checksum: u32,
}

/// Where the log before ended. Its segment is still being written.
struct End {
    first_seq: Seq,
    start: Start,
    pages: OverlayPages,
    foreign_keys: ForeignKeys,
}

/// Replays each log and hands it on; the newest one is only replayed. Ends early, without an error, when nobody takes them.
pub(super) fn replay_logs(
    backup: &Arc<Backup>,
    limits: LogLimits,
    logs: Receiver<CutLog>,
    replayed: SyncSender<Replayed>,
) -> Result<(), ReplayError> {
    let mut end = None::<End>;
    for CutLog { begins, records, last_checksum, followed_by } in logs {
        let (first_seq, newest_segment) = (begins.next_seq, end.as_ref().map(|end| end.first_seq));
        let (start, pages, foreign_keys) = begin(backup, first_seq, records.first(), end.take())?;
        let (previous_checksum, cuts) = (begins.previous_checksum, Cuts::Due(limits));
        let mut replay =
            LogReplay::new(first_seq, previous_checksum, start, newest_segment, pages, foreign_keys, cuts)?;
        records.iter().try_for_each(|record| replay.add(record))?;
        let (log, pages) = replay.finish_at()?;
        let Some(followed_by) = followed_by else { return Ok(()) };
        end = Some(End { first_seq, start, pages, foreign_keys: log.foreign_keys });
        if replayed.send(Replayed { log, followed_by, last_checksum }).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// What a log is replayed onto.
fn begin(
    backup: &Backup,
    first_seq: Seq,
    first: Option<&Record<'_>>,
    before: Option<End>,
) -> Result<(Start, Arc<dyn PageSource>, ForeignKeys), ReadError> {
    let start = match (first.map(|record| &record.body), &before) {
        (Some(Body::Snapshot(snapshot)), _) => Start::Snapshot(first_seq, *snapshot),
        (_, Some(end)) => Start::Segment(end.first_seq, SealedState::End),
        (_, None) => Start::Nothing(backup.manifest().page_size),
    };
    match (start, before) {
        (Start::Segment(..), Some(End { start: before, pages, foreign_keys, .. })) => {
            // What that log has written lies in memory. All else is where it was for that log: in the segment before it, which
            // is written by now, so that nothing older is kept.
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
