//! The example in the format document is what the code writes.

use uuid::Uuid;

use super::change_flags::{ChangeFlags, RunStart};
use super::log_header::LogHeader;
use super::manifest::Manifest;
use super::page_images::PageImages;
use super::page_map::MapNode;
use super::pruned::{PrunedBlock, PrunedFooter, PrunedHeader, PrunedSegment, pruned_checksum};
use super::pruned_directory::{PrunedDirectory, PrunedRange, PrunedSegmentEntry};
use super::record::{RecordHeader, encode_change, first_link};
use super::record_index::ForeignKeys;
use super::segment::{
    BLOCK_HEADER_LEN, BlockHandle, FollowedBy, Location, MapRoot, SEGMENT_FOOTER_LEN, SegmentFooter, SegmentHeader,
};
use crate::units::Keyframe;
use crate::units::{DataVersion, PageNo, PageSize, Seq, Timestamp};

const DOCUMENT: &str = include_str!("../../../docs/format.md");

const UUID: Uuid = Uuid::from_u128(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff);

fn manifest() -> Vec<u8> {
    let created = Timestamp::from_micros(1_795_356_307_000_000).unwrap();
    Manifest { uuid: UUID, created, page_size: PageSize::DEFAULT, node_id: None }.encode().to_vec()
}

fn log() -> Vec<u8> {
    let link = first_link(UUID);
    let created = Timestamp::from_micros(1_795_356_307_000_001).unwrap();
    let header = LogHeader { uuid: UUID, first_seq: Seq::FIRST, previous_checksum: link, created, unit: 4 << 20 };
    let mut bytes = header.encode().to_vec();
    let header = RecordHeader {
        seq: Seq::FIRST,
        data_version: DataVersion::new(1),
        time: Timestamp::from_micros(1_795_356_307_123_456).unwrap(),
        previous_checksum: link,
    };
    let statement = "INSERT INTO vars (name, intval)  VALUES ('last_processed_block',7)";
    encode_change(UUID, &header, ChangeFlags::verified(RunStart::First), &[statement], &mut bytes).unwrap();
    bytes.resize(192, 0);
    bytes
}

fn seq(number: u64) -> Seq {
    Seq::new(number).unwrap()
}

fn segment_header() -> SegmentHeader {
    SegmentHeader { uuid: UUID, first_seq: seq(901), previous_checksum: 0x1122_3344, page_size: PageSize::DEFAULT }
}

/// The map node of three pages, of which the segment has changed the first and the last.
fn node() -> (Vec<u8>, BlockHandle) {
    let location = |first: u64, offset, len| Location { segment: seq(first), block: BlockHandle { offset, len } };
    let mut node = MapNode::default();
    node.set(0, location(901, 300_000, 700));
    node.set(1, location(1, 290_000, 90));
    node.set(2, location(901, 300_704, 1500));
    let (node, offset) = (node.encode(seq(901)), 302_208);
    let block = BlockHandle { offset, len: u32::try_from(node.len()).unwrap() };
    let mut bytes = segment_header().block_checksum(offset, &node).to_le_bytes().to_vec();
    bytes.extend_from_slice(&node);
    (bytes, block)
}

fn footer() -> Vec<u8> {
    let (node_bytes, root) = node();
    let behind_node = root.offset + node_bytes.len() as u64;
    assert_eq!(node_bytes.len(), BLOCK_HEADER_LEN + root.len as usize);
    let time = |micros| Timestamp::from_micros(micros).unwrap();
    let footer = SegmentFooter {
        header_checksum: u32::from_le_bytes(*segment_header().encode().last_chunk().unwrap()),
        last_seq: seq(1802),
        last_checksum: 0x5566_7788,
        followed_by: FollowedBy::Change,
        foreign_keys: ForeignKeys::On,
        base: Some(seq(1)),
        snapshot: None,
        newest_snapshot: None,
        page_count: 3,
        map: Some(MapRoot { location: Location { segment: seq(901), block: root }, height: 0 }),
        read_sets: BlockHandle { offset: behind_node, len: 900 },
        index: BlockHandle { offset: behind_node + 904, len: 5500 },
        templates: BlockHandle { offset: 64, len: 15_600 },
        versions_before: 900,
        versions: 901,
        ordinal_before: 900,
        ordinal: 1801,
        times: (time(1_795_356_307_123_456), time(1_795_362_607_123_456)),
    };
    footer.encode().to_vec()
}

/// The file `pruned` of a dropped first segment: the newest image of each page, all zeros, and the node that leads to them.
fn pruned() -> Vec<u8> {
    const PAGE_OF_ZEROS: [u8; 7] = [0x60, 0, 0x0f, 3, 0x80, 0, 0];
    let header = SegmentHeader {
        uuid: UUID,
        first_seq: Seq::FIRST,
        previous_checksum: first_link(UUID),
        page_size: PageSize::DEFAULT,
    };
    let stored = [(1, 289_000, 980), (2, 290_000, 90), (3, 290_094, 700)];
    let mut node = MapNode::default();
    let mut blocks = Vec::new();
    for (page, offset, len) in stored {
        let block = BlockHandle { offset, len };
        node.set(page - 1, Location { segment: Seq::FIRST, block });
        // Page number, no base image, one image at keyframe 15, its length.
        let image = [&[u8::try_from(page).unwrap(), 0, 1, 15, 7], &PAGE_OF_ZEROS[..]].concat();
        let number = PageNo::new(u32::try_from(page).unwrap()).unwrap();
        let mut zeros = [1; 4096];
        let images = PageImages::open(&image, number, Seq::FIRST, Keyframe::END).unwrap();
        assert!(images.base_image().is_none() && images.read(None, &mut zeros).is_ok() && zeros == [0; 4096]);
        blocks.push((offset, image));
    }
    let (node, offset) = (node.encode(Seq::FIRST), 290_798);
    let root = BlockHandle { offset, len: u32::try_from(node.len()).unwrap() };
    let read_sets = BlockHandle { offset: offset + (BLOCK_HEADER_LEN + node.len()) as u64, len: 900 };
    let index = BlockHandle { offset: read_sets.offset + 904, len: 5400 };
    blocks.push((offset, node));
    let time = |micros| Timestamp::from_micros(micros).unwrap();
    let footer = SegmentFooter {
        header_checksum: u32::from_le_bytes(*header.encode().last_chunk().unwrap()),
        last_seq: seq(900),
        last_checksum: segment_header().previous_checksum,
        followed_by: FollowedBy::Change,
        foreign_keys: ForeignKeys::On,
        base: None,
        snapshot: None,
        newest_snapshot: None,
        page_count: 3,
        map: Some(MapRoot { location: Location { segment: Seq::FIRST, block: root }, height: 0 }),
        index,
        read_sets,
        templates: BlockHandle { offset: 64, len: 15_000 },
        versions_before: 0,
        versions: 900,
        ordinal_before: 0,
        ordinal: 900,
        times: (time(1_795_346_307_123_456), time(1_795_352_607_123_456)),
    };
    SegmentFooter::decode(&footer.encode()).unwrap();
    let created = time(1_795_442_707_000_002);
    let mut out = PrunedHeader { uuid: UUID, created }.encode().to_vec();
    let header_checksum = u32::from_le_bytes(*out.last_chunk().unwrap());
    let mut segment = PrunedSegment { header: header.encode(), footer: footer.encode(), blocks: Vec::new() };
    for (offset, bytes) in blocks {
        let len = u32::try_from(bytes.len()).unwrap();
        segment.blocks.push(PrunedBlock { offset, file_offset: out.len() as u64, len });
        out.extend(header.block_checksum(offset, &bytes).to_le_bytes());
        out.extend(bytes);
    }
    let (segment, offset) = (segment.encode(), out.len() as u64);
    out.extend(pruned_checksum(UUID, offset, &segment).to_le_bytes());
    out.extend(&segment);
    let range = PrunedRange {
        first_seq: Seq::FIRST,
        previous_checksum: first_link(UUID),
        last_segment: Seq::FIRST,
        last_seq: seq(900),
        versions_before: 0,
        ordinal_before: 0,
        versions: 900,
        segments: 1,
        bytes: index.offset + BLOCK_HEADER_LEN as u64 + u64::from(index.len) + SEGMENT_FOOTER_LEN as u64,
    };
    let entry = PrunedSegmentEntry { segment: Seq::FIRST, offset, len: u32::try_from(segment.len()).unwrap() };
    let directory = PrunedDirectory { ranges: vec![range], segments: vec![entry], thinned: Vec::new() }.encode();
    let directory_offset = out.len() as u64;
    let directory_checksum = pruned_checksum(UUID, directory_offset, &directory);
    out.extend(directory_checksum.to_le_bytes());
    out.extend(directory);
    out.extend(PrunedFooter { header_checksum, directory_checksum, directory_offset }.encode());
    out
}

/// A hex dump like `0000  00 11 …  |text|`, 16 bytes per line.
fn dump(bytes: &[u8]) -> String {
    let line = |(number, line): (usize, &[u8])| {
        let hex: Vec<_> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        let text: String =
            line.iter().map(|&b| if b.is_ascii_graphic() || b == b' ' { b as char } else { '.' }).collect();
        format!("{:04x}  {:<47}  |{text}|\n", number * 16, hex.join(" "))
    };
    bytes.chunks(16).enumerate().map(line).collect()
}

#[test]
fn the_example_in_the_document_is_what_the_code_writes() {
    let mut blocks = DOCUMENT.split("```hex\n").skip(1).filter_map(|block| block.split("```").next());
    let examples =
        [("manifest", manifest()), ("log", log()), ("node", node().0), ("footer", footer()), ("pruned", pruned())];
    for (name, bytes) in examples {
        let expected = dump(&bytes);
        let found = blocks.next().unwrap_or_default();
        assert!(found == expected, "docs/format.md shows another {name}; the code writes\n{expected}");
    }
}
