//! The frame of a sealed segment: header, blocks, footer.

use uuid::Uuid;

use super::Damage;
use super::FORMAT_VERSION;
use super::check_envelope;
use super::checksum;
use super::fields::Reader;
use super::page_map::HEIGHT_MAX;
use super::record_index::ForeignKeys;
use crate::units::{PageSize, Seq, Timestamp};

const MAGIC: [u8; 8] = *b"BKPFSSEG";
const FOOTER_MAGIC: [u8; 8] = *b"BKPFSSGE";

/// Length of an encoded header in bytes; the first block follows.
pub const SEGMENT_HEADER_LEN: usize = 64;

/// Length of an encoded footer in bytes; it ends the file.
pub const SEGMENT_FOOTER_LEN: usize = 164;

/// Length of the checksum in front of a block.
pub const BLOCK_HEADER_LEN: usize = 4;

/// Maximum length of a block in bytes: a reader allocates no more for one.
pub const BLOCK_LEN_MAX: u32 = 1344 << 20;

/// Header of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The backup that the segment belongs to.
    pub uuid: Uuid,
    /// Seq of the segment's first record.
    pub first_seq: Seq,
    /// Checksum of the record before the first one.
    pub previous_checksum: u32,
    /// Page size of the database.
    pub page_size: PageSize,
}

impl SegmentHeader {
    /// Encodes the header.
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

    /// Decodes the first bytes of a file.
    ///
    /// # Errors
    /// When the bytes are not the header of a segment, are damaged, or of a newer format.
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

    /// Checksum of a block of this segment. It covers UUID, first seq, offset and bytes, so a misplaced block is detected.
    pub fn block_checksum(&self, offset: u64, bytes: &[u8]) -> u32 {
        checksum(&[self.uuid.as_bytes(), &self.first_seq.get().to_le_bytes(), &offset.to_le_bytes(), bytes])
    }
}

fn decode_page_size(fields: &mut Reader<'_>) -> Result<PageSize, Damage> {
    let page_size = fields.u32()?;
    PageSize::new(page_size).ok_or(Damage::Field { field: "page_size", value: page_size.into() })
}

/// Position of a block in a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockHandle {
    /// Offset of the block's header in the file.
    pub offset: u64,
    /// Length in bytes, without the header.
    pub len: u32,
}

impl BlockHandle {
    /// Offset behind the block; `None` when that exceeds 64 bits.
    pub fn end(self) -> Option<u64> {
        self.offset.checked_add(u64::from(self.len) + BLOCK_HEADER_LEN as u64)
    }
}

/// Location of a block in a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location {
    /// First seq of the segment.
    pub segment: Seq,
    /// Position in the segment.
    pub block: BlockHandle,
}

/// The root of the page map of a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapRoot {
    /// Location of the root node.
    pub location: Location,
    /// Height of the root: 0 when its entries are pages.
    pub height: u8,
}

/// Identity of a full snapshot, as its dependents refer to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotId {
    /// Seq of the snapshot's record.
    pub seq: Seq,
    /// Checksum of the snapshot's footer.
    pub footer_checksum: u32,
}

/// The kind of the next record behind the newest version of a segment that is not void. Rewound changes and their rewinds
/// are skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FollowedBy {
    /// A change: `lightningd` continued from that version.
    Change,
    /// A snapshot of the same version, which replaces it.
    SameVersion,
    /// A snapshot of a newer version, or a gap: whether `lightningd` continued from that version is unknown.
    Snapshot,
}

/// Footer of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentFooter {
    /// Checksum of the header, which is the header's last field.
    pub header_checksum: u32,
    /// Seq of the segment's last record.
    pub last_seq: Seq,
    /// Checksum of the last record, as it was in the log.
    pub last_checksum: u32,
    /// Kind of the next record.
    pub followed_by: FollowedBy,
    /// Whether foreign keys are enforced after the last record.
    pub foreign_keys: ForeignKeys,
    /// The segment at whose end the database was in the state before the first record of this one; `None` when this one begins
    /// with a full snapshot, directly behind one, or from nothing.
    pub base: Option<Seq>,
    /// The full snapshot with the pages that are not in the page map; `None` when the backup began from nothing.
    pub snapshot: Option<SnapshotId>,
    /// Seq of the newest snapshot in the segment or before it, full or delta; `None` when there is none. Segments with the same
    /// value form one line of history: each continues from the end of the one before.
    pub newest_snapshot: Option<Seq>,
    /// Number of pages of the database after the last record.
    pub page_count: u32,
    /// Page map of the database after the last record; `None` while the map is empty.
    pub map: Option<MapRoot>,
    /// Position of the record index.
    pub index: BlockHandle,
    /// Position of the template table.
    pub templates: BlockHandle,
    /// Position of the read sets. They are the last block before the record index, and that is the last before the footer.
    pub read_sets: BlockHandle,
    /// Number of versions in all earlier segments.
    pub versions_before: u64,
    /// Number of versions in the segment.
    pub versions: u32,
    /// Ordinal of the newest version before the segment; 0 when there is none.
    pub ordinal_before: u64,
    /// Ordinal of the newest version in the segment or before it.
    pub ordinal: u64,
    /// Earliest and latest time of the versions; without any, twice the time of the first record.
    pub times: (Timestamp, Timestamp),
}

impl SegmentFooter {
    /// Encodes the footer. Its last four bytes are its checksum.
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
        let root = self.map.map_or(BlockHandle { offset: 0, len: 0 }, |map| map.location.block);
        for block in [root, self.index, self.templates, self.read_sets] {
            out.extend_from_slice(&block.offset.to_le_bytes());
            out.extend_from_slice(&block.len.to_le_bytes());
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
        out.extend_from_slice(&self.ordinal_before.to_le_bytes());
        out.extend_from_slice(&self.ordinal.to_le_bytes());
        out.extend_from_slice(&self.times.0.as_micros().to_le_bytes());
        out.extend_from_slice(&self.times.1.as_micros().to_le_bytes());
        out.extend_from_slice(&checksum(&[&out]).to_le_bytes());
        out.try_into().expect("BUG: the fields of a segment's footer are SEGMENT_FOOTER_LEN bytes")
    }

    /// Decodes the last bytes of a file.
    ///
    /// # Errors
    /// When the bytes are not the footer of a segment, or are damaged.
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
        let mut block = || Ok::<_, Damage>(BlockHandle { offset: fields.u64()?, len: fields.u32()? });
        let (root, index, templates, read_sets) = (block()?, block()?, block()?, block()?);
        let height = fields.u8()?;
        if height > HEIGHT_MAX {
            return Err(Damage::Field { field: "map height", value: height.into() });
        }
        let map = map_segment.map(|segment| MapRoot { location: Location { segment, block: root }, height });
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
        let ordinal_before = fields.u64()?;
        let ordinal = fields.u64()?;
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
            read_sets,
            versions_before,
            versions,
            ordinal_before,
            ordinal,
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
                location: Location { segment: seq(8), block: BlockHandle { offset: 9, len: 10 } },
                height: 3,
            }),
            index: BlockHandle { offset: 11, len: 12 },
            templates: BlockHandle { offset: 13, len: 14 },
            read_sets: BlockHandle { offset: 30, len: 31 },
            versions_before: 15,
            versions: 16,
            ordinal_before: 17,
            ordinal: 18,
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
