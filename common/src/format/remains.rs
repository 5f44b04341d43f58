//! The frame of the file `remains`: header, pieces, parts, directory, footer.

use std::ops::RangeInclusive;

use uuid::Uuid;

use super::fields::{Reader, put_varint};
use super::segment::{PIECE_HEADER_LEN, PIECE_LEN_MAX, SEGMENT_FOOTER_LEN, SEGMENT_HEADER_LEN};
use super::{Damage, FORMAT_VERSION, check_envelope, checksum};
use crate::{Seq, Timestamp};

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

/// Bytes of a gap in the directory.
const GAP_LEN: usize = 60;

/// Bytes of what the directory says of a part.
const PART_ENTRY_LEN: usize = 20;

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

/// Segments that were dropped, one behind the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// Seq of the first record.
    pub first_seq: Seq,
    /// Checksum of the record before that.
    pub previous_checksum: u32,
    /// First seq of the last of the segments.
    pub last_segment: Seq,
    /// Seq of the last record.
    pub last_seq: Seq,
    /// Versions in all segments before them.
    pub versions_before: u64,
    /// Place of the newest version before them; 0 when there is none.
    pub place_before: u64,
    /// Versions in them.
    pub versions: u64,
    /// How many segments.
    pub segments: u32,
    /// Bytes of their files.
    pub bytes: u64,
}

impl Gap {
    /// Whether the segment that begins with this seq is one of them.
    pub fn has(&self, first_seq: Seq) -> bool {
        (self.first_seq..=self.last_segment).contains(&first_seq)
    }

    /// The seqs of their records.
    pub fn seqs(&self) -> RangeInclusive<Seq> {
        self.first_seq..=self.last_seq
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.first_seq.get().to_le_bytes());
        out.extend_from_slice(&self.previous_checksum.to_le_bytes());
        out.extend_from_slice(&self.last_segment.get().to_le_bytes());
        out.extend_from_slice(&self.last_seq.get().to_le_bytes());
        out.extend_from_slice(&self.versions_before.to_le_bytes());
        out.extend_from_slice(&self.place_before.to_le_bytes());
        out.extend_from_slice(&self.versions.to_le_bytes());
        out.extend_from_slice(&self.segments.to_le_bytes());
        out.extend_from_slice(&self.bytes.to_le_bytes());
    }

    fn decode(fields: &mut Reader<'_>) -> Result<Self, Damage> {
        let first_seq = decode_seq(fields, "first_seq")?;
        let previous_checksum = fields.u32()?;
        let gap = Self {
            first_seq,
            previous_checksum,
            last_segment: decode_seq(fields, "last_segment")?,
            last_seq: decode_seq(fields, "last_seq")?,
            versions_before: fields.u64()?,
            place_before: fields.u64()?,
            versions: fields.u64()?,
            segments: fields.u32()?,
            bytes: fields.u64()?,
        };
        if gap.first_seq > gap.last_segment || gap.last_segment > gap.last_seq || gap.last_seq.get() == u64::MAX {
            return Err(Damage::Field { field: "last_seq", value: gap.last_seq.get() });
        }
        Ok(gap)
    }
}

fn decode_seq(fields: &mut Reader<'_>, field: &'static str) -> Result<Seq, Damage> {
    Seq::new(fields.u64()?).ok_or(Damage::Field { field, value: 0 })
}

/// Where what remains of a segment is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartEntry {
    /// The first seq of the segment.
    pub segment: Seq,
    /// Byte of the file at which the part's checksum is.
    pub offset: u64,
    /// Bytes of the part, without its checksum.
    pub len: u32,
}

/// What is in the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RemainsDirectory {
    /// What was dropped, ascending.
    pub gaps: Vec<Gap>,
    /// What remains of the segments that something leads to, ascending.
    pub parts: Vec<PartEntry>,
}

impl RemainsDirectory {
    /// The bytes of the directory.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(8 + self.gaps.len() * GAP_LEN + self.parts.len() * PART_ENTRY_LEN);
        let count =
            |len: usize| u32::try_from(len).expect("BUG: every one of them takes bytes of a file").to_le_bytes();
        out.extend_from_slice(&count(self.gaps.len()));
        self.gaps.iter().for_each(|gap| gap.encode(&mut out));
        out.extend_from_slice(&count(self.parts.len()));
        for part in &self.parts {
            out.extend_from_slice(&part.segment.get().to_le_bytes());
            out.extend_from_slice(&part.offset.to_le_bytes());
            out.extend_from_slice(&part.len.to_le_bytes());
        }
        out
    }

    /// Reads the bytes of a directory.
    ///
    /// # Errors
    /// When they are none, or contradict themselves: gaps touch or overlap, a part is of no gap, or the last segment of a
    /// gap has none.
    pub fn decode(bytes: &[u8]) -> Result<Self, Damage> {
        let mut fields = Reader::new(bytes);
        let mut directory = Self::default();
        for _ in 0..count(&mut fields, GAP_LEN, "gaps")? {
            let gap = Gap::decode(&mut fields)?;
            // Two that touch are one.
            if directory.gaps.last().is_some_and(|before| gap.first_seq <= before.last_seq.next()) {
                return Err(Damage::Contradiction("its gaps are not in order"));
            }
            directory.gaps.push(gap);
        }
        for _ in 0..count(&mut fields, PART_ENTRY_LEN, "parts")? {
            let segment = decode_seq(&mut fields, "segment")?;
            let part = PartEntry { segment, offset: fields.u64()?, len: fields.u32()? };
            if directory.parts.last().is_some_and(|before| part.segment <= before.segment) {
                return Err(Damage::Contradiction("its parts are not in order"));
            }
            if directory.gap_of(segment).is_none() {
                return Err(Damage::Contradiction("it has a part of a segment that was not dropped"));
            }
            directory.parts.push(part);
        }
        if !fields.rest().is_empty() {
            return Err(Damage::Contradiction("its directory has a rest"));
        }
        if directory.gaps.iter().any(|gap| directory.part_of(gap.last_segment).is_none()) {
            return Err(Damage::Contradiction("the last segment of a gap has no part"));
        }
        Ok(directory)
    }

    /// The gap that a segment is in; `None` when it was not dropped.
    pub fn gap_of(&self, first_seq: Seq) -> Option<&Gap> {
        let position = self.gaps.partition_point(|gap| gap.first_seq <= first_seq).checked_sub(1)?;
        self.gaps.get(position).filter(|gap| gap.has(first_seq))
    }

    /// The gap that begins with a record.
    pub fn gap_at(&self, first_seq: Seq) -> Option<&Gap> {
        let position = self.gaps.binary_search_by_key(&first_seq, |gap| gap.first_seq).ok()?;
        self.gaps.get(position)
    }

    /// What remains of a segment.
    pub fn part_of(&self, first_seq: Seq) -> Option<PartEntry> {
        let position = self.parts.binary_search_by_key(&first_seq, |part| part.segment).ok()?;
        self.parts.get(position).copied()
    }
}

/// How many of something follow, each of which takes so many bytes.
fn count(fields: &mut Reader<'_>, each: usize, field: &'static str) -> Result<u32, Damage> {
    let count = fields.u32()?;
    if count as usize > fields.rest().len() / each {
        return Err(Damage::Field { field, value: count.into() });
    }
    Ok(count)
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

    fn seq(number: u64) -> Seq {
        Seq::new(number).unwrap()
    }

    fn gap(first: u64, last_segment: u64, last: u64) -> Gap {
        Gap {
            first_seq: seq(first),
            previous_checksum: 1,
            last_segment: seq(last_segment),
            last_seq: seq(last),
            versions_before: 2,
            place_before: 3,
            versions: 4,
            segments: 5,
            bytes: 6,
        }
    }

    fn part(segment: u64) -> PartEntry {
        PartEntry { segment: seq(segment), offset: 7, len: 8 }
    }

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
    fn a_directory_says_what_is_dropped() {
        let directory =
            RemainsDirectory { gaps: vec![gap(1, 20, 29), gap(50, 50, 59)], parts: vec![part(20), part(50)] };
        let bytes = directory.encode();
        assert_eq!(RemainsDirectory::decode(&bytes).as_ref(), Ok(&directory));
        let is_dropped = |first| directory.gap_of(seq(first)).is_some();
        assert_eq!([1, 20, 29, 30, 49, 50, 51].map(is_dropped), [true, true, false, false, false, true, false]);
        assert_eq!(directory.gap_at(seq(50)).unwrap().last_seq, seq(59));
        assert!(directory.gap_at(seq(20)).is_none() && directory.part_of(seq(1)).is_none());
        for len in 0..bytes.len() {
            assert!(RemainsDirectory::decode(&bytes[..len]).is_err(), "{len}");
        }
        assert!(RemainsDirectory::decode(&[&bytes[..], &[0]].concat()).is_err());
    }

    #[test]
    fn a_directory_that_contradicts_itself_is_refused() {
        let parts = vec![part(20), part(50)];
        for (gaps, parts) in [
            (vec![gap(50, 50, 59), gap(1, 20, 29)], parts.clone()),
            (vec![gap(1, 20, 49), gap(50, 50, 59)], parts.clone()),
            (vec![gap(1, 20, 29)], parts.clone()),
            (vec![gap(1, 20, 29)], vec![]),
            (vec![gap(1, 20, 29)], vec![part(20), part(20)]),
            (vec![gap(21, 20, 29)], vec![part(20)]),
            (vec![gap(1, 20, 19)], vec![part(20)]),
        ] {
            let bytes = RemainsDirectory { gaps, parts }.encode();
            assert!(RemainsDirectory::decode(&bytes).is_err(), "{bytes:?}");
        }
        assert!(RemainsDirectory::decode(&[0xff; 64]).is_err());
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
