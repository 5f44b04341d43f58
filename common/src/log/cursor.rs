//! Reading a log, which may be written meanwhile, from a position on.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use uuid::Uuid;

use super::kept::KeptLogs;
use super::preallocated_file::{Link, check_continues, is_ahead, open_continuing};
use super::tail::intact_record_after;
use super::{LogEnd, RecordAddress, open_log};
use crate::storage::read_error::ReadError;
use crate::storage::{Access, Directory, StoredFile, read_exact_at, read_on};
use format::log_header::{LOG_HEADER_LEN, LogHeader};
use format::record::{Parsed, RECORD_HEADER_LEN, RECORD_TAG, Record, first_link, parse};
use format::units::Seq;
use format::{Damage, names};

/// Bytes per read: a few changes when following, some dozens of reads for a log of 4 MiB.
pub(super) const CHUNK: usize = 64 << 10;

/// Capacity that a buffer keeps after an unusually large record.
const KEEP_BYTES: usize = 1 << 20;

/// Number of times, and the pause before each, that damage is read again before it is reported.
///
/// A concurrent reader may see the end of a write before its beginning. A write takes microseconds.
pub(crate) const SECOND_LOOKS: u32 = 5;
pub(crate) const SECOND_LOOK_AFTER: Duration = Duration::from_millis(20);

/// A position in the log, with the expected next record.
#[derive(Debug)]
pub(crate) struct LogCursor {
    directory: Arc<dyn Directory>,
    uuid: Uuid,
    next_seq: Seq,
    previous_checksum: u32,
    log: Option<OpenLog>,
    /// The first log, which has its name before it has a record.
    first_log: Seq,
    checked_to_the_end: bool,
    /// What was read, if that is kept.
    kept: Option<KeptLogs>,
}

/// The log of the cursor.
#[derive(Debug)]
struct OpenLog {
    file: Box<dyn StoredFile>,
    first_seq: Seq,
    offset: u64,
    /// Unit of its length.
    unit: u64,
    name: Name,
    /// Offset and first bytes of the last record that was read.
    last: Option<(u64, [u8; RECORD_HEADER_LEN])>,
}

/// The name of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Name {
    /// The log has its final name.
    Own,
    /// The name of the preallocated file that it was created from.
    Preallocated,
}

/// The reason why the records of a log end.
enum End {
    /// Unused space.
    Unused,
    /// The file ends directly behind a record, or within what may be one: no writer leaves that.
    CutOff(Damage),
    /// No valid record: an unfinished write, or damage.
    NoRecord(Damage),
    /// The reading was broken off at a record, which is not passed.
    BrokenOff,
}

/// Whether a log follows the last record that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NextLog {
    /// The next log exists, and the cursor is at its beginning.
    Begins,
    /// The next log does not exist yet.
    NotYet,
    /// The reading was broken off within the log.
    NotReached,
}

/// The answer of a consumer to a record: it is taken, it contradicts those before it, or the reading ends before it.
pub(crate) type Taken = Result<ControlFlow<()>, Damage>;

impl LogCursor {
    /// A cursor before the first record of a backup.
    pub(crate) fn new(directory: Arc<dyn Directory>, uuid: Uuid) -> Self {
        Self::at(directory, uuid, Seq::FIRST, first_link(uuid))
    }

    /// A cursor before the record `next_seq`, which begins a log and must carry this checksum of the record before it.
    pub(crate) fn at(directory: Arc<dyn Directory>, uuid: Uuid, next_seq: Seq, previous_checksum: u32) -> Self {
        let (first_log, log) = (Seq::FIRST, None);
        let (checked_to_the_end, kept) = (false, None);
        Self { directory, uuid, next_seq, previous_checksum, log, first_log, checked_to_the_end, kept }
    }

    /// Keeps the bytes of the logs that are read from now on, as long as they are not [dropped](KeptLogs::drop_through).
    pub(crate) fn keeping(self) -> Self {
        Self { kept: Some(KeptLogs::default()), ..self }
    }

    /// The bytes that were kept.
    pub(crate) fn kept(&mut self) -> Option<&mut KeptLogs> {
        self.kept.as_mut()
    }

    /// Allows the next log to be without a record, as the first log of a spool.
    pub(crate) fn of_spool(self) -> Self {
        Self { first_log: self.next_seq, ..self }
    }

    /// A second cursor at the beginning of the log that this one has reached.
    pub(crate) fn behind(&self) -> Self {
        Self::at(Arc::clone(&self.directory), self.uuid, self.next_seq, self.previous_checksum)
    }

    /// A cursor at the beginning of a log whose predecessor is damaged: the checksum of the previous record is taken from the
    /// log.
    pub(crate) fn at_log(directory: Arc<dyn Directory>, uuid: Uuid, first_seq: Seq) -> Result<Self, ReadError> {
        let mut cursor = Self::at(directory, uuid, first_seq, 0);
        let file = open_log(&*cursor.directory, uuid, first_seq)?;
        cursor.previous_checksum = read_header(&*file, uuid)?.previous_checksum;
        Ok(cursor)
    }

    /// Directory of the log.
    pub(crate) fn directory(&self) -> &Arc<dyn Directory> {
        &self.directory
    }

    /// UUID of the backup.
    pub(crate) fn uuid(&self) -> Uuid {
        self.uuid
    }

    /// Seq of the record that comes next.
    pub(crate) fn next_seq(&self) -> Seq {
        self.next_seq
    }

    /// Checksum that the next record must carry.
    pub(crate) fn previous_checksum(&self) -> u32 {
        self.previous_checksum
    }

    /// The end of the records read so far.
    pub(crate) fn end(&self) -> LogEnd {
        LogEnd { next_seq: self.next_seq, previous_checksum: self.previous_checksum }
    }

    /// First seq of the cursor's log, and the offset of its next record.
    pub(crate) fn position(&self) -> Option<(Seq, u64)> {
        self.log.as_ref().map(|log| (log.first_seq, log.offset))
    }

    /// Unit of the length of the cursor's log.
    pub(super) fn unit(&self) -> Option<u64> {
        self.log.as_ref().map(|log| log.unit)
    }

    /// Name under which the cursor's log was found.
    pub(super) fn name(&self) -> Option<Name> {
        self.log.as_ref().map(|log| log.name)
    }

    /// Passes every record written so far to `take`, in order, and stops behind the last.
    ///
    /// Invalid bytes at the end of the last log count as "not yet", unless an intact record follows.
    ///
    /// # Errors
    /// Damage, and what `take` reports as damage. The cursor stays before it: all records passed on are valid.
    pub(crate) fn read_new(
        &mut self,
        take: &mut dyn FnMut(&Record<'_>, RecordAddress) -> Result<(), Damage>,
    ) -> Result<(), ReadError> {
        let mut looks = 0;
        let mut take_all = |record: &Record<'_>, address| take(record, address).map(ControlFlow::Continue);
        loop {
            let progress = self.next_seq;
            match self.read_once(&mut take_all) {
                Err(ReadError::Damaged { .. }) if looks < SECOND_LOOKS => {
                    looks = if self.next_seq == progress { looks + 1 } else { 1 };
                    thread::sleep(SECOND_LOOK_AFTER);
                }
                other => return other,
            }
        }
    }

    fn read_once(&mut self, take: &mut dyn FnMut(&Record<'_>, RecordAddress) -> Taken) -> Result<(), ReadError> {
        while self.read_to_end_of_log(take)? == NextLog::Begins {}
        Ok(())
    }

    /// Passes the records of one log that are written so far to `take`, in order.
    ///
    /// # Errors
    /// The same as [`read_new`](Self::read_new), but without reading again.
    pub(crate) fn read_to_end_of_log(
        &mut self,
        take: &mut dyn FnMut(&Record<'_>, RecordAddress) -> Taken,
    ) -> Result<NextLog, ReadError> {
        self.look_for_own_name()?;
        if self.log.is_none() && !self.enter_next_log()? {
            if self.directory.may_end_sealed() {
                return Ok(NextLog::NotYet);
            }
            let path = self.directory.path().join(names::log(self.next_seq));
            return Err(ReadError::damaged(&path, 0, Damage::Missing { expected: self.next_seq }));
        }
        let end = self.read_log(take)?;
        if let End::BrokenOff = end {
            return Ok(NextLog::NotReached);
        }
        if self.enter_next_log()? {
            return Ok(NextLog::Begins);
        }
        self.check_end(end)?;
        self.check_log_in_place()?;
        Ok(NextLog::NotYet)
    }

    /// Passes records to `take` until it breaks, or no more are written. The cursor stays before the record at which it breaks.
    ///
    /// # Errors
    /// The same as [`read_new`](Self::read_new).
    pub(crate) fn read_until(&mut self, take: &mut dyn FnMut(&Record<'_>) -> ControlFlow<()>) -> Result<(), ReadError> {
        let mut looks = 0;
        loop {
            let progress = self.next_seq;
            match self.read_to_end_of_log(&mut |record, _| Ok(take(record))) {
                Ok(NextLog::Begins) => {}
                Ok(NextLog::NotYet | NextLog::NotReached) => return Ok(()),
                Err(ReadError::Damaged { .. }) if looks < SECOND_LOOKS => {
                    looks = if self.next_seq == progress { looks + 1 } else { 1 };
                    thread::sleep(SECOND_LOOK_AFTER);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Checks that the last record that was read is still there. It is gone when the log was overwritten with an older copy, or
    /// when the recording machine has lost what was not durable: the bytes behind the record do not show that.
    ///
    /// # Errors
    /// When another record is there, or none.
    pub(crate) fn check_last(&self) -> Result<(), ReadError> {
        let Some((log, (offset, header))) = self.log.as_ref().and_then(|log| Some((log, log.last?))) else {
            return Ok(());
        };
        let mut now = [0; RECORD_HEADER_LEN];
        // A file that is too short leaves zeros. A read error is reported by the next read.
        let is_read = log.file.read_at(&mut now, offset).is_ok();
        if !is_read || now == header {
            Ok(())
        } else {
            Err(ReadError::damaged(log.file.path(), offset, Damage::Replaced))
        }
    }

    /// A log found under the name `preallocated` is renamed soon, or created anew if it was not durable.
    fn look_for_own_name(&mut self) -> Result<(), ReadError> {
        let Some(log) = self.log.as_mut().filter(|log| log.name == Name::Preallocated) else { return Ok(()) };
        let named = |directory: &dyn Directory| match directory.open(&names::log(log.first_seq), Access::Read) {
            Err(error) if error.is_not_found() => Ok(None),
            opened => opened.map(Some),
        };
        let file = match named(&*self.directory)? {
            None if log.file.check_in_place().is_ok() => return Ok(()),
            // It may have been renamed between the two attempts.
            None => named(&*self.directory)?,
            found => found,
        };
        let Some(file) = file else {
            let damage = Damage::Missing { expected: log.first_seq };
            return Err(ReadError::damaged(&self.directory.path().join(names::log(log.first_seq)), 0, damage));
        };
        (log.file, log.name) = (file, Name::Own);
        Ok(())
    }

    /// Opens the log that begins with the next record; `false` when there is none, or it is already open.
    fn enter_next_log(&mut self) -> Result<bool, ReadError> {
        if self.log.as_ref().is_some_and(|log| log.first_seq == self.next_seq) {
            return Ok(false);
        }
        let link = Link { uuid: self.uuid, next_seq: self.next_seq, previous_checksum: self.previous_checksum };
        let named = || match self.directory.open(&names::log(link.next_seq), Access::Read) {
            Err(error) if error.is_not_found() => Ok(None),
            opened => opened.map(|file| Some((file, Name::Own))),
        };
        let mut found = named()?;
        if found.is_none() {
            found = open_continuing(&*self.directory, link)?.map(|file| (file, Name::Preallocated));
        }
        if found.is_none() {
            // If it was renamed after the first attempt and before the second, it now has its name.
            found = named()?;
        }
        let Some((file, name)) = found else { return Ok(false) };
        let header = read_header(&*file, self.uuid)?;
        check_continues(&*file, &header, link)?;
        let (offset, unit) = (LOG_HEADER_LEN as u64, header.unit);
        if let Some(kept) = &mut self.kept {
            kept.begin(self.next_seq, &header);
        }
        self.log = Some(OpenLog { file, first_seq: self.next_seq, offset, unit, name, last: None });
        Ok(true)
    }

    /// Reads the open log from the cursor on.
    fn read_log(&mut self, take: &mut dyn FnMut(&Record<'_>, RecordAddress) -> Taken) -> Result<End, ReadError> {
        let log = self.log.as_mut().expect("BUG: a log is open");
        let mut buffer = Vec::new();
        // `buffer[start..]` are the bytes of the file from `log.offset` on.
        let mut start = 0;
        let mut wanted = CHUNK;
        loop {
            buffer.drain(..start);
            start = 0;
            if buffer.capacity() > KEEP_BYTES && buffer.len().max(wanted) <= KEEP_BYTES {
                buffer.shrink_to(KEEP_BYTES);
            }
            read_on(&*log.file, &mut buffer, log.offset, wanted.max(CHUNK))?;
            let at_end = buffer.len() < wanted;
            wanted = loop {
                match parse(self.uuid, &buffer[start..]) {
                    Ok(Parsed::Record { record, checksum, len }) => {
                        let damaged = |damage| ReadError::damaged(log.file.path(), log.offset, damage);
                        let header = &record.header;
                        if header.seq != self.next_seq || header.previous_checksum != self.previous_checksum {
                            return Err(damaged(Damage::Missing { expected: self.next_seq }));
                        }
                        let (offset, seq) = (log.offset, header.seq);
                        let address = RecordAddress::Log { log: log.first_seq, seq, offset, len, checksum };
                        if take(&record, address).map_err(damaged)?.is_break() {
                            return Ok(End::BrokenOff);
                        }
                        self.next_seq = self.next_seq.next();
                        self.previous_checksum = checksum;
                        if let Some(kept) = &mut self.kept {
                            kept.add(&buffer[start..start + len]);
                        }
                        log.last = buffer[start..].first_chunk().map(|header| (log.offset, *header));
                        log.offset += len as u64;
                        start += len;
                    }
                    Ok(Parsed::Unused) => return Ok(End::Unused),
                    Ok(Parsed::NotUnderstood(damage)) => {
                        return Err(ReadError::damaged(log.file.path(), log.offset, damage));
                    }
                    Ok(Parsed::Short { .. }) if at_end => {
                        let len = log.offset + (buffer.len() - start) as u64;
                        return Ok(End::at_end_of_file(&buffer[start..], len));
                    }
                    Ok(Parsed::Short { wanted }) => break wanted,
                    Err(damage) => return Ok(End::NoRecord(damage)),
                }
            };
        }
    }

    /// Checks that the log still has its name. A log whose first record was never acknowledged is removed and its name reused:
    /// the open file would never grow.
    fn check_log_in_place(&self) -> Result<(), ReadError> {
        let log = self.log.as_ref().expect("BUG: a log is open");
        match log.file.check_in_place() {
            Err(error) if error.is_not_found() && log.name == Name::Own => {
                Err(ReadError::damaged(log.file.path(), 0, Damage::Replaced))
            }
            // The preallocated file is renamed soon.
            Err(error) if error.is_not_found() => Ok(()),
            checked => Ok(checked?),
        }
    }

    /// Distinguishes "not yet" from damage: no intact record may follow, in this log or a later one.
    fn check_end(&mut self, end: End) -> Result<(), ReadError> {
        let log = self.log.as_ref().expect("BUG: a log is open");
        // Every log but the first has a record whenever it has its name.
        let is_without_record = log.first_seq == self.next_seq && log.first_seq != self.first_log;
        let damage = match end {
            // Checked once; from then on only the writer appends, which leaves no holes.
            End::Unused if self.checked_to_the_end && !is_without_record => return Ok(()),
            End::Unused => Damage::Missing { expected: self.next_seq },
            End::BrokenOff => return Ok(()),
            End::NoRecord(damage) => damage,
            End::CutOff(damage) => return Err(ReadError::damaged(log.file.path(), log.offset, damage)),
        };
        // For a record of a newer format this cannot be decided.
        if damage.is_too_new()
            || is_without_record
            || intact_record_after(&*log.file, self.uuid, log.offset, self.next_seq)?.is_some()
            || self.directory.list()?.iter().any(|name| names::parse_log(name).is_some_and(|seq| seq > self.next_seq))
            || is_ahead(&*self.directory, self.uuid, self.next_seq)?
        {
            return Err(ReadError::damaged(log.file.path(), log.offset, damage));
        }
        self.checked_to_the_end = true;
        Ok(())
    }
}

impl End {
    /// The end of a log whose last bytes are too few for a record.
    fn at_end_of_file(rest: &[u8], len: u64) -> Self {
        // An acknowledged record begins with its tag.
        let tag = &rest[..rest.len().min(RECORD_TAG.len())];
        match rest.iter().all(|&byte| byte == 0) {
            _ if RECORD_TAG.starts_with(tag) => Self::CutOff(Damage::CutOff { len }),
            true => Self::Unused,
            false => Self::NoRecord(Damage::Magic { expected: "record" }),
        }
    }
}

fn read_header(file: &dyn StoredFile, uuid: Uuid) -> Result<LogHeader, ReadError> {
    let damaged = |damage| ReadError::damaged(file.path(), 0, damage);
    let mut bytes = [0; LOG_HEADER_LEN];
    if !read_exact_at(file, &mut bytes, 0)? {
        return Err(damaged(Damage::Short { have: 0, want: LOG_HEADER_LEN }));
    }
    let header = LogHeader::decode(&bytes).map_err(damaged)?;
    if header.uuid == uuid { Ok(header) } else { Err(damaged(Damage::Foreign)) }
}

#[cfg(test)]
mod tests;
