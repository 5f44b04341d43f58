//! Recovery of the log after a crash, before the first append. The only code that changes what was written.

use std::collections::VecDeque;
use std::sync::Arc;

use super::cursor::Name;
use super::preallocated_file::remove_unused;
use super::room::{Room, check_len, lengthen};
use super::tail::torn_len;
use super::writer::{Holds, OpenEnd};
use super::{LogCursor, LogWriter, RecordAddress};
use crate::storage::read_error::ReadError;
use crate::storage::{
    Access, Directory, StorageError, TEMPORARY_ENDING, fill_with_zeros, remove_if_present, write_again,
};
use format::log_header::LOG_HEADER_LEN;
use format::record::{Body, Record};
use format::units::{Seq, counted};
use format::{Damage, names};

/// Maximum number of records of a batch: a rewind, a snapshot and a change.
const BATCH_RECORDS_MAX: usize = 3;

/// The reason why a log cannot be appended to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecoverError {
    /// The log is damaged, or cannot be read.
    #[error(
        "nothing is appended to a backup that cannot be read to its end; if it is damaged, `backupfs verify` says what that \
         costs. If there is a whole copy of it, bring that back; else `backupfs init --replace` puts it aside and begins a new one"
    )]
    Read(#[from] ReadError),
    /// Leftovers of a crash cannot be removed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Reads the logs from `cursor` on, passes their records to `take`, cuts off a torn write and returns a writer at the end.
///
/// Runs under the lock. Power may fail at any point: a partly zeroed torn write is still a torn write; removed files have no record
/// that is not in a log; a preallocated file that is a log has the same contents under either name; a log shorter than its full
/// length keeps its contents. Recovering twice does the same as once.
///
/// # Errors
/// When a log is damaged: nothing is changed then.
pub(crate) fn recover(
    mut cursor: LogCursor,
    take: &mut dyn FnMut(&Record<'_>, RecordAddress) -> Result<(), Damage>,
) -> Result<LogWriter, RecoverError> {
    let directory = Arc::clone(cursor.directory());
    let mut last_offsets = VecDeque::with_capacity(BATCH_RECORDS_MAX);
    let mut holds = Holds::default();
    let mut holder = None;
    cursor.read_new(&mut |record, address| {
        let RecordAddress::Log { log, offset, .. } = address else {
            return Err(Damage::Contradiction("a record of a log is not in a log"));
        };
        if holder != Some(log) {
            (holder, holds) = (Some(log), Holds::default());
            last_offsets.clear();
        }
        holds.records += 1;
        if let Body::Change { statements, .. } = &record.body {
            holds.statements += statements.len();
        }
        if last_offsets.len() == BATCH_RECORDS_MAX {
            last_offsets.pop_front();
        }
        last_offsets.push_back(offset);
        take(record, address)
    })?;
    let (log, offset) = cursor.position().expect("BUG: a log that was read without error is open");
    let is_preallocated = cursor.name() == Some(Name::Preallocated);
    if !is_preallocated {
        remove_unused(&*directory, cursor.uuid(), cursor.next_seq())?;
    }
    let name = names::log(log);
    let mut file = directory.open(if is_preallocated { names::PREALLOCATED } else { &name }, Access::ReadWrite)?;
    let torn = torn_len(&*file, offset)?;
    if torn > 0 {
        log::warn!(
            "{}: cutting {} at byte {offset}: a record that was being written when the recorder or the machine stopped, and \
             that was never acknowledged. Nothing is lost by that",
            file.path().display(),
            counted(torn, "byte")
        );
        fill_with_zeros(&*file, offset..offset + torn)?;
    }
    let (unit, len) = (cursor.unit().unwrap_or(1), file.read_len()?);
    let room = if check_len(len, unit).is_ok() {
        Room { len, unit }
    } else {
        let room = Room::for_end(len.max(offset), unit);
        log::warn!(
            "{}: it is {len} bytes long, and the length of a log is always a multiple of {unit}: its end was cut off, as by a copy \
             that was interrupted, or something was added. No record is missing, for zeros follow the last one; the length is \
             repaired",
            file.path().display()
        );
        lengthen(&*file, room.len)?;
        room
    };
    // The batch before the crash may be whole only in the page cache: a sync that failed leaves pages that read well,
    // count as clean, and are not on the disk. Appending behind them would turn a lost tail into a hole. Writing the
    // same bytes again makes them dirty again; a power cut meanwhile finds old and new bytes equal.
    if let Some(&first) = last_offsets.front() {
        // The header of a log is written with its first record.
        let first = if first == LOG_HEADER_LEN as u64 { 0 } else { first };
        write_again(&*file, first..offset)?;
    }
    file.sync()?;
    if is_preallocated {
        // The rename follows the sync: a log under its own name has a record.
        log::info!(
            "{}: the newest log gets its name {name} again, which a power cut has undone. Nothing is lost by that",
            directory.path().display()
        );
        directory.rename(names::PREALLOCATED, &name)?;
    }
    // The previous recorder may have died before it made the newest names durable. Later records depend on them: a log under the
    // name of the preallocated file is found only while no other log follows, and a log that was created without preallocation
    // might have no name at all.
    directory.sync()?;
    if is_preallocated {
        file = directory.open(&name, Access::ReadWrite)?;
    }
    remove_leftovers(&*directory, cursor.next_seq())?;
    Ok(LogWriter::new(directory, cursor.uuid(), OpenEnd { file, offset, room, holds }, cursor.end()))
}

/// Removes leftovers of a crash. They do no harm, so a failure to remove them is no error.
fn remove_leftovers(directory: &dyn Directory, next_seq: Seq) -> Result<(), StorageError> {
    for name in directory.list()? {
        // A snapshot whose record was never written.
        let orphan = names::parse_snapshot(&name).is_some_and(|seq| seq >= next_seq);
        if orphan || name.ends_with(TEMPORARY_ENDING) {
            log::debug!("{}: removing {name}, which was not finished", directory.path().display());
            if let Err(error) = directory.remove(&name) {
                log::warn!("{error}: {}; it is of no use to anybody: remove it by hand", error.source);
            }
            // Another snapshot may get that name.
            remove_if_present(directory, &names::parity(&name))?;
        }
    }
    Ok(())
}
