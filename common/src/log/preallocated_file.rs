//! The file under the name `preallocated`: none, zeros, or a log whose rename a power cut has undone.

use std::io;

use uuid::Uuid;

use super::cursor::CHUNK;
use super::room::check_len;
use super::tail::intact_record_after;
use crate::storage::read_error::ReadError;
use crate::storage::{Access, Directory, StorageError, StoredFile, read_exact_at};
use format::log_header::{LOG_HEADER_LEN, LogHeader};
use format::record::{Parsed, parse};
use format::units::Seq;
use format::{Damage, names};

/// The preallocated file with its header; `None` for zeros or the remains of a torn write.
struct PreallocatedFile {
    file: Box<dyn StoredFile>,
    header: Option<LogHeader>,
}

/// The values that the next log must begin with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Link {
    pub(super) uuid: Uuid,
    pub(super) next_seq: Seq,
    pub(super) previous_checksum: u32,
}

/// Opens the log that begins with this record, under either of its names.
///
/// A log is renamed when its first record is durable; the new name is made durable later. A power cut in between leaves the log
/// under the name `preallocated`.
///
/// # Errors
/// Not found, with the name of the log, when there is none.
pub(crate) fn open_log(
    directory: &dyn Directory,
    uuid: Uuid,
    first_seq: Seq,
) -> Result<Box<dyn StoredFile>, ReadError> {
    let named = || directory.open(&names::log(first_seq), Access::Read);
    match named() {
        Err(error) if error.is_not_found() => {}
        opened => return Ok(opened?),
    }
    match open_preallocated(directory)? {
        Some(PreallocatedFile { file, header: Some(header) })
            if header.uuid == uuid && header.first_seq == first_seq =>
        {
            Ok(file)
        }
        // If the log was renamed after the first attempt and before the second, it now has its name.
        _ => Ok(named()?),
    }
}

/// Opens the preallocated file if it continues the log: its header matches, and its first record is whole.
pub(super) fn open_continuing(directory: &dyn Directory, link: Link) -> Result<Option<Box<dyn StoredFile>>, ReadError> {
    let Some(PreallocatedFile { file, header: Some(header) }) = open_preallocated(directory)? else { return Ok(None) };
    if header.uuid != link.uuid {
        return Err(ReadError::damaged(file.path(), 0, Damage::Foreign));
    }
    // A later seq: the reader is behind, or records are missing. An earlier one: a copy of records already read.
    if header.first_seq != link.next_seq {
        return Ok(None);
    }
    check_continues(&*file, &header, link)?;
    // The file had its length before it had a header.
    check_len(file.read_len()?, header.unit).map_err(|damage| ReadError::damaged(file.path(), 0, damage))?;
    Ok(first_record_is_whole(&*file, link)?.then_some(file))
}

/// Whether the preallocated file begins with a record behind `next_seq`: then those in between are missing.
pub(super) fn is_ahead(directory: &dyn Directory, uuid: Uuid, next_seq: Seq) -> Result<bool, ReadError> {
    let preallocated = open_preallocated(directory)?;
    Ok(preallocated
        .and_then(|preallocated| preallocated.header)
        .is_some_and(|header| header.uuid == uuid && header.first_seq > next_seq))
}

/// Removes a preallocated file that does not continue the log; the next one is created anew. Call it when all records have been
/// read.
///
/// It may have zeros, or the remains of an unacknowledged record; then all its records are in the logs. Any other record was
/// acknowledged, and its predecessors are missing: that is damage.
pub(super) fn remove_unused(directory: &dyn Directory, uuid: Uuid, next_seq: Seq) -> Result<(), ReadError> {
    let Some(file) = check_unused(directory, uuid, next_seq)? else { return Ok(()) };
    log::debug!("{}: removing the preallocated file, which is not used", file.path().display());
    directory.remove(names::PREALLOCATED)?;
    Ok(directory.sync()?)
}

/// Opens the preallocated file, if there is one, that does not continue the log, after all records up to `next_seq` were read.
///
/// # Errors
/// When it has records that the log has lost, or belongs to another backup.
pub(crate) fn check_unused(
    directory: &dyn Directory,
    uuid: Uuid,
    next_seq: Seq,
) -> Result<Option<Box<dyn StoredFile>>, ReadError> {
    let Some(PreallocatedFile { file, header }) = open_preallocated(directory)? else { return Ok(None) };
    let damaged = |damage| Err(ReadError::damaged(file.path(), 0, damage));
    if header.as_ref().is_some_and(|header| header.uuid != uuid) {
        return damaged(Damage::Foreign);
    }
    // A header alone is proof, too: it is written when all records before its own are durable.
    let ahead = header.is_some_and(|header| header.first_seq > next_seq);
    if ahead || intact_record_after(&*file, uuid, 0, next_seq)?.is_some() {
        return damaged(Damage::Missing { expected: next_seq });
    }
    Ok(Some(file))
}

/// Checks that a log with this header continues the records read so far.
pub(super) fn check_continues(file: &dyn StoredFile, header: &LogHeader, link: Link) -> Result<(), ReadError> {
    if header.first_seq == link.next_seq && header.previous_checksum == link.previous_checksum {
        return Ok(());
    }
    Err(ReadError::damaged(file.path(), 0, Damage::Contradiction("it does not continue the log before it")))
}

fn open_preallocated(directory: &dyn Directory) -> Result<Option<PreallocatedFile>, ReadError> {
    let Some(file) = found(directory.open(names::PREALLOCATED, Access::Read))? else { return Ok(None) };
    let mut bytes = [0; LOG_HEADER_LEN];
    if !read_exact_at(&*file, &mut bytes, 0)? {
        return Ok(Some(PreallocatedFile { file, header: None }));
    }
    match LogHeader::decode(&bytes) {
        Ok(header) => Ok(Some(PreallocatedFile { file, header: Some(header) })),
        Err(damage) if damage.is_too_new() => Err(ReadError::damaged(file.path(), 0, damage)),
        Err(_) => Ok(Some(PreallocatedFile { file, header: None })),
    }
}

/// A name that is not a file is no log.
fn found(opened: Result<Box<dyn StoredFile>, StorageError>) -> Result<Option<Box<dyn StoredFile>>, StorageError> {
    match opened {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.is_not_found() || error.source.kind() == io::ErrorKind::InvalidInput => Ok(None),
        Err(error) => Err(error),
    }
}

fn first_record_is_whole(file: &dyn StoredFile, link: Link) -> Result<bool, ReadError> {
    let offset = LOG_HEADER_LEN as u64;
    let mut bytes = vec![0; CHUNK];
    loop {
        let read = file.read_at(&mut bytes, offset)?;
        match parse(link.uuid, &bytes[..read]) {
            Ok(Parsed::Record { record, .. }) => {
                let header = &record.header;
                return Ok(header.seq == link.next_seq && header.previous_checksum == link.previous_checksum);
            }
            Ok(Parsed::Short { wanted }) if read == bytes.len() && wanted > read => bytes.resize(wanted, 0),
            Ok(Parsed::NotUnderstood(damage)) => return Err(ReadError::damaged(file.path(), offset, damage)),
            Ok(Parsed::Short { .. }) => {
                let len = offset + read as u64;
                return Err(ReadError::damaged(file.path(), offset, Damage::CutOff { len }));
            }
            Ok(Parsed::Unused) | Err(_) => return Ok(false),
        }
    }
}
