//! Replay of a segment by the code of the sealer, compared with its stored pages.
//!
//! The sealer replays a log from beginning to end on one connection. The unused bytes that SQLite leaves in pages depend on its
//! cache, so this replay does the same, with the keyframes of the segment. Only behind something unreadable it restarts at the
//! next keyframe. Where bytes differ, rows decide: another release of SQLite may store a row elsewhere.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use crate::backup::Backup;
use crate::check::log_replay::{Cuts, LogReplay, ReplayedLog};
use crate::check::pages_of_snapshot::{PageImage, PagesOfSnapshot};
use crate::check::read_sets::{OwnBlocks, read_sets};
use crate::check::segment_body::{SegmentBody, read_images};
use crate::compare::{Rowids, same_contents};
use crate::history::Start;
use crate::pages::{MountedOverlay, OverlayPages, PageSource};
use crate::replay::{ReplayError, reason};
use crate::segment::{SealedState, SegmentFile};
use crate::storage::read_error::ReadError;
use format::record::{Body, Record, RecordHeader};
use format::record_index::{IndexedBody, Interval, RecordIndex};
use format::segment::BlockHandle;
use format::statements::{Encoded, StatementBlock};
use format::units::Keyframe;
use format::units::{PageNo, PageSize, Seq};

/// Result of replaying a segment.
#[derive(Debug, Default)]
pub(crate) struct SegmentReplay {
    /// Changes that do not replay, and needed pages that cannot be read, each with the offset of the statements of its interval.
    pub(crate) failed: Vec<(Option<u64>, ReplayError)>,
    /// Differences to the stored pages.
    pub(crate) differences: Vec<Difference>,
    /// Number of keyframes with the same rows on other pages.
    pub(crate) other_layout: u32,
    /// Whether the read sets are not those of the replay.
    pub(crate) reads_differ: bool,
}

/// A difference between replay and segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Difference {
    /// The keyframe of the comparison.
    pub(crate) keyframe: Keyframe,
    /// Description of the difference.
    pub(crate) what: String,
}

/// Replays a segment whose body was checked, and compares the result with the stored pages.
pub(crate) fn replay_segment(backup: &Backup, file: &SegmentFile, body: &SegmentBody) -> SegmentReplay {
    let mut outcome = SegmentReplay::default();
    let (Some(index), Some(_)) = (&body.index, &body.templates) else { return outcome };
    let count = u32::try_from(index.intervals.len()).unwrap_or(u32::MAX);
    let can_be_read = |interval: &u32| !body.without_statements.contains(interval);
    let mut next = 0;
    while let Some(from) = (next..count).find(can_be_read) {
        let to = (from..count).find(|interval| !can_be_read(interval)).unwrap_or(count);
        let replayed = Run { backup, file, body, index }.replay(from..to);
        let (log, upto, failed) = match replayed {
            Ok(log) => (Some(Box::new(log)), to, None),
            Err(Failed { log, upto, error }) => (log, upto, Some(error)),
        };
        if let Some(log) = log {
            // What is given up half-way has read pages that are not read here.
            if from == 0 && upto == count && failed.is_none() && index.unreplayed_from.is_none() {
                outcome.reads_differ = reads_differ(backup, file, body, &log);
            }
            match compare_with_replay(backup, file, body, &log, Keyframe(from)..Keyframe(upto)) {
                Ok(compared) => {
                    outcome.differences.extend(compared.differences);
                    outcome.other_layout += compared.other_layout;
                }
                Err(error) => outcome.failed.push((None, error.into())),
            }
        }
        next = if failed.is_some() { upto + 1 } else { to };
        let block = index.intervals.get(upto as usize).map(|interval| interval.block.offset);
        outcome.failed.extend(failed.map(|error| (block, error)));
    }
    outcome
}

/// Whether the read sets of a segment are not those that this replay of all of it gives. What builds on unreadable parts of other
/// segments is not compared.
fn reads_differ(backup: &Backup, file: &SegmentFile, body: &SegmentBody, log: &ReplayedLog) -> bool {
    let replayed = || {
        let own = OwnBlocks::of_file(backup.segments(), file, &body.images)?;
        read_sets(backup.segments(), &own, log)
    };
    let stored = body.read_sets.as_ref();
    stored.is_some_and(|stored| replayed().is_ok_and(|replayed| replayed != *stored))
}

/// A replay that ended early.
struct Failed {
    /// The result up to the error.
    log: Option<Box<ReplayedLog>>,
    /// The interval of the error.
    upto: u32,
    error: ReplayError,
}

/// The replay of consecutive intervals.
struct Run<'a> {
    backup: &'a Backup,
    file: &'a SegmentFile,
    body: &'a SegmentBody,
    index: &'a RecordIndex,
}

impl Run<'_> {
    fn interval(&self, number: u32) -> Option<&Interval> {
        self.index.intervals.get(number as usize)
    }

    fn replay(&self, intervals: Range<u32>) -> Result<ReplayedLog, Failed> {
        let from = intervals.start;
        let mut replay = self.begin(&intervals).map_err(|error| Failed { log: None, upto: from, error })?;
        for interval in intervals {
            if let Err(error) = self.add(&mut replay, Keyframe(interval)) {
                let upto = from + replay.keyframes();
                return Err(Failed { log: Some(Box::new(replay.up_to_keyframe())), upto, error });
            }
        }
        if let Err(error) = replay.settle() {
            let upto = from + replay.keyframes();
            return Err(Failed { log: Some(Box::new(replay.up_to_keyframe())), upto, error });
        }
        let upto = from + replay.keyframes();
        replay.finish().map_err(|error| Failed { log: None, upto, error })
    }

    /// Begins at the keyframe of the first interval.
    fn begin(&self, intervals: &Range<u32>) -> Result<LogReplay, ReplayError> {
        let all = self.index.intervals.get(intervals.start as usize..intervals.end as usize).unwrap_or_default();
        let Some(&Interval { first, page_count, foreign_keys, .. }) = all.first() else {
            return Err(self.file.damaged(0, format::Damage::Contradiction("it has no interval")).into());
        };
        let state = SealedState::At { keyframe: Keyframe(intervals.start), page_count, foreign_keys };
        let start = Start::Segment(self.file.first_seq(), state);
        let (pages, foreign_keys) = self.backup.start_pages(&start)?;
        let cuts = Cuts::AsSealed(all.iter().map(|interval| interval.first - first).collect());
        let first_seq = self.seq(first as usize);
        let previous_checksum = self.file.header().previous_checksum;
        let mut replay = LogReplay::new(first_seq, previous_checksum, start, None, pages, foreign_keys, cuts)?;
        if let Some(position) = self.index.unreplayed_from {
            replay.replay_before(position.saturating_sub(first));
        }
        Ok(replay)
    }

    fn seq(&self, position: usize) -> Seq {
        let first = self.file.first_seq();
        Seq::new(first.get().saturating_add(position as u64)).unwrap_or(first)
    }

    fn add(&self, replay: &mut LogReplay, interval: Keyframe) -> Result<(), ReplayError> {
        let (Some(about), Some(templates)) = (self.interval(interval.0), &self.body.templates) else { return Ok(()) };
        let block = self
            .file
            .read_block(about.block, |bytes| StatementBlock::decode(&Encoded::decompress(bytes)?, templates))?;
        let (mut position, mut newest_change) = (0, self.file.first_seq());
        for (at, record) in (about.first as usize..).zip(crate::check::record_chain::records_of(self.index, interval)) {
            let seq = self.seq(at);
            let header =
                RecordHeader { seq, data_version: record.data_version, time: record.time, previous_checksum: 0 };
            let body = match record.body {
                IndexedBody::Change { flags, .. } => {
                    let stored = block.change(position).into_iter().flatten();
                    position += 1;
                    newest_change = seq;
                    let statements = stored.map(|statement| Cow::Owned(statement.text().into_owned())).collect();
                    Body::Change { flags, statements }
                }
                IndexedBody::Rewind => Body::Rewind { rewound: newest_change },
                IndexedBody::Commit(note) => Body::Commit(note),
                IndexedBody::Gap => Body::Gap,
                IndexedBody::Snapshot(snapshot) => Body::Snapshot(snapshot),
            };
            replay.add(&Record { header, body })?;
        }
        Ok(())
    }
}

/// Result of the comparison.
#[derive(Debug, Default)]
pub(crate) struct Compared {
    pub(crate) differences: Vec<Difference>,
    pub(crate) other_layout: u32,
}

/// Compares a replay of the records from keyframe `keyframes.start` to `keyframes.end` with the contents of the segment.
///
/// # Errors
/// When a page needed for the comparison cannot be read.
pub(crate) fn compare_with_replay(
    backup: &Backup,
    file: &SegmentFile,
    body: &SegmentBody,
    log: &ReplayedLog,
    keyframes: Range<Keyframe>,
) -> Result<Compared, ReadError> {
    let Some(index) = &body.index else { return Ok(Compared::default()) };
    let compare = Comparison { backup, file, body, index, log, keyframes };
    let mut compared = Compared { differences: compare.records(), other_layout: 0 };
    let differing = compare.pages()?;
    for (&keyframe, &page) in &differing {
        match compare.same_rows(keyframe)? {
            Ok(true) => compared.other_layout += 1,
            Ok(false) => compared.differences.push(Difference {
                keyframe,
                what: format!("page {page} of keyframe {}, and rows with it", keyframe.0),
            }),
            Err(said) => compared
                .differences
                .push(Difference { keyframe, what: format!("page {page} of keyframe {}: {said}", keyframe.0) }),
        }
    }
    Ok(compared)
}

struct Comparison<'a> {
    backup: &'a Backup,
    file: &'a SegmentFile,
    body: &'a SegmentBody,
    index: &'a RecordIndex,
    log: &'a ReplayedLog,
    keyframes: Range<Keyframe>,
}

impl Comparison<'_> {
    /// Compares everything except pages.
    fn records(&self) -> Vec<Difference> {
        let mut differences = Vec::new();
        let mut differs = |keyframe, what: String| differences.push(Difference { keyframe, what });
        let Range { start, end } = self.keyframes;
        let first = |number: u32| self.index.intervals.get(number as usize).map(|interval| interval.first as usize);
        let from = first(start.0).unwrap_or(0);
        let to = first(end.0).unwrap_or(self.index.records.len());
        let stored = self.index.records.get(from..to).unwrap_or_default();
        let replayed = self.log.records.get(..stored.len()).unwrap_or_default();
        let other = stored.iter().zip(replayed).position(|(stored, replayed)| stored != replayed);
        if let Some(position) = other {
            let (pages, instead) = (replayed[position].page_count, stored[position].page_count);
            let seq = self.file.first_seq().get() + (from + position) as u64;
            let keyframe = self.index.interval_of(from + position);
            differs(keyframe, format!("record {seq} leads to {pages} pages, and {instead} are noted"));
        }
        let at_end = |log: &ReplayedLog| (log.page_count, log.foreign_keys);
        for number in start.0 + 1..=end.0 {
            let footer = self.file.footer();
            let stored = self.index.intervals.get(number as usize);
            let stored = stored.map_or((footer.page_count, footer.foreign_keys), |at| (at.page_count, at.foreign_keys));
            // The end of a failed replay is unknown; the keyframe before it is in the list.
            let replayed = self.log.intervals.get((number - start.0) as usize);
            let replayed = replayed.map_or(at_end(self.log), |at| (at.page_count, at.foreign_keys));
            if stored != replayed {
                let what =
                    format!("keyframe {number} has {} pages, or other foreign keys, not {}", replayed.0, stored.0);
                differs(Keyframe(number), what);
            }
        }
        differences
    }

    /// The keyframes with differing pages, each with the first such page.
    fn pages(&self) -> Result<BTreeMap<Keyframe, PageNo>, ReadError> {
        let mut differing = BTreeMap::new();
        let of_snapshot = PagesOfSnapshot::of(self.backup, self.log)?;
        let snapshot = self.file.footer().snapshot.map(|id| self.backup.full_snapshot(id)).transpose()?;
        let replayed = of_snapshot.and_replayed(self.log);
        let mut stored = self.body.images.iter().copied().peekable();
        let mut replayed = replayed.into_iter().peekable();
        loop {
            let (page, block) = match (stored.peek().copied(), replayed.peek().copied()) {
                (None, None) => return Ok(differing),
                (Some((page, block)), other) if other.is_none_or(|other| page <= other) => (page, Some(block)),
                (_, Some(page)) => (page, None),
                (Some((page, block)), None) => (page, Some(block)),
            };
            stored.next_if(|(next, _)| *next == page);
            replayed.next_if(|next| *next == page);
            if !self.body.hides(page) {
                let images = of_snapshot.images(self.log, page)?;
                for keyframe in self.page(page, block, images, snapshot.as_ref())? {
                    differing.entry(keyframe).or_insert(page);
                }
            }
        }
    }

    /// The keyframes at which a page differs.
    fn page(
        &self,
        page: PageNo,
        block: Option<BlockHandle>,
        replayed: Vec<PageImage>,
        snapshot: Option<&Arc<dyn PageSource>>,
    ) -> Result<Vec<Keyframe>, ReadError> {
        let begin = self.keyframes.start.0;
        let replayed: Vec<_> = replayed.into_iter().map(|(at, image)| (Keyframe(at.0 + begin), image)).collect();
        let start = &self.log.start_pages.0;
        let mut at_start = vec![0; start.page_size().bytes()];
        start.read_page(page, &mut at_start)?;
        // Keyframe 0 is compared only with the delta snapshot that it is made from.
        let compared = |keyframe: Keyframe| keyframe.0 <= self.keyframes.end.0 && (keyframe.0 > begin || begin == 0);
        let mut differing = Vec::new();
        // The keyframe from which on stored images were compared.
        let mut upto = Keyframe::END;
        let mut compare = |from: Keyframe, bytes: &[u8]| {
            let at_once = replayed.iter().rev().find(|(keyframe, _)| *keyframe <= from);
            let expected = at_once.map_or(&at_start[..], |(_, image)| image);
            if compared(from) && expected != bytes && (from.0 > 0 || at_once.is_some()) {
                differing.push(from);
            }
            let between = replayed.iter().filter(|(keyframe, _)| from < *keyframe && *keyframe < upto);
            differing.extend(between.filter(|(at, image)| compared(*at) && **image != *bytes).map(|(at, _)| *at));
            upto = from;
        };
        if let Some(block) = block {
            read_images(self.backup.segments(), self.file, snapshot, (page, block), |images| {
                images(&mut |keyframe, image| compare(keyframe, image))
            })?;
        }
        let before = replayed.iter().filter(|(keyframe, _)| *keyframe < upto);
        differing.extend(before.filter(|(at, image)| compared(*at) && **image != *at_start).map(|(at, _)| *at));
        Ok(differing)
    }

    /// Whether replayed and stored database have the same rows at a keyframe; SQLite's message when they cannot be compared.
    fn same_rows(&self, keyframe: Keyframe) -> Result<Result<bool, String>, ReadError> {
        let relative = Keyframe(keyframe.0 - self.keyframes.start.0);
        let page_count = self.log.intervals.get(relative.0 as usize).map_or(self.log.page_count, |at| at.page_count);
        let of_snapshot = PagesOfSnapshot::of(self.backup, self.log)?;
        let mut images = HashMap::new();
        for page in of_snapshot.and_replayed(self.log) {
            let of_page = of_snapshot.images(self.log, page)?.into_iter().rev();
            if let Some((_, image)) = of_page.into_iter().find(|(at, _)| *at <= relative) {
                images.insert(page, image);
            }
        }
        let replayed = ReplayedPages { start: Arc::clone(&self.log.start_pages.0), images, page_count };
        let state = match self.index.intervals.get(keyframe.0 as usize) {
            Some(&Interval { page_count, foreign_keys, .. }) => SealedState::At { keyframe, page_count, foreign_keys },
            None => SealedState::End,
        };
        let (stored, _) = self.backup.start_pages(&Start::Segment(self.file.first_seq(), state))?;
        let [replayed, stored] = [Arc::new(replayed), stored]
            .map(|pages: Arc<dyn PageSource>| MountedOverlay::new(OverlayPages::new(pages)));
        let same = || same_contents(&stored.connect()?, &replayed.connect()?, Rowids::All);
        let same = same().map_err(|error| reason(&error));
        match stored.take_problem().or_else(|| replayed.take_problem()) {
            Some(problem) => Err(problem),
            None => Ok(same),
        }
    }
}

/// The database of a replay at one of its keyframes.
struct ReplayedPages {
    start: Arc<dyn PageSource>,
    images: HashMap<PageNo, Arc<[u8]>>,
    page_count: u32,
}

impl PageSource for ReplayedPages {
    fn page_size(&self) -> PageSize {
        self.start.page_size()
    }

    fn page_count(&self) -> u32 {
        self.page_count
    }

    fn read_page(&self, page: PageNo, out: &mut [u8]) -> Result<(), ReadError> {
        match self.images.get(&page) {
            _ if page.get() > self.page_count => out.fill(0),
            Some(image) => out.copy_from_slice(image),
            None => self.start.read_page(page, out)?,
        }
        Ok(())
    }
}
