//! Read sets: what opening a version of a segment reads from outside its statements, so that all of it can be fetched at once.
//!
//! They are hints. Where a page is, its page map says; a read set that is wrong makes opening slower, and nothing else.

use super::Damage;
use super::fields::{Reader, put_varint};
use super::segment::{BLOCK_LEN_MAX, BlockHandle, Location};
use crate::units::{Keyframe, PageNo, Seq};

/// Maximum number of entries of a set. A statement that reads a whole table needs more: fetching all of it at once would take the
/// place of what others have fetched.
pub const SET_LEN_MAX: usize = 4096;

/// Maximum number of sets: a log has at most 12,000 statements, and an interval one or more.
pub const SETS_MAX: usize = 1 << 16;

/// Maximum number of entries of all sets of a segment.
pub const ENTRIES_MAX: usize = 1 << 19;

/// Maximum length of encoded read sets in bytes.
pub const READ_SETS_LEN_MAX: usize = 16 << 20;

/// The read sets of a segment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReadSets {
    /// The blocks that some version reads, ascending by segment and offset: nodes of page maps, and images.
    pub blocks: Vec<Location>,
    /// The pages of the full snapshot that some version reads, ascending.
    pub snapshot_pages: Vec<PageNo>,
    /// One set for each interval and one for the end, or none at all. The entries of a set ascend: one less than the number of blocks is
    /// the number of a block, the next ones are those of the pages.
    pub sets: Vec<Vec<u32>>,
}

impl ReadSets {
    /// The blocks and pages of the snapshot that opening a version reads which is replayed from this keyframe on;
    /// [`Keyframe::END`] for what follows the segment.
    pub fn of(&self, keyframe: Keyframe) -> (impl Iterator<Item = Location>, impl Iterator<Item = PageNo>) {
        let set = match keyframe {
            Keyframe::END => self.sets.last(),
            Keyframe(number) => self.sets.get(number as usize),
        };
        let set = set.map(Vec::as_slice).unwrap_or_default();
        let (blocks, pages) = set.split_at(set.partition_point(|&entry| (entry as usize) < self.blocks.len()));
        let page = |&entry: &u32| self.snapshot_pages.get((entry as usize).checked_sub(self.blocks.len())?).copied();
        (blocks.iter().filter_map(|&entry| self.blocks.get(entry as usize).copied()), pages.iter().filter_map(page))
    }

    /// Encodes the sets of the segment `own`, not compressed.
    pub fn encode(&self, own: Seq) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.blocks.len() * 8);
        for count in [self.blocks.len(), self.snapshot_pages.len(), self.sets.len()] {
            put_varint(count as u64, &mut out);
        }
        // Column by column: similar values side by side compress well.
        let mut before = None;
        for block in &self.blocks {
            let segment = block.segment.get();
            put_varint(before.map_or_else(|| own.get() - segment, |before| segment - before), &mut out);
            before = Some(segment);
        }
        let mut before: Option<Location> = None;
        for block in &self.blocks {
            let from = before.filter(|before| before.segment == block.segment).map_or(0, |before| before.block.offset);
            put_varint(block.block.offset - from, &mut out);
            before = Some(*block);
        }
        for block in &self.blocks {
            put_varint(block.block.len.into(), &mut out);
        }
        put_ascending(self.snapshot_pages.iter().map(|page| page.get()), &mut out);
        for set in &self.sets {
            put_varint(set.len() as u64, &mut out);
            put_ascending(set.iter().copied(), &mut out);
        }
        out
    }

    /// Decodes the sets of the segment `own`.
    ///
    /// # Errors
    /// When the bytes are no read sets, or name a newer segment.
    pub fn decode(bytes: &[u8], own: Seq) -> Result<Self, Damage> {
        let mut fields = Reader::new(bytes);
        // Everything that is counted takes a byte or more, so the counts cannot cause a larger allocation.
        let mut count = |field, most: usize| {
            let count = fields.varint()?;
            let valid = usize::try_from(count).ok().filter(|&count| count <= most);
            valid.ok_or(Damage::Field { field, value: count })
        };
        let counts = (count("block count", bytes.len() / 3)?, count("page count", bytes.len())?);
        let sets = count("set count", bytes.len().min(SETS_MAX))?;
        let mut segments = Vec::with_capacity(counts.0);
        let mut segment = None;
        for _ in 0..counts.0 {
            let difference = fields.varint()?;
            let next = match segment {
                None => own.get().checked_sub(difference),
                Some(before) => difference.checked_add(before).filter(|&next| next <= own.get()),
            };
            let next = next.and_then(Seq::new).ok_or(Damage::Field { field: "segment", value: difference })?;
            segments.push(next);
            segment = Some(next.get());
        }
        let mut blocks: Vec<Location> = Vec::with_capacity(counts.0);
        for segment in segments {
            let difference = fields.varint()?;
            let offset = match blocks.last().filter(|before| before.segment == segment) {
                None => Some(difference),
                Some(before) => before.block.offset.checked_add(difference).filter(|_| difference > 0),
            };
            let offset = offset.ok_or(Damage::Field { field: "block offset", value: difference })?;
            blocks.push(Location { segment, block: BlockHandle { offset, len: 0 } });
        }
        for block in &mut blocks {
            let len = fields.varint_u32("block length")?;
            if len > BLOCK_LEN_MAX {
                return Err(Damage::Field { field: "block length", value: len.into() });
            }
            block.block.len = len;
        }
        let pages = ascending(&mut fields, counts.1)?;
        let pages: Option<Vec<PageNo>> = pages.into_iter().map(PageNo::new).collect();
        let snapshot_pages = pages.ok_or(Damage::Field { field: "page", value: 0 })?;
        let mut decoded = Self { blocks, snapshot_pages, sets: Vec::with_capacity(sets) };
        let mut entries = 0;
        for _ in 0..sets {
            let len = fields.varint_u32("set length")?;
            entries += len as usize;
            if len as usize > SET_LEN_MAX || entries > ENTRIES_MAX {
                return Err(Damage::Field { field: "set length", value: len.into() });
            }
            let set = ascending(&mut fields, len as usize)?;
            if let Some(&last) = set.last().filter(|&&last| last as usize >= counts.0 + counts.1) {
                return Err(Damage::Field { field: "set", value: last.into() });
            }
            decoded.sets.push(set);
        }
        if fields.rest().is_empty() { Ok(decoded) } else { Err(Damage::Contradiction("the read sets have a rest")) }
    }
}

fn put_ascending(numbers: impl Iterator<Item = u32>, out: &mut Vec<u8>) {
    let mut before = 0;
    for number in numbers {
        put_varint(u64::from(number - before), out);
        before = number;
    }
}

/// So many numbers, each greater than the one before.
fn ascending(fields: &mut Reader<'_>, count: usize) -> Result<Vec<u32>, Damage> {
    let mut numbers: Vec<u32> = Vec::with_capacity(count.min(fields.rest().len()));
    for _ in 0..count {
        let difference = fields.varint_u32("difference")?;
        let next = match numbers.last() {
            None => Some(difference),
            Some(before) => before.checked_add(difference).filter(|_| difference > 0),
        };
        numbers.push(next.ok_or(Damage::Field { field: "difference", value: difference.into() })?);
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    const OWN: u64 = 900;

    prop_compose! {
        fn any_sets()(
            blocks in proptest::collection::btree_map((1..=OWN, any::<u32>()), 0..=BLOCK_LEN_MAX, 0..20),
            pages in proptest::collection::btree_set(1..=u32::MAX, 0..20),
            sets in proptest::collection::vec(proptest::collection::btree_set(any::<u32>(), 0..30), 0..6),
        ) -> ReadSets {
            of(&blocks, &pages, &sets)
        }
    }

    fn of(blocks: &BTreeMap<(u64, u32), u32>, pages: &BTreeSet<u32>, sets: &[BTreeSet<u32>]) -> ReadSets {
        let all = u32::try_from(blocks.len() + pages.len()).unwrap();
        let location = |(&(segment, offset), &len): (&(u64, u32), &u32)| Location {
            segment: Seq::new(segment).unwrap(),
            block: BlockHandle { offset: offset.into(), len },
        };
        let set = |set: &BTreeSet<u32>| {
            set.iter().filter(|_| all > 0).map(|entry| entry % all).collect::<BTreeSet<_>>().into_iter().collect()
        };
        ReadSets {
            blocks: blocks.iter().map(location).collect(),
            snapshot_pages: pages.iter().filter_map(|&page| PageNo::new(page)).collect(),
            sets: sets.iter().map(set).collect(),
        }
    }

    proptest! {
        #[test]
        fn sets_are_read_back_and_no_part_of_them_is_any(sets in any_sets()) {
            let own = Seq::new(OWN).unwrap();
            let bytes = sets.encode(own);
            prop_assert_eq!(ReadSets::decode(&bytes, own), Ok(sets));
            for cut in 0..bytes.len() {
                prop_assert!(ReadSets::decode(&bytes[..cut], own).is_err());
            }
        }

        #[test]
        fn any_bytes_are_read_sets_or_an_error(bytes: Vec<u8>) {
            if let Ok(sets) = ReadSets::decode(&bytes, Seq::FIRST) {
                prop_assert!(sets.blocks.iter().all(|block| block.segment <= Seq::FIRST));
            }
        }
    }

    #[test]
    fn more_than_a_reader_would_keep_is_refused() {
        let own = Seq::new(OWN).unwrap();
        let blocks = BTreeMap::from_iter((0..SET_LEN_MAX).map(|at| ((1, u32::try_from(at).unwrap()), 1)));
        let full = BTreeSet::from_iter(0..u32::try_from(SET_LEN_MAX).unwrap());
        let with = |sets: Vec<BTreeSet<u32>>| ReadSets::decode(&of(&blocks, &BTreeSet::new(), &sets).encode(own), own);
        assert!(with(vec![full.clone(); ENTRIES_MAX / SET_LEN_MAX]).is_ok());
        assert!(with(vec![full; ENTRIES_MAX / SET_LEN_MAX + 1]).is_err());
        assert!(with(vec![BTreeSet::new(); SETS_MAX]).is_ok());
        assert!(with(vec![BTreeSet::new(); SETS_MAX + 1]).is_err());
    }

    #[test]
    fn every_set_names_its_blocks_and_pages() {
        let blocks = BTreeMap::from([((3, 64), 10), ((3, 90), 11), ((7, 64), 12)]);
        let sets =
            of(&blocks, &BTreeSet::from([5, 9]), &[BTreeSet::from([0, 2, 4]), BTreeSet::new(), BTreeSet::from([1, 3])]);
        let named = |keyframe| {
            let (blocks, pages) = sets.of(keyframe);
            (blocks.map(|block| block.block.len).collect::<Vec<_>>(), pages.map(PageNo::get).collect::<Vec<_>>())
        };
        assert_eq!(named(Keyframe(0)), (vec![10, 12], vec![9]));
        assert_eq!(named(Keyframe(1)), (vec![], vec![]));
        assert_eq!(named(Keyframe::END), (vec![11], vec![5]));
        assert_eq!(named(Keyframe(3)), (vec![], vec![]));
    }
}
