//! The frame of the file `pruned`: header, blocks, pruned segments, footer. Its directory is in
//! [`pruned_directory`](super::pruned_directory).

use uuid::Uuid;

use super::Damage;
use super::FORMAT_VERSION;
use super::check_envelope;
use super::checksum;
use super::fields::{Reader, put_varint};
use super::segment::{BLOCK_HEADER_LEN, BLOCK_LEN_MAX, SEGMENT_FOOTER_LEN, SEGMENT_HEADER_LEN};
use crate::units::Timestamp;

const MAGIC: [u8; 8] = *b"BKPFSPRN";
const FOOTER_MAGIC: [u8; 8] = *b"BKPFSPRE";

/// Length of an encoded header in bytes; the first block follows.
pub const PRUNED_HEADER_LEN: usize = 40;

/// Length of an encoded footer in bytes; it ends the file.
pub const PRUNED_FOOTER_LEN: usize = 32;

/// Maximum length of an encoded pruned segment or of the directory: a reader allocates no more for one.
pub const PRUNED_LEN_MAX: u32 = 256 << 20;

/// Header of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrunedHeader {
    /// The backup that the file belongs to.
    pub uuid: Uuid,
    /// Time at which the file was written.
    pub created: Timestamp,
}

impl PrunedHeader {
    /// Encodes the header.
    pub fn encode(&self) -> [u8; PRUNED_HEADER_LEN] {
        let mut out = Vec::with_capacity(PRUNED_HEADER_LEN);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(self.uuid.as_bytes());
        out.extend_from_slice(&self.created.as_micros().to_le_bytes());
        out.extend_from_slice(&checksum(&[&out]).to_le_bytes());
        out.try_into().expect("BUG: the fields of this header are PRUNED_HEADER_LEN bytes")
    }

    /// Decodes the first bytes of a file.
    ///
    /// # Errors
    /// When the bytes are not such a header, are damaged, or of a newer format.
    pub fn decode(bytes: &[u8; PRUNED_HEADER_LEN]) -> Result<Self, Damage> {
        check_envelope(bytes, MAGIC, "file `pruned` of a backup")?;
        let mut fields = Reader::new(bytes);
        fields.bytes(MAGIC.len() + 2)?;
        fields.zeros(2, "flags")?;
        let uuid = Uuid::from_bytes(fields.array()?);
        let created = fields.i64()?;
        let created = Timestamp::from_micros(created)
            .ok_or(Damage::Field { field: "created", value: created.cast_unsigned() })?;
        Ok(Self { uuid, created })
    }
}

/// Footer of the file, with the location of the directory. No two files have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrunedFooter {
    /// Checksum of the header, which is the header's last field.
    pub header_checksum: u32,
    /// Checksum of the directory, as stored in front of it.
    pub directory_checksum: u32,
    /// Offset of the directory's checksum in the file; the directory ends where the footer begins.
    pub directory_offset: u64,
}

impl PrunedFooter {
    /// Encodes the footer. Its last four bytes are its checksum.
    pub fn encode(&self) -> [u8; PRUNED_FOOTER_LEN] {
        let mut out = Vec::with_capacity(PRUNED_FOOTER_LEN);
        out.extend_from_slice(&FOOTER_MAGIC);
        out.extend_from_slice(&self.header_checksum.to_le_bytes());
        out.extend_from_slice(&self.directory_checksum.to_le_bytes());
        out.extend_from_slice(&self.directory_offset.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&checksum(&[&out]).to_le_bytes());
        out.try_into().expect("BUG: the fields of this footer are PRUNED_FOOTER_LEN bytes")
    }

    /// Decodes the last bytes of a file.
    ///
    /// # Errors
    /// When the bytes are not such a footer, or are damaged.
    pub fn decode(bytes: &[u8; PRUNED_FOOTER_LEN]) -> Result<Self, Damage> {
        let mut fields = Reader::new(bytes);
        if fields.array::<8>()? != FOOTER_MAGIC {
            return Err(Damage::Magic { expected: "whole file `pruned`: its end is missing" });
        }
        let (covered, sum) = bytes.split_at(PRUNED_FOOTER_LEN - 4);
        let (found, computed) = (Reader::new(sum).u32()?, checksum(&[covered]));
        if found != computed {
            return Err(Damage::Checksum { found, computed });
        }
        let footer =
            Self { header_checksum: fields.u32()?, directory_checksum: fields.u32()?, directory_offset: fields.u64()? };
        fields.zeros(4, "reserved")?;
        Ok(footer)
    }
}

/// Checksum of a pruned segment or of the directory. It covers UUID and offset, so a misplaced block is detected.
pub fn pruned_checksum(uuid: Uuid, offset: u64, bytes: &[u8]) -> u32 {
    checksum(&[uuid.as_bytes(), &offset.to_le_bytes(), bytes])
}

/// A block of a dropped segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrunedBlock {
    /// Offset of the block in its segment.
    pub offset: u64,
    /// Offset in this file: that of the block's checksum.
    pub file_offset: u64,
    /// Length in bytes, without the checksum. Of page images only the newest are kept, so it may be less than in the segment.
    pub len: u32,
}

/// A pruned segment: the header and the footer of a dropped segment, and those of its blocks that others refer to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrunedSegment {
    /// Header of the segment.
    pub header: [u8; SEGMENT_HEADER_LEN],
    /// Footer of the segment.
    pub footer: [u8; SEGMENT_FOOTER_LEN],
    /// The blocks, ascending; in the file each follows the one before.
    pub blocks: Vec<PrunedBlock>,
}

impl PrunedSegment {
    /// Encodes header, footer, and the list of blocks.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(SEGMENT_HEADER_LEN + SEGMENT_FOOTER_LEN + 16 + self.blocks.len() * 5);
        out.extend_from_slice(&self.header);
        out.extend_from_slice(&self.footer);
        put_varint(self.blocks.len() as u64, &mut out);
        put_varint(self.blocks.first().map_or(0, |block| block.file_offset), &mut out);
        let mut before = 0;
        for block in &self.blocks {
            put_varint(block.offset - before, &mut out);
            put_varint(block.len.into(), &mut out);
            before = block.offset;
        }
        out
    }

    /// Decodes a pruned segment of a file whose blocks end before byte `end`.
    ///
    /// # Errors
    /// When the bytes are not a pruned segment, or name blocks outside of that range.
    pub fn decode(bytes: &[u8], end: u64) -> Result<Self, Damage> {
        let mut fields = Reader::new(bytes);
        let (header, footer) = (fields.array()?, fields.array()?);
        let count = fields.varint()?;
        let mut file_offset = fields.varint()?;
        if count > fields.rest().len() as u64 / 2 {
            return Err(Damage::Field { field: "blocks", value: count });
        }
        let mut blocks: Vec<PrunedBlock> = Vec::new();
        let mut offset = 0_u64;
        for _ in 0..count {
            let step = fields.varint()?;
            let next = offset.checked_add(step).filter(|_| step > 0);
            offset = next.ok_or(Damage::Field { field: "block offset", value: step })?;
            let len = fields.varint_u32("block length")?;
            let behind =
                file_offset.checked_add(u64::from(len) + BLOCK_HEADER_LEN as u64).filter(|&behind| behind <= end);
            if file_offset < PRUNED_HEADER_LEN as u64 || len > BLOCK_LEN_MAX {
                return Err(Damage::Field { field: "file_offset", value: file_offset });
            }
            blocks.push(PrunedBlock { offset, file_offset, len });
            file_offset = behind.ok_or(Damage::Field { field: "file_offset", value: file_offset })?;
        }
        if !fields.rest().is_empty() {
            return Err(Damage::Contradiction("a pruned segment has a rest"));
        }
        Ok(Self { header, footer, blocks })
    }

    /// The block that began at this offset of the segment.
    pub fn block_at(&self, offset: u64) -> Option<PrunedBlock> {
        let position = self.blocks.binary_search_by_key(&offset, |block| block.offset).ok()?;
        self.blocks.get(position).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_and_footer_decode_to_what_was_encoded_and_every_flipped_bit_is_noticed() {
        let header = PrunedHeader { uuid: Uuid::from_u128(7), created: Timestamp::from_micros(8).unwrap() };
        let footer = PrunedFooter { header_checksum: 1, directory_checksum: 2, directory_offset: 3 };
        let (mut head, mut foot) = (header.encode(), footer.encode());
        assert_eq!((PrunedHeader::decode(&head), PrunedFooter::decode(&foot)), (Ok(header), Ok(footer)));
        for bit in 0..head.len() * 8 {
            head[bit / 8] ^= 1 << (bit % 8);
            assert!(PrunedHeader::decode(&head).is_err(), "bit {bit}");
            head[bit / 8] ^= 1 << (bit % 8);
        }
        for bit in 0..foot.len() * 8 {
            foot[bit / 8] ^= 1 << (bit % 8);
            assert!(PrunedFooter::decode(&foot).is_err(), "bit {bit}");
            foot[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn a_pruned_segment_finds_its_blocks_and_names_none_outside_of_the_file() {
        let block = |offset, file_offset, len| PrunedBlock { offset, file_offset, len };
        let blocks = vec![block(64, 40, 10), block(300, 54, 700), block(301, 758, 1)];
        let segment = PrunedSegment { header: [1; 64], footer: [2; 164], blocks };
        let bytes = segment.encode();
        assert_eq!(PrunedSegment::decode(&bytes, 763).as_ref(), Ok(&segment));
        assert_eq!((segment.block_at(300), segment.block_at(299)), (Some(block(300, 54, 700)), None));
        assert!(PrunedSegment::decode(&bytes, 762).is_err());
        for len in 0..bytes.len() {
            assert!(PrunedSegment::decode(&bytes[..len], 763).is_err(), "{len}");
        }
        let low = PrunedSegment { blocks: vec![block(64, 39, 10)], ..segment.clone() };
        assert!(PrunedSegment::decode(&low.encode(), 763).is_err());
        let twice = [&bytes[..216], &[2, 40, 64, 1, 0, 1][..]].concat();
        assert!(PrunedSegment::decode(&twice, 763).is_err(), "two blocks at one offset");
        let none = PrunedSegment { blocks: vec![], ..segment };
        assert_eq!(PrunedSegment::decode(&none.encode(), 40), Ok(none));
    }
}
