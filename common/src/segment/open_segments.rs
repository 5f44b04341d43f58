//! [`Segments`]: the sealed segments of a backup, opened when they are needed.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rustix::process::{Resource, getrlimit};
use uuid::Uuid;

use super::file::Mark;
use super::remains::{Found, LastBytes};
use super::{Remains, SegmentFile};
use crate::segment::timeline::Timeline;
use crate::storage::Directory;
use crate::storage::lru::RecentlyUsed;
use crate::storage::read_error::ReadError;
use format::page_map::{MapNode, NODE_LEN_MAX};
use format::segment::{Location, SegmentFooter};
use format::statements::{Block, Encoded, Templates};
use format::units::Keyframe;
use format::units::Seq;
use format::{Damage, names};

/// Segments kept open, at most: a version's pages are in a few dozens of them, other ones for each version.
const FILES_MAX: usize = 2048;

/// The share of the files that the process may have open which segments may take.
const FILES_SHARE: u64 = 4;

/// Nodes of page maps kept: 800 bytes each.
const NODES_MAX: usize = 8 << 10;

/// Segments whose records are kept in memory: about 100 kB each.
const STRETCHES_MAX: usize = 64;

/// Template tables kept: about 50 kB each.
const TEMPLATES_MAX: usize = 32;

/// Blocks of statements kept: some 200 kB each.
const BLOCKS_MAX: usize = 16;

/// The sealed segments of a backup. What was read is kept for a while, within bounds that do not depend on the backup.
#[derive(Debug)]
pub(crate) struct Segments {
    directory: Arc<dyn Directory>,
    uuid: Uuid,
    files: Mutex<RecentlyUsed<Seq, Arc<SegmentFile>>>,
    footers: Mutex<HashMap<Seq, Arc<SegmentFooter>>>,
    nodes: Mutex<RecentlyUsed<(Seq, u64), Arc<MapNode>>>,
    timelines: Mutex<RecentlyUsed<Seq, Arc<Timeline>>>,
    templates: Mutex<RecentlyUsed<Seq, Arc<Templates>>>,
    blocks: Mutex<RecentlyUsed<(Seq, Keyframe), Arc<Block>>>,
    /// Every segment that was seen so far, by what it is known again: under its name another one may be put.
    marks: Mutex<HashMap<Seq, Mark>>,
    dropped: Mutex<KnownRemains>,
    /// Those that were dropped while somebody had a version open that reads them.
    held: Mutex<HashMap<Seq, Weak<SegmentFile>>>,
    /// Whether the files of those that were dropped are taken when they are still there.
    leftovers: Leftovers,
}

/// What was found of the segments that were dropped.
#[derive(Debug, Default)]
struct KnownRemains {
    /// The last bytes of the file that was looked at, if there was one.
    last: Option<LastBytes>,
    /// That file, unless it is damaged.
    remains: Option<Arc<Remains>>,
}

/// What is done with the file of a segment that was dropped and is still there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leftovers {
    /// It is read: whoever has an old history still can.
    Read,
    /// It is read as if it were gone.
    Hidden,
}

/// Whether segments were dropped since somebody looked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dropped {
    /// They are the same.
    Same,
    /// Others are.
    Changed,
}

fn files_max() -> usize {
    let allowed = getrlimit(Resource::Nofile).current.map_or(FILES_MAX as u64, |allowed| allowed / FILES_SHARE);
    usize::try_from(allowed).unwrap_or(FILES_MAX).clamp(1, FILES_MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change of what is inside is one call, so what a panicking thread left behind is whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Segments {
    /// The segments in `directory`.
    pub(crate) fn new(directory: Arc<dyn Directory>, uuid: Uuid) -> Self {
        Self {
            directory,
            uuid,
            files: Mutex::new(RecentlyUsed::new(files_max())),
            footers: Mutex::default(),
            nodes: Mutex::new(RecentlyUsed::new(NODES_MAX)),
            timelines: Mutex::new(RecentlyUsed::new(STRETCHES_MAX)),
            templates: Mutex::new(RecentlyUsed::new(TEMPLATES_MAX)),
            blocks: Mutex::new(RecentlyUsed::new(BLOCKS_MAX)),
            marks: Mutex::default(),
            dropped: Mutex::default(),
            held: Mutex::default(),
            leftovers: Leftovers::Read,
        }
    }

    /// The segments as they are read once those that `remains` tells of are gone.
    pub(crate) fn without_dropped(&self, remains: Remains) -> Self {
        let dropped = Mutex::new(KnownRemains { last: None, remains: Some(Arc::new(remains)) });
        let leftovers = Leftovers::Hidden;
        Self { dropped, leftovers, ..Self::new(Arc::clone(&self.directory), self.uuid) }
    }

    /// What was dropped, as it was when somebody looked last; `None` when nothing was, or what tells of it is damaged.
    pub(crate) fn remains(&self) -> Option<Arc<Remains>> {
        lock(&self.dropped).remains.clone()
    }

    /// Whether all segments before this one, the first of which anything is left, were dropped.
    pub(crate) fn is_dropped_before(&self, first_seq: Seq) -> bool {
        let remains = self.remains();
        let gap = remains.as_ref().and_then(|remains| remains.gap_at(Seq::FIRST));
        gap.is_some_and(|gap| gap.has(first_seq) || gap.last_seq.next() == first_seq)
    }

    /// Looks what was dropped. Cheap when that is the same as before.
    ///
    /// # Errors
    /// When it cannot be read. What is damaged counts as not there, and is an error once.
    pub(crate) fn look_what_is_dropped(&self) -> Result<Dropped, ReadError> {
        let mut known = lock(&self.dropped);
        let found = Remains::look(&self.directory, self.uuid, known.last.as_ref())?;
        let (last, remains) = match found {
            Found::Same => return Ok(Dropped::Same),
            Found::Nothing if known.last.is_none() => return Ok(Dropped::Same),
            Found::Nothing => (None, Ok(None)),
            Found::Other(last, Err(error @ ReadError::Damaged { .. })) => (Some(last), Err(error)),
            Found::Other(last, remains) => (Some(last), Ok(Some(Arc::new(remains?)))),
        };
        let (remains, result) = match remains {
            Ok(remains) => (remains, Ok(Dropped::Changed)),
            Err(error) => (None, Err(error)),
        };
        *known = KnownRemains { last, remains };
        drop(known);
        // Files that are open take room on the disk for as long as they are.
        lock(&self.files).clear();
        lock(&self.timelines).clear();
        result
    }

    /// Opens the segments up to this one that were dropped, if it was, for somebody who goes on reading them. The newest first:
    /// if the process may not open so many files, the oldest are left.
    pub(crate) fn hold_dropped(&self, upto: Seq) -> Vec<Arc<SegmentFile>> {
        let Some(remains) = self.remains().filter(|remains| remains.gap_of(upto).is_some()) else { return Vec::new() };
        let mut firsts: Vec<Seq> = match self.directory.list() {
            Ok(names) => names.iter().filter_map(|name| names::parse_segment(name)).collect(),
            Err(error) => {
                log::warn!("{error}: {}", error.source);
                return Vec::new();
            }
        };
        firsts.retain(|&first| first <= upto && remains.gap_of(first).is_some());
        firsts.sort_unstable_by(|a, b| b.cmp(a));
        let mut held = lock(&self.held);
        held.retain(|_, file| file.strong_count() > 0);
        let mut files = Vec::new();
        for first_seq in firsts {
            let known = held.get(&first_seq).and_then(Weak::upgrade);
            let open = || {
                let file = SegmentFile::open(&*self.directory, self.uuid, first_seq)?;
                self.recognise(&file).map(|()| Arc::new(file))
            };
            match known.map_or_else(open, Ok) {
                Ok(file) => {
                    held.insert(first_seq, Arc::downgrade(&file));
                    files.push(file);
                }
                Err(ReadError::Storage(error)) if error.is_not_found() => {}
                Err(error) => {
                    log::warn!("a file that is open may become unreadable, as its version was dropped: {error}");
                    break;
                }
            }
        }
        files
    }

    /// The directory that they are in.
    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The segment that begins with `first_seq`.
    pub(crate) fn open(&self, first_seq: Seq) -> Result<Arc<SegmentFile>, ReadError> {
        if let Some(file) = lock(&self.files).get(first_seq) {
            return Ok(file);
        }
        if let Some(file) = lock(&self.held).get(&first_seq).and_then(Weak::upgrade) {
            return Ok(file);
        }
        let file = Arc::new(self.open_file(first_seq)?);
        self.recognise(&file)?;
        lock(&self.files).insert(first_seq, Arc::clone(&file));
        Ok(file)
    }

    /// Sees to it that this is the segment that was seen under its name before.
    fn recognise(&self, file: &SegmentFile) -> Result<(), ReadError> {
        let mark = file.mark();
        let known = *lock(&self.marks).entry(file.first_seq()).or_insert(mark);
        if known.is_same(mark) { Ok(()) } else { Err(file.replaced()) }
    }

    /// Takes note of all segments that there are, so that each is known again whenever it is opened, and sees to it that each
    /// goes on from the one before it. Those that cannot be read are passed over.
    ///
    /// # Errors
    /// When one is another than before, or two do not belong together: a copy is being put in the place of this backup.
    pub(crate) fn recognise_all(&self) -> Result<(), ReadError> {
        let mut firsts: Vec<Seq> =
            self.directory.list()?.iter().filter_map(|name| names::parse_segment(name)).collect();
        firsts.sort_unstable();
        let mut before = None;
        for first_seq in firsts {
            let Ok(file) = SegmentFile::open(&*self.directory, self.uuid, first_seq) else { continue };
            self.recognise(&file)?;
            let (header, footer) = (file.header(), file.footer());
            if before.is_some_and(|(next, checksum)| next == first_seq && checksum != header.previous_checksum) {
                return Err(file.replaced());
            }
            before = Some((footer.last_seq.next(), footer.last_checksum));
        }
        Ok(())
    }

    fn open_file(&self, first_seq: Seq) -> Result<SegmentFile, ReadError> {
        let known = self.remains();
        let is_dropped = known.as_ref().is_some_and(|remains| remains.gap_of(first_seq).is_some());
        if is_dropped && self.leftovers == Leftovers::Hidden {
            let absent = || super::file::not_there(&self.path().join(names::segment(first_seq)));
            return known.and_then(|remains| remains.segment(first_seq)).unwrap_or_else(|| Err(absent()));
        }
        let error = match SegmentFile::open(&*self.directory, self.uuid, first_seq) {
            Err(ReadError::Storage(error)) if error.is_not_found() => error,
            opened => return opened,
        };
        // It may have been dropped a moment ago.
        if !is_dropped && self.leftovers == Leftovers::Read {
            self.look_what_is_dropped()?;
        }
        self.remains().and_then(|remains| remains.segment(first_seq)).unwrap_or_else(|| Err(error.into()))
    }

    /// What a segment holds as a whole. Kept for every segment that was asked about: some hundred bytes.
    pub(crate) fn footer(&self, first_seq: Seq) -> Result<Arc<SegmentFooter>, ReadError> {
        if let Some(footer) = lock(&self.footers).get(&first_seq) {
            return Ok(Arc::clone(footer));
        }
        let footer = Arc::new(self.open(first_seq)?.footer().clone());
        lock(&self.footers).insert(first_seq, Arc::clone(&footer));
        Ok(footer)
    }

    /// As [`footer`](Self::footer), of a segment that may not have been made yet, and cannot have been dropped.
    pub(crate) fn footer_of_new(&self, first_seq: Seq) -> Result<Option<Arc<SegmentFooter>>, ReadError> {
        if !lock(&self.footers).contains_key(&first_seq) {
            match SegmentFile::open(&*self.directory, self.uuid, first_seq) {
                Ok(file) => {
                    self.recognise(&file)?;
                    lock(&self.files).insert(first_seq, Arc::new(file));
                }
                Err(ReadError::Storage(error)) if error.is_not_found() => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        self.footer(first_seq).map(Some)
    }

    /// A node of a page map.
    pub(crate) fn node(&self, location: Location) -> Result<Arc<MapNode>, ReadError> {
        let key = (location.segment, location.piece.offset);
        if let Some(node) = lock(&self.nodes).get(key) {
            return Ok(node);
        }
        let file = self.open(location.segment)?;
        if location.piece.len > NODE_LEN_MAX {
            let damage = Damage::Field { field: "node length", value: location.piece.len.into() };
            return Err(file.damaged(location.piece.offset, damage));
        }
        let node = Arc::new(file.read_piece(location.piece, |bytes| MapNode::decode(bytes, location.segment))?);
        lock(&self.nodes).insert(key, Arc::clone(&node));
        Ok(node)
    }

    /// What the records of a segment amount to.
    pub(crate) fn timeline(&self, first_seq: Seq) -> Result<Arc<Timeline>, ReadError> {
        if let Some(timeline) = lock(&self.timelines).get(first_seq) {
            return Ok(timeline);
        }
        let file = self.open(first_seq)?;
        let index = file.read_index()?;
        // Only now: it may have been thinned before it was opened.
        let known = self.remains();
        let kept = known.as_ref().and_then(|remains| remains.kept_of(first_seq));
        let whole = Timeline::of_segment(file.header(), file.footer(), index);
        let timeline = whole.and_then(|whole| match kept {
            Some(kept) => whole.thinned_to(kept),
            None => Ok(whole),
        });
        let timeline = Arc::new(timeline.map_err(|damage| file.damaged(file.footer().index.offset, damage))?);
        let mut timelines = lock(&self.timelines);
        // What was thinned meanwhile is read anew by the next one who asks.
        if self.remains().as_ref().map(Arc::as_ptr) == known.as_ref().map(Arc::as_ptr) {
            timelines.insert(first_seq, Arc::clone(&timeline));
        }
        drop(timelines);
        Ok(timeline)
    }

    /// The template table of a segment.
    pub(crate) fn templates(&self, first_seq: Seq) -> Result<Arc<Templates>, ReadError> {
        if let Some(templates) = lock(&self.templates).get(first_seq) {
            return Ok(templates);
        }
        let file = self.open(first_seq)?;
        let piece = file.footer().templates;
        let encoded = file.read_piece(piece, Encoded::decompress)?;
        let templates = Templates::decode(&encoded).map_err(|damage| file.damaged(piece.offset, damage))?;
        let templates = Arc::new(templates);
        lock(&self.templates).insert(first_seq, Arc::clone(&templates));
        Ok(templates)
    }

    /// The statements of an interval of a segment.
    pub(crate) fn block(&self, first_seq: Seq, interval: Keyframe) -> Result<Arc<Block>, ReadError> {
        if let Some(block) = lock(&self.blocks).get((first_seq, interval)) {
            return Ok(block);
        }
        let file = self.open(first_seq)?;
        let timeline = self.timeline(first_seq)?;
        let piece = timeline.interval(interval).map(|interval| interval.block);
        let piece = piece.ok_or_else(|| {
            file.damaged(file.footer().index.offset, Damage::Contradiction("its record index lacks an interval"))
        })?;
        let templates = self.templates(first_seq)?;
        let encoded = file.read_piece(piece, Encoded::decompress)?;
        let block = Block::decode(&encoded, &templates).map_err(|damage| file.damaged(piece.offset, damage))?;
        let block = Arc::new(block);
        lock(&self.blocks).insert((first_seq, interval), Arc::clone(&block));
        Ok(block)
    }
}
