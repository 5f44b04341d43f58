//! The header: the first 64 bytes of an object.
//!
//! | offset | size | field |
//! | --- | --- | --- |
//! | 0 | 8 | magic, `BKPFSOBJ` |
//! | 8 | 2 | version, 1 |
//! | 10 | 1 | seal: 0 none, 1 ChaCha20-Poly1305 |
//! | 11 | 1 | padding: 0 none, 1 to a power of two |
//! | 12 | 4 | chunk size, 16384 |
//! | 16 | 8 | key id; zeros without a seal |
//! | 24 | 16 | salt |
//! | 40 | 8 | plain length, encrypted |
//! | 48 | 16 | tag of the length, with the first 40 bytes as associated data |
//!
//! docs/offsite-format.md has the same.

use super::error::SealError;
use super::layout::{CHUNK_LEN, Padding};
use crate::keys::master_key::KeyId;

/// The length of a header, in bytes.
pub const HEADER_LEN: usize = 64;

/// Length in bytes of the part of a header that is not encrypted. The rest is the length with its tag.
pub(super) const CLEAR_LEN: usize = 40;

/// The length of a salt, in bytes.
pub(super) const SALT_LEN: usize = 16;

const MAGIC: &[u8; 8] = b"BKPFSOBJ";
const VERSION: u16 = 1;
const NOT_SEALED: u8 = 0;
const SEALED: u8 = 1;
const NOT_PADDED: u8 = 0;
const PADDED: u8 = 1;

/// The part of a header that is not encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// The key; `None` for an object that is not encrypted.
    pub(super) key: Option<KeyId>,
    pub(super) padding: Padding,
    pub(super) salt: [u8; SALT_LEN],
}

impl Header {
    pub(super) fn encode(&self) -> [u8; CLEAR_LEN] {
        let seal = if self.key.is_some() { SEALED } else { NOT_SEALED };
        let padding = match self.padding {
            Padding::None => NOT_PADDED,
            Padding::PowerOfTwo => PADDED,
        };
        let key = self.key.map_or([0; KeyId::LEN], |key| *key.bytes());
        let mut bytes = [0; CLEAR_LEN];
        let fields: [&[u8]; 6] = [MAGIC, &VERSION.to_le_bytes(), &[seal, padding], &CHUNK_SIZE, &key, &self.salt];
        bytes.iter_mut().zip(fields.concat()).for_each(|(to, from)| *to = from);
        bytes
    }

    /// Reads the part that is not encrypted of an object of this name and length.
    ///
    /// # Errors
    /// When it is of no object, of a later version, or has a field that no object has.
    pub(super) fn decode(name: &str, bytes: &[u8; HEADER_LEN]) -> Result<Self, SealError> {
        if !bytes.starts_with(MAGIC) {
            return Err(SealError::NotAnObject { name: name.to_owned() });
        }
        let version = u16::from_le_bytes([bytes[8], bytes[9]]);
        if version > VERSION {
            return Err(SealError::NewerVersion { name: name.to_owned(), version });
        }
        let damaged = |offset| SealError::NotAuthentic { name: name.to_owned(), offset };
        if version != VERSION {
            return Err(damaged(8));
        }
        let key: [u8; KeyId::LEN] = std::array::from_fn(|at| bytes[16 + at]);
        let key = match bytes[10] {
            SEALED => Some(KeyId::new(key)),
            NOT_SEALED if key == [0; KeyId::LEN] => None,
            _ => return Err(damaged(10)),
        };
        let padding = match bytes[11] {
            NOT_PADDED => Padding::None,
            PADDED => Padding::PowerOfTwo,
            _ => return Err(damaged(11)),
        };
        if bytes[12..16] != CHUNK_SIZE {
            return Err(damaged(12));
        }
        Ok(Self { key, padding, salt: std::array::from_fn(|at| bytes[24 + at]) })
    }
}

/// The size of a chunk as it is written.
const CHUNK_SIZE: [u8; 4] = {
    let bytes = CHUNK_LEN.to_le_bytes();
    [bytes[0], bytes[1], bytes[2], bytes[3]]
};
