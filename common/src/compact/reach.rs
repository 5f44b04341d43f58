//! The blocks of dropped segments that are needed: those below page maps that something kept builds on, and those that single
//! kept versions need of their own segments.

use std::ops::ControlFlow;

use super::plan::Plan;
use crate::history::NeededBy;
use crate::segment::{MapItem, MapWalk, Segments};
use crate::storage::read_error::ReadError;
use format::page_images::{BaseImage, PageImages, from_keyframe};
use format::segment::{BlockHandle, Location, MapRoot};
use format::units::Keyframe;
use format::units::{PageNo, Seq};

/// Kind of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    /// A node of a page map.
    Node,
    /// Images of a page.
    Images(PageNo),
    /// A record index, a template table, or statements.
    Records,
}

/// Callback for a block of a dropped segment, with its location, kind and bytes.
type Take<'a> = dyn FnMut(Location, Role, &[u8]) -> Result<(), ReadError> + 'a;

/// A needed block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Needed {
    pub(super) segment: Seq,
    pub(super) offset: u64,
    /// Current length in bytes.
    pub(super) len: u32,
    pub(super) role: Role,
    /// Length in the new file.
    pub(super) new_len: u32,
}

impl Needed {
    /// The block at its current position.
    pub(super) fn block(&self) -> BlockHandle {
        BlockHandle { offset: self.offset, len: self.len }
    }
}

/// Hands blocks of dropped segments over, each once.
pub(super) struct DroppedBlocks<'a> {
    segments: &'a Segments,
    plan: &'a Plan,
    walk: MapWalk,
}

impl<'a> DroppedBlocks<'a> {
    pub(super) fn new(segments: &'a Segments, plan: &'a Plan) -> Self {
        Self { segments, plan, walk: MapWalk::default() }
    }

    fn is_dropped(&self, first: Seq) -> bool {
        let position = self.plan.ranges.partition_point(|range| range.first_seq <= first).checked_sub(1);
        position.and_then(|position| self.plan.ranges.get(position)).is_some_and(|range| range.has(first))
    }

    /// Hands the blocks below a root to `take`, with their bytes; breaks when `watch` does, which is asked at every node.
    pub(super) fn below(
        &mut self,
        root: Option<MapRoot>,
        watch: &mut dyn FnMut() -> ControlFlow<()>,
        take: &mut Take<'_>,
    ) -> Result<ControlFlow<()>, ReadError> {
        let mut walk = std::mem::take(&mut self.walk);
        let flow = walk.below(self.segments, root, &mut |walk, at, item| {
            match item {
                MapItem::Unreadable(error) => return Err(error),
                MapItem::Node if watch().is_break() => return Ok(ControlFlow::Break(())),
                MapItem::Node if self.is_dropped(at.segment) => {
                    let file = self.segments.open(at.segment)?;
                    file.read_blocks(std::iter::once(at.block), |_, bytes| take(at, Role::Node, bytes))?;
                }
                MapItem::Node => {}
                MapItem::Images(page) => self.images(walk, at, page, take)?,
            }
            Ok(ControlFlow::Continue(()))
        });
        self.walk = walk;
        flow
    }

    /// Images, and their base image, which has none itself.
    fn images(&self, walk: &mut MapWalk, at: Location, page: PageNo, take: &mut Take<'_>) -> Result<(), ReadError> {
        let mut next = Some(at);
        while let Some(at) = next.take().filter(|at| walk.is_first_visit(*at)) {
            let is_dropped = self.is_dropped(at.segment);
            let file = self.segments.open(at.segment)?;
            file.read_blocks(std::iter::once(at.block), |block, bytes| {
                let images = PageImages::open(bytes, page, at.segment, Keyframe::END);
                let base_image = images.map_err(|damage| file.damaged(block.offset, damage))?.base_image();
                if is_dropped {
                    take(at, Role::Images(page), bytes)?;
                }
                next = match base_image {
                    Some(BaseImage::Segment(base_image)) => Some(base_image),
                    Some(BaseImage::Snapshot) | None => None,
                };
                Ok(())
            })?;
        }
        Ok(())
    }
}

/// The kept part of a block: the newest image, and those that versions of their own segment need.
pub(super) fn kept_of(
    at: Location,
    role: Role,
    bytes: &[u8],
    segments: &Segments,
    plan: &Plan,
) -> Result<Vec<u8>, ReadError> {
    let Role::Images(page) = role else { return Ok(bytes.to_vec()) };
    let oldest = plan.needed.get(&at.segment).map_or(Keyframe::END, NeededBy::oldest);
    from_keyframe(bytes, page, at.segment, oldest).map_err(|damage| match segments.open(at.segment) {
        Ok(file) => file.damaged(at.block.offset, damage),
        Err(error) => error,
    })
}

/// Passes every needed block of dropped segments to `take`, each once. Breaks when `watch` does.
pub(super) fn for_needed(
    segments: &Segments,
    plan: &Plan,
    watch: &mut dyn FnMut() -> ControlFlow<()>,
    take: &mut Take<'_>,
) -> Result<ControlFlow<()>, ReadError> {
    for (&first, needed) in &plan.needed {
        if watch().is_break() {
            return Ok(ControlFlow::Break(()));
        }
        let file = segments.open(first)?;
        let timeline = segments.timeline(first)?;
        let blocks = needed.blocks.iter().filter_map(|&interval| timeline.interval(interval)).map(|it| it.block);
        let templates = (!needed.blocks.is_empty()).then_some(file.footer().templates);
        for block in blocks.chain(templates).chain([file.footer().index]) {
            let at = Location { segment: first, block };
            file.read_blocks(std::iter::once(block), |_, bytes| take(at, Role::Records, bytes))?;
        }
    }
    let mut dropped = DroppedBlocks::new(segments, plan);
    for &first in plan.bases.iter().chain(plan.needed.keys()) {
        if dropped.below(segments.footer(first)?.map, watch, take)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// All needed blocks, ordered by segment and position. `None` when `watch` has broken.
pub(super) fn needed(
    segments: &Segments,
    plan: &Plan,
    watch: &mut dyn FnMut() -> ControlFlow<()>,
) -> Result<Option<Vec<Needed>>, ReadError> {
    let mut all = Vec::new();
    let flow = for_needed(segments, plan, watch, &mut |at, role, bytes| {
        let new_len = u32::try_from(kept_of(at, role, bytes, segments, plan)?.len()).unwrap_or(u32::MAX);
        let Location { segment, block } = at;
        all.push(Needed { segment, offset: block.offset, len: block.len, role, new_len });
        Ok(())
    })?;
    all.sort_unstable();
    Ok(flow.is_continue().then_some(all))
}
