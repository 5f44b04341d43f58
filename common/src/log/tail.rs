//! What follows the last record of a log.

use uuid::Uuid;

use crate::format::Damage;
use crate::format::record::{PAYLOAD_LEN_MAX, Parsed, RECORD_HEADER_LEN, RECORD_TAG, parse};
use crate::storage::StoredFile;
use crate::{ReadError, Seq};

/// Bytes of the log that are searched or zeroed at once.
const CHUNK: usize = 1 << 20;

/// Most bytes that are read behind the last record: a log is a few MiB long or one batch, and the batch is at most a
/// record of 64 MiB and a short one.
pub(crate) const LONGEST_LOG: usize = PAYLOAD_LEN_MAX + (8 << 20);

/// Reads everything from `offset` on.
fn read_rest(file: &dyn StoredFile, offset: u64) -> Result<Vec<u8>, ReadError> {
    let mut bytes = Vec::new();
    loop {
        let have = bytes.len();
        bytes.resize(have + CHUNK, 0);
        let read = file.read_at(&mut bytes[have..], offset + have as u64)?;
        bytes.truncate(have + read);
        if read < CHUNK {
            return Ok(bytes);
        }
        // A sparse file may be longer than any memory.
        if bytes.len() > LONGEST_LOG {
            let value = offset + bytes.len() as u64;
            return Err(ReadError::damaged(file.path(), offset, Damage::Field { field: "log length", value }));
        }
    }
}

/// Finds an intact record, of `next_seq` or later, that begins after `offset`, where none begins.
///
/// If there is one, what is at `offset` was acknowledged once and is damaged: the writer had gone on.
pub(crate) fn intact_record_after(
    file: &dyn StoredFile,
    uuid: Uuid,
    offset: u64,
    next_seq: Seq,
) -> Result<Option<u64>, ReadError> {
    let bytes = read_rest(file, offset)?;
    // A hostile file could name a long record at every fourth byte; an honest one is summed once.
    let mut work_left = bytes.len().saturating_mul(8);
    let mut at = 1;
    while let Some(found) =
        bytes.get(at..).and_then(|rest| rest.windows(RECORD_TAG.len()).position(|w| w == RECORD_TAG))
    {
        at += found;
        match parse(uuid, &bytes[at..]) {
            Ok(Parsed::Record { record, .. }) if record.header.seq < next_seq => {}
            Ok(Parsed::Record { .. } | Parsed::NotUnderstood(_)) => return Ok(Some(offset + at as u64)),
            Ok(Parsed::Short { .. } | Parsed::Unused) | Err(_) => {}
        }
        match work_left.checked_sub(summed_by_parse(&bytes[at..])) {
            Some(left) => work_left = left,
            // Not worth the time to find out: what looks like so many records is not a torn write.
            None => return Ok(Some(offset + at as u64)),
        }
        at += 1;
    }
    Ok(None)
}

/// Bytes of which [`parse`] computes the checksum. None when the length is impossible, as it is behind a tag that is
/// part of a text: a torn record that holds the tag many times is a torn record.
fn summed_by_parse(bytes: &[u8]) -> usize {
    let claimed = bytes.get(8..12).and_then(|len| len.try_into().ok()).map(u32::from_le_bytes);
    claimed
        .and_then(|len| usize::try_from(len).ok())
        .filter(|&len| len <= PAYLOAD_LEN_MAX && RECORD_HEADER_LEN + len <= bytes.len())
        .map_or(0, |len| RECORD_HEADER_LEN + len)
}

/// Length, from `offset` on, of what is not zero: the remains of a torn write. 0 when there are none.
pub(crate) fn torn_len(file: &dyn StoredFile, offset: u64) -> Result<usize, ReadError> {
    let bytes = read_rest(file, offset)?;
    Ok(bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1))
}
