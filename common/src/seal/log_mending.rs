//! A log that has rotted on the disk, made whole again from what the sealer has read of it.
//!
//! What is on the disk if the power fails meanwhile: each sector as it was, or as it is going to be. Nothing else of the log is touched,
//! and the recorder appends behind it. Only blocks that can be read are written anew: a write that fails would be told to the recorder,
//! too, at its next sync. What cannot be read is mended by sealing, which needs nothing of the log any more.

use super::{LogReplay, Sealer};
use crate::storage::{Access, Directory, StorageError, read_on};
use format::log_header::{LOG_HEADER_LEN, LogHeader};
use format::manifest::{MANIFEST_LEN, Manifest};
use format::names;
use format::units::Seq;
use uuid::Uuid;

/// Bytes that are compared, and written, at once: the unit in which disks fail.
const BLOCK: usize = 4096;

/// The outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MendedLog {
    /// The log is whole again. So many blocks were damaged.
    Whole(u64),
    /// It was sealed meanwhile.
    Sealed,
    /// It is not written anew, but what was recorded there is in memory, and is sealed with the log.
    AwaitsSealing,
    /// What is there now is not this backup.
    Replaced,
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
        let (uuid, directory) = (self.backup.manifest().uuid, &**self.backup.directory());
        if !is_backup(directory, uuid)? {
            return Ok(MendedLog::Replaced);
        }
        let is_replayed = self.current.as_ref().map(LogReplay::first_seq).is_some_and(|first| first <= seq)
            && seq < self.cursor.next_seq();
        let Some((first, kept)) = self.cursor.kept().and_then(|kept| kept.log_of(uuid, seq)) else {
            return Ok(if is_replayed { MendedLog::AwaitsSealing } else { MendedLog::NotKept });
        };
        let file = directory.open(&names::log(first), Access::ReadWrite)?;
        let mut header = [0; LOG_HEADER_LEN];
        let is_read = file.read_at(&mut header, 0).is_ok_and(|len| len == header.len());
        if is_read && kept[..LOG_HEADER_LEN] != header && LogHeader::decode(&header).is_ok() {
            return Ok(MendedLog::Replaced);
        }
        let mut damaged = Vec::new();
        for (number, block) in (0_u64..).zip(kept.chunks(BLOCK)) {
            let (offset, mut found) = (number * BLOCK as u64, [0; BLOCK]);
            match file.read_at(&mut found[..block.len()], offset) {
                Ok(len) if found[..len] == *block => {}
                Ok(_) => damaged.push((offset, block)),
                Err(_) if is_replayed => return Ok(MendedLog::AwaitsSealing),
                Err(error) => return Err(error),
            }
        }
        for (offset, block) in &damaged {
            file.write_at(block, *offset)?;
        }
        file.sync()?;
        Ok(MendedLog::Whole(damaged.len() as u64))
    }
}

/// Whether the directory has the backup with this UUID, and not another one, or nothing, as a mount point without its disk.
fn is_backup(directory: &dyn Directory, uuid: Uuid) -> Result<bool, StorageError> {
    let mut bytes = Vec::new();
    match directory.open(names::MANIFEST, Access::Read) {
        Ok(file) => read_on(&*file, &mut bytes, 0, MANIFEST_LEN)?,
        Err(error) if error.is_not_found() => return Ok(false),
        Err(error) => return Err(error),
    }
    // A damaged one is mended by its parity.
    Ok(Manifest::decode(&bytes).map_or(true, |manifest| manifest.uuid == uuid))
}
