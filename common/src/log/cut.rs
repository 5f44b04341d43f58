//! Cutting off what was written but never acknowledged, when a log is opened again by whoever was writing it.

use std::sync::Arc;

use super::{LogCursor, LogEnd, RecordAddress};
use crate::storage::read_error::ReadError;
use crate::storage::{Access, StorageError, fill_with_zeros};
use format::names;
use format::units::Seq;

/// Why a backup that was let go of is not recorded to again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CutError {
    /// It ends before the last acknowledged record.
    #[error(
        "records {next_seq} to {last} were acknowledged and are no longer there: the directory was replaced by an older \
         copy, or the disk has lost what it said was durable; bring the backup back as it was, or move it and \
         backup.lock aside and run `backupfs init`", last = .acknowledged_next.get() - 1
    )]
    Lost {
        /// Seq behind the last record that is there.
        next_seq: Seq,
        /// Seq behind the last record that was acknowledged.
        acknowledged_next: Seq,
    },
    /// It holds records of somebody else.
    #[error(
        "its records from {from} on are not those of this recorder: another recorder has written to the same backup; \
         find out which node did, and never run two nodes on one backup"
    )]
    Forked {
        /// First seq that may be another's.
        from: Seq,
    },
    /// It cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A call failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Makes the logs from `cursor` on end at `acknowledged` again, behind which only records that are behind an end of
/// `attempted` may be: what the caller had been writing when it failed. It is going to write them anew.
///
/// That they can be read says nothing: a failed sync leaves pages that read well, count as clean, and are not on the
/// disk. So they go, the newest first: whenever power fails, what is left is a prefix of them, which recovery takes for
/// the records that they are. Nobody was told "continue" for any of them.
///
/// # Errors
/// When the backup does not hold what was acknowledged, or holds something else behind it: nothing was changed then.
pub(crate) fn cut_behind(mut cursor: LogCursor, acknowledged: LogEnd, attempted: &[LogEnd]) -> Result<(), CutError> {
    if cursor.next_seq() > acknowledged.next_seq {
        // Only logs that others have gone on behind are sealed.
        return Err(CutError::Forked { from: acknowledged.next_seq });
    }
    let unsealed_from = cursor.next_seq();
    let mut behind = Vec::new();
    cursor.read_new(&mut |record, place| {
        if let RecordAddress::Log { log, offset, len, .. } = place
            && record.header.seq >= acknowledged.next_seq
        {
            behind.push((log, offset, len));
        }
        Ok(())
    })?;
    let end = cursor.end();
    if end.next_seq < acknowledged.next_seq {
        return Err(CutError::Lost { next_seq: end.next_seq, acknowledged_next: acknowledged.next_seq });
    }
    // Equal checksums of one record mean equal records up to it.
    if end != acknowledged && !attempted.contains(&end) {
        return Err(CutError::Forked { from: acknowledged.next_seq });
    }
    // A log is sealed when the record behind it counts as durable: whoever sealed all before has taken over what we had not
    // acknowledged, and without it there would be no log to go on in.
    if !behind.is_empty() && unsealed_from == acknowledged.next_seq && unsealed_from != Seq::FIRST {
        return Err(CutError::Forked { from: acknowledged.next_seq });
    }
    let directory = Arc::clone(cursor.directory());
    for &(log, offset, len) in behind.iter().rev() {
        let name = names::log(log);
        if log >= acknowledged.next_seq && log != Seq::FIRST {
            // A log of which nothing was acknowledged. Its records are one or two; it goes with the first of them.
            if log_begins_at(&behind, log, offset) {
                match directory.remove(&name) {
                    // It has not got its name.
                    Err(error) if error.is_not_found() => directory.remove(names::SPARE)?,
                    removed => removed?,
                }
                directory.sync()?;
            }
        } else {
            // The first log of a backup is there without a record, too.
            let file = directory.open(&name, Access::ReadWrite)?;
            fill_with_zeros(&*file, offset..offset + len as u64)?;
            file.sync()?;
        }
    }
    Ok(())
}

/// Whether the record at `offset` is the first of its log.
fn log_begins_at(behind: &[(Seq, u64, usize)], log: Seq, offset: u64) -> bool {
    behind.iter().find(|(of, ..)| *of == log).is_some_and(|&(_, first, _)| first == offset)
}
