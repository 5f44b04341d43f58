//! Check of the page map nodes that a segment has written, against the map of its base.

use std::collections::HashSet;
use std::ops::RangeInclusive;

use crate::segment::{SegmentFile, Segments};
use crate::storage::read_error::ReadError;
use format::Damage;
use format::page_map::{FAN_OUT, MapNode, NODE_LEN_MAX};
use format::segment::{BlockHandle, Location, MapRoot};
use format::units::PageNo;

/// The part of a map that is in one segment.
#[derive(Debug, Default)]
pub(crate) struct OwnPart {
    pub(crate) problems: Vec<ReadError>,
    /// Offsets of unreadable nodes.
    pub(crate) unreadable: Vec<u64>,
    /// The pages below those.
    pub(crate) hidden: Vec<RangeInclusive<u32>>,
    /// The segment's own nodes.
    pub(crate) nodes: Vec<BlockHandle>,
    /// The pages with images in the segment, ascending, with their locations.
    pub(crate) images: Vec<(PageNo, BlockHandle)>,
}

/// The previous content of a slot of the map.
#[derive(Debug, Clone, Copy)]
enum Before {
    /// Unknown, because it cannot be read.
    Unknown,
    /// Empty.
    Nothing,
    /// This location.
    Entry(Location),
    /// The root of the whole map, which was lower.
    Root(MapRoot),
}

/// Walks through the nodes that the segment has written.
pub(crate) fn own_part(segments: &Segments, file: &SegmentFile) -> OwnPart {
    let footer = file.footer();
    let before = match footer.base.map(|base| segments.footer(base)) {
        None => Before::Nothing,
        Some(Ok(base)) => base.map.map_or(Before::Nothing, Before::Root),
        Some(Err(_)) => Before::Unknown,
    };
    let mut walk = Walk { segments, file, seen: HashSet::new(), part: OwnPart::default() };
    match (footer.map, before) {
        (Some(root), Before::Root(before)) if root == before => {}
        (Some(root), before) if root.location.segment == file.first_seq() => {
            let before = match before {
                Before::Root(before) if before.height == root.height => Before::Entry(before.location),
                before => before,
            };
            walk.node(root.location.block, root.height, 0, before);
        }
        (None, Before::Nothing | Before::Unknown) | (Some(_), Before::Unknown) => {}
        _ => walk.problem(file.footer_offset(), "its page map is not made from that of what it builds on"),
    }
    walk.part
}

struct Walk<'a> {
    segments: &'a Segments,
    file: &'a SegmentFile,
    seen: HashSet<u64>,
    part: OwnPart,
}

impl Walk<'_> {
    fn problem(&mut self, offset: u64, what: &'static str) {
        self.part.problems.push(self.file.damaged(offset, Damage::Contradiction(what)));
    }

    /// Checks the node at `block`, whose first page is the one behind `skipped`.
    fn node(&mut self, block: BlockHandle, height: u8, skipped: u64, before: Before) {
        // Each node is referenced once; so this ends for any input.
        if !self.seen.insert(block.offset) {
            return self.problem(block.offset, "two ways of the page map lead here");
        }
        self.part.nodes.push(block);
        let node = self.file.read_block(block, |bytes| match block.len {
            0..=NODE_LEN_MAX => MapNode::decode(bytes, self.file.first_seq()),
            len => Err(Damage::Field { field: "node length", value: len.into() }),
        });
        let pages_below = u64::from(FAN_OUT).pow(height.into());
        let node = match node {
            Ok(node) => node,
            Err(error) => {
                self.part.problems.push(error);
                self.part.unreadable.push(block.offset);
                self.part.hidden.push(page_at(skipped)..=page_at(skipped + pages_below * u64::from(FAN_OUT) - 1));
                return;
            }
        };
        let old = match before {
            Before::Entry(location) => self.segments.node(location).ok(),
            _ => None,
        };
        for slot in 0..FAN_OUT as usize {
            let before = match (before, &old) {
                (Before::Entry(_), Some(old)) => old.get(slot).map_or(Before::Nothing, Before::Entry),
                (Before::Entry(_), None) | (Before::Unknown, _) => Before::Unknown,
                (Before::Root(root), _) if slot == 0 && root.height + 1 == height => Before::Entry(root.location),
                (Before::Root(root), _) if slot == 0 => Before::Root(root),
                (Before::Root(_) | Before::Nothing, _) => Before::Nothing,
            };
            self.entry(block, height, node.get(slot), skipped + slot as u64 * pages_below, before);
        }
    }

    fn entry(&mut self, node: BlockHandle, height: u8, entry: Option<Location>, skipped: u64, before: Before) {
        let own = self.file.first_seq();
        match (entry, before) {
            (None, Before::Nothing | Before::Unknown) => {}
            (Some(now), Before::Entry(before)) if now == before => {}
            (Some(now), _) if now.segment == own && height > 0 => self.node(now.block, height - 1, skipped, before),
            (Some(now), _) if now.segment == own => match u32::try_from(skipped + 1).ok().and_then(PageNo::new) {
                Some(page) => self.part.images.push((page, now.block)),
                None => self.problem(node.offset, "the page map has a page that no database can have"),
            },
            (Some(_), Before::Unknown) => {}
            (Some(_), _) => self.problem(node.offset, "the page map leads to other images than it did before"),
            (None, Before::Entry(_) | Before::Root(_)) => self.problem(node.offset, "the page map has lost pages"),
        }
    }
}

fn page_at(skipped: u64) -> u32 {
    u32::try_from(skipped + 1).unwrap_or(u32::MAX)
}
