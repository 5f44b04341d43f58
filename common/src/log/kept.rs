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
        self.before.extend(earlier.logs);
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
