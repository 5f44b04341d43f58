//! The manifest: the identity of a backup.

use uuid::Uuid;

use super::Damage;
use super::FORMAT_VERSION;
use super::check_envelope;
use super::checksum;
use super::fields::Reader;
use crate::units::{PageSize, Timestamp};

const MAGIC: [u8; 8] = *b"BKPFSMAN";

/// Length of an encoded manifest in bytes.
pub const MANIFEST_LEN: usize = 80;

const HAS_NODE_ID: u16 = 1;

/// Public key of a node, as CLN stores it in `vars.node_id`.
pub type NodeId = [u8; 33];

/// Identity of a backup. `init` writes it once; it is replaced once when the node's id is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Unique identifier of the backup; the seed of the checksums of all its records.
    pub uuid: Uuid,
    /// Time at which `init` ran.
    pub created: Timestamp,
    /// Page size of a database whose log begins from nothing; a snapshot has its own.
    pub page_size: PageSize,
    /// Public key of the node; `None` until it is known (a new node writes it some transactions after its first).
    pub node_id: Option<NodeId>,
}

impl Manifest {
    /// Encodes the file.
    pub fn encode(&self) -> [u8; MANIFEST_LEN] {
        let mut out = Vec::with_capacity(MANIFEST_LEN);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        out.extend_from_slice(&if self.node_id.is_some() { HAS_NODE_ID } else { 0 }.to_le_bytes());
        out.extend_from_slice(&self.page_size.get().to_le_bytes());
        out.extend_from_slice(self.uuid.as_bytes());
        out.extend_from_slice(&self.created.as_micros().to_le_bytes());
        out.extend_from_slice(&self.node_id.unwrap_or([0; 33]));
        out.extend_from_slice(&[0; 3]);
        out.extend_from_slice(&checksum(&[&out]).to_le_bytes());
        out.try_into().expect("BUG: the fields of a manifest are MANIFEST_LEN bytes")
    }

    /// Decodes the file.
    ///
    /// # Errors
    /// When the bytes are not a manifest, are damaged, or of a newer format.
    pub fn decode(bytes: &[u8]) -> Result<Self, Damage> {
        check_length(bytes)?;
        check_envelope(bytes, MAGIC, "manifest of a backup")?;
        let mut fields = Reader::new(bytes);
        fields.bytes(MAGIC.len() + 2)?;
        let flags = fields.u16()?;
        if flags & !HAS_NODE_ID != 0 {
            return Err(Damage::Field { field: "flags", value: flags.into() });
        }
        let page_size = fields.u32()?;
        let page_size =
            PageSize::new(page_size).ok_or(Damage::Field { field: "page_size", value: page_size.into() })?;
        let uuid = Uuid::from_bytes(fields.array()?);
        let created = fields.i64()?;
        let created = Timestamp::from_micros(created)
            .ok_or(Damage::Field { field: "created", value: created.cast_unsigned() })?;
        let node_id: NodeId = fields.array()?;
        fields.zeros(3, "reserved")?;
        let node_id = (flags & HAS_NODE_ID != 0).then_some(node_id);
        Ok(Self { uuid, created, page_size, node_id })
    }
}

/// Checks the length of a manifest; a file of another magic or version is left to the checks that report those.
fn check_length(bytes: &[u8]) -> Result<(), Damage> {
    match bytes.first_chunk::<10>() {
        Some([magic @ .., low, high]) if *magic == MAGIC => {
            let version = u16::from_le_bytes([*low, *high]);
            if version > FORMAT_VERSION {
                return Err(Damage::TooNew { found: version });
            }
        }
        _ => return Err(Damage::Magic { expected: "manifest of a backup" }),
    }
    if bytes.len() == MANIFEST_LEN { Ok(()) } else { Err(Damage::Short { have: bytes.len(), want: MANIFEST_LEN }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub fn sample() -> Manifest {
        Manifest {
            uuid: Uuid::from_u128(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff),
            created: Timestamp::from_micros(1_795_356_307_123_456).unwrap(),
            page_size: PageSize::DEFAULT,
            node_id: Some([2; 33]),
        }
    }

    #[test]
    fn decodes_what_it_encodes() {
        for manifest in [sample(), Manifest { node_id: None, ..sample() }] {
            assert_eq!(Manifest::decode(&manifest.encode()), Ok(manifest));
        }
    }

    #[test]
    fn rejects_every_flipped_bit_and_every_cut() {
        let bytes = sample().encode();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Manifest::decode(&flipped).is_err(), "bit {bit}");
        }
        for cut in 0..bytes.len() {
            assert!(Manifest::decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn a_newer_format_is_reported_as_such_at_any_length() {
        let mut bytes = sample().encode().to_vec();
        bytes[8] = 2;
        bytes.extend_from_slice(&[7; 100]);
        assert_eq!(Manifest::decode(&bytes), Err(Damage::TooNew { found: 2 }));
    }
}
