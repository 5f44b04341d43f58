//! What follows the last record of a log.

use uuid::Uuid;

use crate::storage::read_error::ReadError;
use crate::storage::{StoredFile, read_on};
use format::Damage;
use format::record::{PAYLOAD_LEN_MAX, Parsed, RECORD_HEADER_LEN, RECORD_TAG, parse};
use format::units::Seq;

/// Bytes of the log that are searched at once.
const CHUNK: usize = 1 << 20;

/// Most bytes that are looked at behind the last record: a log is a few MiB long or one batch, and the batch is at most the
/// longest record and a short one.
pub(crate) const LONGEST_LOG: usize = PAYLOAD_LEN_MAX + (8 << 20);

/// Hands everything from `offset` on to `look`, piece by piece, with the place of each behind `offset`, until that returns
/// something. Each piece but the first begins with the last bytes of the one before it, `overlap` of them.
fn search_rest<T>(
    file: &dyn StoredFile,
    offset: u64,
    overlap: usize,
    mut look: impl FnMut(&[u8], u64) -> Result<Option<T>, ReadError>,
) -> Result<Option<T>, ReadError> {
    let (mut piece, mut at) = (Vec::new(), 0);
    loop {
        read_on(file, &mut piece, offset + at, CHUNK)?;
        if let Some(found) = look(&piece, at)? {
            return Ok(Some(found));
        }
        if piece.len() < CHUNK {
            return Ok(None);
        }
        let searched = piece.len() - overlap;
        piece.drain(..searched);
        at += searched as u64;
        // A sparse file may be longer than anybody has time for.
        if at > LONGEST_LOG as u64 {
            return Err(ReadError::damaged(
                file.path(),
                offset,
                Damage::Field { field: "log length", value: offset + at },
            ));
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
    let rest = file.read_len()?.saturating_sub(offset);
    // A hostile file could name a long record at every fourth byte; an honest one is summed once.
    let mut work_left = rest.saturating_mul(8);
    search_rest(file, offset, RECORD_TAG.len() - 1, |piece, at| {
        let tags = piece.windows(RECORD_TAG.len()).enumerate().filter(|(_, window)| *window == RECORD_TAG);
        for at in tags.map(|(place, _)| at + place as u64).filter(|&at| at > 0) {
            let mut record = Vec::new();
            read_on(file, &mut record, offset + at, RECORD_HEADER_LEN)?;
            if let Some(len) = record_len(&record).filter(|&len| at + len as u64 <= rest) {
                read_on(file, &mut record, offset + at, len)?;
                match work_left.checked_sub(len as u64) {
                    Some(left) => work_left = left,
                    // Not worth the time to find out: what looks like so many records is not a torn write.
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

/// How long the record with this header says to be. Nothing when that is impossible, as it is behind a tag that is part of a
/// text: a torn record that holds the tag many times is a torn record.
fn record_len(header: &[u8]) -> Option<usize> {
    let claimed = header.get(8..12)?.try_into().map(u32::from_le_bytes).ok()?;
    usize::try_from(claimed).ok().filter(|&len| len <= PAYLOAD_LEN_MAX).map(|len| RECORD_HEADER_LEN + len)
}

/// Length, from `offset` on, of what is not zero: the remains of a torn write. 0 when there are none.
pub(crate) fn torn_len(file: &dyn StoredFile, offset: u64) -> Result<u64, ReadError> {
    let mut torn = 0;
    search_rest(file, offset, 0, |piece, at| {
        if let Some(last) = piece.iter().rposition(|&byte| byte != 0) {
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

    /// Wherever it begins: also where what is searched at once ends in the middle of it, or of its tag.
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
            // Cut short, it is none.
            bytes.pop();
            let file = directory.create(&format!("cut-{nth}")).unwrap();
            file.write_at(&bytes, offset).unwrap();
            assert_eq!(intact_record_after(&*file, UUID, offset, next).unwrap(), None);
        }
    }
}
