//! The pieces of dropped segments that are needed: those below page maps that something kept builds on, and those that single
//! kept versions need of their own segments.

use std::collections::HashSet;
use std::ops::ControlFlow;

use super::plan::Plan;
use crate::history::NeededBy;
use crate::segment::Segments;
use crate::storage::read_error::ReadError;
use format::page_images::{Anchor, PageImages, from_keyframe};
use format::page_map::{FAN_OUT, HEIGHT_MAX};
use format::segment::{Location, MapRoot, Piece};
use format::units::Keyframe;
use format::units::{PageNo, Seq};

/// Kind of a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    /// A node of a page map.
    Node,
    /// Images of a page.
    Images(PageNo),
    /// A record index, a template table, or statements.
    Records,
}

/// Callback for a piece of a dropped segment, with its location, kind and bytes.
type Take<'a> = dyn FnMut(Location, Role, &[u8]) -> Result<(), ReadError> + 'a;

/// A needed piece.
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
    /// The piece at its current position.
    pub(super) fn piece(&self) -> Piece {
        Piece { offset: self.offset, len: self.len }
    }
}

/// Visits every node and all images below the roots, each once, with their anchors.
pub(super) struct Walk<'a> {
    pub(super) segments: &'a Segments,
    pub(super) plan: &'a Plan,
    /// Called before every piece; can break.
    pub(super) watch: &'a mut dyn FnMut() -> ControlFlow<()>,
    seen: HashSet<(Seq, u64)>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(segments: &'a Segments, plan: &'a Plan, watch: &'a mut dyn FnMut() -> ControlFlow<()>) -> Self {
        Self { segments, plan, watch, seen: HashSet::new() }
    }

    fn is_dropped(&self, first: Seq) -> bool {
        let position = self.plan.gaps.partition_point(|gap| gap.first_seq <= first).checked_sub(1);
        position.and_then(|position| self.plan.gaps.get(position)).is_some_and(|gap| gap.has(first))
    }

    /// Passes the pieces of dropped segments below a root to `take`; breaks when `watch` does.
    pub(super) fn below(&mut self, root: Option<MapRoot>, take: &mut Take<'_>) -> Result<ControlFlow<()>, ReadError> {
        let Some(root) = root else { return Ok(ControlFlow::Continue(())) };
        let mut nodes = vec![(root.location, root.height.min(HEIGHT_MAX), 0_u64)];
        while let Some((at, height, skipped)) = nodes.pop() {
            if !self.seen.insert((at.segment, at.piece.offset)) {
                continue;
            }
            if (self.watch)().is_break() {
                return Ok(ControlFlow::Break(()));
            }
            let node = self.segments.node(at)?;
            if self.is_dropped(at.segment) {
                self.segments
                    .open(at.segment)?
                    .read_pieces(std::iter::once(at.piece), |_, bytes| take(at, Role::Node, bytes))?;
            }
            for slot in 0..FAN_OUT as usize {
                let Some(entry) = node.get(slot) else { continue };
                let skipped = skipped + slot as u64 * u64::from(FAN_OUT).pow(height.into());
                match (height.checked_sub(1), u32::try_from(skipped + 1).ok().and_then(PageNo::new)) {
                    (Some(height), _) => nodes.push((entry, height, skipped)),
                    (None, Some(page)) => self.images(entry, page, take)?,
                    (None, None) => {}
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Visits images and their anchor, which has none itself.
    fn images(&mut self, at: Location, page: PageNo, take: &mut Take<'_>) -> Result<(), ReadError> {
        let mut next = Some(at);
        while let Some(at) = next.take() {
            if !self.seen.insert((at.segment, at.piece.offset)) {
                continue;
            }
            let is_dropped = self.is_dropped(at.segment);
            let file = self.segments.open(at.segment)?;
            file.read_pieces(std::iter::once(at.piece), |piece, bytes| {
                let images = PageImages::open(bytes, page, at.segment, Keyframe::END);
                let anchor = images.map_err(|damage| file.damaged(piece.offset, damage))?.anchor();
                if is_dropped {
                    take(at, Role::Images(page), bytes)?;
                }
                next = match anchor {
                    Some(Anchor::Segment(anchor)) => Some(anchor),
                    Some(Anchor::Snapshot) | None => None,
                };
                Ok(())
            })?;
        }
        Ok(())
    }
}

/// The kept part of a piece: the newest image, and those that versions of their own segment need.
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
        Ok(file) => file.damaged(at.piece.offset, damage),
        Err(error) => error,
    })
}

/// Passes every needed piece of dropped segments to `take`, each once. Breaks when `watch` does.
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
        for piece in blocks.chain(templates).chain([file.footer().index]) {
            let at = Location { segment: first, piece };
            file.read_pieces(std::iter::once(piece), |_, bytes| take(at, Role::Records, bytes))?;
        }
    }
    let mut walk = Walk::new(segments, plan, watch);
    for &first in plan.bases.iter().chain(plan.needed.keys()) {
        if walk.below(segments.footer(first)?.map, take)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// All needed pieces, ordered by segment and position. `None` when `watch` has broken.
pub(super) fn needed(
    segments: &Segments,
    plan: &Plan,
    watch: &mut dyn FnMut() -> ControlFlow<()>,
) -> Result<Option<Vec<Needed>>, ReadError> {
    let mut all = Vec::new();
    let flow = for_needed(segments, plan, watch, &mut |at, role, bytes| {
        let new_len = u32::try_from(kept_of(at, role, bytes, segments, plan)?.len()).unwrap_or(u32::MAX);
        let Location { segment, piece } = at;
        all.push(Needed { segment, offset: piece.offset, len: piece.len, role, new_len });
        Ok(())
    })?;
    all.sort_unstable();
    Ok(flow.is_continue().then_some(all))
}
