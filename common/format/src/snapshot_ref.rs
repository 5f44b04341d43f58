//! [`SnapshotRef`]: the payload of a snapshot's record, which refers to the file of the snapshot.

use super::Damage;
use super::fields::Reader;
use super::segment::SnapshotId;
use crate::units::{PageSize, Seq};

/// Bytes of an encoded [`SnapshotRef`].
pub(crate) const SNAPSHOT_PAYLOAD_LEN: usize = 4 + 4 + BASE_LEN + 4 + 3 + 8;

/// The reason for a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotReason {
    /// `init` took it.
    Init,
    /// `lightningd` had committed versions that were not recorded.
    Gap,
    /// The database had other rows than the newest recorded version: another program changed it, or `lightningd` committed
    /// another transaction under that number.
    Changed,
    /// A change recorded before the snapshot does not replay.
    Unreplayable,
}

impl SnapshotReason {
    const fn encode(self) -> u8 {
        match self {
            Self::Init => 1,
            Self::Gap => 2,
            Self::Changed => 3,
            Self::Unreplayable => 4,
        }
    }

    fn decode(byte: u8) -> Result<Self, Damage> {
        [Self::Init, Self::Gap, Self::Changed, Self::Unreplayable]
            .into_iter()
            .find(|reason| reason.encode() == byte)
            .ok_or(Damage::Field { field: "reason", value: byte.into() })
    }
}

/// The base of a delta snapshot: stored pages, never the result of a replay, because another SQLite may lay out pages in another
/// way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeltaBase {
    /// A full snapshot.
    Snapshot(SnapshotId),
    /// The end of the segment that begins with this seq.
    Segment(Seq),
}

/// Length of an encoded base in bytes.
pub const BASE_LEN: usize = 13;

impl DeltaBase {
    /// Appends the encoding of a base, or of none.
    pub fn encode(base: Option<Self>, out: &mut Vec<u8>) {
        let (kind, seq, footer_checksum) = match base {
            None => (0, 0, 0),
            Some(Self::Snapshot(id)) => (1, id.seq.get(), id.footer_checksum),
            Some(Self::Segment(first)) => (2, first.get(), 0),
        };
        out.push(kind);
        out.extend_from_slice(&seq.to_le_bytes());
        out.extend_from_slice(&footer_checksum.to_le_bytes());
    }

    /// Reads a base.
    ///
    /// # Errors
    /// When the bytes are not a base.
    pub fn decode(fields: &mut Reader<'_>) -> Result<Option<Self>, Damage> {
        let (kind, seq, footer_checksum) = (fields.u8()?, fields.u64()?, fields.u32()?);
        match (kind, Seq::new(seq)) {
            (0, None) if footer_checksum == 0 => Ok(None),
            (1, Some(seq)) => Ok(Some(Self::Snapshot(SnapshotId { seq, footer_checksum }))),
            (2, Some(first)) if footer_checksum == 0 => Ok(Some(Self::Segment(first))),
            _ => Err(Damage::Field { field: "base", value: seq }),
        }
    }

    /// Seq of the snapshot, or first seq of the segment.
    pub fn seq(self) -> Seq {
        match self {
            Self::Snapshot(id) => id.seq,
            Self::Segment(first) => first,
        }
    }
}

/// A log's reference to a snapshot, whose pages are in a file of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotRef {
    /// Reason for the snapshot.
    pub reason: SnapshotReason,
    /// Page size of the database.
    pub page_size: PageSize,
    /// Number of pages of the database, stored or not.
    pub page_count: u32,
    /// Base of a delta; `None` for a full snapshot.
    pub base: Option<DeltaBase>,
    /// Checksum of the file's footer, which covers the whole file.
    pub footer_checksum: u32,
    /// The first change that does not replay, or whose predecessor was not verified; the versions from that change up to this
    /// snapshot cannot be opened. `None` when no such change is known.
    pub unreadable_since: Option<Seq>,
}

impl SnapshotRef {
    /// Appends the payload of a snapshot record.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.page_size.get().to_le_bytes());
        out.extend_from_slice(&self.page_count.to_le_bytes());
        DeltaBase::encode(self.base, out);
        out.extend_from_slice(&self.footer_checksum.to_le_bytes());
        out.extend_from_slice(&[self.reason.encode(), 0, 0]);
        out.extend_from_slice(&self.unreadable_since.map_or(0, Seq::get).to_le_bytes());
    }

    /// Reads the payload of a snapshot record.
    pub fn decode(fields: &mut Reader<'_>) -> Result<Self, Damage> {
        let page_size = fields.u32()?;
        let page_size =
            PageSize::new(page_size).ok_or(Damage::Field { field: "page_size", value: page_size.into() })?;
        let page_count = fields.u32()?;
        let base = DeltaBase::decode(fields)?;
        let footer_checksum = fields.u32()?;
        let reason = SnapshotReason::decode(fields.u8()?)?;
        fields.zeros(2, "reserved")?;
        let unreadable_since = Seq::new(fields.u64()?);
        Ok(Self { reason, page_size, page_count, base, footer_checksum, unreadable_since })
    }
}
