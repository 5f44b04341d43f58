//! Header and table of a parity file.

use format::parity::{PARITY_HEADER_LEN, ParityHeader, ParityTable};

use super::crc;

/// Where the header has the checksum of the table.
const TABLE_CHECKSUM: std::ops::Range<usize> = 44..48;

/// A parity file up to its first parity block, as it is.
pub(super) fn parity(input: &[u8]) -> bool {
    let Some((header, table)) = input.split_first_chunk::<PARITY_HEADER_LEN>() else { return false };
    let Ok(header) = ParityHeader::decode(header) else { return false };
    let Ok(decoded) = ParityTable::decode(&header, table) else { return false };
    assert_eq!(decoded.encode(), input);
    let layout = &decoded.layout;
    assert_eq!(layout.parity_offset(0), input.len() as u64);
    assert_eq!(
        (decoded.data.len() as u64, decoded.parity.len() as u64),
        (layout.data_blocks(), layout.parity_blocks())
    );
    assert_eq!(layout.place_of(layout.data_blocks()), None);
    for member in layout.members() {
        let (again, blocks) = layout.blocks_of(member.file).expect("it is a member");
        assert_eq!((again, blocks.end - blocks.start), (*member, member.blocks()));
        for block in [blocks.start, blocks.end - 1] {
            let (of, offset) = layout.place_of(block).expect("it is a block");
            assert!(of == *member && offset < of.len, "{block} of {member:?}");
            let place = layout.stripe_of(block);
            assert_eq!(layout.data_of(place.stripe).nth(place.position), Some(block));
        }
    }
    true
}

/// The same, with the right checksums.
pub(super) fn parity_sealed(input: &[u8]) -> bool {
    let mut input = input.to_vec();
    if let Some((header, table)) = input.split_first_chunk_mut::<PARITY_HEADER_LEN>() {
        header[TABLE_CHECKSUM].copy_from_slice(&crc::crc32c(&[table]).to_le_bytes());
        crc::seal(header);
    }
    parity(&input)
}
