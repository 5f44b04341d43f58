//! A table or a block as bytes: its parts.

use super::STATEMENT_BYTES_MAX;
use crate::Damage;

/// A table or a block, not compressed. Blobs are separate because they compress differently: most of a node's blobs are keys,
/// hashes and onions, which no compression shortens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Encoded {
    /// Structure, numbers and texts.
    pub head: Vec<u8>,
    /// The bytes of the blobs.
    pub blobs: Vec<u8>,
}

impl Encoded {
    /// Length in bytes.
    #[expect(clippy::len_without_is_empty, reason = "the head is never empty")]
    pub fn len(&self) -> usize {
        self.head.len() + self.blobs.len()
    }

    pub(super) fn check_len(&self) -> Result<(), Damage> {
        if self.len() > STATEMENT_BYTES_MAX {
            return Err(Damage::Field { field: "statement bytes", value: self.len() as u64 });
        }
        Ok(())
    }
}
