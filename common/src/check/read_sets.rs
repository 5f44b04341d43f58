//! The read sets of a segment, from the pages that a replay of it has read.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::check::log_replay::ReplayedLog;
use crate::segment::{SegmentFile, Segments};
use crate::storage::read_error::ReadError;
use format::Damage;
use format::page_images::{BaseImage, PageImages};
use format::page_map::{HEIGHT_MAX, MapNode, covers, slot};
use format::read_sets::{ENTRIES_MAX, ReadSets, SET_LEN_MAX, SETS_MAX};
use format::segment::{BlockHandle, Location, MapRoot};
use format::units::{Keyframe, PageNo, Seq};

/// Maximum number of pages that the set of the end leads to.
const PAGES_OF_END_MAX: usize = 1024;

/// The page maps and images of a segment, which may not have its name yet.
#[derive(Debug)]
pub(crate) struct OwnBlocks {
    pub(crate) first_seq: Seq,
    /// The page map of the database before the segment.
    pub(crate) map_before: Option<MapRoot>,
    /// That of the database at its end.
    pub(crate) map: Option<MapRoot>,
    /// The nodes that are in the segment, by their offsets; `None` when they can be read like those of other segments.
    pub(crate) nodes: Option<HashMap<u64, Arc<MapNode>>>,
    /// The images that are in the segment.
    pub(crate) images: BTreeMap<PageNo, OwnImages>,
    /// Whether there is a full snapshot below.
    pub(crate) has_snapshot: bool,
}

impl OwnBlocks {
    /// Those of a segment with these images.
    ///
    /// # Errors
    /// When it, or the end of the segment that it builds on, cannot be read.
    pub(crate) fn of_file(
        segments: &Segments,
        file: &SegmentFile,
        images: &[(PageNo, BlockHandle)],
    ) -> Result<Self, ReadError> {
        let (first_seq, footer) = (file.first_seq(), file.footer());
        let map_before = footer.base.map(|base| segments.footer(base)).transpose()?.and_then(|base| base.map);
        let images_of = |&(page, block): &(PageNo, BlockHandle)| {
            let at = Location { segment: first_seq, block };
            Ok((page, file.read_block(block, |bytes| OwnImages::new(at, page, bytes))?))
        };
        let images = images.iter().map(images_of).collect::<Result<_, ReadError>>()?;
        let (map, has_snapshot) = (footer.map, footer.snapshot.is_some());
        Ok(Self { first_seq, map_before, map, nodes: None, images, has_snapshot })
    }
}

/// The images of a page in one segment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OwnImages {
    block: BlockHandle,
    /// The oldest keyframe that has one.
    oldest: Keyframe,
    base_image: Option<BaseImage>,
}

impl OwnImages {
    /// The images in a block with these bytes.
    pub(crate) fn new(at: Location, page: PageNo, bytes: &[u8]) -> Result<Self, Damage> {
        let images = PageImages::open(bytes, page, at.segment, Keyframe::END)?;
        Ok(Self { block: at.block, oldest: images.oldest()?, base_image: images.base_image() })
    }

    /// Where they are, in the segment `own`.
    pub(crate) fn at(&self, own: Seq) -> Location {
        Location { segment: own, block: self.block }
    }
}

/// What is read, ordered as in [`ReadSets`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Entry {
    /// A block, by segment and offset.
    Block(Seq, u64),
    SnapshotPage(PageNo),
}

/// Computes the read sets of the segment with the records of `log`.
///
/// # Errors
/// When an older segment cannot be read.
pub(crate) fn read_sets(segments: &Segments, own: &OwnBlocks, log: &ReplayedLog) -> Result<ReadSets, ReadError> {
    let mut ways = Ways { segments, own, lens: HashMap::new(), base_images: HashMap::new() };
    if log.reads.len() >= SETS_MAX {
        return Ok(ReadSets::default());
    }
    let (mut sets, mut left) = (Vec::<BTreeSet<Entry>>::with_capacity(log.reads.len() + 1), ENTRIES_MAX);
    for (number, (interval, pages)) in (0..).zip(log.intervals.iter().zip(&log.reads)) {
        sets.push(ways.to(pages, Keyframe(number), interval.page_count, &mut left)?);
    }
    // What follows goes on where these changes were, in the same tables, and rather where the last ones were.
    let mut last = BTreeSet::new();
    for pages in log.reads.iter().rev() {
        if last.len() + pages.len() > PAGES_OF_END_MAX {
            break;
        }
        last.extend(pages.iter().copied());
    }
    sets.push(ways.to(&last, Keyframe::END, log.page_count, &mut left)?);

    let all: BTreeSet<Entry> = sets.iter().flatten().copied().collect();
    let numbers: HashMap<Entry, u32> = all.iter().copied().zip(0..).collect();
    let block = |entry: &Entry| match *entry {
        Entry::Block(segment, offset) => {
            let len = ways.lens.get(&(segment, offset)).copied().unwrap_or(0);
            Some(Location { segment, block: BlockHandle { offset, len } })
        }
        Entry::SnapshotPage(_) => None,
    };
    let page = |entry: &Entry| if let Entry::SnapshotPage(page) = *entry { Some(page) } else { None };
    Ok(ReadSets {
        blocks: all.iter().filter_map(block).collect(),
        snapshot_pages: all.iter().filter_map(page).collect(),
        sets: sets.iter().map(|set| set.iter().filter_map(|entry| numbers.get(entry).copied()).collect()).collect(),
    })
}

/// Finds what is read on the way to pages.
struct Ways<'a> {
    segments: &'a Segments,
    own: &'a OwnBlocks,
    /// The lengths of the blocks found so far.
    lens: HashMap<(Seq, u64), u32>,
    /// The base images of blocks of older segments.
    base_images: HashMap<(Seq, u64), Option<BaseImage>>,
}

impl Ways<'_> {
    /// What is read on the way to these pages of the database at a keyframe; nothing when that is too much, or more than `left`.
    fn to(
        &mut self,
        pages: &BTreeSet<PageNo>,
        keyframe: Keyframe,
        page_count: u32,
        left: &mut usize,
    ) -> Result<BTreeSet<Entry>, ReadError> {
        let mut set = BTreeSet::new();
        for &page in pages.iter().filter(|page| page.get() <= page_count) {
            self.add_page(page, keyframe, &mut set)?;
            if set.len() > SET_LEN_MAX.min(*left) {
                return Ok(BTreeSet::new());
            }
        }
        *left -= set.len();
        Ok(set)
    }

    fn add_page(&mut self, page: PageNo, keyframe: Keyframe, set: &mut BTreeSet<Entry>) -> Result<(), ReadError> {
        let mut at = self.through(self.own.map, page, set)?;
        if let Some(&images) = self.own.images.get(&page) {
            self.add(images.at(self.own.first_seq), set);
            if images.oldest <= keyframe {
                self.add_base_image(images.base_image, page, set);
                return Ok(());
            }
            at = self.through(self.own.map_before, page, set)?;
        }
        match at {
            Some(at) => {
                self.add(at, set);
                let base_image = self.base_image(at, page)?;
                self.add_base_image(base_image, page, set);
            }
            None => self.add_base_image(self.own.has_snapshot.then_some(BaseImage::Snapshot), page, set),
        }
        Ok(())
    }

    /// Goes through a page map to the images of a page.
    fn through(
        &mut self,
        root: Option<MapRoot>,
        page: PageNo,
        set: &mut BTreeSet<Entry>,
    ) -> Result<Option<Location>, ReadError> {
        let Some(MapRoot { location, height }) = root.filter(|root| covers(root.height, page)) else {
            return Ok(None);
        };
        let mut at = location;
        for level in (0..=height.min(HEIGHT_MAX)).rev() {
            self.add(at, set);
            match self.node(at)?.get(slot(page, level)) {
                Some(next) => at = next,
                None => return Ok(None),
            }
        }
        Ok(Some(at))
    }

    fn node(&self, at: Location) -> Result<Arc<MapNode>, ReadError> {
        let own = self.own.nodes.as_ref().filter(|_| at.segment == self.own.first_seq);
        match own.and_then(|nodes| nodes.get(&at.block.offset)) {
            Some(node) => Ok(Arc::clone(node)),
            None => self.segments.node(at),
        }
    }

    fn base_image(&mut self, at: Location, page: PageNo) -> Result<Option<BaseImage>, ReadError> {
        let key = (at.segment, at.block.offset);
        if let Some(known) = self.base_images.get(&key) {
            return Ok(*known);
        }
        let file = self.segments.open(at.segment)?;
        let base_image = file
            .read_block(at.block, |bytes| Ok(PageImages::open(bytes, page, at.segment, Keyframe::END)?.base_image()))?;
        self.base_images.insert(key, base_image);
        Ok(base_image)
    }

    fn add(&mut self, at: Location, set: &mut BTreeSet<Entry>) {
        self.lens.insert((at.segment, at.block.offset), at.block.len);
        set.insert(Entry::Block(at.segment, at.block.offset));
    }

    fn add_base_image(&mut self, base_image: Option<BaseImage>, page: PageNo, set: &mut BTreeSet<Entry>) {
        match base_image {
            Some(BaseImage::Segment(at)) => self.add(at, set),
            Some(BaseImage::Snapshot) => _ = set.insert(Entry::SnapshotPage(page)),
            None => {}
        }
    }
}
