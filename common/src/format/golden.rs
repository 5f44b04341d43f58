//! The example in the format document is what the code writes.

use uuid::Uuid;

use super::log_header::LogHeader;
use super::manifest::Manifest;
use super::page_map::MapNode;
use super::record::{RecordHeader, RunStart, encode_change, first_link};
use super::record_index::ForeignKeys;
use super::segment::{FollowedBy, Location, MapRoot, PIECE_HEADER_LEN, Piece, SegmentFooter, SegmentHeader};
use crate::{DataVersion, PageSize, Seq, Timestamp};

const DOCUMENT: &str = include_str!("../../FORMAT.md");

const UUID: Uuid = Uuid::from_u128(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff);

fn manifest() -> Vec<u8> {
    let created = Timestamp::from_micros(1_795_356_307_000_000).unwrap();
    Manifest { uuid: UUID, created, page_size: PageSize::DEFAULT, node_id: None }.encode().to_vec()
}

fn log() -> Vec<u8> {
    let link = first_link(UUID);
    let created = Timestamp::from_micros(1_795_356_307_000_001).unwrap();
    let mut bytes = LogHeader { uuid: UUID, first_seq: Seq::FIRST, previous_checksum: link, created }.encode().to_vec();
    let header = RecordHeader {
        seq: Seq::FIRST,
        data_version: DataVersion::new(1),
        time: Timestamp::from_micros(1_795_356_307_123_456).unwrap(),
        previous_checksum: link,
    };
    let statement = "INSERT INTO vars (name, intval)  VALUES ('last_processed_block',7)";
    encode_change(UUID, &header, RunStart::First, &[statement], &mut bytes).unwrap();
    bytes.resize(192, 0);
    bytes
}

fn seq(number: u64) -> Seq {
    Seq::new(number).unwrap()
}

fn segment_header() -> SegmentHeader {
    SegmentHeader { uuid: UUID, first_seq: seq(901), previous_checksum: 0x1122_3344, page_size: PageSize::DEFAULT }
}

/// A piece: the node of a page map of three pages, of which the segment has changed the first and the last.
fn node() -> (Vec<u8>, Piece) {
    let location = |first: u64, offset, len| Location { segment: seq(first), piece: Piece { offset, len } };
    let mut node = MapNode::default();
    node.set(0, location(901, 300_000, 700));
    node.set(1, location(1, 290_000, 90));
    node.set(2, location(901, 300_704, 1500));
    let (node, offset) = (node.encode(seq(901)), 302_208);
    let piece = Piece { offset, len: u32::try_from(node.len()).unwrap() };
    let mut bytes = segment_header().piece_checksum(offset, &node).to_le_bytes().to_vec();
    bytes.extend_from_slice(&node);
    (bytes, piece)
}

fn footer() -> Vec<u8> {
    let (node_bytes, root) = node();
    let behind_node = root.offset + node_bytes.len() as u64;
    assert_eq!(node_bytes.len(), PIECE_HEADER_LEN + root.len as usize);
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
        map: Some(MapRoot { location: Location { segment: seq(901), piece: root }, height: 0 }),
        index: Piece { offset: behind_node, len: 5500 },
        templates: Piece { offset: 64, len: 15_600 },
        versions_before: 900,
        versions: 901,
        place_before: 900,
        place: 1801,
        times: (time(1_795_356_307_123_456), time(1_795_362_607_123_456)),
    };
    footer.encode().to_vec()
}

/// `0000  00 11 …  |text|`, 16 bytes a line.
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
    for (name, bytes) in [("manifest", manifest()), ("log", log()), ("node", node().0), ("footer", footer())] {
        let expected = dump(&bytes);
        let found = blocks.next().expect("the document has four examples");
        assert!(found == expected, "FORMAT.md shows another {name}; the code writes\n{expected}");
    }
}
