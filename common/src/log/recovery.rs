//! Putting the log right after a crash, before anything is appended. The only code that changes what was written.

use std::collections::VecDeque;
use std::sync::Arc;

use uuid::Uuid;

use super::cursor::Taken;
use super::tail::torn_len;
use super::{LogCursor, LogWriter, RecordPlace};
use crate::ReadError;
use crate::format::names;
use crate::format::record::Record;
use crate::storage::{Access, Directory, StorageError, TEMPORARY_ENDING, read_exact_at};

/// Most records that are written at once: a rewind, a snapshot and a change.
const BATCH_RECORDS_MAX: usize = 3;

/// Why nothing can be appended to a log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecoverError {
    /// It is damaged, or cannot be read.
    #[error(
        "nothing is appended to a backup that cannot be read to its end; if it is damaged, put it aside and run \
         `backupfs init` for a new one"
    )]
    Read(#[from] ReadError),
    /// What a crash left cannot be cleared away.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Reads the whole log, hands its records to `take`, cuts off a torn write and returns the place to go on.
///
/// Runs under the lock. Power may fail at any point: zeroing the remains of a torn write leaves remains of a torn write;
/// files that are removed here belong to no record. Recovering twice does the same as once.
///
/// # Errors
/// When the log is damaged: nothing is changed then.
pub(crate) fn recover(
    directory: &Arc<dyn Directory>,
    uuid: Uuid,
    take: &mut dyn FnMut(&Record<'_>, RecordPlace) -> Taken,
) -> Result<LogWriter, RecoverError> {
    let mut cursor = LogCursor::new(Arc::clone(directory), uuid);
    let mut last_places = VecDeque::with_capacity(BATCH_RECORDS_MAX);
    cursor.read_new(&mut |record, place| {
        if last_places.len() == BATCH_RECORDS_MAX {
            last_places.pop_front();
        }
        last_places.push_back(place);
        take(record, place)
    })?;
    let (log, offset) = cursor.place().expect("BUG: a log that was read without error is open");
    let file = directory.open(&names::log(log), Access::ReadWrite)?;
    let torn = torn_len(&*file, offset)?;
    if torn > 0 {
        log::warn!(
            "{}: cutting {torn} bytes at byte {offset}: a record that was being written when the recorder or the \
             machine stopped, and that was never acknowledged",
            file.path().display()
        );
        file.write_at(&vec![0; torn], offset)?;
    }
    // The batch before the crash may be whole only in the page cache: a sync that failed leaves pages that read well,
    // count as clean, and are not on the disk. Appending behind them would turn a lost tail into a hole. Writing the
    // same bytes again makes them dirty again; a power cut meanwhile finds old and new bytes equal.
    if let Some(first) = last_places.iter().find(|place| place.log == log) {
        let mut bytes = vec![0; usize::try_from(offset - first.offset).unwrap_or(0)];
        if read_exact_at(&*file, &mut bytes, first.offset)? {
            file.write_at(&bytes, first.offset)?;
        }
    }
    file.sync()?;
    for name in directory.list()? {
        // A snapshot whose record was never written.
        let orphan = names::parse_snapshot(&name).is_some_and(|seq| seq >= cursor.next_seq());
        if orphan || name.ends_with(TEMPORARY_ENDING) {
            log::info!("{}: removing {name}, which was not finished", directory.path().display());
            // It is in nobody's way: a new file of that name replaces it.
            if let Err(error) = directory.remove(&name) {
                log::warn!("{error}: {}; remove it by hand", error.source);
            }
        }
    }
    Ok(LogWriter::new(Arc::clone(directory), uuid, file, offset, cursor.next_seq(), cursor.previous_checksum()))
}
