#![doc = include_str!("../../../docs/format.md")]

pub mod change_flags;
pub mod checked;
pub mod commit_note;
pub mod fields;
#[cfg(feature = "compression")]
pub mod frames;
#[cfg(test)]
#[cfg(feature = "compression")]
mod golden;
pub mod log_header;
pub mod manifest;
pub mod names;
#[cfg(feature = "compression")]
pub mod page_images;
pub mod page_map;
pub mod parity;
pub mod pruned;
pub mod pruned_directory;
pub mod read_sets;
pub mod record;
pub mod record_index;
pub mod segment;
pub mod snapshot;
pub mod snapshot_ref;
pub mod spool;
pub mod sql;
pub mod statements;
pub mod units;
pub mod version_rules;

use crate::units::{Seq, counted};

/// The version of the format that this program writes, and the newest that it reads.
pub const FORMAT_VERSION: u16 = 1;

/// The reason why bytes cannot be decoded. Offsets are relative to the start of the decoded bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Damage {
    /// The structure is longer than the bytes.
    #[error("it ends after {} where {want} are needed", counted(*.have, "byte"))]
    Short {
        /// Bytes available.
        have: usize,
        /// Bytes needed.
        want: usize,
    },
    /// The structure does not begin or end with the magic of its kind.
    #[error("it is not a {expected} (wrong magic)")]
    Magic {
        /// The kind of structure that was expected.
        expected: &'static str,
    },
    /// The structure was written by a newer program.
    #[error("format {found} is newer than the newest this program reads ({FORMAT_VERSION}); use a newer backupfs")]
    TooNew {
        /// Version found.
        found: u16,
    },
    /// The checksum does not match.
    #[error("checksum {found:08x} instead of {computed:08x}")]
    Checksum {
        /// The stored checksum.
        found: u32,
        /// The checksum computed over the bytes.
        computed: u32,
    },
    /// A field has a value that the format does not allow.
    #[error("field `{field}` has the impossible value {value}")]
    Field {
        /// Name of the field in the format document.
        field: &'static str,
        /// Value found.
        value: u64,
    },
    /// The structure belongs to another backup.
    #[error("it belongs to another backup")]
    Foreign,
    /// A record is missing.
    #[error("record {expected} is missing")]
    Missing {
        /// The record expected.
        expected: Seq,
    },
    /// A log ends where every log continues: in a record or directly behind one.
    #[error(
        "the file ends after {len} bytes, within a record or right behind one, where a log always goes on: its end was cut off, \
         as by a copy that was interrupted, and records with it"
    )]
    CutOff {
        /// Length of the file in bytes.
        len: u64,
    },
    /// The length of a log is not a multiple of its unit.
    #[error(
        "it is {len} bytes long, and a log is always a multiple of {unit}: its end was cut off, or something was added"
    )]
    LogLength {
        /// Length of the file in bytes.
        len: u64,
        /// The unit: the length of a log is always a multiple of it.
        unit: u64,
    },
    /// The file is not the one that was read before.
    #[error(
        "it is not what was there when the backup was opened: another copy was put in its place, or its end was lost"
    )]
    Replaced,
    /// The bytes cannot be decompressed.
    #[error("it cannot be decompressed")]
    Compression,
    /// The record is intact, but it contradicts other records or files.
    #[error("{0}")]
    Contradiction(&'static str),
}

impl Damage {
    /// Whether the bytes are well-formed, but of a format version that this program does not know.
    pub fn is_too_new(&self) -> bool {
        matches!(self, Self::TooNew { .. })
    }

    /// Whether the files may be intact, but those of another backup, or of another copy, than the one that was opened.
    pub fn is_replaced(&self) -> bool {
        matches!(self, Self::Replaced)
    }
}

/// The checksum of every structure: CRC-32C (Castagnoli), as in RFC 3720.
pub fn checksum(parts: &[&[u8]]) -> u32 {
    parts.iter().fold(0, |sum, part| crc32c::crc32c_append(sum, part))
}

/// The checksum of bytes that follow others with the checksum `sum`, which is 0 for none.
pub fn checksum_on(sum: u32, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(sum, bytes)
}

/// Checks magic, checksum and version of a structure: the magic is the first 8 bytes, the version the next 2, the checksum of all
/// bytes before it the last 4.
fn check_envelope(bytes: &[u8], magic: [u8; 8], expected: &'static str) -> Result<(), Damage> {
    let mut fields = fields::Reader::new(bytes);
    if fields.array::<8>()? != magic {
        return Err(Damage::Magic { expected });
    }
    // The version comes before the checksum: a newer format may keep its checksum elsewhere.
    let version = fields.u16()?;
    if version > FORMAT_VERSION {
        return Err(Damage::TooNew { found: version });
    }
    let (covered, sum) = bytes.split_last_chunk::<4>().ok_or(Damage::Short { have: bytes.len(), want: 4 })?;
    let (found, computed) = (u32::from_le_bytes(*sum), checksum(&[covered]));
    if found != computed {
        return Err(Damage::Checksum { found, computed });
    }
    if version != FORMAT_VERSION {
        return Err(Damage::Field { field: "version", value: version.into() });
    }
    Ok(())
}
