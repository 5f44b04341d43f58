//! The header of a log file.

use uuid::Uuid;

use super::Damage;
use super::FORMAT_VERSION;
use super::check_envelope;
use super::checksum;
use super::fields::Reader;
use crate::units::{Seq, Timestamp};

const MAGIC: [u8; 8] = *b"BKPFSLOG";

/// Length of an encoded header in bytes; the first record follows.
pub const LOG_HEADER_LEN: usize = 64;

/// The header of a log file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogHeader {
    /// The backup that the log belongs to.
    pub uuid: Uuid,
    /// Seq of the log's first record.
    pub first_seq: Seq,
    /// Checksum of the record before the first one.
    pub previous_checksum: u32,
    /// Time at which the file was created.
    pub created: Timestamp,
    /// The length of the file is always a multiple of this unit.
    pub unit: u64,
}

/// The largest valid unit; a log is created with 4 MiB.
const UNIT_MAX: u64 = 1 << 30;

impl LogHeader {
    /// Encodes the header.
    pub fn encode(&self) -> [u8; LOG_HEADER_LEN] {
        let mut out = Vec::with_capacity(LOG_HEADER_LEN);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&self.previous_checksum.to_le_bytes());
        out.extend_from_slice(self.uuid.as_bytes());
        out.extend_from_slice(&self.first_seq.get().to_le_bytes());
        out.extend_from_slice(&self.created.as_micros().to_le_bytes());
        out.extend_from_slice(&self.unit.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&checksum(&[&out]).to_le_bytes());
        out.try_into().expect("BUG: the fields of a log header are LOG_HEADER_LEN bytes")
    }

    /// Decodes the first bytes of a file.
    ///
    /// # Errors
    /// When the bytes are not the header of a log, are damaged, or of a newer format.
    pub fn decode(bytes: &[u8; LOG_HEADER_LEN]) -> Result<Self, Damage> {
        check_envelope(bytes, MAGIC, "log of a backup")?;
        let mut fields = Reader::new(bytes);
        fields.bytes(MAGIC.len() + 2)?;
        fields.zeros(2, "flags")?;
        let previous_checksum = fields.u32()?;
        let uuid = Uuid::from_bytes(fields.array()?);
        let first_seq = Seq::new(fields.u64()?).ok_or(Damage::Field { field: "first_seq", value: 0 })?;
        let created = fields.i64()?;
        let created = Timestamp::from_micros(created)
            .ok_or(Damage::Field { field: "created", value: created.cast_unsigned() })?;
        let unit = fields.u64()?;
        if !(LOG_HEADER_LEN as u64 + 1..=UNIT_MAX).contains(&unit) {
            return Err(Damage::Field { field: "unit", value: unit });
        }
        fields.zeros(4, "reserved")?;
        Ok(Self { uuid, first_seq, previous_checksum, created, unit })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes_what_it_encodes_and_nothing_else() {
        let header = LogHeader {
            uuid: Uuid::from_u128(7),
            first_seq: Seq::new(1025).unwrap(),
            previous_checksum: 0xdead_beef,
            created: Timestamp::from_micros(1).unwrap(),
            unit: 4 << 20,
        };
        let bytes = header.encode();
        assert_eq!(LogHeader::decode(&bytes), Ok(header.clone()));
        for unit in [0, LOG_HEADER_LEN as u64, UNIT_MAX + 1, u64::MAX] {
            let bytes = LogHeader { unit, ..header.clone() }.encode();
            assert_eq!(LogHeader::decode(&bytes), Err(Damage::Field { field: "unit", value: unit }));
        }
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(LogHeader::decode(&flipped).is_err(), "bit {bit}");
        }
    }
}
