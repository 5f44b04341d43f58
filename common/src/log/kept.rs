//! [`KeptLogs`]: the bytes of logs that were read and are not sealed yet, so that a log that rots on the disk can be mended.

use std::collections::BTreeMap;

use uuid::Uuid;

use format::log_header::{LOG_HEADER_LEN, LogHeader};
use format::record::{Parsed, parse};
use format::units::Seq;

/// Bytes of a log that are kept at most: an unusually long one is not.
const KEPT_BYTES_MAX: usize = 16 << 20;

/// By how much room for more grows: doubling would take more memory than it spares time.
const ROOM: usize = 256 << 10;

/// The bytes of some logs.
#[derive(Debug, Default)]
pub(crate) struct KeptLogs {
    /// From the beginning of each, by its first seq.
    logs: BTreeMap<Seq, Vec<u8>>,
    /// The one that records are added to; `None` when it has become too long.
    newest: Option<Seq>,
    /// What an earlier cursor has kept of logs that are read again.
    before: BTreeMap<Seq, Vec<u8>>,
}

impl KeptLogs {
    /// A log begins.
    pub(super) fn begin(&mut self, first: Seq, header: &LogHeader) {
        self.logs.insert(first, header.encode().to_vec());
        self.newest = Some(first);
    }

    /// Adds a record of the newest log.
    pub(super) fn add(&mut self, record: &[u8]) {
        let Some(bytes) = self.newest.and_then(|newest| self.logs.get_mut(&newest)) else { return };
        if bytes.len() + record.len() > KEPT_BYTES_MAX {
            self.newest.take().map(|newest| self.logs.remove(&newest));
            return;
        }
        if bytes.capacity() - bytes.len() < record.len() {
            bytes.reserve_exact(record.len().max(ROOM));
        }
        bytes.extend_from_slice(record);
    }

    /// Drops the logs up to this one.
    pub(crate) fn drop_through(&mut self, first: Seq) {
        self.logs.retain(|kept, _| *kept > first);
        self.before.retain(|kept, _| *kept > first);
    }

    /// Takes over what a cursor has kept that reads the same logs no more.
    pub(crate) fn take_over(&mut self, earlier: Self) {
        self.before = earlier.before;
        for (first, bytes) in earlier.logs {
            // Each reading ends where the damage begins: the longest counts.
            if self.before.get(&first).is_none_or(|before| before.len() < bytes.len()) {
                self.before.insert(first, bytes);
            }
        }
    }

    /// The log that this record is in, with its first seq, from its header on; `None` when it was not kept, or not intact.
    pub(crate) fn log_of(&self, uuid: Uuid, seq: Seq) -> Option<(Seq, &[u8])> {
        let has_it = |logs: &BTreeMap<Seq, Vec<u8>>| {
            let (&first, bytes) = logs.range(..=seq).next_back()?;
            intact_through(uuid, first, bytes).filter(|end| seq < *end).map(|_| first)
        };
        let of = |logs| has_it(logs).map(|first| (first, &logs[&first][..]));
        of(&self.logs).or_else(|| of(&self.before))
    }
}

/// The seq behind the last record, if these are a header and the records behind it, each of which names the one before.
fn intact_through(uuid: Uuid, first: Seq, bytes: &[u8]) -> Option<Seq> {
    let header = LogHeader::decode(bytes.first_chunk()?).ok()?;
    if header.uuid != uuid || header.first_seq != first {
        return None;
    }
    let (mut rest, mut seq, mut previous_checksum) = (&bytes[LOG_HEADER_LEN..], first, header.previous_checksum);
    while !rest.is_empty() {
        match parse(uuid, rest) {
            Ok(Parsed::Record { record, checksum, len })
                if record.header.seq == seq && record.header.previous_checksum == previous_checksum =>
            {
                (seq, previous_checksum, rest) = (seq.next(), checksum, &rest[len..]);
            }
            _ => return None,
        }
    }
    Some(seq)
}

#[cfg(test)]
mod tests {
    use format::record::{RecordHeader, encode_gap, first_link};
    use format::units::{DataVersion, Timestamp};

    use super::*;

    const BACKUP: Uuid = Uuid::from_u128(18);

    fn seq(number: u64) -> Seq {
        Seq::new(number).unwrap()
    }

    /// A log of so many records, kept by a cursor.
    fn kept(records: u64) -> KeptLogs {
        let (mut kept, mut previous_checksum) = (KeptLogs::default(), first_link(BACKUP));
        let created = Timestamp::from_micros(0).unwrap();
        kept.begin(seq(1), &LogHeader { uuid: BACKUP, first_seq: seq(1), previous_checksum, created, unit: 4096 });
        for number in 1..=records {
            let header =
                RecordHeader { seq: seq(number), data_version: DataVersion::new(7), time: created, previous_checksum };
            let mut bytes = Vec::new();
            previous_checksum = encode_gap(BACKUP, &header, &mut bytes);
            kept.add(&bytes);
        }
        kept
    }

    #[test]
    fn what_was_kept_outlives_the_cursor_that_read_it() {
        let whole = kept(3).log_of(BACKUP, seq(3)).unwrap().1.to_vec();
        // The next cursor has met damage at the third record.
        let mut again = kept(2);
        assert_eq!(again.log_of(BACKUP, seq(3)), None);
        again.take_over(kept(3));
        assert_eq!(again.log_of(BACKUP, seq(3)), Some((seq(1), &whole[..])));
        let mut third = kept(0);
        third.take_over(again);
        assert_eq!(third.log_of(BACKUP, seq(3)).map(|(first, _)| first), Some(seq(1)));
        third.drop_through(seq(1));
        assert_eq!(third.log_of(BACKUP, seq(2)), None);
    }

    #[test]
    fn nothing_is_kept_that_is_not_intact_or_too_long() {
        assert_eq!(kept(3).log_of(BACKUP, seq(4)), None, "it has no such record");
        assert_eq!(kept(3).log_of(Uuid::nil(), seq(2)), None, "another backup");
        let mut rotten = kept(3);
        rotten.logs.get_mut(&seq(1)).unwrap()[LOG_HEADER_LEN + 9] ^= 1;
        assert_eq!(rotten.log_of(BACKUP, seq(1)), None);
        let mut long = kept(3);
        long.add(&vec![0; KEPT_BYTES_MAX]);
        assert!(long.logs.is_empty() && long.newest.is_none());
    }
}
