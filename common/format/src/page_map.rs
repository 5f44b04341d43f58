//! Nodes of the page map, which leads from a page to the block with its newest image.

use super::Damage;
use super::fields::{Reader, put_varint};
use super::segment::BLOCK_LEN_MAX;
use super::segment::{BlockHandle, Location};
use crate::units::{PageNo, Seq};

/// Number of entries of a node.
///
/// A segment rewrites every node on the path to a changed page: wide nodes cost space where changed pages are scattered, narrow
/// nodes make the path longer. With 32 the map of a 4 GiB database is 4 nodes high.
pub const FAN_OUT: u32 = 32;
const FAN_OUT_BITS: u32 = FAN_OUT.trailing_zeros();

/// Height that covers every page a database can have: 32^7 > 2^32.
pub const HEIGHT_MAX: u8 = 6;

/// Maximum length of an encoded node: the bitmap, and three varints for each entry.
pub const NODE_LEN_MAX: u32 = 4 + FAN_OUT * (10 + 10 + 5);

/// A node of the map. The entries of a node at height 0 are pages, those above are nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MapNode {
    entries: [Option<Location>; FAN_OUT as usize],
}

/// Index of the entry of a node at `height` that leads to a page.
pub fn slot(page: PageNo, height: u8) -> usize {
    ((page.get() - 1) >> (FAN_OUT_BITS * u32::from(height)) & (FAN_OUT - 1)) as usize
}

/// Number of the node at height 0 that leads to a page.
pub fn leaf_of(page: PageNo) -> u32 {
    (page.get() - 1) >> FAN_OUT_BITS
}

/// The lowest height whose root covers a page.
pub fn height_for(page: PageNo) -> u8 {
    (0..HEIGHT_MAX).find(|&height| covers(height, page)).unwrap_or(HEIGHT_MAX)
}

/// Whether a root of this height covers a page.
pub fn covers(height: u8, page: PageNo) -> bool {
    u64::from(page.get() - 1) >> (FAN_OUT_BITS * (u32::from(height) + 1)) == 0
}

impl MapNode {
    /// Location of an entry; `None` when no page below it was ever changed.
    pub fn get(&self, slot: usize) -> Option<Location> {
        self.entries.get(slot).copied().flatten()
    }

    /// Sets an entry.
    pub fn set(&mut self, slot: usize, location: Location) {
        self.entries[slot] = Some(location);
    }

    /// Encodes a node of the segment `own`: a bitmap of the entries, then for each the distance of its segment to `own` and its
    /// location there.
    pub fn encode(&self, own: Seq) -> Vec<u8> {
        let present = (0..FAN_OUT).filter(|&slot| self.entries[slot as usize].is_some());
        let mut out = present.fold(0_u32, |bits, slot| bits | 1 << slot).to_le_bytes().to_vec();
        for location in self.entries.iter().flatten() {
            put_varint(own.get() - location.segment.get(), &mut out);
            put_varint(location.block.offset, &mut out);
            put_varint(location.block.len.into(), &mut out);
        }
        out
    }

    /// Decodes a node of the segment `own`.
    ///
    /// # Errors
    /// When the bytes are not a node.
    pub fn decode(bytes: &[u8], own: Seq) -> Result<Self, Damage> {
        let mut fields = Reader::new(bytes);
        let bits = fields.u32()?;
        let mut node = Self::default();
        for slot in (0..FAN_OUT).filter(|slot| bits >> slot & 1 == 1) {
            let older = fields.varint()?;
            let segment = own.get().checked_sub(older).and_then(Seq::new);
            let segment = segment.ok_or(Damage::Field { field: "segment", value: older })?;
            let offset = fields.varint()?;
            let len = fields.varint_u32("block length")?;
            if len > BLOCK_LEN_MAX {
                return Err(Damage::Field { field: "block length", value: len.into() });
            }
            node.entries[slot as usize] = Some(Location { segment, block: BlockHandle { offset, len } });
        }
        if fields.rest().is_empty() {
            Ok(node)
        } else {
            Err(Damage::Contradiction("a node of the page map has a rest"))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn page(number: u32) -> PageNo {
        PageNo::new(number).unwrap()
    }

    #[test]
    fn every_page_has_a_way_of_its_own() {
        assert_eq!([1, 32, 33, 1024, 1025, u32::MAX].map(|number| height_for(page(number))), [0, 0, 1, 1, 2, 6]);
        let way = |number| (0..=HEIGHT_MAX).map(|height| slot(page(number), height)).collect::<Vec<_>>();
        let numbers = [1, 2, 32, 33, 1024, 1025, 40_000, u32::MAX - 1, u32::MAX];
        for (index, &number) in numbers.iter().enumerate() {
            assert!(numbers[..index].iter().all(|&other| way(other) != way(number)), "{number}");
        }
    }

    proptest! {
        #[test]
        fn nodes_are_read_back(entries in proptest::collection::btree_map(0..32_usize, (1..=77_u64, any::<u64>(), 0..=BLOCK_LEN_MAX), 0..32)) {
            let own = Seq::new(77).unwrap();
            let mut node = MapNode::default();
            for (slot, (segment, offset, len)) in entries {
                node.set(slot, Location { segment: Seq::new(segment).unwrap(), block: BlockHandle { offset, len } });
            }
            let bytes = node.encode(own);
            prop_assert!(bytes.len() <= NODE_LEN_MAX as usize);
            prop_assert_eq!(MapNode::decode(&bytes, own), Ok(node));
            for cut in 0..bytes.len() {
                prop_assert!(MapNode::decode(&bytes[..cut], own).is_err());
            }
        }

        #[test]
        fn any_bytes_are_a_node_or_an_error(bytes: Vec<u8>) {
            let _ = MapNode::decode(&bytes, Seq::FIRST);
        }
    }
}
