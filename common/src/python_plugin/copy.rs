//! Copying the records of a file into the logs of a new backup, and what is put right on the way.

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

/// Bytes of the file between two looks at whether to go on.
const LOOK_BYTES: u64 = 1 << 20;

/// Records left out that are named one by one.
const NAMED_MAX: usize = 20;

/// How far an import is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BytesDone {
    /// Bytes of the file that were read.
    pub done: u64,
    /// Bytes of the file.
    pub total: u64,
}

/// A record that was left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeftOut {
    /// The version that it would have led to.
    pub data_version: DataVersion,
    /// Where it begins in the file.
    pub offset: u64,
}

/// What was put right.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Repairs {
    /// Changes that were never committed: how many.
    pub never_committed: u64,
    /// The first of them.
    pub named: Vec<LeftOut>,
    /// Statements that got a space before `WHERE`.
    pub spaces: u64,
    /// What is behind the last whole record: where it begins, how many bytes it has, and whether it ends with zeros.
    pub torn: Option<(u64, u64, TornBy)>,
    /// The version that the header says is the newest, when the records end with another one.
    pub header_version: Option<DataVersion>,
    /// Records that the header counts and those that there are, when it counts more.
    pub counted: Option<(u64, u64)>,
}

/// Why what is behind some version was not imported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rescue {
    /// Where what was left out begins.
    pub offset: u64,
    /// What is wrong there.
    pub why: String,
}

/// What was imported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// Which backup it is.
    pub uuid: Uuid,
    /// Its first version.
    pub first: DataVersion,
    /// Its newest version.
    pub newest: DataVersion,
    /// Changes in it.
    pub changes: u64,
    /// What was put right.
    pub repairs: Repairs,
    /// There when more is in the file than was imported.
    pub rescue: Option<Rescue>,
    /// What SQLite says is wrong with the copy of the database that the file begins with, if anything is.
    pub damage: Option<String>,
}

impl Imported {
    /// The newest version that the node is known to have reached: what is newer than `newest` is missing.
    pub fn newest_known(&self) -> DataVersion {
        let newer = |version: &DataVersion| version.distance_from(self.newest) > 0;
        self.repairs.header_version.filter(newer).unwrap_or(self.newest)
    }
}

/// How far a file is imported.
#[derive(Debug, Clone)]
pub(super) enum Until {
    /// To its end; damage is an error.
    End,
    /// To the damage, if there is any.
    Damage,
    /// To this record of the backup, which does not replay.
    Unreplayable(Seq, String),
}

/// Why no more is copied.
pub(super) enum Stop {
    /// Something is wrong.
    Because(ImportError),
    /// Nobody replays any more: whoever did knows why.
    NobodyReplays,
    /// What begins at this byte does not replay.
    Unreplayable { offset: u64 },
}

impl<E: Into<ImportError>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Because(error.into())
    }
}

/// Where the records go.
pub(super) struct To<'a> {
    /// The backup that is being made.
    pub(super) backup: &'a Arc<Backup>,
    /// What makes its records.
    pub(super) cutter: LogCutter,
    /// Takes each record. It waits when whoever replays has fallen behind.
    pub(super) records: Records,
}

/// The newest change of the file so far: what comes next shows whether it was committed.
struct Unsettled {
    left_out: LeftOut,
    bump: Bump,
    flags: ChangeFlags,
    statements: LexedChange,
}

/// Records on their way from the file to the log.
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
    /// The record before which it ends.
    unreplayable: Option<Seq>,
    /// Byte of the file at which it was asked whether to go on.
    looked_at: u64,
    time: format::units::Timestamp,
}

/// Copies the records of `file`; returns the newest log as well, which is in no segment. What is put right is noted in `repairs`
/// as it comes. `progress` is asked now and then, and can end it.
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
    to.records.finish().map_err(|_| Stop::NobodyReplays)?;
    Ok((Imported { uuid, first, newest, changes, repairs: repairs.clone(), rescue, damage: None }, newest_log))
}

impl Copy<'_> {
    fn damaged(&self, offset: u64, damage: impl Into<RecordDamage>) -> ImportError {
        ImportError::Damaged { path: self.path.clone(), offset, damage: damage.into(), before: None }
    }

    /// Takes all records, as far as they are whole.
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
                    // Of a file that is as long as it should be, and not at its end, the end was not cut off.
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

    /// Whether the next record is the one that does not replay.
    fn check_replayable(&self, offset: u64) -> Result<(), Stop> {
        if self.unreplayable == Some(self.to.cutter.next_seq()) {
            return Err(Stop::Unreplayable { offset });
        }
        Ok(())
    }

    /// Takes a change; the one before it is settled by that.
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
                // What comes after a crash is a new run.
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

    /// The newest change was committed, as far as the file knows.
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

    /// Hands on a record, and before it that the log in front of it has ended.
    fn hand_on(&mut self, end: Option<FinishedLog>, record: ToReplay) -> Result<(), Stop> {
        let end = end.map(ToReplay::End);
        end.into_iter().chain([record]).try_for_each(|it| self.to.records.push(it)).map_err(|_| Stop::NobodyReplays)
    }

    /// Takes a snapshot of `len` bytes; `go_on` is asked now and then, with the bytes that were read.
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

    /// That what is stored as a snapshot is a database of this version.
    fn check_database(&self, said: DataVersion, offset: u64, id: SnapshotId) -> Result<(), ImportError> {
        let pages = OverlayPages::new(self.to.backup.full_snapshot(id)?);
        let no_database = |why| self.damaged(offset, RecordDamage::NotADatabase(why));
        let replay = Replay::start(pages, ForeignKeys::On).map_err(|error| no_database(error.to_string()))?;
        let found = replay.read_data_version().map_err(no_database)?;
        if found == said { Ok(()) } else { Err(self.damaged(offset, RecordDamage::OtherVersion { said, found })) }
    }

    /// Notes in what header and records disagree. The plugin writes the header after the record: in a copy that is made
    /// meanwhile, or when it is killed, the records go on behind what the header says. The other way round some are missing.
    fn compare_header(&mut self, header: &super::bytes::Header) {
        self.repairs.header_version = Some(header.version).filter(|version| self.newest != Some(*version));
        let counted = (header.version_count, self.records);
        self.repairs.counted = Some(counted).filter(|(said, records)| said > records);
    }
}

/// The page size of a database that begins so; `None` if it is none (SQLite file format §1.3).
fn page_size(beginning: &[u8; 100]) -> Option<PageSize> {
    let rest = beginning.strip_prefix(b"SQLite format 3\0")?;
    let [high, low] = *rest.first_chunk()?;
    match (u32::from(high) << 8) | u32::from(low) {
        1 => PageSize::new(65_536),
        bytes => PageSize::new(bytes),
    }
}
