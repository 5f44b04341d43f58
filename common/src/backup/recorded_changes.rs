//! Reading the statements of recorded changes from a log or a segment, and replaying them.

use std::sync::Arc;

use crate::backup::Backup;
use crate::log::{RecordAddress, open_log};
use crate::replay::{ChangeAbout, Replay, ReplayError, StoredReplay};
use crate::segment::Segments;
use crate::storage::read_error::ReadError;
use crate::storage::{StoredFile, read_exact_at};
use format::Damage;
use format::record::{Body, Parsed, Record, parse};
use format::statements::Statements;
use format::units::Keyframe;
use format::units::Seq;

/// Read-ahead in bytes: the next records are usually read next.
const READ_AHEAD: usize = 256 << 10;

/// The changes of one log or segment.
pub(crate) enum RecordedChanges {
    /// A log, which may have been sealed since it was opened.
    Log(LogRecords),
    /// A segment.
    Segment(SegmentChanges),
}

impl RecordedChanges {
    /// Opens the file with the record at `address`: the log, or the segment if the log is gone.
    pub(crate) fn open(backup: &Backup, address: &RecordAddress) -> Result<Self, ReadError> {
        let segment = |first_seq| SegmentChanges { segments: Arc::clone(backup.segments()), first_seq };
        match *address {
            RecordAddress::Segment { segment: first_seq, .. } => Ok(Self::Segment(segment(first_seq))),
            RecordAddress::Log { log, .. } => match open_log(&**backup.directory(), backup.manifest().uuid, log) {
                Ok(file) => Ok(Self::Log(LogRecords::new(file, backup.manifest().uuid))),
                // Damage of the segment is more informative than the missing log.
                Err(ReadError::Storage(error)) if error.is_not_found() => match backup.segments().open(log) {
                    Err(ReadError::Storage(_)) => Err(error.into()),
                    Err(damage) => Err(damage),
                    Ok(_) => Ok(Self::Segment(segment(log))),
                },
                Err(error) => Err(error),
            },
        }
    }

    /// Appends the statements of the change at `address`, as received, to `out`.
    pub(crate) fn texts(&mut self, address: &RecordAddress, out: &mut Vec<String>) -> Result<(), ReadError> {
        match self {
            Self::Log(records) => records.read(address, |record| {
                if let Body::Change { statements, .. } = &record.body {
                    out.extend(statements.iter().map(|statement| statement.clone().into_owned()));
                }
            }),
            Self::Segment(changes) => changes.read(address, |statements| {
                out.extend(statements.map(|statement| statement.text().into_owned()));
            }),
        }
    }

    /// Begins to replay changes of this file onto a database.
    pub(crate) fn onto(self, replay: &mut Replay) -> Result<ChangesReplay<'_>, ReadError> {
        Ok(match self {
            Self::Log(records) => ChangesReplay::Log(records, replay),
            Self::Segment(changes) => {
                let templates = changes.segments.templates(changes.first_seq)?;
                ChangesReplay::Segment(changes, replay.stored(&templates))
            }
        })
    }
}

/// A database that the changes of one log or segment are replayed onto.
pub(crate) enum ChangesReplay<'r> {
    /// A log: the statements are prepared for each change.
    Log(LogRecords, &'r mut Replay),
    /// A segment: the templates stay prepared.
    Segment(SegmentChanges, StoredReplay<'r>),
}

impl ChangesReplay<'_> {
    /// The database.
    pub(crate) fn replay(&self) -> &Replay {
        match self {
            Self::Log(_, replay) => replay,
            Self::Segment(_, stored) => stored.replay(),
        }
    }

    /// Replays the change at `address`.
    ///
    /// # Errors
    /// When the change cannot be read or a statement fails. Then the database is inconsistent.
    pub(crate) fn apply(&mut self, address: &RecordAddress, about: &ChangeAbout) -> Result<(), ReplayError> {
        match self {
            Self::Log(records, replay) => records.read(address, |record| match &record.body {
                Body::Change { statements, .. } => replay.apply(about, statements),
                Body::Rewind { .. } | Body::Commit(_) | Body::Gap | Body::Snapshot(_) => Ok(()),
            })?,
            Self::Segment(changes, stored) => changes.read(address, |statements| stored.apply(about, statements))?,
        }
    }
}

/// The changes of a segment.
#[derive(Clone)]
pub(crate) struct SegmentChanges {
    pub(crate) segments: Arc<Segments>,
    pub(crate) first_seq: Seq,
}

impl SegmentChanges {
    /// The interval of a change, and its position there. The address may still be that in the log.
    pub(crate) fn find(&self, address: &RecordAddress) -> Result<(Keyframe, usize), ReadError> {
        match *address {
            RecordAddress::Segment { interval, position, .. } => Ok((interval, position as usize)),
            RecordAddress::Log { seq, .. } => {
                let timeline = self.segments.timeline(self.first_seq)?;
                let records = timeline.records();
                let found = records.binary_search_by_key(&seq, crate::segment::live_record::LiveRecord::seq).ok();
                match found.and_then(|found| records.get(found)).map(|record| record.address) {
                    Some(RecordAddress::Segment { interval, position, .. }) => Ok((interval, position as usize)),
                    _ => Err(self.missing()),
                }
            }
        }
    }

    /// Passes the statements of the change at `address` to `take`.
    fn read<T>(&self, address: &RecordAddress, take: impl FnOnce(Statements<'_>) -> T) -> Result<T, ReadError> {
        let (interval, position) = self.find(address)?;
        let block = self.segments.statement_block(self.first_seq, interval)?;
        block.change(position).map(take).ok_or_else(|| self.missing())
    }

    /// The error for a missing change.
    pub(crate) fn missing(&self) -> ReadError {
        let damage = Damage::Contradiction("a statement block has fewer changes than the record index");
        match self.segments.open(self.first_seq) {
            Ok(file) => file.damaged(file.footer().index.offset, damage),
            Err(error) => error,
        }
    }
}

/// Reads records of a log by address; consecutive ones are read together.
pub(crate) struct LogRecords {
    file: Box<dyn StoredFile>,
    uuid: uuid::Uuid,
    /// Bytes of the file from `buffer_offset` on.
    buffer: Vec<u8>,
    buffer_offset: u64,
}

impl LogRecords {
    fn new(file: Box<dyn StoredFile>, uuid: uuid::Uuid) -> Self {
        Self { file, uuid, buffer: Vec::new(), buffer_offset: 0 }
    }

    /// Reads the record at `address`, checks it, and passes it to `take`.
    fn read<T>(&mut self, address: &RecordAddress, take: impl FnOnce(&Record<'_>) -> T) -> Result<T, ReadError> {
        let RecordAddress::Log { offset, len, checksum: expected, .. } = *address else {
            return Err(ReadError::damaged(self.file.path(), 0, Damage::Contradiction("a record is not in this log")));
        };
        let start = offset
            .checked_sub(self.buffer_offset)
            .and_then(|start| usize::try_from(start).ok())
            .filter(|start| start.checked_add(len).is_some_and(|end| end <= self.buffer.len()));
        let start = match start {
            Some(start) => start,
            None => {
                self.buffer.resize(len.max(READ_AHEAD), 0);
                if !read_exact_at(&*self.file, &mut self.buffer, offset)? {
                    // Fewer bytes follow than the read-ahead: the parser decides whether they suffice.
                    self.buffer.resize(len, 0);
                    read_exact_at(&*self.file, &mut self.buffer, offset)?;
                }
                self.buffer_offset = offset;
                0
            }
        };
        let damaged = |damage| ReadError::damaged(self.file.path(), offset, damage);
        match parse(self.uuid, &self.buffer[start..start + len]) {
            Ok(Parsed::Record { record, checksum, .. }) if checksum == expected => Ok(take(&record)),
            // An intact record of another copy of the backup.
            Ok(Parsed::Record { .. }) => Err(damaged(Damage::Replaced)),
            Ok(Parsed::Short { wanted }) => Err(damaged(Damage::Short { have: len, want: wanted })),
            Ok(Parsed::Unused) => Err(damaged(Damage::Magic { expected: "record" })),
            Ok(Parsed::NotUnderstood(damage)) | Err(damage) => Err(damaged(damage)),
        }
    }
}
