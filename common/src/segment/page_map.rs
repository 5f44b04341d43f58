//! The page map: finding the newest images of a page, and writing the map of a new segment.

use std::sync::Arc;

use super::{SegmentWriter, Segments};
use crate::storage::StorageError;
use crate::storage::read_error::ReadError;
use format::page_map::{HEIGHT_MAX, MapNode, covers, height_for, leaf_of, slot};
use format::segment::{Location, MapRoot};
use format::units::PageNo;

/// Looks pages up in a map. Keeps the last node on the way: it leads to the neighbours of the page, too.
pub(crate) struct Finder<'a> {
    segments: &'a Segments,
    root: Option<MapRoot>,
    /// The pages that the node leads to, by what they have in common; no node when nothing of them was ever changed.
    last: Option<(u32, Option<Arc<MapNode>>)>,
}

impl<'a> Finder<'a> {
    pub(crate) fn new(segments: &'a Segments, root: Option<MapRoot>) -> Self {
        Self { segments, root, last: None }
    }

    /// Where the newest images of a page are; `None` when no segment holds any.
    pub(crate) fn find(&mut self, page: PageNo) -> Result<Option<Location>, ReadError> {
        let neighbours = leaf_of(page);
        let leaf = match &self.last {
            Some((of, leaf)) if *of == neighbours => leaf,
            _ => &self.last.insert((neighbours, self.find_leaf(page)?)).1,
        };
        Ok(leaf.as_ref().and_then(|leaf| leaf.get(slot(page, 0))))
    }

    fn find_leaf(&self, page: PageNo) -> Result<Option<Arc<MapNode>>, ReadError> {
        let Some(MapRoot { location, height }) = self.root.filter(|root| covers(root.height, page)) else {
            return Ok(None);
        };
        let mut node = self.segments.node(location)?;
        // Every step goes down one level, so this ends whatever the nodes say.
        for level in (1..=height.min(HEIGHT_MAX)).rev() {
            match node.get(slot(page, level)) {
                Some(next) => node = self.segments.node(next)?,
                None => return Ok(None),
            }
        }
        Ok(Some(node))
    }
}

/// Why a map cannot be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MapError {
    /// A node of the map before cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A node cannot be written.
    #[error(transparent)]
    Write(#[from] StorageError),
}

/// Writes the map of a new segment: what changed, and every node on the way there; the rest stays where it is.
pub(crate) struct MapBuilder<'a, 'b> {
    pub(crate) segments: &'a Segments,
    pub(crate) writer: &'a mut SegmentWriter<'b>,
}

impl MapBuilder<'_, '_> {
    /// Writes the map that leads where `before` leads, but for `changed` pages, which are in ascending order.
    pub(crate) fn write(
        &mut self,
        before: Option<MapRoot>,
        changed: &[(PageNo, Location)],
    ) -> Result<Option<MapRoot>, MapError> {
        let Some(&(last, _)) = changed.last() else {
            return Ok(before);
        };
        let height = height_for(last).max(before.map_or(0, |root| root.height));
        let location = self.write_node(before, height, changed)?;
        Ok(Some(MapRoot { location, height }))
    }

    /// Writes the node of this height that all of `changed` are below. `before` is the node that it takes the place of;
    /// when that is lower, it becomes the first entry, or is further down there.
    fn write_node(
        &mut self,
        before: Option<MapRoot>,
        height: u8,
        changed: &[(PageNo, Location)],
    ) -> Result<Location, MapError> {
        let old = match before {
            Some(root) if root.height == height => self.segments.node(root.location)?,
            _ => Arc::default(),
        };
        let lower = before.filter(|root| root.height < height);
        let mut node = MapNode::clone(&old);
        if let Some(root) = lower {
            // Wrapped in nodes of its own up to just below this one, unless the changes do that.
            let first_changed = changed.first().is_some_and(|&(page, _)| slot(page, height) == 0);
            if !first_changed {
                node.set(0, self.raise(root, height - 1)?);
            }
        }
        for below in changed.chunk_by(|a, b| slot(a.0, height) == slot(b.0, height)) {
            let (page, location) = below[0];
            let place = slot(page, height);
            let location = if height == 0 {
                location
            } else {
                let before = match old.get(place) {
                    Some(location) => Some(MapRoot { location, height: height - 1 }),
                    None => lower.filter(|_| place == 0),
                };
                self.write_node(before, height - 1, below)?
            };
            node.set(place, location);
        }
        self.push(&node)
    }

    /// A node of this height whose first pages are those of `root`.
    fn raise(&mut self, root: MapRoot, height: u8) -> Result<Location, MapError> {
        let mut location = root.location;
        for _ in root.height..height {
            let mut node = MapNode::default();
            node.set(0, location);
            location = self.push(&node)?;
        }
        Ok(location)
    }

    fn push(&mut self, node: &MapNode) -> Result<Location, MapError> {
        let own = self.writer.header().first_seq;
        Ok(self.writer.push(&node.encode(own))?)
    }
}
