//! The contents of a spool.

use std::sync::Arc;

use crate::history::NewestVersion;
use crate::log::DbWrite;
use crate::log::{LogCursor, LogEnd};
use crate::storage::read_error::ReadError;
use crate::storage::{Access, Directory, StorageError};
use format::commit_note::CommitNote;
use format::record::{Body, RECORD_HEADER_LEN, Record};
use format::spool::SpoolHeader;
use format::units::{DataVersion, Seq, Timestamp};
use format::version_rules::{Bump, Commit};
use format::{Damage, names};

/// Totals of the changes in a spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpooledChanges {
    /// Number of changes.
    pub changes: u64,
    /// Version of the first change; `None` without changes.
    pub from_version: Option<DataVersion>,
    /// Version of the last change.
    pub to_version: Option<DataVersion>,
    /// Total length of their records in bytes.
    pub bytes: u64,
    /// Time at which the spool was created.
    pub since: Timestamp,
}

/// The state that header and records of a spool lead to.
#[derive(Debug, Clone)]
pub(crate) struct SpoolContents {
    pub(crate) header: SpoolHeader,
    pub(crate) records: u64,
    pub(crate) spooled: SpooledChanges,
    /// The newest version of backup and spool together.
    pub(crate) newest: Option<NewestVersion>,
    pub(crate) commit: Commit,
    /// The last record, if it is a commit.
    pub(crate) note: Option<CommitNote>,
    /// The version before the newest, if it is known.
    before: Option<NewestVersion>,
}

impl SpoolContents {
    pub(crate) fn new(header: SpoolHeader) -> Self {
        let newest = header.newest.map(|newest| NewestVersion {
            data_version: newest.data_version,
            seq: newest.seq,
            recorded_at: newest.recorded_at,
        });
        let commit = header.newest.map_or(Commit::Certain, |newest| newest.commit);
        let since = header.begun;
        let spooled = SpooledChanges { changes: 0, from_version: None, to_version: None, bytes: 0, since };
        Self { header, records: 0, spooled, newest, commit, note: None, before: None }
    }

    /// Applies a record that is already in the spool.
    pub(crate) fn apply(&mut self, record: &Record<'_>) -> Result<(), Damage> {
        let header = &record.header;
        self.records += 1;
        self.note = None;
        match &record.body {
            Body::Change { statements, .. } => {
                let bump = Bump::find(header.data_version, statements);
                if bump == Bump::Present {
                    self.before = self.newest;
                }
                let newest =
                    NewestVersion { data_version: header.data_version, seq: header.seq, recorded_at: header.time };
                (self.newest, self.commit) = (Some(newest), Commit::after(bump));
                let write = DbWrite { data_version: header.data_version, statements, received_at: header.time };
                self.spooled.count(&write);
            }
            // The previous version was on disk when this was recorded. Its seq is not needed: it is not rewound.
            Body::Rewind { .. } => {
                let derived =
                    NewestVersion { data_version: header.data_version, seq: header.seq, recorded_at: header.time };
                self.newest = Some(self.before.take().unwrap_or(derived));
                self.commit = Commit::Certain;
            }
            Body::Commit(note) => {
                self.note = Some(*note);
                if self.commit == Commit::Unknown {
                    self.commit = Commit::Seen;
                }
            }
            Body::Gap | Body::Snapshot(_) => return Err(Damage::Contradiction("a spool holds no snapshots")),
        }
        Ok(())
    }

    /// Reads the spool in a directory, which may be written to; `None` when there is none, or it is empty.
    pub(crate) fn read(directory: &Arc<dyn Directory>) -> Result<Option<Self>, ReadError> {
        let Some(mut contents) = read_header(&**directory)?.map(Self::new) else { return Ok(None) };
        let Some(mut cursor) = first_record(directory, &contents.header)? else { return Ok(None) };
        cursor.read_new(&mut |record, _| contents.apply(record))?;
        Ok(Some(contents).filter(|contents| contents.records > 0))
    }
}

impl SpooledChanges {
    /// Counts a change.
    pub(crate) fn count(&mut self, write: &DbWrite<'_>) {
        let payload = 4 + write.statements.iter().map(|statement| 4 + statement.len()).sum::<usize>();
        self.changes += 1;
        self.bytes += (RECORD_HEADER_LEN + payload) as u64;
        self.from_version.get_or_insert(write.data_version);
        self.to_version = Some(write.data_version);
    }
}

/// The header of the spool in a directory; `None` when there is none.
pub(crate) fn read_header(directory: &dyn Directory) -> Result<Option<SpoolHeader>, ReadError> {
    let file = match directory.open(names::SPOOL_HEADER, Access::Read) {
        Ok(file) => file,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    // One byte more than a header, to notice a longer file.
    let mut bytes = vec![0; format::spool::SPOOL_HEADER_LEN + 1];
    let len = file.read_at(&mut bytes, 0)?;
    SpoolHeader::decode(&bytes[..len]).map(Some).map_err(|damage| ReadError::damaged(file.path(), 0, damage))
}

/// A cursor before the first remaining record of a spool; `None` when it has no log. Drained logs are removed one by one, the
/// oldest first.
pub(crate) fn first_record(
    directory: &Arc<dyn Directory>,
    header: &SpoolHeader,
) -> Result<Option<LogCursor>, ReadError> {
    let uuid = header.manifest.uuid;
    match logs(&**directory)?.first() {
        None => Ok(None),
        Some(&first) if first == header.from.0 => {
            Ok(Some(LogCursor::at(Arc::clone(directory), uuid, header.from.0, header.from.1).of_spool()))
        }
        Some(&first) => LogCursor::at_log(Arc::clone(directory), uuid, first).map(Some),
    }
}

/// The logs in a directory, ascending.
pub(crate) fn logs(directory: &dyn Directory) -> Result<Vec<Seq>, StorageError> {
    let mut logs: Vec<Seq> = directory.list()?.iter().filter_map(|name| names::parse_log(name)).collect();
    logs.sort_unstable();
    Ok(logs)
}

/// The end of the backup that the spool continues from, and its other possible ends.
pub(crate) fn ends(header: &SpoolHeader) -> (LogEnd, Vec<LogEnd>) {
    let end = |&(next_seq, previous_checksum): &(Seq, u32)| LogEnd { next_seq, previous_checksum };
    (end(&header.from), header.attempted.iter().map(end).collect())
}
