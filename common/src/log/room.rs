//! The length of a log.
//!
//! A log's length is a multiple of the unit in its header, and greater than the end of its records. Before a record is written
//! that does not fit, the file is extended durably: so a torn write never reaches the end of the file, and a file whose end is
//! reached was cut off. Zeros follow the last record; a log that ends within those has lost no record.

use crate::storage::{StorageError, StoredFile};
use format::Damage;

/// Length and unit of an open log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) len: u64,
    pub(super) unit: u64,
}

impl Room {
    /// The length for records that end at this offset.
    pub(super) fn for_end(end: u64, unit: u64) -> Self {
        Self { len: (end / unit.max(1)).saturating_add(1).saturating_mul(unit), unit }
    }

    /// Extends the file if records that end at this offset do not fit. A power cut leaves either length.
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

/// Extends a file to a length, with zeros.
pub(super) fn lengthen(file: &dyn StoredFile, len: u64) -> Result<(), StorageError> {
    file.write_at(&[0], len - 1)
}

/// Checks the length of a log.
pub(crate) fn check_len(len: u64, unit: u64) -> Result<(), Damage> {
    if len > 0 && len.is_multiple_of(unit.max(1)) { Ok(()) } else { Err(Damage::LogLength { len, unit }) }
}
