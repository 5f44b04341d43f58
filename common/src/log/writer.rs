//! Appending to the log.

use std::path::PathBuf;
use std::sync::Arc;

use uuid::Uuid;

use super::room::Room;
use super::{LogEnd, PreallocatedLogs};
use crate::config::log_limits::LogLimits;
use crate::storage::{
    Access, Directory, StorageError, StoredFile, TEMPORARY_ENDING, fill_with_zeros, remove_if_present, write_durably,
};
use format::change_flags::ChangeFlags;
use format::commit_note::CommitNote;
use format::log_header::{LOG_HEADER_LEN, LogHeader};
use format::names;
use format::record::{
    PayloadTooLong, RecordHeader, encode_change, encode_commit, encode_gap, encode_rewind, encode_snapshot, first_link,
};
use format::snapshot_ref::SnapshotRef;
use format::units::{DataVersion, Seq, Timestamp};
use format::version_rules::Bump;

/// The reason why a record was not written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// A write or sync failed. The contents of the disk are unknown until the log is opened again.
    #[error("a change cannot be recorded")]
    Storage(#[from] StorageError),
    /// An earlier write or sync failed.
    #[error("a change cannot be recorded: an earlier write to {path} failed, and it has to be opened anew first", path = .path.display())]
    Poisoned {
        /// Path of the log.
        path: PathBuf,
    },
    /// The change is too long for a record.
    #[error(transparent)]
    TooLong(#[from] PayloadTooLong),
}

/// Writes to the end of the log.
#[derive(Debug)]
pub(crate) struct LogWriter {
    directory: Arc<dyn Directory>,
    uuid: Uuid,
    file: Box<dyn StoredFile>,
    offset: u64,
    /// Length of the open log.
    room: Room,
    next_seq: Seq,
    previous_checksum: u32,
    health: Health,
    limits: LogLimits,
    /// Number of records and statements of the open log.
    log_holds: Holds,
    batch: Batch,
    preallocated: Arc<PreallocatedLogs>,
    /// The ends of the log behind each record of the last batch.
    attempted: Vec<LogEnd>,
}

/// Number of records and statements of a log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Holds {
    pub(super) records: usize,
    pub(super) statements: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Health {
    Sound,
    Poisoned,
}

/// Space for a log header in front of the records of a batch.
const ROOM: usize = LOG_HEADER_LEN;

/// Capacity that a batch keeps after an unusually large record.
const KEEP_BYTES: usize = 1 << 20;

/// Records that are encoded but not written.
#[derive(Debug)]
struct Batch {
    /// The records, behind [`ROOM`].
    bytes: Vec<u8>,
    records: Vec<Encoded>,
    next_seq: Seq,
    previous_checksum: u32,
}

/// A record of a batch.
#[derive(Debug, Clone, Copy)]
struct Encoded {
    /// End of the record in the bytes of the batch.
    end: usize,
    seq: Seq,
    previous_checksum: u32,
    statements: usize,
    begins_log: BeginsLog,
}

/// Whether a record begins a log. That makes a finished log final: no later record rewinds it or adds to its newest version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BeginsLog {
    /// A snapshot or a gap: independent of the records before it.
    Always,
    /// A change that bumps, when the log is full.
    WhenFull,
    /// A rewind, a commit or a rider: it belongs to the change before it.
    Never,
}

#[cfg(test)]
pub(crate) fn create_first_log(directory: &Arc<dyn Directory>, uuid: Uuid) -> Result<LogWriter, StorageError> {
    create_first_log_within(directory, uuid, LogLimits::default())
}

/// Creates the first log of a backup, the only one that has its name before it has a record.
pub(crate) fn create_first_log_within(
    directory: &Arc<dyn Directory>,
    uuid: Uuid,
    limits: LogLimits,
) -> Result<LogWriter, StorageError> {
    create_log_at(directory, uuid, LogEnd { next_seq: Seq::FIRST, previous_checksum: first_link(uuid) }, limits)
}

/// Creates an empty log at this position: the first of a backup or of a spool.
pub(crate) fn create_log_at(
    directory: &Arc<dyn Directory>,
    uuid: Uuid,
    from: LogEnd,
    limits: LogLimits,
) -> Result<LogWriter, StorageError> {
    let LogEnd { next_seq, previous_checksum } = from;
    let header = header(uuid, from, limits.bytes);
    let (file, room) = create_log(&**directory, next_seq, &header.encode(), limits)?;
    let open = OpenEnd { file, offset: LOG_HEADER_LEN as u64, room, holds: Holds::default() };
    let mut writer = LogWriter::new(Arc::clone(directory), uuid, open, LogEnd { next_seq, previous_checksum });
    writer.set_limits(limits);
    Ok(writer)
}

/// Creates a log of encoded records. No writer continues it before the log has been opened.
pub(crate) fn write_log(
    directory: &dyn Directory,
    uuid: Uuid,
    from: LogEnd,
    records: &[u8],
    limits: LogLimits,
) -> Result<(), StorageError> {
    let header = header(uuid, from, limits.bytes);
    create_log(directory, from.next_seq, &[&header.encode()[..], records].concat(), limits).map(drop)
}

/// Header of a log that continues from there.
fn header(uuid: Uuid, from: LogEnd, unit: u64) -> LogHeader {
    let LogEnd { next_seq: first_seq, previous_checksum } = from;
    LogHeader { uuid, first_seq, previous_checksum, created: Timestamp::now(), unit }
}

/// Creates a log that begins with these bytes; it has its name only when it is whole and durable.
fn create_log(
    directory: &dyn Directory,
    first_seq: Seq,
    start: &[u8],
    limits: LogLimits,
) -> Result<(Box<dyn StoredFile>, Room), StorageError> {
    let name = names::log(first_seq);
    let temporary = format!("{name}{TEMPORARY_ENDING}");
    remove_if_present(directory, &temporary)?;
    let file = directory.create(&temporary)?;
    let room = Room::for_end(start.len() as u64, limits.bytes);
    fill_with_zeros(&*file, 0..room.len)?;
    write_durably(&*file, start, 0)?;
    directory.rename(&temporary, &name)?;
    directory.sync()?;
    // The same file, opened under its new name.
    Ok((directory.open(&name, Access::ReadWrite)?, room))
}

/// The end of an open log.
#[derive(Debug)]
pub(super) struct OpenEnd {
    pub(super) file: Box<dyn StoredFile>,
    /// Offset behind its last record.
    pub(super) offset: u64,
    pub(super) room: Room,
    pub(super) holds: Holds,
}

impl LogWriter {
    /// A writer at the end of an open log, behind whose last record there are only zeros.
    pub(super) fn new(directory: Arc<dyn Directory>, uuid: Uuid, open: OpenEnd, end: LogEnd) -> Self {
        let OpenEnd { file, offset, room, holds: log_holds } = open;
        let LogEnd { next_seq, previous_checksum } = end;
        let batch = Batch { bytes: vec![0; ROOM], records: Vec::new(), next_seq, previous_checksum };
        let (health, limits) = (Health::Sound, LogLimits::default());
        let preallocated = Arc::new(PreallocatedLogs::new(Arc::clone(&directory), limits.bytes));
        Self {
            directory,
            uuid,
            file,
            offset,
            room,
            next_seq,
            previous_checksum,
            health,
            limits,
            log_holds,
            batch,
            preallocated,
            attempted: Vec::new(),
        }
    }

    /// Sets the limits of logs from now on.
    pub(crate) fn set_limits(&mut self, limits: LogLimits) {
        self.limits = limits;
        self.preallocated.set_bytes(limits.bytes);
    }

    /// The preallocated logs.
    pub(crate) fn preallocated(&self) -> &Arc<PreallocatedLogs> {
        &self.preallocated
    }

    /// Seq of the next record of the batch.
    pub(crate) fn next_seq(&self) -> Seq {
        self.batch.next_seq
    }

    /// Adds a change to the batch.
    pub(crate) fn push_change<S: AsRef<str>>(
        &mut self,
        data_version: DataVersion,
        time: Timestamp,
        flags: ChangeFlags,
        bump: Bump,
        statements: &[S],
    ) -> Result<Seq, AppendError> {
        let header = self.batch.header(data_version, time);
        let sum = encode_change(self.uuid, &header, flags, statements, &mut self.batch.bytes)?;
        let begins_log = match bump {
            Bump::Present => BeginsLog::WhenFull,
            Bump::Absent => BeginsLog::Never,
        };
        Ok(self.batch.advance(sum, begins_log, statements.len()))
    }

    /// Adds a rewind to the batch; `data_version` is the newest version once the change `rewound` is gone.
    pub(crate) fn push_rewind(&mut self, data_version: DataVersion, time: Timestamp, rewound: Seq) -> Seq {
        let header = self.batch.header(data_version, time);
        let sum = encode_rewind(self.uuid, &header, rewound, &mut self.batch.bytes);
        self.batch.advance(sum, BeginsLog::Never, 0)
    }

    /// Adds a commit of the newest version, `data_version`, to the batch.
    pub(crate) fn push_commit(&mut self, data_version: DataVersion, time: Timestamp, note: &CommitNote) -> Seq {
        let header = self.batch.header(data_version, time);
        let sum = encode_commit(self.uuid, &header, note, &mut self.batch.bytes);
        self.batch.advance(sum, BeginsLog::Never, 0)
    }

    /// Adds a gap to the batch: versions up to `data_version` were committed and not recorded.
    pub(crate) fn push_gap(&mut self, data_version: DataVersion, time: Timestamp) -> Seq {
        let header = self.batch.header(data_version, time);
        let sum = encode_gap(self.uuid, &header, &mut self.batch.bytes);
        self.batch.advance(sum, BeginsLog::Always, 0)
    }

    /// Adds a snapshot, whose file is durable already, to the batch.
    pub(crate) fn push_snapshot(&mut self, data_version: DataVersion, time: Timestamp, snapshot: &SnapshotRef) -> Seq {
        let header = self.batch.header(data_version, time);
        let sum = encode_snapshot(self.uuid, &header, snapshot, &mut self.batch.bytes);
        self.batch.advance(sum, BeginsLog::Always, 0)
    }

    /// Checks that no write has failed.
    ///
    /// # Errors
    /// [`AppendError::Poisoned`] after a write or sync has failed.
    pub(crate) fn check_sound(&self) -> Result<(), AppendError> {
        match self.health {
            Health::Sound => Ok(()),
            Health::Poisoned => Err(AppendError::Poisoned { path: self.file.path().to_path_buf() }),
        }
    }

    /// The end of the log: behind the newest durable record.
    pub(crate) fn end(&self) -> LogEnd {
        LogEnd { next_seq: self.next_seq, previous_checksum: self.previous_checksum }
    }

    /// The end of the log behind the batch.
    pub(crate) fn batch_end(&self) -> LogEnd {
        LogEnd { next_seq: self.batch.next_seq, previous_checksum: self.batch.previous_checksum }
    }

    /// The possible ends of the log after a failed write or sync: behind any record of that batch.
    pub(crate) fn attempted(&self) -> &[LogEnd] {
        &self.attempted
    }

    /// Clears the batch.
    pub(crate) fn discard(&mut self) {
        self.batch.bytes.truncate(ROOM);
        if self.batch.bytes.capacity() > KEEP_BYTES {
            self.batch.bytes.shrink_to_fit();
        }
        self.batch.records.clear();
        self.batch.next_seq = self.next_seq;
        self.batch.previous_checksum = self.previous_checksum;
    }

    /// Writes the batch and makes it durable: one write and one fdatasync for each record. Afterwards the batch is empty, also
    /// after an error.
    ///
    /// A power cut before this returns leaves a prefix of the batch's records, each whole, and maybe remains of the next one that
    /// recovery cuts off: nothing of the batch was acknowledged. That is why no record is written before the previous one is
    /// durable: a disk writes sectors in any order, and a whole record behind the remains of another is damage. A log that is too
    /// short for a record is extended first, at the cost of a write and a sync: so no torn write reaches the end of a file, and a
    /// file whose end is reached was cut off.
    ///
    /// # Errors
    /// After a failed write or sync the writer is poisoned: every later call fails too.
    pub(crate) fn commit(&mut self) -> Result<(), AppendError> {
        let result = self.check_sound().and_then(|()| {
            self.batch.ends(&mut self.attempted);
            self.write_batch().inspect_err(|_| self.health = Health::Poisoned).map_err(AppendError::from)
        });
        if result.is_ok() {
            self.next_seq = self.batch.next_seq;
            self.previous_checksum = self.batch.previous_checksum;
        }
        self.discard();
        result
    }

    fn write_batch(&mut self) -> Result<(), StorageError> {
        self.file.check_in_place()?;
        let mut start = ROOM;
        for record in std::mem::take(&mut self.batch.records) {
            let len = (record.end - start) as u64;
            if self.rolls_before(&record, len) {
                self.begin_log(&record, start)?;
                self.offset = LOG_HEADER_LEN as u64;
                self.log_holds = Holds::default();
            } else {
                self.room.make(&*self.file, self.offset + len)?;
                write_durably(&*self.file, &self.batch.bytes[start..record.end], self.offset)?;
            }
            self.offset += len;
            self.log_holds.records += 1;
            self.log_holds.statements += record.statements;
            start = record.end;
        }
        Ok(())
    }

    /// Writes the header of a log in front of its first record, into the batch.
    fn put_header(&mut self, start: usize, from: LogEnd, unit: u64) {
        let header = header(self.uuid, from, unit).encode();
        self.batch.bytes[start..start + LOG_HEADER_LEN].copy_from_slice(&header);
    }

    /// Begins a new log with the record of the batch at `start`. Header and record are one write, so that no log is without a
    /// record.
    ///
    /// Power may fail at any point. A preallocated file that is too short is first extended durably. Before the sync of the record
    /// the preallocated file has nothing, remains, or the whole record, and nothing was acknowledged. After the sync the record is
    /// found under either name: that of the preallocated file is durable, and the rename only replaces it. Later records of this
    /// log are found with it. No other log begins before the new name is durable: that is ensured before the next preallocation or,
    /// without it, when a log is created here.
    fn begin_log(&mut self, record: &Encoded, start: usize) -> Result<(), StorageError> {
        let (first_seq, previous_checksum) = (record.seq, record.previous_checksum);
        let from = LogEnd { next_seq: first_seq, previous_checksum };
        // In front of the record is free space, or a record that is already durable.
        let start = start - LOG_HEADER_LEN;
        if let Some((preallocated, unit)) = self.preallocated.take() {
            if preallocated.check_in_place().is_ok() {
                let name = names::log(first_seq);
                self.put_header(start, from, unit);
                let bytes = &self.batch.bytes[start..record.end];
                self.room = Room { len: unit, unit };
                self.room.make(&*preallocated, bytes.len() as u64)?;
                write_durably(&*preallocated, bytes, 0)?;
                self.directory.rename(names::PREALLOCATED, &name)?;
                // The same file, opened under its new name.
                self.file = self.directory.open(&name, Access::ReadWrite)?;
                self.preallocated.named();
                return Ok(());
            }
            self.preallocated.lost();
        }
        self.preallocated.make_name_durable()?;
        self.put_header(start, from, self.limits.bytes);
        let bytes = &self.batch.bytes[start..record.end];
        (self.file, self.room) = create_log(&*self.directory, first_seq, bytes, self.limits)?;
        self.preallocated.try_again();
        Ok(())
    }

    /// Whether a record begins a new log. The old one is whole and durable then.
    fn rolls_before(&self, record: &Encoded, len: u64) -> bool {
        let statements = self.log_holds.statements + record.statements;
        // A log is longer than its records.
        let full = self.offset + len >= self.limits.bytes || statements > self.limits.statements;
        match record.begins_log {
            _ if self.log_holds.records == 0 => false,
            BeginsLog::Always => true,
            BeginsLog::WhenFull => full,
            BeginsLog::Never => false,
        }
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        self.preallocated.stop();
    }
}

impl Batch {
    fn header(&self, data_version: DataVersion, time: Timestamp) -> RecordHeader {
        RecordHeader { seq: self.next_seq, data_version, time, previous_checksum: self.previous_checksum }
    }

    /// The ends of the log behind each record of the batch.
    fn ends(&self, ends: &mut Vec<LogEnd>) {
        let later = self.records.iter().skip(1).map(|record| (record.seq, record.previous_checksum));
        let all = later.chain([(self.next_seq, self.previous_checksum)]);
        ends.clear();
        ends.extend(all.map(|(next_seq, previous_checksum)| LogEnd { next_seq, previous_checksum }));
    }

    /// Advances behind a record with this checksum; returns the record's seq.
    fn advance(&mut self, checksum: u32, begins_log: BeginsLog, statements: usize) -> Seq {
        let seq = self.next_seq;
        let (end, previous_checksum) = (self.bytes.len(), self.previous_checksum);
        self.records.push(Encoded { end, seq, previous_checksum, statements, begins_log });
        self.next_seq = seq.next();
        self.previous_checksum = checksum;
        seq
    }
}
