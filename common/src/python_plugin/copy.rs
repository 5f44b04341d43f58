//! Copying the records of a file into the logs of a new backup, with the repairs on the way.

use std::borrow::Cow;
use std::io::Read as _;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use uuid::Uuid;

use super::import_error::{ImportError, RecordDamage};
use super::log_cutter::{FinishedLog, LogCutter, NewestLog};
use super::order::{Follows, Order};
use super::reader::{Next, NextRecord, Payload, PythonFile, SnapshotBytes, TornBy};
use super::spaces::with_spaces;
use super::to_replay::{Records, ToReplay};
use crate::backup::Backup;
use crate::live::live_database::in_rollback_mode;
use crate::pages::{OverlayPages, SnapshotWriter};
use crate::replay::Replay;
use crate::storage::remove_if_present;
use format::change_flags::{ChangeFlags, RunStart};
use format::names;
use format::record_index::ForeignKeys;
use format::segment::SnapshotId;
use format::snapshot::SnapshotHeader;
use format::snapshot_ref::{SnapshotReason, SnapshotRef};
use format::sql::lexed::{LexedChange, Shapes};
use format::units::{DataVersion, PageNo, PageSize, Seq};
use format::version_rules::Bump;

/// Bytes of the file between checks for a stop.
const LOOK_BYTES: u64 = 1 << 20;

/// Maximum number of omitted records that are listed.
const NAMED_MAX: usize = 20;

/// Progress of an import or export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BytesDone {
    /// Number of bytes done.
    pub done: u64,
    /// Total number of bytes.
    pub total: u64,
}

/// A record that was omitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeftOut {
    /// The version after the record.
    pub data_version: DataVersion,
    /// Offset of the record in the file.
    pub offset: u64,
}

/// The repairs of an import.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Repairs {
    /// Number of changes that were never committed.
    pub never_committed: u64,
    /// The first of them.
    pub named: Vec<LeftOut>,
    /// Number of statements that got a space before `WHERE`.
    pub spaces: u64,
    /// The rest behind the last whole record: offset, length in bytes, and whether it ends with zeros.
    pub torn: Option<(u64, u64, TornBy)>,
    /// The newest version of the header, when the records end with another one.
    pub header_version: Option<DataVersion>,
    /// Number of records in the header, and in the file, when the header has more.
    pub counted: Option<(u64, u64)>,
}

/// The reason why the records behind some version were not imported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rescue {
    /// Offset of the first omitted record.
    pub offset: u64,
    /// Reason, for the operator.
    pub why: String,
}

/// Result of an import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// UUID of the backup.
    pub uuid: Uuid,
    /// First version of the backup.
    pub first: DataVersion,
    /// Newest version of the backup.
    pub newest: DataVersion,
    /// Number of changes.
    pub changes: u64,
    /// The repairs.
    pub repairs: Repairs,
    /// The reason when the import is not complete.
    pub rescue: Option<Rescue>,
    /// SQLite's message if the database at the beginning of the file is damaged.
    pub damage: Option<String>,
}

impl Imported {
    /// The newest version that the node is known to have reached: versions newer than `newest` are missing.
    pub fn newest_known(&self) -> DataVersion {
        let newer = |version: &DataVersion| version.distance_from(self.newest) > 0;
        self.repairs.header_version.filter(newer).unwrap_or(self.newest)
    }
}

/// The end of an import.
#[derive(Debug, Clone)]
pub(super) enum Until {
    /// The end of the file; damage is an error.
    End,
    /// The damage, if there is any.
    Damage,
    /// This record of the backup, which does not replay.
    Unreplayable(Seq, String),
}

/// The reason why copying ended.
pub(super) enum Stop {
    /// An error.
    Because(ImportError),
    /// The replaying thread has ended, and has the reason.
    ReplayEnded,
    /// The record at this offset does not replay.
    Unreplayable { offset: u64 },
}

impl<E: Into<ImportError>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Because(error.into())
    }
}

/// Destination of the records.
pub(super) struct To<'a> {
    /// The new backup.
    pub(super) backup: &'a Arc<Backup>,
    /// Encodes its records.
    pub(super) cutter: LogCutter,
    /// Passes records to the replaying thread. Blocks while that is behind.
    pub(super) records: Records,
}

/// The newest change of the file so far: the next record shows whether it was committed.
struct Unsettled {
    left_out: LeftOut,
    bump: Bump,
    flags: ChangeFlags,
    statements: LexedChange,
}

/// The state of copying.
struct Copy<'a> {
    path: PathBuf,
    to: To<'a>,
    order: Order,
    unsettled: Option<Unsettled>,
    shapes: Shapes,
    next_run_start: RunStart,
    first: Option<DataVersion>,
    newest: Option<DataVersion>,
    records: u64,
    changes: u64,
    repairs: &'a mut Repairs,
    /// The record before which copying ends.
    unreplayable: Option<Seq>,
    /// Offset of the last check for a stop.
    looked_at: u64,
    time: format::units::Timestamp,
}

/// Copies the records of `file`; also returns the newest log, which is in no segment. Repairs are added to `repairs` as they are
/// made. `progress` is called at intervals, and can stop it.
pub(super) fn copy(
    file: &mut PythonFile,
    until: &Until,
    to: To<'_>,
    repairs: &mut Repairs,
    progress: &mut dyn FnMut(BytesDone) -> ControlFlow<()>,
) -> Result<(Imported, NewestLog), Stop> {
    let uuid = to.backup.manifest().uuid;
    let total = file.len();
    let mut go_on = |done| match progress(BytesDone { done, total }) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(ImportError::Interrupted),
    };
    let (unreplayable, why) = match until {
        Until::End | Until::Damage => (None, String::new()),
        Until::Unreplayable(seq, why) => (Some(*seq), why.clone()),
    };
    let mut copy = Copy {
        path: file.path().to_path_buf(),
        to,
        order: Order::default(),
        unsettled: None,
        shapes: Shapes::default(),
        next_run_start: RunStart::First,
        first: None,
        newest: None,
        records: 0,
        changes: 0,
        repairs,
        unreplayable,
        looked_at: 0,
        time: file.modified(),
    };
    let header = *file.header();
    let copied = copy.records(file, &mut go_on).and_then(|()| copy.settle());
    let rescue = match copied {
        Ok(()) => None,
        Err(Stop::Unreplayable { offset }) => Some(Rescue { offset, why }),
        Err(Stop::Because(ImportError::Damaged { path, offset, damage, .. })) => {
            let unsettled = copy.unsettled.as_ref().map(|unsettled| unsettled.left_out.data_version);
            let before = unsettled.or(copy.newest);
            if matches!(until, Until::End) || before.is_none() {
                return Err(ImportError::Damaged { path, offset, damage, before }.into());
            }
            match copy.settle() {
                Err(Stop::Unreplayable { offset }) => Some(Rescue { offset, why }),
                settled => {
                    settled?;
                    Some(Rescue { offset, why: damage.to_string() })
                }
            }
        }
        Err(other) => return Err(other),
    };
    go_on(total)?;
    copy.compare_header(&header);
    let Copy { first, newest, changes, repairs, path, to, .. } = copy;
    let (Some(first), Some(newest)) = (first, newest) else { return Err(ImportError::Empty { path }.into()) };
    let newest_log = to.cutter.finish();
    to.records.finish().map_err(|_| Stop::ReplayEnded)?;
    Ok((Imported { uuid, first, newest, changes, repairs: repairs.clone(), rescue, damage: None }, newest_log))
}

impl Copy<'_> {
    fn damaged(&self, offset: u64, damage: impl Into<RecordDamage>) -> ImportError {
        ImportError::Damaged { path: self.path.clone(), offset, damage: damage.into(), before: None }
    }

    /// Copies all records, as far as they are whole.
    fn records(
        &mut self,
        file: &mut PythonFile,
        go_on: &mut dyn FnMut(u64) -> Result<(), ImportError>,
    ) -> Result<(), Stop> {
        let (len, header) = (file.len(), *file.header());
        loop {
            match file.next_record()? {
                Next::End => return Ok(()),
                Next::Torn { offset, left, by } => {
                    // If the file has its full length, a record in the middle was not cut off.
                    if let TornBy::Short { claimed } = by
                        && offset < header.end
                        && header.end <= len
                        && self.order.newest() != Some(header.version)
                    {
                        return Err(self.damaged(offset, RecordDamage::TooLong { claimed, left }).into());
                    }
                    self.repairs.torn = Some((offset, left, by));
                    return Ok(());
                }
                Next::Record(NextRecord { offset, data_version, payload: Payload::Statements(statements) }) => {
                    self.change(data_version, offset, &statements)?;
                }
                Next::Record(NextRecord { offset, data_version, payload: Payload::Snapshot { bytes, len } }) => {
                    self.snapshot(data_version, offset, bytes, len, &mut |read| go_on(offset + read))?;
                }
            }
            if file.offset() - self.looked_at >= LOOK_BYTES {
                self.looked_at = file.offset();
                go_on(file.offset())?;
            }
        }
    }

    /// Checks that the next record is not the one that does not replay.
    fn check_replayable(&self, offset: u64) -> Result<(), Stop> {
        if self.unreplayable == Some(self.to.cutter.next_seq()) {
            return Err(Stop::Unreplayable { offset });
        }
        Ok(())
    }

    /// Takes a change; this settles the one before.
    fn change(&mut self, data_version: DataVersion, offset: u64, statements: &[&str]) -> Result<(), Stop> {
        self.records += 1;
        let bump = Bump::find(data_version, statements);
        match self.order.change(data_version, bump).map_err(|why| self.damaged(offset, why))? {
            Follows::Newest => self.settle()?,
            Follows::InPlaceOfNewest => {
                let never_committed = self.unsettled.take().map(|unsettled| unsettled.left_out);
                self.repairs.never_committed += 1;
                if self.repairs.named.len() < NAMED_MAX {
                    self.repairs.named.extend(never_committed);
                }
                // After a crash a new run begins.
                self.next_run_start = RunStart::First;
            }
        }
        let repaired: Vec<Cow<'_, str>> =
            statements.iter().map(|text| with_spaces(text).map_or(Cow::Borrowed(*text), Cow::Owned)).collect();
        self.repairs.spaces += repaired.iter().filter(|text| matches!(text, Cow::Owned(_))).count() as u64;
        let statements = self.shapes.lex(&repaired);
        let flags = ChangeFlags::verified(std::mem::replace(&mut self.next_run_start, RunStart::Later));
        let left_out = LeftOut { data_version, offset };
        self.unsettled = Some(Unsettled { left_out, bump, flags, statements });
        Ok(())
    }

    /// Passes on the newest change: it was committed, as far as the file shows.
    fn settle(&mut self) -> Result<(), Stop> {
        let Some(Unsettled { left_out, bump, flags, statements }) = self.unsettled.take() else { return Ok(()) };
        self.check_replayable(left_out.offset)?;
        let added = self.to.cutter.change(left_out.data_version, self.time, flags, bump, &statements);
        let (header, end) = added.map_err(|error| self.damaged(left_out.offset, error))?;
        self.first.get_or_insert(left_out.data_version);
        self.newest = Some(left_out.data_version);
        self.changes += 1;
        self.hand_on(end, ToReplay::Change { header, flags, bump, statements })
    }

    /// Passes on a record, after the end of the log before it, if one ended.
    fn hand_on(&mut self, end: Option<FinishedLog>, record: ToReplay) -> Result<(), Stop> {
        let end = end.map(ToReplay::End);
        end.into_iter().chain([record]).try_for_each(|it| self.to.records.push(it)).map_err(|_| Stop::ReplayEnded)
    }

    /// Takes a snapshot of `len` bytes; `go_on` is called at intervals with the number of bytes read.
    fn snapshot(
        &mut self,
        data_version: DataVersion,
        offset: u64,
        mut bytes: SnapshotBytes<'_>,
        len: u32,
        go_on: &mut dyn FnMut(u64) -> Result<(), ImportError>,
    ) -> Result<(), Stop> {
        self.records += 1;
        self.order.snapshot(data_version).map_err(|why| self.damaged(offset, why))?;
        self.settle()?;
        self.check_replayable(offset)?;
        let io = |source| ImportError::Io { path: self.path.clone(), source };
        let no_database = |why: &str| self.damaged(offset, RecordDamage::NotADatabase(why.to_owned()));
        let mut beginning = [0; 100];
        bytes.read_exact(&mut beginning).map_err(|_| no_database("it is shorter than the header of one"))?;
        let page_size = page_size(&beginning).ok_or_else(|| no_database("it does not begin as one"))?;
        if !len.is_multiple_of(page_size.get()) {
            return Err(no_database("it does not end with a whole page").into());
        }
        let page_count = len / page_size.get();
        let backup = self.to.backup;
        let seq = self.to.cutter.next_seq();
        let uuid = backup.manifest().uuid;
        let created = self.time;
        let header = SnapshotHeader { uuid, seq, base: None, data_version, page_size, page_count, created };
        let mut writer = SnapshotWriter::create(&**backup.directory(), header)?;
        let mut page_bytes = vec![0; page_size.bytes()];
        page_bytes[..beginning.len()].copy_from_slice(&beginning);
        bytes.read_exact(&mut page_bytes[beginning.len()..]).map_err(io)?;
        writer.push(PageNo::FIRST, &in_rollback_mode(&page_bytes))?;
        for page in (2..=page_count).filter_map(PageNo::new) {
            bytes.read_exact(&mut page_bytes).map_err(io)?;
            writer.push(page, &page_bytes)?;
            let read = u64::from(page.get()) * u64::from(page_size.get());
            if read.is_multiple_of(LOOK_BYTES) {
                go_on(read)?;
            }
        }
        let footer_checksum = writer.finish()?;
        if let Err(error) = self.check_database(data_version, offset, SnapshotId { seq, footer_checksum }) {
            remove_if_present(&**backup.directory(), &names::snapshot(seq))?;
            return Err(error.into());
        }
        let reason = if self.first.is_none() { SnapshotReason::Init } else { SnapshotReason::Gap };
        let snapshot =
            SnapshotRef { reason, page_size, page_count, base: None, footer_checksum, unreadable_since: None };
        self.first.get_or_insert(data_version);
        self.newest = Some(data_version);
        let (header, end) = self.to.cutter.snapshot(data_version, self.time, &snapshot);
        self.hand_on(end, ToReplay::Snapshot { header, snapshot })
    }

    /// Checks that the stored snapshot is a database of this version.
    fn check_database(&self, said: DataVersion, offset: u64, id: SnapshotId) -> Result<(), ImportError> {
        let pages = OverlayPages::new(self.to.backup.full_snapshot(id)?);
        let no_database = |why| self.damaged(offset, RecordDamage::NotADatabase(why));
        let replay = Replay::start(pages, ForeignKeys::On).map_err(|error| no_database(error.to_string()))?;
        let found = replay.read_data_version().map_err(no_database)?;
        if found == said { Ok(()) } else { Err(self.damaged(offset, RecordDamage::OtherVersion { said, found })) }
    }

    /// Notes differences between header and records. The plugin writes the header after the record: in a copy made meanwhile, or
    /// after a kill, the records are ahead of the header. In the opposite case records are missing.
    fn compare_header(&mut self, header: &super::bytes::Header) {
        self.repairs.header_version = Some(header.version).filter(|version| self.newest != Some(*version));
        let counted = (header.version_count, self.records);
        self.repairs.counted = Some(counted).filter(|(said, records)| said > records);
    }
}

/// Page size of a database with this beginning; `None` if it is not a database (SQLite file format §1.3).
fn page_size(beginning: &[u8; 100]) -> Option<PageSize> {
    let rest = beginning.strip_prefix(b"SQLite format 3\0")?;
    let [high, low] = *rest.first_chunk()?;
    match (u32::from(high) << 8) | u32::from(low) {
        1 => PageSize::new(65_536),
        bytes => PageSize::new(bytes),
    }
}
