//! [`SpoolMarker`]: the file beside `backup.lock` that says that changes are in a spool.
//!
//! The disk of a spool that is not mounted looks like an empty spool. Who takes it for one records to the backup behind
//! the changes that are on that disk, or invents a gap, and they can never be drained. So it is noted on another disk, that
//! of the node's database, without which there is no node either. At any moment, whenever power fails:
//!
//! * While a spool holds an acknowledged change, there is the marker: it is durable before the first one is written, and is
//!   removed when the backup has them all and the last log of the spool is gone for good.
//! * While there is the marker, the spool has the header that it was made with: that is durable before, and removed after.
//!
//! So a marker without that header stands for a spool that is somewhere else, and with the header and no record behind it
//! for one that is empty. Nobody is refused for a crash.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::SpoolError;
use crate::storage::{Access, Directory, remove_if_present, replace_file};
use format::spool::SpoolHeader;
use format::units::Timestamp;

/// A marker is a few hundred bytes.
const LEN_MAX: usize = 8 << 10;

/// The file `backup.spool` in the lightning-dir.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpoolMarker {
    /// Whose changes they are.
    pub(crate) uuid: Uuid,
    /// Where they are.
    pub(crate) path: PathBuf,
    /// When that spool was begun: another one may be in the same place.
    begun: Timestamp,
}

/// The file as JSON.
#[derive(Serialize, Deserialize)]
struct Json {
    backup_uuid: String,
    path: PathBuf,
    /// Microseconds since 1970.
    begun_us: i64,
}

impl SpoolMarker {
    /// Its name in the lightning-dir.
    pub(crate) const FILE_NAME: &str = "backup.spool";

    /// Of the spool in this directory, which has this header.
    pub(crate) fn of(header: &SpoolHeader, spool: &Path) -> Self {
        Self { uuid: header.manifest.uuid, path: spool.to_path_buf(), begun: header.begun }
    }

    /// Whether it was made for the spool with this header.
    pub(crate) fn is_of(&self, header: &SpoolHeader) -> bool {
        (self.uuid, self.begun) == (header.manifest.uuid, header.begun)
    }

    /// Reads that of a backup, or of whichever there is; `None` when there is none.
    pub(crate) fn read(lightning_dir: &dyn Directory, uuid: Option<Uuid>) -> Result<Option<Self>, SpoolError> {
        let file = match lightning_dir.open(Self::FILE_NAME, Access::Read) {
            Ok(file) => file,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(SpoolError::Marker(error)),
        };
        let mut bytes = vec![0; LEN_MAX];
        let len = file.read_at(&mut bytes, 0).map_err(SpoolError::Marker)?;
        let marker = Self::decode(&bytes[..len])
            .map_err(|reason| SpoolError::BadMarker { path: file.path().to_path_buf(), reason })?;
        // That of a backup that this node had before says nothing about the one that it has now.
        Ok(Some(marker).filter(|marker| uuid.is_none_or(|uuid| uuid == marker.uuid)))
    }

    /// Reads the bytes of the file.
    ///
    /// # Errors
    /// What is wrong with them, when they are not what a recorder writes.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let Json { backup_uuid, path, begun_us } = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let uuid = backup_uuid.parse().map_err(|_| format!("backup_uuid `{backup_uuid}` is not a UUID"))?;
        let begun = Timestamp::from_micros(begun_us).ok_or_else(|| format!("begun_us {begun_us} is no time"))?;
        Ok(Self { uuid, path, begun })
    }

    /// The bytes of the file.
    ///
    /// # Errors
    /// When the path is no text, which JSON cannot hold.
    pub fn encode(&self) -> Result<Vec<u8>, serde_json::Error> {
        let (backup_uuid, begun_us) = (self.uuid.to_string(), self.begun.as_micros());
        serde_json::to_vec(&Json { backup_uuid, path: self.path.clone(), begun_us })
    }

    /// Makes it the marker of the node. Durable when it returns.
    pub(crate) fn write(&self, lightning_dir: &dyn Directory) -> Result<(), SpoolError> {
        let bytes = self
            .encode()
            .map_err(|error| SpoolError::BadMarker { path: self.path.clone(), reason: error.to_string() })?;
        replace_file(lightning_dir, Self::FILE_NAME, &bytes).map_err(SpoolError::Marker)
    }

    /// Removes that of the spool in this directory. That there is none is durable when it returns.
    pub(crate) fn remove(lightning_dir: &dyn Directory, spool: &Path) -> Result<(), SpoolError> {
        match Self::read(lightning_dir, None)? {
            Some(marker) if marker.path != spool => return Ok(()),
            Some(_) => remove_if_present(lightning_dir, Self::FILE_NAME).map_err(SpoolError::Marker)?,
            // It may have been removed before, and not for good.
            None => {}
        }
        lightning_dir.sync().map_err(SpoolError::Marker)
    }
}
