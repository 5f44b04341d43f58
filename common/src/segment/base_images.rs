//! Base images: the images that differences are stored against, whole in the full snapshot or in an earlier segment.

use std::sync::Arc;

use super::Segments;
use super::page_map::Finder;
use crate::pages::PageSource;
use crate::storage::read_error::ReadError;
use format::Damage;
use format::page_images::{BaseImage, PageImages};
use format::segment::{Location, MapRoot};
use format::units::Keyframe;
use format::units::PageNo;

/// Reads base images.
pub(crate) struct BaseImages<'a> {
    pub(crate) segments: &'a Segments,
    /// The full snapshot, if there is one.
    pub(crate) snapshot: Option<&'a Arc<dyn PageSource>>,
}

impl BaseImages<'_> {
    /// Reads a base image of a page into `out`.
    pub(crate) fn read(&self, base_image: BaseImage, page: PageNo, out: &mut [u8]) -> Result<(), ReadError> {
        match (base_image, self.snapshot) {
            (BaseImage::Segment(at), _) => {
                let file = self.segments.open(at.segment)?;
                file.read_block(at.block, |bytes| {
                    // A base image that is itself a difference is refused, so this ends for any input.
                    PageImages::open(bytes, page, at.segment, Keyframe::END)?.read(None, out)
                })
            }
            (BaseImage::Snapshot, Some(snapshot)) => snapshot.read_page(page, out),
            (BaseImage::Snapshot, None) => {
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
        let base_image = images.base_image().map(|base_image| {
            let mut bytes = vec![0; out.len()];
            self.read(base_image, page, &mut bytes).map(|()| bytes)
        });
        images.read(base_image.transpose()?.as_deref(), out).map_err(damaged)?;
        Ok(true)
    }
}

/// Finds base images for a new segment: those of the newest images of the database before it, or these images themselves.
pub(crate) struct BaseImageFinder<'a> {
    map: Finder<'a>,
    segments: &'a Segments,
    snapshot_pages: u32,
}

impl<'a> BaseImageFinder<'a> {
    /// A finder in the page map of a database, with a full snapshot of this many pages below.
    pub(crate) fn new(segments: &'a Segments, map: Option<MapRoot>, snapshot_pages: u32) -> Self {
        Self { map: Finder::new(segments, map), segments, snapshot_pages }
    }

    /// The base image for a page; `None` when there is none.
    pub(crate) fn find(&mut self, page: PageNo) -> Result<Option<BaseImage>, ReadError> {
        let Some(at) = self.map.find(page)? else {
            return Ok((page.get() <= self.snapshot_pages).then_some(BaseImage::Snapshot));
        };
        let file = self.segments.open(at.segment)?;
        let base_image = file
            .read_block(at.block, |bytes| Ok(PageImages::open(bytes, page, at.segment, Keyframe::END)?.base_image()))?;
        Ok(Some(base_image.unwrap_or(BaseImage::Segment(at))))
    }
}
