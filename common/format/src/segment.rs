//! The frame of a sealed segment: header, pieces, footer.

use uuid::Uuid;

use super::fields::Reader;
use super::page_map::HEIGHT_MAX;
use super::record_index::ForeignKeys;
use super::{Damage, FORMAT_VERSION, check_envelope, checksum};
use crate::units::{PageSize, Seq, Timestamp};

const MAGIC: [u8; 8] = *b"BKPFSSEG";
const FOOTER_MAGIC: [u8; 8] = *b"BKPFSSGE";

/// Bytes of an encoded header; the first piece follows.
pub const SEGMENT_HEADER_LEN: usize = 64;

/// Bytes of an encoded footer; it ends the file.
pub const SEGMENT_FOOTER_LEN: usize = 152;

/// Bytes in front of those of a piece: their checksum.
pub const PIECE_HEADER_LEN: usize = 4;

/// Most bytes of a piece. A reader allocates no more for one, whatever the file says.
pub const PIECE_LEN_MAX: u32 = 1344 << 20;

/// What a segment says of itself before anything else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The backup that it belongs to.
    pub uuid: Uuid,
    /// Seq of its first record.
    pub first_seq: Seq,
    /// Checksum of the record before that one.
    pub previous_checksum: u32,
    /// Page size of the database.
    pub page_size: PageSize,
}

impl SegmentHeader {
    /// The first bytes of the file.
    pub fn encode(&self) -> [u8; SEGMENT_HEADER_LEN] {
        let mut out = Vec::with_capacity(SEGMENT_HEADER_LEN);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&self.page_size.get().to_le_bytes());
        out.extend_from_slice(self.uuid.as_bytes());
        out.extend_from_slice(&self.first_seq.get().to_le_bytes());
        out.extend_from_slice(&self.previous_checksum.to_le_bytes());
        out.extend_from_slice(&[0; 16]);
        out.extend_from_slice(&checksum(&[&out]).to_le_bytes());
        out.try_into().expect("BUG: the fields of a segment's header are SEGMENT_HEADER_LEN bytes")
    }

    /// Reads the first bytes of a file.
    ///
    /// # Errors
    /// When they are not the header of a segment, damaged, or of a newer format.
    pub fn decode(bytes: &[u8; SEGMENT_HEADER_LEN]) -> Result<Self, Damage> {
        check_envelope(bytes, MAGIC, "segment of a backup")?;
        let mut fields = Reader::new(bytes);
        fields.bytes(MAGIC.len() + 2)?;
        fields.zeros(2, "flags")?;
        let page_size = decode_page_size(&mut fields)?;
        let uuid = Uuid::from_bytes(fields.array()?);
        let first_seq = Seq::new(fields.u64()?).ok_or(Damage::Field { field: "first_seq", value: 0 })?;
        let previous_checksum = fields.u32()?;
        fields.zeros(16, "reserved")?;
        Ok(Self { uuid, first_seq, previous_checksum, page_size })
    }

    /// Checksum of a piece of this segment: of the UUID, the first seq, the piece's offset, and its bytes. A piece in
    /// another place or from another segment is noticed.
    pub fn piece_checksum(&self, offset: u64, bytes: &[u8]) -> u32 {
        checksum(&[self.uuid.as_bytes(), &self.first_seq.get().to_le_bytes(), &offset.to_le_bytes(), bytes])
    }
}

fn decode_page_size(fields: &mut Reader<'_>) -> Result<PageSize, Damage> {
    let page_size = fields.u32()?;
    PageSize::new(page_size).ok_or(Damage::Field { field: "page_size", value: page_size.into() })
}

/// Where in a segment a piece is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Byte of the file at which its header begins.
    pub offset: u64,
    /// Its bytes, without the header.
    pub len: u32,
}

impl Piece {
    /// The byte behind it; `None` when no file is that long.
    pub fn end(self) -> Option<u64> {
        self.offset.checked_add(u64::from(self.len) + PIECE_HEADER_LEN as u64)
    }
}

/// Where a piece is, in whichever segment of the backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location {
    /// First seq of the segment.
    pub segment: Seq,
    /// Where in it.
    pub piece: Piece,
}

/// The root of the page map of a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapRoot {
    /// Where its node is.
    pub location: Location,
    /// Nodes between it and the pages: 0 when its own entries are pages.
    pub height: u8,
}

/// A full snapshot, as everything that builds on it names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotId {
    /// Seq of its record.
    pub seq: Seq,
    /// Checksum of its footer.
    pub footer_checksum: u32,
}

/// What becomes of the newest version of a segment. The next record that is not void tells: changes that are rewound, and
/// their rewinds, are passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FollowedBy {
    /// A change: `lightningd` went on from that version.
    Change,
    /// A snapshot of the same version, which takes its place.
    SameVersion,
    /// A snapshot of a newer version, or a gap: whether `lightningd` went on from that version is not known.
    Snapshot,
}

/// The last bytes of a segment: what it holds as a whole, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentFooter {
    /// Checksum of the header, which the header ends with.
    pub header_checksum: u32,
    /// Seq of its last record.
    pub last_seq: Seq,
    /// Checksum of that record, as it was in the log.
    pub last_checksum: u32,
    /// What the next record is.
    pub followed_by: FollowedBy,
    /// Whether foreign keys are enforced after the last record.
    pub foreign_keys: ForeignKeys,
    /// The segment at whose end the database was as it is before the first record; `None` when it begins with a full
    /// snapshot, on one, or from nothing.
    pub base: Option<Seq>,
    /// The full snapshot that has the pages which the page map does not; `None` when the backup began from nothing.
    pub snapshot: Option<SnapshotId>,
    /// Seq of the newest snapshot in it or before it, full or delta; `None` when there is none. Segments of which this is
    /// the same are on one line of history: each goes on from what the one before it ends with.
    pub newest_snapshot: Option<Seq>,
    /// Pages of the database after the last record.
    pub page_count: u32,
    /// Page map of the database after the last record; `None` while it is empty.
    pub map: Option<MapRoot>,
    /// Where its record index is.
    pub index: Piece,
    /// Where its template table is.
    pub templates: Piece,
    /// Versions in all segments before it.
    pub versions_before: u64,
    /// Versions in it.
    pub versions: u32,
    /// Place of the newest version before it; 0 when there is none.
    pub place_before: u64,
    /// Place of the newest version in it or before it.
    pub place: u64,
    /// Earliest and latest time of its versions; both of its first record if it has no version.
    pub times: (Timestamp, Timestamp),
}

impl SegmentFooter {
    /// The last bytes of the file. Their own last four are the checksum.
    pub fn encode(&self) -> [u8; SEGMENT_FOOTER_LEN] {
        let mut out = Vec::with_capacity(SEGMENT_FOOTER_LEN);
        out.extend_from_slice(&FOOTER_MAGIC);
        out.extend_from_slice(&self.header_checksum.to_le_bytes());
        out.extend_from_slice(&self.last_checksum.to_le_bytes());
        out.extend_from_slice(&self.last_seq.get().to_le_bytes());
        out.extend_from_slice(&self.base.map_or(0, Seq::get).to_le_bytes());
        out.extend_from_slice(&self.snapshot.map_or(0, |snapshot| snapshot.seq.get()).to_le_bytes());
        out.extend_from_slice(&self.snapshot.map_or(0, |snapshot| snapshot.footer_checksum).to_le_bytes());
        out.extend_from_slice(&self.page_count.to_le_bytes());
        out.extend_from_slice(&self.newest_snapshot.map_or(0, Seq::get).to_le_bytes());
        out.extend_from_slice(&self.map.map_or(0, |map| map.location.segment.get()).to_le_bytes());
        let root = self.map.map_or(Piece { offset: 0, len: 0 }, |map| map.location.piece);
        for piece in [root, self.index, self.templates] {
            out.extend_from_slice(&piece.offset.to_le_bytes());
            out.extend_from_slice(&piece.len.to_le_bytes());
        }
        let followed_by = match self.followed_by {
            FollowedBy::Change => 1,
            FollowedBy::SameVersion => 2,
            FollowedBy::Snapshot => 3,
        };
        let foreign_keys = self.foreign_keys.encode();
        out.extend_from_slice(&[self.map.map_or(0, |map| map.height), followed_by, foreign_keys, 0]);
        out.extend_from_slice(&self.versions.to_le_bytes());
        out.extend_from_slice(&self.versions_before.to_le_bytes());
        out.extend_from_slice(&self.place_before.to_le_bytes());
        out.extend_from_slice(&self.place.to_le_bytes());
        out.extend_from_slice(&self.times.0.as_micros().to_le_bytes());
        out.extend_from_slice(&self.times.1.as_micros().to_le_bytes());
        out.extend_from_slice(&checksum(&[&out]).to_le_bytes());
        out.try_into().expect("BUG: the fields of a segment's footer are SEGMENT_FOOTER_LEN bytes")
    }

    /// Reads the last bytes of a file.
    ///
    /// # Errors
    /// When they are not the footer of a segment, or damaged.
    pub fn decode(bytes: &[u8; SEGMENT_FOOTER_LEN]) -> Result<Self, Damage> {
        let mut fields = Reader::new(bytes);
        if fields.array::<8>()? != FOOTER_MAGIC {
            return Err(Damage::Magic { expected: "whole segment: its end is missing" });
        }
        let (covered, sum) = bytes.split_at(SEGMENT_FOOTER_LEN - 4);
        let (found, computed) = (Reader::new(sum).u32()?, checksum(&[covered]));
        if found != computed {
            return Err(Damage::Checksum { found, computed });
        }
        let header_checksum = fields.u32()?;
        let last_checksum = fields.u32()?;
        let last_seq = Seq::new(fields.u64()?).ok_or(Damage::Field { field: "last_seq", value: 0 })?;
        let base = Seq::new(fields.u64()?);
        let snapshot_seq = Seq::new(fields.u64()?);
        let footer_checksum = fields.u32()?;
        let snapshot = snapshot_seq.map(|seq| SnapshotId { seq, footer_checksum });
        let page_count = fields.u32()?;
        let newest_snapshot = Seq::new(fields.u64()?);
        let map_segment = Seq::new(fields.u64()?);
        let mut piece = || Ok::<_, Damage>(Piece { offset: fields.u64()?, len: fields.u32()? });
        let (root, index, templates) = (piece()?, piece()?, piece()?);
        let height = fields.u8()?;
        if height > HEIGHT_MAX {
            return Err(Damage::Field { field: "map height", value: height.into() });
        }
        let map = map_segment.map(|segment| MapRoot { location: Location { segment, piece: root }, height });
        let followed_by = match fields.u8()? {
            1 => FollowedBy::Change,
            2 => FollowedBy::SameVersion,
            3 => FollowedBy::Snapshot,
            other => return Err(Damage::Field { field: "followed_by", value: other.into() }),
        };
        let foreign_keys = ForeignKeys::decode(fields.u8()?)?;
        fields.zeros(1, "reserved")?;
        let versions = fields.u32()?;
        let versions_before = fields.u64()?;
        let place_before = fields.u64()?;
        let place = fields.u64()?;
        let mut time = || {
            let micros = fields.i64()?;
            Timestamp::from_micros(micros).ok_or(Damage::Field { field: "times", value: micros.cast_unsigned() })
        };
        let times = (time()?, time()?);
        Ok(Self {
            header_checksum,
            last_seq,
            last_checksum,
            followed_by,
            foreign_keys,
            base,
            snapshot,
            newest_snapshot,
            page_count,
            map,
            index,
            templates,
            versions_before,
            versions,
            place_before,
            place,
            times,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seq(number: u64) -> Seq {
        Seq::new(number).unwrap()
    }

    #[test]
    fn header_and_footer_decode_to_what_was_encoded_and_every_flipped_bit_is_noticed() {
        let header = SegmentHeader {
            uuid: Uuid::from_u128(7),
            first_seq: seq(1025),
            previous_checksum: 0xdead_beef,
            page_size: PageSize::DEFAULT,
        };
        let bytes = header.encode();
        assert_eq!(SegmentHeader::decode(&bytes), Ok(header));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentHeader::decode(&flipped).is_err(), "bit {bit}");
        }
        let time = |micros| Timestamp::from_micros(micros).unwrap();
        let full = SegmentFooter {
            header_checksum: 1,
            last_seq: seq(2),
            last_checksum: 3,
            followed_by: FollowedBy::Snapshot,
            foreign_keys: ForeignKeys::Off,
            base: Some(seq(4)),
            snapshot: Some(SnapshotId { seq: seq(5), footer_checksum: 6 }),
            newest_snapshot: Some(seq(4)),
            page_count: 7,
            map: Some(MapRoot {
                location: Location { segment: seq(8), piece: Piece { offset: 9, len: 10 } },
                height: 3,
            }),
            index: Piece { offset: 11, len: 12 },
            templates: Piece { offset: 13, len: 14 },
            versions_before: 15,
            versions: 16,
            place_before: 17,
            place: 18,
            times: (time(19), time(20)),
        };
        let empty = SegmentFooter {
            base: None,
            snapshot: None,
            newest_snapshot: None,
            map: None,
            followed_by: FollowedBy::Change,
            ..full
        };
        for footer in [full, empty] {
            let bytes = footer.encode();
            assert_eq!(SegmentFooter::decode(&bytes), Ok(footer));
            for bit in 0..bytes.len() * 8 {
                let mut flipped = bytes;
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert!(SegmentFooter::decode(&flipped).is_err(), "bit {bit}");
            }
        }
    }
}
