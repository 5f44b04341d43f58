//! How long a log is.
//!
//! It is a whole multiple of what its header says, and longer than its records. It is made longer before a record is written
//! that does not fit, and that is durable first: so a torn write never reaches to the end of the file, and what does was cut
//! off. Behind the last record there are zeros; a log that ends within those has lost none.

use crate::storage::{StorageError, StoredFile};
use format::Damage;

/// The length of a log that is open, and what it is a multiple of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) len: u64,
    pub(super) unit: u64,
}

impl Room {
    /// For records that end at this byte.
    pub(super) fn for_end(end: u64, unit: u64) -> Self {
        Self { len: (end / unit.max(1)).saturating_add(1).saturating_mul(unit), unit }
    }

    /// Makes the file longer if records that end at this byte do not fit. Power that fails meanwhile leaves the one length or
    /// the other.
    pub(super) fn make(&mut self, file: &dyn StoredFile, end: u64) -> Result<(), StorageError> {
        if end >= self.len {
            let room = Self::for_end(end, self.unit);
            lengthen(file, room.len)?;
            file.sync()?;
            *self = room;
        }
        Ok(())
    }
}

/// Makes a file so long, with zeros.
pub(super) fn lengthen(file: &dyn StoredFile, len: u64) -> Result<(), StorageError> {
    file.write_at(&[0], len - 1)
}

/// Whether a log can have this length.
pub(crate) fn check_len(len: u64, unit: u64) -> Result<(), Damage> {
    if len > 0 && len.is_multiple_of(unit.max(1)) { Ok(()) } else { Err(Damage::LogLength { len, unit }) }
}
