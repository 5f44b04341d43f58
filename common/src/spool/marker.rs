//! [`SpoolMarker`]: the file beside `backup.lock` that shows that a spool has changes.
//!
//! A spool whose disk is not mounted looks like an empty spool. A recorder that took it for one would record to the backup behind
//! the changes on that disk, or find a gap, and those changes could never be drained. So the marker is on another disk, that of
//! the node's database, which the node needs anyway. At any moment, and after any power cut:
//!
//! * While a spool has an acknowledged change, the marker exists: it is durable before the first one is written, and is removed
//!   when the backup has all of them and the removal of the spool's last log is durable.
//! * While the marker exists, the spool has the header that belongs to it: that is durable before, and removed after.
//!
//! So a marker without that header means that the spool is elsewhere; with the header and no further record the spool is empty.
//! No crash leads to a refusal.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::SpoolError;
use crate::storage::{Access, Directory, remove_if_present, replace_file};
use format::spool::SpoolHeader;
use format::units::Timestamp;

/// Maximum length; a marker has a few hundred bytes.
const LEN_MAX: usize = 8 << 10;

/// The file `backup.spool` in the lightning-dir.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpoolMarker {
    /// UUID of the backup.
    pub(crate) uuid: Uuid,
    /// Path of the spool.
    pub(crate) path: PathBuf,
    /// Time at which the spool was created: a later one may have the same path.
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
    /// Name of the file in the lightning-dir.
    pub(crate) const FILE_NAME: &str = "backup.spool";

    /// The marker of the spool in this directory with this header.
    pub(crate) fn of(header: &SpoolHeader, spool: &Path) -> Self {
        Self { uuid: header.manifest.uuid, path: spool.to_path_buf(), begun: header.begun }
    }

    /// Whether the marker belongs to the spool with this header.
    pub(crate) fn is_of(&self, header: &SpoolHeader) -> bool {
        (self.uuid, self.begun) == (header.manifest.uuid, header.begun)
    }

    /// Reads the marker of a backup, or of any; `None` when there is none.
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
        // The marker of an earlier backup of this node is irrelevant to the current one.
        Ok(Some(marker).filter(|marker| uuid.is_none_or(|uuid| uuid == marker.uuid)))
    }

    /// Parses the contents of the file.
    ///
    /// # Errors
    /// A description of what is wrong.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let Json { backup_uuid, path, begun_us } = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let uuid = backup_uuid.parse().map_err(|_| format!("backup_uuid `{backup_uuid}` is not a UUID"))?;
        let begun = Timestamp::from_micros(begun_us).ok_or_else(|| format!("begun_us {begun_us} is no time"))?;
        Ok(Self { uuid, path, begun })
    }

    /// Encodes the file.
    ///
    /// # Errors
    /// When the path is not UTF-8, as JSON requires.
    pub fn encode(&self) -> Result<Vec<u8>, serde_json::Error> {
        let (backup_uuid, begun_us) = (self.uuid.to_string(), self.begun.as_micros());
        serde_json::to_vec(&Json { backup_uuid, path: self.path.clone(), begun_us })
    }

    /// Writes the marker durably.
    pub(crate) fn write(&self, lightning_dir: &dyn Directory) -> Result<(), SpoolError> {
        let bytes = self
            .encode()
            .map_err(|error| SpoolError::BadMarker { path: self.path.clone(), reason: error.to_string() })?;
        replace_file(lightning_dir, Self::FILE_NAME, &bytes).map_err(SpoolError::Marker)
    }

    /// Removes the marker of the spool in this directory, durably.
    pub(crate) fn remove(lightning_dir: &dyn Directory, spool: &Path) -> Result<(), SpoolError> {
        match Self::read(lightning_dir, None)? {
            Some(marker) if marker.path != spool => return Ok(()),
            Some(_) => remove_if_present(lightning_dir, Self::FILE_NAME).map_err(SpoolError::Marker)?,
            // An earlier removal may not be durable.
            None => {}
        }
        lightning_dir.sync().map_err(SpoolError::Marker)
    }
}
