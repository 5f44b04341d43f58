//! A log that has rotted on the disk, made whole again from what the sealer has read of it.
//!
//! What is on the disk if the power fails meanwhile: each sector as it was, or as it is going to be. Nothing else of the log is touched,
//! and the recorder appends behind it.

use super::Sealer;
use crate::storage::{Access, StorageError};
use format::names;
use format::units::Seq;

/// Bytes that are compared, and written, at once: the unit in which disks fail.
const BLOCK: usize = 4096;

/// The outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MendedLog {
    /// The log is whole again. So many blocks were damaged.
    Whole(u64),
    /// It was sealed meanwhile.
    Sealed,
    /// The sealer has not got this record.
    NotKept,
}

impl Sealer {
    /// Writes those blocks of the log of this record anew that are not what the sealer has read, up to the last record that it has read.
    ///
    /// # Errors
    /// When the log cannot be written.
    pub fn mend_log(&mut self, seq: Seq) -> Result<MendedLog, StorageError> {
        if self.progress.sealed_through.is_some_and(|sealed| seq <= sealed.seq) {
            return Ok(MendedLog::Sealed);
        }
        let (uuid, is_read) = (self.backup.manifest().uuid, seq < self.cursor.next_seq());
        let Some((first, kept)) = self.cursor.kept().filter(|_| is_read).and_then(|kept| kept.log_of(uuid, seq)) else {
            return Ok(MendedLog::NotKept);
        };
        let file = self.backup.directory().open(&names::log(first), Access::ReadWrite)?;
        let mut damaged = 0;
        for (number, block) in (0_u64..).zip(kept.chunks(BLOCK)) {
            let offset = number * BLOCK as u64;
            let mut found = [0; BLOCK];
            // What cannot be read may be written: a disk then takes another sector.
            let read = file.read_at(&mut found[..block.len()], offset);
            if !read.is_ok_and(|len| found[..len] == *block) {
                file.write_at(block, offset)?;
                damaged += 1;
            }
        }
        file.sync()?;
        Ok(MendedLog::Whole(damaged))
    }
}
