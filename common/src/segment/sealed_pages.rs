//! The database at a keyframe of a sealed segment.

use std::fmt;
use std::sync::Arc;

use super::page_map::Finder;
use super::{BaseImages, SegmentFile, Segments};
use crate::pages::{PageIdentity, PageSource};
use crate::storage::read_error::ReadError;
use format::page_images::PageImages;
use format::record_index::ForeignKeys;
use format::segment::{BlockHandle, Location};
use format::units::Keyframe;
use format::units::{PageNo, PageSize, Seq};

/// A state of the database in a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SealedState {
    /// The state at a keyframe.
    At {
        /// Number of the keyframe.
        keyframe: Keyframe,
        /// Number of pages of the database.
        page_count: u32,
        /// Whether foreign keys are enforced.
        foreign_keys: ForeignKeys,
    },
    /// The state after the last record.
    End,
}

/// The pages of a database at a keyframe, or at the end, of a segment. Pages are read on demand.
pub(crate) struct SealedPages {
    segments: Arc<Segments>,
    segment: Arc<SegmentFile>,
    keyframe: Keyframe,
    page_count: u32,
    /// The full snapshot, unless the backup began from nothing.
    snapshot: Option<Arc<dyn PageSource>>,
}

impl fmt::Debug for SealedPages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealedPages {{ segment: {}, keyframe: {:?} }}", self.segment.first_seq(), self.keyframe)
    }
}

impl SealedPages {
    /// A state of `segment`; `snapshot` is the full snapshot in its footer.
    pub(crate) fn new(
        segments: Arc<Segments>,
        segment: Arc<SegmentFile>,
        state: SealedState,
        snapshot: Option<Arc<dyn PageSource>>,
    ) -> Self {
        let (keyframe, page_count) = match state {
            SealedState::At { keyframe, page_count, .. } => (keyframe, page_count),
            SealedState::End => (Keyframe::END, segment.footer().page_count),
        };
        Self { segments, segment, keyframe, page_count, snapshot }
    }

    fn holder(&self, map: &mut Finder<'_>, page: PageNo) -> Result<Holder, ReadError> {
        if page.get() > self.page_count {
            return Ok(Holder::Absent);
        }
        Ok(map.find(page)?.map_or(Holder::Snapshot, Holder::Segment))
    }

    /// Reads pages whose images are adjacent.
    fn read_images<'a>(
        &'a self,
        first: PageNo,
        segment: Seq,
        blocks: impl Iterator<Item = BlockHandle> + Clone,
        before: &mut Option<Finder<'a>>,
        out: &mut [u8],
    ) -> Result<(), ReadError> {
        // The segment's own change may be later than the keyframe.
        let (file, upto) = if segment == self.segment.first_seq() {
            (Arc::clone(&self.segment), self.keyframe)
        } else {
            (self.segments.open(segment)?, Keyframe::END)
        };
        let mut pages = out.chunks_exact_mut(self.page_size().bytes());
        let mut next = Some(first);
        file.read_blocks(blocks, |block, bytes| {
            let (Some(page), Some(out)) = (next, pages.next()) else {
                return Ok(());
            };
            next = page.next();
            if self.base_images().read_image(Location { segment, block }, bytes, page, upto, out)? {
                Ok(())
            } else {
                self.read_before(page, before, out)
            }
        })
    }

    /// Page map of the database before the segment.
    fn map_before<'a, 'm>(&'a self, map: &'m mut Option<Finder<'a>>) -> Result<&'m mut Finder<'a>, ReadError> {
        Ok(match map {
            Some(map) => map,
            None => {
                let base = self.segment.footer().base.map(|base| self.segments.footer(base)).transpose()?;
                map.insert(Finder::new(&self.segments, base.and_then(|footer| footer.map)))
            }
        })
    }

    /// Reads the page as it was before the segment.
    fn read_before<'a>(&'a self, page: PageNo, map: &mut Option<Finder<'a>>, out: &mut [u8]) -> Result<(), ReadError> {
        let Some(at) = self.map_before(map)?.find(page)? else {
            return self.read_snapshot(page, out);
        };
        self.segments.open(at.segment)?.read_blocks(std::iter::once(at.block), |_, bytes| {
            self.base_images().read_image(at, bytes, page, Keyframe::END, out).map(drop)
        })
    }

    /// The image of the page as it was before the segment; `None` when it is in the snapshot.
    fn identity_before<'a>(
        &'a self,
        page: PageNo,
        map: &mut Option<Finder<'a>>,
    ) -> Result<Option<PageIdentity>, ReadError> {
        let at = self.map_before(map)?.find(page)?;
        Ok(at.map(|Location { segment, block }| PageIdentity::Image { segment, offset: block.offset, back: 0 }))
    }

    fn base_images(&self) -> BaseImages<'_> {
        BaseImages { segments: &self.segments, snapshot: self.snapshot.as_ref() }
    }

    fn read_snapshot(&self, first: PageNo, out: &mut [u8]) -> Result<(), ReadError> {
        match &self.snapshot {
            Some(snapshot) => snapshot.read_pages(first, out),
            None => {
                out.fill(0);
                Ok(())
            }
        }
    }
}

/// Pages that are looked up before the first of them is read.
const PAGES_AT_ONCE: usize = 64;

/// The holder of a page.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Holder {
    /// A segment: this one, whose change may be later than the keyframe, or an older one.
    Segment(Location),
    /// The full snapshot, if there is one.
    Snapshot,
    /// None: the database has no such page.
    Absent,
}

impl Holder {
    fn block(&self) -> Option<BlockHandle> {
        match self {
            Self::Segment(at) => Some(at.block),
            Self::Snapshot | Self::Absent => None,
        }
    }

    /// Whether the page and the next one, with holder `next`, are read together.
    fn is_read_with(&self, next: &Self) -> bool {
        match (self, next) {
            (Self::Segment(at), Self::Segment(next)) => {
                at.segment == next.segment && at.block.end() == Some(next.block.offset)
            }
            (Self::Snapshot, Self::Snapshot) | (Self::Absent, Self::Absent) => true,
            _ => false,
        }
    }
}

impl PageSource for SealedPages {
    fn page_size(&self) -> PageSize {
        self.segment.header().page_size
    }

    fn page_count(&self) -> u32 {
        self.page_count
    }

    fn read_page(&self, page: PageNo, out: &mut [u8]) -> Result<(), ReadError> {
        self.read_pages(page, out)
    }

    fn read_pages(&self, first: PageNo, out: &mut [u8]) -> Result<(), ReadError> {
        let page_bytes = self.page_size().bytes();
        let mut map = Finder::new(&self.segments, self.segment.footer().map);
        let mut before = None;
        let mut holders = [Holder::Absent; PAGES_AT_ONCE];
        // No database has pages beyond the last number.
        let mut next = Some(first);
        for out in out.chunks_mut(PAGES_AT_ONCE * page_bytes) {
            let holders = &mut holders[..out.len() / page_bytes];
            let first = next;
            for holder in &mut *holders {
                *holder = next.map_or(Ok(Holder::Absent), |page| self.holder(&mut map, page))?;
                next = next.and_then(PageNo::next);
            }
            let (mut rest, mut page) = (out, first);
            for run in holders.chunk_by(Holder::is_read_with) {
                let (out, later) = rest.split_at_mut(run.len() * page_bytes);
                match (run[0], page) {
                    (Holder::Segment(at), Some(page)) => {
                        self.read_images(page, at.segment, run.iter().filter_map(Holder::block), &mut before, out)?;
                    }
                    (Holder::Snapshot, Some(page)) => self.read_snapshot(page, out)?,
                    (Holder::Absent, _) | (_, None) => out.fill(0),
                }
                rest = later;
                page = page.and_then(|page| page.plus(run.len()));
            }
        }
        Ok(())
    }

    fn identities(&self, first: PageNo, out: &mut [PageIdentity]) -> Result<(), ReadError> {
        match &self.snapshot {
            Some(snapshot) => snapshot.identities(first, out)?,
            None => out.fill(PageIdentity::Zeros),
        }
        let mut map = Finder::new(&self.segments, self.segment.footer().map);
        let mut before = None;
        let pages = std::iter::successors(Some(first), |page| page.next());
        for (page, out) in pages.zip(out) {
            let Location { segment, block } = match self.holder(&mut map, page)? {
                Holder::Segment(at) => at,
                Holder::Snapshot => continue,
                Holder::Absent => {
                    *out = PageIdentity::Zeros;
                    continue;
                }
            };
            // The segment's own change may be later than the keyframe.
            let is_own = segment == self.segment.first_seq() && self.keyframe != Keyframe::END;
            let back = if is_own {
                self.segment.read_block(block, |bytes| {
                    Ok(PageImages::open(bytes, page, segment, self.keyframe)?.wanted_back())
                })?
            } else {
                Some(0)
            };
            match back {
                Some(back) => *out = PageIdentity::Image { segment, offset: block.offset, back },
                None => {
                    if let Some(identity) = self.identity_before(page, &mut before)? {
                        *out = identity;
                    }
                }
            }
        }
        Ok(())
    }
}
