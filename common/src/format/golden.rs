//! The example in the format document is what the code writes.

use uuid::Uuid;

use super::log_header::LogHeader;
use super::manifest::Manifest;
use super::record::{RecordHeader, RunStart, encode_change, first_link};
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
    for (name, bytes) in [("manifest", manifest()), ("log", log())] {
        let expected = dump(&bytes);
        let found = blocks.next().expect("the document has two examples");
        assert!(found == expected, "FORMAT.md shows another {name}; the code writes\n{expected}");
    }
}
