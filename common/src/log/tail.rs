//! What follows the last record of a log.

use memchr::memmem;
use uuid::Uuid;

use crate::storage::read_error::ReadError;
use crate::storage::{StoredFile, read_on};
use format::Damage;
use format::record::{PAYLOAD_LEN_MAX, Parsed, RECORD_HEADER_LEN, RECORD_TAG, parse};
use format::units::Seq;

/// Bytes searched at once.
const CHUNK: usize = 1 << 20;

/// Maximum number of bytes searched behind the last record: a log is a few MiB long or one batch, which is at most the longest
/// record and a short one.
pub(crate) const LONGEST_LOG: usize = PAYLOAD_LEN_MAX + (8 << 20);

/// Passes everything from `offset` on to `look`, chunk by chunk, with the position relative to `offset`, until that returns
/// something. Each chunk but the first begins with the last `overlap` bytes of the previous one.
fn search_rest<T>(
    file: &dyn StoredFile,
    offset: u64,
    overlap: usize,
    mut look: impl FnMut(&[u8], u64) -> Result<Option<T>, ReadError>,
) -> Result<Option<T>, ReadError> {
    let (mut chunk, mut at) = (Vec::new(), 0);
    loop {
        read_on(file, &mut chunk, offset + at, CHUNK)?;
        if let Some(found) = look(&chunk, at)? {
            return Ok(Some(found));
        }
        if chunk.len() < CHUNK {
            return Ok(None);
        }
        let searched = chunk.len() - overlap;
        chunk.drain(..searched);
        at += searched as u64;
        // A sparse file may be too long to search.
        if at > LONGEST_LOG as u64 {
            return Err(ReadError::damaged(
                file.path(),
                offset,
                Damage::Field { field: "log length", value: offset + at },
            ));
        }
    }
}

/// Finds an intact record, of `next_seq` or later, behind `offset`, where none begins.
///
/// If there is one, the record at `offset` was acknowledged and is damaged: the writer had continued.
pub(crate) fn intact_record_after(
    file: &dyn StoredFile,
    uuid: Uuid,
    offset: u64,
    next_seq: Seq,
) -> Result<Option<u64>, ReadError> {
    let rest = file.read_len()?.saturating_sub(offset);
    // A hostile file could claim a long record at every fourth byte; in an honest one each byte is summed once.
    let mut work_left = rest.saturating_mul(8);
    search_rest(file, offset, RECORD_TAG.len() - 1, |chunk, at| {
        let tags = memmem::find_iter(chunk, &RECORD_TAG);
        for at in tags.map(|found| at + found as u64).filter(|&at| at > 0) {
            let mut record = Vec::new();
            read_on(file, &mut record, offset + at, RECORD_HEADER_LEN)?;
            if let Some(len) = record_len(&record).filter(|&len| at + len as u64 <= rest) {
                read_on(file, &mut record, offset + at, len)?;
                match work_left.checked_sub(len as u64) {
                    Some(left) => work_left = left,
                    // The limit of work is reached: so many apparent records are not a torn write.
                    None => return Ok(Some(offset + at)),
                }
            }
            match parse(uuid, &record) {
                Ok(Parsed::Record { record, .. }) if record.header.seq < next_seq => {}
                Ok(Parsed::Record { .. } | Parsed::NotUnderstood(_)) => return Ok(Some(offset + at)),
                Ok(Parsed::Short { .. } | Parsed::Unused) | Err(_) => {}
            }
        }
        Ok(None)
    })
}

/// Length of the record with this header. `None` for an impossible length, as behind a tag in a text: a torn record that contains
/// the tag many times is a torn record.
fn record_len(header: &[u8]) -> Option<usize> {
    let claimed = header.get(8..12)?.try_into().map(u32::from_le_bytes).ok()?;
    usize::try_from(claimed).ok().filter(|&len| len <= PAYLOAD_LEN_MAX).map(|len| RECORD_HEADER_LEN + len)
}

/// Length, from `offset` on, of the bytes up to the last one that is not zero: the remains of a torn write, or 0.
pub(crate) fn torn_len(file: &dyn StoredFile, offset: u64) -> Result<u64, ReadError> {
    let mut torn = 0;
    search_rest(file, offset, 0, |chunk, at| {
        if let Some(last) = chunk.iter().rposition(|&byte| byte != 0) {
            torn = at + last as u64 + 1;
        }
        Ok(None::<()>)
    })?;
    Ok(torn)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{Directory as _, RealDirectory};
    use format::change_flags::{ChangeFlags, RunStart};
    use format::record::{RecordHeader, encode_change};
    use format::units::{DataVersion, Timestamp};

    const UUID: Uuid = Uuid::from_u128(7);

    fn record(seq: u64) -> Vec<u8> {
        let (data_version, time) = (DataVersion::new(1), Timestamp::from_micros(0).unwrap());
        let header = RecordHeader { seq: Seq::new(seq).unwrap(), data_version, time, previous_checksum: 0 };
        let mut bytes = Vec::new();
        encode_change(UUID, &header, ChangeFlags::verified(RunStart::Later), &["x".repeat(3000)], &mut bytes).unwrap();
        bytes
    }

    /// At every position: also across the border of two chunks, within the record or its tag.
    #[test]
    fn an_intact_record_is_found_anywhere_behind_remains() {
        let dir = tempfile::tempdir().unwrap();
        let directory = RealDirectory::new(dir.path());
        let (offset, next) = (64, Seq::new(5).unwrap());
        for (nth, begins) in (CHUNK - 5..CHUNK + 5).chain([1, 40, 2 * CHUNK - 7, 3 * CHUNK]).enumerate() {
            let file = directory.create(&format!("log-{nth}")).unwrap();
            let mut bytes = vec![1; begins];
            bytes.extend(record(9));
            file.write_at(&bytes, offset).unwrap();
            let found = intact_record_after(&*file, UUID, offset, next).unwrap();
            assert_eq!(found, Some(offset + begins as u64));
            assert_eq!(torn_len(&*file, offset).unwrap(), bytes.len() as u64);
            assert_eq!(intact_record_after(&*file, UUID, offset, Seq::new(10).unwrap()).unwrap(), None, "an older one");
            // A truncated record does not count.
            bytes.pop();
            let file = directory.create(&format!("cut-{nth}")).unwrap();
            file.write_at(&bytes, offset).unwrap();
            assert_eq!(intact_record_after(&*file, UUID, offset, next).unwrap(), None);
        }
    }
}
