//! [`MapWalk`]: all nodes and images that page maps lead to.

use std::collections::HashSet;
use std::ops::ControlFlow;

use super::Segments;
use crate::storage::read_error::ReadError;
use format::page_map::{FAN_OUT, HEIGHT_MAX};
use format::segment::{Location, MapRoot};
use format::units::{PageNo, Seq};

/// A part of a page map that a walk visits.
#[derive(Debug)]
pub(crate) enum MapItem {
    /// A node; what it leads to is visited next.
    Node,
    /// A node that cannot be read; the walk passes it over.
    Unreadable(ReadError),
    /// The images of a page in one segment.
    Images(PageNo),
}

/// A walk over page maps. It visits each node once, however many maps share it; so it ends, also if nodes are damaged.
#[derive(Debug, Default)]
pub(crate) struct MapWalk {
    visited: HashSet<(Seq, u64)>,
}

/// Takes a part of the map and where it is; it can mark further blocks as visited, and can break.
type Visit<'a> = dyn FnMut(&mut MapWalk, Location, MapItem) -> Result<ControlFlow<()>, ReadError> + 'a;

impl MapWalk {
    /// Whether the block at `at` was not visited before; from now on it was.
    pub(crate) fn is_first_visit(&mut self, at: Location) -> bool {
        self.visited.insert((at.segment, at.block.offset))
    }

    /// Hands everything below a root to `visit`, until that breaks or fails. Images are handed over as often as nodes lead to them.
    ///
    /// # Errors
    /// Those of `visit`.
    pub(crate) fn below(
        &mut self,
        segments: &Segments,
        root: Option<MapRoot>,
        visit: &mut Visit<'_>,
    ) -> Result<ControlFlow<()>, ReadError> {
        let Some(root) = root else { return Ok(ControlFlow::Continue(())) };
        let mut nodes = vec![(root.location, root.height.min(HEIGHT_MAX), 0_u64)];
        while let Some((at, height, skipped)) = nodes.pop() {
            if !self.is_first_visit(at) {
                continue;
            }
            let (node, item) = match segments.node(at) {
                Ok(node) => (Some(node), MapItem::Node),
                Err(error) => (None, MapItem::Unreadable(error)),
            };
            if visit(self, at, item)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
            let Some(node) = node else { continue };
            for slot in 0..FAN_OUT as usize {
                let Some(entry) = node.get(slot) else { continue };
                let skipped = skipped + slot as u64 * u64::from(FAN_OUT).pow(height.into());
                match (height.checked_sub(1), u32::try_from(skipped + 1).ok().and_then(PageNo::new)) {
                    (Some(height), _) => nodes.push((entry, height, skipped)),
                    (None, Some(page)) => {
                        if visit(self, entry, MapItem::Images(page))?.is_break() {
                            return Ok(ControlFlow::Break(()));
                        }
                    }
                    (None, None) => {}
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}
