//! Cutting off unacknowledged records when their writer opens the log again.

use std::sync::Arc;

use super::{LogCursor, LogEnd, RecordAddress};
use crate::storage::read_error::ReadError;
use crate::storage::{Access, StorageError, fill_with_zeros};
use format::names;
use format::units::Seq;

/// The reason why recording to a backup cannot be resumed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CutError {
    /// The backup ends before the last acknowledged record.
    #[error(
        "records {next_seq} to {last} were acknowledged and are no longer there: the directory was replaced by an older \
         copy, or the disk has lost what it said was durable; bring the backup back as it was, or move it and \
         backup.lock aside and run `backupfs init`", last = .acknowledged_next.get() - 1
    )]
    Lost {
        /// Seq behind the last existing record.
        next_seq: Seq,
        /// Seq behind the last acknowledged record.
        acknowledged_next: Seq,
    },
    /// The backup has records of another recorder.
    #[error(
        "its records from {from} on are not those of this recorder: another recorder has written to the same backup; \
         find out which node did, and never run two nodes on one backup"
    )]
    Forked {
        /// First seq that may be foreign.
        from: Seq,
    },
    /// The backup cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A call failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Makes the logs from `cursor` on end at `acknowledged` again. Behind it only records up to an end of `attempted` may follow:
/// those that the caller was writing when it failed, and will write again.
///
/// That they can be read proves nothing: a failed sync leaves pages in the cache that read well, count as clean, and are not on
/// the disk. So they are removed, the newest first: after a power cut at any point a prefix is left, which recovery accepts as
/// valid records. None of them was answered with "continue".
///
/// # Errors
/// When acknowledged records are missing, or others follow: then nothing was changed.
pub(crate) fn cut_behind(mut cursor: LogCursor, acknowledged: LogEnd, attempted: &[LogEnd]) -> Result<(), CutError> {
    if cursor.next_seq() > acknowledged.next_seq {
        // A log is sealed only after records behind it were written.
        return Err(CutError::Forked { from: acknowledged.next_seq });
    }
    let unsealed_from = cursor.next_seq();
    let mut behind = Vec::new();
    cursor.read_new(&mut |record, address| {
        if let RecordAddress::Log { log, offset, len, .. } = address
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
    // A log is sealed once the record behind it counts as durable: so another recorder has accepted our unacknowledged records,
    // without which there would be no log to continue.
    if !behind.is_empty() && unsealed_from == acknowledged.next_seq && unsealed_from != Seq::FIRST {
        return Err(CutError::Forked { from: acknowledged.next_seq });
    }
    let directory = Arc::clone(cursor.directory());
    for &(log, offset, len) in behind.iter().rev() {
        let name = names::log(log);
        if log >= acknowledged.next_seq && log != Seq::FIRST {
            // A log without acknowledged records. It has one or two records, and is removed with the first.
            if log_begins_at(&behind, log, offset) {
                match directory.remove(&name) {
                    // It was not renamed yet.
                    Err(error) if error.is_not_found() => directory.remove(names::PREALLOCATED)?,
                    removed => removed?,
                }
                directory.sync()?;
            }
        } else {
            // The first log of a backup may exist without a record.
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
