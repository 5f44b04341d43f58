//! The page map: lookup of the newest images of a page, and writing of the map of a new segment.

use std::collections::HashMap;
use std::sync::Arc;

use super::{SegmentWriter, Segments};
use crate::storage::StorageError;
use crate::storage::read_error::ReadError;
use format::page_map::{HEIGHT_MAX, MapNode, covers, height_for, leaf_of, slot};
use format::segment::{Location, MapRoot};
use format::units::PageNo;

/// Looks pages up in a map. Caches the last leaf node, which also leads to neighbours of the page.
pub(crate) struct Finder<'a> {
    segments: &'a Segments,
    root: Option<MapRoot>,
    /// Number of the cached leaf node, with the node; `None` when none of its pages was ever changed.
    last: Option<(u32, Option<Arc<MapNode>>)>,
}

impl<'a> Finder<'a> {
    pub(crate) fn new(segments: &'a Segments, root: Option<MapRoot>) -> Self {
        Self { segments, root, last: None }
    }

    /// Location of the newest images of a page; `None` when no segment has any.
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
        // Every step goes down one level, so this ends for any input.
        for level in (1..=height.min(HEIGHT_MAX)).rev() {
            match node.get(slot(page, level)) {
                Some(next) => node = self.segments.node(next)?,
                None => return Ok(None),
            }
        }
        Ok(Some(node))
    }
}

/// The reason why a map cannot be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MapError {
    /// A node of the previous map cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A node cannot be written.
    #[error(transparent)]
    Write(#[from] StorageError),
}

/// Writes the map of a new segment: the nodes on the paths to changed pages; all others are referenced where they are.
pub(crate) struct MapBuilder<'a, 'b> {
    pub(crate) segments: &'a Segments,
    pub(crate) writer: &'a mut SegmentWriter<'b>,
    /// The nodes written so far, by their offsets.
    pub(crate) nodes: HashMap<u64, Arc<MapNode>>,
}

impl MapBuilder<'_, '_> {
    /// Writes the map that equals `before` except for the `changed` pages, which are in ascending order.
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

    /// Writes the node of this height above all of `changed`. `before` is the node that it replaces; when that is lower, it
    /// becomes the first entry, or is further below it.
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
            // Raised to just below this node, unless a change does that.
            let first_changed = changed.first().is_some_and(|&(page, _)| slot(page, height) == 0);
            if !first_changed {
                node.set(0, self.raise(root, height - 1)?);
            }
        }
        for below in changed.chunk_by(|a, b| slot(a.0, height) == slot(b.0, height)) {
            let (page, location) = below[0];
            let entry = slot(page, height);
            let location = if height == 0 {
                location
            } else {
                let before = match old.get(entry) {
                    Some(location) => Some(MapRoot { location, height: height - 1 }),
                    None => lower.filter(|_| entry == 0),
                };
                self.write_node(before, height - 1, below)?
            };
            node.set(entry, location);
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
        let at = self.writer.push(&node.encode(own))?;
        self.nodes.insert(at.block.offset, Arc::new(node.clone()));
        Ok(at)
    }
}
