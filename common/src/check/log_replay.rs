//! The replay of one log, with the results that a segment needs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::config::log_limits::LogLimits;
use crate::history::Start;
use crate::log::LogCursor;
use crate::pages::{OverlayPages, PageSource};
use crate::replay::statement::take_steps;
use crate::replay::{ChangeAbout, Replay, ReplayError};
use format::change_flags::{ChangeFlags, Predecessor};
use format::record::{Body, Record, RecordHeader};
use format::record_index::{ForeignKeys, IndexedBody, IndexedRecord, Interval};
use format::segment::BlockHandle;
use format::sql::lexed::{LexedChange, Shapes};
use format::statements::{Encoded, TemplatesWriter, encode_lexed};
use format::units::Keyframe;
use format::units::{DataVersion, PageNo, Seq};
use format::version_rules::Bump;

/// Maximum number of pages that an interval with a read set reads.
const READS_MAX: usize = 1024;

/// An image of a page.
#[derive(Debug, Clone)]
pub(crate) enum Image {
    /// The bytes of the page.
    Bytes(Arc<[u8]>),
    /// The page in the snapshot that the log begins with.
    OfSnapshot,
    /// The page was truncated.
    Cut,
}

/// Positions of the keyframes of a log.
#[derive(Debug, Clone)]
pub(crate) enum Cuts {
    /// Keyframes wherever these limits require one, to create a segment.
    Due(LogLimits),
    /// Keyframes where the segment has them: positions of its intervals' first records, counted from the first replayed record.
    /// Statements are not kept.
    AsSealed(Vec<u32>),
}

/// The records of a log that are replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Replayed {
    /// All records are replayed.
    All,
    /// The records before this position. Later ones build on something missing, or do not replay: their statements are kept, and
    /// the pages stay as at the newest keyframe.
    Before(u32),
}

impl Replayed {
    /// Position of the first of this many records that is not replayed.
    pub(crate) fn unreplayed_from(self, records: usize) -> Option<u32> {
        match self {
            Self::Before(position) if (position as usize) < records => Some(position),
            Self::All | Self::Before(_) => None,
        }
    }
}

/// A log being replayed.
#[derive(Debug)]
pub(crate) struct LogReplay {
    log: ReplayedLog,
    replay: Replay,
    cuts: Cuts,
    /// The newest change, which is replayed once a later record shows that it was committed.
    unsettled: Option<Unsettled>,
    /// The version of the database.
    settled: Option<DataVersion>,
    /// The database at the newest keyframe.
    at_keyframe: OverlayPages,
    shapes: Shapes,
    /// The changes since the newest keyframe.
    changes: Vec<LexedChange>,
    statements: usize,
    bytes: usize,
    /// SQLite steps since the newest keyframe.
    steps: u64,
    /// The pages that a connection reads before its first statement.
    of_schema: BTreeSet<PageNo>,
}

#[derive(Debug)]
struct Unsettled {
    about: ChangeAbout,
    checked: Checked,
}

/// Whether the newest change was replayed on a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Checked {
    No,
    Yes,
}

/// The result of replaying a log.
#[derive(Debug)]
pub(crate) struct ReplayedLog {
    pub(crate) first_seq: Seq,
    pub(crate) previous_checksum: u32,
    pub(crate) start: Start,
    pub(crate) newest_segment: Option<Seq>,
    pub(crate) start_pages: StartPages,
    pub(crate) replayed: Replayed,
    pub(crate) records: Vec<IndexedRecord>,
    /// Positions of their blocks are not set yet.
    pub(crate) intervals: Vec<Interval>,
    /// The statements of each interval.
    pub(crate) blocks: Vec<Encoded>,
    /// The templates of all blocks.
    pub(crate) templates: TemplatesWriter,
    /// The images of every changed page, in order.
    pub(crate) images: BTreeMap<PageNo, Vec<(Keyframe, Image)>>,
    /// The pages that a replay of each interval alone reads.
    pub(crate) reads: Vec<BTreeSet<PageNo>>,
    pub(crate) page_count: u32,
    pub(crate) foreign_keys: ForeignKeys,
}

/// The pages that a replay begins with.
#[derive(Clone)]
pub(crate) struct StartPages(pub(crate) Arc<dyn PageSource>);

impl std::fmt::Debug for StartPages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StartPages {{ page_count: {} }}", self.0.page_count())
    }
}

impl LogReplay {
    /// Begins a replay on `pages`.
    pub(crate) fn new(
        first_seq: Seq,
        previous_checksum: u32,
        start: Start,
        newest_segment: Option<Seq>,
        pages: Arc<dyn PageSource>,
        foreign_keys: ForeignKeys,
        cuts: Cuts,
    ) -> Result<Self, ReplayError> {
        let at_keyframe = OverlayPages::new(Arc::clone(&pages));
        let replay = Replay::start(at_keyframe.clone(), foreign_keys)?;
        let of_schema = replay.schema_pages()?.into_iter().collect();
        replay.note_reads();
        let page_count = pages.page_count();
        let block = BlockHandle { offset: 0, len: 0 };
        let log = ReplayedLog {
            first_seq,
            previous_checksum,
            start,
            newest_segment,
            start_pages: StartPages(pages),
            replayed: Replayed::All,
            records: Vec::new(),
            intervals: vec![Interval { first: 0, page_count, foreign_keys, block }],
            blocks: Vec::new(),
            templates: TemplatesWriter::new(),
            images: BTreeMap::new(),
            reads: Vec::new(),
            page_count,
            foreign_keys,
        };
        Ok(Self {
            log,
            replay,
            cuts,
            unsettled: None,
            settled: None,
            at_keyframe,
            shapes: Shapes::default(),
            changes: Vec::new(),
            statements: 0,
            bytes: 0,
            steps: 0,
            of_schema,
        })
    }

    /// Stops replay before this record, or before the first record if that is later; further records are only kept.
    pub(crate) fn replay_before_seq(&mut self, seq: Seq) {
        let position = seq.get().saturating_sub(self.log.first_seq.get());
        self.replay_before(u32::try_from(position).unwrap_or(u32::MAX));
    }

    /// Stops replay before this position; further records are only kept.
    pub(crate) fn replay_before(&mut self, position: u32) {
        self.log.replayed = Replayed::Before(position);
        self.unsettled = None;
        let page_count = self.at_keyframe.page_count();
        for record in self.log.records.get_mut(position as usize..).unwrap_or_default() {
            record.page_count = page_count;
        }
    }

    /// Stops replay before the newest change, which does not replay; it and further records are only kept.
    pub(crate) fn give_up_newest_change(&mut self) {
        let is_change = |record: &IndexedRecord| matches!(record.body, IndexedBody::Change { .. });
        let position = self.log.records.iter().rposition(is_change).unwrap_or(self.log.records.len());
        self.replay_before(u32::try_from(position).unwrap_or(u32::MAX));
    }

    /// Whether the record at this position is only kept.
    fn is_only_kept(&self, position: usize) -> bool {
        matches!(self.log.replayed, Replayed::Before(first) if position >= first as usize)
    }

    /// Whether the newest record is only kept, so the pages are those of the newest keyframe.
    fn has_given_up(&self) -> bool {
        self.log.records.len().checked_sub(1).is_some_and(|newest| self.is_only_kept(newest))
    }

    /// Seq of the newest change; that of the first record if there is none.
    pub(crate) fn newest_change(&self) -> Seq {
        let is_change = |record: &IndexedRecord| matches!(record.body, IndexedBody::Change { .. });
        let position = self.log.records.iter().rposition(is_change).unwrap_or(0);
        Seq::new(self.log.first_seq.get().saturating_add(position as u64)).unwrap_or(self.log.first_seq)
    }

    /// Whether the newest versions are unverified, according to the log.
    pub(crate) fn ends_unverified(&self) -> bool {
        let newest = self.log.records.iter().rev().find_map(|record| match record.body {
            IndexedBody::Change { flags, .. } => Some(flags.predecessor),
            IndexedBody::Snapshot(_) => Some(Predecessor::Verified),
            IndexedBody::Rewind | IndexedBody::Commit(_) | IndexedBody::Gap => None,
        });
        newest == Some(Predecessor::Unverified)
    }

    /// The version after the newest record.
    pub(crate) fn newest_version(&self) -> Option<DataVersion> {
        self.log.records.last().map(|record| record.data_version)
    }

    /// Whether no record is only kept.
    pub(crate) fn is_all_replayed(&self) -> bool {
        !self.has_given_up()
    }

    /// Replays the newest change and one more on a copy, as a check.
    pub(crate) fn check_onward(&self, record: &Record<'_>) -> Result<(), ReplayError> {
        let Body::Change { flags, statements } = &record.body else { return Ok(()) };
        if self.has_given_up() {
            return Ok(());
        }
        let mut copy = Replay::start(self.replay.pages(), self.replay.foreign_keys()?)?;
        if let (Some(unsettled), Some(change)) = (&self.unsettled, self.changes.last()) {
            copy.apply_lexed(&unsettled.about, change)?;
        }
        let RecordHeader { data_version, seq, time, .. } = record.header;
        let run_start = flags.run_start;
        copy.apply(&ChangeAbout { data_version, seq, time, run_start }, statements)
    }

    /// Seq of the first record.
    pub(crate) fn first_seq(&self) -> Seq {
        self.log.first_seq
    }

    /// Whether a cursor is in a later log.
    pub(crate) fn is_before(&self, cursor: &LogCursor) -> bool {
        cursor.position().is_some_and(|(log, _)| log > self.log.first_seq)
    }

    /// Adds the next record of the log.
    pub(crate) fn add(&mut self, record: &Record<'_>) -> Result<(), ReplayError> {
        let header = &record.header;
        match &record.body {
            Body::Change { flags, statements } => {
                let bump = Bump::find(header.data_version, statements);
                let change = self.shapes.lex(statements);
                return self.add_change(header, *flags, bump, change);
            }
            Body::Rewind { .. } => {
                self.unsettled = None;
                self.push(header, IndexedBody::Rewind);
            }
            Body::Commit(note) => self.push(header, IndexedBody::Commit(*note)),
            Body::Gap => {
                self.replay_before(0);
                self.push(header, IndexedBody::Gap);
            }
            Body::Snapshot(snapshot) => {
                self.settled = Some(header.data_version);
                self.push(header, IndexedBody::Snapshot(*snapshot));
            }
        }
        Ok(())
    }

    /// Adds the next record of the log, a change.
    pub(crate) fn add_change(
        &mut self,
        header: &RecordHeader,
        flags: ChangeFlags,
        bump: Bump,
        change: LexedChange,
    ) -> Result<(), ReplayError> {
        self.settle()?;
        // Only here: no change before one that bumps is ever rewound.
        if bump == Bump::Present && self.is_keyframe_due() {
            self.cut()?;
        }
        let (statements, bytes) = (change.len(), change.bytes());
        self.statements += statements;
        self.bytes += bytes;
        self.changes.push(change);
        if !self.is_only_kept(self.log.records.len()) {
            let RecordHeader { data_version, seq, time, .. } = *header;
            let about = ChangeAbout { data_version, seq, time, run_start: flags.run_start };
            self.unsettled = Some(Unsettled { about, checked: Checked::No });
        }
        let statements = u32::try_from(statements).unwrap_or(u32::MAX);
        self.push(header, IndexedBody::Change { flags, bump, statements, bytes: bytes as u64 });
        Ok(())
    }

    fn push(&mut self, header: &RecordHeader, body: IndexedBody) {
        let is_kept = self.is_only_kept(self.log.records.len());
        let pages = if is_kept { self.at_keyframe.page_count() } else { self.replay.page_count() };
        let (data_version, time, page_count) = (header.data_version, header.time, pages);
        self.log.records.push(IndexedRecord { data_version, time, page_count, body });
    }

    fn is_keyframe_due(&self) -> bool {
        match &self.cuts {
            Cuts::Due(limits) => {
                self.statements >= limits.keyframe_statements()
                    || self.bytes as u64 >= limits.keyframe_bytes()
                    || self.steps >= limits.keyframe_steps()
            }
            Cuts::AsSealed(firsts) => {
                let next = firsts.get(self.log.intervals.len());
                next.is_some_and(|&first| first as usize == self.log.records.len())
            }
        }
    }

    /// Replays the newest change: a later record shows that it was committed.
    pub(crate) fn settle(&mut self) -> Result<(), ReplayError> {
        let (Some(Unsettled { about, .. }), Some(change)) = (self.unsettled.take(), self.changes.last()) else {
            return Ok(());
        };
        take_steps();
        self.replay.apply_lexed(&about, change)?;
        self.steps += take_steps();
        self.settled = Some(about.data_version);
        let page_count = self.replay.page_count();
        let position = about.seq.get() - self.log.first_seq.get();
        let from = usize::try_from(position).unwrap_or(usize::MAX);
        // Commits behind it have the same pages.
        for record in self.log.records.get_mut(from..).unwrap_or_default() {
            record.page_count = page_count;
        }
        Ok(())
    }

    /// Replays the newest change on a copy, unless that was done before.
    pub(crate) fn check_newest(&mut self) -> Result<(), ReplayError> {
        if let (Some(unsettled), Some(change)) = (&mut self.unsettled, self.changes.last())
            && unsettled.checked == Checked::No
        {
            let mut copy = Replay::start(self.replay.pages(), self.replay.foreign_keys()?)?;
            copy.apply_lexed(&unsettled.about, change)?;
            unsettled.checked = Checked::Yes;
        }
        Ok(())
    }

    /// The version up to which every change has been replayed; `None` before the first.
    pub(crate) fn replayed_through(&self) -> Option<DataVersion> {
        match &self.unsettled {
            Some(Unsettled { about, checked: Checked::No }) => {
                self.settled.filter(|settled| *settled != about.data_version)
            }
            Some(Unsettled { about, checked: Checked::Yes }) => Some(about.data_version),
            None => self.settled,
        }
    }

    /// Takes a keyframe: ends the interval and begins the next. That one reads its pages anew, as opening a
    /// version does.
    fn cut(&mut self) -> Result<(), ReplayError> {
        self.end_interval();
        self.replay.forget_pages()?;
        let first = u32::try_from(self.log.records.len()).unwrap_or(u32::MAX);
        let (page_count, foreign_keys) = self.at_end()?;
        let block = BlockHandle { offset: 0, len: 0 };
        self.log.intervals.push(Interval { first, page_count, foreign_keys, block });
        Ok(())
    }

    /// Number of pages at the end, and whether foreign keys are enforced.
    fn at_end(&self) -> Result<(u32, ForeignKeys), ReplayError> {
        let newest = self.log.intervals.last();
        match newest.filter(|_| self.has_given_up()) {
            Some(newest) => Ok((newest.page_count, newest.foreign_keys)),
            None => Ok((self.replay.page_count(), self.replay.foreign_keys()?)),
        }
    }

    fn end_interval(&mut self) {
        let read = self.replay.take_reads();
        self.replay.note_reads();
        // A change that reads a whole table has no read set: to fetch all that at once would help no version before it.
        let is_kept = read.len() <= READS_MAX;
        self.log.reads.push(self.of_schema.iter().copied().chain(read).filter(|_| is_kept).collect());
        if !self.has_given_up() {
            let now = self.replay.pages();
            let keyframe = Keyframe(u32::try_from(self.log.intervals.len()).unwrap_or(u32::MAX));
            for (page, bytes) in now.written_since(&self.at_keyframe) {
                let image = bytes.map_or(Image::Cut, Image::Bytes);
                self.log.images.entry(page).or_default().push((keyframe, image));
            }
            self.at_keyframe = now;
        }
        if matches!(self.cuts, Cuts::Due(_)) {
            self.log.blocks.push(encode_lexed(&mut self.log.templates, &self.changes));
        }
        self.changes.clear();
        (self.statements, self.bytes, self.steps) = (0, 0, 0);
    }

    /// Number of keyframes, without the first.
    pub(crate) fn keyframes(&self) -> u32 {
        u32::try_from(self.log.intervals.len()).map_or(u32::MAX, |intervals| intervals - 1)
    }

    /// The result up to the newest keyframe, when a change behind it does not replay.
    pub(crate) fn up_to_keyframe(self) -> ReplayedLog {
        self.log
    }

    /// The result at the end of the log.
    pub(crate) fn finish(self) -> Result<ReplayedLog, ReplayError> {
        self.finish_at().map(|(log, _)| log)
    }

    /// Like [`finish`](Self::finish), with the final database.
    pub(crate) fn finish_at(mut self) -> Result<(ReplayedLog, OverlayPages), ReplayError> {
        self.settle()?;
        self.end_interval();
        (self.log.page_count, self.log.foreign_keys) = self.at_end()?;
        Ok((self.log, self.at_keyframe))
    }
}
