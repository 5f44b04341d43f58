//! The database at a keyframe of a sealed segment.

use std::fmt;
use std::sync::Arc;

use super::page_map::find;
use super::{SegmentFile, Segments};
use crate::format::page_images::Keyframe;
use crate::format::record_index::ForeignKeys;
use crate::format::segment::Location;
use crate::pages::{PageSource, read_runs};
use crate::{PageNo, PageSize, ReadError};

/// Which state of the database in a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SealedState {
    /// That at a keyframe.
    At {
        /// Which.
        keyframe: Keyframe,
        /// Pages of the database there.
        page_count: u32,
        /// Whether foreign keys are enforced there.
        foreign_keys: ForeignKeys,
    },
    /// That after the last record.
    End,
}

/// The pages of a database as it was at a keyframe, or at the end, of a segment. Reads what it is asked for.
pub(crate) struct SealedPages {
    segments: Arc<Segments>,
    segment: Arc<SegmentFile>,
    keyframe: Keyframe,
    page_count: u32,
    /// The full snapshot below, if the backup did not begin from nothing.
    snapshot: Option<Arc<dyn PageSource>>,
}

impl fmt::Debug for SealedPages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealedPages {{ segment: {}, keyframe: {:?} }}", self.segment.first_seq(), self.keyframe)
    }
}

impl SealedPages {
    /// The state of `segment`; `snapshot` is the full one that its footer names.
    pub(crate) fn new(
        segments: Arc<Segments>,
        segment: Arc<SegmentFile>,
        state: SealedState,
        snapshot: Option<Arc<dyn PageSource>>,
    ) -> Self {
        let (keyframe, page_count) = match state {
            SealedState::At { keyframe, page_count, .. } => (keyframe, page_count),
            SealedState::End => (Keyframe(u32::MAX), segment.footer().page_count),
        };
        Self { segments, segment, keyframe, page_count, snapshot }
    }

    /// Copies an image into `out`; `Ok(false)` when all images there are of later keyframes.
    fn read_images(&self, at: Location, page: PageNo, upto: Keyframe, out: &mut [u8]) -> Result<bool, ReadError> {
        let file = self.segments.open(at.segment)?;
        let bytes = file.read_piece(at.piece)?;
        let decoded = self.segments.with_codec(|codec| codec.decode(&bytes, page, upto, out))?;
        decoded.map_err(|damage| file.damaged(at.piece.offset, damage))
    }

    fn holder(&self, page: PageNo) -> Result<Holder, ReadError> {
        if page.get() > self.page_count {
            return Ok(Holder::Nobody);
        }
        Ok(match find(&self.segments, self.segment.footer().map, page)? {
            Some(at) if at.segment == self.segment.first_seq() => Holder::Own(at),
            Some(at) => Holder::Older(at),
            None => Holder::Snapshot,
        })
    }

    /// Copies the page as it was before the segment.
    fn read_before(&self, page: PageNo, out: &mut [u8]) -> Result<(), ReadError> {
        if let Some(base) = self.segment.footer().base
            && let Some(at) = find(&self.segments, self.segments.footer(base)?.map, page)?
        {
            return self.read_images(at, page, Keyframe(u32::MAX), out).map(drop);
        }
        self.read_snapshot(page, out)
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

/// Who has a page.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Holder {
    /// The segment itself, which changed it, but maybe only after the keyframe.
    Own(Location),
    /// An older segment.
    Older(Location),
    /// The full snapshot, if there is one.
    Snapshot,
    /// Nobody: the database has no such page.
    Nobody,
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
        let page_size = self.page_size();
        read_runs(
            first,
            out,
            page_size,
            |page| self.holder(page),
            |holder, page, out| match holder {
                Holder::Own(at) if self.read_images(at, page, self.keyframe, out)? => Ok(()),
                Holder::Own(_) => self.read_before(page, out),
                Holder::Older(at) => self.read_images(at, page, Keyframe(u32::MAX), out).map(drop),
                Holder::Snapshot => self.read_snapshot(page, out),
                Holder::Nobody => {
                    out.fill(0);
                    Ok(())
                }
            },
        )
    }
}
