//! [`Segments`]: the sealed segments of a backup, opened on demand.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use uuid::Uuid;

use super::file::Mark;
use super::pruned::{Found, LastBytes};
use super::{PrunedFile, SegmentFile};
use crate::segment::timeline::Timeline;
use crate::storage::lru::RecentlyUsed;
use crate::storage::read_error::ReadError;
use crate::storage::{Access, Directory, Wanted};
use format::page_map::{MapNode, NODE_LEN_MAX};
use format::read_sets::ReadSets;
use format::segment::{Location, SEGMENT_FOOTER_LEN, SEGMENT_HEADER_LEN, SegmentFooter};
use format::statements::{Encoded, StatementBlock, Templates};
use format::units::Keyframe;
use format::units::Seq;
use format::{Damage, names};

/// Maximum number of open segments: a version's pages are in some dozens of them, which differ between versions.
const FILES_MAX: usize = 2048;

/// Segments that are recognised at once, when all are, and the pause after them.
const RECOGNISED_AT_ONCE: usize = 32;
const PAUSE: Duration = Duration::from_millis(2);

/// Segments may take one of this many parts of the process's limit of open files.
const FILES_SHARE: u64 = 4;

/// Number of cached page map nodes: 800 bytes each.
const NODES_MAX: usize = 8 << 10;

/// Number of cached timelines: about 100 kB each.
const TIMELINES_MAX: usize = 64;

/// Number of segments whose read sets are cached: usually 50 kB each, and 15 MB at most.
const READ_SETS_MAX: usize = 8;

/// Number of cached template tables: about 50 kB each.
const TEMPLATES_MAX: usize = 32;

/// Number of cached statement blocks: some 200 kB each.
const STATEMENT_BLOCKS_MAX: usize = 16;

/// The sealed segments of a backup, with caches whose bounds do not depend on the backup.
#[derive(Debug)]
pub(crate) struct Segments {
    directory: Arc<dyn Directory>,
    uuid: Uuid,
    files: Mutex<RecentlyUsed<Seq, Arc<SegmentFile>>>,
    footers: Mutex<HashMap<Seq, Arc<SegmentFooter>>>,
    nodes: Mutex<RecentlyUsed<(Seq, u64), Arc<MapNode>>>,
    timelines: Mutex<RecentlyUsed<Seq, Arc<Timeline>>>,
    read_sets: Mutex<RecentlyUsed<Seq, Arc<ReadSets>>>,
    templates: Mutex<RecentlyUsed<Seq, Arc<Templates>>>,
    statement_blocks: Mutex<RecentlyUsed<(Seq, Keyframe), Arc<StatementBlock>>>,
    /// Identities of all segments opened so far: another file may get the same name.
    marks: Mutex<HashMap<Seq, Mark>>,
    dropped: Mutex<KnownPruned>,
    /// Segments that were dropped while an open version reads them.
    held: Mutex<HashMap<Seq, Weak<SegmentFile>>>,
    /// Whether files of dropped segments are read while they still exist.
    leftovers: Leftovers,
}

/// The state of the file `pruned`.
#[derive(Debug, Default)]
struct KnownPruned {
    /// Last bytes of the file, if it exists.
    last: Option<LastBytes>,
    /// The open file, unless it is damaged.
    pruned: Option<Arc<PrunedFile>>,
}

/// Treatment of the file of a dropped segment that still exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leftovers {
    /// The file is read, for readers with an older history.
    Read,
    /// The file is ignored.
    Hidden,
}

/// Whether segments were dropped since the last check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dropped {
    /// None.
    Same,
    /// Some.
    Changed,
}

/// The first and the last bytes of a segment, which are read when it is opened.
pub(crate) fn ends_of(name: &str, len: u64) -> [Wanted; 2] {
    let end = len.saturating_sub(SEGMENT_FOOTER_LEN as u64)..len;
    [0..SEGMENT_HEADER_LEN as u64, end].map(|range| Wanted { name: name.to_owned(), range })
}

fn files_max() -> usize {
    let allowed = getrlimit(Resource::Nofile).current.map_or(FILES_MAX as u64, |allowed| allowed / FILES_SHARE);
    usize::try_from(allowed).unwrap_or(FILES_MAX).clamp(1, FILES_MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change is one call, so the value is consistent even after a panic.
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
            timelines: Mutex::new(RecentlyUsed::new(TIMELINES_MAX)),
            read_sets: Mutex::new(RecentlyUsed::new(READ_SETS_MAX)),
            templates: Mutex::new(RecentlyUsed::new(TEMPLATES_MAX)),
            statement_blocks: Mutex::new(RecentlyUsed::new(STATEMENT_BLOCKS_MAX)),
            marks: Mutex::default(),
            dropped: Mutex::default(),
            held: Mutex::default(),
            leftovers: Leftovers::Read,
        }
    }

    /// The segments as they will be once those that `pruned` lists are removed.
    pub(crate) fn without_dropped(&self, pruned: PrunedFile) -> Self {
        let dropped = Mutex::new(KnownPruned { last: None, pruned: Some(Arc::new(pruned)) });
        let leftovers = Leftovers::Hidden;
        Self { dropped, leftovers, ..Self::new(Arc::clone(&self.directory), self.uuid) }
    }

    /// The file `pruned` as of the last check; `None` when nothing was dropped, or the file is damaged.
    pub(crate) fn pruned(&self) -> Option<Arc<PrunedFile>> {
        lock(&self.dropped).pruned.clone()
    }

    /// Whether all segments before this one, the first that exists, were dropped.
    pub(crate) fn is_dropped_before(&self, first_seq: Seq) -> bool {
        let pruned = self.pruned();
        let range = pruned.as_ref().and_then(|pruned| pruned.range_at(Seq::FIRST));
        range.is_some_and(|range| range.has(first_seq) || range.last_seq.next() == first_seq)
    }

    /// Checks which segments were dropped. Cheap when nothing has changed.
    ///
    /// # Errors
    /// When the file cannot be read. A damaged file counts as absent, and is an error once.
    pub(crate) fn look_what_is_dropped(&self) -> Result<Dropped, ReadError> {
        let mut known = lock(&self.dropped);
        let found = PrunedFile::look(&self.directory, self.uuid, known.last.as_ref())?;
        let (last, pruned) = match found {
            Found::Same => return Ok(Dropped::Same),
            Found::Nothing if known.last.is_none() => return Ok(Dropped::Same),
            Found::Nothing => (None, Ok(None)),
            Found::Other(last, Err(error @ ReadError::Damaged { .. })) => (Some(last), Err(error)),
            Found::Other(last, pruned) => (Some(last), Ok(Some(Arc::new(pruned?)))),
        };
        let (pruned, result) = match pruned {
            Ok(pruned) => (pruned, Ok(Dropped::Changed)),
            Err(error) => (None, Err(error)),
        };
        *known = KnownPruned { last, pruned };
        drop(known);
        // Open files take disk space until they are closed.
        lock(&self.files).clear();
        lock(&self.timelines).clear();
        result
    }

    /// Opens the dropped segments up to this one, if it was dropped, for a reader that continues to use them. The newest come
    /// first: if the limit of open files is reached, the oldest are left out.
    pub(crate) fn hold_dropped(&self, upto: Seq) -> Vec<Arc<SegmentFile>> {
        let Some(pruned) = self.pruned().filter(|pruned| pruned.range_of(upto).is_some()) else { return Vec::new() };
        let mut firsts: Vec<Seq> = match self.directory.list() {
            Ok(names) => names.iter().filter_map(|name| names::parse_segment(name)).collect(),
            Err(error) => {
                log::warn!("{error}: {}", error.source);
                return Vec::new();
            }
        };
        firsts.retain(|&first| first <= upto && pruned.range_of(first).is_some());
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

    /// Path of the directory.
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

    /// Checks that this is the segment that had the name before.
    fn recognise(&self, file: &SegmentFile) -> Result<(), ReadError> {
        let mark = file.mark();
        let known = *lock(&self.marks).entry(file.first_seq()).or_insert(mark);
        if known.is_same(mark) { Ok(()) } else { Err(file.replaced()) }
    }

    /// Records the identities of all segments, so that each is checked whenever it is opened, and checks that each continues the
    /// one before it. Unreadable segments are skipped.
    ///
    /// # Errors
    /// When a segment was exchanged, or two do not belong together: a copy is replacing the backup.
    pub(crate) fn recognise_all(&self) -> Result<(), ReadError> {
        let mut firsts: Vec<Seq> =
            self.directory.list()?.iter().filter_map(|name| names::parse_segment(name)).collect();
        firsts.sort_unstable();
        let mut before = None;
        for (number, first_seq) in firsts.into_iter().enumerate() {
            // Whoever opens a version meanwhile comes first.
            if number % RECOGNISED_AT_ONCE == RECOGNISED_AT_ONCE - 1 {
                thread::sleep(PAUSE);
            }
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
        let known = self.pruned();
        let is_dropped = known.as_ref().is_some_and(|pruned| pruned.range_of(first_seq).is_some());
        if is_dropped && self.leftovers == Leftovers::Hidden {
            let absent = || super::file::not_there(&self.path().join(names::segment(first_seq)));
            return known.and_then(|pruned| pruned.segment(first_seq)).unwrap_or_else(|| Err(absent()));
        }
        let error = match SegmentFile::open(&*self.directory, self.uuid, first_seq) {
            Err(ReadError::Storage(error)) if error.is_not_found() => error,
            opened => return opened,
        };
        // The segment may just have been dropped.
        if !is_dropped && self.leftovers == Leftovers::Read {
            self.look_what_is_dropped()?;
        }
        self.pruned().and_then(|pruned| pruned.segment(first_seq)).unwrap_or_else(|| Err(error.into()))
    }

    /// Footer of a segment. Cached without limit: some hundred bytes each.
    pub(crate) fn footer(&self, first_seq: Seq) -> Result<Arc<SegmentFooter>, ReadError> {
        if let Some(footer) = lock(&self.footers).get(&first_seq) {
            return Ok(Arc::clone(footer));
        }
        let footer = Arc::new(self.open(first_seq)?.footer().clone());
        lock(&self.footers).insert(first_seq, Arc::clone(&footer));
        Ok(footer)
    }

    /// Like [`footer`](Self::footer), for a segment that may not exist yet, and cannot have been dropped.
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
        let key = (location.segment, location.block.offset);
        if let Some(node) = lock(&self.nodes).get(key) {
            return Ok(node);
        }
        let file = self.open(location.segment)?;
        if location.block.len > NODE_LEN_MAX {
            let damage = Damage::Field { field: "node length", value: location.block.len.into() };
            return Err(file.damaged(location.block.offset, damage));
        }
        let node = Arc::new(file.read_block(location.block, |bytes| MapNode::decode(bytes, location.segment))?);
        lock(&self.nodes).insert(key, Arc::clone(&node));
        Ok(node)
    }

    /// Timeline of a segment.
    pub(crate) fn timeline(&self, first_seq: Seq) -> Result<Arc<Timeline>, ReadError> {
        if let Some(timeline) = lock(&self.timelines).get(first_seq) {
            return Ok(timeline);
        }
        self.fetch_indexes(&[first_seq]);
        let file = self.open(first_seq)?;
        let index = file.read_index()?;
        // After opening: the segment may have been thinned before.
        let known = self.pruned();
        let kept = known.as_ref().and_then(|pruned| pruned.kept_of(first_seq));
        let whole = Timeline::of_segment(file.header(), file.footer(), index);
        let timeline = whole.and_then(|whole| match kept {
            Some(kept) => whole.thinned_to(kept),
            None => Ok(whole),
        });
        let timeline = Arc::new(timeline.map_err(|damage| file.damaged(file.footer().index.offset, damage))?);
        let mut timelines = lock(&self.timelines);
        // If it was thinned meanwhile, the timeline is not cached.
        if self.pruned().as_ref().map(Arc::as_ptr) == known.as_ref().map(Arc::as_ptr) {
            timelines.insert(first_seq, Arc::clone(&timeline));
        }
        drop(timelines);
        Ok(timeline)
    }

    /// Has the read sets and record indexes of segments fetched at once, in a directory that is far. Whatever is wrong with one is
    /// found when it is read.
    pub(crate) fn fetch_indexes(&self, firsts: &[Seq]) {
        if !self.directory.is_far() {
            return;
        }
        let (mut ends, mut there) = (Vec::new(), Vec::with_capacity(firsts.len()));
        for &first in firsts.iter().filter(|&&first| lock(&self.timelines).get(first).is_none()) {
            let name = names::segment(first);
            let Ok(len) = self.directory.open(&name, Access::Read).and_then(|file| file.read_len()) else { continue };
            there.push(first);
            if lock(&self.files).get(first).is_none() {
                ends.extend(ends_of(&name, len));
            }
        }
        self.directory.will_need(&ends);
        let indexes = |&first: &Seq| {
            let file = self.open(first).ok()?;
            let (footer, name) = (file.footer(), names::segment(first));
            let range = footer.read_sets.offset..footer.index.end()?;
            file.len_bytes().filter(|&len| range.end <= len).map(|_| Wanted { name, range })
        };
        // A store that does not answer is not asked for each.
        self.directory.will_need(&there.iter().map_while(indexes).collect::<Vec<_>>());
    }

    /// Read sets of a segment.
    pub(crate) fn read_sets(&self, first_seq: Seq) -> Result<Arc<ReadSets>, ReadError> {
        if let Some(sets) = lock(&self.read_sets).get(first_seq) {
            return Ok(sets);
        }
        let sets = Arc::new(self.open(first_seq)?.read_read_sets()?);
        lock(&self.read_sets).insert(first_seq, Arc::clone(&sets));
        Ok(sets)
    }

    /// Template table of a segment.
    pub(crate) fn templates(&self, first_seq: Seq) -> Result<Arc<Templates>, ReadError> {
        if let Some(templates) = lock(&self.templates).get(first_seq) {
            return Ok(templates);
        }
        let file = self.open(first_seq)?;
        let block = file.footer().templates;
        let encoded = file.read_block(block, Encoded::decompress)?;
        let templates = Templates::decode(&encoded).map_err(|damage| file.damaged(block.offset, damage))?;
        let templates = Arc::new(templates);
        lock(&self.templates).insert(first_seq, Arc::clone(&templates));
        Ok(templates)
    }

    /// The block of an interval of a segment.
    pub(crate) fn statement_block(&self, first_seq: Seq, interval: Keyframe) -> Result<Arc<StatementBlock>, ReadError> {
        if let Some(block) = lock(&self.statement_blocks).get((first_seq, interval)) {
            return Ok(block);
        }
        let file = self.open(first_seq)?;
        let timeline = self.timeline(first_seq)?;
        let block = timeline.interval(interval).map(|interval| interval.block);
        let block = block.ok_or_else(|| {
            file.damaged(file.footer().index.offset, Damage::Contradiction("its record index lacks an interval"))
        })?;
        let templates = self.templates(first_seq)?;
        let encoded = file.read_block(block, Encoded::decompress)?;
        let block =
            StatementBlock::decode(&encoded, &templates).map_err(|damage| file.damaged(block.offset, damage))?;
        let block = Arc::new(block);
        lock(&self.statement_blocks).insert((first_seq, interval), Arc::clone(&block));
        Ok(block)
    }
}
