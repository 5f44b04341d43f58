//! Anchors: the base images of differences, stored whole in the full snapshot or in an earlier segment.

use std::sync::Arc;

use super::Segments;
use super::page_map::Finder;
use crate::pages::PageSource;
use crate::storage::read_error::ReadError;
use format::Damage;
use format::page_images::{Anchor, PageImages};
use format::segment::{Location, MapRoot};
use format::units::Keyframe;
use format::units::PageNo;

/// Reads anchors.
pub(crate) struct Anchors<'a> {
    pub(crate) segments: &'a Segments,
    /// The full snapshot, if there is one.
    pub(crate) snapshot: Option<&'a Arc<dyn PageSource>>,
}

impl Anchors<'_> {
    /// Reads an anchor of a page into `out`.
    pub(crate) fn read(&self, anchor: Anchor, page: PageNo, out: &mut [u8]) -> Result<(), ReadError> {
        match (anchor, self.snapshot) {
            (Anchor::Segment(at), _) => {
                let file = self.segments.open(at.segment)?;
                file.read_block(at.block, |bytes| {
                    // An anchor that is itself a difference is refused, so this ends for any input.
                    PageImages::open(bytes, page, at.segment, Keyframe::END)?.read(None, out)
                })
            }
            (Anchor::Snapshot, Some(snapshot)) => snapshot.read_page(page, out),
            (Anchor::Snapshot, None) => {
                let damage = Damage::Contradiction("an image is the difference to a snapshot that there is not");
                Err(ReadError::damaged(self.segments.path(), 0, damage))
            }
        }
    }

    /// Reads the newest image at `at` that belongs to `upto` or an earlier keyframe into `out`; `Ok(false)` when all are later.
    /// `bytes` is the block there.
    pub(crate) fn read_image(
        &self,
        at: Location,
        bytes: &[u8],
        page: PageNo,
        upto: Keyframe,
        out: &mut [u8],
    ) -> Result<bool, ReadError> {
        let damaged = |damage| match self.segments.open(at.segment) {
            Ok(file) => file.damaged(at.block.offset, damage),
            Err(error) => error,
        };
        let images = PageImages::open(bytes, page, at.segment, upto).map_err(damaged)?;
        if !images.is_wanted() {
            return Ok(false);
        }
        let anchor = images.anchor().map(|anchor| {
            let mut bytes = vec![0; out.len()];
            self.read(anchor, page, &mut bytes).map(|()| bytes)
        });
        images.read(anchor.transpose()?.as_deref(), out).map_err(damaged)?;
        Ok(true)
    }
}

/// Finds anchors for a new segment: those of the newest images of the database before it, or these images themselves.
pub(crate) struct AnchorFinder<'a> {
    map: Finder<'a>,
    segments: &'a Segments,
    snapshot_pages: u32,
}

impl<'a> AnchorFinder<'a> {
    /// A finder in the page map of a database, with a full snapshot of this many pages below.
    pub(crate) fn new(segments: &'a Segments, map: Option<MapRoot>, snapshot_pages: u32) -> Self {
        Self { map: Finder::new(segments, map), segments, snapshot_pages }
    }

    /// The anchor for a page; `None` when there is none.
    pub(crate) fn find(&mut self, page: PageNo) -> Result<Option<Anchor>, ReadError> {
        let Some(at) = self.map.find(page)? else {
            return Ok((page.get() <= self.snapshot_pages).then_some(Anchor::Snapshot));
        };
        let file = self.segments.open(at.segment)?;
        let anchor =
            file.read_block(at.block, |bytes| Ok(PageImages::open(bytes, page, at.segment, Keyframe::END)?.anchor()))?;
        Ok(Some(anchor.unwrap_or(Anchor::Segment(at))))
    }
}
