//! The frame of the file `remains`: header, pieces, parts, footer. What it says as a whole is in [`remains_directory`](super::remains_directory).

use uuid::Uuid;

use super::fields::{Reader, put_varint};
use super::segment::{PIECE_HEADER_LEN, PIECE_LEN_MAX, SEGMENT_FOOTER_LEN, SEGMENT_HEADER_LEN};
use super::{Damage, FORMAT_VERSION, check_envelope, checksum};
use crate::units::Timestamp;

const MAGIC: [u8; 8] = *b"BKPFSRMN";
const FOOTER_MAGIC: [u8; 8] = *b"BKPFSRME";

/// Bytes of an encoded header; the first piece follows.
pub const REMAINS_HEADER_LEN: usize = 40;

/// Bytes of an encoded footer; it ends the file.
pub const REMAINS_FOOTER_LEN: usize = 32;

/// Bytes in front of those of a part, and of the directory: their checksum.
pub const BLOCK_HEADER_LEN: usize = 4;

/// Most bytes of a part or of the directory. A reader allocates no more for one, whatever the file says.
pub const BLOCK_LEN_MAX: u32 = 256 << 20;

/// What the file says of itself before anything else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemainsHeader {
    /// The backup that it belongs to.
    pub uuid: Uuid,
    /// When it was written.
    pub created: Timestamp,
}

impl RemainsHeader {
    /// The first bytes of the file.
    pub fn encode(&self) -> [u8; REMAINS_HEADER_LEN] {
        let mut out = Vec::with_capacity(REMAINS_HEADER_LEN);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(self.uuid.as_bytes());
        out.extend_from_slice(&self.created.as_micros().to_le_bytes());
        out.extend_from_slice(&checksum(&[&out]).to_le_bytes());
        out.try_into().expect("BUG: the fields of this header are REMAINS_HEADER_LEN bytes")
    }

    /// Reads the first bytes of a file.
    ///
    /// # Errors
    /// When they are no such header, damaged, or of a newer format.
    pub fn decode(bytes: &[u8; REMAINS_HEADER_LEN]) -> Result<Self, Damage> {
        check_envelope(bytes, MAGIC, "file of what remains of dropped segments")?;
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

/// The last bytes of the file: where the directory is. No two files have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RemainsFooter {
    /// Checksum of the header, which the header ends with.
    pub header_checksum: u32,
    /// Checksum of the directory, as in front of it.
    pub directory_checksum: u32,
    /// Byte at which the checksum in front of the directory is; the directory ends where the footer begins.
    pub directory_offset: u64,
}

impl RemainsFooter {
    /// The last bytes of the file. Their own last four are the checksum.
    pub fn encode(&self) -> [u8; REMAINS_FOOTER_LEN] {
        let mut out = Vec::with_capacity(REMAINS_FOOTER_LEN);
        out.extend_from_slice(&FOOTER_MAGIC);
        out.extend_from_slice(&self.header_checksum.to_le_bytes());
        out.extend_from_slice(&self.directory_checksum.to_le_bytes());
        out.extend_from_slice(&self.directory_offset.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&checksum(&[&out]).to_le_bytes());
        out.try_into().expect("BUG: the fields of this footer are REMAINS_FOOTER_LEN bytes")
    }

    /// Reads the last bytes of a file.
    ///
    /// # Errors
    /// When they are no such footer, or damaged.
    pub fn decode(bytes: &[u8; REMAINS_FOOTER_LEN]) -> Result<Self, Damage> {
        let mut fields = Reader::new(bytes);
        if fields.array::<8>()? != FOOTER_MAGIC {
            return Err(Damage::Magic { expected: "whole file of what remains: its end is missing" });
        }
        let (covered, sum) = bytes.split_at(REMAINS_FOOTER_LEN - 4);
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

/// Checksum of a part or of the directory: a block in another file or another place is noticed.
pub fn block_checksum(uuid: Uuid, offset: u64, bytes: &[u8]) -> u32 {
    checksum(&[uuid.as_bytes(), &offset.to_le_bytes(), bytes])
}

/// A piece of a dropped segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RemainingPiece {
    /// Byte of the segment at which it began.
    pub offset: u64,
    /// Byte of this file at which it begins: at its checksum.
    pub place: u64,
    /// Its bytes, without the checksum. Of images those that are older than the newest are left out, so they may be fewer
    /// than they were.
    pub len: u32,
}

/// What remains of a segment: its frame, and pieces of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentPart {
    /// Its header, as it was.
    pub header: [u8; SEGMENT_HEADER_LEN],
    /// Its footer, as it was.
    pub footer: [u8; SEGMENT_FOOTER_LEN],
    /// The pieces, ascending; in the file each lies right behind the one before.
    pub pieces: Vec<RemainingPiece>,
}

impl SegmentPart {
    /// The bytes of the part.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(SEGMENT_HEADER_LEN + SEGMENT_FOOTER_LEN + 16 + self.pieces.len() * 5);
        out.extend_from_slice(&self.header);
        out.extend_from_slice(&self.footer);
        put_varint(self.pieces.len() as u64, &mut out);
        put_varint(self.pieces.first().map_or(0, |piece| piece.place), &mut out);
        let mut before = 0;
        for piece in &self.pieces {
            put_varint(piece.offset - before, &mut out);
            put_varint(piece.len.into(), &mut out);
            before = piece.offset;
        }
        out
    }

    /// Reads the bytes of a part of a file in which pieces lie before byte `end`.
    ///
    /// # Errors
    /// When they are none, or name pieces that cannot be there.
    pub fn decode(bytes: &[u8], end: u64) -> Result<Self, Damage> {
        let mut fields = Reader::new(bytes);
        let (header, footer) = (fields.array()?, fields.array()?);
        let count = fields.varint()?;
        let mut place = fields.varint()?;
        if count > fields.rest().len() as u64 / 2 {
            return Err(Damage::Field { field: "pieces", value: count });
        }
        let mut pieces: Vec<RemainingPiece> = Vec::new();
        let mut offset = 0_u64;
        for _ in 0..count {
            let step = fields.varint()?;
            let next = offset.checked_add(step).filter(|_| step > 0);
            offset = next.ok_or(Damage::Field { field: "piece offset", value: step })?;
            let len = fields.varint_u32("piece length")?;
            let behind = place.checked_add(u64::from(len) + PIECE_HEADER_LEN as u64).filter(|&behind| behind <= end);
            if place < REMAINS_HEADER_LEN as u64 || len > PIECE_LEN_MAX {
                return Err(Damage::Field { field: "place", value: place });
            }
            pieces.push(RemainingPiece { offset, place, len });
            place = behind.ok_or(Damage::Field { field: "place", value: place })?;
        }
        if !fields.rest().is_empty() {
            return Err(Damage::Contradiction("a part has a rest"));
        }
        Ok(Self { header, footer, pieces })
    }

    /// The piece that began at this byte of the segment.
    pub fn piece_at(&self, offset: u64) -> Option<RemainingPiece> {
        let position = self.pieces.binary_search_by_key(&offset, |piece| piece.offset).ok()?;
        self.pieces.get(position).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_and_footer_decode_to_what_was_encoded_and_every_flipped_bit_is_noticed() {
        let header = RemainsHeader { uuid: Uuid::from_u128(7), created: Timestamp::from_micros(8).unwrap() };
        let footer = RemainsFooter { header_checksum: 1, directory_checksum: 2, directory_offset: 3 };
        let (mut head, mut foot) = (header.encode(), footer.encode());
        assert_eq!((RemainsHeader::decode(&head), RemainsFooter::decode(&foot)), (Ok(header), Ok(footer)));
        for bit in 0..head.len() * 8 {
            head[bit / 8] ^= 1 << (bit % 8);
            assert!(RemainsHeader::decode(&head).is_err(), "bit {bit}");
            head[bit / 8] ^= 1 << (bit % 8);
        }
        for bit in 0..foot.len() * 8 {
            foot[bit / 8] ^= 1 << (bit % 8);
            assert!(RemainsFooter::decode(&foot).is_err(), "bit {bit}");
            foot[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn a_part_finds_its_pieces_and_names_none_outside_of_the_file() {
        let piece = |offset, place, len| RemainingPiece { offset, place, len };
        let pieces = vec![piece(64, 40, 10), piece(300, 54, 700), piece(301, 758, 1)];
        let part = SegmentPart { header: [1; 64], footer: [2; 152], pieces };
        let bytes = part.encode();
        assert_eq!(SegmentPart::decode(&bytes, 763).as_ref(), Ok(&part));
        assert_eq!((part.piece_at(300), part.piece_at(299)), (Some(piece(300, 54, 700)), None));
        assert!(SegmentPart::decode(&bytes, 762).is_err());
        for len in 0..bytes.len() {
            assert!(SegmentPart::decode(&bytes[..len], 763).is_err(), "{len}");
        }
        let low = SegmentPart { pieces: vec![piece(64, 39, 10)], ..part.clone() };
        assert!(SegmentPart::decode(&low.encode(), 763).is_err());
        let twice = [&bytes[..216], &[2, 40, 64, 1, 0, 1][..]].concat();
        assert!(SegmentPart::decode(&twice, 763).is_err(), "two pieces at one place");
        let none = SegmentPart { pieces: vec![], ..part };
        assert_eq!(SegmentPart::decode(&none.encode(), 40), Ok(none));
    }
}
