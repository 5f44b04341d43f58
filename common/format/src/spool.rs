//! The header of a spool: where its log continues from, and what a recorder must know while the backup is out of reach.

use super::Damage;
use super::FORMAT_VERSION;
use super::check_envelope;
use super::checksum;
use super::fields::Reader;
use super::manifest::{MANIFEST_LEN, Manifest};
use crate::units::{DataVersion, Seq, Timestamp};
use crate::version_rules::Commit;

const MAGIC: [u8; 8] = *b"BKPFSSPL";

/// Maximum number of records that one write takes: a rewind, a snapshot and a change.
pub const ATTEMPTED_MAX: usize = 3;

/// Length of an encoded header in bytes.
pub const SPOOL_HEADER_LEN: usize = 12 + 8 + 4 + ATTEMPTED_MAX * 12 + 4 + 8 + 8 + 4 + 8 + MANIFEST_LEN + 4;

const HAS_NEWEST: u16 = 1;

/// The end of a log: seq of the next record, checksum of the last one.
pub type End = (Seq, u32);

/// The newest version when the spool was created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpoolNewest {
    /// Number of the version.
    pub data_version: DataVersion,
    /// Seq of its newest record.
    pub seq: Seq,
    /// Time at which that record was received.
    pub recorded_at: Timestamp,
    /// Whether the version is known to be committed.
    pub commit: Commit,
}

/// Header of a spool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpoolHeader {
    /// The end of the backup when its last record was acknowledged: the spool continues from there.
    pub from: End,
    /// Other possible ends of the backup: behind records that were being written when it failed, and were never acknowledged. At
    /// most [`ATTEMPTED_MAX`].
    pub attempted: Vec<End>,
    /// The newest version when the spool was created.
    pub newest: Option<SpoolNewest>,
    /// Time at which the spool was created.
    pub begun: Timestamp,
    /// The manifest of the backup.
    pub manifest: Manifest,
}

impl SpoolHeader {
    /// Encodes the file.
    pub fn encode(&self) -> [u8; SPOOL_HEADER_LEN] {
        let mut out = Vec::with_capacity(SPOOL_HEADER_LEN);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        out.extend_from_slice(&if self.newest.is_some() { HAS_NEWEST } else { 0 }.to_le_bytes());
        out.extend_from_slice(&self.from.0.get().to_le_bytes());
        out.extend_from_slice(&self.from.1.to_le_bytes());
        for position in 0..ATTEMPTED_MAX {
            let (seq, sum) = self.attempted.get(position).map_or((0, 0), |&(seq, sum)| (seq.get(), sum));
            out.extend_from_slice(&seq.to_le_bytes());
            out.extend_from_slice(&sum.to_le_bytes());
        }
        let newest = self.newest.as_ref();
        out.extend_from_slice(&newest.map_or(0, |newest| newest.data_version.get()).to_le_bytes());
        out.extend_from_slice(&newest.map_or(0, |newest| newest.seq.get()).to_le_bytes());
        out.extend_from_slice(&newest.map_or(0, |newest| newest.recorded_at.as_micros()).to_le_bytes());
        out.push(match newest.map(|newest| newest.commit) {
            None | Some(Commit::Unknown) => 0,
            Some(Commit::Seen) => 1,
            Some(Commit::Certain) => 2,
        });
        out.extend_from_slice(&[0; 3]);
        out.extend_from_slice(&self.begun.as_micros().to_le_bytes());
        out.extend_from_slice(&self.manifest.encode());
        out.extend_from_slice(&checksum(&[&out]).to_le_bytes());
        out.try_into().expect("BUG: the fields of a spool header are SPOOL_HEADER_LEN bytes")
    }

    /// Decodes the file.
    ///
    /// # Errors
    /// When the bytes are not the header of a spool, are damaged, or of a newer format.
    pub fn decode(bytes: &[u8]) -> Result<Self, Damage> {
        check_envelope(bytes, MAGIC, "header of a spool")?;
        if bytes.len() != SPOOL_HEADER_LEN {
            return Err(Damage::Short { have: bytes.len(), want: SPOOL_HEADER_LEN });
        }
        let mut fields = Reader::new(bytes);
        fields.bytes(MAGIC.len() + 2)?;
        let flags = fields.u16()?;
        if flags & !HAS_NEWEST != 0 {
            return Err(Damage::Field { field: "flags", value: flags.into() });
        }
        let (from, sum) = (fields.u64()?, fields.u32()?);
        let from = (Seq::new(from).ok_or(Damage::Field { field: "first_seq", value: from })?, sum);
        let mut attempted = Vec::new();
        for _ in 0..ATTEMPTED_MAX {
            let (seq, sum) = (fields.u64()?, fields.u32()?);
            attempted.extend(Seq::new(seq).map(|seq| (seq, sum)));
        }
        let (data_version, seq, micros) = (DataVersion::new(fields.u32()?), fields.u64()?, fields.i64()?);
        let commit = match fields.u8()? {
            0 => Commit::Unknown,
            1 => Commit::Seen,
            2 => Commit::Certain,
            other => return Err(Damage::Field { field: "commit", value: other.into() }),
        };
        fields.zeros(3, "reserved")?;
        let newest = if flags & HAS_NEWEST == 0 {
            None
        } else {
            let seq = Seq::new(seq).ok_or(Damage::Field { field: "newest_seq", value: seq })?;
            Some(SpoolNewest { data_version, seq, recorded_at: timestamp(micros, "newest_time")?, commit })
        };
        let begun = timestamp(fields.i64()?, "begun")?;
        let manifest = Manifest::decode(fields.bytes(MANIFEST_LEN)?)?;
        Ok(Self { from, attempted, newest, begun, manifest })
    }
}

fn timestamp(micros: i64, field: &'static str) -> Result<Timestamp, Damage> {
    Timestamp::from_micros(micros).ok_or(Damage::Field { field, value: micros.cast_unsigned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::PageSize;
    use uuid::Uuid;

    #[test]
    fn decodes_what_it_encodes_and_nothing_else() {
        let time = Timestamp::from_micros(1_795_356_307_123_456).unwrap();
        let seq = |number| Seq::new(number).unwrap();
        let manifest =
            Manifest { uuid: Uuid::from_u128(7), created: time, page_size: PageSize::DEFAULT, node_id: None };
        for commit in [Commit::Unknown, Commit::Seen, Commit::Certain] {
            let newest = SpoolNewest { data_version: DataVersion::new(9), seq: seq(41), recorded_at: time, commit };
            let attempted = vec![(seq(43), 5), (seq(44), 6)];
            let header = SpoolHeader {
                from: (seq(42), 0xdead_beef),
                attempted,
                newest: Some(newest),
                begun: time,
                manifest: manifest.clone(),
            };
            assert_eq!(SpoolHeader::decode(&header.encode()), Ok(header));
        }
        let header = SpoolHeader { from: (seq(1), 0), attempted: vec![], newest: None, begun: time, manifest };
        let bytes = header.encode();
        assert_eq!(SpoolHeader::decode(&bytes), Ok(header));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(SpoolHeader::decode(&flipped).is_err(), "bit {bit}");
        }
        for cut in 0..bytes.len() {
            assert!(SpoolHeader::decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
    }
}
