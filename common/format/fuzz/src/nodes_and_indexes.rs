//! Nodes of the page map, the record index and the read sets of a segment, the index of a snapshot.

use format::page_map::{FAN_OUT, MapNode, NODE_LEN_MAX};
use format::read_sets::ReadSets;
use format::record_index::RecordIndex;
use format::snapshot::{SnapshotFooter, SnapshotHeader, SnapshotIndex, pages_per_group};
use format::snapshot_ref::DeltaBase;
use format::units::{DataVersion, Keyframe, PageNo, PageSize, Seq, Timestamp};

use super::corpus::{OWN, UUID};
use super::crc::crc32c;

/// A node of a page map.
pub(super) fn page_map(input: &[u8]) -> bool {
    let Ok(node) = MapNode::decode(input, OWN) else { return false };
    let bytes = node.encode(OWN);
    assert!(bytes.len() <= NODE_LEN_MAX as usize, "a node of {} bytes", bytes.len());
    assert_eq!(MapNode::decode(&bytes, OWN), Ok(node.clone()));
    for slot in 0..FAN_OUT as usize {
        assert!(node.get(slot).is_none_or(|at| at.segment <= OWN), "it leads to a newer segment");
    }
    true
}

/// A record index, not compressed.
pub(super) fn record_index(input: &[u8]) -> bool {
    let Ok(index) = RecordIndex::decode(input) else { return false };
    assert_eq!(RecordIndex::decode(&index.encode()), Ok(index.clone()));
    // Looking up every record of a long index would be the square of its length.
    let last = index.records.len() - 1;
    for position in [0, last / 2, last] {
        assert!((index.interval_of(position).0 as usize) < index.intervals.len(), "a record without an interval");
        assert!(index.position_in_block(position) <= position, "more changes than records");
    }
    true
}

/// Read sets, not compressed.
pub(super) fn read_sets(input: &[u8]) -> bool {
    let Ok(sets) = ReadSets::decode(input, OWN) else { return false };
    assert_eq!(ReadSets::decode(&sets.encode(OWN), OWN), Ok(sets.clone()));
    assert!(sets.blocks.iter().all(|block| block.segment <= OWN), "a block of a newer segment");
    for (number, set) in (0..).zip(&sets.sets) {
        let (blocks, pages) = sets.of(Keyframe(number));
        assert_eq!(blocks.count() + pages.count(), set.len(), "set {number}");
    }
    true
}

/// The index of a snapshot, with the right checksum. The first bytes are its kind, the numbers of pages and of those
/// stored, and the size of pages.
pub(super) fn snapshot_index(input: &[u8]) -> bool {
    let mut understood = false;
    let Some(([kind, pages, pages_high, stored, stored_high, size], bytes)) = input.split_first_chunk() else {
        return false;
    };
    let header = SnapshotHeader {
        uuid: UUID,
        seq: OWN,
        base: (kind % 2 == 1).then_some(DeltaBase::Segment(Seq::FIRST)),
        data_version: DataVersion::new(1),
        page_size: PageSize::new(512 << (size % 8)).expect("a power of two"),
        page_count: u16::from_le_bytes([*pages, *pages_high]).into(),
        created: Timestamp::from_micros(1).expect("a time"),
    };
    let groups: u64 = bytes.chunks_exact(8).map(|entry| u64::from(entry[0])).sum();
    for index_offset in [80 + groups, 80] {
        let footer = SnapshotFooter {
            header_checksum: 0,
            index_checksum: crc32c(&[bytes]),
            index_offset,
            stored_pages: u16::from_le_bytes([*stored, *stored_high]).into(),
        };
        let Ok(index) = SnapshotIndex::decode(bytes, &header, &footer) else { continue };
        understood = true;
        assert_eq!(index.encode(), bytes);
        let per_group = pages_per_group(header.page_size);
        assert_eq!(index.groups.len(), (footer.stored_pages as usize).div_ceil(per_group));
        for page in (1..=header.page_count + 1).filter_map(PageNo::new) {
            let slot = index.slot(page, &header);
            assert!(slot.is_none_or(|slot| slot < footer.stored_pages as usize), "page {page} is at {slot:?}");
        }
    }
    understood
}
