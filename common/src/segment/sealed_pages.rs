//! The database at a keyframe of a sealed segment.

use std::fmt;
use std::sync::Arc;

use super::page_map::find;
use super::{SegmentFile, Segments};
use crate::format::page_images::Keyframe;
use crate::format::record_index::ForeignKeys;
use crate::format::segment::Location;
use crate::pages::PageSource;
use crate::{PageNo, PageSize, ReadError, Seq};

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

    /// Copies the page as it is at the end of a segment, if that or an earlier one holds it.
    fn read_end(&self, segment: Seq, page: PageNo, out: &mut [u8]) -> Result<bool, ReadError> {
        let root = self.segments.open(segment)?.footer().map;
        match find(&self.segments, root, page)? {
            Some(at) => self.read_images(at, page, Keyframe(u32::MAX), out),
            None => Ok(false),
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
        if page.get() > self.page_count {
            out.fill(0);
            return Ok(());
        }
        let footer = self.segment.footer();
        let found = match find(&self.segments, footer.map, page)? {
            Some(at) if at.segment == self.segment.first_seq() => {
                // Changed in this segment, but maybe only after the keyframe.
                self.read_images(at, page, self.keyframe, out)?
                    || footer.base.map_or(Ok(false), |base| self.read_end(base, page, out))?
            }
            Some(at) => self.read_images(at, page, Keyframe(u32::MAX), out)?,
            None => false,
        };
        match &self.snapshot {
            Some(snapshot) if !found => snapshot.read_page(page, out)?,
            None if !found => out.fill(0),
            _ => {}
        }
        Ok(())
    }
}
