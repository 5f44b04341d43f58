//! Appending to the log.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use uuid::Uuid;

use crate::format::log_header::{LOG_HEADER_LEN, LogHeader};
use crate::format::names;
use crate::format::record::{
    PayloadTooLong, RecordHeader, RunStart, SnapshotRef, encode_change, encode_commit, encode_rewind, encode_snapshot,
    first_link,
};
use crate::storage::{Access, Directory, StorageError, StoredFile, TEMPORARY_ENDING, remove_if_present};
use crate::version_rules::Bump;
use crate::{DataVersion, LogLimits, Seq, Timestamp};

/// Why nothing was recorded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// A write or sync failed. What is on disk is unknown until the log is opened anew.
    #[error("nothing more is recorded until the recorder is restarted, for what is on disk now is not known")]
    Storage(#[from] StorageError),
    /// A write or sync failed before.
    #[error("an earlier write to {path} failed, so its end cannot be trusted; restart the recorder", path = .path.display())]
    Poisoned {
        /// The log.
        path: PathBuf,
    },
    /// It does not fit.
    #[error(transparent)]
    TooLong(#[from] PayloadTooLong),
}

/// The end of the log.
#[derive(Debug)]
pub(crate) struct LogWriter {
    directory: Arc<dyn Directory>,
    uuid: Uuid,
    file: Box<dyn StoredFile>,
    offset: u64,
    next_seq: Seq,
    previous_checksum: u32,
    health: Health,
    limits: LogLimits,
    /// Records of the log that is open, and their statements.
    log_holds: Holds,
    batch: Batch,
}

/// What a log holds.
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

/// Records encoded but not written.
#[derive(Debug)]
struct Batch {
    bytes: Vec<u8>,
    records: Vec<Encoded>,
    next_seq: Seq,
    previous_checksum: u32,
}

/// A record of a batch.
#[derive(Debug, Clone, Copy)]
struct Encoded {
    /// Where it ends in the bytes of the batch.
    end: usize,
    seq: Seq,
    previous_checksum: u32,
    statements: usize,
    begins_log: BeginsLog,
}

/// Whether a record begins a log. What a finished log holds is settled by that: nothing that comes later rewinds it or
/// adds to its newest version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BeginsLog {
    /// A snapshot: what is before it has nothing to do with it.
    Always,
    /// A change that bumps: when the log before is full.
    WhenFull,
    /// A rewind, a commit or a rider: it belongs to the change before it.
    Never,
}

/// Makes the first log of a backup, empty.
pub(crate) fn create_first_log(directory: &Arc<dyn Directory>, uuid: Uuid) -> Result<LogWriter, StorageError> {
    let (next_seq, previous_checksum) = (Seq::FIRST, first_link(uuid));
    let file = create_log(&**directory, uuid, next_seq, previous_checksum, LogLimits::default())?;
    let (offset, holds) = (LOG_HEADER_LEN as u64, Holds::default());
    Ok(LogWriter::new(Arc::clone(directory), uuid, file, offset, next_seq, previous_checksum, holds))
}

/// Makes a log that has its name only once it is whole and durable.
fn create_log(
    directory: &dyn Directory,
    uuid: Uuid,
    first_seq: Seq,
    previous_checksum: u32,
    limits: LogLimits,
) -> Result<Box<dyn StoredFile>, StorageError> {
    let name = names::log(first_seq);
    let temporary = format!("{name}{TEMPORARY_ENDING}");
    remove_if_present(directory, &temporary)?;
    let file = directory.create(&temporary)?;
    fill_with_zeros(&*file, 0..limits.bytes)?;
    let header = LogHeader { uuid, first_seq, previous_checksum, created: Timestamp::now() };
    file.write_at(&header.encode(), 0)?;
    file.sync()?;
    directory.rename(&temporary, &name)?;
    directory.sync()?;
    // The same file, known by the name that it has now.
    directory.open(&name, Access::ReadWrite)
}

fn fill_with_zeros(file: &dyn StoredFile, range: Range<u64>) -> Result<(), StorageError> {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    for offset in range.clone().step_by(ZEROS.len()) {
        let len = usize::try_from(range.end - offset).unwrap_or(ZEROS.len()).min(ZEROS.len());
        file.write_at(&ZEROS[..len], offset)?;
    }
    Ok(())
}

impl LogWriter {
    /// A writer that goes on at `offset` of an open log, behind whose last record there are only zeros.
    pub(super) fn new(
        directory: Arc<dyn Directory>,
        uuid: Uuid,
        file: Box<dyn StoredFile>,
        offset: u64,
        next_seq: Seq,
        previous_checksum: u32,
        log_holds: Holds,
    ) -> Self {
        let batch = Batch { bytes: Vec::new(), records: Vec::new(), next_seq, previous_checksum };
        let (health, limits) = (Health::Sound, LogLimits::default());
        Self { directory, uuid, file, offset, next_seq, previous_checksum, health, limits, log_holds, batch }
    }

    /// Makes the log that is open as long as a new one, with zeros: the run before may have given their room back.
    ///
    /// # Errors
    /// When there is no room now. Recording goes on all the same, but slower.
    pub(crate) fn fill_ahead(&mut self) -> Result<(), StorageError> {
        let len = self.file.read_len()?;
        if len < self.limits.bytes {
            fill_with_zeros(&*self.file, len..self.limits.bytes)?;
            self.file.sync()?;
        }
        Ok(())
    }

    /// Gives the unused end of the log back to the disk. Whatever happens meanwhile, all that is cut off is zeros.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub(crate) fn give_back_room(&mut self) -> Result<(), AppendError> {
        self.check_sound()?;
        self.file.set_len(self.offset)?;
        Ok(self.file.sync()?)
    }

    /// Lets logs end at other limits from now on.
    pub(crate) fn set_limits(&mut self, limits: LogLimits) {
        self.limits = limits;
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
        run_start: RunStart,
        bump: Bump,
        statements: &[S],
    ) -> Result<Seq, AppendError> {
        let header = self.batch.header(data_version, time);
        let sum = encode_change(self.uuid, &header, run_start, statements, &mut self.batch.bytes)?;
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

    /// Adds to the batch that the newest change, which leads to `data_version`, was committed.
    pub(crate) fn push_commit(&mut self, data_version: DataVersion, time: Timestamp) -> Seq {
        let header = self.batch.header(data_version, time);
        let sum = encode_commit(self.uuid, &header, &mut self.batch.bytes);
        self.batch.advance(sum, BeginsLog::Never, 0)
    }

    /// Adds a snapshot, whose file is durable already, to the batch.
    pub(crate) fn push_snapshot(&mut self, data_version: DataVersion, time: Timestamp, snapshot: &SnapshotRef) -> Seq {
        let header = self.batch.header(data_version, time);
        let sum = encode_snapshot(self.uuid, &header, snapshot, &mut self.batch.bytes);
        self.batch.advance(sum, BeginsLog::Always, 0)
    }

    /// Whether the writer still records.
    ///
    /// # Errors
    /// [`AppendError::Poisoned`] after a write or sync has failed.
    pub(crate) fn check_sound(&self) -> Result<(), AppendError> {
        match self.health {
            Health::Sound => Ok(()),
            Health::Poisoned => Err(AppendError::Poisoned { path: self.file.path().to_path_buf() }),
        }
    }

    /// Forgets the batch.
    pub(crate) fn discard(&mut self) {
        self.batch.bytes.clear();
        self.batch.records.clear();
        self.batch.next_seq = self.next_seq;
        self.batch.previous_checksum = self.previous_checksum;
    }

    /// Writes the batch and makes it durable: one write and one fdatasync for each record. The batch is empty afterwards
    /// either way.
    ///
    /// A power cut before this returns leaves a prefix of the batch's records, each of them whole, and maybe remains
    /// of the next one that recovery cuts off: nothing of the batch was acknowledged. That is why no record is written
    /// before the one in front of it is durable: a disk writes sectors in any order, and a whole record behind the
    /// remains of another is damage.
    ///
    /// # Errors
    /// After a failed write or sync the writer is poisoned: every later call fails too.
    pub(crate) fn commit(&mut self) -> Result<(), AppendError> {
        let result = self.check_sound().and_then(|()| {
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
        let mut start = 0;
        for record in std::mem::take(&mut self.batch.records) {
            if self.rolls_before(&record, (record.end - start) as u64) {
                self.file = create_log(&*self.directory, self.uuid, record.seq, record.previous_checksum, self.limits)?;
                self.offset = LOG_HEADER_LEN as u64;
                self.log_holds = Holds::default();
            }
            self.file.write_at(&self.batch.bytes[start..record.end], self.offset)?;
            self.file.sync()?;
            self.offset += (record.end - start) as u64;
            self.log_holds.records += 1;
            self.log_holds.statements += record.statements;
            start = record.end;
        }
        Ok(())
    }

    /// Whether a record goes to a new log. The old one is whole and durable then; a crash before the new one has its name
    /// changes nothing, and one that leaves it empty is undone by recovery.
    fn rolls_before(&self, record: &Encoded, len: u64) -> bool {
        let statements = self.log_holds.statements + record.statements;
        let full = self.offset + len > self.limits.bytes || statements > self.limits.statements;
        match record.begins_log {
            _ if self.log_holds.records == 0 => false,
            BeginsLog::Always => true,
            BeginsLog::WhenFull => full,
            BeginsLog::Never => false,
        }
    }
}

impl Batch {
    fn header(&self, data_version: DataVersion, time: Timestamp) -> RecordHeader {
        RecordHeader { seq: self.next_seq, data_version, time, previous_checksum: self.previous_checksum }
    }

    /// Goes on behind a record with this checksum; returns the seq it got.
    fn advance(&mut self, checksum: u32, begins_log: BeginsLog, statements: usize) -> Seq {
        let seq = self.next_seq;
        let (end, previous_checksum) = (self.bytes.len(), self.previous_checksum);
        self.records.push(Encoded { end, seq, previous_checksum, statements, begins_log });
        self.next_seq = seq.next();
        self.previous_checksum = checksum;
        seq
    }
}
